"""Jobs that save a corrected case: from a front end's copy to a case of a project, and what is refused."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.snapshot import DESCRIPTION, Box, Grid, Layer, Snapshot
from TransferSegLib.jobs.files import RESULT, read_json
from TransferSegLib.jobs.launch import worker_command
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.save_job import DICOM_PATIENT_VARIABLE, PATIENT_VARIABLE, SaveParameters
from TransferSegLib.jobs.status import read_status
from TransferSegLib.jobs.store import create_job
from TransferSegLib.structures import LabelSet, Structure

SHAPE_ZYX = (6, 8, 10)
PATIENT = "Erika-Mustermann-1964"


def snapshot(seed: int = 0, scale: float = 1.0) -> Snapshot:
    """Return a scan with two segments in two layers, of which the first wins."""
    voxels_zyx = np.random.default_rng(seed).integers(-900, 900, SHAPE_ZYX).astype(np.int16)
    grid = Grid((1.0, 1.5, 2.0), (3.0, -4.0, 5.0), (1.0, 0.0, 0.0, 0.0, -1.0, 0.0, 0.0, 0.0, -1.0))
    label_set = LabelSet((Structure("mandible", 1, (10, 20, 30)), Structure("larynx", 2, (30, 20, 10))))
    one, two = Layer((1, 2, 2), np.ones((3, 4, 4), np.uint8), ((1, 1, True),)), np.ones((4, 4, 4), np.uint8)
    return Snapshot(
        (voxels_zyx * scale).astype(np.int16), grid, label_set, (one, Layer((2, 2, 2), two, ((1, 2, False),)))
    )


def save(tmp_path: Path, copied: Snapshot, variable: str = PATIENT_VARIABLE, **changes: object) -> tuple[Path, str]:
    """Run a job as the panel does, and return its folder and its state."""
    folder = tmp_path / "snapshot"
    folder.mkdir(exist_ok=True)
    (folder / DESCRIPTION).write_text(copied.description())
    for name, array in copied.arrays():
        (folder / name).write_bytes(array.tobytes())
    asked = SaveParameters(str(folder), str(tmp_path / "project"), ("mandible",), notes="by a job")
    request = JobRequest("save", replace(asked, **changes).to_json(), "cpu")
    job = create_job(request, tmp_path / "jobs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(variable, PATIENT)
        command = [*worker_command(), str(job)]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    assert done.stdout == b"", "all that it prints is in the log"
    return job, str(read_status(job).state)


def test_a_copy_becomes_a_case_without_the_patients_id(tmp_path: Path) -> None:
    job, state = save(tmp_path, snapshot(), model="head-neck-ct", model_version="1.0", slices="z:1-3")
    assert state == "done", read_status(job).message
    case = read_json(job / RESULT)["result"]
    assert (case["id"], case["revision"], case["reviewed"], case["notes"]) == ("case-0001", 1, ["mandible"], "by a job")
    assert case["model"] == {"name": "head-neck-ct", "version": "1.0"} and case["group"] != PATIENT
    image, labels, region = (sitk.ReadImage(case[name]) for name in ("image", "labels", "judged"))
    np.testing.assert_array_equal(sitk.GetArrayFromImage(image), snapshot().voxels_zyx)
    assert image.GetSpacing() == (1.0, 1.5, 2.0) and labels.GetDirection() == image.GetDirection()
    labels_zyx = sitk.GetArrayFromImage(labels)
    assert (labels_zyx[1:4, 2:6, 2:6] == 1).all() and (labels_zyx[4:6, 2:6, 2:6] == 2).all()
    assert sorted(set(np.nonzero(sitk.GetArrayFromImage(region))[0])) == [1, 2, 3]
    for file in tmp_path.rglob("*"):
        assert not file.is_file() or PATIENT.encode() not in file.read_bytes(), file


def test_what_was_said_of_the_patient_stays_and_dicom_says_it_where_nothing_was(tmp_path: Path) -> None:
    job, _ = save(tmp_path, snapshot(), DICOM_PATIENT_VARIABLE)
    of_dicom = read_json(job / RESULT)["result"]["group"]
    assert of_dicom.startswith("patient-") and PATIENT not in of_dicom
    project = Project(tmp_path / "project")
    project.add_case(snapshot().scan(), snapshot().label_map(), "all", structures=snapshot().label_set, group="A")
    job, _ = save(tmp_path, snapshot(), DICOM_PATIENT_VARIABLE)
    assert read_json(job / RESULT)["result"]["group"] == "A", "the panel says: as saved before"
    job, _ = save(tmp_path, snapshot())
    assert read_json(job / RESULT)["result"]["group"] == of_dicom


def test_what_cannot_be_saved_is_told_and_leaves_no_case(tmp_path: Path) -> None:
    copied = snapshot()
    first, second = copied.layers
    both = replace(copied, layers=(first, replace(second, segments=((1, 2, True),))))
    job, state = save(tmp_path, both)
    assert state == "failed" and "'mandible' and 'larynx' share 32 voxels" in read_status(job).message
    assert not (tmp_path / "project").exists()
    save(tmp_path, copied, modality="CT")
    job, state = save(tmp_path, snapshot(1), modality="MR")
    assert state == "failed"
    assert read_json(job / RESULT)["result"] == {"another_modality": {"scan": "MR", "project": "CT"}}
    assert len(Project(tmp_path / "project").dataset()) == 1
    job, state = save(tmp_path, snapshot(1), modality="MR", any_modality=True)
    assert state == "done", read_status(job).message


def test_a_box_in_any_position_is_the_annotated_region(tmp_path: Path) -> None:
    box = Box(np.array([[1.0, 0, 0, -4], [0, 1, 0, -4], [0, 0, 1, -3], [0, 0, 0, 1]]), (2.0, 2.0, 1.0))
    job, state = save(tmp_path, replace(snapshot(), box=box))
    assert state == "done", read_status(job).message
    region_zyx = sitk.GetArrayFromImage(sitk.ReadImage(read_json(job / RESULT)["result"]["judged"]))
    assert region_zyx.sum() == 3 * 5 * 5 and region_zyx[2:5, 2:7, 2:7].all()


def test_damaged_parameters_are_told(tmp_path: Path) -> None:
    job = create_job(JobRequest("save", {"project": "x"}, "cpu"), tmp_path / "jobs")
    subprocess.run([*worker_command(sys.executable), str(job)], check=False, stdin=subprocess.DEVNULL)
    assert "The parameters of the job are damaged" in read_status(job).message
