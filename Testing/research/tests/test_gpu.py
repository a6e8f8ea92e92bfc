"""The measurements for GPUs, in miniature on a CPU: each prints one line of JSON, and the long ones go on."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from Testing.finetuning.projects import KNOBS
from Testing.research.gpu import finetune, inference, step, train_base
from Testing.research.gpu.measuring import piece
from TransferSegLib.progress import CancelToken, Progress

TOP = Path(__file__).resolve().parents[3]


def line(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    """Return what was printed: one line."""
    (text,) = capsys.readouterr().out.strip().splitlines()
    entry = json.loads(text)
    assert entry["device"] == "CPU" and entry["precision"] in ("float32", "bfloat16")
    assert entry["memory_peak_gb"] > 0
    return dict(entry)


def test_inference(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--sides", "108", "--scan", "40", "40", "30", "--model-spacing", "3", "--repeats", "1"]
    assert inference.main(["--width", "2", "--classes", "3", "--device", "cpu", *sizes]) == 0
    entry = line(capsys)
    assert entry["voxels_per_second"] > 0 and entry["tiles"][0]["voxels_per_second"] > 0


def test_step(capsys: pytest.CaptureFixture[str]) -> None:
    sizes = ["--width", "2", "--patch", "32", "--steps", "2", "--scan-side", "32"]
    assert step.main(["--device", "cpu", *sizes]) == 0
    entry = line(capsys)
    assert entry["seconds"] == entry["folded_seconds"] and entry["plain_seconds"] > 0 and entry["drawing_seconds"] > 0


def test_finetuning_goes_on_in_the_next_piece(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(asdict(KNOBS) | {"tail_steps": 4}), encoding="utf-8")
    command = ["--work", str(tmp_path / "work"), "--cases", "2", "--minutes", "0", "--width", "2", "--device", "cpu"]
    command += ["--scan-side", "32", "--configuration", str(settings)]
    assert finetune.main([*command, "--piece-minutes", "0.00001"]) == 3
    assert line(capsys)["finished"] is False
    assert finetune.main(command) == 0
    entry = line(capsys)
    assert entry["finished"] and entry["verdict"] and entry["steps"] == 12  # two folds and the final candidate
    assert finetune.main(command) == 0
    again = line(capsys)
    assert again["verdict"] == entry["verdict"] and again["steps"] == 0


def test_base_training_goes_on_in_the_next_piece(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps({"patch": 32, "frame": 2, "validation_share": 0, "warm_up": 1}), encoding="utf-8")
    command = ["--work", str(tmp_path / "work"), "--cases", "2", "--width", "2", "--steps", "6", "--device", "cpu"]
    command += ["--scan-side", "32", "--configuration", str(settings)]
    token, report = CancelToken(), train_base.StepClock.report

    def stopping(clock: train_base.StepClock, progress: Progress) -> None:
        report(clock, progress)
        if clock.last == 3:
            token.cancel()

    with monkeypatch.context() as patched:
        patched.setattr(train_base, "piece", lambda minutes: nullcontext(token))
        patched.setattr(train_base.StepClock, "report", stopping)
        assert train_base.main(command) == 3
    first = line(capsys)
    assert not first["finished"] and first["step"] == 3 and first["steps_per_second"] > 0
    assert train_base.main([*command, "--resume"]) == 0
    entry = line(capsys)
    assert entry["finished"] and entry["step"] == 6
    assert (tmp_path / "work" / "run" / "model" / "model.json").exists()


def test_a_piece_ends_by_the_clock() -> None:
    with piece(1e-5) as token:
        for _ in range(1000):
            if token.cancelled:
                return
            time.sleep(0.01)
    pytest.fail("it went on")


def test_they_are_listed_and_described() -> None:
    command = [sys.executable, str(TOP / "Testing" / "run.py"), "gpu"]
    listed = subprocess.run(command, capture_output=True, text=True, check=False)
    readme = (TOP / "Testing" / "research" / "README.md").read_text(encoding="utf-8")
    assert listed.returncode == 2
    for name in ("inference", "step", "finetune", "train_base"):
        assert name in listed.stdout and f"`python3 Testing/run.py gpu {name}" in readme
