"""Is the candidate better than its parent? A plain verdict from paired scores, honest about few cases.

The rule (``docs/evidence.md`` tells why, ``Testing/benchmarks/verdict_simulation.py`` how often it errs): the mean
difference over patients gets an interval by the moderated t method (Smyth, Stat Appl Genet Mol Biol 3, 2004): the
spread seen in these patients is mixed with the spread usual between patients, weighted as if that had been seen in a
few more. Two or three patients who happen to agree do not pass for certainty then, and three can still show a clear
loss. The interval is never narrower than what another training run would change by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache
from typing import Any

import numpy as np
from scipy import stats

from TransferSegLib.evaluation.statistics import (
    Comparison,
    PairedScore,
    by_patient,
    compare,
    pair_scores,
)
from TransferSegLib.structures import structure_key

#: Below this mean Dice a new structure is said to be hardly usable.
_HARDLY_USABLE = 0.5

Results = Mapping[str, Mapping[str, float]]


class Answer(StrEnum):
    """The four verdicts."""

    BETTER = "better"
    NO_CLEAR_DIFFERENCE = "no clear difference"
    WORSE = "worse"
    TOO_FEW = "too few cases to say"


@dataclass(frozen=True)
class VerdictRule:
    """The knobs of the rule; differences are in Dice."""

    #: A mean difference below this does not matter, however sure it is.
    smallest_difference: float = 0.01
    #: 'No clear difference' is only said when a gain or loss beyond this can be ruled out.
    largest_overlooked: float = 0.1
    #: A structure that clearly lost at least so much makes the candidate worse, whatever the others gained.
    unacceptable_loss: float = 0.1
    #: Coverage of the interval: 0.9 leaves 5 % on either side, so 5 % false claims of 'better' at most.
    confidence: float = 0.9
    #: Usual standard deviation between patients, of a case's mean over structures and of a single structure ...
    usual_spread: float = 0.04
    usual_spread_of_structure: float = 0.06
    #: ... and the number of patients (less one) that this knowledge counts for.
    usual_weight: float = 3.0
    #: Standard deviation of what another training run would change by itself, the same in every case.
    training_noise: float = 0.01

    def interval(self, differences: np.ndarray, of_structure: bool = False, tests: int = 1) -> tuple[float, float]:
        """Return the interval of the mean of one difference per patient; wider for one of several tests (Bonferroni).

        Raises ValueError for no difference.
        """
        count = len(differences)
        if count == 0:
            raise ValueError("There is no patient to compare on.")
        usual = self.usual_spread_of_structure if of_structure else self.usual_spread
        seen = float(np.sum((differences - differences.mean()) ** 2))
        freedom = self.usual_weight + count - 1
        spread_squared = (self.usual_weight * usual**2 + seen) / freedom
        error = math.sqrt(spread_squared / count + self.training_noise**2)
        half = _t_quantile(1 - (1 - self.confidence) / (2 * tests), freedom) * error
        mean = float(differences.mean())
        return mean - half, mean + half

    def collapsed(self, differences: np.ndarray, tests: int) -> bool:
        """Tell whether one of several structures clearly lost more than is acceptable; one difference per patient."""
        lost = float(differences.mean()) <= -self.unacceptable_loss
        return lost and self.interval(differences, True, tests)[1] < 0

    def answer(self, patients: int, difference: float, low: float, high: float) -> Answer:
        """Return the verdict on one mean difference with its interval.

        One patient can raise the alarm, but cannot show that a model is better.
        """
        if high < 0 and difference <= -self.smallest_difference:
            return Answer.WORSE
        if patients < 2:
            return Answer.TOO_FEW
        if low > 0 and difference >= self.smallest_difference:
            return Answer.BETTER
        if max(-low, high) <= self.largest_overlooked:
            return Answer.NO_CLEAR_DIFFERENCE
        return Answer.TOO_FEW


@lru_cache
def _t_quantile(level: float, freedom: float) -> float:
    """Return a quantile of Student's t distribution."""
    return float(stats.t.ppf(level, freedom))


@dataclass(frozen=True)
class Change:
    """What happened to one structure, or to the mean of the structures (``structure`` None).

    ``parent`` and ``candidate`` are mean Dice over patients; ``low`` and ``high`` bound their difference.
    ``collapsed``: the loss is beyond what is acceptable, and certain even as one of several structures looked at.
    """

    structure: str | None
    patients: int
    parent: float
    candidate: float
    difference: float
    low: float
    high: float
    answer: Answer
    collapsed: bool = False

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return vars(self) | {"answer": str(self.answer)}


@dataclass(frozen=True)
class NewStructure:
    """A structure that only the candidate knows: mean and smallest Dice over patients."""

    structure: str
    patients: int
    mean: float
    smallest: float

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return dict(vars(self))


@dataclass(frozen=True)
class Verdict:
    """The answer, why in a sentence or two, what to look at, and the numbers behind it.

    ``overall`` is None when the two models know no structure in common, or share no case. ``comparisons`` are the
    textbook statistics (bootstrap, Wilcoxon) of the same pairs: see ``TransferSegLib.evaluation.statistics``.
    """

    answer: Answer
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    overall: Change | None = None
    structures: tuple[Change, ...] = ()
    new: tuple[NewStructure, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    rule: VerdictRule = field(default_factory=VerdictRule)

    @property
    def text(self) -> str:
        """The reasons and warnings as one paragraph."""
        return " ".join([*self.reasons, *self.warnings])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description, with the rule it was reached by."""
        return {
            "verdict": str(self.answer),
            "reasons": list(self.reasons),
            "warnings": list(self.warnings),
            "overall": None if self.overall is None else self.overall.to_json(),
            "structures": [change.to_json() for change in self.structures],
            "new": [structure.to_json() for structure in self.new],
            "comparisons": [row.to_json() for row in self.comparisons],
            "rule": dict(vars(self.rule)),
        }


def judge(
    parent: Results,
    candidate: Results,
    groups: Mapping[str, str] | None = None,
    rule: VerdictRule | None = None,
    caveat: str = "",
    seed: int = 0,
) -> Verdict:
    """Return the verdict on a candidate from the Dice of both models: case -> structure -> Dice.

    The cases must be ones that the candidate (in cross-validation: the one of that fold) was not trained on.
    ``groups`` gives the patient of a case (default: the case). A structure without any score of the parent is new: it
    counts as better than nothing, but cannot make up for a loss elsewhere. ``caveat`` is a sentence on the evidence
    ("Weak evidence: measured on parts of the training case.") that goes with the reasons.
    """
    rule = rule or VerdictRule()
    pairs = pair_scores(parent, candidate, groups)
    new = _new_structures(parent, candidate, groups)
    overall = _change(pairs, None, rule, 1) if pairs else None
    names = list(dict.fromkeys(pair.structure for pair in pairs))
    changes = tuple(
        _change([pair for pair in pairs if pair.structure == name], name, rule, len(names)) for name in names
    )
    answer, reasons = _decide(overall, changes, new, rule)
    return Verdict(
        answer=answer,
        reasons=(*reasons, caveat) if caveat else reasons,
        warnings=(*_warnings(answer, changes, new), *_unpaired(parent, candidate)),
        overall=overall,
        structures=changes,
        new=new,
        comparisons=tuple(compare(pairs, seed=seed)),
        rule=rule,
    )


def _change(pairs: Sequence[PairedScore], structure: str | None, rule: VerdictRule, tests: int) -> Change:
    """Return what happened to one structure, or to all."""
    means = np.array(list(by_patient(pairs).values()))
    differences = means[:, 1] - means[:, 0]
    difference = float(differences.mean())
    low, high = rule.interval(differences, structure is not None)
    return Change(
        structure=structure,
        patients=len(means),
        parent=float(means[:, 0].mean()),
        candidate=float(means[:, 1].mean()),
        difference=difference,
        low=low,
        high=high,
        answer=rule.answer(len(means), difference, low, high),
        collapsed=structure is not None and rule.collapsed(differences, tests),
    )


def _decide(
    overall: Change | None, changes: Sequence[Change], new: Sequence[NewStructure], rule: VerdictRule
) -> tuple[Answer, tuple[str, ...]]:
    """Return the answer and its reasons."""
    found = "".join(
        f"It finds {row.structure}, which its parent does not know (mean Dice {row.mean:.2f}). " for row in new
    ).strip()
    gains = [row for row in new if row.patients >= 2 and row.mean >= rule.smallest_difference]
    if overall is None:
        if not new:
            return Answer.TOO_FEW, ("There is no case in which both models have a structure to compare.",)
        answer = Answer.BETTER if gains else Answer.TOO_FEW
        few = () if gains else ("That is one patient: correct more to see what it does in others.",)
        return answer, (found, *few)
    reason = _reason(overall, rule)
    collapsed = [change for change in changes if change.collapsed]
    if collapsed:
        losses = ", ".join(f"{change.structure} lost {-change.difference:.2f}" for change in collapsed)
        return Answer.WORSE, (f"In mean Dice {losses}.", reason)
    answer = overall.answer
    if answer is Answer.NO_CLEAR_DIFFERENCE and gains:
        answer = Answer.BETTER
    return answer, (found, reason) if found else (reason,)


def _reason(overall: Change, rule: VerdictRule) -> str:
    """Return the numbers of the mean as a sentence for a person."""
    patients = "1 held-out patient" if overall.patients == 1 else f"{overall.patients} held-out patients"
    before, after = f"{overall.parent:.3f}", f"{overall.candidate:.3f}"
    moved = f"{'rose' if overall.difference > 0 else 'fell'} from {before} to {after}"
    course = f"stayed at {before}" if before == after else moved
    interval = f"{100 * rule.confidence:.0f} % interval {overall.low:+.3f} to {overall.high:+.3f}"
    numbers = f"On {patients} the mean Dice {course} ({overall.difference:+.3f}, {interval})"
    if overall.answer is Answer.NO_CLEAR_DIFFERENCE:
        clear = overall.low > 0 or overall.high < 0
        return numbers + (": too little to matter." if clear else ": that may be chance.")
    if overall.answer is Answer.TOO_FEW:
        if overall.patients == 1:
            return numbers + ": one patient does not show what it does in others."
        return numbers + ": it may be a gain or a loss; more corrected cases will tell."
    return numbers + "."


def _warnings(answer: Answer, changes: Sequence[Change], new: Sequence[NewStructure]) -> tuple[str, ...]:
    """Return what a person should look at in single structures; not corrected for their number, on purpose."""
    warnings = []
    for change in changes:
        if change.answer is Answer.WORSE:
            although = " although the mean is better" if answer is Answer.BETTER else ""
            warnings.append(
                f"{change.structure} is worse by {-change.difference:.2f} "
                f"({change.parent:.2f} to {change.candidate:.2f}){although}."
            )
    for row in new:
        if row.mean < _HARDLY_USABLE:
            warnings.append(f"{row.structure} is new and hardly usable yet (mean Dice {row.mean:.2f}).")
    return tuple(warnings)


def _new_structures(parent: Results, candidate: Results, groups: Mapping[str, str] | None) -> tuple[NewStructure, ...]:
    """Return the structures that only the candidate has scores of."""
    known = {structure_key(name) for scores in parent.values() for name in scores}
    names = dict.fromkeys(name for scores in candidate.values() for name in scores if structure_key(name) not in known)
    rows = []
    for name in names:
        scores = {case: {name: found[name]} for case, found in candidate.items() if name in found}
        nothing = {case: {name: 0.0} for case in scores}
        means = [after for _, after in by_patient(pair_scores(nothing, scores, groups)).values()]
        if means:
            rows.append(NewStructure(name, len(means), float(np.mean(means)), float(np.min(means))))
    return tuple(rows)


def _unpaired(parent: Results, candidate: Results) -> tuple[str, ...]:
    """Return warnings about structures the candidate no longer knows, or claims where there are none."""
    known, kept = (
        {structure_key(name): name for scores in results.values() for name in scores} for results in (parent, candidate)
    )
    warnings = [f"{known[key]} is no longer found by the candidate." for key in known if key not in kept]
    claims: dict[str, list[str]] = {}
    for case, scores in candidate.items():
        before = {structure_key(name) for name in parent.get(case, {})}
        for name in scores:
            if case in parent and structure_key(name) in known and structure_key(name) not in before:
                claims.setdefault(name, []).append(case)
    warnings += [
        f"The candidate marks {name} where there is none, which its parent does not: {', '.join(cases)}."
        for name, cases in claims.items()
    ]
    return tuple(warnings)
