"""The README describes every benchmark, pages name only those that exist, and without a name they are listed."""

from __future__ import annotations

import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from Testing.research.benchmarks import doubt_map, effort_streams, learn_here, training_cost
from Testing.research.benchmarks.nnunet_finetuning import RESULTS, report
from Testing.research.common.cases import read_lines
from Testing.research.common.effort_report import print_report
from Testing.research.common.plain_cost import convolution_channels

TOP = Path(__file__).resolve().parents[3]
RESEARCH = TOP / "Testing" / "research"
NAMES = {file.stem for file in (RESEARCH / "benchmarks").glob("*.py")}


def test_the_readme_describes_every_benchmark() -> None:
    text = (RESEARCH / "README.md").read_text(encoding="utf-8")
    tools = {"publish_base_model", "add_fit_profile", "add_doubt_calibration"}
    assert set(re.findall(r"^\| `(\w+)` \|", text, re.MULTILINE)) | tools == NAMES
    assert all(f"`{tool}`" in text for tool in tools)


def test_pages_and_code_name_benchmarks_that_exist() -> None:
    files = [TOP / "README.md", *(TOP / "docs").glob("*.md"), *(RESEARCH / "benchmarks").glob("*.py")]
    text = "\n".join(file.read_text(encoding="utf-8") for file in files)
    named = set(re.findall(r"run\.py benchmark ([a-z]\w*)", text)) | set(re.findall(r"benchmarks/(\w+)\.py", text))
    assert named and named <= NAMES, named - NAMES


def test_without_a_name_the_benchmarks_are_listed() -> None:
    command = [sys.executable, str(TOP / "Testing" / "run.py")]
    listed = subprocess.run([*command, "benchmark"], capture_output=True, text=True, check=False)
    assert listed.returncode == 2 and set(listed.stdout.split()) >= NAMES
    usage = subprocess.run(command, capture_output=True, text=True, check=False)
    assert usage.returncode == 2 and "Testing/run.py study" in usage.stdout


def test_the_page_on_bases_has_the_table_that_the_comparison_prints(capsys: pytest.CaptureFixture[str]) -> None:
    report(RESULTS)
    printed = capsys.readouterr().out.strip()
    assert "nnU-Net, rate 0.01" in printed
    assert printed in (TOP / "docs" / "bases.md").read_text(encoding="utf-8")


def test_the_page_on_effort_has_the_table_that_the_streams_print(capsys: pytest.CaptureFixture[str]) -> None:
    print_report(read_lines(effort_streams.RESULTS))
    printed = capsys.readouterr().out.strip()
    assert "parotids" in printed
    assert printed in (TOP / "docs" / "effort.md").read_text(encoding="utf-8")


def test_the_page_on_doubt_has_the_tables_that_the_benchmark_prints() -> None:
    printed = doubt_map.report(read_lines(doubt_map.RESULTS))
    assert "logit margin of the structure" in printed
    assert printed in (TOP / "docs" / "doubt.md").read_text(encoding="utf-8")


def test_the_page_on_scale_has_the_estimate_that_the_benchmark_prints() -> None:
    printed = training_cost.report()
    assert "GeForce RTX 4090" in printed
    assert printed in (TOP / "docs" / "scale.md").read_text(encoding="utf-8")


def test_the_operations_of_a_step_are_those_counted_by_hand() -> None:
    """Forward by the formula of each convolution; backward twice as much, but for the gradient of the scan itself."""
    step = training_cost.counted_step(patch=32, width=4, classes=3)
    sides = [32, 32, 16, 16, 8, 8, 4, 4, 8, 8, 16, 16, 32, 32]
    of_layers = [
        2 * 27 * before * after * side**3 for side, (before, after) in zip(sides, convolution_channels(4), strict=True)
    ]
    of_layers.append(2 * 2 * 4 * 3 * 32**3)  # the head
    assert step.network == 3 * sum(of_layers) - of_layers[0]
    assert step.patch == 32 and step.optimiser > 0


def test_the_estimate_follows_from_its_numbers() -> None:
    """100 TFLOP at half of 50 TFLOP/s, 1 TFLOP at half of 10 TFLOP/s; 16 MB go through a link one and a half times."""
    step = training_cost.Step(network=100 * 10**12, optimiser=10**12, weights=4_000_000, patch=64)
    assert step.seconds(training_cost.Gpu("", 50.0, 10.0, 1.0), 0.5) == pytest.approx(4.2)
    assert training_cost.exchange_seconds(step.weights, 1, 1.0) == 0
    assert training_cost.exchange_seconds(step.weights, 4, 1.0) == pytest.approx(0.024)
    assert training_cost.exchange_seconds(step.weights, 32, 1e9) == pytest.approx(0.031 / 12.5)
    drawn_slowly = training_cost.rows_of(step, drawing_s=1000.0)[0]
    assert drawn_slowly[4] == "1000000.0" and drawn_slowly[5] == "5555.6 h"


def test_the_page_on_effort_has_the_table_of_learn_here(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["learn_here", "--report"])
    learn_here.main()
    printed = capsys.readouterr().out.strip()
    assert "parotids" in printed and "mandible" in printed
    assert printed in (TOP / "docs" / "effort.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["continued", "head_rates", "layer_orders", "patch_sizes"])
def test_the_page_on_measurements_has_the_tables_that_benchmarks_print(
    name: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "--report"])
    import_module(f"Testing.research.benchmarks.{name}").main()
    printed = capsys.readouterr().out.strip()
    assert "mandible" in printed or "hippocampus" in printed
    assert printed in (TOP / "docs" / "measurements.md").read_text(encoding="utf-8")
