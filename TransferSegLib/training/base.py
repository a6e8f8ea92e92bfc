"""``train-base``: from a folder of sparsely annotated cases to a base model, resumable at any step.

The output folder holds ``checkpoint.pt`` (to go on from), ``history.jsonl`` (a line per report) and ``model/`` (the
averaged weights with the best validation Dice so far, a complete model at any moment after the first validation).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.datasets.prepared import PreparedCase, prepare_cases
from TransferSegLib.errors import ModelError, TrainingError
from TransferSegLib.evaluation.doubt_counts import calibrate
from TransferSegLib.images.intensity import CT_WINDOW, MR_PERCENTILES, IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.inference.profiling import profile_of_scans
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.description import ModelDescription, Provenance, is_model_name
from TransferSegLib.models.leaving import plain_command
from TransferSegLib.models.store import Model, load_model, save_model, set_doubt, set_profile
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.networks.nnunet.backbone import nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.paths import as_path
from TransferSegLib.progress import CancelToken, ProgressCallback, Task
from TransferSegLib.training.checkpoint import CHECKPOINT, MODEL, write_checkpoint
from TransferSegLib.training.configuration import NETWORK_SETTINGS, NNUNET, TrainingConfiguration
from TransferSegLib.training.loop import Hooks, train
from TransferSegLib.training.patch_objective import PatchObjective
from TransferSegLib.training.patches import PatchSampler
from TransferSegLib.training.processes import Processes, joined
from TransferSegLib.training.saved_run import forget_after, saved_run, split_of, start_name
from TransferSegLib.training.schedule import Schedule
from TransferSegLib.training.trainer import Trainer
from TransferSegLib.training.validation import validate
from TransferSegLib.version import code_version


@dataclass(frozen=True)
class BaseModelPlan:
    """What is trained, on what, and how the model will introduce itself."""

    dataset: Dataset
    output: Path
    configuration: TrainingConfiguration
    name: str
    device: str = "auto"
    intensity: IntensityRule | None = None
    #: Another network than the paper's of the configured width (for as many classes as there are structures), and how
    #: scans are prepared for it.
    network: NetworkSpec | None = None
    prepared_as: Preparation | None = None
    #: A model of the same structures whose weights the training begins with; network and preparation are its own.
    start: Model | None = None
    command: str = "TransferSegLib.training.base.train_base"

    def __post_init__(self) -> None:
        """Take the folder as text and settings as a dictionary, too; raises TrainingError for what is neither."""
        object.__setattr__(self, "output", as_path(self.output, "The folder of the run", TrainingError))
        if isinstance(self.configuration, Mapping):
            settings = TrainingConfiguration.from_json(dict(self.configuration))
            object.__setattr__(self, "configuration", settings)
        if not isinstance(self.configuration, TrainingConfiguration):
            kind = type(self.configuration).__name__
            raise TrainingError(f"The configuration must be a dictionary or a TrainingConfiguration, not {kind}.")
        if not isinstance(self.dataset, Dataset):
            raise TrainingError(
                f"The dataset must be what read_dataset(FOLDER) returns, not {type(self.dataset).__name__}."
            )

    def check(self) -> None:
        """Raise TrainingError for an impossible name, start or patch: hours are at stake."""
        if not is_model_name(self.name):
            raise TrainingError(f"'{self.name}' cannot be a model's name: use letters, digits, spaces and dashes.")
        if self.start is not None:
            self._check_start(self.start)
        try:
            backbone_of(self.spec).training_patch(self.configuration.patch, self.configuration.frame)
        except (ModelError, TrainingError) as error:
            raise TrainingError(f"The training configuration does not work: {error}") from error

    def _check_start(self, start: Model) -> None:
        """Raise TrainingError for a model that this training cannot begin with."""
        known, wanted = start.description.label_set.names, self.dataset.label_set.names
        if known != wanted:
            raise TrainingError(
                f"The model '{start.description.name}' knows {', '.join(known)}; the dataset has {', '.join(wanted)}. "
                "Base training can continue only with the same structures in the same order; fine-tuning adapts a "
                "model to others."
            )
        if start.description.folds != 1:
            raise TrainingError(
                f"The model '{start.description.name}' has {start.description.folds} networks (folds), but base "
                "training continues with one: import a single fold."
            )
        if self.network is not None or self.prepared_as is not None:
            raise TrainingError("Network and preparation are those of the model that the training begins with.")

    @property
    def spec(self) -> NetworkSpec:
        """The network that is trained."""
        if self.start is not None:
            return self.start.description.network
        classes = self.dataset.label_set.classes
        if self.network is not None:
            return self.network.with_classes(classes)
        settings = self.configuration
        if settings.network == NNUNET:
            sides = (settings.patch, settings.patch, settings.patch)
            return nnunet_spec(UNetPlan.plain(settings.width, settings.levels, sides), 1, classes)
        return unet_valid_spec(width=settings.width, classes=classes)

    @property
    def preparation(self) -> Preparation:
        """The grid of the configuration, with the rule for intensities; those of the model begun with, if any."""
        if self.start is not None:
            return self.start.description.preparation
        if self.prepared_as is not None:
            return self.prepared_as
        return Preparation(self.configuration.spacing_zyx_mm, (self.intensity_rule(),))

    def intensity_rule(self) -> IntensityRule:
        """Return the rule chosen, else the usual one of the modality: a window for CT, else percentiles."""
        if self.intensity is not None:
            return self.intensity
        return CT_WINDOW if self.dataset.modality.upper() == "CT" else MR_PERCENTILES


def train_base(
    plan: BaseModelPlan,
    resume: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Path:
    """Train a base model and return the folder of the model.

    With ``resume`` an interrupted run goes on from its checkpoint and ends as if it had not been interrupted. When
    cancelled, a checkpoint is written before Cancelled is raised. Raises TrainingError, DatasetError, DeviceError.

    Called in each process that torchrun started, they train together (``processes.py``): to the same weights up to
    rounding, however many they are, also when a run is resumed. The first one writes the folder.
    """
    plan.check()
    with joined(plan.device) as processes:
        return _train_together(plan, processes, resume, progress if processes.is_first else None, cancel)


def _train_together(
    plan: BaseModelPlan,
    processes: Processes,
    resume: bool,
    progress: ProgressCallback | None,
    cancel: CancelToken | None,
) -> Path:
    """Train with the processes that there are."""
    processes.check_batch(plan.configuration.batch)
    same = (plan.configuration.to_json(), plan.dataset.ids, start_name(plan))
    processes.check_same(same, "settings, cases or a model to begin with")
    saved = processes.first_does(lambda: saved_run(plan, resume))
    training_ids, validation_ids = split_of(plan, saved)
    device = _device(plan, processes, saved)
    cases = prepare_cases(plan.dataset, plan.dataset.label_set, plan.preparation, Task("", progress, cancel))
    training = [case for case in cases if case.id in set(training_ids)]
    validation = [case for case in cases if case.id in set(validation_ids)]
    settings, backbone = plan.configuration, backbone_of(plan.spec)
    network = backbone.build()
    backbone.initialise(network, settings.seed)
    if plan.start is not None:
        network.load_state_dict(plan.start.state_dict)
    patch = backbone.training_patch(settings.patch, settings.frame)
    sampler = PatchSampler(training, plan.dataset.label_set.mirrored_channels(), patch, settings)
    objective = PatchObjective(
        network, backbone, sampler, device, settings.batch, deep_supervision=settings.deep_supervision
    )
    trainer = Trainer(objective, settings, device, processes)
    run = _Run(plan, trainer, training_ids, validation, device, cancel)
    if saved is not None:
        trainer.restore(saved["trainer"])
        run.best, run.validated = dict(saved["best"]), int(saved["validated"])
    if saved is not None and processes.is_first:
        forget_after(plan.output / "history.jsonl", trainer.step)
    run.train(Task("training", progress, cancel, "training"))

    def describe() -> None:
        _add_profile(plan, training_ids, Task("", progress, cancel))
        _add_doubt(plan, validation, device, cancel)

    processes.first_does(describe)
    return plan.output / MODEL


def _device(plan: BaseModelPlan, processes: Processes, saved: dict[str, Any] | None) -> Device:
    """Return the device of this process, in the precision of the run.

    A resumed run keeps its precision: which one is faster is measured, and need not come out the same again. Several
    processes compute in the one that the first has measured.
    """
    name = processes.device(plan.device)
    wanted = None if saved is None else getattr(torch, saved["precision"])
    if processes.is_first:
        device = choose_device(name, wanted)
    precision = processes.first_does(lambda: str(device.dtype).removeprefix("torch."))
    return device if processes.is_first else choose_device(name, getattr(torch, precision))


def _add_profile(plan: BaseModelPlan, training_ids: Sequence[str], task: Task) -> None:
    """Store in the model what the fit of scans will be judged by: statistics of its training cases."""
    folder = plan.output / MODEL
    segmenter = Segmenter(load_model(folder), plan.device)
    cases = plan.dataset.select(list(training_ids)).cases
    scans = [partial(read_scan, case.image) for case in cases]
    set_profile(folder, profile_of_scans(segmenter, scans, task))


def _add_doubt(plan: BaseModelPlan, validation: list[PreparedCase], device: Device, cancel: CancelToken | None) -> None:
    """Store in the model how often it is wrong by its margin on the validation cases."""
    folder = plan.output / MODEL
    set_doubt(folder, calibrate(load_model(folder), validation, device, cancel))


class _Run:
    """One training run: steps, reports, checkpoints, validation and the model kept so far."""

    def __init__(
        self,
        plan: BaseModelPlan,
        trainer: Trainer,
        training_ids: Sequence[str],
        validation: list[PreparedCase],
        device: Device,
        cancel: CancelToken | None,
    ) -> None:
        """Set up a run that has not validated yet."""
        self.best: dict[str, Any] = {"step": 0, "mean": -1.0, "dice": {}}
        #: A model that the training begins with is validated first: only what is better than it counts.
        self.validated = 0 if plan.start is None else -1
        self._plan = plan
        self._trainer = trainer
        self._training_ids = list(training_ids)
        self._validation = validation
        self._device = device
        self._cancel = cancel

    def train(self, task: Task) -> None:
        """Train to the last step; whatever stops it, a checkpoint is left behind."""
        settings = self._plan.configuration
        schedule = Schedule(settings.steps, settings.learning_rate, settings.warm_up, decay_from=settings.decay_from)
        hooks = Hooks(
            self._checkpoint, settings.checkpoint_every, self._append, self._validate_when_due, self._best_dice
        )
        train(self._trainer, schedule, hooks, task)
        self._trainer.processes.first_does(self._checkpoint)

    def _best_dice(self) -> float | None:
        """Return the best mean Dice on the validation cases so far, None before there is one."""
        return float(self.best["mean"]) if self._validation and self.best["mean"] >= 0 else None

    def _append(self, line: dict[str, Any]) -> None:
        with (self._plan.output / "history.jsonl").open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(line | {"time": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")

    def _validate_when_due(self, step: int, is_last: bool) -> bool:
        """Validate every ``validate_every`` steps and after the last, unless a run that was stopped did so already."""
        due = is_last or step % self._plan.configuration.validate_every == 0
        if due and self.validated < step:
            if not (self._plan.output / CHECKPOINT).exists():
                self._checkpoint()  # a model that is there without one is taken for that of another training
            self._validate()
            self.validated = step
        return False

    def _validate(self) -> None:
        """Validate the averaged weights and keep them as the model when they are the best so far."""
        state = self._trainer.averaged_state()
        if not self._validation:
            self.best = {"step": self._trainer.step, "mean": 0.0, "dice": {}}
            self._save(state)
            return
        with self._trainer.averaged() as network:
            backbone, label_set = backbone_of(self._plan.spec), self._plan.dataset.label_set
            scores = validate(network, backbone, self._validation, label_set, self._device.dtype, self._cancel)
        mean = float(np.mean(list(scores.values()))) if scores else 0.0
        self._append({"step": self._trainer.step, "validation_dice": scores, "mean": mean})
        if mean > self.best["mean"]:
            self.best = {"step": self._trainer.step, "mean": mean, "dice": scores}
            self._save(state)

    def _save(self, state: dict[str, torch.Tensor]) -> None:
        """Write the model folder, replacing the one kept before."""
        save_model(self._plan.output / MODEL, self._description(), state, overwrite=True)

    def _description(self) -> ModelDescription:
        dataset, configuration = self._plan.dataset, self._plan.configuration
        told = configuration.to_json()
        if self._plan.start is not None:  # its network and grid are not those of the settings
            told = {name: value for name, value in told.items() if name not in NETWORK_SETTINGS}
        metrics = {
            "validation": {
                "cases": len(self._validation),
                "ids": [case.id for case in self._validation],
                "grid": f"canonical, {self._plan.preparation.spacing_text}",
                "step": self.best["step"],
                "mean_dice": self.best["mean"],
                "dice": self.best["dice"],
            }
        }
        return ModelDescription(
            name=self._plan.name,
            version="0",  # as it is called once versions made from it are there
            label_set=dataset.label_set.with_labels_numbered(),
            preparation=self._plan.preparation,
            network=self._plan.spec,
            modality=dataset.modality,
            summary=f"{', '.join(dataset.label_set.names)} ({dataset.modality})",
            license=dataset.license,
            # Not the dataset's name, which is often that of a folder, and that after a patient.
            training_data=f"{dataset.description} {len(self._training_ids)} training cases. "
            f"Licence: {dataset.license}.".strip(),
            citation="Humpire-Mamani et al., Transfer learning from a sparsely annotated dataset of 3D medical images, "
            "arXiv 2311.05032 (2023)",
            metrics=metrics if self._validation else {},
            provenance=Provenance(
                command=plain_command(self._plan.command),
                seed=configuration.seed,
                code_version=code_version(),
                parent=start_name(self._plan),
                created=datetime.now(UTC).isoformat(timespec="seconds"),
                configuration=told,
            ),
        )

    def _checkpoint(self) -> None:
        """Write everything that is needed to go on from the last whole step."""
        write_checkpoint(
            self._plan.output / CHECKPOINT,
            {
                "trainer": self._trainer.state(),
                "best": self.best,
                "validated": self.validated,
                "precision": str(self._device.dtype).removeprefix("torch."),
                "configuration": self._plan.configuration.to_json(),
                "name": self._plan.name,
                "structures": list(self._plan.dataset.label_set.names),
                "start": start_name(self._plan),
                "training_ids": self._training_ids,
                "validation_ids": [case.id for case in self._validation],
            },
        )
