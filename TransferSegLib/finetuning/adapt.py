"""From a parent model and corrected cases to adapted weights, by the paper's three ways; resumable at any step.

>>> change = plan_label_change(parent.description.label_set, dataset.label_set)
>>> cases = prepare_cases(dataset, change.label_set, configuration.preparation(parent.description))
>>> adapted = adapt(parent, cases, change, configuration)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.configuration import AUTO, STRATEGIES, FineTuningConfiguration
from TransferSegLib.finetuning.distillation import Distillation
from TransferSegLib.finetuning.feature_cache import FeatureCache, cache_features
from TransferSegLib.finetuning.forgetting import StructureChange, measure_forgetting
from TransferSegLib.finetuning.head_init import ChannelInit, init_at_random, init_fresh_channels
from TransferSegLib.finetuning.label_change import LabelChange, adapted_state
from TransferSegLib.finetuning.last_layers import Tail
from TransferSegLib.finetuning.stages import Budget, Clock, LastLayersTrainer, StageClock, distillation_loss
from TransferSegLib.images.preparation import Preparation, spacing_text
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.models.store import Model
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.progress import Task
from TransferSegLib.training.cases import PreparedCase
from TransferSegLib.training.patches import PatchSampler
from TransferSegLib.training.trainer import StepReport, Trainer
from TransferSegLib.training.validation import validate

#: Steps averaged into one line of the history.
_REPORT_STEPS = 20
#: Saves a state of tensors, numbers, strings, lists and dictionaries, e.g. with ``write_checkpoint``.
SaveState = Callable[[dict[str, Any]], None]


@dataclass(frozen=True)
class Adapted:
    """What adapting made: float32 weights on the CPU, and how it went.

    ``history`` holds a dictionary per 20 steps (stage, step, losses, rate, seconds) and per validation (Dice by
    structure). ``validation_dice`` are the scores of the weights returned, empty without validation cases. ``starts``
    says where the channels without a predecessor began, ``fates`` what happened to what the parent knew.
    """

    state_dict: dict[str, torch.Tensor]
    network: NetworkSpec
    change: LabelChange
    history: list[dict[str, Any]]
    validation_dice: dict[str, float]
    starts: tuple[ChannelInit, ...]
    fates: tuple[StructureChange, ...]
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
    task: Task | None = None,
    save: SaveState | None = None,
    resume: dict[str, Any] | None = None,
    clock: Clock = time.monotonic,
) -> Adapted:
    """Adapt a parent to cases prepared for ``change.label_set`` (see ``configuration.preparation``).

    ``validation`` cases are never learned from: the best weights on them are returned, and a run that no longer gets
    better ends early. ``cache`` lends features of (at least) these cases, as for the folds of a cross-validation.
    ``save`` gets a state every ``checkpoint_every`` steps and whenever the run is stopped; handed in as ``resume``, a
    run with a budget of steps ends with the same weights as an uninterrupted one (same machine, same precision).
    Raises TrainingError for cases or states that do not fit, and Cancelled.
    """
    if configuration.strategy not in STRATEGIES:
        raise TrainingError(f"One model is made by one strategy ({', '.join(STRATEGIES)}), not by '{AUTO}'.")
    configuration = configuration.for_change(parent.description, bool(change.fresh_channels))
    _check_cases(training, validation, change, configuration.preparation(parent.description))
    if change.parent.names != parent.description.label_set.names:
        raise TrainingError(f"The change of structures was planned for another model than '{parent.description.name}'.")
    if device is None:
        device = choose_device("auto", None if resume is None else getattr(torch, str(resume.get("precision"))))
    run = _Run(parent, training, change, configuration, validation, device, cache, task or Task(), save, clock)
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
        task: Task,
        save: SaveState | None,
        clock: Clock,
    ) -> None:
        """Set up a run that has not begun."""
        self._parent, self._training, self._change = parent, list(training), change
        self._configuration, self._validation, self._device = configuration, list(validation), device
        self._lent_cache, self._save, self._cancel = cache, save, task.cancel
        self._clock = clock
        #: Of features and last layers, of all layers, and of looking for what was forgotten.
        self._tasks = task.split(0.3 if configuration.has_tail_stage else 0.0, 0.68, 0.02)
        self._budget = Budget(configuration.minutes, clock)
        self._holding = distillation_of(change, configuration)
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
        self._recent: list[StepReport] = []

    # A run's state is one dictionary, so that what is saved and what is gone on from cannot differ.

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; raises TrainingError when it is of another run."""
        differing = [key for key, value in self._identity().items() if state.get(key) != value]
        if differing:
            raise TrainingError(
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
        }

    def _checkpoint(self, trainer: LastLayersTrainer | Trainer) -> None:
        """Hand the state to whoever saves it."""
        if self._save is not None:
            self._state["trainer"] = trainer.state()
            self._save(self._state | self._identity() | {"spent_s": self._budget.spent_s})

    def adapt(self) -> Adapted:
        """Run the stages that are left and return the result."""
        network = self._network()
        if self._state["stage"] in ("start", "tail"):
            self._begin(network)
        steps = self._full_stage(network)
        best = self._state["best"]
        if best["network"]:
            network.load_state_dict(best["network"])
        return Adapted(
            {name: value.detach().float().cpu().clone() for name, value in network.state_dict().items()},
            self._configuration.network(self._parent.description.network, self._change.label_set.classes),
            self._change,
            self._state["history"],
            dict(best["dice"]),
            tuple(ChannelInit(**start) for start in self._state["starts"]),
            self._fates(network),
            int(self._state["tail_steps"]),
            steps,
        )

    def _network(self) -> Any:
        """Return the network as the run left it, or with the weights the strategy begins with."""
        network = initial_network(self._parent, self._change, self._configuration)
        if self._state["network"]:
            network.load_state_dict(self._state["network"])
        return network.to(torch.device(self._device.torch_name))

    def _begin(self, network: Any) -> None:
        """Compute features, give new channels their start and train the tail, as far as the strategy asks for it."""
        knobs = self._configuration
        inits_from_data = bool(self._change.fresh_channels) and knobs.inits_from_data and knobs.strategy != "scratch"
        if inits_from_data or knobs.has_tail_stage:
            if self._lent_cache is not None:
                self._with_features(network, self._lent_cache.select([c.id for c in self._training]), inits_from_data)
            else:
                with self._features() as cache:
                    self._with_features(network, cache, inits_from_data)
        self._state |= {"stage": "full", "network": {}, "trainer": {}, "since_s": self._budget.spent_s}

    def _features(self) -> FeatureCache:
        """Return the features of the training cases, as many as there were when a resumed run began."""
        knobs = self._configuration
        limit = knobs.tail_minutes_share * knobs.cache_minutes_share
        resumed = int(self._state["rounds"]) or None
        cache = cache_features(
            self._parent.network(),
            self._training,
            self._change,
            knobs,
            self._device,
            patches_per_case=resumed,
            enough=None if resumed else lambda: self._budget.share(limit) >= 1.0,
            task=self._tasks[0].share(0, 2),
        )
        self._state["rounds"] = len(cache) // len(self._training)
        return cache

    def _with_features(self, network: Any, cache: FeatureCache, inits_from_data: bool) -> None:
        """Start the new channels, then train the tail."""
        if inits_from_data and self._state["stage"] == "start":
            state = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
            starts = init_fresh_channels(
                state,
                self._parent.state_dict,
                self._change,
                cache,
                Tail(self._parent.network(), self._configuration.tail),
                self._device,
                self._configuration.seed,
                self._cancel,
            )
            network.load_state_dict(state)
            self._state["starts"] = [asdict(start) for start in starts]
        if self._configuration.has_tail_stage:
            self._tail_stage(network, cache)

    def _tail_stage(self, network: Any, cache: FeatureCache) -> None:
        """Train the last layers on cached features."""
        knobs = self._configuration
        trainer = LastLayersTrainer(network, cache, knobs, self._device, self._holding)
        if self._state["stage"] == "tail":
            trainer.restore(self._state["trainer"])
        else:
            self._state |= {"stage": "tail", "since_s": self._budget.spent_s}
            self._state["network"] = {name: v.detach().cpu().clone() for name, v in network.state_dict().items()}
        clock = StageClock(self._budget, knobs.tail_steps, knobs.tail_minutes_share, float(self._state["since_s"]))
        whole = self._tasks[0] if self._lent_cache is not None else self._tasks[0].share(1, 2)
        task = whole.named("Training the last layers", "last-layers").counting(knobs.tail_steps, trainer.step)
        try:
            while clock.done(trainer.step) < 1.0:
                task.check()
                report = trainer.train_step(clock.rate(trainer.step, knobs.tail_rate, knobs.warm_up))
                self._report("tail", report, task, clock)
                if report.step % knobs.checkpoint_every == 0:
                    self._checkpoint(trainer)
        except BaseException:
            # Whatever stopped the run, what was learned up to the last whole step is kept.
            self._checkpoint(trainer)
            raise
        trainer.finish()
        self._state["tail_steps"] = trainer.step
        self._recent = []

    def _full_stage(self, network: Any) -> int:
        """Train all weights; the network ends with the averaged ones. Returns the number of steps."""
        knobs = self._configuration
        rules = knobs.patch_configuration()
        sampler = PatchSampler(self._training, self._change.label_set.mirrored_channels(), rules)
        held = None
        if self._holding is not None:
            held = distillation_loss(self._parent.network(), self._holding, knobs, self._device, self._cancel)
        trainer = Trainer(network, sampler, rules, self._device, held)
        if self._state["trainer"]:
            trainer.restore(self._state["trainer"])
        clock = StageClock(self._budget, knobs.steps, 1.0, float(self._state["since_s"]))
        task = self._tasks[1].named("Training all layers", "all-layers").counting(knobs.steps, trainer.step)
        try:
            # The start counts as a candidate: stage 2 must beat what stage 1 has reached.
            self._validate(trainer, knobs.strategy == "finetune")
            while clock.done(trainer.step) < 1.0 and self._state["waited"] < knobs.patience:
                task.check()
                report = trainer.train_step(clock.rate(trainer.step, knobs.rate, knobs.warm_up), self._cancel)
                self._report("full", report, task, clock)
                self._validate(trainer, report.step % knobs.validate_every == 0)
                if report.step % knobs.checkpoint_every == 0:
                    self._checkpoint(trainer)
            self._validate(trainer, True)
        except BaseException:
            self._checkpoint(trainer)
            raise
        network.load_state_dict(trainer.averaged_state())
        return trainer.step

    def _validate(self, trainer: Trainer, is_due: bool) -> None:
        """Validate the averaged weights where that is due and not done, and keep them when they are the best."""
        if not is_due or not self._validation or self._state["validated"] == trainer.step:
            return
        with trainer.averaged() as network:
            label_set, rule = self._change.label_set, self._parent.description.single_part
            single_part = [name for name in rule if label_set.find(name) is not None]
            scores = validate(network, self._validation, label_set, self._device.dtype, self._cancel, single_part)
        mean = float(np.mean(list(scores.values()))) if scores else 0.0
        self._state["history"].append(
            {"stage": "full", "step": trainer.step, "validation_dice": scores, "mean": mean}
            | {"spent_s": self._budget.spent_s}
        )
        self._state["validated"] = trainer.step
        self._state["waited"] += 1
        if mean > self._state["best"]["mean"]:
            self._state["best"] = {"mean": mean, "dice": scores, "network": trainer.averaged_state()}
            self._state["waited"] = 0

    def _report(self, stage_name: str, report: StepReport, task: Task, clock: StageClock) -> None:
        """Report a step, and the mean of the recent ones to the history now and then."""
        self._recent.append(report)
        loss = report.cross_entropy + report.dice_loss + report.further_loss
        best = self._state["best"]["mean"]
        done = clock.done(report.step)
        task.step(f"loss {loss:.3f}", fraction=done, loss=loss, dice=best if best >= 0 else None)
        if report.step % _REPORT_STEPS == 0:
            recent, self._recent = self._recent, []
            self._state["history"].append(
                {
                    "stage": stage_name,
                    "step": report.step,
                    "cross_entropy": float(np.mean([one.cross_entropy for one in recent])),
                    "dice_loss": float(np.mean([one.dice_loss for one in recent])),
                    "held_loss": float(np.mean([one.further_loss for one in recent])),
                    "learning_rate": report.learning_rate,
                    "spent_s": self._budget.spent_s,
                }
            )

    def _fates(self, network: Any) -> tuple[StructureChange, ...]:
        """Return the forgetting report on the first training cases."""
        cases = self._training[: self._configuration.report_cases]
        if not cases or self._configuration.strategy == "scratch":
            return ()
        parent = self._parent.network()
        return measure_forgetting(parent, network, cases, self._change, self._device, self._tasks[2])


def initial_network(parent: Model, change: LabelChange, configuration: FineTuningConfiguration) -> Any:
    """Return the network with the weights that a strategy begins with."""
    backbone = backbone_of(configuration.network(parent.description.network, change.label_set.classes))
    network = backbone.build()
    backbone.initialise(network, configuration.seed)
    if configuration.strategy != "scratch":
        state, fresh = adapted_state(parent.state_dict, change)
        init_at_random(state, fresh, configuration.seed)
        network.load_state_dict(state)
    return network


def distillation_of(change: LabelChange, configuration: FineTuningConfiguration) -> Distillation | None:
    """Return what holds structures without annotation to the parent, None where they are not held.

    From random weights a network learns from the labels only: to hold what a parent knew is a transfer from it.
    """
    is_held = configuration.distillation > 0 and configuration.strategy != "scratch"
    return Distillation(change) if is_held else None


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
