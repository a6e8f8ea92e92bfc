"""Paths as people give them to Python functions: text, ``pathlib.Path``, or a mistake."""

from __future__ import annotations

import os
from pathlib import Path

from TransferSegLib.errors import TransferSegError


def as_path(value: object, what: str, error: type[TransferSegError] = TransferSegError) -> Path:
    """Return a path that was given as text or as a path; raises ``error`` saying that ``what`` must be one."""
    if isinstance(value, str | os.PathLike):
        text = os.fspath(value)
        if isinstance(text, str) and text.strip():
            return Path(text)
        raise error(f"{what} is empty: give a path.")
    raise error(f"{what} must be a path (text or pathlib.Path), not {_kind(value)}.")


def _kind(value: object) -> str:
    """Return what a value is, for a person."""
    return "None" if value is None else f"{type(value).__name__} ({str(value)[:40]})"
