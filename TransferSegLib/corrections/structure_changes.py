"""A project's structures change: renamed, dropped, merged. Label values that are in files keep their meaning.

No file that is there is ever written to. A new name changes no revision; what changes the content of a case makes a
new revision of it, and the one before is kept with the structures it had.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.anatomy import describe_structure
from TransferSegLib.corrections.adding import join_structures
from TransferSegLib.corrections.content_hash import hash_content, hash_label_map, reviewed_values
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.project_files import LABELS, PREDICTION, Incoming, incoming_folder
from TransferSegLib.corrections.revisions import ProjectState, RetiredStructure, Revision, now_utc
from TransferSegLib.datasets.dataset import Case
from TransferSegLib.errors import DatasetError
from TransferSegLib.images.label_values import count_values, image_like
from TransferSegLib.images.read import read_label_map
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet, Structure, structure_key
from TransferSegLib.wording import did_you_mean


def rename_structure(project: Project, old: str, new: str) -> None:
    """Give a structure another name, in every revision there is; its label value and its colour stay.

    Raises DatasetError when there is no such structure, or another one has or had the new name.
    """
    with project.changing() as change:
        state = change.state
        structure = _find(state, old)
        renamed = replace(describe_structure(_usable(new), structure.label), color=structure.color)
        others = [one for one in state.every_structure if one.label != structure.label]
        if any(one.key == renamed.key for one in others):
            raise DatasetError(
                f"'{new}' is or was another structure of the project. To make them one: "
                f"transferseg cases structures --merge '{new}' '{old}' '{new}'"
            )
        label_set = LabelSet(tuple(renamed if one == structure else one for one in state.label_set))

        retired = tuple(
            replace(one, merged_into=renamed.name) if structure_key(one.merged_into) == structure.key else one
            for one in state.retired
        )

        def with_new_name(revision: Revision) -> Revision:
            names = tuple(renamed.name if structure_key(n) == structure.key else n for n in revision.case.annotated)
            effort = None if revision.effort is None else revision.effort.renamed(structure.name, renamed.name)
            return replace(revision, case=replace(revision.case, annotated=names), effort=effort)

        change.save(
            replace(
                state,
                dataset=replace(state.dataset, label_set=label_set),
                current=tuple(with_new_name(revision) for revision in state.current),
                earlier=tuple(with_new_name(revision) for revision in state.earlier),
                removed=tuple(with_new_name(revision) for revision in state.removed),
                retired=retired,
            )
        )


def drop_structure(project: Project, name: str, task: Task | None = None) -> list[Revision]:
    """Take a structure out of the project; its voxels stay in the files and count as unknown from now on.

    Returns the new revisions, those of the cases in which it was reviewed. Raises DatasetError when there is no such
    structure, it is the last one, or the project was changed meanwhile; ScanError, and Cancelled from the task.
    """
    state = project.state()
    structure = _find(state, name)
    if len(state.label_set) == 1:
        raise DatasetError(f"'{structure.name}' is the project's only structure, so it cannot be dropped.")
    after = _without(state, [structure], "")
    task = (task or Task()).named("Dropping a structure")
    affected = [revision for revision in state.current if structure.name in revision.case.annotated]
    revisions = []
    # The files are read before the project is locked.
    for revision, part in task.each(affected, lambda revision: revision.case.id):
        case = revision.case
        names = tuple(other for other in case.annotated if other != structure.name)
        hashes = _Hashes.of(case, part)
        revisions.append(_next_revision(revision, replace(case, annotated=names), hashes, after.label_set))
    with project.changing(task.cancel) as change:
        if change.state != state:
            raise DatasetError(f"The project in {project.folder} was changed meanwhile. Drop '{structure.name}' again.")
        for revision in revisions:
            after = after.with_revision(revision)
        change.save(after)
    return revisions


def merge_structures(
    project: Project,
    names: Sequence[str],
    into: str,
    task: Task | None = None,
) -> list[Revision]:
    """Make several structures one; returns the new revisions of the cases this changes.

    ``into`` is one of them, which keeps its label value, or a new one, which gets a new value. A case has the merged
    structure reviewed when it had all parts reviewed: with one unknown, the whole is unknown. Raises DatasetError when
    a structure is not there, or the project was changed meanwhile.
    """
    state = project.state()
    plan = _plan_merge(state, names, into)
    task = (task or Task()).named("Merging structures")
    try:
        with ExitStack() as stack:
            prepared = []
            for revision, part in task.each(state.current, lambda revision: revision.case.id):
                incoming = stack.enter_context(incoming_folder(project.folder, project.timeout_s, task.cancel))
                written = _write_merged(revision, plan, incoming, part)
                prepared.append((revision, incoming, written))
            with project.changing(task.cancel) as change:
                if change.state != state:
                    raise DatasetError(f"The project in {project.folder} was changed meanwhile. Merge again.")
                revisions = [
                    merged
                    for revision, incoming, written in prepared
                    if (merged := _merged(revision, plan, incoming, written, state)) is not None
                ]
                after = plan.after
                for revision in revisions:
                    after = after.with_revision(revision)
                change.save(after)
    finally:
        project.tidy()
    return revisions


@dataclass(frozen=True)
class _Hashes:
    """The hashes of a case's label map and of its annotated region ('': the whole scan)."""

    labels: str
    judged: str

    @staticmethod
    def of(case: Case, task: Task, labels: str = "") -> _Hashes:
        """Read the hashes, that of the label map unless it is known; raises ScanError and Cancelled."""
        of_labels, of_judged = task.split(0 if labels else 3, 1)
        return _Hashes(
            labels or hash_label_map(case.labels, of_labels),
            "" if case.judged is None else hash_label_map(case.judged, of_judged),
        )


@dataclass(frozen=True)
class _Written:
    """Which label maps of a revision were written anew, and the hashes of what the case has then (None: no change)."""

    names: frozenset[str]
    hashes: _Hashes | None


@dataclass(frozen=True)
class _Merge:
    """What becomes of which structures: ``parts`` (of the state before) become ``whole`` in the state ``after``."""

    parts: tuple[Structure, ...]
    whole: Structure
    after: ProjectState

    def annotated(self, names: Iterable[str]) -> tuple[str, ...]:
        """Return the reviewed structures of a case after the merge."""
        keys = {structure_key(name) for name in names}
        kept = keys - {part.key for part in self.parts}
        if all(part.key in keys for part in self.parts):
            kept.add(self.whole.key)
        return tuple(one.name for one in self.after.label_set if one.key in kept)

    def apply(self, path: Path, task: Task) -> sitk.Image | None:
        """Return a label map with the parts as one, None when it has none of those that go; raises ScanError."""
        labels = read_label_map(path, task=task)
        old_zyx = sitk.GetArrayViewFromImage(labels)
        values = [part.label for part in self.parts if part.label != self.whole.label]
        going_zyx = np.isin(old_zyx, values)
        if not going_zyx.any():
            return None
        return image_like(np.where(going_zyx, np.uint32(self.whole.label), old_zyx.astype(np.uint32)), labels)


def _plan_merge(state: ProjectState, names: Sequence[str], into: str) -> _Merge:
    """Return what a merge does to a project; raises DatasetError."""
    parts = {structure.key: structure for structure in (_find(state, name) for name in names)}
    target = state.label_set.find(into)
    if target is not None:
        parts[target.key] = target
    if len(parts) < 2:
        raise DatasetError("Name at least two structures of the project to be merged.")
    if target is None and state.every_structure.find(into) is not None:
        raise DatasetError(f"'{into}' was another structure of the project once: choose another name for the whole.")
    label_set, retired = join_structures(
        state.label_set, state.retired, [describe_structure(_usable(into), max(state.every_structure.label_values) + 1)]
    )
    joined = replace(state, dataset=replace(state.dataset, label_set=label_set), retired=retired)
    whole = _find(joined, into)
    gone = [part for part in parts.values() if part.label != whole.label]
    return _Merge(tuple(parts.values()), whole, _without(joined, gone, whole.name))


def _write_merged(revision: Revision, plan: _Merge, incoming: Incoming, task: Task) -> _Written:
    """Write those label maps of a revision that change; raises ScanError, Cancelled."""
    written: dict[str, str] = {}
    labels, predicted, hashing = task.split(3, 3, 2)
    for path, name, here in ((revision.case.labels, LABELS, labels), (revision.prediction, PREDICTION, predicted)):
        reading, writing = here.split(1, 2)
        merged = None if path is None else plan.apply(path, reading)
        if merged is not None:
            every = plan.after.every_structure
            present = count_values(merged)
            names = [structure.name for structure in every if structure.label in present]
            written[name] = incoming.write_labels(merged, name, every.select(names), writing)
    if not written and plan.annotated(revision.case.annotated) == revision.case.annotated:
        return _Written(frozenset(), None)
    return _Written(frozenset(written), _Hashes.of(revision.case, hashing, written.get(LABELS, "")))


def _merged(
    revision: Revision, plan: _Merge, incoming: Incoming, written: _Written, state: ProjectState
) -> Revision | None:
    """Return the next revision of a case with the files written for it, None when the merge changes nothing in it."""
    if written.hashes is None:
        return None
    case = replace(revision.case, annotated=plan.annotated(revision.case.annotated))
    if written.names:
        place = incoming.move_to(case.id, state.latest(case.id).number + 1)
        if LABELS in written.names:
            case = replace(case, labels=place / LABELS)
        if PREDICTION in written.names:
            revision = replace(revision, prediction=place / PREDICTION)
    return _next_revision(revision, case, written.hashes, plan.after.label_set)


def _next_revision(revision: Revision, case: Case, hashes: _Hashes, label_set: LabelSet) -> Revision:
    """Return the revision that follows with other reviewed structures or another label map; the scan is the same."""
    reviewed = reviewed_values(case.annotated, label_set)
    return replace(
        revision,
        case=case,
        number=revision.number + 1,
        created=now_utc(),
        content_hash=hash_content(revision.image_hash, hashes.labels, hashes.judged, reviewed),
        restored_from=None,
        effort=None,
    )


def _without(state: ProjectState, gone: Iterable[Structure], merged_into: str) -> ProjectState:
    """Return the state in which structures are retired: their values stay theirs."""
    gone = list(gone)
    label_set = LabelSet(tuple(structure for structure in state.label_set if structure not in gone))
    retired = (*state.retired, *(RetiredStructure(structure, merged_into) for structure in gone))
    return replace(state, dataset=replace(state.dataset, label_set=label_set), retired=retired)


def _find(state: ProjectState, name: str) -> Structure:
    """Return a structure of the project; raises DatasetError with the known names."""
    structure = state.label_set.find(name)
    if structure is None:
        raise DatasetError(
            f"The project has no structure '{name}'. Known are: {', '.join(state.label_set.names)}."
            f"{did_you_mean(name, state.label_set.names)}"
        )
    return structure


def _usable(name: str) -> str:
    """Return a name without spaces around it; raises DatasetError when nothing is left."""
    if not name.strip() or not name.isprintable():
        raise DatasetError("A structure's name must have letters, and no line breaks.")
    return name.strip()
