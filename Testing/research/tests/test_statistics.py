"""The report's numbers, against values worked out by hand."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from Testing.research.study.configuration_file import read_study
from Testing.research.study.curves import is_whole
from Testing.research.study.report import BEGIN, END, read_statistics, report_text
from Testing.research.study.results import Result
from Testing.research.study.statistics import (
    HD95,
    NSD,
    Cell,
    StudyStatistics,
    by_patient,
    with_common_seeds,
)
from Testing.research.study.summaries import check_floors, mean_gain_by_seed, mean_interval, summarise_gains
from Testing.research.tests.conftest import WriteStudy, study_entry
from Testing.research.tests.test_runs_and_results import result

PATIENTS = "abcdefgh"


def results_of(strategy: str, dice: Sequence[float], seed: int = 1, size: int = 1, base: str = "sparse") -> Result:
    """Return a result with one case per patient."""
    scores = {patient: {"slab": (value, value / 2, 4.0)} for patient, value in zip(PATIENTS, dice, strict=False)}
    key = f"{base}/slab/{size}/{strategy}/{seed}"
    return result(key, scores=scores, patients={patient: patient for patient in scores})


def test_a_patient_counts_once_whatever_its_cases_structures_and_seeds() -> None:
    first = result(
        scores={
            "a1": {"x": (0.2, 0.0, 1.0), "y": (0.4, 0.0, 1.0)},
            "a2": {"x": (0.9, 0.0, 1.0)},
            "b": {"x": (0.5, 0.0, 1.0)},
        },
        patients={"a1": "a", "a2": "a", "b": "b"},
    )
    second = result(scores={"b": {"x": (0.7, 0.0, 1.0)}}, patients={"b": "b"})
    # a: ((0.2 + 0.4) / 2 + 0.9) / 2 = 0.6; b: (0.5 + 0.7) / 2 = 0.6
    assert by_patient([first, second], 0) == pytest.approx({"a": 0.6, "b": 0.6})


def test_a_cell_is_the_mean_over_seeds_and_patients(write_study: WriteStudy) -> None:
    study = write_study(study_entry() | {"seeds": [1, 2, 3]})
    results = [results_of("ours", np.full(8, 0.6), 1), results_of("ours", np.arange(8) / 10, 2)]
    statistics = StudyStatistics(study, results)
    cell = Cell("sparse", "slab", "ours", 1)
    estimate = statistics.estimate(cell)
    assert estimate is not None
    assert estimate.mean == pytest.approx((0.6 + 0.35) / 2)
    assert estimate.seeds == (1, 2)
    assert estimate.low is not None and estimate.high is not None
    # The standard error of (0.6 + k / 10) / 2 over k = 0 ... 7 is 0.245 / 2 / sqrt(8) = 0.0433.
    assert estimate.high - estimate.low == pytest.approx(2 * 1.96 * 0.0433, rel=0.25)
    surface = statistics.estimate(cell, NSD)
    assert surface is not None and surface.mean == pytest.approx(0.475 / 2)
    assert statistics.estimate(Cell("sparse", "slab", "scratch", 1)) is None


def test_distances_are_a_median_and_a_share_of_misses(write_study: WriteStudy) -> None:
    distances = [1.0, 3.0, 5.0, float("inf")]
    scores = {patient: {"slab": (0.5, 0.5, one)} for patient, one in zip(PATIENTS, distances, strict=False)}
    assert next(iter(scores.values()))["slab"][HD95] == 1.0
    found = result(scores=scores, patients={patient: patient for patient in scores})
    distance = StudyStatistics(write_study(study_entry()), [found]).distance(Cell("sparse", "slab", "ours", 1))
    assert distance is not None
    assert (distance.median_mm, distance.missed) == (4.0, 0.25)


def test_gains_are_paired_by_patient_and_seed(write_study: WriteStudy) -> None:
    study = write_study(study_entry() | {"seeds": [1, 2]})
    scratch = np.linspace(0.1, 0.8, 8)
    gained = np.arange(1, 9) / 100
    results = [results_of("scratch", scratch), results_of("ours", scratch + gained), results_of("ours", scratch * 0, 2)]
    gains = StudyStatistics(study, results).gains_over_scratch()
    assert len(gains) == 1
    assert gains[0].seeds == (1,), "seed 2 has no run from scratch to be compared with"
    assert gains[0].difference == pytest.approx(0.045)
    # All eight differences have one sign: the exact two-sided p is 2 / 2^8.
    assert gains[0].p_value == pytest.approx(2 / 256)
    assert gains[0].p_holm == pytest.approx(2 / 256)
    assert gains[0].low is not None and 0 < gains[0].low < 0.045
    assert (gains[0].by_seed, gains[0].planned) == (pytest.approx((0.045,)), 2)


def test_tests_of_one_question_are_corrected_together(write_study: WriteStudy) -> None:
    study = write_study(study_entry() | {"sizes": [1, 2]})
    scratch = np.linspace(0.1, 0.8, 8)
    mixed = np.array([1, 2, 3, 4, 5, 6, 7, -8]) / 100  # the largest rank is negative: W = 8, p = 50 / 256
    results = [
        *(results_of("scratch", scratch, size=size) for size in (1, 2)),
        results_of("ours", scratch + np.arange(1, 9) / 100, size=1),
        results_of("ours", scratch + mixed, size=2),
    ]
    first, second = StudyStatistics(study, results).gains_over_scratch()
    assert first.p_holm == pytest.approx(2 * 2 / 256)
    assert second.p_value == pytest.approx(2 * _share_of_rank_sums_up_to(8))
    assert second.p_holm == pytest.approx(max(4 / 256, second.p_value or 0))
    statistics = StudyStatistics(study, results)
    (summary,) = summarise_gains(statistics, [first, second])
    assert summary.low is not None and summary.high is not None and summary.low < summary.mean < summary.high
    assert (summary.base, summary.strategy, summary.experiments) == ("sparse", "ours", 2)
    assert summary.largest is first
    assert summary.mean == pytest.approx((0.045 + 0.025) / 2)
    assert (summary.better, summary.worse) == (1, 0)
    assert [one.is_clear for one in (first, second)] == [True, False]


def _share_of_rank_sums_up_to(limit: int) -> float:
    """Count, among all subsets of the ranks 1 to 8, those whose sum is at most the limit."""
    sums = [sum(rank for rank in range(1, 9) if subset >> (rank - 1) & 1) for subset in range(256)]
    return sum(one <= limit for one in sums) / 256


def test_few_patients_have_neither_interval_nor_test(write_study: WriteStudy) -> None:
    results = [results_of("scratch", [0.5, 0.6]), results_of("ours", [0.6, 0.7])]
    (gain,) = StudyStatistics(write_study(study_entry()), results).gains_over_scratch()
    assert gain.difference == pytest.approx(0.1)
    assert (gain.low, gain.high, gain.p_value, gain.p_holm) == (None, None, None, None)


def test_scratch_of_another_base_stands_in(write_study: WriteStudy) -> None:
    entry = study_entry()
    entry["bases"]["dense"] = entry["bases"]["sparse"] | {"only_fully_annotated": True}
    dice = np.full(8, 0.5)
    results = [
        results_of("scratch", dice),
        results_of("ours", dice + 0.1),
        results_of("ours", dice + 0.3, base="dense"),
    ]
    statistics = StudyStatistics(write_study(entry), results)
    gains = {gain.cell.base: gain.difference for gain in statistics.gains_over_scratch()}
    assert gains == pytest.approx({"sparse": 0.1, "dense": 0.3})
    (gain,) = statistics.gains_of_base("sparse", "dense")
    assert gain.difference == pytest.approx(-0.2)
    assert (gain.cell.strategy, gain.against.base) == ("ours", "dense")


def test_floors(write_study: WriteStudy) -> None:
    floor = {"task": "slab", "strategy": "ours", "against": "scratch"}
    floors = [floor | {"at_least": 0.1}, floor | {"at_least": 0.05, "on_average": True}]
    floors += [floor | {"at_least": 0.0, "sizes": [3]}]
    study = write_study(study_entry() | {"sizes": [1, 2, 3], "floors": floors})
    dice = np.full(8, 0.5)
    results = [results_of("scratch", dice, size=size) for size in (1, 2)]
    results += [results_of("ours", dice + 0.1, size=1), results_of("ours", dice + 0.04, size=2)]
    checks = check_floors(StudyStatistics(study, results))
    assert [(check.size, check.reached is None, check.holds) for check in checks] == [
        (1, False, True),
        (2, False, False),
        (3, True, False),
        (None, True, False),
        (3, True, False),
    ]
    third = [results_of("scratch", dice, size=3), results_of("ours", dice + 0.01, size=3)]
    average = check_floors(StudyStatistics(study, results + third))[3]
    assert average.reached == pytest.approx(0.05)
    assert average.holds


def test_clear_is_only_what_no_seed_contradicts(write_study: WriteStudy) -> None:
    """A test over patients is sure of these training sets; another draw may say the opposite."""
    study = write_study(study_entry() | {"seeds": [1, 2]})
    scratch = np.linspace(0.1, 0.5, 8)
    results = [results_of("scratch", scratch, seed) for seed in (1, 2)]
    results.append(results_of("ours", scratch + 0.3, 1))
    for other, is_clear in ((-0.1, False), (0.1, True)):
        (gain,) = StudyStatistics(study, [*results, results_of("ours", scratch + other, 2)]).gains_over_scratch()
        assert gain.by_seed == pytest.approx((0.3, other))
        assert gain.p_holm == pytest.approx(2 / 256)
        assert gain.is_clear == is_clear


def test_every_task_is_corrected_for_its_own_tests(write_study: WriteStudy) -> None:
    study = write_study(study_entry())
    scratch = np.linspace(0.1, 0.8, 8)
    results = [results_of("scratch", scratch), results_of("ours", scratch + np.arange(1, 9) / 100)]
    again = [
        result(one.key.replace("slab", "again"), scores=dict(one.scores), patients=dict(one.patients))
        for one in results
    ]
    gains = StudyStatistics(study, results + again).gains_over_scratch()
    assert [gain.cell.task for gain in gains] == ["slab", "again"]
    assert [gain.p_holm for gain in gains] == pytest.approx([2 / 256, 2 / 256])


def test_scratch_of_another_width_does_not_stand_in(write_study: WriteStudy) -> None:
    entry = study_entry()
    wide = entry["bases"]["sparse"] | {
        "strategies": ["ours"],
        "knobs": entry["bases"]["sparse"]["knobs"] | {"width": 4},
    }
    entry["bases"]["wide"] = wide
    dice = np.full(8, 0.5)
    results = [results_of("scratch", dice), results_of("ours", dice + 0.3, base="wide")]
    assert StudyStatistics(write_study(entry), results).gains_over_scratch() == []


def test_the_interval_of_a_mean_of_gains_draws_patients(write_study: WriteStudy) -> None:
    study = write_study(study_entry() | {"sizes": [1, 2]})
    scratch = np.zeros(8)
    gained = np.arange(8) / 10
    results = [results_of("scratch", scratch, size=size) for size in (1, 2)]
    results += [results_of("ours", gained, size=1), results_of("ours", gained, size=2)]
    statistics = StudyStatistics(study, results)
    interval = mean_interval(statistics, statistics.gains_over_scratch())
    # Both sizes gain alike in every patient, so that two experiments say no more than one: the deviation of 0 to 0.7
    # is 0.229, that of the mean of eight 0.081.
    assert interval == pytest.approx((0.35 - 1.96 * 0.081, 0.35 + 1.96 * 0.081), abs=0.01)
    few = [results_of("scratch", scratch[:5]), results_of("ours", gained[:5])]
    statistics = StudyStatistics(study, few)
    assert mean_interval(statistics, statistics.gains_over_scratch()) is None


def test_means_of_single_seeds_over_experiments(write_study: WriteStudy) -> None:
    """Two sizes gain 0.1 and 0.3 with one seed, 0.2 and -0.1 with another; a third is there for one size only."""
    study = write_study(study_entry() | {"seeds": [1, 2, 3], "sizes": [1, 2]})
    scratch = np.full(8, 0.5)
    results = []
    for size, seed, gained in ((1, 1, 0.1), (2, 1, 0.3), (1, 2, 0.2), (2, 2, -0.1), (1, 3, 0.4)):
        results += [
            results_of("scratch", scratch, seed, size),
            results_of("ours", scratch + gained, seed, size),
        ]
    statistics = StudyStatistics(study, results)
    gains = statistics.gains_over_scratch()
    assert mean_gain_by_seed(gains) == pytest.approx((0.2, 0.05))
    (summary,) = summarise_gains(statistics, gains)
    assert summary.by_seed == pytest.approx((0.2, 0.05))
    assert mean_gain_by_seed([]) == ()


def test_missing_seeds_are_told_in_report_and_picture(write_study: WriteStudy) -> None:
    """A fraction stands behind the mean of a cell that is not whole, and its words in the title only then."""
    study = write_study(study_entry() | {"seeds": [1, 2], "sizes": [1]})
    pair = [[results_of("scratch", [0.5] * 8, seed), results_of("ours", [0.6] * 8, seed)] for seed in (1, 2)]
    words = "**Mean Dice (1/3: one seed of three is done)**"
    part, whole = StudyStatistics(study, pair[0]), StudyStatistics(study, [*pair[0], *pair[1]])
    assert words in report_text(part) and "(1/2)" in report_text(part) and not is_whole(part, "sparse")
    text = report_text(whole)
    assert "**Mean Dice**" in text and words not in text and "(1/2)" not in text and is_whole(whole, "sparse")


def test_what_was_run_once_of_several_seeds_is_not_clear(write_study: WriteStudy) -> None:
    scratch = np.linspace(0.1, 0.5, 8)
    results = [results_of("scratch", scratch), results_of("ours", scratch + np.arange(1, 9) / 100)]
    for seeds, is_clear in (([1], True), ([1, 2, 3], False)):
        (gain,) = StudyStatistics(write_study(study_entry() | {"seeds": seeds}), results).gains_over_scratch()
        assert gain.is_clear == is_clear


def test_means_are_over_the_seeds_that_all_strategies_have() -> None:
    dice = np.full(8, 0.5)
    scratch = [results_of("scratch", dice, seed) for seed in (1, 2)]
    results = [
        *scratch,
        results_of("ours", dice, 1),
        results_of("ours", dice, 2, size=2),
        results_of("ours", dice, base="b"),
    ]
    # Size 2 has no scratch yet, base b no other strategy: nothing to wait for.
    assert {one.key for one in with_common_seeds(results)} == {one.key for one in results} - {scratch[1].key}
    apart = [results_of("scratch", dice, 1), results_of("ours", dice, 2)]
    assert with_common_seeds(apart) == apart


def test_what_was_not_found_is_counted(write_study: WriteStudy) -> None:
    statistics = StudyStatistics(write_study(study_entry()), [results_of("ours", [0.05, 0.1, 0.5, 0.0])])
    assert statistics.failures(Cell("sparse", "slab", "ours", 1)) == 0.5
    assert statistics.failures(Cell("sparse", "slab", "scratch", 1)) is None


def test_the_page_holds_the_report_of_the_committed_results() -> None:
    study = read_study(Path(__file__).resolve().parents[1] / "study.json")
    assert study.report is not None
    page = study.report.read_text(encoding="utf-8")
    written = page.partition(BEGIN)[2].partition(END)[0]
    pictures = re.findall(r"!\[[^]]*\]\(([^)]+)\)", written)
    assert pictures and all((study.report.parent / picture).is_file() for picture in pictures)
    assert written.strip() == report_text(read_statistics(study), pictures).strip()
