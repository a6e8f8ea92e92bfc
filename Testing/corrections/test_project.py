"""Adding, replacing, removing and bringing back: what the project says, and what its files hold."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.checking import check_project
from TransferSegLib.corrections.inputs import JudgedSlices
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.revisions import ModelReference
from TransferSegLib.datasets.dataset import read_dataset, write_dataset
from TransferSegLib.datasets.validate import check_dataset, has_errors
from TransferSegLib.errors import Cancelled, DatasetError, ScanError
from TransferSegLib.images.formats.slicer_segmentation import read_segmentation_names
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.images.write import write_label_map
from TransferSegLib.progress import CancelToken, Progress
from TransferSegLib.structures import LabelSet, Structure


def test_a_case_with_everything(make, project: Project) -> None:
    judged = np.zeros((4, 5, 6), np.uint8)
    judged[1:3] = 7
    added = make.add(
        0, 1, 2, 5,
        reviewed=["Spleen", "tumour"],
        judged=make.on_grid(judged),
        prediction=make.labels(1, 1, 1),
        model=ModelReference("abdomen", "2.1"),
        notes=" edges of the spleen ",
    )  # fmt: skip
    dataset = read_dataset(project.folder)
    (case,) = dataset.cases
    assert (case.id, case.group, case.annotated) == ("case-0001", "case-0001", ("spleen", "tumour"))
    image = read_scan(case.image)
    assert np.array_equal(sitk.GetArrayViewFromImage(image), sitk.GetArrayFromImage(make.scan()))
    assert image.GetPixelID() == sitk.sitkInt16
    for what in ("GetSpacing", "GetOrigin", "GetDirection"):
        assert getattr(image, what)() == pytest.approx(getattr(make.scan(), what)(), abs=1e-12)
    assert make.values(case.labels) == [1, 2, 5, 0, 0, 0]
    assert read_segmentation_names(case.labels) == {1: "liver", 2: "spleen", 5: "tumour"}
    assert case.judged is not None
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(case.judged))), judged // 7)
    revision = project.revisions("case-0001")[0]
    assert revision == added.revision.__class__.of(case, project.folder)
    assert make.values(revision.prediction) == [1, 1, 1, 0, 0, 0]
    assert revision.corrected_from == ModelReference("abdomen", "2.1")
    assert (revision.number, revision.notes, revision.removed) == (1, "edges of the spleen", "")
    assert added.notes == ("Ignored, because not reviewed: liver.",)
    assert not has_errors(check_dataset(dataset))


def test_any_program_can_rewrite_the_dataset(make, project: Project) -> None:
    make.add(0, 1, 2)
    make.add(0, 2, 2)
    make.add(1, 1)
    project.remove_case("case-0002")
    before = project.state()
    write_dataset(read_dataset(project.folder), project.folder)
    assert project.state() == before


def test_the_same_scan_is_a_new_revision(make, project: Project, tmp_path: Path) -> None:
    first = make.add(0, 1, 2, group="a patient").revision
    make.add(1, 1)
    sitk.WriteImage(sitk.Cast(make.scan(0), sitk.sitkFloat32), str(tmp_path / "same scan.mha"))
    added = project.add_case(tmp_path / "same scan.mha", make.labels(2, 2), ["spleen"], structures=make.organs)
    assert added.replaced and (added.revision.case.id, added.revision.number) == ("case-0001", 2)
    assert "revision 1 is kept" in added.notes[0]
    current = read_dataset(project.folder).case("case-0001")
    assert current.image == first.case.image and current.group == "a patient"
    assert make.values(current.labels) == [2, 2, 0, 0, 0, 0]
    assert make.values(first.case.labels) == [1, 2, 0, 0, 0, 0]
    assert [revision.number for revision in project.revisions("case-0001")] == [1, 2]
    assert project.revisions("case-0001")[0] == first
    assert read_dataset(project.folder).ids == ("case-0001", "case-0002")
    assert first.content_hash != added.revision.content_hash and first.image_hash == added.revision.image_hash


def test_going_back_to_a_revision(make, project: Project) -> None:
    make.add(0, 1, 2, notes="first")
    make.add(0, 2, 2, notes="second")
    back = project.restore_revision("case-0001", 1)
    assert (back.number, back.restored_from, back.notes) == (3, 1, "first")
    assert make.values(read_dataset(project.folder).cases[0].labels) == [1, 2, 0, 0, 0, 0]
    assert [revision.notes for revision in project.revisions("case-0001")] == ["first", "second", "first"]
    with pytest.raises(DatasetError, match="is the current one"):
        project.restore_revision("case-0001", 3)
    with pytest.raises(DatasetError, match=r"no revision 7\. It has: 1, 2, 3"):
        project.restore_revision("case-0001", 7)
    assert check_project(project) == []


def test_the_bin(make, project: Project) -> None:
    make.add(0, 1, 2)
    make.add(1, 2, 1)
    removed = project.remove_case("case-0001")
    assert removed.removed.endswith("Z")
    assert read_dataset(project.folder).ids == ("case-0002",)
    with pytest.raises(DatasetError, match="removed already"):
        project.remove_case("case-0001")
    with pytest.raises(DatasetError, match="is not removed"):
        project.restore_case("case-0002")
    with pytest.raises(DatasetError, match=r"no case 'x'. Its cases are: case-0002, case-0001"):
        project.remove_case("x")
    assert project.restore_case("case-0001") == project.revisions("case-0001")[0]
    assert make.values(read_dataset(project.folder).case("case-0001").labels) == [1, 2, 0, 0, 0, 0]
    for wrong in (["case-0001", "x"], ["case-0001", "case-0002", "case-0003"]):
        with pytest.raises(DatasetError, match="no case"):
            project.remove_cases(wrong)
        assert read_dataset(project.folder).ids == ("case-0002", "case-0001"), "all or none"
    binned = project.remove_cases(["case-0001", "case-0002", "case-0001"])
    assert [revision.case.id for revision in binned] == ["case-0001", "case-0002"]
    assert len(read_dataset(project.folder)) == 0
    again = make.add(0, 2)
    assert again.replaced and again.revision.number == 2 and "is back" in again.notes[0]
    assert read_dataset(project.folder).ids == ("case-0001",)
    project.remove_case("case-0001")
    assert project.restore_revision("case-0001", 1).number == 3
    assert [(one.number, one.removed) for one in project.revisions("case-0001")] == [(1, ""), (2, ""), (3, "")]
    assert make.add(5, 1).revision.case.id == "case-0003"


def test_label_values_are_tied_to_names(make, project: Project, tmp_path: Path) -> None:
    make.add(0, 1, 2)
    other = {1: "kidney", 2: "Liver", 9: "tumour"}
    added = project.add_case(make.scan(1), make.labels(1, 2, 9), ["liver", "kidney"], structures=other)
    dataset = read_dataset(project.folder)
    assert [(one.name, one.label) for one in dataset.label_set] == [
        ("liver", 1), ("spleen", 2), ("kidney", 3), ("tumour", 9)
    ]  # fmt: skip
    assert make.values(added.revision.case.labels) == [3, 1, 9, 0, 0, 0]
    assert make.values(dataset.cases[0].labels) == [1, 2, 0, 0, 0, 0]
    assert "'kidney' is new in the project: its label value is 3." in added.notes
    # A Slicer segmentation brings its names along, and the project's values are the default for all others.
    path = tmp_path / "corrected.seg.nrrd"
    write_label_map(make.labels(5, 2), path, make.organs)
    named = project.add_case(make.scan(2), path, "all")
    assert make.values(named.revision.case.labels) == [9, 2, 0, 0, 0, 0]
    assert named.revision.case.annotated == ("liver", "spleen", "tumour")
    plain = project.add_case(make.scan(3), make.labels(9, 3), ["tumour"], prediction=make.labels(3))
    assert make.values(plain.revision.case.labels) == [9, 3, 0, 0, 0, 0]
    assert make.values(plain.revision.prediction) == [3, 0, 0, 0, 0, 0]


def test_a_segmentation_in_two_files_brings_its_names_along_too(make, project: Project, tmp_path: Path) -> None:
    whole = tmp_path / "whole.seg.nrrd"
    write_label_map(make.labels(1, 2), whole, make.organs, compress=False)
    header, _, voxels = whole.read_bytes().partition(b"\n\n")
    (tmp_path / "apart.raw").write_bytes(voxels)
    apart = tmp_path / "apart.seg.nhdr"
    apart.write_bytes(header + b"\ndata file: apart.raw\n")
    one, two = (project.add_case(make.scan(number), path, "all") for number, path in enumerate((whole, apart)))
    assert make.values(two.revision.case.labels) == make.values(one.revision.case.labels)
    assert two.revision.case.annotated == one.revision.case.annotated != ()


def test_a_structure_called_all_is_one_structure(make, project: Project) -> None:
    """Ticked alone it must not stand for its neighbours, which nobody reviewed."""
    added = project.add_case(make.scan(0), make.labels(1, 2), "all", structures={1: "All", 2: "spleen"})
    assert added.revision.case.annotated == ("All",)
    absent = project.add_case(make.scan(1), make.labels(1, 2), "all", structures={1: "liver", 2: "spleen"})
    assert absent.revision.case.annotated == ("All",), "the project knows it: it was looked for and is not there"


def test_a_prediction_may_have_values_of_its_own(make, project: Project) -> None:
    names = {7: "spleen", 8: "gallbladder"}
    added = make.add(0, 1, 2, prediction=make.labels(7, 8), prediction_structures=names)
    assert [(one.name, one.label) for one in project.dataset().label_set] == [
        ("liver", 1), ("spleen", 2), ("gallbladder", 8)
    ]  # fmt: skip
    assert make.values(added.revision.prediction) == [2, 8, 0, 0, 0, 0]


def test_a_prediction_that_names_its_structures_is_not_read_by_the_corrections_values(
    make, project: Project, tmp_path: Path
) -> None:
    path = tmp_path / "predicted.seg.nrrd"
    structures = (Structure("kidney", 1, (9, 9, 9)), Structure("liver", 8, (1, 2, 3)))
    write_label_map(make.labels(1, 8, 8), path, LabelSet(structures))
    added = make.add(0, 1, 2, structures={1: "liver", 2: "spleen"}, prediction=path)
    kidney = project.dataset().label_set.find("kidney")
    assert kidney is not None
    assert make.values(added.revision.prediction) == [kidney.label, 1, 1, 0, 0, 0]


def test_reviewed_and_absent(make, project: Project) -> None:
    added = make.add(0, 1, 2, reviewed=["tumour", "liver"], judged=JudgedSlices("z", (0, 1)))
    assert added.revision.case.annotated == ("liver", "tumour")
    assert (
        "'tumour' was reviewed and has no voxel: it counts as absent from the annotated region of this scan."
        in added.notes
    )
    empty = make.add(1, reviewed=["liver"])
    assert empty.notes == (
        "'liver' was reviewed and has no voxel: it counts as absent from this scan.",
        "Empty, and ignored, because not reviewed: spleen, tumour.",
    )
    assert not has_errors(check_project(project))


def test_judged_slices(make) -> None:
    mask = sitk.GetArrayFromImage(JudgedSlices.parse("y: 1-2, 4").mask(make.scan()))
    assert mask.shape == (4, 5, 6)
    assert [int(mask[:, y].min()) for y in range(5)] == [0, 1, 1, 0, 1] == [int(mask[:, y].max()) for y in range(5)]
    assert JudgedSlices.parse("0-1") == JudgedSlices("z", (0, 1))
    assert np.array_equal(JudgedSlices("x", (5,)).mask(make.scan())[5, 0, 0], 1)
    with pytest.raises(DatasetError, match="no slice 4 along z: they count from 0 to 3"):
        JudgedSlices.parse("3-4").mask(make.scan())
    for text in ("", "z", "w:1", "1-", "z:1-99999999", "1;2"):
        with pytest.raises(DatasetError, match="does not name slices"):
            JudgedSlices.parse(text)
    every = make.add(0, 1, judged=JudgedSlices.parse("0-3"))
    assert every.revision.case.judged is None


def refused(make, match: str, *values: int, error: type[Exception] = DatasetError, **more: object) -> None:
    with pytest.raises(error, match=match):
        make.add(0, *values, **more)
    assert not make.project.folder.exists()


def test_what_does_not_fit_is_refused_before_anything_is_written(make, tmp_path: Path) -> None:
    shifted, larger = make.labels(1), make.labels(1)[:, :, :3]
    shifted.SetOrigin((0.1, 0, 0))
    larger.SetSpacing((1, 1, 1.1))
    for wrong in (shifted, larger):
        for what in ("prediction", "judged"):
            refused(make, "does not lie on the image's voxel grid", 1, **{what: wrong})
        with pytest.raises(DatasetError, match="does not lie on the image's voxel grid: the"):
            make.project.add_case(make.scan(), wrong, "all", structures=make.organs)
    refused(make, r"belong to no structure: 3 \(20 voxels\), 4 \(20 voxels\)\. Known are 1 liver", 1, 3, 4)
    refused(make, "the prediction holds label values", 1, prediction=make.labels(6))
    refused(make, "What the label values of the label map mean is not known", 1, structures=None)
    refused(make, "'lung' was reviewed, but neither", 1, reviewed=["lung"])
    refused(make, "Say which structures were reviewed", 1, reviewed=[])
    refused(make, "annotated region is empty", 1, judged=make.labels(0))
    refused(make, "nowhere.nii does not exist", 1, prediction=tmp_path / "nowhere.nii", error=ScanError)
    for case_id in ("../x", "a/b", "CON", "lpt1.txt", "x.", " x", "", "a" * 65, "ä"):
        refused(make, "cannot be a case's id", 1, case_id=case_id)
    (tmp_path / "damaged.nii.gz").write_bytes(b"no image")
    with pytest.raises(ScanError, match=r"damaged\.nii\.gz"):
        make.project.add_case(tmp_path / "damaged.nii.gz", make.labels(1), "all", structures=make.organs)
    flat = make.on_grid(np.zeros((4, 5, 6), np.int16))
    with pytest.raises(ScanError, match="same intensity"):
        make.project.add_case(flat, make.labels(1), "all", structures=make.organs)
    halves = sitk.Cast(make.labels(1), sitk.sitkFloat32) * 0.5
    with pytest.raises(ScanError, match="the label map is no label map"):
        make.project.add_case(make.scan(), halves, "all", structures=make.organs)
    assert not make.project.folder.exists()


def test_ids(make, project: Project) -> None:
    make.add(0, 1, case_id="Knee 1")
    assert make.add(1, 1).revision.case.id == "case-0001"
    with pytest.raises(DatasetError, match="'Knee 1' has another scan"):
        make.add(2, 1, case_id="knee 1")  # the same folder on Windows and macOS
    with pytest.raises(DatasetError, match="This scan is the case 'Knee 1'"):
        make.add(0, 1, case_id="other")
    assert make.add(0, 1, case_id="Knee 1").revision.number == 2
    assert make.add(3, 1, case_id="case-0007").revision.number == 1
    assert make.add(4, 1).revision.case.id == "case-0008"


def test_groups(make, project: Project) -> None:
    first = make.add(0, 1, patient="12345").revision.case.group
    assert first.startswith("patient-") and "12345" not in first
    assert make.add(1, 1, patient=" 12345 ").revision.case.group == first
    assert make.add(2, 1, patient="12346").revision.case.group != first
    assert make.add(3, 1, group="A").revision.case.group == "A"
    assert make.add(4, 1).revision.case.group == "case-0005"
    tagged = make.scan(5)
    tagged.SetMetaData("0010|0020", "12345 ")
    added = project.add_case(tagged, make.labels(1), "all", structures=make.organs)
    assert added.revision.case.group == first
    elsewhere = Project(project.folder.with_name("elsewhere"), create=True)
    other = elsewhere.add_case(make.scan(0), make.labels(1), "all", structures=make.organs, patient="12345")
    assert other.revision.case.group != first, "the salt is the project's own"


def test_progress_and_cancel(make, project: Project) -> None:
    reports: list[Progress] = []
    make.add(0, 1, progress=reports.append)
    fractions = [report.fraction for report in reports]
    # Steps that last are reported in between, too.
    assert fractions == sorted(fractions) and {0.25, 0.5, 0.75, 1.0} <= set(fractions)
    before = (project.folder / "dataset.json").read_bytes()
    for stop_after in (1, 2, 3):
        token, seen = CancelToken(), []

        def stop(report: Progress, token=token, seen=seen, stop_after=stop_after) -> None:
            seen.append(report)
            if len(seen) == stop_after:
                token.cancel()

        with pytest.raises(Cancelled):
            make.add(1, 1, progress=stop, cancel=token)
        assert (project.folder / "dataset.json").read_bytes() == before
        assert list((project.folder / ".incoming").iterdir()) == []
    assert sorted(path.name for path in (project.folder / "cases").iterdir()) == ["case-0001"]


def test_only_a_project_is_a_project(make, tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="the folder is not there"):
        Project(tmp_path / "nowhere").state()
    with pytest.raises(DatasetError, match="it has no dataset"):
        Project(tmp_path).state()
    with pytest.raises(DatasetError, match="There is no project"):
        Project(tmp_path / "nowhere").add_case(make.scan(), make.labels(1), "all", structures=make.organs)
    with pytest.raises(DatasetError, match="cannot be made: there is no folder"):
        Project(tmp_path / "no" / "where", create=True).add_case(
            make.scan(), make.labels(1), "all", structures=make.organs
        )
    with pytest.raises(DatasetError, match="There is no project"):
        Project(tmp_path / "nowhere").remove_case("x")
    version_1 = Path(__file__).parents[1] / "Data" / "dataset_format_1"
    with pytest.raises(DatasetError, match=r"no project of corrected cases\. Choose another folder"):
        Project(version_1).state()
    make.add(0, 1)
    file = make.project.folder / "dataset.json"
    content = json.loads(file.read_text())
    content["corrections"]["version"] = 2
    for name in ("dataset.json", "dataset.json.bak"):
        file.with_name(name).write_text(json.dumps(content))
    with pytest.raises(DatasetError, match="newer TransferSeg"):
        make.add(1, 1)
    assert len(read_dataset(file)) == 1, "reading is possible all the same"


def test_label_maps_are_read_as_they_were_meant(make, project: Project) -> None:
    """Whole floating-point numbers and large values are label maps too."""
    names = {40000: "liver", 3: "spleen"}
    values = sitk.Cast(make.labels(3), sitk.sitkFloat64) + sitk.Cast(make.labels(0, 1), sitk.sitkFloat64) * 40000
    added = project.add_case(make.scan(), values, "all", structures=names)
    assert make.values(added.revision.case.labels) == [3, 40000, 0, 0, 0, 0]
    assert read_label_map(added.revision.case.labels).GetPixelID() == sitk.sitkUInt16
