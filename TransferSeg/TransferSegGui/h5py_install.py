"""h5py: the one package that reading Keras weights needs; it is installed when the user asks for it, never before."""

from __future__ import annotations

import importlib.util

import slicer
from slicer.i18n import tr as _

#: As in pyproject.toml.
REQUIREMENT = "h5py>=3.8"


def h5pyIsInstalled() -> bool:
    """Tell whether Slicer's Python, which is also the child processes', has h5py."""
    importlib.invalidate_caches()
    return importlib.util.find_spec("h5py") is not None


def installH5py() -> str:
    """Install h5py into Slicer's Python; returns why it was not done, empty when it was."""
    try:
        slicer.util.pip_install(REQUIREMENT)
    except Exception as error:  # whatever pip or the network made of it, the user shall read it in the panel
        return _("h5py could not be installed: {reason}").format(reason=error)
    return "" if h5pyIsInstalled() else _("h5py was not installed.")
