"""The plan of a fine-tuning before it begins: what is done in the minutes given, how long it takes, what cannot be.

>>> foreseen = foresee(FineTuneRequest(project, minutes=5))
>>> print(foreseen.text)

It reads the label maps and one case, and measures how fast this machine is; nothing is written.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from TransferSegLib.errors import TrainingError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.folds import fewest_folds, unjudged_structures
from TransferSegLib.finetuning.names import AUTO, FINETUNE, SCRATCH
from TransferSegLib.finetuning.plan import FineTuningPlan, plan_fine_tuning
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.run_folder import RUNS_NAME, RunFolder
from TransferSegLib.finetuning.strategy_choice import CHOOSING_FOLDS, with_strategies
from TransferSegLib.finetuning.time_plan import (
    MOST_FOLDS,
    Amount,
    Speeds,
    TimePlan,
    TooLittleTime,
    best_of_what_is_left,
    plan_time,
)
from TransferSegLib.output_checks import check_output_folder, check_space
from TransferSegLib.progress import CancelToken, ProgressCallback

#: A run keeps the parent, a candidate with its optimiser and one that is done; the library gets a version, or two.
_COPIES_OF_WEIGHTS = 12


@dataclass(frozen=True, eq=False)
class Foreseen:
    """What a fine-tuning will do: ``plan`` None where the minutes do not suffice, and ``text`` says so.

    ``warnings`` are what cannot be learned or judged. ``amount``, ``speeds`` and ``spent_s`` are what the plan was made
    of: ``plan_time`` makes another one of them for other minutes. ``earlier_s`` was spent by a run that this goes on
    with.
    """

    name: str
    plan: TimePlan | None
    text: str
    minutes_needed: float | None
    warnings: tuple[str, ...]
    amount: Amount
    speeds: Speeds
    spent_s: float
    earlier_s: float = 0.0

    def to_json(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            "model": self.name,
            "possible": self.plan is not None,
            "text": self.text,
            "minutes_needed": self.minutes_needed,
            "warnings": list(self.warnings),
            "plan": None if self.plan is None else self.plan.to_json(),
            "amount": self.amount.to_json(),
            "speeds": self.speeds.to_json(),
            "spent_s": self.spent_s,
            "earlier_s": self.earlier_s,
        }


def foresee(
    request: FineTuneRequest,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Foreseen:
    """Return what ``finetune`` will do for a request; raises what it raises before it begins, for the same reasons."""
    from TransferSegLib.finetuning.measuring import measure_speeds
    from TransferSegLib.inference.devices import choose_device

    began = clock()
    work = plan_fine_tuning(request, cancel)
    check_outputs(work)
    earlier_s = RunFolder(runs_of(request), work.identity()).spent_s
    work, tried = with_strategies(work)
    speeds = measure_speeds(by_default(work, tried), choose_device(request.device, None), progress, cancel, clock)
    amount, spent_s = amount_of(work, tried), clock() - began
    try:
        plan = plan_time(request.minutes, amount, speeds, spent_s)
        text, needed = plan.text, None
    except TooLittleTime as error:
        plan, text, needed = None, str(error), error.minutes
        if earlier_s:  # what was begun is ended as well as the time allows
            plan = best_of_what_is_left(60.0 * request.minutes, earlier_s, amount, speeds)
            text, needed = plan.text, None
    if earlier_s:
        plan = None if plan is None else replace(plan, total_s=max(plan.total_s - earlier_s, 0.0))
        text = (
            f"This fine-tuning was interrupted after {earlier_s / 60:.1f} min. It continues from what was done until "
            f"then, by this plan: {text}"
        )
    warnings = (*work.notes, *unjudged_note(work))
    return Foreseen(work.name, plan, text, needed, warnings, amount, speeds, spent_s, earlier_s)


def amount_of(work: FineTuningPlan, tried: Sequence[str]) -> Amount:
    """Return how much there is to do; ``tried`` are the strategies to choose from, the default first."""
    request, knobs = work.request, by_default(work, tried).configuration
    starts = bool(work.change.fresh_channels) and knobs.inits_from_data and knobs.strategy != SCRATCH
    patients = work.patients
    drawn = work.drawn
    asked = request.configuration.strategy
    return Amount(
        cases=len(work.dataset.cases),
        learnable=sum(bool(names) for names in drawn.values()),
        patients=patients,
        fewest_folds=fewest_folds(work.dataset, knobs.seed, drawn, work.fresh) if patients > 1 else 2,
        reported=min(len(work.dataset.cases), knobs.report_cases),
        tail_steps=knobs.tail_steps,
        steps=knobs.steps,
        patches=knobs.patches_per_case,
        tail_share=knobs.tail_minutes_share,
        cache_share=knobs.cache_minutes_share,
        most_folds=request.most_folds or MOST_FOLDS,
        extra=CHOOSING_FOLDS * (len(tried) - 1),
        parent_answers=any(fate in ("kept", "renamed", "merged") for fate in work.change.fates),
        trains_tail=knobs.has_tail_stage,
        caches=starts or knobs.has_tail_stage,
        shares=(starts or knobs.has_tail_stage) and patients > 1,
        inits_from_data=starts,
        may_train_tail_only=knobs.tail_steps > 0 and asked in (FINETUNE, AUTO) and knobs.strategy != SCRATCH,
    )


def by_default(work: FineTuningPlan, tried: Sequence[str]) -> FineTuningPlan:
    """Return the fine_tuning_plan by the first of the strategies to try."""
    return work.by_strategy(tried[0])


def tail_only(configuration: FineTuningConfiguration) -> FineTuningConfiguration:
    """Return the knobs for training nothing but the last layers."""
    return replace(configuration, strategy=FINETUNE, steps=0, tail_minutes_share=1.0)


def with_tail_only(work: FineTuningPlan) -> FineTuningPlan:
    """Return the fine_tuning_plan with nothing but the last layers to train, and a note that says so."""
    notes = tuple(note for note in work.notes if "('vanilla')" not in note)  # that is not what is done now
    note = "There was time for the last layers only: with more minutes all layers are trained, and more is learned."
    if note not in notes:
        notes = (*notes, note)
    return replace(work, configuration=tail_only(work.configuration), notes=notes)


def unjudged_note(work: FineTuningPlan) -> tuple[str, ...]:
    """Return a sentence on the new structures that cannot be judged, none where all can."""
    names = unjudged_structures(work.dataset, work.drawn, work.fresh)
    if not names:
        return ()
    return (
        f"Nothing can be said of {', '.join(names)} in patients who are held out, because one patient alone has it "
        "drawn: it is learned, but not judged. Draw it in a second patient.",
    )


def runs_of(request: FineTuneRequest) -> Path:
    """Return the folder in which an interrupted run is kept."""
    return request.project / RUNS_NAME if request.runs is None else request.runs


def check_outputs(work: FineTuningPlan) -> None:
    """Raise ModelError or TrainingError where the version, or what is kept until then, cannot be written."""
    from TransferSegLib.errors import ModelError

    weights = sum(tensor.numel() * 4.0 for tensor in work.parent.state_dict.values())
    runs, temporary = runs_of(work.request), Path(tempfile.gettempdir())
    check_output_folder(work.library, ModelError)
    check_output_folder(runs, TrainingError)
    check_space(work.library, 2 * weights + 1e6, ModelError)
    check_space(runs, _COPIES_OF_WEIGHTS * weights + 1e6, TrainingError)
    on_disk = _bytes_of_features(work)
    if on_disk > work.configuration.memory_bytes:
        check_space(temporary, on_disk, TrainingError)


def _bytes_of_features(work: FineTuningPlan) -> float:
    """Return the bytes of features that are cached at most."""
    from TransferSegLib.finetuning.feature_cache import bytes_of_patch

    if not (work.configuration.has_tail_stage or work.change.fresh_channels):
        return 0.0
    knobs = work.configuration
    patches = knobs.patches_per_case * sum(bool(names) for names in work.drawn.values())
    a_patch = bytes_of_patch(work.parent.description.network.arguments["width"], work.change, knobs)
    return min(knobs.cache_bytes, patches * a_patch)
