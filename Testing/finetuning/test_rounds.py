"""Training until held-out Dice no longer improves: when it ends, what is kept, and that nothing unseen is learned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from Testing.finetuning import projects
from Testing.finetuning.test_time_plan import BARE, FIVE
from TransferSegLib.errors import Cancelled
from TransferSegLib.evaluation.verdict import Training
from TransferSegLib.evaluation.verdict_advice import more_minutes
from TransferSegLib.finetuning import cross_validation as module
from TransferSegLib.finetuning import holding_out
from TransferSegLib.finetuning import rounds as rounds_module
from TransferSegLib.finetuning.blending import Blend
from TransferSegLib.finetuning.finetune import finetune
from TransferSegLib.finetuning.holding_out import HeldOut
from TransferSegLib.finetuning.report import report_text
from TransferSegLib.finetuning.request import FineTuneRequest
from TransferSegLib.finetuning.rounds import (
    GAIN,
    RoundResult,
    best_round,
    curve_note,
    first_minutes,
    improves,
    round_share,
    share_of_all,
)
from TransferSegLib.finetuning.run_folder import RUNS_NAME, RunFolder
from TransferSegLib.models.store import load_model
from TransferSegLib.progress import CancelToken, Progress

KNOBS = replace(projects.UNBROKEN, tail_steps=12, report_cases=0)


def curve(*dice: float) -> list[RoundResult]:
    return [RoundResult(2.0**number, 10, one) for number, one in enumerate(dice)]


def test_every_round_is_as_long_as_all_before_it() -> None:
    lengths = [round_share(number) for number in range(6)]
    assert lengths == [1, 1, 2, 4, 8, 16]
    for number in range(1, 6):
        assert lengths[number] == sum(lengths[:number])
        assert share_of_all(number) == sum(lengths[:number])


@pytest.mark.parametrize(
    ("dice", "more", "kept"),
    [
        ([0.2], True, 0),
        ([0.5, 0.6], True, 1),
        ([0.5, 0.6, 0.604], False, 1),  # less than GAIN: the shorter training is as good
        ([0.5, 0.6, 0.59], False, 1),
        ([0.5, 0.4], False, 0),
        ([0.5, 0.503, 0.5], False, 0),
        ([0.5, 0.6, 0.7, 0.8], True, 3),
        ([0.0, 0.0], True, 0),  # hardly anything is learned yet: one round more
        ([0.0, 0.0, 0.0], False, 0),
        ([0.0, 0.0, 0.2, 0.2], True, 2),
        ([0.0, 0.0, 0.4, 0.4], False, 2),
    ],
)
def test_it_ends_where_twice_the_training_brings_nothing(dice: list[float], more: bool, kept: int) -> None:
    assert improves(curve(*dice)) is more and best_round(curve(*dice)) == kept


def test_a_training_that_always_improves_ends() -> None:
    assert not improves(curve(*(number / 20 for number in range(11))))


def held_out(*dice: float, steps: int = 100) -> HeldOut:
    return HeldOut([], Blend(0.0, {0.0: dice[-1]}), [steps, steps + 5], [], tuple(curve(*dice)))


def test_the_time_of_a_training_is_what_it_took_and_not_the_limit() -> None:
    """Seen in a verdict: "about 240 more minutes", half of a limit of 480, after a run of 15."""
    stopped = held_out(0.2, 0.3).training(480, 15 * 60.0)
    assert stopped == Training(100, 15.0) and more_minutes(stopped) == 8
    assert held_out(0.2).training(10, 11 * 60.0) == Training(100, 10.0)
    assert held_out(0.2).training(0, 900.0) == Training(100) and more_minutes(Training(100)) is None


def test_a_training_that_no_longer_improves_is_long_enough() -> None:
    ended = held_out(0.5, 0.501).training(480, 900.0)
    assert ended is not None and ended.has_converged and ended.is_long
    assert not held_out(0.5, 0.6).training(480, 900.0).is_long
    without_rounds = HeldOut([], Blend(0.0, {0.0: 0.5}), [100], [])
    assert without_rounds.training(5, 300.0) == Training(100, 5.0)
    assert HeldOut([], Blend(0.0, {}), [], []).training(5, 300.0) is None


def test_what_is_said_of_the_curve() -> None:
    assert curve_note(curve(0.5, 0.6, 0.602)) == (
        "Mean Dice on cases left out of training, after 1, 2, 4 min of it: 0.500, 0.600, 0.602. "
        "The last doubling of the training time brought less than 0.005: training ended."
    )
    assert "the last doubling brought +0.100, and more minutes" in curve_note(curve(0.5, 0.6))
    assert "There was no time for more training" in curve_note(curve(0.5))


def test_the_first_round_trains_all_layers() -> None:
    """With a step of 1 s, 10 min suffice; with steps of 20 s all layers need more, and the first round is longer."""
    assert first_minutes(480, FIVE, BARE, 0.0) == 10 and first_minutes(5, FIVE, BARE, 0.0) == 5
    slow = replace(BARE, full_step_s=20.0)
    assert (
        first_minutes(480, FIVE, slow, 0.0) == 40
    )  # 2 folds of 20 steps and half of the time for the final one: 28 min
    assert first_minutes(30, FIVE, slow, 0.0) == 30


@pytest.fixture
def place(world: Any, tmp_path: Path) -> tuple[Path, Path]:
    """Return a project of three patients and a library whose model does not find the bright ball."""
    parent = projects.seeing(world.make_parent(world.label_set("bright", "dark")))
    return projects.add_cases(tmp_path / "project", [1, 2, 3], ["bright"]), projects.put_parent(
        tmp_path / "library", parent
    )


def until_converged(place: tuple[Path, Path], **more: Any) -> FineTuneRequest:
    project, library = place
    return projects.request(project, library, **({"configuration": KNOBS, "until_converged": True} | more))


def test_rounds_end_and_the_kept_one_counts(place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[tuple[frozenset[str], int, int]] = []
    adapt = module.adapt

    def watched(parent: Any, training: Any, change: Any, settings: Any, **more: Any) -> Any:
        calls.append((frozenset(case.id for case in training), settings.tail_steps, settings.seed))
        return adapt(parent, training, change, settings, **more)

    monkeypatch.setattr(module, "adapt", watched)
    lines: list[str] = []
    result = finetune(until_converged(place), tell=lines.append)
    assert lines[0].startswith("Training continues in rounds")
    rounds, dice = len(result.curve), [one.mean_dice for one in result.curve]
    assert 3 <= rounds < 11 and dice[0] < 0.3 and max(dice) > 0.9, "the first steps are too few: it must go on"
    assert dice[-1] <= max(dice[:-1]) + GAIN, "and end when there is nothing more to gain"
    first = KNOBS.tail_steps
    assert [one.steps for one in result.curve] == [first * 2**number for number in range(rounds)]
    *of_folds, final = calls
    assert [steps for _, steps, _ in of_folds] == [first * round_share(n) for n in range(rounds) for _ in range(3)]
    for fold in range(3):
        assert len({cases for cases, _, _ in of_folds[fold::3]}) == 1, "a fold's cases stay unseen in all rounds"
    assert len({seed for _, _, seed in of_folds}) == rounds, "each round draws other patches"
    kept = best_round(result.curve)
    assert len(final[0]) == 3 and final[1] == first * share_of_all(kept + 1)
    # The verdict is about the round that is kept.
    row = next(row for row in result.evidence.rows if row.structure == "bright")
    assert row.candidate == pytest.approx(dice[kept], abs=1e-6)
    text = report_text(result.to_json())
    assert "left out of training, after 12, 24" in text and "chosen on the same cases" in text
    training = result.evidence.verdict.training
    assert training is not None and training.has_converged and training.minutes == 0, "no limit was given"
    assert result.to_json()["rounds"][0]["steps"] == first


def test_stopped_in_a_later_round_it_ends_the_same(place: tuple[Path, Path]) -> None:
    whole = finetune(until_converged(place, name="whole"))
    stopped = until_converged(place, name="stopped", configuration=replace(KNOBS, checkpoint_every=2))
    cancel = CancelToken()

    def stop(report: Progress) -> None:
        if "-round-2:2" in report.key and report.step == 4:
            cancel.cancel()

    with pytest.raises(Cancelled):
        finetune(stopped, stop, cancel)
    seen: list[str] = []
    resumed = finetune(stopped, lambda report: seen.append(report.key))
    assert not any("train-finetune:1" in key for key in seen), "the first round is not trained again"
    first, second = (load_model(one.version.path).state_dict for one in (whole, resumed))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert [one.mean_dice for one in whole.curve] == [one.mean_dice for one in resumed.curve]


def test_minutes_are_a_limit(place: tuple[Path, Path]) -> None:
    """A clock that jumps: the first round has used up the time, so there is no other, and it says so."""
    seconds = [0.0]

    def clock() -> float:
        seconds[0] += 0.02
        return seconds[0]

    result = finetune(until_converged(place, minutes=1.5), clock=clock)
    assert len(result.curve) == 1 and result.curve[0].minutes > 0
    assert "There was no time for more training" in result.evidence.verdict.text
    assert result.seconds < 1.2 * 90


@pytest.mark.parametrize("kind", ["", "of an earlier version", "of other settings"])
def test_stopped_late_it_goes_on_with_the_rounds_that_it_made(
    kind: str, place: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped in the final training, when hardly any time is left: no round is lost, and the final one goes on.

    An earlier version did not keep that the rounds had ended, and could leave a state of other settings.
    """
    monkeypatch.setattr(rounds_module, "FIRST_MINUTES", 1.0)
    seconds, curves = [0.0], []

    def clock() -> float:
        seconds[0] += 0.05
        return seconds[0]

    monkeypatch.setattr(holding_out, "improves", lambda curve: curves.append(list(curve)) or True)
    asked = until_converged(place, minutes=6.0, configuration=replace(KNOBS, checkpoint_every=2))
    cancel = CancelToken()

    def stop(report: Progress) -> None:
        if report.key.startswith("final-training") and report.step == 4:
            cancel.cancel()

    with pytest.raises(Cancelled):
        finetune(asked, stop, cancel, clock=clock)
    made = curves[-1]
    assert len(made) > 1, "the test is about several rounds"
    (folder,) = (asked.project / RUNS_NAME).glob("run-*")
    run = RunFolder(folder.parent, {})
    run.folder = folder
    run.write_spent(60.0 * asked.minutes * 0.97)
    if kind:
        run.forget("rounds.json")
    if kind == "of other settings":
        state = run.read_state("final.pt")
        assert state is not None
        state["settings"] |= {"minutes": 99.0}
        run.write_state("final.pt", state)
    seen: list[str] = []
    result = finetune(asked, lambda report: seen.append(report.key), clock=clock)
    assert list(result.curve) == made
    assert not any(key.startswith("train-") for key in seen), "nothing but the final one is trained"
    assert "the time was up while it still improved" in result.evidence.verdict.text.lower()
