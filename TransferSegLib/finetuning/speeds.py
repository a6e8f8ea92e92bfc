"""How fast this machine is at what a fine-tuning does: measured on one case, some patches and a few steps, in seconds.

What else the machine will be busy with later is not known: plans made from these speeds say "about".
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TypeVar

import numpy as np
import torch

from TransferSegLib.datasets.prepared import PreparedCase, prepare_case
from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.all_layers import Leader, distillation_of, initial_network
from TransferSegLib.finetuning.feature_cache import FeatureCache, FeatureSizes, cache_features
from TransferSegLib.finetuning.held_out import HeldOutScorer, comparison_grid
from TransferSegLib.finetuning.last_layers import LastLayersObjective
from TransferSegLib.finetuning.plan import FineTuningPlan
from TransferSegLib.finetuning.strategies import FINETUNE
from TransferSegLib.finetuning.time_plan import Speeds
from TransferSegLib.inference.devices import Device
from TransferSegLib.progress import Task
from TransferSegLib.training.loop import single_steps
from TransferSegLib.training.trainer import Trainer

#: What takes longer than this is done once; a prediction that is likely to is not made but calculated.
_LONG_S = 4.0
#: Bytes of weights that are written, read back and verified in a second; and what keeping a version takes beside.
_BYTES_PER_S, _KEEPING_S = 4e7, 0.5


def measure_speeds(
    plan: FineTuningPlan,
    device: Device,
    task: Task | None = None,
    clock: Callable[[], float] = time.monotonic,
    leader: Leader | None = None,
) -> Speeds:
    """Return the speeds of a plan's parts on a device; raises DatasetError, TrainingError and Cancelled.

    The other processes of ``leader``, if there are any, take part as they will in the training.
    """
    began = clock()
    settings, case = plan.configuration, _median_case(plan)
    measuring = _Measuring(plan, device, _Timer(clock), leader or Leader())
    reading, features, last_layers, all_layers, predicting = (
        (task or Task()).named("Measuring how fast this machine is", "measuring").split(1, 1, 1, 1, 1)
    )
    read_s = measuring.read(case, reading)
    reading.done()
    feature_s = tail_step_s = 0.0
    if settings.way.from_parent:
        feature_s, cache = measuring.features(features)
        features.done()
        with cache:
            tail_step_s = measuring.last_layers_step(cache)
    last_layers.done()
    full_step_s = measuring.all_layers_step(all_layers) if settings.full_steps else 0.0
    all_layers.done()
    predict_s, score_s = measuring.prediction(case, feature_s or full_step_s, predicting)
    predicting.done(look=False)
    mean_volume_mm3 = float(np.mean([plan.survey[id].volume_mm3 for id in plan.dataset.ids]))
    larger = mean_volume_mm3 / plan.survey[case].volume_mm3
    weights = sum(tensor.numel() * 4 for tensor in plan.parent.fold_weights().values())
    return Speeds(
        read_s=read_s * larger,
        predict_s=predict_s * larger,
        score_s=score_s * larger,
        feature_s=feature_s,
        tail_step_s=tail_step_s,
        full_step_s=full_step_s,
        candidate_s=0.2 + 2 * weights / _BYTES_PER_S,
        save_s=_KEEPING_S + 4 * weights / _BYTES_PER_S,
        measuring_s=clock() - began,
    )


def measure_worker(
    speeds: Speeds,
    plan: FineTuningPlan,
    device: Device,
    start_s: float,
    task: Task | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Speeds:
    """Return the speeds with those of the workers that a plan asks for, if any: a step with their threads is measured.

    A worker is taken to start in the ``start_s`` that this process took, on a computer like this one. On a GPU it is
    taken to be as fast as this process.
    """
    threads, began, task = plan.request.threads, clock(), task or Task()
    speeds = replace(speeds, worker_start_s=start_s)
    if not plan.request.workers or device.kind != "cpu" or threads == torch.get_num_threads():
        return speeds
    with _threads(threads):
        measuring = _Measuring(plan, device, _Timer(clock), Leader())
        measuring.read(_median_case(plan), task)
        if plan.configuration.full_steps:
            slowdown = measuring.all_layers_step(task) / max(speeds.full_step_s, 1e-9)
        else:
            feature_s, cache = measuring.features(task)
            cache.close()
            slowdown = feature_s / max(speeds.feature_s, 1e-9)
    measuring_s = speeds.measuring_s + clock() - began
    return replace(speeds, slowdown=slowdown, measuring_s=measuring_s)


@contextmanager
def _threads(count: int) -> Iterator[None]:
    """Let torch compute with so many threads for a while."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _median_case(plan: FineTuningPlan) -> str:
    """Return the id of the case of median size among those with something drawn."""
    drawn = plan.drawn
    ids = sorted((id for id in plan.dataset.ids if drawn[id]), key=lambda id: plan.survey[id].volume_mm3)
    return ids[len(ids) // 2]


_Result = TypeVar("_Result")


class _Timer:
    """Times calls; what is short is repeated, because the first time takes longer than the others.

    Nothing is repeated any more when all together have taken long: a plan must not eat up the time it divides.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock, self._all_s = clock, 0.0

    def once(self, call: Callable[[], _Result]) -> tuple[float, _Result]:
        """Return seconds and result."""
        began = self._clock()
        result = call()
        took = self._clock() - began
        self._all_s += took
        return took, result

    def repeated(self, call: Callable[[], object], times: int) -> float:
        """Return the median seconds of the calls after the first; of the first alone where it takes long."""
        took = [self.once(call)[0]]
        while len(took) <= times and self._all_s < _LONG_S:
            took.append(self.once(call)[0])
        return float(np.median(took[1:] or took))

    @property
    def is_long(self) -> bool:
        """Whether enough time went into this."""
        return self._all_s > _LONG_S


class _Measuring:
    """Does each part of a fine-tuning once or a few times, and returns its seconds."""

    def __init__(self, plan: FineTuningPlan, device: Device, timer: _Timer, leader: Leader) -> None:
        self._plan, self._device, self._timer, self._leader = plan, device, timer, leader
        self._prepared: PreparedCase

    def read(self, case: str, task: Task) -> float:
        """Return the seconds of reading a case, which the other measurements use."""
        plan = self._plan
        preparation = plan.configuration.preparation(plan.parent.description)
        labels, new_labels = plan.dataset.label_set, plan.change.label_set
        read_s, self._prepared = self._timer.once(
            lambda: prepare_case(plan.dataset.case(case), labels, new_labels, preparation, task)
        )
        if not self._prepared.voxels:
            raise TrainingError(
                f"Case {case}: what is drawn is so small that nothing of it is left on the model's grid of "
                f"{preparation.spacing_text}. Draw more of it, or give a finer grid (spacing_mm in the configuration)."
            )
        return read_s

    def features(self, task: Task) -> tuple[float, FeatureCache]:
        """Return the seconds of a patch's features, and a cache of some."""
        plan = self._plan

        def cached() -> FeatureCache:
            quiet = Task("", None, task.cancel)
            settings, cases = plan.configuration, [self._prepared]
            return cache_features(
                plan.parent, cases, plan.change, settings, self._device, patches_per_case=1, task=quiet
            )

        first_s, cache = self._timer.once(cached)
        if self._timer.is_long:
            return first_s, cache
        cache.close()
        return self._timer.once(cached)

    def last_layers_step(self, cache: FeatureCache) -> float:
        """Return the seconds of a step of the last layers."""
        plan = self._plan.by_strategy(FINETUNE)
        settings = self._plan.configuration
        network = initial_network(plan.parent, plan.change, plan.configuration)
        distillation = distillation_of(plan.change, plan.configuration)
        backbone = plan.parent.description.backbone
        objective = LastLayersObjective(network, backbone, cache, settings, self._device, distillation)
        trainer = Trainer(objective, settings, self._device)
        try:
            return self._timer.repeated(lambda: trainer.train_step(settings.tail_rate), 4)
        finally:
            trainer.stop_drawing()

    def all_layers_step(self, task: Task) -> float:
        """Return the seconds of a step of all layers."""
        plan = self._plan
        if plan.configuration.way.from_parent:
            plan = plan.by_strategy(FINETUNE)
        settings = plan.configuration
        network = initial_network(plan.parent, plan.change, settings)
        trainer = self._leader.trainer(
            plan.parent, network, [self._prepared], plan.change, settings, self._device, task.cancel
        )
        with single_steps(trainer, settings.rate, task.cancel) as take_step:
            return self._timer.repeated(take_step, 2)

    def prediction(self, case: str, patch_s: float, task: Task) -> tuple[float, float]:
        """Return the seconds of predicting and of scoring a case; calculated from a patch where it takes long."""
        plan, prepared = self._plan, self._prepared
        voxels = float(np.prod(prepared.labels.shape))
        sizes = FeatureSizes.of(plan.parent.description.backbone, plan.configuration)
        likely_s = patch_s * max(1.0, voxels / math.prod(sizes.scan_zyx))
        if likely_s > 3 * _LONG_S:
            return likely_s, 0.2 * likely_s
        grid, tolerance_mm = comparison_grid(plan.patients, [prepared]), plan.request.tolerance_mm
        scorer = HeldOutScorer(plan.parent, plan.change, plan.dataset, self._device, grid, tolerance_mm)
        predicting, scoring = task.split(5, 1)
        predict_s, found = self._timer.once(lambda: scorer.predict_by_parent(prepared, case, predicting))
        by_parent = found if scorer.parent_knows else None
        score_s, _ = self._timer.once(
            lambda: scorer.compare_predictions(found.copy(), prepared, case, by_parent, scoring)
        )
        return predict_s, score_s
