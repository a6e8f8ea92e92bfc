"""A legacy Keras HDF5 file as a list of layers with their arrays, read without trusting the file.

The file may come from a stranger: nothing outside it is ever opened (soft and external links, external storage and
virtual datasets are refused), and every size is checked against what the file really holds before memory is taken.
``h5py`` is needed here and nowhere else in the library; it is imported when a file is opened.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from TransferSegLib.errors import ModelError

#: The attributes that list the layers of a file and the arrays of a layer.
_LAYER_NAMES, _WEIGHT_NAMES = "layer_names", "weight_names"
#: ``model.save`` puts the weights into this group; ``model.save_weights`` into the root.
_WEIGHTS_GROUP = "model_weights"
#: Root groups of the newer format (``.weights.h5``), which lists no layers.
_NEWER_FORMAT = ("layers", "_layer_checkpoint_dependencies")
_MOST_NAMES = 10_000
#: Deflate, the strongest packing in use, shrinks a thousandfold; weights, which are noise, hardly at all.
_STRONGEST_PACKING, _PACKING_OF_WEIGHTS = 1100, 20
_NOT_LOOKED_AT = 2**20
#: What h5py raises for files that are damaged in one way or another.
_UNREADABLE = (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, OverflowError, MemoryError)

_SAVE_AGAIN = "open the model in Keras and save it in the older form with model.save('model.h5')"


@dataclass(frozen=True, eq=False)
class KerasArray:
    """An array of a layer as the file declares it; its values are read on demand."""

    name: str
    shape: tuple[int, ...]
    _dataset: Any
    _path: Path

    def read(self) -> np.ndarray:
        """Return the values as float32; raises ModelError when they cannot be read or are not finite."""
        self._check_storage()
        try:
            values = np.asarray(self._dataset[()])
        except _UNREADABLE as error:
            raise ModelError(f"{self._path} is damaged: the values of '{self.name}' cannot be read.") from error
        with np.errstate(over="ignore"):
            single = np.ascontiguousarray(values, dtype=np.float32)
        if not bool(np.isfinite(single).all()):
            raise ModelError(f"{self._path} cannot be used: '{self.name}' holds values that are not finite.")
        return single

    def _check_storage(self) -> None:
        """Raise ModelError unless the values are numbers that lie in this file, as many as the shape says."""
        dataset = self._dataset
        try:
            kind, item_size = dataset.dtype.kind, dataset.dtype.itemsize
            elsewhere = bool(dataset.external) or dataset.is_virtual
            stored, packed = dataset.id.get_storage_size(), dataset.id.get_create_plist().get_nfilters() > 0
            chunk = float(np.prod(dataset.chunks or (1,), dtype=float))
        except _UNREADABLE as error:
            raise ModelError(f"{self._path} is damaged: '{self.name}' cannot be read.") from error
        if elsewhere:
            raise ModelError(f"{self._path} is refused: the values of '{self.name}' lie in another file.")
        if kind != "f" or item_size not in (2, 4, 8):
            raise ModelError(
                f"{self._path} cannot be used: '{self.name}' is stored as '{dataset.dtype}'; weights are numbers of "
                "16, 32 or 64 bits."
            )
        needed = float(np.prod(self.shape, dtype=float)) * item_size
        strongest = _STRONGEST_PACKING if needed <= _NOT_LOOKED_AT else _PACKING_OF_WEIGHTS
        if needed > stored * (strongest if packed else 1):
            raise ModelError(
                f"{self._path} is damaged: '{self.name}' should have {needed:,.0f} bytes and has {stored:,}."
            )
        if chunk * item_size > needed + 2**20:
            raise ModelError(f"{self._path} is refused: '{self.name}' is packed in an unusual way.")


@dataclass(frozen=True)
class KerasLayer:
    """A layer that has arrays, in the order in which Keras lists them (kernel, bias)."""

    name: str
    arrays: tuple[KerasArray, ...]


@dataclass(frozen=True)
class KerasFile:
    """An open file: its layers with arrays in the file's own order, and what it says of itself.

    ``configuration`` is the text that ``model.save`` writes of the network's layers; None where only weights were
    saved. ``keras_version`` and ``backend`` are empty where the file does not say.
    """

    layers: tuple[KerasLayer, ...]
    configuration: str | None
    keras_version: str
    backend: str


@contextmanager
def open_keras_file(path: Path) -> Iterator[KerasFile]:
    """Open a file that Keras wrote with ``save_weights`` or ``save`` in HDF5.

    The order of ``layer_names`` is the order of execution, which the names do not tell ('conv3d_10' sorts before
    'conv3d_2'). Raises ModelError saying what the file is when it is something else, and when h5py is missing.
    """
    h5py = _import_h5py()
    try:
        if not h5py.is_hdf5(path):
            raise ModelError(f"{path} {_what_it_is(path)}")
        file = h5py.File(path, "r", locking="best-effort")
    except _UNREADABLE as error:
        if "truncated" in str(error):
            raise ModelError(f"{path} is cut off: it is shorter than it says itself. Get it again.") from error
        raise ModelError(f"{path} cannot be opened: it is damaged or may not be read. Get it again.") from error
    with file:
        try:
            content = _content(h5py, file, path)
        except (*_UNREADABLE, RecursionError) as error:
            raise ModelError(f"{path} is damaged: its list of layers cannot be read. Get it again.") from error
        yield content


def _import_h5py() -> Any:
    """Return the package h5py; raises ModelError saying how to install it."""
    try:
        import h5py
    except ImportError as error:
        raise ModelError(
            'Reading Keras weights needs the Python package h5py. Install it with: pip install "TransferSegLib[keras]" '
            '(in 3D Slicer, in the Python console: slicer.util.pip_install("h5py")), then try again.'
        ) from error
    return h5py


def _what_it_is(path: Path) -> str:
    """Return how a message continues after the name of a file that is not HDF5; raises OSError."""
    if not path.exists():
        return "does not exist: give the .h5 file with the weights."
    if path.is_dir():
        return "is a folder: give the .h5 file with the weights."
    with path.open("rb") as stream:
        start = stream.read(512)
    if not start:
        return "is empty. Get it again."
    if start.startswith(b"version https://git-lfs"):
        return "is only a pointer of git-lfs, not the weights themselves: get the file with 'git lfs pull'."
    if start.lstrip().lower().startswith((b"<!doctype", b"<html", b"<?xml")):
        return "is a web page, not the file it shows: use the page's button for downloading the raw file."
    if start.startswith(b"PK") and path.suffix.lower() == ".keras":
        return f"is a .keras archive: {_SAVE_AGAIN}."
    if path.suffix.lower() == ".onnx":
        return "is an ONNX file: give the Keras file (.h5) of the same network."
    return "is not an HDF5 file, as Keras writes it (.h5)."


def _content(h5py: Any, file: Any, path: Path) -> KerasFile:
    """Return what an open file holds; raises ModelError, or what h5py raises for a damaged one."""
    weights = file if _has_names(file, _LAYER_NAMES) else None
    if weights is None and _WEIGHTS_GROUP in file:
        weights = _member(h5py, file, _WEIGHTS_GROUP, path)
    if weights is None or not _has_names(weights, _LAYER_NAMES):
        if any(name in file for name in _NEWER_FORMAT):
            raise ModelError(
                f"{path} is in the newer format of Keras (.weights.h5), which does not say in which order the layers "
                f"come: {_SAVE_AGAIN}."
            )
        raise ModelError(f"{path} is an HDF5 file, but not one with Keras weights: it has no list of layers.")
    layers = []
    for name in _names(weights, _LAYER_NAMES):
        group = _member(h5py, weights, name, path)
        arrays = [(array, _member(h5py, group, array, path)) for array in _names(group, _WEIGHT_NAMES)]
        for array, dataset in arrays:
            if not isinstance(dataset, h5py.Dataset) or dataset.shape is None:
                raise ModelError(f"{path} is damaged: '{array}' of the layer '{name}' is not an array.")
        if arrays:
            layers.append(KerasLayer(name, tuple(KerasArray(a, tuple(d.shape), d, path) for a, d in arrays)))
    return KerasFile(
        tuple(layers),
        _text(file, "model_config"),
        _version(file, weights, "keras_version"),
        _version(file, weights, "backend"),
    )


def _member(h5py: Any, group: Any, name: str, path: Path) -> Any:
    """Return a group or dataset below a group, every step of its name being part of this very file."""
    here = group
    for step in name.split("/"):
        link = here.get(step, getlink=True) if step not in ("", ".") and isinstance(here, h5py.Group) else None
        if link is None:
            raise ModelError(f"{path} is damaged or incomplete: it lists '{name}', but does not hold it. Get it again.")
        if not isinstance(link, h5py.HardLink):
            raise ModelError(f"{path} is refused: '{name}' is a link to another place. Keras writes no links.")
        here = here[step]
    return here


def _has_names(group: Any, attribute: str) -> bool:
    """Tell whether a group has a list of names, in one piece or in several."""
    return attribute in group.attrs or f"{attribute}0" in group.attrs


def _names(group: Any, attribute: str) -> list[str]:
    """Return a list of names; Keras splits one that is too long for an attribute into name0, name1 ..."""
    if attribute in group.attrs:
        return _piece(group, attribute)
    names: list[str] = []
    for number in range(_MOST_NAMES):
        if f"{attribute}{number}" not in group.attrs:
            break
        names += _piece(group, f"{attribute}{number}")
    return names


def _piece(group: Any, attribute: str) -> list[str]:
    """Return the names in one attribute, stored as bytes or as text; raises ValueError when it holds other things."""
    shape = group.attrs.get_id(attribute).shape
    if len(shape) != 1 or shape[0] > _MOST_NAMES:
        raise ValueError(f"the attribute {attribute} has the shape {shape}")
    return [_decoded(name) for name in group.attrs[attribute]] if shape[0] else []


def _text(group: Any, attribute: str) -> str | None:
    return _decoded(group.attrs[attribute]) if attribute in group.attrs else None


def _version(file: Any, weights: Any, attribute: str) -> str:
    """Return a short text attribute of the file or of its group of weights, '' when there is none."""
    return (_text(file, attribute) or _text(weights, attribute) or "")[:40]


def _decoded(text: Any) -> str:
    """Return a text that was stored as bytes or as text; raises ValueError for anything else."""
    if isinstance(text, bytes):
        return text.decode("utf-8")
    if isinstance(text, str):
        return str(text)
    raise ValueError(f"{type(text).__name__} instead of a text")
