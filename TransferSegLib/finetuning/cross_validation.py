"""What each fold's candidate and the parent do on the cases that the candidate did not see: made once, then read.

The parent predicts every case once, for all folds. A comparison is an entry on the disk when it is made, so that a run
that goes on does not make it again; its candidate has served then and is forgotten.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from TransferSegLib.finetuning.candidates import CandidateTrainer, Cases
from TransferSegLib.finetuning.folds import Fold, divide, learned_structures
from TransferSegLib.finetuning.held_out import HeldOutScorer, comparison_grid
from TransferSegLib.finetuning.plan import FineTuningPlan
from TransferSegLib.finetuning.run_folder import RunFolder
from TransferSegLib.finetuning.run_parts import PARENT, held_out_part, training_part
from TransferSegLib.finetuning.whole_progress import WholeProgress
from TransferSegLib.inference.devices import Device
from TransferSegLib.models.store import Model
from TransferSegLib.progress import CancelToken, Progress, Task


class FoldComparisons:
    """Makes the comparisons of one fine-tuning, of all its folds and strategies, on one grid and one device."""

    def __init__(
        self,
        work: FineTuningPlan,
        cases: Cases,
        folder: RunFolder,
        trainer: CandidateTrainer,
        device: Device,
        whole: WholeProgress,
        say: Callable[[str], None],
        cancel: CancelToken | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Prepare for cases on the model's grid; nothing is predicted yet. ``say`` takes lines for the log."""
        self._work, self._cases, self._folder, self._trainer = work, cases, folder, trainer
        self._whole, self._say, self._cancel, self._clock = whole, say, cancel, clock
        #: The grid that is compared on, in words.
        self.grid = comparison_grid(work.patients, cases.values())
        tolerance_mm = work.request.tolerance_mm
        self._scorer = HeldOutScorer(work.parent, work.change, work.dataset, device, self.grid, tolerance_mm)
        #: Seconds that training a candidate took by strategy, of those that were trained in this process.
        self.training_s: dict[str, float] = {}
        #: Seconds that comparing a case took on average, of the last fold that was compared in this process.
        self.compare_s: float | None = None

    def use(self, work: FineTuningPlan) -> None:
        """Compare what is made by what was decided meanwhile: the last layers alone, or another strategy."""
        self._work = work

    def ask_parent(self) -> float:
        """Let the parent predict every case once; returns the median seconds of one prediction, 0 where none was made.

        Those that an earlier process of this run made count with what they took: the time is planned by it.
        """
        if not self._scorer.parent_knows:
            self._whole.skip(PARENT)
            return 0.0
        took: list[float] = []
        which = _OneOfSeveral(len(self._cases))
        report = self._whole.begin(PARENT, "Segmenting with the parent", which.done)
        for which.index, case in enumerate(self._cases.values()):
            if self._folder.read_array(_answer_file(which.index)) is None:
                began = self._clock()
                answer = self._scorer.predict_by_parent(case, case.id, Task("", report, self._cancel))
                self._folder.write_json(_seconds_file(which.index), {"seconds": self._clock() - began})
                self._folder.write_array(_answer_file(which.index), answer)
            seconds = (self._folder.read_json(_seconds_file(which.index)) or {}).get("seconds")
            took += [seconds] if isinstance(seconds, (int, float)) else []
        self._whole.end()
        return float(np.median(took)) if took else 0.0

    def entry(self, number: int, fold: Fold, strategy: str, minutes: float, title: str) -> dict[str, Any]:
        """Return the comparisons of a fold's candidate by a strategy, and what it could not learn: made, or read.

        ``number`` is the fold's, from 0; ``minutes`` is the time of its candidate (0: its steps decide). The entry
        holds ``comparisons`` (see ``CaseComparison.to_json``), ``unlearned`` (names), and the optimisation steps that
        the candidate made, ``tail_steps`` (of the last layers) and ``steps`` (of all layers).
        """
        name = candidate_name(number, strategy)
        entry = self._folder.read_json(f"{name}.json")
        if entry is None:
            entry = self._compare(number, fold, strategy, minutes, title)
            self._folder.write_json(f"{name}.json", entry)
            self._trainer.forget(name)
        else:
            self._whole.skip(training_part(number, strategy))
            self._whole.skip(held_out_part(number, strategy))
        return entry

    def _compare(self, number: int, fold: Fold, strategy: str, minutes: float, title: str) -> dict[str, Any]:
        """Train one fold's candidate and return its comparisons, and the structures it could not learn."""
        work = self._work.by_strategy(strategy)
        training, held_out = divide(self._cases, fold)
        knobs = replace(work.configuration, minutes=minutes, report_cases=0)
        name, part = candidate_name(number, strategy), training_part(number, strategy)
        began = self._clock()
        trained = self._trainer.train(name, training, knobs, part, title, self._cases)
        self.training_s[strategy] = self._clock() - began
        self._say(f"{name}: {trained.tail_steps} + {trained.steps} steps")
        candidate = Model(work.describe(), trained.state_dict, work.parent_path)
        names = work.change.label_set.names
        fresh = {names[channel - 1] for channel in work.change.fresh_channels}
        unlearned = fresh - learned_structures(training, names)
        comparisons = []
        which = _OneOfSeveral(len(held_out))
        began = self._clock()
        report = self._whole.begin(held_out_part(number, strategy), title, which.done)
        for which.index, (case_id, case) in enumerate(zip(fold.held_out, held_out, strict=True)):
            task = Task("Segmenting", report, self._cancel)
            found = self._scorer.compare(candidate, case, case_id, self._answer(case_id), task)
            scores = {name: score for name, score in found.candidate.items() if name not in unlearned}
            comparisons.append(replace(found, candidate=scores).to_json())
            measured = [score.dice for score in scores.values() if np.isfinite(score.dice)]
            if report is not None and measured:  # a point of the curve of held-out Dice
                stage = f"Held-out case {which.index + 1} of {len(held_out)}"
                report(Progress(stage, 1.0, dice=float(np.mean(measured))))
        self._whole.end()
        self.compare_s = (self._clock() - began) / max(1, len(held_out))
        drawn = {name for case in held_out for name in learned_structures([case], names)}
        return {
            "comparisons": comparisons,
            "unlearned": sorted(unlearned & drawn),
            "tail_steps": trained.tail_steps,
            "steps": trained.steps,
        }

    def _answer(self, case_id: str) -> np.ndarray | None:
        """Return the parent's prediction of a case, None where it knows nothing of what is wanted."""
        return self._folder.read_array(_answer_file(self._work.dataset.ids.index(case_id)))


class _OneOfSeveral:
    """Tells how much of several predictions is done from the reports of the one with the current index."""

    def __init__(self, count: int) -> None:
        self._count = count
        self.index = 0

    def done(self, report: Progress) -> float:
        """Return the share of all."""
        return (self.index + report.fraction) / self._count


def candidate_name(number: int, strategy: str) -> str:
    """Return the name on the disk and in the log of a fold's candidate."""
    return f"fold-{number + 1}-{strategy}"


def _answer_file(index: int) -> str:
    return f"parent-{index}.npz"


def _seconds_file(index: int) -> str:
    return f"parent-{index}.json"
