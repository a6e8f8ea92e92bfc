"""Of a new structure only the largest connected part is kept where that does better on cases nobody learned from.

A model that has seen a structure in a few scans may also find it in far places, in scans that look otherwise. Whether
parts belong to it is asked of the held-out cases, as nnU-Net does (Isensee et al., Nature Methods 2021, "determine
postprocessing"): a structure on both sides of the body loses half of itself by the rule, and is left as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np

from TransferSegLib.evaluation.scores import Score
from TransferSegLib.finetuning.held_out import CaseComparison

#: The mean Dice must rise by so much, and in no case may it fall by more than that.
_LEAST_GAIN = 0.002
_LARGEST_LOSS = 0.05
#: Held-out cases that must have the structure: one says nothing of another.
_FEWEST_CASES = 2


def single_parts(comparisons: Sequence[CaseComparison], names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the structures of which the largest part alone does better on the held-out cases."""
    return tuple(name for name in names if _helps(name, comparisons))


def with_largest_components(comparisons: Sequence[CaseComparison], names: Iterable[str]) -> list[CaseComparison]:
    """Return the comparisons with the scores of these structures' largest parts: what a user will get."""
    wanted = set(names)
    return [
        replace(one, candidate=one.candidate | {n: s for n, s in one.largest_part.items() if n in wanted})
        for one in comparisons
    ]


def note_on_single_parts(comparisons: Sequence[CaseComparison], names: Sequence[str]) -> str:
    """Return a sentence for a person that says what is kept and what that changed; nothing for no structure."""
    if not names:
        return ""
    changes = []
    for name in names:
        before, after = _dice(name, comparisons)
        changes.append(f"{name} (Dice {np.mean(before):.3f} to {np.mean(after):.3f})")
    return f"Only the largest connected part is kept, as held-out cases were better for it: {', '.join(changes)}."


def _helps(name: str, comparisons: Sequence[CaseComparison]) -> bool:
    before, after = _dice(name, comparisons)
    if len(before) < _FEWEST_CASES:
        return False
    change = np.array(after) - np.array(before)
    return bool(change.mean() >= _LEAST_GAIN and change.min() >= -_LARGEST_LOSS)


def _dice(name: str, comparisons: Sequence[CaseComparison]) -> tuple[list[float], list[float]]:
    """Return the Dice of all parts and of the largest one, over the cases that have both."""
    pairs: list[tuple[Score, Score]] = [
        (one.candidate[name], one.largest_part[name])
        for one in comparisons
        if name in one.candidate and name in one.largest_part
    ]
    pairs = [pair for pair in pairs if np.isfinite(pair[0].dice) and np.isfinite(pair[1].dice)]
    return [pair[0].dice for pair in pairs], [pair[1].dice for pair in pairs]
