"""What a fine-tuning needs of disks and memory, checked before anything takes long.

Workers on this computer need it for each of them. Those on a cluster have the memory and the temporary folder of their
node, so each checks there, before it trains. Memory is a lower estimate, without what Python and torch take themselves
and without what a plan may save for want of time: what is refused would not fit.
"""

from __future__ import annotations

import math
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.computer_memory import available_memory_bytes
from TransferSegLib.errors import ModelError, TrainingError
from TransferSegLib.finetuning.run_folder import runs_of
from TransferSegLib.finetuning.time_plan import MOST_FOLDS
from TransferSegLib.output_checks import check_output_folder, check_space
from TransferSegLib.wording import counted

if TYPE_CHECKING:
    from TransferSegLib.finetuning.plan import FineTuningPlan

#: Each process that trains keeps two checkpoints of its candidate with the optimiser. The parent and the finished
#: candidates are added. The library gets a version, or two.
_COPIES_OF_WEIGHTS = 9
#: In memory: the parent, the candidate, its gradients, its running average and its momentum.
_COPIES_IN_MEMORY = 5


def check_outputs(plan: FineTuningPlan, workers: int = 0, here: bool = True) -> None:
    """Raise ModelError or TrainingError where the version, or what is kept until then, cannot be written.

    Of so many ``workers`` at the same time each keeps its own; where they are ``here``, on this computer, they need its
    temporary folder and its memory, too.
    """
    weights, runs = _bytes_of_weights(plan), runs_of(plan.request)
    check_output_folder(plan.library, ModelError)
    check_output_folder(runs, TrainingError)
    check_space(plan.library, 2 * weights + 1e6, ModelError)
    kept = 1 + _COPIES_OF_WEIGHTS * max(1, workers) + _candidates(plan)
    check_space(runs, kept * weights + 1e6, TrainingError)
    _check_temporary(plan, _bytes_of_features(plan), 1)
    if workers and here:
        _check_temporary(plan, _bytes_of_features(plan, of_worker=True), workers)
        _check_memory(plan, workers)


def check_needs_of_worker(plan: FineTuningPlan) -> None:
    """Raise TrainingError where this computer, a node of a cluster, has too little room for one worker."""
    _check_temporary(plan, _bytes_of_features(plan, of_worker=True), 1)
    _check_memory(plan, 1)


def _candidates(plan: FineTuningPlan) -> int:
    """Return how many candidates of folds a run keeps at most."""
    return plan.request.most_folds or MOST_FOLDS


def _bytes_of_weights(plan: FineTuningPlan) -> float:
    return sum(tensor.numel() * 4.0 for tensor in plan.parent.fold_weights().values())


def _bytes_of_features(plan: FineTuningPlan, of_worker: bool = False, patches_per_case: int | None = None) -> float:
    """Return the bytes of cached features: of all cases, or of those that a worker learns from.

    ``patches_per_case`` None: as many as are cached at most.
    """
    from TransferSegLib.finetuning.feature_cache import FeatureSizes, bytes_of_patch  # loads torch

    settings = plan.configuration
    if not (settings.has_tail_stage or plan.change.fresh_channels):
        return 0.0
    patches: float = (patches_per_case or settings.patches_per_case) * sum(map(bool, plan.drawn.values()))
    if of_worker and plan.patients > 1:
        patches *= 1 - 1 / min(plan.patients, _candidates(plan))
    a_patch = bytes_of_patch(FeatureSizes.of(plan.parent.description.backbone, settings), plan.change, settings)
    return min(settings.cache_bytes, patches * a_patch)


def _check_temporary(plan: FineTuningPlan, each: float, processes: int) -> None:
    """Raise TrainingError where the features of so many processes, ``each`` so large, go to a disk without room."""
    if each > plan.configuration.memory_bytes:
        check_space(Path(tempfile.gettempdir()), processes * each, TrainingError)


def _check_memory(plan: FineTuningPlan, workers: int) -> None:
    """Raise TrainingError where so many workers have no room in the memory of this computer."""
    free, each = available_memory_bytes(), bytes_of_process(plan)
    if free is None or workers * each <= free:
        return
    fitting = int(free // each)
    instead = f"give --workers {fitting}" if fitting else "give no --workers, a smaller patch, or fewer cases"
    needs = "needs" if workers == 1 else "need"
    raise TrainingError(
        f"{counted(workers, 'worker')} of the fine-tuning {needs} at least {workers * each / 1e9:.1f} GB of memory, "
        f"and {free / 1e9:.1f} GB are free: {instead}, or free some memory."
    )


def bytes_of_process(plan: FineTuningPlan) -> float:
    """Return the bytes of memory that a process takes at least which trains one candidate.

    With minutes, a plan may cache one patch of each case only, and train smaller patches or the last layers alone. The
    features are given up before all layers are trained.
    """
    import torch

    parent, settings = plan.parent.description, plan.configuration
    preparation = settings.preparation(parent)
    # Intensities in half precision and labels of all cases, on the model's grid.
    a_voxel = 2.0 * preparation.image_count + 1.0
    mm3 = math.prod(preparation.spacing_zyx_mm)
    needed = a_voxel * sum(plan.survey[id].volume_mm3 for id in plan.dataset.ids) / mm3
    is_timed = plan.request.minutes > 0 or plan.request.until_converged
    features = _bytes_of_features(plan, of_worker=True, patches_per_case=1 if is_timed else None)
    features = features if features <= settings.memory_bytes else 0.0
    device = plan.request.device
    if device.startswith("cuda") or (device == "auto" and torch.cuda.is_available()):
        return needed + features  # the rest is in the GPU's memory
    step = _bytes_of_step(plan) if settings.full_steps and not is_timed else 0.0
    return needed + _COPIES_IN_MEMORY * _bytes_of_weights(plan) + max(features, step)


def _bytes_of_step(plan: FineTuningPlan) -> float:
    """Return the bytes of the maps that a step of all layers keeps for its gradients, in half precision.

    Counted, not computed: torch runs the network on tensors without values.
    """
    import torch

    settings, description = plan.configuration, plan.describe()
    backbone = description.backbone
    sides = backbone.training_patch(settings.patch, settings.frame).sides_zyx
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.device("meta"):
        network = backbone.build()
        scan = torch.zeros(settings.batch, description.preparation.image_count, *sides)
    own = {weights.untyped_storage()._cdata for weights in network.parameters()}
    # A network that cannot be run without values is not counted.
    with suppress(RuntimeError), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        backbone.training_logits(network, scan)
    return sum(size for place, size in kept.items() if place not in own) / 2
