"""Texts for people: tables whose columns one long cell does not stretch, times of this zone, numbers that agree."""

from __future__ import annotations

import time

import pytest

from TransferSegLib.wording import before_and_after, enumerated, first_of, local_time, table


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


def test_before_after_and_change_agree() -> None:
    """Seen in a verdict: 0.91, 0.92, change 0.00."""
    assert before_and_after(0.9149, 0.9151) == ("0.915", "0.915", "0.000")
    assert before_and_after(0.7449, 0.7551) == ("0.745", "0.755", "+0.010")
    assert before_and_after(0.65, 0.5) == ("0.65", "0.50", "-0.15")
    for thousandths in range(0, 1000, 7):
        for change in (-0.0123, -0.0006, 0.0004, 0.0049, 0.0151):
            start = thousandths / 1000 + 0.0003
            for decimals in (None, 2, 3):
                before, after, by = before_and_after(start, start + change, decimals)
                assert float(by) == pytest.approx(float(after) - float(before), abs=1e-9)
                assert (float(by) == 0) is not by.startswith(("+", "-"))


def test_words_are_listed_as_in_a_sentence() -> None:
    assert [enumerated(words) for words in ([], ["a"], ["a", "b"], ["a", "b", "c"])] == [
        "",
        "a",
        "a and b",
        "a, b and c",
    ]


def test_of_many_words_the_first_are_named_and_the_others_counted() -> None:
    assert [first_of(["a", "b", "c"][:count], 2) for count in range(4)] == ["", "a", "a, b", "a, b and 1 more"]
