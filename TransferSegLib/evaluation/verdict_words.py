"""The sentences of a verdict, for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from TransferSegLib.evaluation.verdict_advice import IMPROVES, more_minutes
from TransferSegLib.evaluation.verdict_rule import Answer, Usability, VerdictRule
from TransferSegLib.wording import before_and_after, counted

if TYPE_CHECKING:
    from TransferSegLib.evaluation.verdict import Change, NewStructure, Training
    from TransferSegLib.evaluation.verdict_claims import Claims


def numbers(
    overall: Change | None,
    new: Sequence[NewStructure],
    claims: Sequence[Claims],
    rule: VerdictRule,
    on_parts: bool = False,
) -> tuple[str, ...]:
    """Return the numbers behind the headline: what is new, the mean, and what is no longer marked where there is none.

    ``on_parts``: measured on parts of scans, with networks that were trained on the others.
    """
    gone = [
        f"In {counted(len(claim.gone), 'case')} without {claim.structure} the new version no longer marks it."
        for claim in claims
        if claim.gone
    ]
    return (*(_new(row, rule) for row in new), *([] if overall is None else [_mean(overall, rule, on_parts)]), *gone)


def warnings(answer: Answer, changes: Sequence[Change], new: Sequence[NewStructure]) -> tuple[str, ...]:
    """Return what a person should look at in single structures."""
    sentences = []
    for change in changes:
        before, after, by = before_and_after(change.parent, change.candidate)
        dice = f"({before} to {after})"
        if change.answer is Answer.WORSE:
            although = " although the mean is better" if answer is Answer.PARTLY_WORSE else ""
            sentences.append(f"{change.structure} is worse by {by.lstrip('-')} {dice}{although}.")
        elif change.answer is Answer.PROBABLY_WORSE:
            sentences.append(
                f"{change.structure} is probably worse by {by.lstrip('-')} {dice}: "
                f"{counted(change.patients, 'patient')} cannot make it certain."
            )
        elif change.word == IMPROVES:
            sentences.append(f"{change.structure} got better, and is not usable yet {dice}.")
    for row in new:
        if row.patients == 1 and row.word is Usability.LOOKS_USABLE:
            sentences.append(f"One patient does not show what {row.structure} is like in others.")
    return tuple(sentences)


def claimed(claims: Sequence[Claims]) -> tuple[str, ...]:
    """Return the warnings about what only the new version marks where there is none, with the cases."""
    return tuple(
        f"The new version marks {claim.structure} where there is none, and the old one marks none: "
        f"{', '.join(claim.cases)}."
        for claim in claims
        if claim.cases
    )


def obstacles(
    answer: Answer,
    changes: Sequence[Change],
    new: Sequence[NewStructure],
    claims: Sequence[Claims],
    training: Training | None,
) -> tuple[str, ...]:
    """Return why a version is not used by itself, a sentence each; nothing for one that is better."""
    if answer is Answer.BETTER:
        return ()
    if answer is Answer.TOO_SHORT and training is not None:
        return (f"It was trained for {counted(training.steps, 'training step')} only.",)
    found = []
    for change in changes:
        if change.answer in (Answer.WORSE, Answer.PROBABLY_WORSE):
            before, after, _ = before_and_after(change.parent, change.candidate)
            found.append(f"{change.structure} is {change.answer} ({before} to {after}).")
    if answer in (Answer.WORSE, Answer.PROBABLY_WORSE) and not found:
        found.append(f"It is {answer} than what it was made from.")
    for claim in claims:
        if claim.cases:
            where = "1 case that has" if len(claim.cases) == 1 else f"{len(claim.cases)} cases that have"
            found.append(f"{claim.structure} is marked in {where} none.")
    for row in new:
        if row.word is not Usability.USABLE:
            found.append(f"{row.structure}: {row.word} (mean Dice {row.mean:.2f}).")
    if found:
        return tuple(found)
    return {
        Answer.NO_CLEAR_DIFFERENCE: ("It is not clearly better than what it was made from.",),
        Answer.NOT_USABLE: (_gained_in_vain(changes),),
    }.get(answer, ("There are too few cases to say whether it is better.",))


def _gained_in_vain(changes: Sequence[Change]) -> str:
    """Return the sentence on known structures that got better, and are not usable."""
    names = [str(change.structure) for change in changes if change.word == IMPROVES] or ["The mean"]
    return f"{', '.join(names)} got better, and {'is' if len(names) == 1 else 'are'} not usable yet."


def hint(word: Usability, more_patients: int | None, patients: int, training: Training | None) -> str:
    """Return what would help a new structure, empty for one that is usable."""
    if word is Usability.USABLE:
        return ""
    if word is Usability.LOOKS_USABLE:
        return "more cases" if more_patients is None else counted(more_patients, "more case")
    if training is None:
        return "more cases, or a longer training"
    if training.is_long:
        return "more cases"
    more = more_minutes(training)
    if more is None:
        return f"a longer training (it made {training.steps} steps), then more cases"
    return f"{counted(more, 'more minute')} of training (it made {training.steps} steps), then more cases"


def _new(row: NewStructure, rule: VerdictRule) -> str:
    """Return the numbers of a new structure as a sentence."""
    low, high = row.interval
    # A range that begins just below what is wanted must not look as if it began there.
    is_near = row.word is not Usability.USABLE and round(low, 2) == round(rule.usability.surely(row.mean), 2)
    said = (
        f"{row.structure} is new: over {counted(row.patients, 'patient')} the mean Dice is {row.mean:.2f}, in other "
        f"patients {low:.{3 if is_near else 2}f} to {high:.2f} is to be expected ({_interval(rule)})."
    )
    if row.word is Usability.USABLE:
        return said
    if row.word is Usability.LOOKS_USABLE:
        return f"{said} {_why_unsure(row, rule)}"
    state = "It was not found" if row.word is Usability.NOT_FOUND else "It is being learned, and is not usable yet"
    return f"{said} {state}: {row.hint} would help."


def _why_unsure(row: NewStructure, rule: VerdictRule) -> str:
    """Return what keeps a structure that looks usable from being called so, and what would settle it."""
    likes = "this" if row.patients == 1 else "these"
    would = "" if row.more_patients is None else f": {row.hint} like {likes} would do"
    if row.patients == 1:
        return f"It looks usable, but one patient is too few to be sure{would}."
    least = rule.usability.surely(row.mean)
    return f"It looks usable, but this range must begin at {least:.2f} or above to be sure{would}."


def _interval(rule: VerdictRule) -> str:
    return f"{100 * rule.confidence:.0f} % interval"


def _measured(patients: int, on_parts: bool) -> str:
    """Return over whom the mean is, and that no network was measured on what it had learned from."""
    if on_parts:
        whose = counted(patients, "patient")
        return f"Over parts of the scans of {whose}, each measured by a network that was trained on other parts"
    if patients == 1:
        return "Over 1 patient, measured by a network that was trained without that patient"
    return f"Over {patients} patients, each measured by a network that was trained without that patient"


def _mean(overall: Change, rule: VerdictRule, on_parts: bool) -> str:
    """Return the numbers of the mean as a sentence for a person."""
    before, after, change = before_and_after(overall.parent, overall.candidate, 3)
    moved = f"{'rose' if overall.difference > 0 else 'fell'} from {before} to {after}"
    course = f"stayed at {before}" if before == after else moved
    numbers = (
        f"{_measured(overall.patients, on_parts)}, the mean Dice {course} ({change}); in other patients "
        f"{overall.low:+.3f} to {overall.high:+.3f} is to be expected ({_interval(rule)})"
    )
    if overall.answer is Answer.NO_CLEAR_DIFFERENCE:
        clear = overall.low > 0 or overall.high < 0
        return numbers + (": too little to matter." if clear else ": that may be chance.")
    if overall.answer is Answer.PROBABLY_WORSE:
        return numbers + ": probably a loss; more corrected cases will tell."
    if overall.answer is Answer.TOO_FEW:
        if overall.patients == 1:
            return numbers + ": one patient does not show what it does in others."
        return numbers + ": it may be a gain or a loss; more corrected cases will tell."
    return numbers + "."
