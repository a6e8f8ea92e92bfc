"""A dark style for the panel, near that of Slicer: Slicer's own is not in the test host."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

#: Of the roles of Qt's palette; the rest follows from the button's colour.
_COLORS = {
    "Window": "#323232",
    "WindowText": "#f0f0f0",
    "Base": "#242424",
    "AlternateBase": "#2c2c2c",
    "Text": "#f0f0f0",
    "PlaceholderText": "#9a9a9a",
    "Button": "#3a3a3a",
    "ButtonText": "#f0f0f0",
    "BrightText": "#ffffff",
    "Highlight": "#2a6fb4",
    "HighlightedText": "#ffffff",
    "Link": "#5aa9f0",
    "ToolTipBase": "#3a3a3a",
    "ToolTipText": "#f0f0f0",
}
_DISABLED = ("WindowText", "Text", "ButtonText", "HighlightedText")


def darkPalette():
    """Return a palette with light letters on dark grounds."""
    import qt

    palette = qt.QPalette(qt.QColor(_COLORS["Button"]), qt.QColor(_COLORS["Window"]))
    for role, color in _COLORS.items():
        palette.setColor(getattr(qt.QPalette, role), qt.QColor(color))
    for role in _DISABLED:
        palette.setColor(qt.QPalette.Disabled, getattr(qt.QPalette, role), qt.QColor("#808080"))
    return palette


@contextmanager
def darkStyle(host) -> Iterator[None]:
    """Let the window be dark for a while."""
    import qt

    before = qt.QApplication.palette()
    qt.QApplication.setPalette(darkPalette())
    host.process()
    try:
        yield
    finally:
        qt.QApplication.setPalette(before)
        host.process()
