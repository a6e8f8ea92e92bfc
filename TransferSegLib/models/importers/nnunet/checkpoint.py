"""The weights in a checkpoint of nnU-Net v2, opened so that nothing in the file can run code.

A checkpoint also holds the optimiser, logs and settings, among them numpy's scalars: those four kinds of objects are
allowed beside what ``weights_only`` allows itself, and none of them runs code when it is read.
"""

from __future__ import annotations

import pickle
import re
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
#: What torch says of a pickle that needs more than harmless objects.
_NEEDS_MORE = re.compile(r"GLOBAL ([\w.]+)|Unsupported operand (\d+)|Unsupported class ([\w.]+)")
_MOST_ENTRIES, _MOST_LAYERS = 20_000, 20_000
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
    """Return the content of a checkpoint that matters; raises ModelError naming ``source``.

    For files from elsewhere use ``isolated.read_checkpoint_isolated``.
    """
    _check_zip(stream, source)
    try:
        with torch.serialization.safe_globals(_harmless()):
            entry = torch.load(stream, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        text = str(error)
        if more := _NEEDS_MORE.search(text):
            raise ModelError(
                f"{source} is refused: to read it, '{next(filter(None, more.groups()))}' would have to be run, which "
                "no checkpoint of nnU-Net needs and which could do anything."
            ) from error
        reason = (text.splitlines() or [type(error).__name__])[0]
        raise ModelError(f"{source} is damaged and cannot be read ({reason:.200}). Get it again.") from error
    try:
        weights, settings = entry["network_weights"], entry["init_args"]
        mirror = tuple(int(axis) for axis in entry.get("inference_allowed_mirroring_axes") or ())
        checkpoint = NnUNetCheckpoint(str(settings["configuration"]), str(entry["trainer_name"]), mirror, weights)
    except _UNREADABLE as error:
        lacking = f": it lacks {error}" if isinstance(error, KeyError) else ""
        raise ModelError(f"{source} is no checkpoint of nnU-Net v2{lacking}.") from error
    _check_weights(weights, source, stream.seek(0, 2))
    return checkpoint


def different_arrays(weights: Mapping[str, torch.Tensor]) -> dict[tuple[Any, ...], torch.Tensor]:
    """Return each array once, of those that several names mean, by what tells it from others (``place_of``)."""
    return {place_of(values): values for values in weights.values()}


def place_of(values: torch.Tensor) -> tuple[Any, ...]:
    """Return where an array lies and how it is laid out: the same for two names of one array."""
    return values.data_ptr(), tuple(values.shape), values.stride(), str(values.dtype)


def _check_zip(stream: IO[bytes], source: str) -> None:
    """Raise ModelError for a file that torch would not have written: another format, or made to fill a memory."""
    try:
        with zipfile.ZipFile(stream) as archive:
            infos = archive.infolist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise ModelError(f"{source} is no checkpoint of nnU-Net v2, or only a part of one: get it again.") from error
    length = stream.seek(0, 2)
    stream.seek(0)
    packed = any(info.compress_type != zipfile.ZIP_STORED for info in infos)
    if packed or len(infos) > _MOST_ENTRIES or sum(info.file_size for info in infos) > length:
        raise ModelError(f"{source} is refused: it would unpack to more than its own size.")


def _check_weights(weights: Any, source: str, length: int) -> None:
    """Raise ModelError unless the weights are arrays by name that take no more memory than the file holds."""
    if not isinstance(weights, Mapping) or not 0 < len(weights) <= _MOST_LAYERS:
        raise ModelError(f"{source} is no checkpoint of nnU-Net v2: its weights are not arrays by name.")
    for name, values in weights.items():
        usable = (
            isinstance(name, str)
            and isinstance(values, torch.Tensor)
            and values.layout == torch.strided
            and values.device.type == "cpu"
            and values.is_floating_point()
        )
        if not usable:
            raise ModelError(f"{source} is no checkpoint of nnU-Net v2: its layer {name!r:.80} is no array of numbers.")
    claimed = sum(values.numel() * values.element_size() for values in different_arrays(weights).values())
    if claimed > length:
        raise ModelError(f"{source} is refused: its layers claim {claimed:,} bytes of numbers, more than its own size.")


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
