"""What a request comes down to when its project and its parent are read: cases, structures, the name of the result."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import SimpleITK as sitk

from TransferSegLib.corrections.content_hash import hash_case
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import Dataset, read_dataset
from TransferSegLib.errors import DatasetError, ModelError, ScanError, TrainingError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.label_change import LabelChange, plan_label_change
from TransferSegLib.finetuning.modality import for_modality
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.survey import Survey, learnable_part, survey_cases
from TransferSegLib.images.modality import guess_modality, modality_word
from TransferSegLib.images.read import read_scan
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.incoming import check_name
from TransferSegLib.models.leaving import plain_command
from TransferSegLib.models.locate import find_bundled_model, find_library_model, find_model, library_folder
from TransferSegLib.models.store import Model, check_weights, load_description, load_model
from TransferSegLib.models.versions.record import ModelReference
from TransferSegLib.models.versions.state import split_version
from TransferSegLib.progress import CancelToken, Task
from TransferSegLib.version import code_version

#: Raised when a run that was begun by an older version cannot be gone on with.
_IDENTITY_VERSION = 2
#: So many scans tell the modality of all where it is not named.
_LOOKED_AT = 3


@dataclass(frozen=True, eq=False)
class FineTuningPlan:
    """A fine-tuning about to begin: ``dataset`` holds the cases with a reviewed structure, and only what is learned.

    ``hashes`` gives the content hash of every case; ``name`` is the model in ``library`` that gets the new version.
    ``survey`` says what is drawn in each case.
    """

    request: FineTuneRequest
    dataset: Dataset
    hashes: dict[str, str]
    parent: Model
    parent_path: Path
    reference: ModelReference
    change: LabelChange
    configuration: FineTuningConfiguration
    library: Path
    name: str
    notes: tuple[str, ...]
    survey: Survey

    @property
    def fresh(self) -> tuple[str, ...]:
        """The structures whose channels have no predecessor in the parent."""
        return tuple(self.change.label_set.names[channel - 1] for channel in self.change.fresh_channels)

    @property
    def drawn(self) -> dict[str, tuple[str, ...]]:
        """The structures to learn that have a voxel in each case, by their names in the new model."""
        found = {id: map(self.change.label_set.find, self.survey[id].drawn) for id in self.dataset.ids}
        return {id: tuple(one.name for one in structures if one is not None) for id, structures in found.items()}

    @property
    def groups(self) -> dict[str, str]:
        """The patient of every case."""
        return {case.id: case.group for case in self.dataset.cases}

    @property
    def patients(self) -> int:
        """How many patients the cases are of."""
        return len(set(self.groups.values()))

    def by_strategy(self, strategy: str) -> FineTuningPlan:
        """Return the same with another strategy."""
        return replace(self, configuration=replace(self.configuration, strategy=strategy))

    def identity(self) -> dict[str, Any]:
        """Return everything that decides the result."""
        cases = [[case.id, case.group, self.hashes[case.id], list(case.annotated)] for case in self.dataset.cases]
        return {
            "version": _IDENTITY_VERSION,
            "cases": cases,
            "parent": self.reference.sha256,
            "structures": [
                [name, list(sources)]
                for name, sources in zip(self.change.label_set.names, self.change.sources, strict=True)
            ],
            "dataset structures": self.dataset.label_set.to_json(),
            "configuration": self.configuration.to_json(),
            "minutes": float(self.request.minutes),
            "most folds": self.request.most_folds,
            "tolerance mm": float(self.request.tolerance_mm),
            "device": self.request.device,
        }

    def describe(self, metrics: dict[str, Any] | None = None, single_part: tuple[str, ...] = ()) -> ModelDescription:
        """Return the candidate's description; licence, citation and training data are the parent's until it is kept.

        ``single_part`` names further structures of which only the largest part is kept.
        """
        knobs, parent, names = self.configuration, self.parent.description, self.change.label_set.names
        scratch = knobs.strategy == "scratch"
        licence = f"of the cases it was trained on: {self.dataset.license or 'not stated'}"
        return ModelDescription(
            name=self.name,
            version="0",
            label_set=self.change.label_set,
            preparation=knobs.preparation(parent),
            spacing_inferred=parent.spacing_inferred and knobs.spacing_mm is None,
            network=knobs.network(parent.network, self.change.label_set.classes),
            modality=self.dataset.modality or parent.modality,
            summary=f"{', '.join(names)} ({self.dataset.modality or parent.modality})",
            license=licence if scratch else parent.license,
            training_data=parent.training_data,
            citation=parent.citation,
            metrics=metrics or {},
            provenance=Provenance(
                command=plain_command(self.request.command),
                seed=knobs.seed,
                code_version=code_version(),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                configuration=knobs.to_json() | {"minutes": self.request.minutes},
            ),
            single_part=(*(n for n in parent.single_part if self.change.label_set.find(n) is not None), *single_part),
        )


def plan_fine_tuning(request: FineTuneRequest, cancel: CancelToken | None = None) -> FineTuningPlan:
    """Read project and parent and return what is to be done, before anything takes long.

    Raises DatasetError for a project without usable cases, ModelError for a parent or a name that cannot be used,
    TrainingError for structures that do not fit, and Cancelled.
    """
    library = _library(request)
    parent_path = find_model(request.model, request.library)
    name = model_name(request, parent_path, library)
    whole = read_corrected_cases(request.project)
    dataset, notes = _chosen(whole, request)
    dataset = _with_modality(dataset, request, cancel)
    parent = load_model(parent_path)
    survey = survey_cases(dataset, cancel)
    renewed = {*request.renamed, *request.merged, *request.split}
    dataset, more_notes = learnable_part(dataset, survey, parent.description, renewed)
    notes += more_notes
    change = plan_label_change(
        parent.description.label_set, dataset.label_set, request.renamed, request.merged, request.split, request.dropped
    )
    knobs = replace(request.configuration, minutes=0.0)
    configuration, more_notes = for_modality(knobs, dataset.modality, parent.description)
    notes += more_notes
    hashes = {}
    for case in dataset.cases:
        known_hash = case.extra.get("content_hash")
        try:
            if not isinstance(known_hash, str):
                known_hash = hash_case(case, whole.label_set, Task("", None, cancel))
            hashes[case.id] = known_hash
        except ScanError as error:
            raise DatasetError(f"Case {case.id}: {error}") from error
    return FineTuningPlan(
        request,
        dataset,
        hashes,
        parent,
        parent_path,
        ModelReference.of(parent_path),
        change,
        configuration.for_change(parent.description, bool(change.fresh_channels)),
        library,
        name,
        notes,
        survey,
    )


def _with_modality(dataset: Dataset, request: FineTuneRequest, cancel: CancelToken | None) -> Dataset:
    """Return the dataset with its modality: as asked for, as it says itself, or as its first scans look.

    A project of corrected cases names none where its first case left it in doubt. Raises DatasetError for a scan that
    cannot be read.
    """
    modality = modality_word(request.modality or dataset.modality)
    if not modality:
        looks = set()
        for case in dataset.cases[:_LOOKED_AT]:
            if cancel is not None:
                cancel.check()
            try:
                scan = read_scan(
                    case.image, cancel=cancel
                )  # named, because the view of its voxels does not keep it alive
                looks.add(guess_modality(sitk.GetArrayViewFromImage(scan)))
            except ScanError as error:
                raise DatasetError(f"Case {case.id}: {error}") from error
        modality = looks.pop() if len(looks) == 1 else ""
    return replace(dataset, modality=modality)


def check_request(request: FineTuneRequest) -> str:
    """Return the name of the model that will get a version, after all checks that need neither torch nor time.

    Raises what ``plan_fine_tuning`` raises for a project or a name that cannot be used.
    """
    library = _library(request)
    parent_path = find_model(request.model, request.library)
    check_weights(parent_path)
    dataset, _ = _chosen(read_corrected_cases(request.project), request)
    parent = load_description(parent_path).label_set
    plan_label_change(parent, dataset.label_set, request.renamed, request.merged, request.split, request.dropped)
    return model_name(request, parent_path, library)


def _library(request: FineTuneRequest) -> Path:
    """Return the folder that gets the version; raises ModelError when it is none, before anything takes long."""
    library = library_folder() if request.library is None else request.library
    if library.exists() and not library.is_dir():
        raise ModelError(f"{library} is a file, so no model can be kept in it: name a folder for your models.")
    return library


def read_corrected_cases(folder: Path) -> Dataset:
    """Return the cases of a project, or of a plain dataset in the same format; raises DatasetError."""
    try:
        dataset = read_dataset(folder)
    except DatasetError:
        return Project(folder).dataset()  # which knows more about what is wrong, and about backups
    return Project(folder).dataset() if "corrections" in dataset.extra else dataset


def model_name(request: FineTuneRequest, parent_path: Path, library: Path) -> str:
    """Return the name of the model that gets the version: the one asked for, else that of a parent in the library.

    A bundled model's name cannot be taken: its child is called NAME-corrected. Raises ModelError for a name that
    cannot be one.
    """
    name = request.name
    if name is None:
        asked = "" if request.model is None else request.model
        split = split_version(asked)
        found = None
        for wanted in (asked, split[0] if split else ""):
            if found is None and wanted and find_bundled_model(wanted) is None:
                found = find_library_model(wanted, library)
        name = found.stem if found is not None and found.is_file() else found.name if found is not None else None
    if name is None:
        name = f"{ModelReference.of(parent_path).name}-corrected"
    check_name(name)
    if find_bundled_model(name) is not None:
        raise ModelError(f"'{name}' comes with TransferSeg and stays as it is: give the new model another --name.")
    return name


def _chosen(dataset: Dataset, request: FineTuneRequest) -> tuple[Dataset, tuple[str, ...]]:
    """Return the cases in which a structure to learn was reviewed, with only those structures, and notes."""
    place = request.project
    if not dataset.cases:
        raise DatasetError(f"There is no corrected case in {place} yet: add one with: transferseg cases add")
    dataset, notes = _with_wanted_cases(dataset, request)
    if request.structures is not None:
        unknown = [name for name in request.structures if dataset.label_set.find(name) is None]
        if unknown:
            raise TrainingError(
                f"The cases in {place} have no structure {', '.join(unknown)}. They have: "
                f"{', '.join(dataset.label_set.names)}."
            )
    wanted = dataset.label_set if request.structures is None else dataset.label_set.select(request.structures)
    cases = []
    for case in dataset.cases:
        annotated = tuple(name for name in case.annotated if wanted.find(name) is not None)
        if annotated:
            cases.append(replace(case, annotated=annotated))
    if not cases:
        what = "structure" if request.structures is None else f"of {', '.join(request.structures)}"
        raise DatasetError(
            f"In no case of {place} a {what} was reviewed, so there is nothing to learn: say which ones are right with "
            "transferseg cases add --reviewed."
        )
    reviewed = {name for case in cases for name in case.annotated}
    label_set = wanted.select(name for name in wanted.names if name in reviewed)
    notes += _left_out_note(len(dataset.cases) - len(cases))
    return replace(dataset, cases=tuple(cases), label_set=label_set), notes


def _with_wanted_cases(dataset: Dataset, request: FineTuneRequest) -> tuple[Dataset, tuple[str, ...]]:
    """Return the dataset with the cases that were asked for, and a note when others are left out."""
    if request.cases is None:
        return dataset, ()
    place, known = request.project, set(dataset.ids)
    missing = [name for name in request.cases if name not in known]
    if missing:
        raise DatasetError(f"There is no case {', '.join(missing)} in {place}. It has: {', '.join(dataset.ids)}.")
    wanted = tuple(case for case in dataset.cases if case.id in request.cases)
    if not wanted:
        raise DatasetError(f"No case of {place} is chosen, so there is nothing to learn: choose at least one.")
    left_out = len(dataset.cases) - len(wanted)
    notes = (f"{len(wanted)} of the {len(dataset.cases)} cases were chosen to learn from.",) if left_out else ()
    return replace(dataset, cases=wanted), notes


def _left_out_note(count: int) -> tuple[str, ...]:
    """Return what is said of cases that are not used."""
    if not count:
        return ()
    return (f"{count} case{' is' if count == 1 else 's are'} not used: nothing that is to be learned was reviewed.",)
