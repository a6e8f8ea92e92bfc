"""From a parent model and corrected cases to adapted weights, by the paper's three ways; resumable at any step.

>>> change = plan_label_change(parent.description.label_set, dataset.label_set)
>>> cases = prepare_cases(dataset, change.label_set, configuration.preparation(parent.description))
>>> adapted = adapt(parent, cases, change, configuration)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from TransferSegLib.datasets.prepared import PreparedCase
from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.all_layers import Leader, distillation_of, initial_network
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.feature_cache import FeatureCache, cache_features
from TransferSegLib.finetuning.forgetting import StructureChange, measure_forgetting
from TransferSegLib.finetuning.head_init import ChannelInit, init_fresh_channels
from TransferSegLib.finetuning.label_change import LabelChange
from TransferSegLib.finetuning.last_layers import LastLayersObjective
from TransferSegLib.finetuning.strategies import AUTO, STRATEGIES
from TransferSegLib.images.preparation import Preparation, spacing_text
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.models.store import Model
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.progress import Task
from TransferSegLib.training.loop import Hooks, train
from TransferSegLib.training.schedule import Budget, Clock, Schedule
from TransferSegLib.training.trainer import Trainer
from TransferSegLib.training.validation import validate

#: Saves a state of tensors, numbers, strings, lists and dictionaries, e.g. with ``write_checkpoint``.
SaveState = Callable[[dict[str, Any]], None]
#: Weights of a network by name.
Weights = Mapping[str, torch.Tensor]


class OtherTraining(TrainingError):
    """A state is of another training than the one that is to be resumed with it."""


@dataclass(frozen=True)
class Adapted:
    """What adapting made: float32 weights on the CPU, and how it went.

    ``history`` holds a dictionary per 20 steps (stage, step, losses, rate, seconds) and per validation (Dice by
    structure). ``validation_dice`` are the scores of the weights returned, empty without validation cases. ``starts``
    says where the channels without a predecessor began, ``changes`` what happened to what the parent knew.
    """

    state_dict: dict[str, torch.Tensor]
    network: NetworkSpec
    change: LabelChange
    history: list[dict[str, Any]]
    validation_dice: dict[str, float]
    starts: tuple[ChannelInit, ...]
    changes: tuple[StructureChange, ...]
    tail_steps: int
    steps: int


def adapt(
    parent: Model,
    training: Sequence[PreparedCase],
    change: LabelChange,
    configuration: FineTuningConfiguration,
    *,
    validation: Sequence[PreparedCase] = (),
    device: Device | None = None,
    cache: FeatureCache | None = None,
    start: Weights | None = None,
    task: Task | None = None,
    save: SaveState | None = None,
    resume: dict[str, Any] | None = None,
    clock: Clock = time.monotonic,
    leader: Leader | None = None,
) -> Adapted:
    """Adapt a parent to cases prepared for ``change.label_set`` (see ``configuration.preparation``).

    ``validation`` cases are never learned from: the best weights on them are returned, and a run that no longer gets
    better ends early. ``cache`` lends features of (at least) these cases, as for the folds of a cross-validation.
    ``start`` are weights of the new network to begin with, such as the average of other candidates: the last layers are
    then not trained first again, unless nothing else is trained.
    ``save`` gets a state every ``checkpoint_every`` steps and whenever the run is stopped; handed in as ``resume``, a
    run with a budget of steps ends with the same weights as an uninterrupted one (same machine, same precision).
    ``leader`` is that of processes that train all layers together.
    Raises TrainingError for cases that do not fit, OtherTraining for a state that does not, and Cancelled.
    """
    if configuration.strategy not in STRATEGIES:
        raise TrainingError(f"One model is made by one strategy ({', '.join(STRATEGIES)}), not by '{AUTO}'.")
    configuration = configuration.for_change(parent.description, bool(change.fresh_channels))
    _check_cases(training, validation, change, configuration.preparation(parent.description))
    if change.parent.names != parent.description.label_set.names:
        raise TrainingError(f"The change of structures was planned for another model than '{parent.description.name}'.")
    if device is None:
        device = choose_device("auto", None if resume is None else getattr(torch, str(resume.get("precision"))))
    task, leader = task or Task(), leader or Leader()
    run = _Run(parent, training, change, configuration, validation, device, cache, start, task, save, clock, leader)
    if resume is not None:
        run.restore(resume)
    return run.adapt()


class _Run:
    """One adaptation: the network on its way, the budget, the history and the best weights so far."""

    def __init__(
        self,
        parent: Model,
        training: Sequence[PreparedCase],
        change: LabelChange,
        configuration: FineTuningConfiguration,
        validation: Sequence[PreparedCase],
        device: Device,
        cache: FeatureCache | None,
        start: Weights | None,
        task: Task,
        save: SaveState | None,
        clock: Clock,
        leader: Leader,
    ) -> None:
        """Set up a run that has not begun."""
        self._parent, self._training, self._change = parent, list(training), change
        self._configuration, self._validation, self._device = configuration, list(validation), device
        self._lent_cache, self._save, self._cancel = cache, save, task.cancel
        self._clock, self._start, self._leader = clock, start, leader
        #: Whether features are computed and the last layers trained: not again after a start that did so.
        self._has_first_stage = start is None or not configuration.full_steps
        #: Of features and last layers, of all layers, and of looking for what was forgotten.
        has_tail = configuration.has_tail_stage and self._has_first_stage
        self._tasks = task.split(0.3 if has_tail else 0.0, 0.68, 0.02)
        self._budget = Budget(configuration.minutes, clock)
        self._distillation = distillation_of(change, configuration)
        self._backbone = backbone_of(configuration.network(parent.description.network, change.label_set.classes))
        self._state: dict[str, Any] = {
            "stage": "start",
            "rounds": 0,
            "since_s": 0.0,
            "network": {},
            "trainer": {},
            "tail_steps": 0,
            "starts": [],
            "history": [],
            "best": {"mean": -1.0, "dice": {}, "network": {}},
            "validated": -1,
            "waited": 0,
        }

    # A run's state is one dictionary, so that what is saved and what is gone on from cannot differ.

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; raises OtherTraining when it is of another run."""
        differing = [key for key, value in self._identity().items() if state.get(key) != value]
        if differing:
            raise OtherTraining(
                f"This fine-tuning was started with other {', '.join(differing)} and cannot be resumed with these: "
                "start it again."
            )
        self._state = {key: state[key] for key in self._state}
        self._budget = Budget(self._configuration.minutes, self._clock, float(state["spent_s"]))

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same when a run is resumed, by its name in words."""
        return {
            "settings": self._configuration.to_json(),
            "structures": [list(self._change.parent.names), list(self._change.label_set.names)]
            + [list(sources) for sources in self._change.sources],
            "training cases": [case.id for case in self._training],
            "validation cases": [case.id for case in self._validation],
            "precision": str(self._device.dtype).removeprefix("torch."),
            "start": "the parent" if self._start is None else "an average",
        }

    def _checkpoint(self, trainer: Trainer) -> None:
        """Hand the state to whoever saves it."""
        if self._save is not None:
            self._state["trainer"] = trainer.state()
            self._save(self._state | self._identity() | {"spent_s": self._budget.spent_s})

    def adapt(self) -> Adapted:
        """Run the stages that are left and return the result."""
        network = initial_network(self._parent, self._change, self._configuration)
        if self._start is not None:
            network.load_state_dict(self._start)
        if self._state["network"]:
            network.load_state_dict(self._state["network"])
        network = network.to(torch.device(self._device.torch_name))
        if self._state["stage"] in ("start", "tail"):
            self._begin(network)
        steps = self._train_all_layers(network)
        best = self._state["best"]
        if best["network"]:
            network.load_state_dict(best["network"])
        return Adapted(
            {name: value.detach().float().cpu().clone() for name, value in network.state_dict().items()},
            self._backbone.spec,
            self._change,
            self._state["history"],
            dict(best["dice"]),
            tuple(ChannelInit(**start) for start in self._state["starts"]),
            self._changes(network),
            int(self._state["tail_steps"]),
            steps,
        )

    def _begin(self, network: nn.Module) -> None:
        """Compute features, initialise new channels and train the last layers, as far as the strategy asks for it."""
        settings = self._configuration
        from_data = bool(self._change.fresh_channels) and settings.inits_from_data and self._start is None
        if self._has_first_stage and (from_data or settings.has_tail_stage):
            if self._lent_cache is not None:
                self._with_features(network, self._lent_cache.select([c.id for c in self._training]), from_data)
            else:
                with self._features() as cache:
                    self._with_features(network, cache, from_data)
        self._state |= {"stage": "full", "network": {}, "trainer": {}, "since_s": self._budget.spent_s}

    def _features(self) -> FeatureCache:
        """Return the features of the training cases, as many as there were when a resumed run began."""
        settings = self._configuration
        limit = settings.tail_share * settings.cache_minutes_share
        resumed = int(self._state["rounds"]) or None
        cache = cache_features(
            self._parent,
            self._training,
            self._change,
            settings,
            self._device,
            patches_per_case=resumed,
            spent=None if resumed else lambda: self._budget.share(limit),
            task=self._tasks[0].share(0, 2),
        )
        self._state["rounds"] = len(cache) // len(self._training)
        return cache

    def _with_features(self, network: nn.Module, cache: FeatureCache, from_data: bool) -> None:
        """Initialise the new channels, then train the last layers."""
        settings, backbone = self._configuration, self._parent.description.backbone
        if from_data and self._state["stage"] == "start":
            state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            last_layers = backbone.last_layers(self._parent.network(), settings.tail)
            starts = init_fresh_channels(
                state,
                self._parent.fold_weights(),
                self._change,
                cache,
                last_layers,
                backbone.heads[-1],
                self._device,
                settings.seed,
                self._cancel,
            )
            network.load_state_dict(state)
            self._state["starts"] = [asdict(start) for start in starts]
        if settings.has_tail_stage:
            self._train_last_layers(network, cache)

    def _train_last_layers(self, network: nn.Module, cache: FeatureCache) -> None:
        """Train the last layers on cached features."""
        settings = self._configuration
        objective = LastLayersObjective(network, self._backbone, cache, settings, self._device, self._distillation)
        trainer = Trainer(objective, settings, self._device)
        if self._state["stage"] == "tail":
            trainer.restore(self._state["trainer"])
        else:
            self._state |= {"stage": "tail", "since_s": self._budget.spent_s}
            self._state["network"] = {name: v.detach().cpu().clone() for name, v in network.state_dict().items()}
        until, since_s = settings.tail_share, float(self._state["since_s"])
        schedule = Schedule(settings.tail_steps, settings.tail_rate, settings.warm_up, self._budget, until, since_s)
        whole = self._tasks[0] if self._lent_cache is not None else self._tasks[0].share(1, 2)
        hooks = Hooks(lambda: self._checkpoint(trainer), settings.checkpoint_every, partial(self._add_history, "tail"))
        train(trainer, schedule, hooks, whole.named("Training the last layers", "last-layers"))
        trainer.keep_average()
        self._state["tail_steps"] = trainer.step

    def _train_all_layers(self, network: nn.Module) -> int:
        """Train all weights; the network ends with the averaged ones. Returns the number of steps."""
        settings, since_s = self._configuration, float(self._state["since_s"])
        trainer = self._leader.trainer(
            self._parent,
            network,
            self._training,
            self._change,
            settings,
            self._device,
            self._cancel,
            self._state["trainer"],
        )
        schedule = Schedule(settings.full_steps, settings.rate, settings.warm_up, self._budget, since_s=since_s)
        hooks = Hooks(
            lambda: self._checkpoint(trainer),
            settings.checkpoint_every,
            partial(self._add_history, "full"),
            partial(self._validate, trainer),
            lambda: self._state["best"]["mean"] if self._state["best"]["mean"] >= 0 else None,
        )
        train(trainer, schedule, hooks, self._tasks[1].named("Training all layers", "all-layers"))
        trainer.keep_average()
        return trainer.step

    def _validate(self, trainer: Trainer, step: int, is_last: bool) -> bool:
        """Validate the averaged weights where that is due, keep the best; tell whether they no longer get better.

        Weights whose last layers were trained count as a candidate, which all layers must beat.
        """
        settings, state = self._configuration, self._state
        is_due = is_last or (step % settings.validate_every == 0 and (step > 0 or settings.way.last_layers_first))
        if is_due and self._validation and state["validated"] != step:
            label_set, rule = self._change.label_set, self._parent.description.single_part
            single_part = [name for name in rule if label_set.find(name) is not None]
            with trainer.averaged() as network:
                cases, dtype = self._validation, self._device.dtype
                scores = validate(network, self._backbone, cases, label_set, dtype, self._cancel, single_part)
            mean = float(np.mean(list(scores.values()))) if scores else 0.0
            self._add_history("full", {"step": step, "validation_dice": scores, "mean": mean})
            state["validated"], state["waited"] = step, state["waited"] + 1
            if mean > state["best"]["mean"]:
                state["best"] = {"mean": mean, "dice": scores, "network": trainer.averaged_state()}
                state["waited"] = 0
        return bool(state["waited"] >= settings.patience)

    def _add_history(self, stage: str, line: dict[str, Any]) -> None:
        self._state["history"].append({"stage": stage} | line | {"spent_s": self._budget.spent_s})

    def _changes(self, network: nn.Module) -> tuple[StructureChange, ...]:
        """Return the forgetting report on the first training cases."""
        cases = self._training[: self._configuration.report_cases]
        if not cases or not self._configuration.way.from_parent:
            return ()
        single_part = self._parent.description.single_part
        parent = (self._parent.network(), self._parent.description.backbone)
        adapted = (network, self._backbone)
        return measure_forgetting(parent, adapted, cases, self._change, self._device, self._tasks[2], single_part)


def _check_cases(
    training: Sequence[PreparedCase], validation: Sequence[PreparedCase], change: LabelChange, preparation: Preparation
) -> None:
    """Raise TrainingError for cases that were not prepared for this change and grid, or are in both groups."""
    if not training:
        raise TrainingError("There is no case to learn from.")
    both = sorted({case.id for case in training} & {case.id for case in validation})
    if both:
        raise TrainingError(f"Cases cannot be learned from and validated on at once: {', '.join(both)}.")
    for case in (*training, *validation):
        if len(case.annotated) != change.label_set.classes:
            raise TrainingError(
                f"Case {case.id} was prepared for {len(case.annotated) - 1} structures, the new model has "
                f"{len(change.label_set)}."
            )
        if not np.allclose(case.grid.spacing_zyx_mm, preparation.spacing_zyx_mm, atol=1e-6):
            raise TrainingError(
                f"Case {case.id} was prepared at {spacing_text(case.grid.spacing_zyx_mm)}, the new model works at "
                f"{preparation.spacing_text}."
            )
