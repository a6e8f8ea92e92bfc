"""The README describes every benchmark, pages name only those that exist, and without a name they are listed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from Testing.research.benchmarks import doubt_map, effort_streams
from Testing.research.benchmarks.nnunet_finetuning import RESULTS, report
from Testing.research.common.cases import read_lines
from Testing.research.common.effort_report import print_report

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
