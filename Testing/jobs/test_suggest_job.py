"""The job that ranks a folder: as ``cases suggest``, and the order is kept for the panel."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from TransferSegLib.cli.main import main
from TransferSegLib.corrections.kept_order import kept_order
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.errors import JobError
from TransferSegLib.jobs.kinds import find_kind
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.suggest_job import SuggestParameters
from TransferSegLib.progress import CancelToken

DATA = Path(__file__).resolve().parents[1] / "Data"
MODEL = DATA / "model_format_1" / "model"
CASES = read_dataset(DATA / "head_neck_ct").select(["pt_70", "pt_103"]).cases


@pytest.fixture
def scans(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with two scans and a file that is none."""
    monkeypatch.setenv("TRANSFERSEG_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "scans"
    folder.mkdir()
    for number, case in enumerate(CASES):
        shutil.copy(case.image, folder / f"{number}.nii.gz")
    (folder / "broken.nii.gz").write_bytes(b"this is no scan")
    return folder


def run(scans: list[Path], project: Path) -> dict:
    parameters = SuggestParameters(str(scans[0].parent), tuple(map(str, scans)), str(project), str(MODEL)).to_json()
    request = JobRequest("suggest", parameters, "cpu")
    return find_kind("suggest").run(request, scans[0].parent, lambda *_: None, CancelToken())


def test_the_job_and_the_command_find_and_keep_the_same_order(scans: Path, tmp_path: Path) -> None:
    files, project = sorted(scans.iterdir()), tmp_path / "project"
    result = run(files, project)
    order = [Path(one["scan"]) for one in result["ranked"]]
    assert sorted(order) == files[:2] and [Path(one["scan"]) for one in result["unreadable"]] == files[2:]
    kept = kept_order(scans, project)
    assert kept is not None and kept.sorted(files) == [*order, files[2]] and kept.unranked(files) == 0
    shutil.rmtree(tmp_path / "cache" / "scan-orders")
    words = ["cases", "suggest", str(scans), "--model", str(MODEL), "--device", "cpu", "--project", str(project)]
    assert main(words) == 0 and kept_order(scans, project) == kept


def test_a_folder_of_which_nothing_can_be_used(scans: Path, tmp_path: Path) -> None:
    with pytest.raises(JobError, match=r"None of the scans can be used\. broken\.nii\.gz is not compressed"):
        run([scans / "broken.nii.gz"], tmp_path / "project")


def test_parameters_that_are_none() -> None:
    for entry in ({}, {"folder": "a", "scans": 3}, {"folder": "a", "scans": [], "more": 1}):
        with pytest.raises(JobError, match="The parameters of the job are"):
            SuggestParameters.from_json(entry)
