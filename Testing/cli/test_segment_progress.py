"""``transferseg segment --progress json``: what a program that follows along reads."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.cli.reporting import JsonLines
from TransferSegLib.errors import Cancelled
from TransferSegLib.progress import Progress

MODEL = Path(__file__).parents[1] / "Data" / "model_format_1" / "model"


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    """Return a small CT of noise, 2 mm, in a folder of its own."""
    voxels = np.random.default_rng(1).normal(0, 200, (24, 30, 28)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((2.0, 2.0, 2.0))
    file = tmp_path / "scan.nrrd"
    sitk.WriteImage(image, str(file))
    return file


def printed(text: str) -> list[dict]:
    """Return the JSON objects, one in each line; fails when there is anything else."""
    return [json.loads(line) for line in text.splitlines()]


def test_a_line_has_every_field_and_is_ascii():
    stream = io.StringIO()
    JsonLines(stream).report(Progress("Segmenting", 1 / 3, "Köpfe", 12.34567))
    assert stream.getvalue().isascii() and stream.getvalue().endswith("\n")
    (line,) = printed(stream.getvalue())
    assert line == {"stage": "Segmenting", "fraction": 0.3333, "message": "Köpfe", "seconds_left": 12.3}


def test_the_remaining_time_may_be_unknown():
    stream = io.StringIO()
    JsonLines(stream).report(Progress("Segmenting", 0.0))
    assert printed(stream.getvalue())[0]["seconds_left"] is None


def test_what_ends_the_command_is_a_line(scan: Path, tmp_path: Path, monkeypatch, capsys: pytest.CaptureFixture):
    def stopped(*_: object) -> None:
        raise Cancelled("Stopped on request.")

    words = ["segment", str(scan), "--output", str(tmp_path / "out.nrrd"), "--progress", "json"]
    assert main([*words, "--beside"]) == 2 == main([*words, "--workers", "2"]), "mistakes, found before the work"
    before, at_once = (line["error"] for line in printed(capsys.readouterr().out))
    assert "--beside" in before and "--workers" in at_once
    monkeypatch.setattr("TransferSegLib.models.locate.find_model", stopped)
    assert main(words) == 130
    assert printed(capsys.readouterr().out) == [{"error": "Stopped on request."}]


def test_segmenting_reports_progress_then_the_result(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    output = tmp_path / "out.seg.nrrd"
    words = ["segment", str(scan), "--output", str(output), "--model", str(MODEL), "--device", "cpu"]
    assert main([*words, "--progress", "json"]) == 0
    *progress, last = printed(capsys.readouterr().out)
    fractions = [line["fraction"] for line in progress]
    assert fractions and fractions == sorted(fractions) and fractions[-1] == 1.0
    assert {line["stage"] for line in progress} == {"Segmenting"}
    result = last["result"]
    assert result["output"] == str(output) and output.is_file()
    labels = sitk.GetArrayFromImage(sitk.ReadImage(str(output)))
    assert result["volumes_ml"] == {
        name: pytest.approx((labels == label).sum() * 0.008, abs=1e-3)
        for name, label in (("brainstem", 1), ("right parotid gland", 3), ("left parotid gland", 4))
    }
    assert result["seconds"] > 0 and "CPU" in result["device"]


def test_an_unreadable_scan_is_an_error_line_and_a_line_for_people(tmp_path: Path, capsys: pytest.CaptureFixture):
    words = ["segment", str(tmp_path / "none.nrrd"), "--output", str(tmp_path / "out.nrrd"), "--model", str(MODEL)]
    assert main([*words, "--device", "cpu", "--progress", "json"]) == 2
    captured = capsys.readouterr()
    (line,) = printed(captured.out)
    assert "does not exist" in line["error"]
    assert captured.err == f"transferseg: {line['error']}\n"


def test_an_unknown_model_is_an_error_line(scan: Path, tmp_path: Path, capsys: pytest.CaptureFixture):
    words = ["segment", str(scan), "--output", str(tmp_path / "out.nrrd"), "--model", "no-such-model"]
    assert main([*words, "--progress", "json"]) == 2
    captured = capsys.readouterr()
    (line,) = printed(captured.out)
    assert "no-such-model" in line["error"] and line["error"] in captured.err


def test_segmenting_needs_only_the_packages_that_slicer_has(scan: Path, tmp_path: Path):
    """3D Slicer's Python has no tqdm, h5py or matplotlib: a process in which they cannot be imported still segments."""
    program = (
        "import sys; sys.modules.update(dict.fromkeys(['tqdm', 'h5py', 'matplotlib', 'PIL', 'yaml', 'pandas'])); "
        "from TransferSegLib.cli.main import main; sys.exit(main(sys.argv[1:]))"
    )
    words = ["segment", scan, "--output", tmp_path / "out.seg.nrrd", "--model", MODEL, "--device", "cpu"]
    command = [sys.executable, "-c", program, *map(str, words), "--progress", "json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "result" in printed(done.stdout)[-1]
