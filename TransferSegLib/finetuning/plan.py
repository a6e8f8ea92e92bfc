"""The plan of a fine-tuning, from a request, its project and its parent: settings, cases, structures, names."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from TransferSegLib.corrections.content_hash import hash_case
from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.errors import naming_case
from TransferSegLib.finetuning.blending import default_share
from TransferSegLib.finetuning.cases import (
    Survey,
    axes_notes,
    chosen_cases,
    learnable_part,
    read_corrected_cases,
    survey_cases,
    with_modality,
)
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.continuation import for_continuation
from TransferSegLib.finetuning.folds import unevaluated_structures
from TransferSegLib.finetuning.label_change import LabelChange, plan_label_change
from TransferSegLib.finetuning.own_grid import with_own_grid
from TransferSegLib.finetuning.parent_model import gets_version, library_of, load_parent, model_name
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.strategies import FINETUNE, VANILLA
from TransferSegLib.images.intensity import CT_WINDOW, MR_PERCENTILES
from TransferSegLib.images.modality import modality_word
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription, Provenance
from TransferSegLib.models.leaving import plain_command
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, check_weights, load_description
from TransferSegLib.models.versions.record import ModelReference
from TransferSegLib.progress import Task
from TransferSegLib.structures import structure_key
from TransferSegLib.version import code_version

#: Raised when a run that was begun by an older version cannot be resumed.
_IDENTITY_VERSION = 4
#: How the note begins that a plan with little time has made training patches smaller.
_SMALL_PATCHES = "Training patches had only"


@dataclass(frozen=True, eq=False)
class FineTuningPlan:
    """What one fine-tuning does; ``dataset`` holds the cases with a reviewed structure, and only what is learned.

    ``configuration`` has the settings and ``change`` what happens to the parent's structures. ``hashes`` gives the
    content hash of every case, ``survey`` what is drawn in it. ``name`` is the model in ``library`` that gets the new
    version.
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
    def inits_from_data(self) -> bool:
        """Whether the heads of new structures are fitted to the cases before training."""
        settings = self.configuration
        return bool(self.change.fresh_channels) and settings.inits_from_data

    @property
    def needs_features(self) -> bool:
        """Whether features of the frozen part are cached."""
        return self.inits_from_data or self.configuration.has_tail_stage

    @property
    def parent_shares(self) -> tuple[float, ...]:
        """The parent's shares of the weights that are compared on held-out cases, the default first.

        Weights can be blended where all structures, and how scans are prepared, are the parent's. What one patient's
        slabs say of the same patient cannot decide between them.
        """
        settings, parent = self.configuration, self.parent.description
        is_same = not self.change.fresh_channels and settings.preparation(parent) == parent.preparation
        if not (settings.blend and settings.way.from_parent and is_same):
            return (0.0,)
        share = default_share(self.patients)
        return (share,) if self.patients < 2 else (share, 0.0)

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

    def with_tail_only(self) -> FineTuningPlan:
        """Return the same with nothing but the last layers to train, and a note on it."""
        no_longer_true = ("('vanilla')", _SMALL_PATCHES)
        notes = tuple(note for note in self.notes if not any(text in note for text in no_longer_true))
        note = "There was time for the last layers only: with more minutes all layers are trained, and more is learned."
        if note not in notes:
            notes = (*notes, note)
        settings = replace(self.configuration, strategy=FINETUNE, steps=0, tail_minutes_share=1.0)
        return replace(self, configuration=settings, notes=notes)

    @property
    def smaller_sides(self) -> tuple[int, ...]:
        """Sides that training patches may have where there is little time, falling; none if one was asked for.

        For new structures only: what the parent knows, it knows with the context of its own patches. Only where all
        layers are trained at once: where the last layers are trained first, they alone are a better way to save time.
        Networks that predict in windows of their training patch keep to it.
        """
        tiling, asked = self.parent.description.backbone.tiling, self.request.configuration.patch
        is_possible = tiling.blend == "exact" and asked == FineTuningConfiguration.patch
        if not (self.fresh and is_possible) or self.configuration.has_tail_stage:
            return ()
        step = max(tiling.multiple_zyx)
        smallest = max(*tiling.smallest_zyx, 4 * self.configuration.frame)  # the frame is at most a quarter of a side
        return tuple(range(self.configuration.patch - step, smallest - 1, -step))

    def with_smaller_patch(self, side: int) -> FineTuningPlan:
        """Return the same with smaller training patches, and a note on it."""
        notes = tuple(note for note in self.notes if _SMALL_PATCHES not in note)  # of an earlier plan of the same run
        note = f"{_SMALL_PATCHES} {side} voxels a side, so that there was time for more steps."
        return replace(self, configuration=replace(self.configuration, patch=side), notes=(*notes, note))

    @property
    def unevaluated_note(self) -> tuple[str, ...]:
        """A sentence on the new structures that cannot be evaluated, none where all can."""
        names = unevaluated_structures(self.dataset, self.drawn, self.fresh)
        if not names:
            return ()
        return (
            f"Nothing can be said of {', '.join(names)} in other patients, because one patient alone has it "
            "drawn: it is learned, but not tested. Draw it in a second patient.",
        )

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
            **({"until converged": True} if self.request.until_converged else {}),
            "most folds": self.request.most_folds,
            "tolerance mm": float(self.request.tolerance_mm),
            "device": self.request.device,
        }

    def describe(self, metrics: dict[str, Any] | None = None, single_part: tuple[str, ...] = ()) -> ModelDescription:
        """Return the candidate's description; licence, citation and training data are the parent's until it is kept.

        ``single_part`` names further structures of which only the largest part is kept.
        """
        settings, parent, names = self.configuration, self.parent.description, self.change.label_set.names
        scratch = not settings.way.from_parent
        licence = f"of the cases it was trained on: {self.dataset.license or 'not stated'}"
        return ModelDescription(
            name=self.name,
            version="0",
            label_set=self.change.label_set,
            preparation=settings.preparation(parent),
            spacing_inferred=parent.spacing_inferred and settings.own_spacing_mm is None,
            network=settings.network(parent.network, self.change.label_set.classes),
            modality=self.dataset.modality or parent.modality,
            summary=f"{', '.join(names)} ({self.dataset.modality or parent.modality})",
            license=licence if scratch else parent.license,
            training_data=parent.training_data,
            citation=parent.citation,
            metrics=metrics or {},
            provenance=Provenance(
                command=plain_command(self.request.command),
                seed=settings.seed,
                code_version=code_version(),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                configuration=settings.to_json() | {"minutes": self.request.minutes},
            ),
            single_part=(*self._single_part_of_parent, *single_part),
        )

    @property
    def _single_part_of_parent(self) -> tuple[str, ...]:
        """Structures of which the parent keeps the largest part only, by their names in the new version."""
        change, rule = self.change, {structure_key(name) for name in self.parent.description.single_part}
        every = zip(change.label_set.names, change.sources, change.fates, strict=True)
        return tuple(
            name for name, sources, fate in every if fate in ("kept", "renamed") and structure_key(sources[0]) in rule
        )


def plan_fine_tuning(request: FineTuneRequest, task: Task | None = None, kept: Dataset | None = None) -> FineTuningPlan:
    """Read project and parent and return what is to be done, before anything takes long.

    ``kept`` are the cases of a plan that was made before, with their modality: the project may have changed since.
    Raises DatasetError for a project without usable cases, ModelError for a parent or a name that cannot be used,
    TrainingError for structures that do not fit, and Cancelled.
    """
    task = task or Task()
    library = library_of(request)
    parent_path = find_model(request.model, request.library)
    load_description(parent_path).check_single_structures("Fine-tuning")
    name = model_name(request, parent_path, library)
    if kept is None:
        dataset, notes = chosen_cases(read_corrected_cases(request.project), request)
        dataset = with_modality(dataset, request, task)
    else:
        dataset, notes = kept, ()
    parent, reference = load_parent(parent_path)
    survey = survey_cases(dataset, task)
    renewed = {*request.renamed, *request.merged, *request.split}
    dataset, more_notes = learnable_part(dataset, survey, parent.description, renewed)
    notes += (*more_notes, *axes_notes(survey, parent.description))
    own_versions = gets_version(parent_path, name, library)
    dropped, more_notes = dropped_structures(request, dataset, parent.description, own_versions)
    notes += more_notes
    change = plan_label_change(
        parent.description.label_set, dataset.label_set, request.renamed, request.merged, request.split, dropped
    )
    settings = request.configuration.ended_by(request.minutes)
    configuration, more_notes = for_modality(settings, dataset.modality, parent.description)
    notes += more_notes
    surveys = [survey[id] for id in dataset.ids]
    drawn = [one for one in dataset.label_set.names if any(one in case.drawn for case in surveys)]
    configuration, more_notes = with_own_grid(configuration, surveys, drawn, change, parent.description)
    notes += more_notes
    configuration, more_notes = for_continuation(configuration, change, parent.description, dataset.label_set.names)
    notes += more_notes
    hashes = {}
    for case in dataset.cases:
        known_hash = case.extra.get("content_hash")
        with naming_case(case.id):
            hashes[case.id] = known_hash if isinstance(known_hash, str) else hash_case(case, dataset.label_set, task)
    return FineTuningPlan(
        request,
        dataset,
        hashes,
        parent,
        parent_path,
        reference,
        change,
        configuration.for_change(parent.description, bool(change.fresh_channels)),
        library,
        name,
        notes,
        {id: replace(one, masks={}) for id, one in survey.items()},  # they have served
    )


def check_request(request: FineTuneRequest) -> str:
    """Return the name of the model that will get a version, after all checks that need neither torch nor time.

    Raises what ``plan_fine_tuning`` raises for a project or a name that cannot be used.
    """
    library = library_of(request)
    parent_path = find_model(request.model, request.library)
    check_weights(parent_path)
    dataset, _ = chosen_cases(read_corrected_cases(request.project), request)
    parent = load_description(parent_path).label_set
    dropped = request.dropped or ()
    plan_label_change(parent, dataset.label_set, request.renamed, request.merged, request.split, dropped)
    return model_name(request, parent_path, library)


def dropped_structures(
    request: FineTuneRequest, dataset: Dataset, parent: ModelDescription, is_next_version: bool
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the parent's structures that the new version lets go, and a note where that was not asked for.

    On another modality the parent's answers mean nothing, so what nobody reviewed there cannot be kept by them. Still,
    ``is_next_version`` of the parent itself keeps all: it may be used where the parent was.
    """
    if request.dropped is not None:
        return request.dropped, ()
    kind, known = modality_word(dataset.modality), modality_word(parent.modality)
    changed = request.renamed or request.merged or request.split
    reviewed = any(parent.label_set.find(name) is not None for name in dataset.label_set.names)
    if not (kind and known) or kind == known or changed or reviewed or is_next_version:
        return (), ()
    return parent.label_set.names, (
        f"The cases are {kind}, the parent knows {known}, and none of its structures was reviewed: the new version "
        "lets them go. To keep them: --keep-all on the command line.",
    )


def is_another_modality(modality: str, parent: ModelDescription, preparation: Preparation) -> bool:
    """Tell whether cases look different from what the parent learned from.

    ``modality`` is the cases', ``preparation`` how their scans are prepared: where one of the modalities is not
    named, intensity rules that are not the parent's tell.
    """
    if modality and parent.modality:
        return modality_word(modality) != modality_word(parent.modality)
    return preparation.channels != parent.preparation.channels


def default_strategy(other_modality: bool) -> str:
    """Return the default strategy: all layers at once on another modality (docs/study.md)."""
    return VANILLA if other_modality else FINETUNE


def for_modality(
    configuration: FineTuningConfiguration, modality: str, parent: ModelDescription
) -> tuple[FineTuningConfiguration, tuple[str, ...]]:
    """Return the settings for cases of a modality, and notes for a person where these are not those asked for.

    Where a ``head_start`` was chosen, ``finetune`` stays.
    """
    notes: tuple[str, ...] = ()
    kind, known = modality_word(modality), modality_word(parent.modality)
    if kind and known and kind != known and configuration.intensity is None:
        configuration = replace(configuration, intensity=CT_WINDOW if kind == "CT" else MR_PERCENTILES)
        notes += (
            f"The cases are {kind}, the parent knows {known}: intensities are prepared as usual for {kind}. If that is "
            "not right, name their modality (--modality on the command line).",
        )
    if not is_another_modality(modality, parent, configuration.preparation(parent)):
        return configuration, notes
    if configuration.vanilla_rate == FineTuningConfiguration.vanilla_rate:
        configuration = replace(configuration, vanilla_rate=configuration.new_rate)
    if configuration.strategy == FINETUNE and configuration.head_start == "auto":
        configuration = replace(configuration, strategy=default_strategy(other_modality=True))
        notes += (
            "Because the modality (or how intensities are prepared) is another one, all layers learn at once "
            "('vanilla'): in our study that was better on one of two tasks and as good on the other. With the strategy "
            "'auto' your own cases decide.",
        )
    return configuration, notes
