"""The plan of the minutes: a bound for everything; enough steps, or another plan, or a refusal that helps."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.finetuning.candidate_minutes import CandidateMinutes
from TransferSegLib.finetuning.finetune import overrun_note
from TransferSegLib.finetuning.time_plan import (
    FEWEST_STEPS_ALONE,
    LEAST_FULL_STEPS,
    LEAST_STEPS_ALONE,
    LEAST_TAIL_STEPS,
    Amount,
    Speeds,
    TimePlan,
    TooLittleTime,
    best_of_what_is_left,
    plan_time,
    planned_amount,
)

#: Nothing but training takes time, a step of the last layers a tenth of one of all layers.
BARE = Speeds(0.0, 0.0, 0.0, 0.0, 0.1, 1.0, 0.0, 0.0)
REAL = Speeds(read_s=0.5, predict_s=2.0, score_s=0.5, feature_s=0.4, tail_step_s=0.1, full_step_s=0.5,
              candidate_s=0.5, save_s=1.0)  # fmt: skip
FIVE = Amount(cases=5, learnable=5, patients=5, fewest_folds=2, reported=0, tail_steps=300, steps=400, patches=16,
              tail_share=0.35, cache_share=0.6)  # fmt: skip


def test_half_of_the_time_is_for_what_is_kept() -> None:
    """Of 10 min a twentieth is kept in reserve; of 570 s the final candidate gets 285 s, each of 3 folds 95 s."""
    plan = plan_time(10, FIVE, BARE)
    assert plan.folds == 3 and 60 * plan.minutes_each == pytest.approx(95)
    # 33.25 s for the last layers are 332 steps, and there are 300; then 65 s for all layers.
    assert (plan.tail_steps, plan.steps, plan.tail_only) == (300, 65, False)
    # The final one starts from the average of the others: its last layers are trained already.
    assert (60 * plan.final_minutes, plan.final_tail_steps, plan.final_steps) == (pytest.approx(285), 0, 285)
    assert plan.total_s == pytest.approx(570) and "About 9.5 min of the 10 min given" in plan.text
    final = "starts from their average and learns from all cases (at most 4.8 min, about 285 steps of all layers)"
    assert f"which is kept, {final}." in plan.text
    alone = plan_time(10, replace(FIVE, averages=False), BARE)
    assert (alone.final_tail_steps, alone.final_steps) == (300, 255) and "average" not in alone.text


#: New structures on a slow computer: all layers at once, 4 s a step with the usual patches.
SLOW = replace(FIVE, trains_tail=False, caches=False, side=64, smaller_sides=(56, 48, 40, 32))
FOUR_SECONDS = replace(BARE, full_step_s=4.0)


def test_with_little_time_patches_get_smaller_before_too_few_steps_are_made() -> None:
    """Of 570 s two folds get 142.5 s each: 35 steps of 4 s. With 56 voxels a side they are 46, with 48 they are 63."""
    plan = plan_time(10, SLOW, FOUR_SECONDS)
    assert (plan.folds, plan.side, plan.steps, plan.tail_only) == (2, 48, 63, False)
    assert plan.final_steps == 126 and "patches have only 48 voxels a side" in plan.text
    usual = plan_time(60, SLOW, FOUR_SECONDS)
    assert (usual.folds, usual.side, usual.steps) == (3, 0, 142) and "patches" not in usual.text
    # A step with the smallest takes 1 s. With fewer than 60 of them, 30 are accepted, then the last layers alone.
    for minutes, folds, steps in ((4, 3, 38), (2.2, 2, 31)):
        plan = plan_time(minutes, SLOW, FOUR_SECONDS)
        assert (plan.folds, plan.side, plan.steps, plan.tail_only) == (folds, 32, steps, False)
        assert "little training" in plan.text
    assert plan_time(1.9, SLOW, FOUR_SECONDS).tail_only


def test_a_later_plan_goes_on_with_the_patches_of_an_earlier_one() -> None:
    first = plan_time(10, SLOW, FOUR_SECONDS)
    amount = planned_amount(first, SLOW)
    again = best_of_what_is_left(600, 0, amount, FOUR_SECONDS, SLOW)
    assert (again.folds, again.side, again.steps) == (first.folds, first.side, first.steps)
    less = best_of_what_is_left(600, 190, amount, FOUR_SECONDS, SLOW)
    assert less.side == 40 and planned_amount(less, amount).side == 40
    smallest = best_of_what_is_left(600, 400, planned_amount(less, amount), FOUR_SECONDS, SLOW)
    assert smallest.side == 32 and planned_amount(smallest, planned_amount(less, amount)).smaller_sides == ()


def test_what_is_left_when_nothing_fits_goes_to_the_smallest_patches() -> None:
    """Of 50 s one half is for the final candidate, a quarter for each of two: 12 steps of 1 s."""
    left = best_of_what_is_left(600, 520, replace(SLOW, may_train_tail_only=False), FOUR_SECONDS)
    assert (left.side, left.steps, left.tail_only) == (32, 12, False)


def test_patches_that_were_asked_for_stay() -> None:
    plan = plan_time(10, replace(SLOW, smaller_sides=()), FOUR_SECONDS)
    assert (plan.folds, plan.side, plan.steps) == (2, 0, 35) and "little training" in plan.text


def test_everything_beside_training_is_accounted_for() -> None:
    plan = plan_time(10, replace(FIVE, reported=3, steps=100_000), REAL)
    beside = 5 * 0.5 + 5 * 2.0 + 5 * 2.5 + 4 * 0.5 + 3 * 2.5 + 1.0
    training = 570 - beside
    features = 5 * 0.4 * min(16, (0.25 * training) // (5 * 0.4))
    assert 60 * plan.minutes_each == pytest.approx((training - features) / 6)
    assert 60 * plan.final_minutes == pytest.approx((training - features) / 2)
    assert sum(plan.parts_s.values()) == pytest.approx(570) == pytest.approx(plan.total_s)


def test_fewer_folds_then_the_last_layers_then_a_refusal() -> None:
    """As the time gets shorter, with 8 patients and slow steps of all layers."""
    eight = replace(FIVE, cases=8, learnable=8, patients=8, most_folds=8)
    kinds = []
    for minutes in (60, 6, 2.5, 1, 0.5):
        plan = plan_time(minutes, eight, BARE)
        kinds.append((plan.folds, plan.tail_only))
        assert plan.tail_steps >= LEAST_TAIL_STEPS and (plan.tail_only or plan.steps >= LEAST_FULL_STEPS)
        assert "not enough time" in plan.text or plan.folds == 8
        assert ("the last layers only" in plan.text) == plan.tail_only
    assert kinds == [(8, False), (5, False), (2, False), (2, True), (2, True)]
    with pytest.raises(TooLittleTime, match=r"^0\.1 min is too little to learn .* from 8 cases .* allow 0\.5 min"):
        plan_time(0.1, eight, BARE)


def test_strategies_asked_for_by_name_are_not_replaced() -> None:
    """'vanilla' has no last layers to fall back on, unless it was only the default for another modality."""
    vanilla = replace(FIVE, trains_tail=False, caches=False, shares=False)
    assert plan_time(2, vanilla, BARE).tail_only
    named = replace(vanilla, may_train_tail_only=False)
    with pytest.raises(TooLittleTime) as refused:
        plan_time(2, named, BARE)
    enough = plan_time(refused.value.minutes, named, BARE)
    assert LEAST_STEPS_ALONE > enough.steps >= FEWEST_STEPS_ALONE and not enough.tail_only
    usual = plan_time(10, named, BARE)
    assert usual.steps >= LEAST_STEPS_ALONE
    choosing = replace(FIVE, extra=2)
    assert plan_time(10, choosing, BARE).extra == 2
    assert plan_time(2, choosing, BARE).extra == 0 and "no time to choose" in plan_time(2, choosing, BARE).text


def test_features_that_each_candidate_computes_take_their_time() -> None:
    """Of one patient no features are shared: each of the two candidates computes 16 patches of 5 cases."""
    one = replace(FIVE, patients=1, shares=False)
    for minutes in (0, 200):
        parts = plan_time(minutes, one, REAL).parts_s
        assert parts["training"] == pytest.approx(2 * (80 * 0.4 + 300 * 0.1 + 400 * 0.5))
        assert parts["final training"] == pytest.approx(400 * 0.5)


def test_few_steps_that_are_set_are_enough() -> None:
    """Who sets 5 steps gets 5 steps, in however little time they can be made."""
    few = replace(FIVE, tail_steps=3, steps=5)
    plan = plan_time(1, few, BARE)
    assert (plan.folds, plan.tail_steps, plan.steps) == (3, 3, 5)
    assert plan.total_s == pytest.approx(3 * 5.3 + 5)


def test_without_minutes_the_steps_decide() -> None:
    plan = plan_time(0, replace(FIVE, patients=30, cases=30, learnable=30), REAL)
    assert plan.folds == 3 and plan.minutes_each == 0 and (plan.tail_steps, plan.steps) == (300, 400)
    assert plan.parts_s["training"] == pytest.approx(3 * (300 * 0.1 + 400 * 0.5))
    assert plan.parts_s["final training"] == pytest.approx(400 * 0.5) and plan.final_minutes == 0
    assert plan_time(0, replace(FIVE, patients=1), REAL).folds == 2
    assert plan_time(0, replace(FIVE, most_folds=4), REAL).folds == 4


@settings(max_examples=150, deadline=None)
@given(
    minutes=st.floats(0.1, 120),
    speeds=st.builds(
        Speeds,
        *(st.floats(0.001, top) for top in (5, 60, 20, 5, 2, 30, 5, 20)),
    ),
    cases=st.integers(1, 40),
    patients=st.integers(1, 40),
    tail=st.booleans(),
)
def test_no_plan_is_longer_than_the_minutes_and_every_refusal_names_enough(
    minutes: float, speeds: Speeds, cases: int, patients: int, tail: bool
) -> None:
    amount = replace(FIVE, cases=cases, learnable=cases, patients=min(cases, patients), reported=min(3, cases))
    amount = replace(amount, shares=tail and amount.patients > 1, trains_tail=tail, caches=tail)
    try:
        plan = plan_time(minutes, amount, speeds, spent_s=1.0)
    except TooLittleTime as error:
        assert error.minutes > minutes
        plan = plan_time(error.minutes, amount, speeds, spent_s=1.0)
        minutes = error.minutes
    assert plan.total_s <= 60 * minutes and 2 <= plan.folds <= max(2, amount.patients)
    assert plan.tail_steps >= LEAST_TAIL_STEPS or plan.steps >= FEWEST_STEPS_ALONE


def test_what_is_left_is_planned_however_little_it_is() -> None:
    """Begun work is not thrown away: the smallest plan there is."""
    plan = best_of_what_is_left(60.0, 58.0, FIVE, REAL)
    assert plan.folds == 2 and plan.tail_only and plan.minutes_each > 0


class TimedRun:
    def __init__(self, left_s: float) -> None:
        self.left_s = left_s


def test_candidates_get_less_where_time_ran_and_the_final_one_what_is_left() -> None:
    plan = TimePlan(2, 1.0, "", final_minutes=2.0)
    run = TimedRun(300.0)
    minutes = CandidateMinutes(plan, replace(FIVE, reported=0), BARE, run, {"fold-1": 3, "fold-2": 2}, {})  # type: ignore[arg-type]
    assert minutes.of("fold-1") == 1.0, "as planned, although there is time for more"
    minutes.took("fold-1", compare_s=20.0)
    run.left_s = 100.0
    # 100 s less 2 cases at 20 s, a third of it for the second fold and two for the final one.
    assert 60 * minutes.of("fold-2") == pytest.approx(20)
    run.left_s = -5.0
    assert 60 * minutes.of("fold-2") == pytest.approx(20), "what was begun is continued as it was"
    minutes.took("fold-2")
    run.left_s = 150.0
    assert 60 * minutes.of("final") == pytest.approx(150), "more than planned: nothing comes after it"
    run.left_s = -5.0
    late = CandidateMinutes(plan, replace(FIVE, reported=0), BARE, run, {}, {})  # type: ignore[arg-type]
    assert 60 * late.of("final") == pytest.approx(1.0)


def test_longer_than_asked_for_is_told() -> None:
    assert overrun_note(20, 20.5 * 60) == () and overrun_note(0, 1e6) == ()
    assert overrun_note(20, 22 * 60) and "22.0 min, longer than the 20 min given" in overrun_note(20, 22 * 60)[0]


def test_workers_share_the_time_of_the_folds() -> None:
    """Of 570 s half is for the final one. Three workers have 285 s each at the same time, two have two turns."""
    start = replace(BARE, slowdown=2.0)
    three = plan_time(10, replace(FIVE, workers=3, shares=False), start)
    assert three.folds == 3 and 60 * three.minutes_each == pytest.approx(285)
    assert 60 * three.final_minutes == pytest.approx(285) and three.total_s == pytest.approx(570)
    # Twice as slow: 0.2 s for a step of the last layers, 300 of them, and 2 s for one of all layers.
    assert (three.tail_steps, three.steps, three.final_steps) == (300, 112, 285)
    assert "3 workers train the compared ones" in three.text and "takes a worker 2.0 times as long" in three.text
    assert 60 * plan_time(10, replace(FIVE, workers=2, shares=False), start).minutes_each == pytest.approx(142.5)
    # Two strategies on the first two folds, then the third fold: 3 turns of 2 workers.
    choosing = replace(FIVE, workers=2, shares=False, extra=2, patients=3)
    assert 60 * plan_time(10, choosing, start).minutes_each == pytest.approx(95)


def test_no_more_workers_are_told_than_there_are_candidates() -> None:
    assert "3 workers train the compared ones" in plan_time(0, replace(FIVE, workers=64, shares=False), BARE).text
    # Two strategies on two folds are four candidates at the same time; then there is one left.
    choosing = plan_time(0, replace(FIVE, workers=64, shares=False, extra=2, patients=3), BARE)
    assert "4 workers train the compared ones" in choosing.text


def test_what_workers_do_beside_training_is_accounted_for() -> None:
    """Two turns: each begins, reads all 5 cases, and compares 2 of them, more slowly than this process."""
    slow = replace(REAL, slowdown=1.5, worker_start_s=7.0)
    parts = plan_time(0, replace(FIVE, workers=2, shares=False), slow).parts_s
    assert parts["workers' start"] == pytest.approx(2 * (7 + 5 * 0.5))
    assert parts["comparing"] == pytest.approx(2 * 2 * 1.5 * 2.5)
    assert parts["candidates' files"] == pytest.approx(3 * 0.5)
    assert parts["training"] == pytest.approx(2 * 1.5 * (80 * 0.4 + 300 * 0.1 + 400 * 0.5))
    assert parts["final training"] == pytest.approx(400 * 0.5)


def test_candidates_of_workers_get_their_minutes_at_the_same_time() -> None:
    plan, run = TimePlan(3, 1.0, "", final_minutes=1.0), TimedRun(110.0)
    amount, speeds = replace(FIVE, reported=0, workers=3), replace(BARE, score_s=5.0, slowdown=2.0)
    minutes = CandidateMinutes(plan, amount, speeds, run, {"fold-1": 1, "fold-2": 1, "fold-3": 1}, {})  # type: ignore[arg-type]
    # 110 s less one case at 10 s; half of it for all folds at the same time.
    assert [60 * minutes.of(f"fold-{number}") for number in (1, 2, 3)] == [pytest.approx(50)] * 3
    for number in (1, 2, 3):
        minutes.took(f"fold-{number}")
    run.left_s = 60.0
    assert 60 * minutes.of("final") == pytest.approx(60)
