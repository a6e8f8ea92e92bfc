"""PyTorch: whether Slicer's Python has it, and installing it through the PyTorch extension. It is not imported here."""

from __future__ import annotations

import importlib.util

from slicer.i18n import tr as _

#: The oldest PyTorch that the library runs with, as pyproject.toml says.
TORCH_REQUIREMENT = ">=2.4"


def torchIsInstalled() -> bool:
    """Tell whether Slicer's Python, which is also the child processes', has PyTorch."""
    importlib.invalidate_caches()
    return importlib.util.find_spec("torch") is not None


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
    except Exception as error:  # whatever pip or the network made of it, the user shall read it in the panel
        return _("PyTorch could not be installed: {reason}").format(reason=error)
    return "" if installed is not None else _("PyTorch was not installed.")
