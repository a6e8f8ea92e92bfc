"""Segmenting as a job, for real: the bundled model on a real CT, and a tiny one where only the rest matters."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.errors import Cancelled, JobError
from TransferSegLib.inference.segment_file import ScanToSegment
from TransferSegLib.jobs.events import JobState, read_events
from TransferSegLib.jobs.files import RESULT, read_json
from TransferSegLib.jobs.kinds import PartlyDone
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.segment_job import SegmentParameters, run_segment
from TransferSegLib.jobs.store import find_job
from TransferSegLib.progress import CancelToken, Progress

DATA = Path(__file__).resolve().parents[1] / "Data"
SCANS = sorted((DATA / "head_neck_ct" / "images").glob("*.nii.gz"))[:2]
MODEL = str(DATA / "model_format_1" / "model")


def test_the_bundled_model_in_the_background(
    jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a user types it, with paths that are relative to where the user is."""
    monkeypatch.chdir(tmp_path)
    shutil.copy(SCANS[0], "Kopf 1.nii.gz")
    words = ["segment", "Kopf 1.nii.gz", "--output", "Größe.seg.nrrd", "--structures", "mandible", "--device", "cpu"]
    assert main([*words, "--background"]) == 0
    printed = capsys.readouterr()
    job = printed.out.strip()
    assert f"transferseg jobs follow {job}" in printed.err
    assert main(["jobs", "follow", job]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == "done"
    folder = find_job(job)
    (entry,) = read_json(folder / RESULT)["result"]["scans"]
    assert list(entry["volumes_ml"]) == ["mandible"] and entry["volumes_ml"]["mandible"] > 10
    result, scan = sitk.ReadImage(str(tmp_path / "Größe.seg.nrrd")), sitk.ReadImage(str(SCANS[0]))
    assert result.GetSize() == scan.GetSize() and result.GetMetaData("Segment0_Name") == "mandible"
    stages = [event.stage for event in read_events(folder)[0] if event.stage]
    assert list(dict.fromkeys(stages)) == ["Loading the model", "Reading the scan", "Segmenting"]
    last = [event for event in read_events(folder)[0] if event.stage == "Segmenting"][-1]
    assert last.fraction == 1.0 and last.step == last.steps


def request(*scans: ScanToSegment, **more: Any) -> JobRequest:
    return JobRequest("segment", SegmentParameters(scans, MODEL, **more).to_json(), "cpu")


@pytest.fixture
def two(tmp_path: Path) -> Callable[[Path], tuple[ScanToSegment, ScanToSegment]]:
    """Return a function from a second scan to two scans to segment, into a folder that there is."""
    (tmp_path / "out").mkdir()

    def scans(second: Path) -> tuple[ScanToSegment, ScanToSegment]:
        return (
            ScanToSegment(SCANS[0], tmp_path / "out" / "1.nii.gz", tmp_path / "out" / "1.png"),
            ScanToSegment(second, tmp_path / "out" / "2.nii.gz"),
        )

    return scans


def test_a_scan_that_fails_is_told_and_only_it_is_done_again(tmp_path: Path, two: Callable[..., Any]) -> None:
    broken = tmp_path / "second.nii.gz"
    broken.write_bytes(b"this is no scan")
    reports: list[Progress] = []
    asked = request(*two(broken))
    with pytest.raises(PartlyDone, match=r"1 of 2 scans segmented\. .*second\.nii\.gz") as failure:
        run_segment(asked, tmp_path, reports.append, CancelToken())
    assert [entry["scan"] for entry in failure.value.result["failed"]] == [str(broken)]
    assert any(report.message.startswith("scan 1 of 2, ") for report in reports)
    assert (tmp_path / "out" / "1.png").exists()
    written = (tmp_path / "out" / "1.nii.gz").stat().st_mtime_ns
    shutil.copy(SCANS[1], broken)
    result = run_segment(asked, tmp_path, reports.append, CancelToken())
    assert len(result["scans"]) == 2 and result["failed"] == []
    assert (tmp_path / "out" / "1.nii.gz").stat().st_mtime_ns == written
    assert (tmp_path / "out" / "2.nii.gz").exists()
    json.dumps(result)


def test_cancelled_between_scans_it_goes_on_with_the_second(tmp_path: Path, two: Callable[..., Any]) -> None:
    cancel = CancelToken()

    def stop_at_the_second(report: Progress) -> None:
        if report.message.startswith("scan 2"):
            cancel.cancel()

    asked = request(*two(SCANS[1]))
    with pytest.raises(Cancelled):
        run_segment(asked, tmp_path, stop_at_the_second, cancel)
    assert not (tmp_path / "out" / "2.nii.gz").exists()
    os.remove(tmp_path / "out" / "1.png")  # noqa: PTH107 - not drawn again: the first scan is finished
    assert len(run_segment(asked, tmp_path, lambda report: None, CancelToken())["scans"]) == 2
    assert not (tmp_path / "out" / "1.png").exists()


def test_places_are_told_and_a_file_for_the_doubt_is_written(tmp_path: Path) -> None:
    scan = ScanToSegment(SCANS[0], tmp_path / "1.nii.gz", doubt=tmp_path / "new" / "doubt.nrrd")
    (entry,) = run_segment(request(scan), tmp_path, lambda report: None, CancelToken())["scans"]
    assert entry["doubt"]["file"] == str(scan.doubt) and entry["doubt"]["calibrated"] is False
    volume, image = sitk.ReadImage(entry["doubt"]["file"]), sitk.ReadImage(str(SCANS[0]))
    assert volume.GetSize() == image.GetSize()
    for place in entry["doubt"]["places"]:
        index = image.TransformPhysicalPointToIndex(place["position_lps_mm"])
        assert all(0 <= at < length for at, length in zip(index, image.GetSize(), strict=True))
    (tmp_path / "other").mkdir()
    plain, asked = ScanToSegment(SCANS[0], tmp_path / "2.nii.gz"), ScanToSegment(SCANS[0], tmp_path / "3.nii.gz")
    (without,) = run_segment(request(plain), tmp_path / "other", lambda report: None, CancelToken())["scans"]
    assert "doubt" not in without
    parameters = request(asked, places=True)
    assert SegmentParameters.from_json(parameters.parameters).places
    (told,) = run_segment(parameters, tmp_path / "other", lambda report: None, CancelToken())["scans"]
    assert told["doubt"] == entry["doubt"] | {"file": None}


@pytest.mark.parametrize(
    "damage", [{"scans": []}, {"scans": [{}]}, {"scans": 3}, {"memory_gb": 0}, {"memory_gb": "much"}, {"structures": 5}]
)
def test_damaged_parameters(damage: dict) -> None:
    good = request(ScanToSegment(SCANS[0], Path("out.nii.gz"))).parameters
    assert SegmentParameters.from_json(good).scans[0].output == Path("out.nii.gz").absolute()
    with pytest.raises(JobError):
        SegmentParameters.from_json({**good, **damage})


def test_mistakes_are_told_before_a_job_is_made(jobs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["segment", str(SCANS[0]), "--output", str(tmp_path / "o.nii.gz"), "--model", MODEL, "--background"]
    assert main([*words, "--structures", "tail"]) == 2
    assert main([*words, "--device", "toaster"]) == 2
    assert "Unknown device" in capsys.readouterr().err
    assert not jobs.exists()


def test_state_names_are_those_of_the_format() -> None:
    assert {state.value for state in JobState} == {
        "queued",
        "running",
        "cancelling",
        "cancelled",
        "failed",
        "done",
        "interrupted",
    }


def test_a_result_that_has_landed_is_not_made_again(
    tmp_path: Path, two: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker is ended between the result and the note that the scan is done, as by a power cut."""
    import TransferSegLib.inference.segment_file as module

    write = module.write_results
    written: list[Path] = []

    def write_and_note(each: ScanToSegment, *arguments: Any) -> None:
        write(each, *arguments)
        written.append(each.output)

    def cut_after(each: ScanToSegment, *arguments: Any) -> None:
        write_and_note(each, *arguments)
        if each.output.name == "1.nii.gz":
            raise SystemExit

    def cut_before(each: ScanToSegment, *arguments: Any) -> None:
        if each.output.name == "2.nii.gz":
            raise SystemExit
        write_and_note(each, *arguments)

    asked = request(*two(SCANS[1]))
    # The second time also 2 is interrupted, before it is written; a file of an earlier run is there.
    (tmp_path / "out" / "2.nii.gz").write_bytes(b"of an earlier run")
    for cut in (cut_after, cut_before):
        monkeypatch.setattr(module, "write_results", cut)
        with pytest.raises(SystemExit):
            run_segment(asked, tmp_path, lambda progress: None, CancelToken())
    monkeypatch.setattr(module, "write_results", write_and_note)
    result = run_segment(asked, tmp_path, lambda progress: None, CancelToken())
    assert [path.name for path in written] == ["1.nii.gz", "2.nii.gz"], "each is written once"
    assert [Path(entry["output"]).name for entry in result["scans"]] == ["1.nii.gz", "2.nii.gz"]
    assert all({"volumes_ml", "fit", "seconds", "device"} <= set(entry) for entry in result["scans"])


def test_rows_of_a_table_that_someone_else_writes(tmp_path: Path, two: Callable[..., Any]) -> None:
    result = run_segment(request(*two(SCANS[1]), measures=True), tmp_path, lambda progress: None, CancelToken())
    assert all(len(row) == len(entry["rows"][0]) > 5 for entry in result["scans"] for row in entry["rows"])
    assert read_json(tmp_path / "finished.json")["scans"] == result["scans"]
