"""Whether a training that goes on until it no longer improves has time for another round.

It is decided once: a resumed run goes through the rounds that were begun before, however little time is left, and keeps
the round that was kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from TransferSegLib.finetuning.cross_validation import (
    FINAL_TRAINING,
    FORGETTING,
    SAVING,
    candidate_files,
    candidate_name,
    held_out_part,
    training_part,
)
from TransferSegLib.finetuning.folds import Fold
from TransferSegLib.finetuning.rounds import round_share, share_of_all
from TransferSegLib.finetuning.run_folder import Run
from TransferSegLib.finetuning.side_by_side import turns
from TransferSegLib.finetuning.time_plan import Amount, Speeds, TimePlan

#: In the run's folder, once the rounds have ended: how many there were, and which one is kept.
_ROUNDS = "rounds.json"
#: Another round must leave this share of the minutes.
_RESERVE = 0.05


class RoundBudget:
    """Decides on the rounds of one run; ``folds`` are all there are, ``evaluating`` the numbers of those that count."""

    def __init__(self, run: Run, plan: TimePlan, amount: Amount, folds: Sequence[Fold]) -> None:
        self._run, self._plan, self._amount, self._folds = run, plan, amount, folds

    def ended(self) -> tuple[int, int] | None:
        """Return how many rounds there were and which one (from 0) is kept, None while that is not decided."""
        entry: dict[str, Any] = self._run.folder.read_json(_ROUNDS) or {}
        rounds, kept = entry.get("rounds"), entry.get("kept")
        if not (isinstance(rounds, int) and isinstance(kept, int) and 0 <= kept < rounds):
            return None
        return rounds, kept

    def end(self, rounds: int, kept: int) -> None:
        """Keep for a resumed run how many rounds there were, and which one is kept; raises TrainingError."""
        if self.ended() != (rounds, kept):
            self._run.folder.write_json(_ROUNDS, {"rounds": rounds, "kept": kept})

    def begins(self, number: int, evaluating: Sequence[int], speeds: Speeds) -> bool:
        """Tell whether a round (from 0) is to be trained: it was begun before, or fits into the minutes.

        A final candidate after it must fit, too.
        """
        if self._run.plan.request.minutes <= 0:
            return True
        if not self._was_begun(number, evaluating) and not self._fits(number, evaluating, speeds):
            return False
        self._estimate(number, evaluating, speeds)
        return True

    def _was_begun(self, number: int, evaluating: Sequence[int]) -> bool:
        """Tell whether an earlier process has left anything of a round."""
        folder, strategy = self._run.folder, self._run.plan.configuration.strategy
        files = [file for n in evaluating for file in candidate_files(candidate_name(n, strategy, number))]
        return any(folder.has(file) for file in files)

    def _fits(self, number: int, evaluating: Sequence[int], speeds: Speeds) -> bool:
        run, folds = self._run, self._folds
        candidates, held_out = len(evaluating), sum(len(folds[n].held_out) for n in evaluating)
        predicting = speeds
        if run.workers is not None:
            candidates = turns(candidates, 0, run.workers.at_once)
            held_out = candidates * max(len(folds[n].held_out) for n in evaluating)
            predicting = speeds.of_worker()
        needed_s = candidates * (self._training_s(number) + speeds.candidate_s)
        needed_s += held_out * self._compare_s(predicting) + self._final_s(number) + speeds.save_s
        return 60.0 * run.plan.request.minutes * (1 - _RESERVE) - run.spent_s >= needed_s

    def _estimate(self, number: int, evaluating: Sequence[int], speeds: Speeds) -> None:
        """Estimate the parts of a round and what follows it, for the progress."""
        run, strategy = self._run, self._run.plan.configuration.strategy
        predicting = speeds if run.workers is None else speeds.of_worker()
        parts = {}
        for n in evaluating:
            parts[training_part(n, strategy, number)] = self._training_s(number) + speeds.candidate_s
            parts[held_out_part(n, strategy, number)] = self._compare_s(predicting) * len(self._folds[n].held_out)
        report_s = (speeds.predict_s + speeds.score_s) * self._amount.reported
        later = {FINAL_TRAINING: self._final_s(number), FORGETTING: report_s, SAVING: speeds.save_s}
        run.parts.estimate(parts | later)

    def _training_s(self, number: int) -> float:
        return 60.0 * self._plan.minutes_each * round_share(number)

    def _final_s(self, number: int) -> float:
        return 60.0 * self._plan.final_minutes * share_of_all(number + 1)

    def _compare_s(self, speeds: Speeds) -> float:
        return (speeds.predict_s + speeds.score_s) * self._amount.compared
