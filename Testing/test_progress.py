"""A task: fractions that nest by weight and never go back, and calls that are waited for or left behind."""

from __future__ import annotations

import threading

import pytest

from TransferSegLib.errors import Cancelled
from TransferSegLib.progress import CancelToken, Parts, Progress, Task


def test_parts_nest_by_weight():
    reports: list[Progress] = []
    first, second = Task("work", reports.append).split(1, 3)
    first.done("one")
    middle, last = second.split(2, 1)
    middle.done()
    last.share(0, 2).done("two")
    last.done()
    assert [report.fraction for report in reports] == [pytest.approx(f) for f in (0.25, 0.75, 0.875, 1.0)]
    assert [report.message for report in reports] == ["one", "one", "two", "two"]
    assert {report.stage for report in reports} == {"work"}
    assert reports[-1].seconds_left == 0


def test_the_fraction_never_goes_back():
    reports: list[Progress] = []
    task = Task("work", reports.append)
    task.share(2, 4).done()
    task.share(0, 4).done()
    rest = task.rest()
    rest.share(0, 2).done()
    assert [report.fraction for report in reports] == [0.75, 0.75, 0.875]


def test_the_remaining_time_follows_the_recent_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("TransferSegLib.progress.time.monotonic", lambda: now[0])
    reports: list[Progress] = []
    task = Task("work", reports.append)
    # A quick tenth in one second, then a tenth every 4 seconds.
    for seconds, fraction in ((1, 0.1), (4, 0.2), (4, 0.3), (4, 0.4), (4, 0.5)):
        now[0] += seconds
        task.at(fraction)
    assert reports[0].seconds_left == pytest.approx(9)
    assert reports[-1].seconds_left == pytest.approx(20)


def test_named_tasks_count_steps():
    reports: list[Progress] = []
    task = Task("Fold 1", reports.append, key="fold")
    for _, part in task.named("Reading cases", "reading").each(["a", "b"], str.upper):
        part.at(0.5)
    training = task.named("Training", "training").counting(4, done=2)
    training.step("loss 1", loss=1.0, dice=0.5)
    assert [(report.fraction, report.step, report.message) for report in reports if report.key == "fold/reading"] == [
        (0.25, 0, "A"), (0.5, 1, "A"), (1.0, 2, "B"),
    ]  # fmt: skip
    last = reports[-1]
    assert last == Progress("Fold 1: training", 1.0, "loss 1", 0.0, 3, 4, 1.0, 0.5, "fold/training")


def test_steps_made_earlier_say_nothing_about_the_pace(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("TransferSegLib.progress.time.monotonic", lambda: now[0])
    reports: list[Progress] = []
    task = Task("work", reports.append).counting(10, done=6)
    now[0] += 5
    task.step()
    assert reports[-1].fraction == pytest.approx(0.7) and reports[-1].seconds_left == pytest.approx(15)


def test_parts_are_estimated_anew():
    now = [0.0]
    seen: list[Progress] = []
    parts = Parts(Task("", seen.append), lambda: now[0])
    parts.estimate({"a": 10, "fold:1": 100, "fold:2": 100})
    task = parts.begin("a", "First")
    now[0] = 5
    first, _ = task.named("Working").split(1, 1)
    first.done()
    assert seen[-1].stage == "First: working" and seen[-1].fraction == pytest.approx(5 / 210)
    assert seen[-1].seconds_left == pytest.approx(205)
    assert task.rest().share(0, 2)._start == pytest.approx(0.5), "half of the part is left"
    now[0] = 10
    parts.end()
    parts.begin("fold:1", "Fold")
    now[0] = 30
    parts.end()
    task = parts.begin("fold:2", "Fold")
    assert seen[-1].seconds_left == pytest.approx(20), "the first fold told how long the second will take"
    now[0] = 40
    task.at(0.5, "half")
    assert seen[-1].fraction == pytest.approx(40 / 50) and seen[-1].seconds_left == pytest.approx(10)
    fractions = [one.fraction for one in seen]
    assert fractions == sorted(fractions)


def test_what_earlier_processes_spent_is_done():
    """A resumed run is not at the beginning, and a part that was resumed is no measure for the next."""
    now = [0.0]
    seen: list[Progress] = []
    parts = Parts(Task("", seen.append), lambda: now[0], spent_s=100.0)
    parts.estimate({"fold:2": 50, "fold:3": 50})
    parts.begin("fold:2", "Fold")
    assert seen[-1].fraction == pytest.approx(0.5) and seen[-1].seconds_left == pytest.approx(100)
    now[0] = 5.0
    parts.end(is_typical=False)
    parts.begin("fold:3", "Fold")
    assert seen[-1].seconds_left == pytest.approx(50), "the rest of one fold took 5 s; a whole one takes 50"


def test_no_more_time_is_left_than_until_the_limit():
    """A slow moment makes a part look long; the whole ends at its limit all the same, if that is not past."""
    now = [0.0]
    seen: list[Progress] = []
    parts = Parts(Task("", seen.append), lambda: now[0], spent_s=20.0)
    parts.limit_s = 100.0
    parts.estimate({"a": 30, "b": 30})
    task = parts.begin("a", "First")
    assert seen[-1].seconds_left == pytest.approx(60), "estimated, before the limit"
    now[0] = 20.0
    task.at(0.1)
    assert parts.place(0.1)[1] == pytest.approx(60), "180 s of this part, and 30 s, but 60 s are left"
    assert parts.place(0.1)[0] == pytest.approx(1 - 210 / 250), "the share done is that of the estimate"
    now[0] = 90.0
    assert parts.place(0.9)[1] == pytest.approx(40), "it is late already"


def test_a_call_that_is_left_behind_does_not_keep_the_caller():
    token, may_end, ended = CancelToken(), threading.Event(), threading.Event()

    def call() -> None:
        token.cancel()
        may_end.wait(60)
        ended.set()

    with pytest.raises(Cancelled):
        Task("work", None, token).wait(call)
    assert not ended.is_set()
    may_end.set()
    assert ended.wait(60)


def test_a_call_that_changes_something_is_waited_for():
    token, done = CancelToken(), []

    def call() -> None:
        token.cancel()
        done.append(1)

    with pytest.raises(Cancelled):
        Task("work", None, token).wait(call, leave=False)
    assert done == [1]


def test_what_a_call_returns_and_raises_arrives():
    assert Task().wait(lambda: 7) == 7
    with pytest.raises(ValueError, match="no"):
        Task().wait(lambda: int("no"))
