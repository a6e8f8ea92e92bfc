"""Cases of which the parent has learned some already: on those it has an advantage, and the verdict says so."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from TransferSegLib.corrections.revisions import earlier_hashes
from TransferSegLib.finetuning.plan import FineTuningPlan
from TransferSegLib.models.versions.learned import learned_hashes


@dataclass(frozen=True)
class ParentCases:
    """The ids of the cases that the parent learned from before, now or as an earlier revision.

    ``continues``: the new version was trained from the parent's weights, not from random ones.
    """

    learned: frozenset[str] = frozenset()
    continues: bool = True

    def note(self, compared: Collection[str]) -> str:
        """Return the sentence on a comparison over these cases; '' where the parent had learned none of them."""
        count = len(self.learned.intersection(compared))
        if not count:
            return ""
        every = "this scan" if count == 1 else "both scans" if count == 2 else f"all {count} scans"
        scans = every if count == len(compared) else f"{count} of these {len(compared)} scans"
        had = f"The old version had learned from {scans} before"
        if not self.continues:
            return f"{had}: its Dice is too high there, so a gain may be hidden."
        return (
            f"{had}, and the new one continues from it: there the Dice of both is too high, more so for the old "
            "version, so a gain may be hidden."
        )


def parent_cases(plan: FineTuningPlan) -> ParentCases:
    """Return which cases of a fine-tuning its parent had learned from."""
    known = learned_hashes(plan.parent_path, plan.reference.sha256)
    before = earlier_hashes(plan.dataset)
    learned = {id for id, now in plan.hashes.items() if not known.isdisjoint({now, *before.get(id, ())})}
    return ParentCases(frozenset(learned), plan.configuration.way.from_parent)
