"""The sentences of a verdict, for a person."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from TransferSegLib.evaluation.verdict_rule import Answer, Usability, VerdictRule
from TransferSegLib.wording import counted

if TYPE_CHECKING:
    from TransferSegLib.evaluation.verdict import Change, NewStructure, Training

#: The word for a known structure that got better, and is still not usable.
IMPROVES = "improves, not usable yet"
#: A candidate with fewer optimisation steps is helped by a longer training before it is by more cases: in the study
#: (docs/study.md) candidates made about so many.
_SHORT_TRAINING = 150


def reasons(
    answer: Answer,
    overall: Change | None,
    changes: Sequence[Change],
    new: Sequence[NewStructure],
    rule: VerdictRule,
    training: Training | None,
) -> tuple[str, ...]:
    """Return why the answer is what it is: what was lost, what was found, and the numbers of the mean."""
    sentences = []
    if answer is Answer.TOO_SHORT and training is not None:
        sentences.append(
            f"The candidates made {counted(training.steps, 'optimisation step')}, too few to judge them "
            f"(at least {rule.fewest_steps}): train longer."
        )
    collapsed = [change for change in changes if change.collapsed]
    if collapsed:
        losses = ", ".join(f"{change.structure} lost {-change.difference:.2f}" for change in collapsed)
        sentences.append(f"In mean Dice {losses}.")
    found = [
        f"It finds {row.structure}, which its parent does not know (mean Dice {row.mean:.2f})."
        for row in new
        if row.word in (Usability.USABLE, Usability.LOOKS_USABLE)
    ]
    if answer is not Answer.WORSE:
        sentences += [" ".join(found)] if found else []
        sentences += [
            f"{row.structure} looks usable on {counted(row.patients, 'patient')}, too few to be sure{_more(row)}."
            for row in new
            if row.word is Usability.LOOKS_USABLE
        ]
    sentences += [_unusable(row) for row in new if row.word in (Usability.LEARNS, Usability.NOT_FOUND)]
    if overall is not None:
        sentences.append(_mean(overall, rule))
    elif not new:
        sentences.append("There is no case in which both models have a structure to compare.")
    return tuple(sentences)


def warnings(answer: Answer, changes: Sequence[Change], new: Sequence[NewStructure]) -> tuple[str, ...]:
    """Return what a person should look at in single structures."""
    sentences = []
    for change in changes:
        numbers = f"({change.parent:.2f} to {change.candidate:.2f})"
        if change.answer is Answer.WORSE:
            although = " although the mean is better" if answer is Answer.PARTLY_WORSE else ""
            sentences.append(f"{change.structure} is worse by {-change.difference:.2f} {numbers}{although}.")
        elif change.answer is Answer.PROBABLY_WORSE:
            sentences.append(
                f"{change.structure} is probably worse by {-change.difference:.2f} {numbers}: "
                f"{counted(change.patients, 'patient')} cannot make it certain."
            )
        elif change.word == IMPROVES:
            sentences.append(f"{change.structure} got better, and is not usable yet {numbers}.")
    for row in new:
        if row.patients == 1 and row.word is Usability.LOOKS_USABLE:
            sentences.append(f"One patient does not show what {row.structure} is like in others.")
    return tuple(sentences)


def obstacles(
    answer: Answer, changes: Sequence[Change], new: Sequence[NewStructure], training: Training | None
) -> tuple[str, ...]:
    """Return why a version is not used by itself, a sentence each; nothing for one that is better."""
    if answer is Answer.BETTER:
        return ()
    if answer is Answer.TOO_SHORT and training is not None:
        return (f"It was trained for {counted(training.steps, 'optimisation step')} only.",)
    found = [
        f"{change.structure} is {change.answer} ({change.parent:.2f} to {change.candidate:.2f})."
        for change in changes
        if change.answer in (Answer.WORSE, Answer.PROBABLY_WORSE)
    ]
    if answer in (Answer.WORSE, Answer.PROBABLY_WORSE) and not found:
        found.append(f"It is {answer} than what it was made from.")
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
    if training.steps >= _SHORT_TRAINING:
        return "more cases"
    if training.minutes <= 0 or training.steps <= 0:
        return f"a longer training (it made {training.steps} steps), then more cases"
    more = max(1, round(training.minutes * (_SHORT_TRAINING / training.steps - 1)))
    return f"{counted(more, 'more minute')} of training (it made {training.steps} steps), then more cases"


def _unusable(row: NewStructure) -> str:
    """Return the sentence on a new structure that is not usable."""
    low, high = row.interval
    dice = f"mean Dice {row.mean:.2f}; in unseen patients {low:.2f} to {high:.2f}"
    state = "is not found" if row.word is Usability.NOT_FOUND else "learns, and is not usable yet"
    return f"{row.structure} is new and {state} on {counted(row.patients, 'patient')} ({dice}): {row.hint} would help."


def _more(row: NewStructure) -> str:
    """Return how many more patients would make sure of a structure."""
    return (
        "" if row.more_patients is None else f" ({row.hint} like {'this' if row.patients == 1 else 'these'} would do)"
    )


def _mean(overall: Change, rule: VerdictRule) -> str:
    """Return the numbers of the mean as a sentence for a person."""
    before, after = f"{overall.parent:.3f}", f"{overall.candidate:.3f}"
    moved = f"{'rose' if overall.difference > 0 else 'fell'} from {before} to {after}"
    course = f"stayed at {before}" if before == after else moved
    interval = f"{100 * rule.confidence:.0f} % interval {overall.low:+.3f} to {overall.high:+.3f}"
    held_out = counted(overall.patients, "held-out patient")
    numbers = f"On {held_out} the mean Dice {course} ({overall.difference:+.3f}, {interval})"
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
