"""Is a candidate better than its parent on cases it did not see? The numbers of all folds, and the verdict.

Nothing here runs a network: ``held_out`` does, and hands in a comparison per case. Here is also decided of which new
structures only the largest component is kept, as in nnU-Net (Isensee et al., Nature Methods 2021, "determine
postprocessing"): a model that has seen a structure in a few scans may also find it in far places.
"""

from __future__ import annotations

from collections.abc import Collection, Container, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from TransferSegLib.evaluation.scores import Score
from TransferSegLib.evaluation.verdict import Training, Verdict, judge
from TransferSegLib.finetuning.folds import WEAK_EVIDENCE, Fold, method_in_words
from TransferSegLib.finetuning.held_out import CaseComparison
from TransferSegLib.finetuning.parent_cases import ParentCases

#: Predictions of a structure that is not annotated are pointed at where they agree less than this.
_CHANGED = 0.9
#: Keeping the largest component must raise the mean Dice by so much, and may lower it in no case by more than that.
_LEAST_GAIN, _LARGEST_LOSS = 0.002, 0.05
#: Held-out cases that must have the structure: one says nothing of another.
_FEWEST_CASES = 2


@dataclass(frozen=True)
class StructureRow:
    """One structure over the held-out cases in which it was annotated, or, with no score, was not.

    One that the parent knows is compared in the cases in which both models have a score.
    ``cases`` counts whole cases, of ``patients`` patients: two slabs of a scan are one case.
    ``parent`` and ``candidate`` are mean Dice, ``nsd`` and ``hd95_mm`` (parent, candidate) mean and median, None where
    there is none (the parent does not know it; a distance that is infinite). ``agreement`` is the mean Dice between
    the two models' predictions where it is not annotated.
    """

    structure: str
    cases: int
    parent: float | None
    candidate: float | None
    nsd: tuple[float | None, float | None]
    hd95_mm: tuple[float | None, float | None]
    unannotated_cases: int
    agreement: float | None
    patients: int = 0

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return vars(self) | {"nsd": list(self.nsd), "hd95_mm": list(self.hd95_mm)}


@dataclass(frozen=True)
class Evidence:
    """What was compared and how, case by case, and the verdict."""

    method: str
    grid: str
    tolerance_mm: float
    is_weak: bool
    patients: int
    cases: tuple[CaseComparison, ...]
    rows: tuple[StructureRow, ...]
    verdict: Verdict

    @property
    def answer(self) -> str:
        """The verdict's word."""
        return str(self.verdict.answer)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description: the verdict's entries, ``method``, and the numbers of every case.

        Everything that names a case is under ``held_out_cases``, which does not travel with an exported model.
        """
        return self.verdict.to_json() | {
            "method": {
                "held_out": self.method,
                "grid": self.grid,
                "tolerance_mm": self.tolerance_mm,
                "patients": self.patients,
                "weak": self.is_weak,
                "rows": [row.to_json() for row in self.rows],
            },
            "held_out_cases": [case.to_json() for case in self.cases],
        }


def summarise(
    comparisons: Sequence[CaseComparison],
    groups: Mapping[str, str],
    folds: Sequence[Fold],
    names: Sequence[str],
    grid: str,
    tolerance_mm: float,
    notes: Sequence[str] = (),
    seed: int = 0,
    training: Training | None = None,
    before: ParentCases | None = None,
    known: Collection[str] | None = None,
) -> Evidence:
    """Return the evidence; ``groups`` gives the patient of every compared case, ``names`` the order of structures.

    ``training`` says how long the candidates were trained (None: unknown). With slabs of one patient the verdict says
    that the evidence is weak; ``notes`` are further sentences on it. ``before`` tells which cases the
    parent had learned from (None: none), ``known`` which structures it knows (None: those that it has a score of).
    """
    is_weak = any(fold.slabs is not None for fold in folds)
    caveat = " ".join([*([WEAK_EVIDENCE] if is_weak else []), *notes])
    parent, candidate = (
        {one.case: {name: score.dice for name, score in getattr(one, which).items()} for one in comparisons}
        for which in ("parent", "candidate")
    )
    surface = {one.case: {name: score.nsd for name, score in one.candidate.items()} for one in comparisons}
    patients = len({groups[one.case] for one in comparisons})
    ids = {id for fold in folds for id in fold.held_out}
    whole = {one.case: whole_case(one.case, ids) for one in comparisons}
    shared = {whole[one.case] for one in comparisons if one.parent}
    note = "" if before is None else before.note(shared)
    paired = {name for scores in parent.values() for name in scores} | set(known or ())
    return Evidence(
        method=method_in_words(folds, patients),
        grid=grid,
        tolerance_mm=tolerance_mm,
        is_weak=is_weak,
        patients=patients,
        cases=tuple(comparisons),
        rows=tuple(
            row for name in names if (row := _row(name, comparisons, groups, whole, name in paired)) is not None
        ),
        verdict=judge(
            parent,
            candidate,
            groups,
            caveat=caveat,
            seed=seed,
            surface=surface,
            training=training,
            on_parts=is_weak,
            parent_note=note,
            known=known,
            present=_present(comparisons, whole),
        ),
    )


def whole_case(compared: str, known: Container[str]) -> str:
    """Return the id of the case that was compared; a slab of one is called after it ("pt 1 part 2")."""
    return compared if compared in known else compared.rsplit(" part ", 1)[0]


def _present(comparisons: Sequence[CaseComparison], whole: Mapping[str, str]) -> dict[str, set[str]]:
    """Return the structures that each case has, or another part of its scan; ``whole`` gives the case of a part."""
    drawn: dict[str, set[str]] = {}
    for one in comparisons:
        scores = (*one.parent.items(), *one.candidate.items())
        drawn.setdefault(whole[one.case], set()).update(name for name, score in scores if score.reference_ml > 0)
    return {one.case: drawn[whole[one.case]] for one in comparisons}


def candidate_dice(comparisons: Sequence[CaseComparison], names: Iterable[str]) -> dict[str, float]:
    """Return the candidate's mean Dice by structure, as ``evaluate`` gives it: 0 where it marks what is not there."""
    dice = {name: [one.candidate[name].dice for one in comparisons if name in one.candidate] for name in names}
    return {name: mean for name, values in dice.items() if (mean := _mean(values)) is not None}


def _row(
    name: str,
    comparisons: Sequence[CaseComparison],
    groups: Mapping[str, str],
    whole: Mapping[str, str],
    is_paired: bool,
) -> StructureRow | None:
    """Return a structure's row, None when there is nothing to say of it; ``whole``: the case that each is a part of.

    ``is_paired``: the parent knows it. Before and after are then over the same cases: where only one of the two marks
    something that is not there, the other has no score.
    """
    drawn = [one for one in comparisons if name in one.candidate and (name in one.parent or not is_paired)]
    candidate = [one.candidate[name] for one in drawn]
    parent = [one.parent[name] for one in drawn] if is_paired else []
    agreement = [one.agreement[name] for one in comparisons if name in one.agreement]
    if not candidate and not agreement:
        return None
    return StructureRow(
        structure=name,
        cases=len({whole[one.case] for one in drawn}),
        patients=len({groups[one.case] for one in drawn}),
        parent=_mean([score.dice for score in parent]),
        candidate=_mean([score.dice for score in candidate]),
        nsd=(_mean([score.nsd for score in parent]), _mean([score.nsd for score in candidate])),
        hd95_mm=(_median_hd95_mm(parent), _median_hd95_mm(candidate)),
        unannotated_cases=len({whole[one.case] for one in comparisons if name in one.agreement}),
        agreement=_mean(agreement),
    )


def _mean(values: Sequence[float]) -> float | None:
    """Return the mean of the numbers among values, None when there are none."""
    numbers = [value for value in values if not np.isnan(value)]
    return float(np.mean(numbers)) if numbers else None


def _median_hd95_mm(scores: Sequence[Score]) -> float | None:
    """Return the median distance, None when there is none or it is infinite."""
    values = [score.hd95_mm for score in scores if not np.isnan(score.hd95_mm)]
    median = float(np.median(values)) if values else float("inf")
    return median if np.isfinite(median) else None


def changed_without_correction(rows: Sequence[StructureRow]) -> tuple[str, ...]:
    """Return a line for every structure that is not annotated and is predicted differently than before."""
    return tuple(
        f"{row.structure} was not corrected, and is predicted differently than before (agreement {row.agreement:.2f})."
        for row in rows
        if row.agreement is not None and row.agreement < _CHANGED
    )


def largest_component_structures(comparisons: Sequence[CaseComparison], names: Iterable[str]) -> tuple[str, ...]:
    """Return those of the structures of which the largest component alone does better on the held-out cases.

    A structure on both sides of the body would lose half of itself, and is left as it is.
    """
    return tuple(name for name in names if _largest_component_helps(name, comparisons))


def with_largest_components(comparisons: Sequence[CaseComparison], names: Iterable[str]) -> list[CaseComparison]:
    """Return the comparisons with the scores of these structures' largest components: what a user will get."""
    wanted = set(names)
    return [
        replace(one, candidate=one.candidate | {n: s for n, s in one.largest_part.items() if n in wanted})
        for one in comparisons
    ]


def largest_component_note(comparisons: Sequence[CaseComparison], names: Sequence[str]) -> str:
    """Return a sentence for a person on what is kept and what that changed; nothing for no structure."""
    if not names:
        return ""
    changes = []
    for name in names:
        before, after = _dice_of_components(name, comparisons)
        changes.append(f"{name} (Dice {np.mean(before):.3f} to {np.mean(after):.3f})")
    why = "cases left out of training were better for it"
    return f"Only the largest connected part is kept, as {why}: {', '.join(changes)}."


def _largest_component_helps(name: str, comparisons: Sequence[CaseComparison]) -> bool:
    before, after = _dice_of_components(name, comparisons)
    if len(before) < _FEWEST_CASES:
        return False
    change = np.array(after) - np.array(before)
    return bool(change.mean() >= _LEAST_GAIN and change.min() >= -_LARGEST_LOSS)


def _dice_of_components(name: str, comparisons: Sequence[CaseComparison]) -> tuple[list[float], list[float]]:
    """Return the Dice of all components and of the largest one, over the cases that have both."""
    pairs = [
        (one.candidate[name].dice, one.largest_part[name].dice)
        for one in comparisons
        if name in one.candidate and name in one.largest_part
    ]
    pairs = [pair for pair in pairs if np.isfinite(pair).all()]
    return [before for before, _ in pairs], [after for _, after in pairs]
