"""Where this platform keeps what belongs to one user: application data, and what can be made again."""

from __future__ import annotations

import os
import sys
from pathlib import Path

#: This environment variable names the folder of what can be made again, if it is not to be in its usual place.
CACHE_VARIABLE = "TRANSFERSEG_CACHE"


def data_folder(name: str, variable: str) -> Path:
    """Return the folder of that name among TransferSeg's data of this user, e.g. ``Models``; it need not exist.

    The environment variable ``variable`` names another one. Raises RuntimeError when the user has no home folder.
    """
    named = os.environ.get(variable)
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        return _windows_folder() / name
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "TransferSeg" / name
    data = os.environ.get("XDG_DATA_HOME")
    return (Path(data) if data else Path.home() / ".local" / "share") / "transferseg" / name.lower()


def cache_folder() -> Path:
    """Return the folder of what can be made again; it need not exist.

    The environment variable TRANSFERSEG_CACHE names another one. Raises RuntimeError when the user has no home folder.
    """
    named = os.environ.get(CACHE_VARIABLE)
    if named:
        return Path(named).expanduser()
    if sys.platform == "win32":
        return _windows_folder() / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "TransferSeg"
    cache = os.environ.get("XDG_CACHE_HOME")
    return (Path(cache) if cache else Path.home() / ".cache") / "transferseg"


def _windows_folder() -> Path:
    """Return TransferSeg's folder among the local application data of a Windows user."""
    local = os.environ.get("LOCALAPPDATA")
    return (Path(local) if local else Path.home() / "AppData" / "Local") / "TransferSeg"
