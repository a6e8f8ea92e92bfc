"""Finding a model of nnU-Net v2 in a folder or zip file: its plans, its dataset and the checkpoints of its folds.

A results folder, ``TRAINER__PLANS__CONFIGURATION``, holds ``plans.json``, ``dataset.json`` and a folder per fold; the
zip files of ``nnUNetv2_export_model_to_zip`` hold such a folder.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from TransferSegLib import safe_json
from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import check_place, check_size
from TransferSegLib.own_files import is_link

_PLANS, _DATASET = ("plans.json", "nnUNetPlans.json"), "dataset.json"
_CHECKPOINTS = ("checkpoint_final.pth", "checkpoint_best.pth")
_FOLD = re.compile(r"fold_(\d{1,3}|all)")
_LARGEST_JSON, _LARGEST_CHECKPOINT = 64_000_000, 4_000_000_000
_MOST_ENTRIES, _DEEPEST = 20_000, 5


@dataclass(frozen=True)
class NnUNetSource:
    """The files of one model: where they are, and the checkpoint of each fold by the fold's name."""

    path: Path
    plans: str
    dataset: str
    folds: dict[str, str]

    @property
    def usual_folds(self) -> tuple[str, ...]:
        """The folds that are used where none is chosen, as nnU-Net chooses them.

        Unfinished ones are used only where no other is there, and ``all`` only where no numbered one is.
        """
        usable = tuple(fold for fold in self.folds if not self.is_unfinished(fold)) or tuple(self.folds)
        return tuple(fold for fold in usable if fold != "all") or usable

    def is_unfinished(self, fold: str) -> bool:
        """Tell whether a fold has no final checkpoint: its training goes on, or was stopped."""
        return PurePosixPath(self.folds[fold]).name != _CHECKPOINTS[0]

    @property
    def name(self) -> str:
        """A name for the model: that of its data set, without the number and in small letters."""
        data = self.json(self.plans)
        given = str(data.get("dataset_name", "")) if isinstance(data, dict) else ""
        plain = re.sub(r"^Dataset\d+_", "", given).replace("_", "-").lower()
        return re.sub(r"[^a-z0-9-]", "", plain).strip("-") or "nnunet-model"

    def json(self, name: str) -> Any:
        """Return the content of one of the JSON files; raises ModelError when it is damaged."""
        text = self.read(name, _LARGEST_JSON)
        try:
            return safe_json.parse(text)
        except ValueError as error:
            raise ModelError(f"{self.path}: {name} is not valid JSON ({error}). Get the model again.") from error

    def checkpoint(self, fold: str) -> bytes:
        """Return the bytes of a fold's checkpoint."""
        return self.read(self.folds[fold], _LARGEST_CHECKPOINT)

    def read(self, name: str, largest: int) -> bytes:
        """Return the content of a file; raises ModelError when it is too large or cannot be read."""
        try:
            if self.path.is_dir():
                file = self.path / name
                if file.stat().st_size > largest:
                    raise ModelError(f"{file} is refused: it has {file.stat().st_size:,} bytes.")
                return file.read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                check_size(self.path, archive.getinfo(name))
                with archive.open(name) as stream:
                    content = stream.read(largest + 1)
        except (OSError, zipfile.BadZipFile, zlib.error, LookupError, RuntimeError, EOFError) as error:
            raise ModelError(f"{self.path}: {name} cannot be read ({error}). Get the model again.") from error
        if len(content) > largest:
            raise ModelError(f"{self.path} is refused: {name} in it unpacks to more than {largest:,} bytes.")
        return content


def find_source(path: Path) -> NnUNetSource | None:
    """Return the model of nnU-Net in a folder or zip file, None where there is none.

    Raises ModelError where there are several, one without checkpoints, or checkpoints without what describes them.
    """
    names = set(_names(path))
    found = []
    for plans in sorted(name for name in names if PurePosixPath(name).name in _PLANS):
        folder = PurePosixPath(plans).parent
        if str(folder / _DATASET) in names:
            found.append((plans, folder))
    if not found:
        if any(PurePosixPath(name).name in _CHECKPOINTS for name in names):
            raise ModelError(
                f"{path} holds a checkpoint of nnU-Net without the plans.json and dataset.json that describe it: give "
                "the whole folder TRAINER__PLANS__CONFIGURATION, which holds both beside the folders fold_*."
            )
        return None
    if len(found) > 1:
        listed = ", ".join(str(folder) for _, folder in found)
        raise ModelError(f"{path} holds several models of nnU-Net ({listed}): give the folder of one of them.")
    plans, folder = found[0]
    folds = _folds(names, folder)
    if not folds:
        raise ModelError(f"{path} holds plans of nnU-Net but no fold_*/checkpoint_final.pth: train it first.")
    return NnUNetSource(path, plans, str(folder / _DATASET), folds)


def _folds(names: set[str], folder: PurePosixPath) -> dict[str, str]:
    """Return the checkpoint of every fold, also of ``all``."""
    found = {}
    for name in sorted(names):
        place = PurePosixPath(name)
        match = _FOLD.fullmatch(place.parent.name)
        if match and place.parent.parent == folder and place.name in _CHECKPOINTS:
            fold = match.group(1)
            if fold not in found or place.name == _CHECKPOINTS[0]:
                found[fold] = name
    return found


def _names(path: Path) -> Iterator[str]:
    """Yield the names of the files in a folder or zip file, with forward slashes, relative to it."""
    if path.is_dir():
        for count, file in enumerate(_walk(path, _DEEPEST)):
            if count == _MOST_ENTRIES:
                return
            yield file.relative_to(path).as_posix()
        return
    with _archive(path) as archive:
        for info in archive.infolist()[:_MOST_ENTRIES]:
            check_place(path, info)
            if not info.is_dir():
                yield info.filename


def _walk(folder: Path, depth: int) -> Iterator[Path]:
    """Yield the files below a folder; links to folders are not followed."""
    try:
        entries = sorted(folder.iterdir())
    except OSError:
        return
    for entry in entries:
        if entry.is_file():
            yield entry
        elif depth > 1 and entry.is_dir() and not is_link(entry):
            yield from _walk(entry, depth - 1)


@contextmanager
def _archive(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except (OSError, zipfile.BadZipFile) as error:
        raise ModelError(f"{path} is not a zip file or is damaged ({error}): get it again.") from error
