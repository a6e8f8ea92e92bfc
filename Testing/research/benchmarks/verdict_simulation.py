"""Simulate how often the verdict is right, for the rule in use and others that were considered.

    python3 Testing/run.py benchmark verdict_simulation [--runs 2000] [--spread 0.03 0.05 ...] [--rules ours t-test ...]
    python3 Testing/run.py benchmark verdict_simulation --claims [--runs 2000]

A run draws a candidate whose true difference in mean Dice is known, on n patients with five structures each:

    difference = truth + noise of the training run + patient + structure in patient

``--spread`` is the standard deviation of a patient's mean over structures; patients and structures share it in halves,
with the heavy tails of Student's t with 4 degrees of freedom (occasionally a case fails completely). The noise of the
training run is the same in all patients: averaging over patients does not remove it. ``--lost`` takes the whole
difference out of one structure (it collapses, the others stay as before).

The table has, for every number of patients and every true difference, the share of runs in per cent that end in
better / no clear difference / any kind of worse / too few.

``--claims`` prints how often the interval of a mean Dice contains the mean over all patients, and how often a structure
is called usable, for several distributions of Dice between patients: with one peak, skewed, and with a share of
patients in whom the structure is missed completely (Dice 0).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable

import numpy as np
from scipy import stats

from Testing.research.common.measuring import command_line
from TransferSegLib.evaluation.statistics import FEWEST_FOR_TEST, mean_interval, wilcoxon
from TransferSegLib.evaluation.verdict import Answer, VerdictRule
from TransferSegLib.evaluation.verdict_rule import Usability

STRUCTURES = 5
TRUTHS = (-0.2, -0.1, -0.05, -0.02, 0.0, 0.02, 0.05, 0.1, 0.2)
PATIENTS = (1, 2, 3, 5, 10)
TRAINING_NOISE = 0.01
Rule = Callable[[np.ndarray], Answer]


def ours(differences: np.ndarray) -> Answer:
    """Return the verdict of the rule in use; ``differences`` (patients, structures)."""
    rule = VerdictRule()
    means = differences.mean(axis=1)
    collapsed = any(rule.collapsed(column, STRUCTURES) for column in differences.T)
    structures = [rule.judge(column, True, STRUCTURES) for column in differences.T]
    return rule.of_known(rule.judge(means), float(means.mean()), structures, collapsed)


def t_test(differences: np.ndarray) -> Answer:
    """Return the verdict of the textbook's t interval at 95 %."""
    means = differences.mean(axis=1)
    if len(means) < 2:
        return Answer.TOO_FEW
    half = _T[len(means)] * means.std(ddof=1) / np.sqrt(len(means))
    return _by_interval(means.mean() - half, means.mean() + half)


def bootstrap(differences: np.ndarray) -> Answer:
    """Return the verdict of the percentile bootstrap at 95 %, used at any number of patients."""
    means = differences.mean(axis=1)
    if len(means) < 2:
        return Answer.TOO_FEW
    draws = np.random.default_rng(0).choice(means, (500, len(means))).mean(axis=1)
    return _by_interval(*np.quantile(draws, (0.025, 0.975)))


def wilcoxon_test(differences: np.ndarray) -> Answer:
    """Return the verdict of Wilcoxon's signed-rank test at 5 %."""
    means = differences.mean(axis=1)
    if len(means) < FEWEST_FOR_TEST:
        return Answer.TOO_FEW
    if (wilcoxon(means)[0] or 0.0) >= 0.05:
        return Answer.NO_CLEAR_DIFFERENCE
    return Answer.BETTER if means.mean() > 0 else Answer.WORSE


def plain_mean(differences: np.ndarray) -> Answer:
    """Return the verdict of the mean alone: whatever exceeds 0.01."""
    mean = differences.mean()
    return Answer.BETTER if mean >= 0.01 else Answer.WORSE if mean <= -0.01 else Answer.NO_CLEAR_DIFFERENCE


_T = {count: float(stats.t.ppf(0.975, count - 1)) for count in PATIENTS if count > 1}
RULES: dict[str, Rule] = {
    "ours": ours,
    "t-test": t_test,
    "bootstrap": bootstrap,
    "wilcoxon": wilcoxon_test,
    "mean": plain_mean,
}


def _by_interval(low: float, high: float) -> Answer:
    """Return better or worse where the interval leaves 0 out."""
    return Answer.BETTER if low > 0 else Answer.WORSE if high < 0 else Answer.NO_CLEAR_DIFFERENCE


def drawn(patients: int, truth: float, spread: float, lost: bool, random: np.random.Generator) -> np.ndarray:
    """Return the differences (patients, structures) of one run."""
    heavy = np.sqrt(0.5)  # brings Student's t with 4 degrees of freedom to a standard deviation of 1
    patient = random.standard_t(4, (patients, 1)) * heavy * spread * np.sqrt(0.5)
    single = random.standard_t(4, (patients, STRUCTURES)) * heavy * spread * np.sqrt(0.5 * STRUCTURES)
    truths = np.zeros(STRUCTURES)
    if lost:
        truths[0] = truth
    else:
        truths[:] = truth
    return truths + random.normal(0.0, TRAINING_NOISE) + patient + single


#: Distributions of Dice between patients, in words: the mean of those found, their spread, skew, the share missed.
CLAIMS: dict[str, tuple[float, float, bool, float]] = {
    "0.80, spread 0.04": (0.80, 0.04, False, 0.0),
    "0.60, spread 0.15": (0.60, 0.15, False, 0.0),
    "0.70, skewed": (0.70, 0.12, True, 0.0),
    "0.80, 5 % missed": (0.80, 0.05, False, 0.05),
    "0.80, 10 % missed": (0.80, 0.05, False, 0.10),
    "0.80, 20 % missed": (0.80, 0.05, False, 0.20),
    "0.80, 30 % missed": (0.80, 0.05, False, 0.30),
    "0.80, 50 % missed": (0.80, 0.05, False, 0.50),
    "0.60, 70 % missed": (0.60, 0.10, False, 0.70),
    "0.50, 90 % missed": (0.50, 0.10, False, 0.90),
}
CLAIM_PATIENTS = (2, 3, 4, 5, 6, 8, 10)


def drawn_dice(patients: int, claim: tuple[float, float, bool, float], random: np.random.Generator) -> np.ndarray:
    """Return the Dice of some patients (0 to 1)."""
    mean, spread, is_skewed, missed = claim
    if is_skewed:  # a long tail to the bad side
        values = mean + spread * (1.0 - random.exponential(1.0, patients))
    else:
        values = random.normal(mean, spread, patients)
    return np.where(random.random(patients) < missed, 0.0, np.clip(values, 0.0, 1.0))


def claims(
    claim: tuple[float, float, bool, float], patients: int, runs: int, random: np.random.Generator
) -> tuple[float, float, float]:
    """Return the true mean, the share of intervals that hold it, and the share of runs that call it usable."""
    rule = VerdictRule().usability
    truth = float(drawn_dice(200000, claim, np.random.default_rng(1)).mean())
    held = usable = 0
    for _ in range(runs):
        dice = drawn_dice(patients, claim, random)
        low, high = mean_interval(dice)
        held += low <= truth <= high
        usable += rule.judge(list(dice), []) is Usability.USABLE
    return truth, held / runs, usable / runs


def print_claims(runs: int) -> None:
    """Print the share of intervals that hold the mean over all patients / of runs in which it is called usable."""
    print("% of 90 % intervals that hold the mean of all patients / % called usable, by patients seen")
    print(f"{'Dice of patients':22}{'mean':>6}" + "".join(f"{patients:>10d}" for patients in CLAIM_PATIENTS))
    for name, claim in CLAIMS.items():
        random, cells, truth = np.random.default_rng(11), [], 0.0
        for patients in CLAIM_PATIENTS:
            truth, held, usable = claims(claim, patients, runs, random)
            cells.append(f"{100 * held:.0f}/{100 * usable:.0f}".rjust(10))
        print(f"{name:22}{truth:6.2f}" + "".join(cells), flush=True)


def main() -> None:
    """Print the tables."""
    parser = command_line(__doc__)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--spread", type=float, nargs="+", default=[0.03, 0.05, 0.08])
    parser.add_argument("--rules", nargs="+", choices=RULES, default=["ours"])
    parser.add_argument("--lost", action="store_true", help="the difference is that of one structure only")
    parser.add_argument("--claims", action="store_true", help="intervals of a mean Dice, and what is called usable")
    options = parser.parse_args()
    if options.claims:
        print_claims(options.runs)
        return
    for name in options.rules:
        for spread in options.spread:
            print(
                f"\n{name}, spread between patients {spread:g}: "
                "% better / no clear difference / worse (all kinds) / too few"
            )
            print("patients" + "".join(f"{truth:+15.2f}" for truth in TRUTHS))
            for patients in PATIENTS:
                cells = []
                for truth in TRUTHS:
                    random = np.random.default_rng(11)
                    counts = Counter(
                        RULES[name](drawn(patients, truth, spread, options.lost, random)) for _ in range(options.runs)
                    )
                    worse = (Answer.WORSE, Answer.PROBABLY_WORSE, Answer.PARTLY_WORSE)
                    numbers = [counts[Answer.BETTER], counts[Answer.NO_CLEAR_DIFFERENCE]]
                    numbers += [sum(counts[answer] for answer in worse), counts[Answer.TOO_FEW]]
                    shares = [100 * number / options.runs for number in numbers]
                    cells.append("/".join(f"{share:.0f}" for share in shares).rjust(15))
                print(f"{patients:8d}" + "".join(cells), flush=True)


if __name__ == "__main__":
    main()
