"""The list of stand-ins for Slicer's and CTK's own widgets; each file of stand-ins adds its classes to it."""

from __future__ import annotations

from slicerhost import pythonqt

pythonqt.install()

from PySide6.QtCore import Property  # noqa: E402 - after Qt's classes were changed

#: Class name, as .ui files and Python code write it -> class.
STAND_INS: dict[str, type] = {}


def standIn(aClass: type) -> type:
    """Register a class under the name it has in .ui files."""
    STAND_INS[aClass.__name__] = pythonqt.cpp(aClass)
    return aClass


def stored(kind, default) -> Property:
    """Return a Qt property that is only kept."""
    key = object()

    def get(self):
        return self.__dict__.setdefault("_stored", {}).get(key, default)

    def put(self, value):
        self.__dict__.setdefault("_stored", {})[key] = value

    return Property(kind, get, put)
