"""The comparison of suggested and random scans, on balls in noise: real suggestions and real fine-tuning."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from Testing.research.benchmarks import effort_streams, next_scan
from Testing.research.benchmarks.effort_streams import Stream
from Testing.research.benchmarks.next_scan import RANDOM, SUGGESTED, report, run_draw
from Testing.research.common.cases import read_lines
from Testing.research.tests.test_effort_streams import options, stream

__all__ = ["options", "stream"]


def test_a_draw_is_made_once_and_begins_with_the_same_scan(
    options: Namespace, stream: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRANSFERSEG_CACHE", str(tmp_path / "cache"))
    options.after, options.scans, tested = 2, 3, ("ball_4",)
    pool = Stream(**{**vars(stream), "ids": stream.ids[:4]})
    for way in next_scan.WAYS:
        run_draw(options, pool, tested, way)
    lines = read_lines(options.output)
    by_way = {way: [line for line in lines if line["way"] == way] for way in next_scan.WAYS}
    assert [line["case"] for line in by_way[RANDOM]] == ["ball_0", "ball_1", "ball_2"]
    suggested = [line["case"] for line in by_way[SUGGESTED]]
    assert suggested[0] == "ball_0" and len(set(suggested)) == 3 and "ball_4" not in suggested
    for found in by_way.values():
        assert [line["dice"] is not None for line in found] == [False, True, False]
        assert found[1]["dice"] > 0.5 and found[0]["added_path_m"] > 0
    text = report(lines)
    assert "balls" in text and text.count("\n") == 4

    def refuse(*_: object) -> None:
        raise AssertionError("measured again")

    monkeypatch.setattr(next_scan, "tuned_model", refuse)
    for way in next_scan.WAYS:
        run_draw(options, pool, tested, way)
    assert read_lines(options.output) == lines


def test_the_report_compares_draws_in_pairs() -> None:
    key = {"task": "t", "after": 1, "steps": [1, 1]}
    lines = [
        key | {"draw": draw, "way": way, "scan": scan, "added_path_m": metres, "dice": dice}
        for draw, way, scan, metres, dice in [
            (1, RANDOM, 1, 1.0, 0.5), (1, SUGGESTED, 1, 1.0, 0.5),
            (1, RANDOM, 2, 0.5, 0.6), (1, SUGGESTED, 2, 0.25, 0.7),
            (2, RANDOM, 1, 2.0, 0.4), (2, SUGGESTED, 1, 2.0, 0.4), (2, RANDOM, 2, 1.0, 0.6),
        ]
    ]  # fmt: skip
    rows = [line.split() for line in report(lines).splitlines()[2:]]
    assert rows[0][:5] == ["t", "1", "2", "0.450", "0.450"] and rows[0][-2:] == ["1.50", "1.50"]
    # The second scan of draw 2 was only picked at random: it is not compared.
    assert rows[1][:6] == ["t", "2", "1", "0.600", "0.700", "+0.100"] and rows[1][-2:] == ["1.50", "1.25"]
    assert report([]) == "Nothing was measured yet." and effort_streams.TASKS
