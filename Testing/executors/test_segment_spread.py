"""``segment --list`` with several workers, on this computer and on a Ray cluster, of which a node is killed."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.executors.conftest import ROOT, Nodes, Noted
from TransferSegLib.cli.main import main
from TransferSegLib.cli.segment_settings import RunSettings
from TransferSegLib.cli.segment_spread import JOBS, part_size, take_left_results
from TransferSegLib.cli.segmented_record import SegmentedRecord
from TransferSegLib.errors import JobError, ScanError
from TransferSegLib.file_lock import FileLock
from TransferSegLib.inference.segment_file import ScanToSegment
from TransferSegLib.jobs.files import WORKER_LOCK, write_json
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.segment_job import FINISHED, SegmentParameters
from TransferSegLib.jobs.store import create_job

MODEL = ROOT / "Testing" / "Data" / "model_format_1" / "model"
Wait = Callable[[Callable[[], Any]], Any]


def write_scan(path: Path, seed: int) -> None:
    """Write a small CT of noise, 2 mm."""
    image = sitk.GetImageFromArray(np.random.default_rng(seed).normal(0, 200, (20, 24, 22)).astype(np.int16))
    image.SetSpacing((2.0, 2.0, 2.0))
    path.parent.mkdir(parents=True, exist_ok=True)
    sitk.WriteImage(image, str(path))


def words(archive: Path, out: Path, *more: str) -> list[str]:
    return ["segment", "--list", str(archive), "--output", str(out), "--model", str(MODEL), "--device", "cpu", *more]


@pytest.fixture
def archive(tmp_path: Path) -> Path:
    folder = tmp_path / "Archiv mit Köpfen"
    for number in range(8):
        write_scan(folder / f"slow{number}.nii.gz", number)
    return folder


def results(out: Path) -> set[str]:
    return {path.name for path in out.rglob("*_segmentation.nii.gz")}


@pytest.fixture(params=["local", "ray"])
def spread(request: pytest.FixtureRequest, noted: Noted) -> list[str]:
    """Return the words for two workers here, and on the cluster."""
    if request.param == "local":
        return ["--workers", "2"]
    return ["--ray", request.getfixturevalue("nodes").address]


def test_scans_that_fail_or_crash_end_no_run(
    archive: Path, tmp_path: Path, spread: list[str], noted: Noted, capsys: pytest.CaptureFixture[str]
) -> None:
    for number in range(3, 8):
        (archive / f"slow{number}.nii.gz").unlink()
    (archive / "broken.nii.gz").write_bytes(b"this is no scan")
    write_scan(archive / "crash.nii.gz", 5)
    out, table = tmp_path / "out", tmp_path / "out" / "volumes.csv"
    noted.clear()
    assert main(words(archive, out, *spread, "--statistics", str(table))) == 2
    said = capsys.readouterr()
    assert "3 of 5 scans segmented." in said.out and "Traceback" not in said.err
    with (out / "failed.csv").open(encoding="utf-8", newline="") as stream:
        failed = {Path(row["scan"]).name: row["why"] for row in csv.DictReader(stream)}
    assert set(failed) == {"broken.nii.gz", "crash.nii.gz"}
    assert "its process was ended, twice: the worker crashed (Segmentation fault)" in failed["crash.nii.gz"]
    assert results(out) == {f"slow{number}_segmentation.nii.gz" for number in range(3)}
    assert set(noted.counts("written").values()) == {1}
    with table.open(encoding="utf-8", newline="") as stream:
        measured = Counter(row["scan"] for row in csv.DictReader(stream))
    assert set(measured) == {str(archive / f"slow{number}.nii.gz") for number in range(3)}
    assert len(set(measured.values())) == 1
    assert not (out / JOBS).exists()
    # Given again it does what is missing: the crash is mended; without the option, because the record is the same.
    (archive / "broken.nii.gz").unlink()
    (archive / "crash.nii.gz").unlink()
    write_scan(archive / "mended.nii.gz", 5)
    assert main(words(archive, out, *spread, "--statistics", str(table), "--resume")) == 0
    assert "4 of 4 scans segmented, 3 of them before." in capsys.readouterr().out
    assert noted.counts("written") == Counter(results(out)), "each was written once"


def test_every_scan_is_segmented_once_when_a_node_is_killed(
    archive: Path, tmp_path: Path, nodes: Nodes, noted: Noted, wait_until: Wait, capsys: pytest.CaptureFixture[str]
) -> None:
    noted.clear()
    out, codes = tmp_path / "out", []

    def kill() -> None:
        wait_until(lambda: len(noted.counts("written")) >= 2)
        nodes.kill_one()

    killer = threading.Thread(target=kill)
    killer.start()
    codes.append(main(words(archive, out, "--ray", nodes.address)))
    killer.join(120)
    said = capsys.readouterr()
    assert codes == [0] and "8 of 8 scans segmented." in said.out, said.err
    assert noted.counts("written") == Counter(results(out)) and len(results(out)) == 8
    attempts = noted.counts("attempt")
    assert max(attempts.values()) == 2, "a task ran on the node, and was run again on another"
    assert "raylet" not in said.out, "what Ray prints is not a result"
    for number in range(8):  # the same as in one process
        write_scan(tmp_path / "one" / f"slow{number}.nii.gz", number)
    assert main(words(tmp_path / "one", tmp_path / "alone")) == 0
    for path in (tmp_path / "alone").glob("*.nii.gz"):
        one, other = (sitk.GetArrayFromImage(sitk.ReadImage(str(folder / path.name))) for folder in (path.parent, out))
        assert np.array_equal(one, other)


def test_a_run_that_was_killed_is_continued(
    archive: Path, tmp_path: Path, spread: list[str], noted: Noted, wait_until: Wait, capfd: pytest.CaptureFixture[str]
) -> None:
    """Not even the process that hands out the scans may be lost: what its jobs have done by then counts."""
    noted.clear()
    out = tmp_path / "out"
    command = [sys.executable, "-P", "-m", "TransferSegLib", *words(archive, out, *spread)]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=tmp_path)
    wait_until(lambda: len(noted.counts("written")) >= 3)
    process.send_signal(signal.SIGKILL if os.name != "nt" else signal.SIGTERM)
    process.wait(60)
    # The jobs end with it; the run is given without workers, which finds their results all the same.
    wait_until(lambda: main(words(archive, out)) == 0)
    assert "8 of 8 scans segmented, " in capfd.readouterr().out
    assert noted.counts("written") == Counter(results(out)) and len(results(out)) == 8


@pytest.mark.parametrize("measures", [False, True])
def test_a_result_whose_worker_was_killed_before_it_said_so_counts(
    archive: Path, tmp_path: Path, measures: bool
) -> None:
    """It was there for good and in no record, so that the scan could never be done again."""
    out = tmp_path / "out"
    made, old = (ScanToSegment(archive / f"{name}.nii.gz", out / f"{name}.nrrd") for name in ("slow0", "slow1"))
    folders = []
    for each in (made, old):
        asked = SegmentParameters((each,), measures=measures).to_json() | {"settings": "of that run"}
        folders.append(create_job(JobRequest("segment", asked, "cpu"), out / JOBS))
        entry = {"scan": str(each.scan), "output": str(each.output)}
        old.output.write_bytes(b"of a person")
        before = old.output.stat()
        state = [before.st_ino, before.st_size, before.st_mtime_ns] if each is old else None
        begun = {**entry, "entry": entry, "before": {str(each.output): state}}
        write_json(folders[-1] / FINISHED, {"scans": [], "begun": begun})
        made.output.write_bytes(b"a result")
    record = SegmentedRecord(out, RunSettings({}))
    take_left_results(out, record)
    assert record.has_line(made) and not record.has_line(old), "one has appeared, the other was there before"
    assert not any(folder.exists() for folder in folders)


def test_what_a_worker_writes_while_it_ends_counts(archive: Path, tmp_path: Path) -> None:
    """A run was killed, and the next one is given while a worker still writes its last result."""
    out = tmp_path / "out"
    each = ScanToSegment(archive / "slow0.nii.gz", out / "slow0_segmentation.nii.gz")
    asked = SegmentParameters((each,)).to_json() | {"settings": "of that run"}
    folder = create_job(JobRequest("segment", asked, "cpu"), out / JOBS)
    lock = FileLock(folder / WORKER_LOCK, 0, "free", JobError)
    lock.acquire()

    def write_and_end() -> None:
        each.output.write_bytes(b"a result")
        write_json(folder / FINISHED, {"scans": [{"scan": str(each.scan), "output": str(each.output)}]})
        lock.release()

    ending = threading.Timer(0.5, write_and_end)
    ending.start()
    record = SegmentedRecord(out, RunSettings({}))
    take_left_results(out, record)
    ending.join()
    assert record.has_line(each) and not record.was_changed(each) and not folder.exists()
    with pytest.raises(ScanError, match="other settings"):
        record.is_done(each)


@pytest.mark.parametrize(
    ("scans", "at_once", "size"), [(1, 4, 1), (3, 2, 2), (8, 2, 4), (100, 32, 4), (1000, 8, 25), (10_000, 32, 25)]
)
def test_parts_are_few_for_each_worker_and_not_too_large(scans: int, at_once: int, size: int) -> None:
    assert part_size(scans, at_once) == size


def test_mistakes(archive: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out, scan = str(tmp_path / "out"), str(archive / "slow0.nii.gz")
    for given, said in (
        (["segment", scan, "--output", out, "--workers", "2"], "--workers and --ray are for --list"),
        (words(archive, tmp_path / "out", "--workers", "0"), "--workers 0: give 1 or more"),
        (words(archive, tmp_path / "out", "--threads", "2"), "--threads is for --workers or --ray"),
        (words(archive, tmp_path / "out", "--workers", "1", "--device", "tpu"), "Unknown device 'tpu'"),
    ):
        assert main(given) == 2
        error = capsys.readouterr().err
        assert said in error and error.count("\n") == 1, error
