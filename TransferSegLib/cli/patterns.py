"""Shell patterns on the command line, for shells that do not expand them (Windows) and patterns given in quotes."""

from __future__ import annotations

import glob
from pathlib import Path

from TransferSegLib.datasets.pairing import natural_key
from TransferSegLib.errors import TransferSegError


def is_pattern(text: str) -> bool:
    """Tell whether a word stands for the files that match it: it has ``*``, ``?`` or ``[``, and is no file itself."""
    return glob.has_magic(text) and not Path(text).exists()


def expanded(text: str) -> list[Path]:
    """Return the files that match a pattern (``**``: in all folders below) in natural order, another word as it is.

    Raises TransferSegError for a pattern that matches nothing.
    """
    if not is_pattern(text):
        return [Path(text)]
    matching = glob.glob(text, recursive=True)  # noqa: PTH207 (Path.glob takes no absolute pattern)
    found = sorted((Path(path) for path in matching), key=lambda path: natural_key(str(path)))
    if not found:
        raise TransferSegError(f"No file is named like '{text}': check the pattern and the current folder.")
    return found
