"""Texts for people: tables whose columns one long cell does not stretch, and times of this computer's time zone."""

from __future__ import annotations

import time

import pytest

from TransferSegLib.wording import local_time, table


@pytest.mark.skipif(not hasattr(time, "tzset"), reason="Windows has one time zone for all processes")
@pytest.mark.parametrize(
    ("zone", "shown"),
    [("UTC", "2026-01-31 23:30"), ("Europe/Berlin", "2026-02-01 00:30"), ("America/New_York", "2026-01-31 18:30")],
)
def test_times_are_local(zone: str, shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", zone)
    time.tzset()
    try:
        assert local_time("2026-01-31T23:30:59Z") == local_time("2026-01-31T23:30:59.123+00:00") == shown
        assert local_time("no time") == "no time"
    finally:
        monkeypatch.undo()
        time.tzset()


def test_a_long_note_does_not_stretch_its_column() -> None:
    note = "a note of many words " * 5
    lines = table(
        ("case", "state", "note", "ml"), [("a", "in use", note, "12.5"), ("bb", "removed", "-", "3")]
    ).splitlines()
    assert lines == [
        "case  state    note    ml",
        "----  -------  ----  ----",
        f"a     in use   {note}  12.5",
        "bb    removed  -        3",
    ]


def test_a_note_at_the_end_of_a_row() -> None:
    rows = [("1", "better", "x" * 100), ("2", "too few cases to say", "")]
    lines = table(("version", "verdict", "why"), rows, ruled=False).splitlines()
    assert lines[1] == f"1        better                {'x' * 100}" and lines[2] == "2        too few cases to say"
