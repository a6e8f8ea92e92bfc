"""Which families of networks there are, by the ``kind`` of a ``NetworkSpec``."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module

from TransferSegLib.errors import ModelError
from TransferSegLib.networks.interface import Backbone, NetworkSpec

#: Module and class of every family that comes with the library, imported when a model of its kind is used.
_BUNDLED = {
    "unet3d-valid": ("TransferSegLib.networks.unet_valid.backbone", "ValidUNetBackbone"),
    "nnunet": ("TransferSegLib.networks.nnunet.backbone", "NnUNetBackbone"),
}
#: Families that were added by ``register_family``.
_REGISTERED: dict[str, Callable[[NetworkSpec], Backbone]] = {}

_LARGEST_CLASSES = 1000
_LARGEST_CHANNELS = 64


def backbone_of(spec: NetworkSpec) -> Backbone:
    """Return the family's backbone for a network; raises ModelError for what this version cannot build."""
    if spec.kind not in known_kinds():
        raise ModelError(
            f"The model's network is of the kind '{spec.kind}'; this version knows "
            f"{', '.join(repr(kind) for kind in known_kinds())}. Update TransferSeg if the model is newer."
        )
    _check_count("number of network classes", spec.classes, 2, _LARGEST_CLASSES)
    _check_count("number of input channels", spec.channels, 1, _LARGEST_CHANNELS)
    backbone = _factory(spec.kind)(spec)
    backbone.check()
    return backbone


def known_kinds() -> tuple[str, ...]:
    """Return the kinds of network that this version can build."""
    return (*_BUNDLED, *(kind for kind in _REGISTERED if kind not in _BUNDLED))


def register_family(kind: str, factory: Callable[[NetworkSpec], Backbone]) -> None:
    """Add a family of networks for this process, e.g. one that a test brings along."""
    _REGISTERED[kind] = factory


def _factory(kind: str) -> Callable[[NetworkSpec], Backbone]:
    if kind in _REGISTERED:
        return _REGISTERED[kind]
    module, name = _BUNDLED[kind]
    factory: Callable[[NetworkSpec], Backbone] = getattr(import_module(module), name)
    return factory


def _check_count(what: str, value: object, smallest: int, largest: int) -> None:
    """Raise ModelError unless a value is a whole number in a range."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise ModelError(f"The model's {what} must be a whole number, not {value!r:.60}.")
    if not smallest <= value <= largest:
        raise ModelError(f"The model's {what} is {value}; it must be from {smallest} to {largest}.")
