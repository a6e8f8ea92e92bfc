"""What a fine-tuning has spent of its minutes, over its interruptions, and what the rest is divided among."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from TransferSegLib.finetuning.run_folder import RunFolder
from TransferSegLib.finetuning.time_plan import Amount, Speeds, TimePlan

#: No candidate has less, however little time is left.
_SHORTEST_S = 1.0
#: So much longer than asked for is told.
_TOLERATED = 1.05


class TimeLedger:
    """Seconds spent by a run, in this process and in those before, which are kept in its folder."""

    def __init__(self, minutes: float, folder: RunFolder, clock: Callable[[], float], started: float) -> None:
        """Begin in a process that started at a moment of the clock."""
        self.limit_s = 60.0 * minutes
        self._folder, self._clock, self._started = folder, clock, started
        #: What the processes before have spent.
        self.earlier_s = folder.spent_s

    @property
    def spent_s(self) -> float:
        """Seconds spent so far."""
        return self.earlier_s + self._clock() - self._started

    @property
    def left_s(self) -> float:
        """Seconds left; below 0 when more were spent than given."""
        return self.limit_s - self.spent_s

    def save(self) -> None:
        """Keep what is spent."""
        self._folder.write_spent(self.spent_s)


class CandidateMinutes:
    """Says how long each candidate may train, anew before each: never more than planned, and less where time ran.

    The minutes that a candidate was once given are kept in the plan of the run, and a resumed run keeps to them.
    """

    def __init__(
        self,
        plan: TimePlan,
        amount: Amount,
        speeds: Speeds,
        ledger: TimeLedger,
        held_out: dict[str, int],
        given: dict[str, float],
    ) -> None:
        """``held_out`` names the candidates to train, the final one left out, with the cases each is compared on.

        ``given`` are the minutes of candidates that were begun before.
        """
        self._plan, self._amount, self._speeds, self._ledger = plan, amount, speeds, ledger
        self._to_do = dict(held_out)
        self.given = given

    def of(self, name: str) -> float:
        """Return the minutes of the next candidate (0: its steps decide)."""
        if self._plan.minutes_each <= 0:
            return 0.0
        if name not in self.given:
            candidates = len(self._to_do) + 1
            compared_s = (self._speeds.predict_s + self._speeds.score_s) * sum(self._to_do.values())
            later_s = compared_s + self._speeds.candidate_s * candidates + self._speeds.save_s
            later_s += 2 * self._speeds.predict_s * self._amount.reported
            each_s = max((self._ledger.left_s - later_s) / candidates, _SHORTEST_S)
            self.given[name] = min(self._plan.minutes_each, each_s / 60.0)
        return self.given[name]

    def only(self, names: dict[str, int]) -> None:
        """Say anew which candidates there are to train, the final one left out."""
        self._to_do = dict(names)

    def done(self, name: str) -> None:
        """Take a candidate from those to do."""
        self._to_do.pop(name, None)

    def learn(self, candidate_s: float | None = None, compare_s: float | None = None) -> None:
        """Plan with what a candidate's files, or comparing a case, really took, where that is more than was thought."""
        if candidate_s is not None and candidate_s > self._speeds.candidate_s:
            self._speeds = replace(self._speeds, candidate_s=candidate_s)
        if compare_s is not None:
            score_s = max(compare_s - self._speeds.predict_s, 0.0)
            self._speeds = replace(self._speeds, score_s=score_s)


def overrun_note(minutes: float, seconds: float) -> tuple[str, ...]:
    """Return a sentence where a run took longer than its minutes by more than some per cent."""
    if minutes <= 0 or seconds <= 60.0 * minutes * _TOLERATED:
        return ()
    return (
        f"It took {seconds / 60:.1f} min, longer than the {minutes:g} min given: this machine was slower than it was "
        "when the time was planned.",
    )
