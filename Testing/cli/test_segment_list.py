"""``transferseg segment --list``: an archive, with scans that fail, a scan that ends the program, and a second run."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.cli.output_files import listed_outputs
from TransferSegLib.cli.scan_folders import listed_scans
from TransferSegLib.cli.segment_settings import RunSettings
from TransferSegLib.cli.segmented_record import RECORD, SegmentedRecord
from TransferSegLib.errors import TransferSegError
from TransferSegLib.inference.segment_file import ScanToSegment

ROOT = Path(__file__).resolve().parents[2]
MODEL = ROOT / "Testing" / "Data" / "model_format_1" / "model"
posix = pytest.mark.skipif(os.name == "nt", reason="signals of Linux and macOS")
#: In a child's path: a program that crashes where it opens a file called crash..., as a hostile file makes its reader.
CRASHES = """
import os, signal, sys
def hook(event, arguments):
    if event == "open" and isinstance(arguments[0], str) and os.path.basename(arguments[0]).startswith("crash"):
        os.kill(os.getpid(), signal.SIGSEGV)
sys.addaudithook(hook)
"""


def write_scan(path: Path, seed: int) -> None:
    """Write a small CT of noise, 2 mm."""
    image = sitk.GetImageFromArray(np.random.default_rng(seed).normal(0, 200, (20, 24, 22)).astype(np.int16))
    image.SetSpacing((2.0, 2.0, 2.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    """Return a folder of patients with scans of the same name, one that is none, and one that ends the program."""
    folder = tmp_path / "Archiv mit Köpfen"
    for number in (1, 2, 10):
        write_scan(folder / f"p{number}" / "ct.nii.gz", number)
    (folder / "p2" / "broken.nii.gz").write_bytes(b"this is no scan")
    write_scan(folder / "p1" / "crash.nii.gz", 5)
    (folder / "p1" / "notes.txt").write_text("not a scan")
    return folder


def segment(tmp_path: Path, *words: str | Path) -> subprocess.CompletedProcess[str]:
    hooks = tmp_path / "hooks"
    hooks.mkdir(exist_ok=True)
    (hooks / "sitecustomize.py").write_text(CRASHES)
    paths = os.pathsep.join([str(hooks), str(ROOT)])
    command = [sys.executable, "-m", "TransferSegLib", "segment", *map(str, words), "--model", str(MODEL)]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run([*command, "--device", "cpu"], capture_output=True, text=True, check=False, env=environment)


@posix
@pytest.mark.timeout(600)
def test_one_scan_that_crashes_ends_no_run(archive: Path, tmp_path: Path) -> None:
    out, table = tmp_path / "out", tmp_path / "out" / "volumes.csv"
    done = segment(tmp_path, "--list", archive, "--output", out, "--statistics", table)
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    results = sorted(path.relative_to(out).as_posix() for path in out.rglob("*.nii.gz"))
    assert results == [f"p{number}/ct_segmentation.nii.gz" for number in (1, 10, 2)]
    with (out / "failed.csv").open(encoding="utf-8", newline="") as stream:
        failed = {Path(row["scan"]).name: row["why"] for row in csv.DictReader(stream)}
    assert set(failed) == {"broken.nii.gz", "crash.nii.gz"}
    assert "SIGSEGV" in failed["crash.nii.gz"]
    assert "3 of 5 scans segmented" in done.stdout and "SIGSEGV" in done.stdout
    with table.open(encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert {row["scan"] for row in rows} == {str(archive / f"p{number}" / "ct.nii.gz") for number in (1, 2, 10)}
    # Given again, with the scans mended or gone, it does what is missing, and the table has all.
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*.nii.gz")}
    (archive / "p1" / "crash.nii.gz").unlink()
    write_scan(archive / "p2" / "broken.nii.gz", 7)
    done = segment(tmp_path, "--list", archive, "--output", out, "--statistics", table, "--resume")
    assert done.returncode == 0 and "4 of 4 scans segmented, 3 of them before." in done.stdout
    assert all(path.stat().st_mtime_ns == time_ns for path, time_ns in written.items())
    assert (out / "failed.csv").read_text() == "scan,why\n"
    with table.open(encoding="utf-8", newline="") as stream:
        again = list(csv.DictReader(stream))
    assert [row for row in again if "broken" not in row["scan"]] == sorted(rows, key=again.index)
    assert len(again) == len(rows) * 4 // 3


@posix
def test_a_crash_before_any_scan_is_one_line(archive: Path, tmp_path: Path) -> None:
    listed = tmp_path / "crash-list.txt"  # already the list ends the program
    listed.write_text(str(archive / "p1" / "ct.nii.gz"))
    done = segment(tmp_path, "--list", listed, "--output", tmp_path / "out")
    assert done.returncode == 2 and done.stderr.count("\n") == 1
    assert "ended unexpectedly before any scan was in work: it crashed (SIGSEGV)" in done.stderr


@posix
def test_asked_to_end_it_ends_with_its_child(archive: Path, tmp_path: Path) -> None:
    for number in range(20, 60):
        write_scan(archive / f"p{number}" / "ct.nii.gz", number)
    words = ["--list", str(archive), "--output", str(tmp_path / "out"), "--model", str(MODEL), "--device", "cpu"]
    process = subprocess.Popen(
        [sys.executable, "-m", "TransferSegLib", "segment", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    record = tmp_path / "out" / RECORD
    deadline = time.monotonic() + 120
    while not record.exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 128 + signal.SIGTERM
    size = record.stat().st_size
    time.sleep(1.0)
    assert record.stat().st_size == size, "no child goes on"


def test_a_list_in_a_file(archive: Path, tmp_path: Path) -> None:
    listed = archive / "list.txt"
    listed.write_text("# two of them\np10/ct.nii.gz\n\n  p2/ct.nii.gz\np10/ct.nii.gz\n", encoding="utf-8")
    scans = listed_scans(listed, tmp_path / "out")
    assert scans == [archive / "p10" / "ct.nii.gz", archive / "p2" / "ct.nii.gz"]
    below = listed_outputs(scans, tmp_path / "out", ".seg.nrrd", beside=False)
    assert below == [tmp_path / "out" / name / "ct_segmentation.seg.nrrd" for name in ("p10", "p2")]
    beside = listed_outputs(scans, tmp_path / "out", ".dcm", beside=True)
    assert beside == [archive / name / "ct_segmentation.dcm" for name in ("p10", "p2")]
    for one in (*below, archive / "dicom" / "ct_segmentation.dcm"):  # a DICOM Segmentation beside its scan
        one.parent.mkdir(parents=True)
        one.write_bytes(bytes(128) + b"DICM")
    # In natural order; neither results nor other files are scans, nor is what lies in the output folder.
    found = listed_scans(archive, archive / "p10")
    assert [scan.relative_to(archive).as_posix() for scan in found] == [
        "p1/crash.nii.gz",
        "p1/ct.nii.gz",
        "p2/broken.nii.gz",
        "p2/ct.nii.gz",
    ]
    with pytest.raises(TransferSegError, match="written to"):
        listed_outputs([archive / "a.nii.gz", archive / "a.nrrd"], tmp_path, ".nrrd", beside=False)


@pytest.mark.timeout(600)
def test_a_list_of_one_scan_says_what_was_done(archive: Path, tmp_path: Path) -> None:
    for said in ("1 of 1 scans segmented.", "1 of 1 scans segmented, 1 of them before."):
        done = segment(tmp_path, "--list", archive / "p10", "--output", tmp_path / "out", "--format", ".seg.nrrd")
        assert (done.returncode, done.stdout.strip()) == (0, said), done.stderr
    assert (tmp_path / "out" / "ct_segmentation.seg.nrrd").is_file()


def test_mistakes_with_lists(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    scan = str(archive / "p1" / "ct.nii.gz")
    out = str(tmp_path / "out")
    for words, said in (
        ([scan, "--list", str(archive), "--output", out], "SCAN is not for --list"),
        (["--list", str(archive), "--output", out, "--background"], "--background is not for --list"),
        (["--list", str(archive), "--output", scan], "is a file: a list needs a folder"),
        ([scan, "--output", out, "--beside"], "--beside is for --list"),
    ):
        assert main(["segment", *words]) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1
    with pytest.raises(TransferSegError, match="cannot be read"):
        listed_scans(tmp_path / "none.txt", tmp_path / "out")
    (tmp_path / "empty.txt").write_text("# nothing\n")
    (tmp_path / "no list.txt").write_text("{\n}\n")
    with pytest.raises(TransferSegError, match="None of the 2 paths in"):
        listed_scans(tmp_path / "no list.txt", tmp_path / "out")
    with pytest.raises(TransferSegError, match="There is no scan in"):
        listed_scans(tmp_path / "empty.txt", tmp_path / "out")


def test_the_record_holds_little_and_survives_a_cut(tmp_path: Path) -> None:
    scan, out = tmp_path / "scan.nii", tmp_path / "out"
    scan.write_bytes(b"1")
    out.mkdir()
    each = [ScanToSegment(scan, out / f"{number}_segmentation.nii.gz") for number in range(3)]
    record = SegmentedRecord(out, RunSettings({"model": "a"}), "run-1")
    for one in each:
        one.output.write_bytes(b"2")
        record.begin(one)
    record.add(each[0], [["liver", "1.0"]])
    record.fail(each[1], "no scan")
    file = out / RECORD
    file.write_bytes(file.read_bytes() + b'{"done": "2_segmen')  # the power went
    again = SegmentedRecord(out, RunSettings({"model": "a"}), "run-1")
    assert again.is_done(each[0]) and again.rows(each[0]) == [["liver", "1.0"]]
    assert list(again.failures()) == [(str(scan), "no scan")] and again.failed_in_this_run(each[1])
    assert again.in_work(each[2]) and again.alone_in_work() is None
    again.add(each[2])
    third = SegmentedRecord(out, RunSettings({"model": "a"}), "run-2")
    assert third.is_done(each[2]) and not third.anything_in_work and not list(third.failures())
    lines = file.read_text().splitlines()
    assert lines[-2] == '{"done": "2_segmen' and json.loads(lines[-1])["done"] == "2_segmentation.nii.gz"
    each[0].output.write_bytes(b"corrected")
    assert third.was_changed(each[0]) and third.rows(each[0]) is None
    with pytest.raises(TransferSegError, match="other settings"):
        SegmentedRecord(out, RunSettings({"model": "b"})).is_done(each[0])
    shutil.rmtree(out)
    assert not SegmentedRecord(out, RunSettings({})).is_done(each[0])
