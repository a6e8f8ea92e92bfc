"""The first sentences of a verdict, for somebody who has read nothing: what was found, and what to do now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from TransferSegLib.evaluation.verdict_rule import Answer, Usability, VerdictRule
from TransferSegLib.wording import before_and_after, counted, enumerated

if TYPE_CHECKING:
    from TransferSegLib.evaluation.verdict import Change, NewStructure, Training
    from TransferSegLib.evaluation.verdict_claims import Claims

#: The word for a known structure that got better, and is still not usable.
IMPROVES = "improves, not usable yet"
#: On what the compared networks were measured, as a sentence begins with it; the second where there is one patient
#: only. The version itself has learned from all of it.
ON_SCANS, ON_PARTS = "On scans left out of training", "On parts of the scans that were left out of training"
#: A candidate with fewer optimisation steps is helped by a longer training before it is by more cases: in the study
#: (docs/study.md) candidates made about so many.
SHORT_TRAINING = 150
#: What the words of a verdict mean.
DICE_MEANS = "Dice is the overlap with your corrections, from 0 (none) to 1 (the same)."
INTERVAL_MEANS = (
    "A 90 % interval is the range in which the mean of many patients like yours is expected; it is right nine times in "
    "ten."
)
_KEEP = "Keep the old version"
_MORE_SCANS = "more scans of other patients"
_DECIDE = "or look at the worst case and decide yourself"


def without_keeping(reason: str) -> str:
    """Return a stored reason without the advice to keep the old version: earlier versions kept no other advice."""
    return re.sub(rf" {_KEEP}[^.]*\.", "", reason)


@dataclass(frozen=True)
class Headline:
    """What was found, and what to do now: ``advice`` for somebody who uses the old version, ``in_use`` for others.

    Both are sentences, empty where there is nothing to do.
    """

    found: str
    advice: str = ""
    in_use: str = ""

    def text(self, note: str = "", *, in_use: bool = False) -> str:
        """Return the sentences, with a note at their end; ``in_use``: for somebody who uses the new version."""
        return " ".join(part for part in (self.found, self.in_use if in_use else self.advice, note) if part)


def headline(
    answer: Answer,
    overall: Change | None,
    changes: Sequence[Change],
    new: Sequence[NewStructure],
    claims: Sequence[Claims],
    rule: VerdictRule,
    training: Training | None,
    *,
    on_parts: bool = False,
    more_patients: int | None = None,
) -> Headline:
    """Return what the verdict means, and what to do unless that is to use the new version.

    ``on_parts``: measured on parts of scans, with networks that were trained on the others; ``more_patients``: so many
    more would settle the change of the mean (None: not known).
    """
    where = ON_PARTS if on_parts else ON_SCANS
    if answer is Answer.TOO_SHORT and training is not None:
        again = "Fine-tune again with more minutes."
        return Headline(
            f"The networks that were compared made {counted(training.steps, 'training step')}, and need at least "
            f"{rule.fewest_steps}.",
            again,
            again,
        )
    if answer in (Answer.TOO_FEW, Answer.LOOKS_USABLE):
        return _too_few(overall, new, where, more_patients)
    if answer is Answer.NOT_USABLE:
        helps = _what_helps(new, training)
        return Headline(f"{where}, {_unusable(changes, new)}.", f"{_KEEP}. {helps}", helps)
    if answer is Answer.BETTER:
        return Headline(f"{where}, {_better(overall, new)}.")
    if answer is Answer.PARTLY_WORSE:
        return _partly_worse(overall, changes, claims, rule, where)
    assert overall is not None
    if answer is Answer.NO_CLEAR_DIFFERENCE:
        return Headline(
            f"{where}, the new version is about as good as the old one ({_dice(overall)}).",
            f"{_KEEP}, or correct {_MORE_SCANS} and fine-tune again.",
        )
    return _loss(answer, overall, changes, where)


def _partly_worse(
    overall: Change | None, changes: Sequence[Change], claims: Sequence[Claims], rule: VerdictRule, where: str
) -> Headline:
    """Return in which structures the new version is worse; ``overall`` None: there is nothing else to compare."""
    lost = " and ".join(part for part in (_lost(changes), *_marked(claims)) if part)
    is_exchanged = any(claim.cases and claim.gone for claim in claims)
    found = f"the new version {lost}{'' if is_exchanged else ', which the old one does not'}"
    if overall is not None:
        on_average, but = "about as good as the old one on average", "but"
        if overall.difference >= rule.smallest_difference:
            on_average = "better on average"
        elif overall.difference <= -rule.smallest_difference:
            on_average, but = "not as good on average", "and"
        found = f"the new version is {on_average} ({_dice(overall)}), {but} {lost}"
    return Headline(f"{where}, {found}.", "Look at the worst case before you use it.", "Look at the worst case.")


def _marked(claims: Sequence[Claims]) -> list[str]:
    """Return what the new version marks where there is none; with numbers where the old one does so in other cases."""
    only_new = [claim.structure for claim in claims if claim.cases and not claim.gone]
    return [
        *([f"marks {enumerated(only_new)} where there is none"] if only_new else []),
        *(
            f"marks {claim.structure} in {counted(len(claim.cases), 'case')} without it (the old one in "
            f"{counted(len(claim.gone), 'other')})"
            for claim in claims
            if claim.cases and claim.gone
        ),
    ]


def _loss(answer: Answer, overall: Change, changes: Sequence[Change], where: str) -> Headline:
    """Return what is worse, or probably so."""
    lost = _lost(changes)
    if answer is Answer.PROBABLY_WORSE:
        lost = _lost(changes, is_certain=False) or f"probably worse ({_dice(overall)})"
        shows = "More corrected scans of other patients would show whether that is so."
        return Headline(f"{where}, the new version is {lost}.", f"{_KEEP}. {shows}", shows)
    # The mean can be surely worse where no structure by itself is.
    lost = lost if lost.startswith("worse") else f"worse ({_dice(overall)})"
    return Headline(
        f"{where}, the new version is {lost}.", f"{_KEEP}, and check your corrections.", "Check your corrections."
    )


def _better(overall: Change | None, new: Sequence[NewStructure]) -> str:
    """Return what is better."""
    if not new:
        assert overall is not None
        return f"the new version is better ({_dice(overall)})"
    found = f"the new version finds {_found(new)}, which the old one does not know"
    if overall is None:
        return found
    rest = "is better" if overall.answer is Answer.BETTER else "is about as good as before"
    return f"{found}; what the old one knows {rest} ({_dice(overall)})"


def _too_few(overall: Change | None, new: Sequence[NewStructure], where: str, more_patients: int | None) -> Headline:
    """Return what could not be said, and what would settle it."""
    unsure = [row for row in new if row.word is Usability.LOOKS_USABLE]
    if unsure:
        patients = counted(min(row.patients for row in unsure), "patient")
        known = [row.more_patients for row in unsure if row.more_patients is not None]
        again = f"Correct {_more_scans(max(known) if len(known) == len(unsure) else None)} and fine-tune again"
        return Headline(
            f"{where}, the new version finds {_found(unsure)}, which the old one does not know, but {patients} cannot "
            "show that it does so in others.",
            f"{again}, {_DECIDE}.",
            f"{again}.",
        )
    if overall is None:
        again = f"Correct {_MORE_SCANS} and fine-tune again."
        return Headline("There is no scan in which both versions have a structure to compare.", again, again)
    patients = counted(overall.patients, "patient")
    again = f"Correct {_more_scans(more_patients)} and fine-tune again"
    return Headline(
        f"{where}, the new version scores {_dice(overall)}, but {patients} cannot show whether that is chance.",
        f"{again}, {_DECIDE}.",
        f"{again}.",
    )


def _more_scans(count: int | None) -> str:
    if count is None:
        return _MORE_SCANS
    return "about 1 more scan of another patient" if count == 1 else f"about {count} more scans of other patients"


def _unusable(changes: Sequence[Change], new: Sequence[NewStructure]) -> str:
    """Return what is not good enough to be used."""
    missing = [row.structure for row in new if row.word is Usability.NOT_FOUND]
    poor = [f"{row.structure} (Dice {row.mean:.2f})" for row in new if row.word is Usability.LEARNS]
    parts = [f"does not find {enumerated(missing)}"] if missing else []
    parts += [f"does not find {enumerated(poor)} well enough"] if poor else []
    if parts:
        return f"the new version {' and '.join(parts)}"
    improved = [f"{change.structure} ({_dice(change)})" for change in changes if change.word == IMPROVES]
    return (
        f"the new version finds {enumerated(improved) or 'the structures'} better than the old one, but not well enough"
    )


def _what_helps(new: Sequence[NewStructure], training: Training | None) -> str:
    """Return the advice on what is not usable yet."""
    minutes = more_minutes(training)
    cases = f"correct {_MORE_SCANS}"
    if training is not None and training.is_long:
        ended = "More training brought nothing. " if training.has_converged else ""
        return f"{ended}{cases.capitalize()} and fine-tune again."
    longer = "Train longer" if minutes is None else f"Fine-tune again with about {counted(minutes, 'more minute')}"
    return f"{longer}; if that does not help, {cases}."


def more_minutes(training: Training | None) -> int | None:
    """Return how many more minutes a training needs that was too short; None where that cannot be told."""
    if training is None or training.minutes <= 0 or training.steps <= 0:
        return None
    return max(1, round(training.minutes * (SHORT_TRAINING / training.steps - 1)))


def _found(new: Sequence[NewStructure]) -> str:
    return enumerated([f"{row.structure} (Dice {row.mean:.2f})" for row in new])


def _lost(changes: Sequence[Change], is_certain: bool = True) -> str:
    """Return in what the new version lost, e.g. 'worse in larynx (Dice 0.30, before 0.61)'; '' in no structure.

    ``is_certain`` False: nothing is called more than probable.
    """
    surely = [change for change in changes if change.answer is Answer.WORSE or change.collapsed]
    probably = [change for change in changes if change.answer is Answer.PROBABLY_WORSE and change not in surely]
    if not is_certain:
        surely, probably = [], [*surely, *probably]
    parts = []
    for word, lost in (("worse", surely), ("probably worse", probably)):
        named = enumerated([f"{change.structure} ({_dice(change)})" for change in lost])
        parts += [f"{word} in {named}"] if lost else []
    return " and ".join(parts)


def _dice(change: Change) -> str:
    """Return the scores before and after, e.g. 'Dice 0.79, before 0.65'."""
    before, after, _ = before_and_after(change.parent, change.candidate)
    return f"Dice {after}, before {before}"
