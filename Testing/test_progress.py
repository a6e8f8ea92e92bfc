"""A task: fractions that nest by weight and never go back, and calls that are waited for or left behind."""

from __future__ import annotations

import threading

import pytest

from TransferSegLib.errors import Cancelled
from TransferSegLib.progress import CancelToken, Progress, Task


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
