"""How fast this machine is at what a fine-tuning does: measured on one case, some patches and a few steps, in seconds.

It tells nothing of what else the machine will be busy with later: plans made of it say "about".
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.distillation import Distillation
from TransferSegLib.finetuning.feature_cache import FeatureCache, cache_features
from TransferSegLib.finetuning.head_init import init_at_random
from TransferSegLib.finetuning.held_out import HeldOutScorer, comparison_grid
from TransferSegLib.finetuning.label_change import adapted_state
from TransferSegLib.finetuning.last_layers import input_side
from TransferSegLib.finetuning.names import FINETUNE, SCRATCH
from TransferSegLib.finetuning.plan import FineTuningPlan
from TransferSegLib.finetuning.stages import LastLayersTrainer, distillation_loss
from TransferSegLib.finetuning.time_plan import Speeds
from TransferSegLib.inference.devices import Device
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.progress import CancelToken, ProgressCallback, Task
from TransferSegLib.training.cases import PreparedCase, prepare_case
from TransferSegLib.training.patches import PatchSampler
from TransferSegLib.training.trainer import Trainer

#: What takes longer than this is done once; a prediction that is likely to is not made but calculated.
_LONG_S = 4.0
#: Bytes of weights that are written, read back and verified in a second; and what keeping a version takes beside.
_BYTES_PER_S, _KEEPING_S = 4e7, 0.5


def measure_speeds(
    work: FineTuningPlan,
    device: Device,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Speeds:
    """Return the speeds of a plan's parts on a device; raises DatasetError, TrainingError and Cancelled."""
    began = clock()
    task = Task("", progress, cancel).named("Measuring how fast this machine is", "measuring").counting(5)
    timed = _Timer(clock)
    knobs, change, dataset = work.configuration, work.change, work.dataset
    case = _median_case(work)
    preparation = knobs.preparation(work.parent.description)
    read_s, prepared = timed.once(
        lambda: prepare_case(
            dataset.case(case), dataset.label_set, change.label_set, preparation, Task("", None, cancel)
        )
    )
    if not prepared.voxels:
        raise TrainingError(
            f"Case {case}: what is drawn is so small that nothing of it is left on the model's grid of "
            f"{preparation.spacing_text}. Draw more of it, or give a finer grid (spacing_mm in the configuration)."
        )
    task.step()
    task.check()
    feature_s, tail_step_s = 0.0, 0.0
    if knobs.strategy != SCRATCH:
        feature_s, cache = _features(work, prepared, device, timed, cancel)
        task.step()
        task.check()
        with cache:
            trainer = LastLayersTrainer(_network(work, FINETUNE), cache, knobs, device, _holding(work, FINETUNE))
            tail_step_s = timed.repeated(lambda: trainer.train_step(knobs.tail_rate), 4)
    task.step()
    task.check()
    full_step_s = _full_step_s(work, prepared, device, timed, cancel) if knobs.steps else 0.0
    task.step()
    task.check()
    predict_s, score_s = _prediction(work, case, prepared, device, timed, feature_s or full_step_s, cancel)
    task.step()
    larger = float(np.mean([work.survey[id].volume_mm3 for id in dataset.ids])) / work.survey[case].volume_mm3
    weights = sum(tensor.numel() * 4 for tensor in work.parent.state_dict.values())
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


def _median_case(work: FineTuningPlan) -> str:
    """Return the id of the case of median size among those with something drawn."""
    drawn = work.drawn
    ids = sorted((id for id in work.dataset.ids if drawn[id]), key=lambda id: work.survey[id].volume_mm3)
    return ids[len(ids) // 2]


def _features(
    work: FineTuningPlan, prepared: PreparedCase, device: Device, timed: _Timer, cancel: CancelToken | None
) -> tuple[float, FeatureCache]:
    """Return the seconds of a patch's features, and a cache of some."""
    parent = work.parent.network()

    def cached(patches: int) -> FeatureCache:
        return cache_features(
            parent,
            [prepared],
            work.change,
            work.configuration,
            device,
            patches_per_case=patches,
            task=Task("", None, cancel),
        )

    first_s, cache = timed.once(lambda: cached(1))
    if timed.is_long:
        return first_s, cache
    cache.close()
    return timed.once(lambda: cached(1))


def _network(work: FineTuningPlan, strategy: str) -> Any:
    """Return the network a candidate begins with."""
    settings = replace(work.configuration, strategy=strategy)
    backbone = backbone_of(settings.network(work.parent.description.network, work.change.label_set.classes))
    network = backbone.build()
    backbone.initialise(network, settings.seed)
    if strategy != SCRATCH:
        state, fresh = adapted_state(work.parent.state_dict, work.change)
        init_at_random(state, fresh, work.configuration.seed)
        network.load_state_dict(state)
    return network


def _holding(work: FineTuningPlan, strategy: str) -> Distillation | None:
    return Distillation(work.change) if work.configuration.distillation > 0 and strategy != SCRATCH else None


def _full_step_s(
    work: FineTuningPlan, prepared: PreparedCase, device: Device, timed: _Timer, cancel: CancelToken | None
) -> float:
    """Return the seconds of a step of all layers."""
    knobs = work.configuration
    strategy = SCRATCH if knobs.strategy == SCRATCH else FINETUNE
    rules = replace(knobs, strategy=strategy).patch_configuration()
    sampler = PatchSampler([prepared], work.change.label_set.mirrored_channels(), rules)
    holding, held = _holding(work, strategy), None
    if holding is not None:
        held = distillation_loss(work.parent.network(), holding, knobs, device, cancel)
    trainer = Trainer(_network(work, strategy), sampler, rules, device, held)
    return timed.repeated(lambda: trainer.train_step(rules.learning_rate, cancel), 2)


def _prediction(
    work: FineTuningPlan,
    case: str,
    prepared: PreparedCase,
    device: Device,
    timed: _Timer,
    patch_s: float,
    cancel: CancelToken | None,
) -> tuple[float, float]:
    """Return the seconds of predicting a whole scan and of scoring it; calculated from a patch where it takes long."""
    voxels = float(np.prod(prepared.intensities.shape))
    side = input_side(work.configuration.tail_patch)
    likely_s = patch_s * max(1.0, voxels / side**3)
    if likely_s > 3 * _LONG_S:
        return likely_s, 0.2 * likely_s
    grid = comparison_grid(work.patients, [prepared])
    scorer = HeldOutScorer(work.parent, work.change, work.dataset, device, grid, work.request.tolerance_mm)
    predict_s, answer = timed.once(lambda: scorer.predict_by_parent(prepared, case, Task("", None, cancel)))
    score_s, _ = timed.once(
        lambda: scorer.compare_predictions(
            answer.copy(), prepared, case, answer if scorer.parent_knows else None, Task("", None, cancel)
        )
    )
    return predict_s, score_s
