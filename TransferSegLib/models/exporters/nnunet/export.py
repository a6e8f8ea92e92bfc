"""A model written as a folder that nnU-Net v2 predicts with: ``DatasetXXX_Name/TRAINER__PLANS__CONFIGURATION``.

>>> exported = export_nnunet(find_model("hippocampus"), Path("nnUNet_results"))
>>> print(exported.command)
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from TransferSegLib import safe_json
from TransferSegLib.durable_writing import flush_folder, move
from TransferSegLib.errors import ModelError
from TransferSegLib.models.exporters.nnunet.plans import (
    CONFIGURATION,
    PLANS,
    TRAINER,
    WRITTEN_BY,
    NnUNetFiles,
    nnunet_files,
    notes,
)
from TransferSegLib.models.part_names import abandoned_in, part_of
from TransferSegLib.models.store import load_model, write_files
from TransferSegLib.output_checks import check_output_folder, file_in_the_way, why_no_folder
from TransferSegLib.own_files import is_link
from TransferSegLib.progress import Task

_INNER = f"{TRAINER}__{PLANS}__{CONFIGURATION}"
_DATASET = re.compile(r"Dataset(\d{3})_(.+)")
#: The numbers that are tried first: those that people use themselves are low.
_NUMBERS = (*range(900, 1000), *range(1, 900))
_RETIRED = "old"


@dataclass(frozen=True)
class Exported:
    """The folder for ``-m``, how many folds it has, and in lines what to know when nnU-Net predicts with it."""

    folder: Path
    folds: int
    notes: tuple[str, ...]

    @property
    def command(self) -> str:
        """The command by which nnU-Net predicts with it."""
        folds = " ".join(str(fold) for fold in range(self.folds))
        return f"nnUNetv2_predict_from_modelfolder -m {shlex.quote(str(self.folder))} -i SCANS -o LABELS -f {folds}"


def export_nnunet(
    path: Path, results: Path, replace: bool = False, dataset_id: int | None = None, task: Task | None = None
) -> Exported:
    """Write a model for nnU-Net v2 into a results folder; it appears there whole or not at all.

    ``dataset_id`` is the number in the name of the dataset's folder (1 to 999), None: a free one. With ``replace`` an
    earlier export of a model of that name is overwritten, never what something else wrote. Nothing but the weights,
    how scans are prepared, the structures, the modality and the licence is written. Raises ModelError for a model that
    nnU-Net cannot run and where nothing can be written; Cancelled.
    """
    reading, making, writing = (task or Task()).split(2, 2, 1)
    model = reading.wait(lambda: load_model(path))
    results = Path(results).absolute()
    _check_results(results)
    _tidy(results)
    name = _dataset_name(model.description.name)
    target = results / f"Dataset{_number(results, name, dataset_id):03d}_{name}" / _INNER
    _check_target(target, replace)
    files = nnunet_files(model.description, target.parent.name)

    def content() -> dict[str, bytes]:
        from TransferSegLib.models.exporters.nnunet.checkpoint import checkpoint_bytes

        mirror = model.description.network.arguments.get("mirror_axes_zyx", ())
        return {
            f"fold_{fold}": checkpoint_bytes(model.fold_weights(fold), files, fold, mirror)
            for fold in range(model.description.folds)
        }

    folds = making.wait(content)
    try:
        _write(target, files, folds, writing)
    except OSError as error:
        raise ModelError(f"The model cannot be written to {target}: {why_no_folder(target, error)}.") from error
    return Exported(target, len(folds), notes(model.description, files))


def _dataset_name(name: str) -> str:
    """Return a model's name as nnU-Net can have it in the name of a folder.

    >>> _dataset_name("head neck (2024)")
    'head-neck-2024'
    """
    return re.sub(r"[^A-Za-z0-9]+", "-", name).strip("-") or "TransferSeg"


def _check_results(results: Path) -> None:
    """Raise ModelError unless folders can be made in a results folder, which may be made itself."""
    if results.exists() and not results.is_dir():
        raise ModelError(f"{results} is a file: give a folder for nnU-Net's results.")
    if not results.parent.is_dir() and file_in_the_way(results) is None:
        raise ModelError(f"{results} cannot be written: there is no folder {results.parent}.")
    check_output_folder(results, ModelError)


def _number(results: Path, name: str, asked: int | None) -> int:
    """Return the number of the dataset's folder: the one asked for, that of an earlier export, or a free one."""
    taken: dict[int, list[str]] = {}
    for entry in sorted(results.iterdir()) if results.is_dir() else []:
        if match := _DATASET.fullmatch(entry.name):
            taken.setdefault(int(match[1]), []).append(match[2])
    if asked is not None:
        if not 1 <= asked <= 999:
            raise ModelError(f"nnU-Net numbers datasets from 1 to 999, not {asked}.")
        others = [other for other in taken.get(asked, []) if other != name]
        if others:
            raise ModelError(
                f"{results} has a Dataset{asked:03d}_{others[0]} already, and nnU-Net could not tell the two apart: "
                "choose another number with --dataset-id."
            )
        return asked
    earlier = next((number for number, names in taken.items() if name in names), None)
    free = next((number for number in _NUMBERS if number not in taken), None)
    number = free if earlier is None else earlier
    if number is None:
        raise ModelError(f"{results} has a dataset of every number that nnU-Net knows: give another folder.")
    return number


def _check_target(target: Path, replace: bool) -> None:
    """Raise ModelError unless a model may be written to a folder."""
    for folder in (target.parent, target):
        if is_link(folder) or (folder.exists() and not folder.is_dir()):
            raise ModelError(f"{folder} is a link or a file, not a folder: give another folder.")
    if not target.exists():
        return
    if not replace:
        raise ModelError(f"{target} exists already: give another folder, or replace it with --replace.")
    try:
        entry = safe_json.parse((target / "dataset.json").read_bytes())
        is_ours = str(entry[WRITTEN_BY]).startswith("TransferSeg")
    except (OSError, ValueError, LookupError, TypeError):
        is_ours = False
    if not is_ours:
        raise ModelError(f"{target} was not written by TransferSeg and is not replaced: give another folder.")
    for file in sorted(target.rglob("*")):
        if not file.is_dir() and not _is_own(file.relative_to(target)):
            raise ModelError(f"{target} is not replaced, because {file} is not a part of the model: move it elsewhere.")


def _is_own(file: Path) -> bool:
    """Tell whether a file, relative to its model's folder, is one that is written here."""
    known = re.fullmatch(r"dataset\.json|plans\.json|fold_\d+/checkpoint_final\.pth", file.as_posix())
    return known is not None


def _write(target: Path, files: NnUNetFiles, folds: Mapping[str, bytes], task: Task) -> None:
    """Write a model's folder under a hidden name, then give it its own; raises OSError, Cancelled."""
    dataset = target.parent
    dataset.parent.mkdir(exist_ok=True)
    new = part_of(dataset)
    try:
        inner = new / target.name
        inner.mkdir(parents=True)
        write_files(inner, {"dataset.json": _text(files.dataset), "plans.json": _text(files.plans)})
        for fold, content in folds.items():
            (inner / fold).mkdir()
            write_files(inner / fold, {"checkpoint_final.pth": content}, task.cancel)
        task.check()
        if dataset.exists():
            _exchange(inner, target)
        else:
            move(new, dataset)
        flush_folder(dataset.parent, required=False)
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _exchange(new: Path, target: Path) -> None:
    """Give a folder its place; what is there keeps it until the new one can take it."""
    if not target.exists():
        move(new, target)
        return
    old = part_of(target, _RETIRED)
    move(target, old)
    try:
        move(new, target)
    except BaseException:
        move(old, target)
        raise
    shutil.rmtree(old, ignore_errors=True)


def _tidy(results: Path) -> None:
    """Remove what killed exports left, and put back what they were about to replace."""
    for left, _ in abandoned_in(results):
        if left.name.startswith(".Dataset") and not is_link(left):
            shutil.rmtree(left, ignore_errors=True)
    for dataset in results.glob("Dataset*"):
        for old, place in abandoned_in(dataset, _RETIRED):
            if is_link(old):
                continue
            if os.path.lexists(place):
                shutil.rmtree(old, ignore_errors=True)
            else:
                move(old, place)


def _text(entry: dict[str, object]) -> bytes:
    return json.dumps(entry, indent=4, ensure_ascii=True, allow_nan=False).encode("ascii")
