"""The drawing effort of a project's cases in the order in which they were done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import SimpleITK as sitk

from TransferSegLib.corrections.revisions import ModelReference, ProjectState, Revision
from TransferSegLib.errors import DatasetError
from TransferSegLib.evaluation.case_effort import CaseEffort, measure_case_effort
from TransferSegLib.images.read import read_label_map, read_label_map_on, read_mask_on
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet


@dataclass(frozen=True)
class CaseOfCurve:
    """One case; ``effort`` is None where no prediction was kept with it.

    ``done`` is when it was first saved (UTC). The effort is that of the revision ``revision``.
    """

    id: str
    done: str
    revision: int
    model: ModelReference | None
    structures: tuple[str, ...]
    effort: CaseEffort | None

    def to_json(self) -> dict[str, Any]:
        """Return what a program is told of it."""
        effort = self.effort
        return {
            "id": self.id,
            "done": self.done,
            "revision": self.revision,
            "model": None if self.model is None else {"name": self.model.name, "version": self.model.version},
            "structures": list(self.structures),
            "effort": None
            if effort is None
            else {
                "added_path_mm": round(effort.added_path_mm, 2),
                "path_mm": round(effort.path_mm, 2),
                "surface_dice": effort.surface_dice,
            }
            | effort.to_json(),
        }

    @property
    def model_text(self) -> str:
        """The model that made the prediction, by name and version; '-' where none is known."""
        return "-" if self.model is None else str(self.model)


def effort_curve(state: ProjectState, task: Task | None = None) -> list[CaseOfCurve]:
    """Return the cases in use, in the order in which they were first saved.

    Of a case with several revisions the last one counts that started from the same version of a model as the first one
    with a prediction: later ones may start from a model that has learned from this very scan. Effort that is not kept
    in the project (of an earlier TransferSeg) is computed from the case's files; nothing is written. Raises ScanError
    and DatasetError for files that cannot be used, Cancelled.
    """
    order = sorted(state.current, key=lambda revision: state.of_case(revision.case.id)[0].created)
    curve = []
    task = (task or Task()).named("Measuring effort")
    for current, part in task.each(order, lambda revision: revision.case.id):
        revisions = state.of_case(current.case.id)
        counted = _counted(revisions)
        case, effort = counted.case, counted.effort
        if effort is None and counted.prediction is not None and case.annotated:
            effort = effort_of_files(counted, state.every_structure, part)
        curve.append(
            CaseOfCurve(case.id, revisions[0].created, counted.number, counted.corrected_from, case.annotated, effort)
        )
    return curve


def effort_of_files(revision: Revision, label_set: LabelSet, task: Task | None = None) -> CaseEffort:
    """Return the effort of a revision, measured on its files; ``label_set`` are all structures of the project.

    Raises DatasetError when it has no prediction, ScanError for files that cannot be read or do not fit, Cancelled.
    """
    case = revision.case
    if revision.prediction is None:
        raise DatasetError(f"Case {case.id}: no prediction was kept, so its effort cannot be measured.")
    reading, reading_prediction, measuring = (task or Task()).split(2, 2, 3)
    labels = read_label_map(case.labels, task=reading)
    predicted = read_label_map_on(labels, revision.prediction, task=reading_prediction)
    region = None
    if case.judged is not None:
        region = np.asarray(sitk.GetArrayFromImage(read_mask_on(labels, case.judged)) != 0)
    x_mm, y_mm, z_mm = labels.GetSpacing()
    return measure_case_effort(
        sitk.GetArrayFromImage(predicted),
        label_set,
        sitk.GetArrayFromImage(labels),
        label_set,
        case.annotated,
        (z_mm, y_mm, x_mm),
        region,
        task=measuring,
    )


def _counted(revisions: tuple[Revision, ...]) -> Revision:
    """Return the revision whose effort counts, the current one where none has a prediction."""
    predicted = [revision for revision in revisions if revision.prediction is not None]
    if not predicted:
        return revisions[-1]
    return [one for one in predicted if one.corrected_from == predicted[0].corrected_from][-1]


def metres(length_mm: float) -> str:
    """Return a length of contour for a person: '0.04 m', '0.4 m', '3.1 m', '12 m'."""
    length_m = length_mm / 1000
    if length_m == 0:
        return "0 m"
    decimals = 0 if length_m >= 9.95 else 1 if length_m >= 0.095 else 2
    return f"{length_m:.{decimals}f} m" if length_m >= 0.005 else "< 0.01 m"


def in_words(curve: list[CaseOfCurve]) -> str:
    """Return the curve in a line: 'scan 1 needed 3.1 m of contour, scan 7 needed 0.4 m'; '' without effort."""
    known = [(number, one.effort) for number, one in enumerate(curve, start=1) if one.effort is not None]
    if not known:
        return ""
    (first, begin), (last, end) = known[0], known[-1]
    line = f"Scan {first} needed {metres(begin.added_path_mm)} of contour"
    return f"{line}." if first == last else f"{line}, scan {last} needed {metres(end.added_path_mm)}."
