"""The Python packages that Slicer lacks: PyTorch for all computing, h5py for reading Keras weights.

Each is installed when the user presses its button, never before; neither is imported in Slicer's process.
"""

from __future__ import annotations

import importlib.util

import slicer
from slicer.i18n import tr as _

#: As in pyproject.toml.
TORCH_REQUIREMENT, H5PY_REQUIREMENT = ">=2.4", "h5py>=3.8"


def torchIsInstalled() -> bool:
    """Return whether Slicer's Python, which is also the child processes', has PyTorch."""
    return _isInstalled("torch")


def h5pyIsInstalled() -> bool:
    """Return whether Slicer's Python, which is also the child processes', has h5py."""
    return _isInstalled("h5py")


def installTorch() -> str:
    """Install PyTorch by the PyTorch extension, which asks first; returns why it was not done, empty when it was."""
    try:
        import PyTorchUtils
    except ImportError:
        return _(
            "The extension 'PyTorch' is missing: install it in the Extensions Manager, restart Slicer, and press "
            "the button again."
        )
    try:
        installed = PyTorchUtils.PyTorchUtilsLogic().installTorch(
            askConfirmation=True, torchVersionRequirement=TORCH_REQUIREMENT
        )
    except Exception as error:  # pip and the network raise many kinds; the user reads the reason in the panel
        return _("PyTorch could not be installed: {reason}").format(reason=error)
    return "" if installed is not None else _("PyTorch was not installed.")


def installH5py() -> str:
    """Install h5py; returns why it was not done, empty when it was."""
    try:
        slicer.util.pip_install(H5PY_REQUIREMENT)
    except Exception as error:  # as above
        return _("h5py could not be installed: {reason}").format(reason=error)
    return "" if h5pyIsInstalled() else _("h5py was not installed.")


def _isInstalled(name: str) -> bool:
    importlib.invalidate_caches()
    return importlib.util.find_spec(name) is not None
