"""The rule of today on real fine-tunings, half of them spoilt: intervals hold the truth, nothing is falsely better."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

BENCHMARKS = Path(__file__).resolve().parents[1] / "research" / "benchmarks"


@pytest.fixture(scope="module")
def runs() -> ModuleType:
    specification = importlib.util.spec_from_file_location("verdict_runs", BENCHMARKS / "verdict_runs.py")
    assert specification is not None and specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    monkeypatch = pytest.MonkeyPatch()
    monkeypatch.setitem(sys.modules, "verdict_runs", module)  # its dataclasses look for their module there
    specification.loader.exec_module(module)
    monkeypatch.undo()
    return module


def test_the_rule_on_what_was_measured(runs: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    lines = runs.read_lines(BENCHMARKS / "verdict_runs.jsonl")
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


def test_half_of_the_planned_runs_are_spoilt(runs: ModuleType) -> None:
    assert len(runs.RUNS) == 40 and sum(run.kind not in runs.UNSPOILT for run in runs.RUNS) == 20
    assert len({run.name for run in runs.RUNS}) == 40
