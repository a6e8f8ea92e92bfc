"""One modality a project: an MR is not mixed into a CT project unasked, nor the reverse; old projects tell theirs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.cli.main import main
from TransferSegLib.corrections.case_modality import AnotherModality
from TransferSegLib.corrections.project import Project
from TransferSegLib.images.notices import MODALITY


def mr_scan(make, seed: int) -> sitk.Image:
    return make.on_grid(np.random.default_rng(seed).integers(0, 900, (4, 5, 6)).astype(np.int16))


def test_another_modality_is_refused_unless_told(make, project: Project) -> None:
    make.add(0, 1, 2)
    assert project.dataset().modality == "CT"
    before = (project.folder / "dataset.json").read_bytes()
    with pytest.raises(AnotherModality, match=r"looks like MR .* and the project's cases are CT: it was not") as caught:
        project.add_case(mr_scan(make, 1), make.labels(1), "all", structures=make.organs)
    assert (caught.value.scan, caught.value.project) == ("MR", "CT")
    assert "--modality CT" in str(caught.value) and "--any-modality" in str(caught.value)
    assert (project.folder / "dataset.json").read_bytes() == before
    said = project.add_case(mr_scan(make, 1), make.labels(1), "all", structures=make.organs, modality="ct")
    mixed = project.add_case(mr_scan(make, 2), make.labels(1), "all", structures=make.organs, any_modality=True)
    assert (said.revision.case.id, mixed.revision.case.id) == ("case-0002", "case-0003")
    assert project.dataset().modality == "CT"
    again = project.add_case(mr_scan(make, 2), make.labels(2), "all", structures=make.organs)
    assert again.revision.number == 2, "its scan is in the project already: that was asked once"


def test_the_word_of_dicom_counts_before_the_looks(make, project: Project) -> None:
    first = mr_scan(make, 0)
    first.SetMetaData(MODALITY, "CT")  # stored without the intercept
    project.add_case(first, make.labels(1), "all", structures=make.organs)
    assert project.dataset().modality == "CT"
    second = make.scan(1)
    second.SetMetaData(MODALITY, "MR ")
    with pytest.raises(AnotherModality, match="is MR by its DICOM header"):
        project.add_case(second, make.labels(1), "all", structures=make.organs)


def test_a_ct_is_not_mixed_into_an_mr_project(make, project: Project) -> None:
    project.add_case(mr_scan(make, 0), make.labels(1), "all", structures=make.organs)
    with pytest.raises(AnotherModality, match="looks like CT"):
        make.add(1, 1)
    with pytest.raises(AnotherModality, match="is PT, and the project's cases are MR"):
        make.add(1, 1, modality="PET")


def test_in_doubt_it_is_added_and_told(make, project: Project) -> None:
    make.add(0, 1)
    between = make.on_grid(np.random.default_rng(3).normal(0, 1, (4, 5, 6)).astype(np.float32))
    added = project.add_case(between, make.labels(1), "all", structures=make.organs)
    assert added.notes[0].startswith("Whether the scan is CT, as the project's other cases, cannot be told")


def test_an_older_project_tells_by_its_scans(make, project: Project) -> None:
    make.add(0, 1)
    for name in ("dataset.json", "dataset.json.bak"):
        content = json.loads((project.folder / name).read_text())
        del content["modality"]
        (project.folder / name).write_text(json.dumps(content))
    with pytest.raises(AnotherModality):
        project.add_case(mr_scan(make, 1), make.labels(1), "all", structures=make.organs)
    make.add(2, 1)
    assert project.dataset().modality == "CT"


def test_on_the_command_line(make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = tmp_path / "names.json"
    names.write_text('{"1": "liver"}')
    for name, image in (("ct", make.scan(0)), ("mr", mr_scan(make, 1)), ("labels", make.labels(1))):
        sitk.WriteImage(image, str(tmp_path / f"{name}.nrrd"))

    def add(scan: str, *more: str) -> int:
        words = ["cases", "add", str(tmp_path / f"{scan}.nrrd"), str(tmp_path / "labels.nrrd"), "--reviewed", "all"]
        return main([*words, "--structures", str(names), "--project", str(make.project.folder), *more])

    assert add("ct") == 0
    capsys.readouterr()
    assert add("mr", "--progress", "json") == 2
    captured = capsys.readouterr()
    assert json.loads(captured.out.splitlines()[-1])["error"].endswith("or mix them with --any-modality.")
    assert add("mr", "--any-modality") == 0


def test_a_project_that_cannot_be_there_is_one_line(make, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """With and without a patient's id, for which the project's salt is needed first."""
    sitk.WriteImage(make.scan(0), str(tmp_path / "ct.nrrd"))
    sitk.WriteImage(make.labels(1), str(tmp_path / "labels.nrrd"))
    (tmp_path / "file").write_text("")
    (tmp_path / "broken").symlink_to(tmp_path / "no" / "where")
    (tmp_path / "one").symlink_to(tmp_path / "two")
    (tmp_path / "two").symlink_to(tmp_path / "one")
    (tmp_path / "names.json").write_text('{"1": "liver"}')
    words = ["cases", "add", str(tmp_path / "ct.nrrd"), str(tmp_path / "labels.nrrd"), "--reviewed", "all"]
    words += ["--structures", str(tmp_path / "names.json")]
    for place in ("no/where", "file", "file/below", "broken", "one", "one/below", "a" * 300, "b/" * 3000):
        for patient in ([], ["--patient", "12"]):
            assert main([*words, "--project", str(tmp_path / place), *patient]) == 2, place
            said = capsys.readouterr().err.strip()
            assert said.startswith("transferseg: The project in") and "\n" not in said
    with pytest.raises(SystemExit) as ended:
        main([*words, "--project", ""])
    assert ended.value.code == 2 and "the name of the folder is empty" in capsys.readouterr().err
