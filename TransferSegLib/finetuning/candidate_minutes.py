"""How long each candidate of a fine-tuning may train, decided before each by what is left of the minutes."""

from __future__ import annotations

from dataclasses import replace

from TransferSegLib.finetuning.run_folder import Run
from TransferSegLib.finetuning.time_plan import Amount, Speeds, TimePlan

#: No candidate has less, however little time is left.
_SHORTEST_S = 1.0


class CandidateMinutes:
    """How long each candidate may train, decided before each; those of the folds never longer than planned.

    The final one, which comes last, gets what is left.

    The minutes that a candidate was once given are kept in the plan of the run, and a resumed run keeps to them.
    """

    def __init__(
        self,
        plan: TimePlan,
        amount: Amount,
        speeds: Speeds,
        run: Run,
        held_out: dict[str, int],
        given: dict[str, float],
    ) -> None:
        """``held_out`` names the candidates to train but for the final one, with the cases each is compared on.

        ``given`` are the minutes of candidates that were begun before.
        """
        self._plan, self._amount, self._run = plan, amount, run
        self.speeds = speeds
        self.to_do = dict(held_out)
        self.given = given

    def of(self, name: str) -> float:
        """Return the minutes of the next candidate (0: its steps decide)."""
        if self._plan.minutes_each <= 0:
            return 0.0
        if name not in self.given:
            plan, speeds = self._plan, self.speeds
            turns, held_out, comparing = len(self.to_do), sum(self.to_do.values()), speeds
            if self._amount.workers:
                turns = -(-turns // self._amount.workers)
                held_out, comparing = turns * max(self.to_do.values(), default=0), speeds.of_worker()
            later_s = (comparing.predict_s + comparing.score_s) * held_out * self._amount.compared
            later_s += speeds.candidate_s * (turns + 1) + speeds.save_s
            later_s += (speeds.predict_s + speeds.score_s) * self._amount.reported
            left_s = self._run.left_s - later_s
            if self.to_do:
                left_s *= plan.minutes_each / (plan.minutes_each * turns + plan.final_minutes)
            minutes = max(left_s, _SHORTEST_S) / 60.0
            self.given[name] = min(plan.minutes_each, minutes) if self.to_do else minutes
        return self.given[name]

    def took(self, name: str, candidate_s: float | None = None, compare_s: float | None = None) -> None:
        """Take a candidate from those to do, and plan with what its files and comparing a case really took."""
        self.to_do.pop(name, None)
        speeds = self.speeds
        if candidate_s is not None:
            speeds = replace(speeds, candidate_s=max(candidate_s, speeds.candidate_s))
        if compare_s is not None:
            # Where comparing is slower than was thought, what is still to be predicted and saved will be, too.
            slower = max(1.0, compare_s / max(speeds.predict_s + speeds.score_s, 1e-9))
            speeds = replace(speeds, predict_s=slower * speeds.predict_s, save_s=slower * speeds.save_s)
            speeds = replace(speeds, score_s=max(compare_s - speeds.predict_s, 0.0))
        self.speeds = speeds
