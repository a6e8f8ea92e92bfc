"""A model on disk: a folder with ``model.json`` and ``weights.pt``, or the same as one zip file.

>>> model = load_model(find_model("head-neck-ct"))
>>> logits = model.network()(tile)

Only ``load_description`` works without torch. Weights are loaded with ``weights_only``: a file cannot run code.
"""

from __future__ import annotations

import io
import os
import pickle
import shutil
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.doubt.calibration import DoubtCalibration
from TransferSegLib.durable_writing import move, write_text_durably
from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import json_bytes
from TransferSegLib.models.archive import (
    MODEL_FILE,
    WEIGHTS_FILE,
    WeightsRecord,
    blocks_of,
    file_in,
    parse_model_file,
    read_model_entry,
)
from TransferSegLib.models.description import ModelDescription, parse_json
from TransferSegLib.models.folds import fold_of, joined_folds
from TransferSegLib.models.part_names import abandoned, part_of
from TransferSegLib.models.recovery import RETIRED, recover_saved
from TransferSegLib.models.versions.state import current_folder
from TransferSegLib.models.weights_pickle import check_weights_file
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.output_checks import why_no_folder
from TransferSegLib.own_files import is_link
from TransferSegLib.progress import CancelToken

if TYPE_CHECKING:
    import torch
    from torch import nn

    from TransferSegLib.fit.profile import FitProfile

#: What torch.load and zipfile raise for files that were not written by torch.save or hold more than weights.
_UNREADABLE = (
    zipfile.BadZipFile,
    pickle.UnpicklingError,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    AssertionError,
)


@dataclass(frozen=True, eq=False)
class Model:
    """A loaded model: its description, its float32 weights on the CPU by layer name, and where it came from.

    Weights of several folds are joined as in ``models.folds``.
    """

    description: ModelDescription
    state_dict: dict[str, torch.Tensor]
    path: Path

    def fold_weights(self, number: int = 0) -> dict[str, torch.Tensor]:
        """Return the weights of one fold by plain layer name; fine-tuning begins with those of the first."""
        return fold_of(self.state_dict, number, self.description.folds)

    def network(self) -> Any:
        """Return a new network with a copy of the first fold's weights on the CPU, in evaluation mode."""
        return self._network_of(0)

    def networks(self) -> tuple[Any, ...]:
        """Return a new network for each fold; the mean of their logits is the model's answer."""
        return tuple(self._network_of(fold) for fold in range(self.description.folds))

    def _network_of(self, fold: int) -> Any:
        network = _without_weights(self.description.network)
        copies = {name: values.clone() for name, values in self.fold_weights(fold).items()}
        network.load_state_dict(copies, assign=True)
        return network.eval()


def load_description(path: Path | str) -> ModelDescription:
    """Return what a model's folder or zip file says of itself, without torch and without reading the weights.

    Of a model with versions that is the current one. Raises ModelError when there is no model or its description cannot
    be used.
    """
    path = current_folder(_recovered(Path(path)))
    return parse_model_file(read_model_entry(path, MODEL_FILE), file_in(path, MODEL_FILE))[0]


def check_weights(path: Path | str) -> None:
    """Raise ModelError when a model's weights are missing, damaged or of another model; needs no torch."""
    path = current_folder(_recovered(Path(path)))
    _, record = parse_model_file(read_model_entry(path, MODEL_FILE), file_in(path, MODEL_FILE))
    record.check(read_model_entry(path, WEIGHTS_FILE, record), file_in(path, WEIGHTS_FILE))


def load_model(path: Path | str) -> Model:
    """Return the model of a folder or zip file, everything verified: description, checksum, layer names and shapes.

    Of a model with versions that is the current one, whose folder is then the ``path`` of the model. Raises ModelError
    saying which file is missing, damaged, changed or newer than this version.
    """
    path = current_folder(_recovered(Path(path)))
    description, record = parse_model_file(read_model_entry(path, MODEL_FILE), file_in(path, MODEL_FILE))
    weights = read_model_entry(path, WEIGHTS_FILE, record)
    record.check(weights, file_in(path, WEIGHTS_FILE))
    state_dict = _parse_weights(weights, description, file_in(path, WEIGHTS_FILE))
    return Model(description, state_dict, path)


def save_model(
    folder: Path,
    description: ModelDescription,
    state_dict: Mapping[str, torch.Tensor],
    half_precision: bool = False,
    overwrite: bool = False,
) -> Path:
    """Write a model's folder and return it; a folder of that name is complete or not there at any moment.

    ``state_dict`` is that of the network described, on any device; that of several folds as ``joined_folds`` returns
    it. ``half_precision`` halves the size on disk; the
    weights are rounded to about three digits. With ``overwrite`` a model that is there is replaced; other files in
    its folder stay. Raises ModelError when the weights do not fit the description, are not finite, or cannot be
    written.
    """
    folder = Path(folder).resolve()
    if not overwrite and _is_taken(folder):
        raise ModelError(f"{folder} exists already: choose another folder or allow it to be overwritten.")
    files = model_files(description, state_dict, half_precision)
    try:
        with _temporary_folder(folder) as temporary:
            write_files(temporary, files)
            _put_in_place(temporary, folder)
    except OSError as error:
        raise ModelError(f"The model cannot be written to {folder}: {why_no_folder(folder.parent, error)}.") from error
    return folder


def set_profile(folder: Path, profile: FitProfile | None) -> None:
    """Write the profile of a model in a folder into its model.json; nothing else changes. Raises ModelError."""
    _set_entry(Path(folder), "fit", None if profile is None else profile.to_json())


def set_doubt(folder: Path, doubt: DoubtCalibration | None) -> None:
    """Write how often a model is wrong by its margin into its model.json; nothing else changes. Raises ModelError."""
    _set_entry(Path(folder), "doubt", None if doubt is None else doubt.to_json())


def _set_entry(folder: Path, name: str, value: dict[str, Any] | None) -> None:
    """Write an entry of the model.json in a folder, or remove it; raises ModelError."""
    file = folder / MODEL_FILE
    text = read_model_entry(folder, MODEL_FILE)
    parse_model_file(text, str(file))
    entry = {key: old for key, old in parse_json(text, str(file)).items() if key != name}
    if value is not None:
        entry[name] = value
    written = json_bytes(entry)
    parse_model_file(written, str(file))
    try:
        write_text_durably(file, written.decode("utf-8"))
    except OSError as error:
        raise ModelError(f"{file} cannot be written: {error}.") from error


def model_files(
    description: ModelDescription, state_dict: Mapping[str, torch.Tensor], half_precision: bool = False
) -> dict[str, bytes]:
    """Return the files of a model by name, as ``save_model`` writes them; raises ModelError as it does."""
    weights = _weights_as_bytes(state_dict, description, half_precision)
    return {MODEL_FILE: _model_file(description, WeightsRecord.of(weights)), WEIGHTS_FILE: weights}


def write_files(folder: Path, files: Mapping[str, bytes], cancel: CancelToken | None = None) -> None:
    """Write new files and wait until they are on the disk, so that a power cut after a renaming finds them whole.

    Raises OSError, and Cancelled between two blocks: a part of a file is left then.
    """
    for name, content in files.items():
        _write(folder / name, content, cancel)


def _write(path: Path, content: bytes, cancel: CancelToken | None) -> None:
    with path.open("xb") as stream:
        for block in blocks_of(content, cancel):
            stream.write(block)
        stream.flush()
        os.fsync(stream.fileno())


def _model_file(description: ModelDescription, record: WeightsRecord) -> bytes:
    """Return the content of model.json; raises ModelError when metrics or configuration are not JSON."""
    try:
        return json_bytes(description.to_json() | {"weights": record.to_json()})
    except (TypeError, ValueError) as error:
        raise ModelError(f"The model's metrics or configuration cannot be written as JSON: {error}.") from error


def _weights_as_bytes(
    state_dict: Mapping[str, torch.Tensor], description: ModelDescription, half_precision: bool
) -> bytes:
    """Return the content of weights.pt: a state dict in the network's order, float16 or float32."""
    import torch

    dtype = torch.float16 if half_precision else torch.float32
    shapes = expected_shapes(description.network, description.folds)
    _check_shapes(state_dict, shapes, f"The weights of '{description.name}'")
    # torch stores a view with its whole storage: only a fresh copy writes no more than the weights.
    stored = {
        name: state_dict[name].detach().to("cpu", dtype, copy=True).clone(memory_format=torch.contiguous_format)
        for name in shapes
    }
    for name, values in stored.items():
        if not bool(torch.isfinite(values).all()):
            hint = " in half precision: save it in full precision" if half_precision else ""
            raise ModelError(f"The layer '{name}' of '{description.name}' has values that are not finite{hint}.")
    buffer = io.BytesIO()
    torch.save(stored, buffer)
    return buffer.getvalue()


def expected_shapes(network: NetworkSpec, folds: int = 1) -> dict[str, tuple[int, ...]]:
    """Return, per layer name in the network's order, the shape of its weights; nothing is allocated."""
    shapes = {name: tuple(values.shape) for name, values in _without_weights(network).state_dict().items()}
    return joined_folds([shapes] * folds)


def _without_weights(network: NetworkSpec) -> nn.Module:
    """Return the network described on torch's meta device: no memory is taken and no random number is drawn."""
    import torch

    with torch.device("meta"):
        return backbone_of(network).build()


def _check_shapes(state_dict: Mapping[str, Any], shapes: dict[str, tuple[int, ...]], source: str) -> None:
    """Raise ModelError naming the first layer that is missing, unknown or of another shape than described."""
    import torch

    missing = [name for name in shapes if name not in state_dict]
    unknown = [str(name) for name in state_dict if name not in shapes]
    if missing or unknown:
        parts = [f"lack the layer '{missing[0]}'"] if missing else []
        parts += [f"have a layer '{unknown[0]}' that the network has not"] if unknown else []
        raise ModelError(f"{source} do not fit the model's description: they {' and '.join(parts)}.")
    for name, shape in shapes.items():
        values = state_dict[name]
        usable = isinstance(values, torch.Tensor) and values.is_floating_point() and values.layout == torch.strided
        if not usable:
            raise ModelError(f"{source} do not fit the model's description: '{name}' is not an array of numbers.")
        if tuple(values.shape) != shape:
            raise ModelError(
                f"{source} do not fit the model's description: the layer '{name}' has the shape "
                f"{tuple(values.shape)} instead of {shape}."
            )


def _parse_weights(weights: bytes, description: ModelDescription, source: str) -> dict[str, torch.Tensor]:
    """Return the float32 state dict of a weights file; raises ModelError unless it is exactly the network's."""
    import torch

    shapes = expected_shapes(description.network, description.folds)
    try:
        check_weights_file(weights, len(shapes))
        state_dict = torch.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ModelError(f"{source} does not hold weights as TransferSeg writes them ({reason}).") from error
    if not isinstance(state_dict, Mapping):
        raise ModelError(f"{source} does not hold weights by layer name.")
    _check_shapes(state_dict, shapes, f"The weights of {source}")
    return {name: state_dict[name].to(torch.float32).contiguous() for name in shapes}


def _recovered(path: Path) -> Path:
    """Return a model's path, after its folder was put back where a killed ``save_model`` was replacing it."""
    if not path.exists():
        recover_saved(path.parent)
    return path


@contextmanager
def _temporary_folder(folder: Path) -> Iterator[Path]:
    """Make a hidden folder beside the given one and remove it, whatever is left in it, at the end."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    recover_saved(folder.parent)
    for left in (*abandoned(folder), *abandoned(folder, RETIRED)):  # by processes that were killed
        _remove_abandoned(left, folder)
    temporary = part_of(folder)
    temporary.mkdir()
    try:
        yield temporary
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _is_taken(folder: Path) -> bool:
    """Tell whether there is something at the path that saving would touch; an empty folder is free."""
    try:
        return folder.exists() and not (folder.is_dir() and not any(folder.iterdir()))
    except OSError as error:
        raise ModelError(f"{folder} cannot be looked into: {error}.") from error


def _put_in_place(complete: Path, folder: Path) -> None:
    """Move a complete model to its folder; a model that is there is kept until the new one has taken its place.

    Renaming a folder is one step for the file system, exchanging two is not: between the two renames the old model
    lies beside its place under a hidden name, and it comes back when the second rename fails.
    """
    if not folder.exists():
        move(complete, folder)
        return
    if not folder.is_dir():
        raise ModelError(f"{folder} is a file: choose a folder for the model.")
    retired = part_of(folder, RETIRED)
    move(folder, retired)
    try:
        move(complete, folder)
    except BaseException:
        move(retired, folder)
        raise
    _keep_others(retired, folder)
    shutil.rmtree(retired)


def _keep_others(retired: Path, folder: Path) -> None:
    """Move what is not the model's from the folder it was replaced in to the new one."""
    for file in sorted(retired.iterdir()):
        if file.name not in (MODEL_FILE, WEIGHTS_FILE) and not os.path.lexists(folder / file.name):
            move(file, folder / file.name)


def _remove_abandoned(left: Path, folder: Path) -> None:
    """Remove what a killed process left beside a model's folder; the user's files in a replaced one are kept."""
    if is_link(left) or not left.is_dir():
        return
    if left.name.endswith(f".{RETIRED}") and folder.is_dir() and not is_link(folder):
        _keep_others(left, folder)
    shutil.rmtree(left, ignore_errors=True)
