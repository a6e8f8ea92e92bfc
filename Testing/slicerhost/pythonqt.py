"""PythonQt's rules on PySide6: afterwards ``import qt`` works as in Slicer, and mistakes are loud.

- A Qt property is an attribute: ``label.text``, never ``label.text()``; ``name`` is the object's name.
- Unknown attributes cannot be set on Qt's own classes.
- ``widget.connect("clicked(bool)", f)``; f gets as many of the signal's arguments as it takes. A signal that does not
  exist only prints a message in PythonQt: here it raises.
- Exceptions in slots only print in PythonQt: here they are also collected in ``slotErrors``, for tests to look at.
- Enumerations are plain, unscoped integers.

PySide's classes are changed in place, for the whole process: install once, before any widget is made.
"""

from __future__ import annotations

import inspect
import os
import sys
import traceback
import types
from collections.abc import Callable

os.environ.setdefault("PYSIDE6_OPTION_PYTHON_ENUM", "2")  # enumerations are integers; read when PySide is imported

from PySide6 import QtCore, QtGui, QtUiTools, QtWidgets

#: Exceptions that slots raised since the list was last cleared.
slotErrors: list[BaseException] = []

#: Getters that C++ calls in Python subclasses: a property in their place would break Qt itself.
_VIRTUAL_GETTERS = {"sizeHint", "minimumSizeHint"}
#: What PySide has and PythonQt does not.
_NOT_IN_PYTHONQT = ("Slot", "Signal", "Property", "ClassInfo", "SIGNAL", "SLOT")

_pysideConnect = QtCore.QObject.connect
_pysideGetAttribute: dict[type, Callable] = {}


def install() -> types.ModuleType:
    """Make PySide6 behave like PythonQt and return the module ``qt``, which can be imported from now on."""
    if "qt" in sys.modules:
        return sys.modules["qt"]
    qt = types.ModuleType("qt", "Qt in one flat namespace, as PythonQt has it")
    classes = []
    for module in (QtCore, QtGui, QtWidgets, QtUiTools):
        for name in dir(module):  # PySide makes its classes when they are first asked for
            thing = getattr(module, name, None)
            if thing is not None and not name.startswith("_") and name not in _NOT_IN_PYTHONQT:
                setattr(qt, name, thing)
                if isinstance(thing, type) and issubclass(thing, QtCore.QObject):
                    classes.append(thing)
    for each in sorted(set(classes), key=lambda each: len(each.__mro__)):
        _patchClass(each)
    base = QtCore.QObject
    base.name = base.__dict__["objectName"]
    base.className = lambda self: type(self).__name__
    base.delete = lambda self: self.deleteLater()
    base.__getattr__ = _missingAttribute
    sys.modules["qt"] = qt
    _collectUncaught()
    return qt


def cpp(aClass: type) -> type:
    """Mark a stand-in as one of Slicer's C++ classes: no new attributes from outside, as for Qt's own."""
    aClass._isCpp = True
    return aClass


def connect(sender: QtCore.QObject, signal: str, target: Callable) -> bool:
    """Connect a signal, named as in C++, to a callable; raises AttributeError when there is no such signal."""
    normalized = _normalized(signal)
    slot = _slot(target)
    named = _namedSignals(type(sender))
    if normalized in named:
        getattr(sender, named[normalized]).connect(slot)
    elif sender.metaObject().indexOfSignal(normalized) >= 0:
        _pysideConnect(sender, QtCore.SIGNAL(normalized), slot)
    else:
        raise AttributeError(f"{sender.metaObject().className()} has no signal '{signal}'")
    sender.__dict__.setdefault("_slots", []).append(slot)  # PySide would forget it
    return True


def _connectOf(sender: QtCore.QObject, *words) -> bool:
    """Answer ``widget.connect(...)``; PySide calls it, too, with the sender as first word, for ``signal.connect``."""
    return _pysideConnect(*words) if isinstance(words[0], QtCore.QObject) else connect(sender, *words)


def _slot(target: Callable) -> Callable:
    """Return the function that is really connected: cuts the arguments, collects exceptions."""
    count = _argumentCount(target)

    def call(*arguments):
        try:
            target(*arguments[:count])
        except Exception as error:
            slotErrors.append(error)
            traceback.print_exception(error)

    return call


def _argumentCount(target: Callable) -> int | None:
    """Return how many of a signal's arguments PythonQt passes, None for all."""
    function = target.__func__ if inspect.ismethod(target) else target
    if not inspect.isfunction(function) or function.__code__.co_flags & inspect.CO_VARARGS:
        return None
    return function.__code__.co_argcount - (1 if inspect.ismethod(target) else 0)


def _normalized(signal: str) -> str:
    normalized = QtCore.QMetaObject.normalizedSignature(signal)
    return normalized if isinstance(normalized, str) else bytes(normalized).decode()


def _namedSignals(aClass: type) -> dict[str, str]:
    """Return the signals of a stand-in whose C++ signature PySide cannot declare: signature -> attribute."""
    found: dict[str, str] = {}
    for each in reversed(aClass.__mro__):
        found.update({_normalized(key): value for key, value in each.__dict__.get("signalNames", {}).items()})
    return found


class _Property:
    """A Qt property as an attribute."""

    def __init__(self, owner: type, name: str, writable: bool) -> None:
        capital = name[0].upper() + name[1:]
        getters = [getattr(owner, each, None) for each in (name, "is" + capital)]
        setter = getattr(owner, "set" + capital, None)
        self._name, self._writable = name, writable
        self._getter = next((each for each in getters if callable(each)), None)
        self._setter = setter if callable(setter) else None

    def __get__(self, widget, owner=None):
        if widget is None:
            return self
        return self._getter(widget) if self._getter else widget.property(self._name)

    def __set__(self, widget, value) -> None:
        if not self._writable:
            raise AttributeError(f"property '{self._name}' of {type(widget).__name__} is not writable")
        if self._setter:
            self._setter(widget, value)
        elif not widget.setProperty(self._name, value):
            raise AttributeError(f"property '{self._name}' of {type(widget).__name__} does not take {value!r}")


def _patchClass(aClass: type) -> None:
    """Give one of Qt's classes PythonQt's properties, attributes and ``connect``."""
    meta = aClass.staticMetaObject
    own = [meta.property(index) for index in range(meta.propertyOffset(), meta.propertyCount())]
    timerOfQt = aClass is QtCore.QTimer  # its singleShot is both a property and a static function
    for each in own:
        if each.name() not in _VIRTUAL_GETTERS and not (timerOfQt and each.name() == "singleShot"):
            setattr(aClass, each.name(), _Property(aClass, each.name(), each.isWritable()))
    aClass.__setattr__ = _setAttribute
    _patchGetAttribute(aClass)


def _patchGetAttribute(aClass: type) -> None:
    """Take over ``widget.connect``, which PySide answers before it looks at the class.

    Each class keeps its own getter: calling QObject's for a QFile, whose ``exists`` is both static and not, crashes.
    """
    own = aClass.__dict__.get("__getattribute__") or next(
        _pysideGetAttribute[base] for base in aClass.__mro__[1:] if base in _pysideGetAttribute
    )
    _pysideGetAttribute[aClass] = own

    def getAttribute(self, name):
        if name == "connect":
            return lambda *words: _connectOf(self, *words)
        return own(self, name)

    aClass.__getattribute__ = getAttribute


def _setAttribute(self, name, value) -> None:
    """Set an attribute; on Qt's own classes only properties, as PythonQt does."""
    if isinstance(value, QtCore.SignalInstance):  # PySide keeps bound signals this way
        self.__dict__[name] = value
        return
    aClass = type(self)
    for each in aClass.__mro__:
        if name in each.__dict__:
            descriptor = each.__dict__[name]
            if hasattr(type(descriptor), "__set__"):
                descriptor.__set__(self, value)
                return
            if isinstance(descriptor, QtCore.Property):  # of a stand-in: PySide sets it outside of Python's protocol
                if not self.setProperty(name, value):
                    raise AttributeError(f"property '{name}' of {aClass.__name__} does not take {value!r}")
                return
            break
    isQt = aClass.__module__.startswith("PySide6") or aClass.__dict__.get("_isCpp", False)
    if not isQt or name.startswith("_"):
        self.__dict__[name] = value
    elif not (isinstance(value, QtCore.QObject) and value.objectName == name):  # QUiLoader names children
        raise AttributeError(f"'{name}' does not exist on {aClass.__name__}, and PythonQt lets nobody create it")


def _missingAttribute(self, name):
    """Find a child by its name, or a name with the trailing underscore of PythonQt (``exec_``)."""
    if not name.startswith("__"):
        if name.endswith("_") and hasattr(type(self), name[:-1]):
            return getattr(self, name[:-1])
        for child in self.children():
            if child.objectName == name:
                return child
    raise AttributeError(f"{type(self).__name__} has no attribute '{name}'")


def _collectUncaught() -> None:
    """Collect exceptions of slots that were connected in another way than ``connect``."""
    before = sys.excepthook

    def hook(kind, error, trace):
        slotErrors.append(error)
        before(kind, error, trace)

    sys.excepthook = hook
