"""What a run of ``segment`` knows of earlier results: a model by its weights, a scan where it lies now, old records."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.cli.main import main
from TransferSegLib.cli.segment_settings import RunSettings, run_settings
from TransferSegLib.cli.segmented_record import RECORD, SegmentedRecord
from TransferSegLib.errors import ScanError
from TransferSegLib.inference.options import USUAL
from TransferSegLib.inference.segment_file import ScanToSegment
from TransferSegLib.models import locate
from TransferSegLib.models.store import load_model, save_model

DATA = Path(__file__).resolve().parents[1] / "Data"
MODEL = DATA / "model_format_1" / "model"
SCAN = sorted((DATA / "head_neck_ct" / "images").glob("*.nii.gz"))[0]
Captured = pytest.CaptureFixture[str]


def test_what_moved_is_the_same_and_other_weights_are_another_model(tmp_path: Path, capsys: Captured) -> None:
    scans, out, model = tmp_path / "scans", tmp_path / "out", tmp_path / "model"
    scans.mkdir()
    shutil.copy(SCAN, scans)
    shutil.copytree(MODEL, model)

    def segment(*words: str | Path, code: int = 0) -> str:
        of_model = ("--output", out, "--format", ".nrrd", "--model", model, "--device", "cpu")
        assert main(["segment", *map(str, (scans, *of_model, *words))]) == code
        captured = capsys.readouterr()
        return captured.err if code else captured.out

    segment()
    for number, place in enumerate((scans, out, model)):
        place.rename(tmp_path / f"moved{number}")
    scans, out, model = (tmp_path / f"moved{number}" for number in range(3))
    assert "is segmented already" in segment()
    name = load_model(model).description.label_set.names[0]
    assert "with other settings (structures)" in segment("--structures", name, code=2)
    trained = load_model(model)
    changed = {name: values * 1.001 for name, values in trained.state_dict.items()}
    save_model(model, trained.description, changed, overwrite=True)
    said = segment(code=2)
    assert "with other weights of the model format-one 1.0" in said and "--replace" in said
    assert "segmented already" not in segment("--replace") and "is segmented already" in segment()


def case(tmp_path: Path) -> ScanToSegment:
    (tmp_path / "scans").mkdir()
    (tmp_path / "scans" / "a.nii").write_bytes(b"a scan")
    (tmp_path / "a.nrrd").write_bytes(b"a result")
    return ScanToSegment(tmp_path / "scans" / "a.nii", tmp_path / "a.nrrd")


def test_another_scan_is_told(tmp_path: Path) -> None:
    each, settings = case(tmp_path), RunSettings({"weights": ["1"]}, "m 1")
    SegmentedRecord(tmp_path, settings).add(each)
    other = tmp_path / "elsewhere" / "a.nii"
    other.parent.mkdir()
    other.write_bytes(b"another scan")
    with pytest.raises(ScanError, match=r"was made from .*scans/a\.nii, which is not the same as .*elsewhere/a\.nii:"):
        SegmentedRecord(tmp_path, settings).is_done(ScanToSegment(other, each.output))
    os.utime(each.scan, (1, 1))
    with pytest.raises(ScanError, match=r"was made from .*a\.nii as it was before a change and with the model m 1:"):
        SegmentedRecord(tmp_path, RunSettings({"weights": ["2"]}, "n 2")).is_done(each)


def earlier_line(each: ScanToSegment, settings: str) -> dict[str, Any]:
    """Return the line that earlier versions wrote."""

    def state(path: Path) -> list[Any]:
        return [str(path.resolve()), 1, path.stat().st_size, path.stat().st_mtime_ns]

    states = {"scan": state(each.scan), "written": state(each.output)}
    return {"done": each.output.name, "settings": settings, **states, "rows": [["x", "1"]]}


def test_records_of_earlier_versions_count_where_the_weights_are_older(tmp_path: Path) -> None:
    each = case(tmp_path)
    lines = [{"format": 1}, earlier_line(each, "0123456789abcdef")]
    (tmp_path / RECORD).write_text("".join(f"{json.dumps(line)}\n" for line in lines))
    written_ns = each.output.stat().st_mtime_ns
    known = RunSettings({"weights": ["1"]}, "m 0", "0123456789abcdef", written_ns)
    assert SegmentedRecord(tmp_path, known).is_done(each) and SegmentedRecord(tmp_path, known).rows(each) == [
        ["x", "1"]
    ]
    retrained = RunSettings({"weights": ["1"]}, "m 0", "0123456789abcdef", written_ns + 1)
    with pytest.raises(
        ScanError,
        match=r"by an earlier version, .* the weights' file of m 0 is newer than it \(because",
    ):
        SegmentedRecord(tmp_path, retrained).is_done(each)
    with pytest.raises(ScanError, match="another model or other settings, or by an earlier version"):
        SegmentedRecord(tmp_path, RunSettings({"weights": ["1"]}, "m 0", "another")).is_done(each)


def test_what_earlier_versions_kept_of_the_settings() -> None:
    asked = {"structures": None, "series": None, "modality": "", "strict": False}
    model = {"model": "format-one", "version": "1.0", "path": str(MODEL.resolve())}
    kept = {**model, **asked, "options": {"exact": False, "mirror": False, "step": None}}
    settings = run_settings(Namespace(**asked), MODEL, USUAL)
    assert settings.earlier == hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]
    assert settings.model == "format-one 1.0" and not {"model", "version", "path"} & set(settings.deciding)
    assert settings.weights_since_ns == (MODEL / "weights.pt").stat().st_mtime_ns


def test_an_update_that_renews_the_files_of_a_bundled_model_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    each, installed = case(tmp_path), tmp_path / "bundled" / "format-one"
    shutil.copytree(MODEL, installed)
    asked = {"structures": None, "series": None, "modality": "", "strict": False}
    before = run_settings(Namespace(**asked), installed, USUAL)
    (tmp_path / RECORD).write_text(json.dumps(earlier_line(each, before.earlier)) + "\n")
    later_ns = each.output.stat().st_mtime_ns + 10**9
    os.utime(installed / "weights.pt", ns=(later_ns, later_ns))
    copied = run_settings(Namespace(**asked), installed, USUAL)
    with pytest.raises(ScanError, match="is newer than it"):
        SegmentedRecord(tmp_path, copied).is_done(each)
    monkeypatch.setattr(locate, "bundled_models", lambda: [installed])
    bundled = run_settings(Namespace(**asked), installed, USUAL)
    assert bundled.weights_since_ns == 0 and SegmentedRecord(tmp_path, bundled).is_done(each)
