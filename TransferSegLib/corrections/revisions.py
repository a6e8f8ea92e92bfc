"""What a project knows: the current revision of each case, earlier ones, removed cases, structures that were dropped.

All of it is one ``dataset.json``, so that one renaming changes everything at once; ``docs/corrections.md`` shows it.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from TransferSegLib.datasets.dataset import Case, Dataset, case_from_json, case_to_json, portable_path, read_dataset
from TransferSegLib.errors import DatasetError, TransferSegError
from TransferSegLib.evaluation.case_effort import CaseEffort
from TransferSegLib.structures import LabelSet, Structure, structure_key

#: Of what this module adds to the dataset format ('corrections' in dataset.json).
CORRECTIONS_VERSION = 1
#: What this module adds to a case.
_CASE_KEYS = (
    "prediction",
    "revision",
    "created",
    "corrected_from",
    "notes",
    "removed",
    "restored_from",
    "image_hash",
    "content_hash",
    "effort",
)
_EARLIER, _REMOVED, _RETIRED, _OWN = "earlier_revisions", "removed_cases", "retired_structures", "corrections"


@dataclass(frozen=True)
class ModelReference:
    """The model a correction started from, by name and version."""

    name: str
    version: str = ""

    def __str__(self) -> str:
        """Return e.g. 'head-neck-ct 1.0.0'."""
        return f"{self.name} {self.version}".strip()


@dataclass(frozen=True)
class Revision:
    """One state of a corrected case; ``number`` counts from 1 within the case.

    ``case`` is what a dataset knows of it; its ``annotated`` structures are the reviewed ones. ``image_hash`` tells
    whether two cases have the same scan, ``content_hash`` what was learned from (``content_hash.py``). ``created`` and
    ``removed`` ('' while it is not) are times in UTC. ``prediction`` is the label map the correction started from,
    ``effort`` what it took to correct that (None: not measured, ``effort_curve.py`` does).
    """

    case: Case
    number: int
    created: str
    image_hash: str
    content_hash: str
    corrected_from: ModelReference | None = None
    prediction: Path | None = None
    notes: str = ""
    removed: str = ""
    restored_from: int | None = None
    effort: CaseEffort | None = None

    @staticmethod
    def of(case: Case, folder: Path) -> Revision:
        """Read what a case of the project in ``folder`` (absolute) says of itself; raises DatasetError."""
        extra = case.extra
        try:
            model, prediction = extra.get("corrected_from"), extra.get("prediction")
            texts = [extra.get(key, "") for key in ("created", "image_hash", "content_hash", "notes", "removed")]
            number, restored_from = extra["revision"], extra.get("restored_from")
            if not all(isinstance(text, str) for text in texts) or not texts[1] or not texts[2]:
                raise TypeError("hashes, times and notes must be text")
            if type(number) is not int or number < 1:
                raise TypeError(f"'revision' is {number!r}")
            return Revision(
                case=replace(case, extra={key: value for key, value in extra.items() if key not in _CASE_KEYS}),
                number=number,
                created=texts[0],
                image_hash=texts[1],
                content_hash=texts[2],
                corrected_from=None
                if model is None
                else ModelReference(str(model["model"]), str(model.get("version", ""))),
                prediction=None if prediction is None else folder / str(prediction),
                notes=texts[3],
                removed=texts[4],
                restored_from=None if restored_from is None else int(restored_from),
                effort=_effort_of(extra.get("effort"), texts[2], case.annotated),
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise DatasetError(f"Case {case.id} of {folder} is no revision of a corrected case: {error}.") from error

    def to_json(self) -> dict[str, Any]:
        """Return what a program is told of a revision; paths are absolute."""
        case, model = self.case, self.corrected_from
        return {
            "id": case.id,
            "revision": self.number,
            "state": "removed" if self.removed else "in use",
            "reviewed": list(case.annotated),
            "group": case.group,
            "created": self.created,
            "removed": self.removed or None,
            "model": None if model is None else {"name": model.name, "version": model.version},
            "image": str(case.image),
            "labels": str(case.labels),
            "judged": None if case.judged is None else str(case.judged),
            "prediction": None if self.prediction is None else str(self.prediction),
            "notes": self.notes,
            "restored_from": self.restored_from,
            "image_hash": self.image_hash,
            "content_hash": self.content_hash,
            "effort": None if self.effort is None else self.effort.to_json(),
        }

    def to_case(self, folder: Path) -> Case:
        """Return the case with everything of the revision in its ``extra``; what others put there is kept."""
        model = self.corrected_from
        values = (
            None if self.prediction is None else portable_path(self.prediction, folder),
            self.number,
            self.created,
            None if model is None else {"model": model.name, "version": model.version},
            self.notes or None,
            self.removed or None,
            self.restored_from,
            self.image_hash,
            self.content_hash,
            None if self.effort is None else {"content_hash": self.content_hash, **self.effort.to_json()},
        )
        own = {key: value for key, value in zip(_CASE_KEYS, values, strict=True) if value is not None}
        return replace(self.case, extra=own | self.case.extra)

    def files(self) -> tuple[Path, ...]:
        """Return every file of the revision."""
        found = (self.case.image, self.case.labels, self.case.judged, self.prediction)
        return tuple(path for path in found if path is not None)


def _effort_of(entry: Any, content_hash: str, annotated: tuple[str, ...]) -> CaseEffort | None:
    """Return the effort kept with a revision, None for that of another one.

    A version that does not know of effort carries it along when it changes the label map or the reviewed structures.
    """
    if not isinstance(entry, dict) or entry.get("content_hash") != content_hash:
        return None
    effort = CaseEffort.from_json(entry)
    return effort if effort is not None and set(effort.structures) == set(annotated) else None


@dataclass(frozen=True)
class RetiredStructure:
    """A structure the project had once; its value is never given to another one.

    ``merged_into`` names the structure it became a part of, '' when it was dropped.
    """

    structure: Structure
    merged_into: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return self.structure.to_json() | ({"merged_into": self.merged_into} if self.merged_into else {})

    @staticmethod
    def from_json(entry: Any) -> RetiredStructure:
        """Read a description written by ``to_json``; raises TransferSegError when it is not one."""
        return RetiredStructure(Structure.from_json(entry), str(entry.get("merged_into", "")))


@dataclass(frozen=True)
class ProjectState:
    """Everything in a project's ``dataset.json``; ``dataset`` holds the facts of the dataset, not its cases."""

    dataset: Dataset
    current: tuple[Revision, ...] = ()
    earlier: tuple[Revision, ...] = ()
    removed: tuple[Revision, ...] = ()
    retired: tuple[RetiredStructure, ...] = ()
    next_case: int = 1
    settings: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def folder(self) -> Path:
        """The project's folder."""
        return self.dataset.folder

    @property
    def label_set(self) -> LabelSet:
        """The structures of the project."""
        return self.dataset.label_set

    @property
    def every_revision(self) -> tuple[Revision, ...]:
        """Every revision there is, of removed cases too."""
        return (*self.current, *self.removed, *self.earlier)

    @property
    def every_structure(self) -> LabelSet:
        """The structures of the project, then those it had once."""
        return LabelSet((*self.label_set, *(retired.structure for retired in self.retired)))

    def of_case(self, case_id: str) -> tuple[Revision, ...]:
        """Return the revisions of a case, the latest last; raises DatasetError naming the cases there are."""
        found = sorted((r for r in self.every_revision if r.case.id == case_id), key=lambda revision: revision.number)
        if not found:
            known = ", ".join(revision.case.id for revision in (*self.current, *self.removed))
            raise DatasetError(
                f"The project in {self.folder} has no case '{case_id}'."
                + (f" Its cases are: {known}." if known else " It has no cases yet.")
            )
        return tuple(found)

    def latest(self, case_id: str) -> Revision:
        """Return the latest revision of a case, removed or not; raises DatasetError."""
        return self.of_case(case_id)[-1]

    def latest_of_scan(self, image_hash: str) -> Revision | None:
        """Return the latest revision of the case with a scan, removed or not; None when there is no such case."""
        same = next((one.case.id for one in self.every_revision if one.image_hash == image_hash), None)
        return None if same is None else self.latest(same)

    def with_revision(self, revision: Revision) -> ProjectState:
        """Return the state in which this is the current revision of its case, and the one before an earlier one."""
        place = [old.case.id for old in self.current]
        before = tuple(replace(old, removed="") for old in self.removed if old.case.id == revision.case.id)
        removed = tuple(old for old in self.removed if old.case.id != revision.case.id)
        if revision.case.id in place:
            index = place.index(revision.case.id)
            before = (self.current[index],)
            current = (*self.current[:index], revision, *self.current[index + 1 :])
        else:
            current = (*self.current, revision)
        return replace(self, current=current, removed=removed, earlier=(*self.earlier, *before))

    def with_structures_of(self, names: Iterable[str]) -> ProjectState:
        """Return the state in which these structures, current or retired, belong to the project (again)."""
        keys = {structure_key(name) for name in names}
        wanted = [retired for retired in self.retired if retired.structure.key in keys]
        label_set = LabelSet((*self.label_set, *(retired.structure for retired in wanted)))
        retired = tuple(retired for retired in self.retired if retired not in wanted)
        return replace(self, dataset=replace(self.dataset, label_set=label_set), retired=retired)

    def to_dataset(self) -> Dataset:
        """Return the dataset that is written: the current cases, all else in its ``extra``."""
        own = {_OWN: {**self.settings, "version": CORRECTIONS_VERSION, "next_case": self.next_case}}
        others = {key: value for key, value in self.dataset.extra.items() if key != _OWN}
        lists = {
            _EARLIER: [case_to_json(revision.to_case(self.folder), self.folder) for revision in self.earlier],
            _REMOVED: [case_to_json(revision.to_case(self.folder), self.folder) for revision in self.removed],
            _RETIRED: [retired.to_json() for retired in self.retired],
        }
        cases = tuple(revision.to_case(self.folder) for revision in self.current)
        return replace(self.dataset, cases=cases, extra={**own, **others, **lists})


def read_state(file: Path) -> ProjectState:
    """Read the state of a project from its ``dataset.json``; raises DatasetError when it is none, or a newer one."""
    dataset = read_dataset(file)
    own = dataset.extra.get(_OWN)
    if not isinstance(own, dict):
        raise DatasetError(
            f"{dataset.folder} holds a dataset that is no project of corrected cases. Choose another folder; the "
            "dataset's cases can be added to a project there."
        )
    version = own.get("version")
    if type(version) is not int or version > CORRECTIONS_VERSION:
        raise DatasetError(f"The project in {dataset.folder} was written by a newer TransferSeg: update TransferSeg.")
    try:
        retired = tuple(RetiredStructure.from_json(entry) for entry in dataset.extra.get(_RETIRED, []))
        every_structure = LabelSet((*dataset.label_set, *(one.structure for one in retired)))
        earlier, removed = (
            tuple(
                Revision.of(case_from_json(entry, dataset.folder, every_structure), dataset.folder)
                for entry in dataset.extra.get(key, [])
            )
            for key in (_EARLIER, _REMOVED)
        )
        return ProjectState(
            dataset=replace(dataset, cases=()),
            current=tuple(Revision.of(case, dataset.folder) for case in dataset.cases),
            earlier=earlier,
            removed=removed,
            retired=retired,
            next_case=int(own.get("next_case", 1)),
            settings=own,
        )
    except (TransferSegError, TypeError, ValueError) as error:
        raise DatasetError(f"{file} is not a project this version can use: {error}") from error


def earlier_hashes(dataset: Dataset) -> dict[str, frozenset[str]]:
    """Return the content hashes of the earlier revisions of a project's cases by the id of the case."""
    found: dict[str, set[str]] = {}
    entries = dataset.extra.get(_EARLIER, [])
    for entry in entries if isinstance(entries, list) else []:
        if isinstance(entry, dict) and isinstance(entry.get("content_hash"), str):
            found.setdefault(str(entry.get("id")), set()).add(entry["content_hash"])
    return {case: frozenset(hashes) for case, hashes in found.items()}


def now_utc() -> str:
    """Return the time in UTC to the second, e.g. '2026-01-31T12:00:00Z'."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
