"""Two models compared on the same cases: paired differences, intervals, a test, a correction for many tests.

The unit is the **patient** (group): scans of one patient are averaged first, and patients are what is resampled.
Nothing here decides anything; ``TransferSegLib.evaluation.verdict`` does.
"""

from __future__ import annotations

import math
import warnings
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np

from TransferSegLib.structures import structure_key
from TransferSegLib.wording import counted

#: Below so many patients an exact two-sided Wilcoxon test cannot reach 0.05 (its smallest p is 2 / 2^n), and a
#: bootstrap, which knows no other patients than these, gives intervals that are far too narrow.
FEWEST_FOR_TEST = 6
#: The exact distribution is computed up to so many differences; the normal approximation is good beyond.
_MOST_EXACT = 200
#: Differences closer than this are ties: 0.8 - 0.7 and 0.9 - 0.8 are not the same number in a computer.
_TIE_DECIMALS = 10
#: Coverage of the mean's interval: 0.9 leaves 5 % on either side.
CONFIDENCE = 0.9
_DRAWS = 8000
_SEED = 15


@dataclass(frozen=True)
class PairedScore:
    """One structure in one case under two models; ``group`` is the patient."""

    structure: str
    case: str
    group: str
    parent: float
    candidate: float

    @property
    def difference(self) -> float:
        """Candidate minus parent."""
        return self.candidate - self.parent


@dataclass(frozen=True)
class Comparison:
    """The paired comparison of one structure, or of all (``structure`` None: the mean of the structures of a case).

    ``low`` and ``high`` bound the mean difference (bootstrap), ``p_value`` is Wilcoxon's, ``p_holm`` the same
    corrected for the number of structures tested. None where there are too few patients; ``note`` says why.
    """

    structure: str | None
    patients: int
    cases: int
    parent: float
    candidate: float
    difference: float
    low: float | None
    high: float | None
    p_value: float | None
    p_holm: float | None
    note: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return dict(vars(self))


def pair_scores(
    parent: Mapping[str, Mapping[str, float]],
    candidate: Mapping[str, Mapping[str, float]],
    groups: Mapping[str, str] | None = None,
) -> list[PairedScore]:
    """Return the pairs of two results (case -> structure -> score), where both have a finite score.

    Structures are matched by name (case and spacing do not matter). ``groups`` gives the patient of a case, by default
    the case itself.
    """
    pairs = []
    for case, scores in candidate.items():
        theirs = {structure_key(name): value for name, value in parent.get(case, {}).items()}
        for name, value in scores.items():
            before = theirs.get(structure_key(name), math.nan)
            if math.isfinite(before) and math.isfinite(value):
                group = case if groups is None else groups.get(case, case)
                pairs.append(PairedScore(name, case, group, float(before), float(value)))
    return pairs


def by_patient(pairs: Iterable[PairedScore]) -> dict[str, tuple[float, float]]:
    """Return the mean score of parent and candidate by patient, in the order of first appearance.

    Structures are averaged within a case, then cases within a patient, so that a patient scanned often, or annotated
    more fully, weighs no more than another.
    """
    cases: dict[str, dict[str, list[tuple[float, float]]]] = defaultdict(lambda: defaultdict(list))
    for pair in pairs:
        cases[pair.group][pair.case].append((pair.parent, pair.candidate))
    means = {}
    for group, members in cases.items():
        parent, candidate = np.mean([np.mean(scores, axis=0) for scores in members.values()], axis=0)
        means[group] = (float(parent), float(candidate))
    return means


def differences_by_patient(pairs: Iterable[PairedScore]) -> np.ndarray:
    """Return one difference (candidate minus parent) per patient; see ``by_patient``."""
    return np.array([candidate - parent for parent, candidate in by_patient(pairs).values()])


def compare(
    pairs: Sequence[PairedScore], confidence: float = 0.95, seed: int = 0, resamples: int = 9999
) -> list[Comparison]:
    """Return the comparison of all structures together, then of each structure, in the order of first appearance.

    The tests of the structures are corrected by Holm's method among themselves; the one of all structures together is
    the main question and is not corrected. Returns an empty list for no pairs.
    """
    if not pairs:
        return []
    structures = list(dict.fromkeys(pair.structure for pair in pairs))
    rows = [_compared(list(pairs), None, confidence, seed, resamples)]
    rows += [
        _compared([pair for pair in pairs if pair.structure == name], name, confidence, seed, resamples)
        for name in structures
    ]
    corrected = holm([row.p_value for row in rows[1:]])
    return [rows[0], *(replace(row, p_holm=p_value) for row, p_value in zip(rows[1:], corrected, strict=True))]


def _compared(
    pairs: list[PairedScore], structure: str | None, confidence: float, seed: int, resamples: int
) -> Comparison:
    """Return one row of ``compare``, not yet corrected."""
    means = np.array(list(by_patient(pairs).values()))
    differences = means[:, 1] - means[:, 0]
    interval = bootstrap_interval(differences, confidence, seed, resamples)
    p_value, note = wilcoxon(differences)
    return Comparison(
        structure=structure,
        patients=len(means),
        cases=len({pair.case for pair in pairs}),
        parent=float(means[:, 0].mean()),
        candidate=float(means[:, 1].mean()),
        difference=float(differences.mean()),
        low=None if interval is None else interval[0],
        high=None if interval is None else interval[1],
        p_value=p_value,
        p_holm=p_value if structure is None else None,
        note=note,
    )


def bootstrap_interval(
    differences: np.ndarray, confidence: float = 0.95, seed: int = 0, resamples: int = 9999
) -> tuple[float, float] | None:
    """Return the interval of the mean difference by the BCa bootstrap (Efron 1987); None for too few patients.

    ``differences`` has one value per patient. The same seed gives the same interval.
    """
    if len(differences) < FEWEST_FOR_TEST:
        return None
    if np.ptp(differences) < 10**-_TIE_DECIMALS:
        return float(differences.mean()), float(differences.mean())
    from scipy import stats  # here, because it takes a second, which opening the panel would take longer

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.DegenerateDataWarning)
        for method in ("BCa", "percentile"):
            interval = stats.bootstrap(
                (differences,),
                np.mean,
                n_resamples=resamples,
                confidence_level=confidence,
                method=method,
                random_state=np.random.default_rng(seed),
            ).confidence_interval
            if np.isfinite(interval.low) and np.isfinite(interval.high):
                break
    return float(interval.low), float(interval.high)


def wilcoxon(differences: np.ndarray) -> tuple[float | None, str]:
    """Return the two-sided p-value of Wilcoxon's signed-rank test, and a note; None where it cannot reach 0.05.

    Differences of zero are dropped, as Wilcoxon (1945) did; tied ones share their mean rank. Up to 200 differences
    the distribution is exact, given the ties; beyond, the normal approximation is used.
    """
    rounded = np.round(np.asarray(differences, np.float64), _TIE_DECIMALS)
    kept = rounded[rounded != 0]
    dropped = f" ({len(rounded) - len(kept)} without a difference left out)" if len(kept) < len(rounded) else ""
    if len(kept) < FEWEST_FOR_TEST:
        return None, f"{counted(len(kept), 'patient')}{dropped}: a test needs at least {FEWEST_FOR_TEST}."
    from scipy import stats

    if len(kept) > _MOST_EXACT:
        p_value = float(stats.wilcoxon(kept, method="approx").pvalue)
        return p_value, f"Wilcoxon signed-rank, normal approximation, {len(kept)} patients{dropped}."
    # Twice the ranks are whole numbers even when ties share a half.
    ranks = np.rint(2 * stats.rankdata(np.abs(kept))).astype(int)
    chances = _rank_sum_chances(ranks)
    positive = int(ranks[kept > 0].sum())
    tail = min(chances[: positive + 1].sum(), chances[positive:].sum())
    return float(min(1.0, 2 * tail)), f"Wilcoxon signed-rank, exact, {len(kept)} patients{dropped}."


def _rank_sum_chances(ranks: np.ndarray) -> np.ndarray:
    """Return the probability of every sum of ranks when each is counted or not with probability one half."""
    chances = np.zeros(int(ranks.sum()) + 1)
    chances[0] = 1.0
    for rank in ranks:
        counted = np.zeros_like(chances)
        counted[rank:] = chances[: len(chances) - rank]
        chances = 0.5 * (chances + counted)
    return chances


def holm(p_values: Sequence[float | None]) -> list[float | None]:
    """Return p-values corrected for their number by Holm's step-down method (1979); None stays None, uncounted."""
    tested = sorted((p, index) for index, p in enumerate(p_values) if p is not None)
    corrected: list[float | None] = [None] * len(p_values)
    largest = 0.0
    for step, (p_value, index) in enumerate(tested):
        largest = max(largest, min(1.0, (len(tested) - step) * p_value))
        corrected[index] = largest
    return corrected


def mean_interval(values: Sequence[float] | np.ndarray, confidence: float = CONFIDENCE) -> tuple[float, float]:
    """Return the interval of the mean over unseen patients from one score (0 to 1) of each patient seen.

    Dice lies between 0 and 1, and now and then a structure is missed altogether. Three patients in whom all went well
    do not rule out that every fourth one is missed, and no formula based on their spread can know it. So the interval
    uses only the range: one more patient is imagined, at 0 for the lower end and at 1 for the upper, and the weights of
    all are drawn from a flat Dirichlet distribution (Gaffke, Statistics 39, 2005; Learned-Miller and Thomas, arXiv
    1905.06208: no distribution between 0 and 1 is known for which it covers less than it claims).

    The same values give the same interval, in any order. Raises ValueError for no value, or one that is no number.
    """
    seen = np.sort(np.clip(np.asarray(values, float), 0.0, 1.0))
    if seen.size == 0:
        raise ValueError("There is no patient, so there is no interval.")
    if not np.isfinite(seen).all():
        raise ValueError(f"The interval needs the score of every patient: {seen.tolist()}.")
    weights = _weights(seen.size)
    means = weights[:, :-1] @ seen
    tail = (1.0 - confidence) / 2.0
    low = float(np.quantile(means, tail))
    high = float(np.quantile(means + weights[:, -1], 1.0 - tail))
    mean = float(seen.mean())
    return min(max(low, 0.0), mean), max(min(high, 1.0), mean)


def patients_for(values: Sequence[float] | np.ndarray, least: float, most: int = 40) -> int | None:
    """Return how many patients like these put the lower end of the interval at ``least``; None above ``most``."""
    seen = np.asarray(values, float)
    for count in range(len(seen), most + 1):
        if mean_interval(np.resize(seen, count))[0] >= least:
            return count
    return None


@lru_cache(maxsize=64)
def _weights(patients: int) -> np.ndarray:
    """Return draws (draws, patients + 1) of the weights of so many patients and the imagined one."""
    draws = _DRAWS if patients <= 50 else _DRAWS // 4
    return np.random.default_rng(_SEED).dirichlet(np.ones(patients + 1), draws)
