"""The rule of today on real fine-tunings, half of them spoilt: intervals hold the truth, nothing is falsely better."""

from __future__ import annotations

from pathlib import Path

import pytest

from Testing.research.benchmarks import verdict_runs as runs
from Testing.research.common.cases import read_lines

LINES = Path(runs.__file__).with_suffix(".jsonl")


def test_the_rule_on_what_was_measured(capsys: pytest.CaptureFixture[str]) -> None:
    lines = read_lines(LINES)
    planned = {run.name for run in runs.RUNS}
    done = [line for line in lines if "held_out" in line]
    assert {line["name"] for line in done} <= planned and len({line["name"] for line in done}) == len(done) >= 24
    counts = runs.report(lines)
    out = capsys.readouterr().out
    assert 0.4 <= counts["spoilt"] / counts["runs"] <= 0.6
    told, held = (counts[f"before {what}"] + counts[f"after {what}"] for what in ("told", "held"))
    assert told > 100 and held / told >= 0.9
    assert counts["after held"] / counts["after told"] >= 0.9 and counts["spoilt held"] / counts["spoilt told"] >= 0.9
    assert counts["false better"] == 0 and counts["right and better"] >= 3, "and yet it says better where it is"
    assert counts["trained too short to say"] == sum(line["kind"] == "short" for line in done)
    assert f"{len(done)} runs" in out


def test_half_of_the_planned_runs_are_spoilt() -> None:
    assert len(runs.RUNS) == 40 and sum(run.kind not in runs.UNSPOILT for run in runs.RUNS) == 20
    assert len({run.name for run in runs.RUNS}) == 40
