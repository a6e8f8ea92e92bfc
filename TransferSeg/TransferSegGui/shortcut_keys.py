"""The keys of the section "Correct", and how tooltips and menus name them."""

from __future__ import annotations

import qt

#: The keys, as Qt writes them: save the case and go on, and tick the structure that is chosen.
ACCEPT_KEYS, RIGHT_KEYS = "Ctrl+Return", "Ctrl+Shift+R"


def keysText(keys: str) -> str:
    """Return keys as this computer's keyboard names them."""
    return qt.QKeySequence(keys).toString(qt.QKeySequence.NativeText)
