"""What a person should know of a case that was added: lines of text."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from typing import TYPE_CHECKING

from TransferSegLib.corrections.mirrored import exchanged_sides, turned_line
from TransferSegLib.corrections.patients import has_group
from TransferSegLib.corrections.revisions import ProjectState, Revision
from TransferSegLib.errors import ScanError
from TransferSegLib.images.read import read_label_map
from TransferSegLib.wording import first_of

if TYPE_CHECKING:
    from TransferSegLib.corrections.adding import Submission

#: A note names so many structures without a voxel, and counts the others.
_MOST_NAMED = 8


def notes_on_case(revision: Revision, before: Revision | None) -> list[str]:
    """Return what a person should know when the scan was in the project already."""
    if before is None:
        return []
    if before.removed:
        notes = [f"The scan is that of the removed case '{revision.case.id}', which is back with a new revision."]
    else:
        notes = [
            f"The scan is that of the case '{revision.case.id}': this is its revision {revision.number}, "
            f"revision {before.number} is kept."
        ]
    old, new = before.case.group, revision.case.group
    if old != new:
        was = f"the group '{old}'" if has_group(before) else "no group and counted as a patient of its own"
        notes.append(f"The patient of the case has changed: it had {was}, and is in the group '{new}' now.")
    return notes


def notes_on_orientation(state: ProjectState | None, submission: Submission, before: Revision | None) -> list[str]:
    """Return warnings for a label map that seems to lie upside down or mirrored in its scan, or has sides exchanged."""
    labels, line = submission.labels, None
    if submission.prediction is not None:
        predicted = submission.prediction
        line = turned_line(labels.image, labels.label_set, predicted.image, predicted.label_set, "the prediction")
    elif before is not None and state is not None:
        with suppress(ScanError):  # a damaged file of an earlier revision is told by ``check``
            earlier = read_label_map(before.case.labels)
            line = turned_line(
                labels.image, labels.label_set, earlier, state.every_structure, f"revision {before.number}"
            )
    if line is not None:
        return [line]
    return [
        f"WARNING: '{left.name}' lies to the right of '{right.name}': the label map or the scan may be mirrored, or "
        "the names exchanged. Look at it before anything learns from it."
        for left, right in exchanged_sides(labels.image, labels.label_set)
    ]


def notes_on_structures(submission: Submission, reviewed: Iterable[str]) -> list[str]:
    """Return what a person should know of reviewed structures without voxels, and of others with voxels."""
    present = {
        structure.key for structure in submission.labels.label_set if structure.label in submission.labels.present
    }
    where = "this scan" if submission.judged is None else "the annotated region of this scan"
    notes = [
        f"'{one.name}' was reviewed and has no voxel: it counts as absent from {where}."
        for one in submission.reviewed
        if one.key not in present
    ]
    keys = {one.key for one in submission.reviewed}
    left = [structure for structure in submission.labels.label_set if structure.key not in keys]
    others = [structure.name for structure in left if structure.key in present]
    if others:
        notes.append(f"Ignored, because not reviewed: {', '.join(others)}.")
    empty = [structure.name for structure in left if structure.key not in present]
    if empty:
        notes.append(f"Empty, and ignored, because not reviewed: {first_of(empty, _MOST_NAMED)}.")
    return notes
