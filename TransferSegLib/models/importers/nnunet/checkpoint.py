"""The weights in a checkpoint of nnU-Net v2, opened so that nothing in the file can run code.

A checkpoint also holds the optimiser, logs and settings, among them numpy's scalars: those four kinds of objects are
allowed beside what ``weights_only`` allows itself, and none of them runs code when it is read.
"""

from __future__ import annotations

import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import IO, Any

import numpy as np
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.interface import NetworkSpec

_UNREADABLE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
)
#: What wrappers of torch put before the names of layers.
_WRAPPERS = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class NnUNetCheckpoint:
    """What a checkpoint says of itself: configuration, trainer and the axes that predictions may be mirrored along."""

    configuration: str
    trainer: str
    mirror_axes_zyx: tuple[int, ...]
    weights: Mapping[str, torch.Tensor]


def read_checkpoint(stream: IO[bytes], source: str) -> NnUNetCheckpoint:
    """Return the content of a checkpoint that matters; raises ModelError naming ``source``."""
    try:
        with torch.serialization.safe_globals(_harmless()):
            entry = torch.load(stream, map_location="cpu", weights_only=True)
        weights, settings = entry["network_weights"], entry["init_args"]
        mirror = entry.get("inference_allowed_mirroring_axes") or ()
        return NnUNetCheckpoint(
            str(settings["configuration"]), str(entry["trainer_name"]), tuple(int(axis) for axis in mirror), weights
        )
    except _UNREADABLE as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{source} is no checkpoint of nnU-Net v2 that can be read safely ({reason:.200}).") from error


def state_of(checkpoint: NnUNetCheckpoint, spec: NetworkSpec, source: str) -> dict[str, torch.Tensor]:
    """Return the float32 weights by the layer names of our network; raises ModelError when one does not fit.

    A checkpoint names most tensors several times; those names that our network has are taken.
    """
    found = {_plain_name(name): values for name, values in checkpoint.weights.items()}
    with torch.device("meta"):
        expected = backbone_of(spec).build().state_dict()
    state = {}
    for name, empty in expected.items():
        values = found.get(name)
        if not isinstance(values, torch.Tensor) or values.shape != empty.shape:
            held = "nothing" if values is None else f"the shape {tuple(getattr(values, 'shape', ()))}"
            raise ModelError(
                f"{source} does not fit its plans: the layer '{name}' should have the shape {tuple(empty.shape)}, the "
                f"checkpoint has {held}. Trainers that build other networks cannot be used."
            )
        state[name] = values.detach().to(torch.float32).contiguous()
    return state


def _plain_name(name: str) -> str:
    """Return a layer's name without what a wrapper put before it."""
    for wrapper in _WRAPPERS:
        name = name.removeprefix(wrapper)
    return name


def _harmless() -> list[Any]:
    """Return the kinds of objects, beyond torch's own, that a checkpoint of nnU-Net holds."""
    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]
    kinds = {type(np.dtype(kind)) for kind in ("f2", "f4", "f8", "i4", "i8", "u1", "?")}
    # numpy 1 called the module otherwise; files written with it do, too.
    return [scalar, (scalar, "numpy.core.multiarray.scalar"), np.dtype, *kinds]
