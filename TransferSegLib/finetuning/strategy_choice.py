"""``auto``: the strategy by which candidates are trained is chosen by what each strategy does on held-out cases.

The first folds are trained by every strategy that is tried, with the same time (or steps). The one with the best mean
Dice makes the remaining folds' candidates and the final one. Where there are patients enough, the verdict is not about
those who chose: the best of several results on the same cases is better than what a new case will show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.finetuning.blending import mean_dice
from TransferSegLib.finetuning.folds import Fold
from TransferSegLib.finetuning.held_out import CaseComparison
from TransferSegLib.finetuning.label_change import LabelChange
from TransferSegLib.finetuning.plan import FineTuningPlan, default_strategy, is_another_modality
from TransferSegLib.finetuning.strategies import AUTO, FINETUNE, SCRATCH, VANILLA
from TransferSegLib.finetuning.time_plan import CHOOSING_FOLDS
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.wording import counted

#: Patients who must be left for the verdict when it is not about those who chose.
_FEWEST_LEFT = 3
#: Strategies better than the default by less than this Dice (half of what the verdict calls a difference) tie with it.
TIE = 0.005


@dataclass(frozen=True)
class Choice:
    """The strategy chosen, the mean held-out Dice of each that was tried, on how many patients, and a line on it.

    ``apart``: the patients who chose are not among those the verdict is about.
    """

    strategy: str
    mean_dice: dict[str, float]
    patients: int
    apart: bool

    @property
    def text(self) -> str:
        """What was found, in a sentence."""
        found = ", ".join(f"{name} {mean:.3f}" for name, mean in self.mean_dice.items())
        held_out = f"{counted(self.patients, 'patient')} held out from it"
        return f"Strategy '{self.strategy}' was chosen by the mean Dice on {held_out}: {found}."

    @property
    def caveat(self) -> str:
        """What it means for the evidence, in a sentence."""
        if self.apart:
            return f"The strategy was chosen on {counted(self.patients, 'patient')} who do not count here."
        return (
            "The strategy was chosen by results on some of these same patients (there are too few to leave them out), "
            "so its Dice is likely to be a little too high."
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description; it names no case."""
        return {
            "strategy": self.strategy,
            "mean_dice": self.mean_dice,
            "patients": self.patients,
            "judges_alone": self.apart,
            "text": self.text,
        }


def strategies_to_try(
    parent: ModelDescription, preparation: Preparation, change: LabelChange, dataset: Dataset
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the strategies that ``auto`` tries, the default first, and notes for a person.

    ``preparation`` is that of the new model. Random weights are only tried where the parent's help is doubtful (another
    modality, or nothing but structures it does not know), and never where they would lose what is drawn in no case.
    """
    other = is_another_modality(dataset.modality, parent, preparation)
    default = default_strategy(other)
    if len({case.group for case in dataset.cases}) < 2:
        return (default,), (f"Choosing a strategy needs cases of at least 2 patients: '{default}' was used.",)
    tried = (default, VANILLA if default == FINETUNE else FINETUNE)
    drawn = [fate for one, fate in zip(change.label_set, change.fates, strict=True) if dataset.label_set.find(one.name)]
    if not other and any(fate != "new" for fate in drawn):
        return tried, ()
    only_known = [name for name in change.label_set.names if dataset.label_set.find(name) is None]
    if only_known:
        names = ", ".join(only_known)
        why = f"Random weights ('scratch') were not tried: no case has {names} drawn, so they could not learn it."
        return tried, (f"{why} With --drop it may be forgotten.",)
    return (*tried, SCRATCH), ()


def with_strategies(plan: FineTuningPlan) -> tuple[FineTuningPlan, tuple[str, ...]]:
    """Return the plan with notes on the strategies to try, and those; where there is only one it is chosen already."""
    if plan.configuration.strategy != AUTO:
        return plan, (plan.configuration.strategy,)
    parent = plan.parent.description
    preparation = plan.configuration.preparation(parent)
    tried, notes = strategies_to_try(parent, preparation, plan.change, plan.dataset)
    plan = replace(plan, notes=(*plan.notes, *notes))
    return (plan.by_strategy(tried[0]) if len(tried) == 1 else plan), tried


def choosing_folds(folds: Sequence[Fold]) -> tuple[int, ...]:
    """Return the numbers (from 0) of the folds that choose."""
    return tuple(range(min(CHOOSING_FOLDS, len(folds))))


def evaluation_folds(folds: Sequence[Fold], groups: Mapping[str, str]) -> tuple[int, ...]:
    """Return the numbers (from 0) of the folds that the verdict is about: those that did not choose, or all."""
    rest = tuple(number for number in range(len(folds)) if number not in choosing_folds(folds))
    patients = {groups[id] for number in rest for id in folds[number].held_out}
    return rest if len(patients) >= _FEWEST_LEFT else tuple(range(len(folds)))


def choose(tried: Mapping[str, Sequence[CaseComparison]], groups: Mapping[str, str], apart: bool) -> Choice:
    """Return the strategy with the best Dice: mean over a case's structures, a patient's cases, the patients.

    ``tried`` holds what each strategy's candidates did on the same held-out cases. The first, the default, wins ties.
    """
    means = {name: mean_dice(comparisons, groups) for name, comparisons in tried.items()}
    best = max(means, key=lambda name: means[name])
    default = next(iter(means))
    if means[best] < means[default] + TIE:
        best = default
    seen = {groups[one.case] for comparisons in tried.values() for one in comparisons}
    return Choice(best, means, len(seen), apart)
