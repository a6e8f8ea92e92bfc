"""Is the candidate better than its parent? A plain verdict from paired scores, which says when cases are too few.

The rule (``docs/evidence.md`` tells why, the benchmark ``verdict_simulation`` how often it errs): the mean
difference over patients gets an interval by the moderated t method (Smyth, Stat Appl Genet Mol Biol 3, 2004): the
spread seen in these patients is mixed with the spread usual between patients, weighted as if that had been seen in a
few more. Two or three patients who happen to agree do not pass for certainty then, and three can still show a clear
loss. The interval is never narrower than what another training run would change by itself.

Every mean Dice is reported with its interval for unseen patients (``mean_interval``). Each structure gets a verdict of
its own, from which the one for all follows: no structure is outvoted, and what is not usable is not better.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from TransferSegLib.evaluation import verdict_words as words
from TransferSegLib.evaluation.statistics import (
    Comparison,
    PairedScore,
    by_patient,
    compare,
    differences_by_patient,
    mean_interval,
    pair_scores,
)
from TransferSegLib.evaluation.verdict_advice import IMPROVES, SHORT_TRAINING, headline
from TransferSegLib.evaluation.verdict_claims import MARKED, Claims, claims_of, unknown_to
from TransferSegLib.evaluation.verdict_rule import WARNED, Answer, Usability, VerdictRule
from TransferSegLib.structures import structure_key

__all__ = ["Answer", "Change", "NewStructure", "Results", "Training", "Verdict", "VerdictRule", "judge"]

Results = Mapping[str, Mapping[str, float]]
Interval = tuple[float, float]


@dataclass(frozen=True)
class Training:
    """How long candidates were trained: the fewest optimisation steps of any, and the minutes that all of it took.

    ``minutes`` 0: the minutes did not decide how long. ``has_converged``: more training was tried, and brought nothing.
    """

    steps: int
    minutes: float = 0.0
    has_converged: bool = False

    @property
    def is_long(self) -> bool:
        """Whether more cases are likelier to help than more training."""
        return self.has_converged or self.steps >= SHORT_TRAINING


@dataclass(frozen=True)
class Change:
    """What happened to one structure, or to the mean of the structures (``structure`` None).

    ``parent`` and ``candidate`` are mean Dice over patients, each with its interval for unseen patients; ``low`` and
    ``high`` bound their difference. ``nsd`` is the candidate's mean surface Dice, None where none was measured.
    ``collapsed``: the loss is beyond what is acceptable, and certain even as one of several structures looked at.
    ``word`` is ``answer`` for the user: a gain that leaves a structure unusable is not called better.
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
    parent_interval: Interval = (0.0, 1.0)
    candidate_interval: Interval = (0.0, 1.0)
    nsd: float | None = None
    word: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        intervals = {key: list(getattr(self, key)) for key in ("parent_interval", "candidate_interval")}
        return vars(self) | intervals | {"answer": str(self.answer), "word": str(self.word)}


@dataclass(frozen=True)
class NewStructure:
    """A structure that only the candidate knows: mean and smallest Dice over patients, and if it is usable.

    ``interval`` is that of the mean over unseen patients, ``nsd`` the mean surface Dice (None: not measured).
    ``more_patients``: so many more like these would make sure of one that looks usable. ``hint`` says what would help.
    """

    structure: str
    patients: int
    mean: float
    smallest: float
    interval: Interval = (0.0, 1.0)
    nsd: float | None = None
    word: Usability = Usability.LEARNS
    more_patients: int | None = None
    hint: str = ""

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return vars(self) | {"interval": list(self.interval), "word": str(self.word)}


@dataclass(frozen=True)
class Verdict:
    """The answer, why in a sentence or two, what to look at, and the numbers behind it.

    ``overall`` is None when the two models know no structure in common, or share no case. ``obstacles`` are the
    sentences on why a version with this verdict is not used by itself; it is when there is none. ``comparisons`` are
    the textbook statistics (bootstrap, Wilcoxon) of the same pairs: see ``TransferSegLib.evaluation.statistics``.
    ``first_in_use`` is the first of the reasons for somebody who uses the new version: it advises other things.
    ``claims`` tells what is marked where there is none.
    """

    answer: Answer
    reasons: tuple[str, ...]
    warnings: tuple[str, ...] = ()
    overall: Change | None = None
    structures: tuple[Change, ...] = ()
    new: tuple[NewStructure, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    rule: VerdictRule = field(default_factory=VerdictRule)
    obstacles: tuple[str, ...] = ()
    training: Training | None = None
    first_in_use: str = ""
    claims: tuple[Claims, ...] = ()

    @property
    def text(self) -> str:
        """The reasons and warnings as one paragraph."""
        return " ".join([*self.reasons, *self.warnings])

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description, with the rule it was reached by."""
        return {
            "verdict": str(self.answer),
            "reasons": list(self.reasons),
            "first_in_use": self.first_in_use,
            "warnings": list(self.warnings),
            "overall": None if self.overall is None else self.overall.to_json(),
            "structures": [change.to_json() for change in self.structures],
            "new": [structure.to_json() for structure in self.new],
            "claims": [claim.to_json() for claim in self.claims],
            "comparisons": [row.to_json() for row in self.comparisons],
            "rule": self.rule.to_json(),
            "promotion": {
                "automatic": not self.obstacles,
                "warned": self.answer in WARNED,
                "obstacles": list(self.obstacles),
            },
            "steps": None if self.training is None else self.training.steps,
        }


def judge(
    parent: Results,
    candidate: Results,
    groups: Mapping[str, str] | None = None,
    rule: VerdictRule | None = None,
    caveat: str = "",
    seed: int = 0,
    *,
    surface: Results | None = None,
    training: Training | None = None,
    on_parts: bool = False,
    parent_note: str = "",
    known: Collection[str] | None = None,
    present: Mapping[str, Collection[str]] | None = None,
) -> Verdict:
    """Return the verdict on a candidate from the Dice of both models: case -> structure -> Dice.

    The cases must be ones that the candidate (in cross-validation: the one of that fold) was not trained on.
    ``groups`` gives the patient of a case (default: the case). ``known`` names the structures that both models know
    (None: those that the parent has a score of). A structure that the parent does not know is new: it counts as better
    than nothing where it is usable, but cannot make up for a loss elsewhere. What is marked where there is none is
    looked at by itself, see ``verdict_claims``. ``surface`` is the candidate's surface Dice (None: not measured),
    ``training`` how long the candidates were trained (None: unknown).
    ``caveat`` is a sentence on the evidence ("Weak evidence: measured on parts of the training case.") that goes with
    the reasons. ``on_parts``: the cases are parts of scans, each predicted by a network that was trained on other
    parts; ``present`` names for each part the structures that its whole scan has (None: unknown). The first reason says
    what the verdict means and what to do; ``parent_note``, where the parent was measured, is a sentence on that which
    ends it.
    """
    rule = rule or VerdictRule()
    surface = surface or {}
    pairs = pair_scores(parent, candidate, groups)
    new = _new_structures(unknown_to(parent, candidate, known), candidate, groups, surface, rule, training)
    claims = claims_of(parent, candidate, known, present)
    changes = _changes(pairs, claims, surface, groups, rule)
    overall = _overall(pairs, changes, rule) if pairs else None
    answer = _answer(overall, changes, new, claims, rule, training)
    more = None if overall is None else rule.more_patients(differences_by_patient(pairs))
    first = headline(answer, overall, changes, new, claims, rule, training, on_parts=on_parts, more_patients=more)
    note = "" if overall is None else parent_note
    numbers = words.numbers(overall, new, claims, rule, on_parts)
    return Verdict(
        answer=answer,
        reasons=(first.text(note), *numbers, *([caveat] if caveat else [])),
        warnings=(*words.warnings(answer, changes, new), *_lost(parent, candidate), *words.claimed(claims)),
        overall=overall,
        structures=changes,
        new=new,
        comparisons=tuple(compare(pairs, seed=seed)),
        rule=rule,
        obstacles=words.obstacles(answer, changes, new, claims, training),
        training=training,
        first_in_use=first.text(note, in_use=True),
        claims=claims,
    )


def _changes(
    pairs: Sequence[PairedScore],
    claims: Sequence[Claims],
    surface: Results,
    groups: Mapping[str, str] | None,
    rule: VerdictRule,
) -> tuple[Change, ...]:
    """Return what happened to each structure that both have a score of; one marked where there is none says so."""
    names = list(dict.fromkeys(pair.structure for pair in pairs))
    marked = {structure_key(claim.structure) for claim in claims if claim.cases}
    changes = []
    for name in names:
        own = [pair for pair in pairs if pair.structure == name]
        cases = {pair.case for pair in own}
        nsd = _patient_means({case: found for case, found in surface.items() if case in cases}, name, groups)
        change = _change(own, name, rule, len(names), nsd)
        is_lost = change.answer in (Answer.WORSE, Answer.PROBABLY_WORSE)
        says_marked = structure_key(name) in marked and not is_lost
        changes.append(replace(change, word=MARKED) if says_marked else change)
    return tuple(changes)


def _change(
    pairs: Sequence[PairedScore], structure: str | None, rule: VerdictRule, tests: int, nsd: Sequence[float]
) -> Change:
    """Return what happened to one structure, or to all."""
    means = np.array(list(by_patient(pairs).values()))
    differences = means[:, 1] - means[:, 0]
    low, high = rule.interval(differences, structure is not None)
    answer = rule.judge(differences, structure is not None, tests)
    candidate, surface = float(means[:, 1].mean()), float(np.mean(nsd)) if nsd else None
    gains = answer is Answer.BETTER and not rule.usability.reaches(candidate, surface)
    return Change(
        structure=structure,
        patients=len(means),
        parent=float(means[:, 0].mean()),
        candidate=candidate,
        difference=float(differences.mean()),
        low=low,
        high=high,
        answer=answer,
        collapsed=structure is not None and rule.collapsed(differences, tests),
        parent_interval=mean_interval(means[:, 0]),
        candidate_interval=mean_interval(means[:, 1]),
        nsd=surface,
        word=IMPROVES if gains else answer,
    )


def _overall(pairs: Sequence[PairedScore], changes: Sequence[Change], rule: VerdictRule) -> Change:
    """Return what happened to the mean of the known structures.

    A better mean is better where a structure that got better is usable; where none got better by itself, the mean is to
    be so.
    """
    overall = _change(pairs, None, rule, 1, [])
    gained = [change for change in changes if change.answer is Answer.BETTER]
    if overall.answer is not Answer.BETTER or not gained:
        return overall
    is_usable = any(change.word != IMPROVES for change in gained)
    return replace(overall, word=overall.answer if is_usable else IMPROVES)


def _answer(
    overall: Change | None,
    changes: Sequence[Change],
    new: Sequence[NewStructure],
    claims: Sequence[Claims],
    rule: VerdictRule,
    training: Training | None,
) -> Answer:
    """Return the word for all structures together: the first that applies of those below."""
    if training is not None and training.steps < rule.fewest_steps:
        return Answer.TOO_SHORT
    known = None
    if overall is not None:
        collapsed = any(change.collapsed for change in changes)
        known = rule.of_known(overall.answer, overall.difference, [change.answer for change in changes], collapsed)
        if known in WARNED:
            return known
    if any(claim.cases for claim in claims):
        return Answer.PARTLY_WORSE
    if any(row.word in (Usability.LEARNS, Usability.NOT_FOUND) for row in new):
        return Answer.NOT_USABLE
    if any(row.word is Usability.LOOKS_USABLE for row in new):
        return Answer.TOO_FEW if known is Answer.TOO_FEW else Answer.LOOKS_USABLE
    if overall is None or known is None:
        return Answer.BETTER if new else Answer.TOO_FEW
    if overall.word == IMPROVES:
        return Answer.NOT_USABLE
    return Answer.BETTER if known is Answer.NO_CLEAR_DIFFERENCE and new else known


def _new_structures(
    names: Sequence[str],
    candidate: Results,
    groups: Mapping[str, str] | None,
    surface: Results,
    rule: VerdictRule,
    training: Training | None,
) -> tuple[NewStructure, ...]:
    """Return what can be said of structures that only the candidate knows."""
    rows = []
    for name in names:
        dice = _patient_means(candidate, name, groups)
        if not dice:
            continue
        nsd = _patient_means(surface, name, groups)
        word = rule.usability.judge(dice, nsd)
        more = rule.usability.more_patients(dice) if word is Usability.LOOKS_USABLE else None
        rows.append(
            NewStructure(
                structure=name,
                patients=len(dice),
                mean=float(np.mean(dice)),
                smallest=float(np.min(dice)),
                interval=mean_interval(dice),
                nsd=float(np.mean(nsd)) if nsd else None,
                word=word,
                more_patients=more,
                hint=words.hint(word, more, len(dice), training),
            )
        )
    return tuple(rows)


def _patient_means(results: Results, name: str, groups: Mapping[str, str] | None) -> list[float]:
    """Return the mean score of one structure by patient, of those in whom it was measured."""
    scores = {case: {name: found[name]} for case, found in results.items() if name in found}
    return [after for _, after in by_patient(pair_scores(scores, scores, groups)).values()]


def _lost(parent: Results, candidate: Results) -> tuple[str, ...]:
    """Return warnings about structures that are there, and that the candidate does not know any more.

    What it knows has a score wherever it is there; where the parent found nothing right it may not be there at all.
    """
    found = {structure_key(name): name for scores in parent.values() for name, dice in scores.items() if dice > 0}
    kept = {structure_key(name) for scores in candidate.values() for name in scores}
    return tuple(f"{name} is no longer found by the new version." for key, name in found.items() if key not in kept)
