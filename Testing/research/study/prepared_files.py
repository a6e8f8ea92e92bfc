"""Prepared cases on disk, so that the many runs of a study do not resample the same scans again and again.

A file is a numpy archive without pickled objects. It carries what it was made from, and is made again when that
changed.
"""

from __future__ import annotations

import json
import os
import uuid
import zipfile
from pathlib import Path
from typing import Any

import numpy as np

from Testing.research.study.runs import hash_of
from TransferSegLib.datasets.dataset import Case
from TransferSegLib.durable_writing import replace_file
from TransferSegLib.errors import StudyError
from TransferSegLib.images.model_grid import AxisOrder, ModelGrid
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.structures import LabelSet
from TransferSegLib.training.cases import PreparedCase, prepare_case

#: Raise it when preparing changes, so that older files are made again.
_VERSION = 2


def prepared_case(
    folder: Path, case: Case, dataset_labels: LabelSet, model_labels: LabelSet, preparation: Preparation
) -> PreparedCase:
    """Return a case from its file in ``folder``, which is made first where it is missing or out of date.

    Several processes may ask at once. Raises DatasetError when the case cannot be prepared, StudyError when the file
    cannot be written.
    """
    identity = _identity(case, dataset_labels, model_labels, preparation)
    path = folder / f"{case.id}-{identity}.npz"
    try:
        return _read(path)
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile):
        prepared = prepare_case(case, dataset_labels, model_labels, preparation)
    _write(path, prepared)
    return prepared


def _identity(case: Case, dataset_labels: LabelSet, model_labels: LabelSet, preparation: Preparation) -> str:
    """Return a hash of what a prepared case depends on: files by size and time of change."""
    files = [case.image, case.labels, *([] if case.judged is None else [case.judged])]
    try:
        states = [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    except OSError as error:
        raise StudyError(f"Case {case.id}: {error.filename} cannot be read: {error.strerror or error}.") from error
    return hash_of(
        [
            _VERSION,
            states,
            case.annotated,
            dataset_labels.to_json(),
            model_labels.names,
            preparation.to_json(),
        ]
    )


def _write(path: Path, case: PreparedCase) -> None:
    """Write a case; the file appears whole or not at all."""
    grid = case.grid
    facts = {
        "id": case.id,
        "outside": case.outside,
        "size_zyx": grid.size_zyx,
        "spacing_zyx_mm": grid.spacing_zyx_mm,
        "axes": grid.order.axes,
        "reversed": grid.order.reversed,
        "scan_size_zyx": grid.scan_size_zyx,
        "origin_mm": grid.origin_mm,
        "aligned": grid.aligned,
    }
    arrays: dict[str, Any] = {
        "facts": np.array(json.dumps(facts)),
        "intensities": case.intensities,
        "labels": case.labels,
        "annotated": case.annotated,
        "matrix": grid.matrix,
        "offset_xyz": grid.offset_xyz,
    }
    arrays |= {f"voxels_{channel}": indices for channel, indices in case.voxels.items()}
    if case.judged is not None:
        arrays["judged"] = case.judged
    temporary = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("xb") as stream:
            np.savez(stream, allow_pickle=False, **arrays)
            stream.flush()
            os.fsync(stream.fileno())
        replace_file(temporary, path)
    except OSError as error:
        raise StudyError(f"The prepared case {path} cannot be written: {error.strerror or error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def _read(path: Path) -> PreparedCase:
    """Return a case from its file."""
    with np.load(path, allow_pickle=False) as arrays:
        facts = json.loads(str(arrays["facts"]))
        voxels = {
            int(name.removeprefix("voxels_")): arrays[name] for name in arrays.files if name.startswith("voxels_")
        }
        grid = ModelGrid(
            tuple(facts["size_zyx"]),
            tuple(facts["spacing_zyx_mm"]),
            AxisOrder(tuple(facts["axes"]), tuple(facts["reversed"])),
            tuple(facts["scan_size_zyx"]),
            arrays["matrix"],
            arrays["offset_xyz"],
            tuple(facts["origin_mm"]),
            bool(facts["aligned"]),
        )
        return PreparedCase(
            str(facts["id"]),
            arrays["intensities"],
            arrays["labels"],
            arrays["judged"] if "judged" in arrays.files else None,
            arrays["annotated"],
            float(facts["outside"]),
            grid,
            voxels,
        )
