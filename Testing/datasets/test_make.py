"""Making datasets from folders: real folders of the data sets in use, and what goes wrong with others."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.datasets.conftest import SPACING_MM, label_voxels, scan_voxels, write_volume
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.make import DatasetFacts, FolderSource, dataset_from_folders
from TransferSegLib.datasets.openkbp import dataset_from_head_neck_ct
from TransferSegLib.datasets.validate import check_dataset
from TransferSegLib.errors import Cancelled, DatasetError
from TransferSegLib.images.formats.slicer_segmentation import read_segmentation_names
from TransferSegLib.images.geometry_checks import same_geometry
from TransferSegLib.images.read import read_label_map, read_label_map_on, read_scan
from TransferSegLib.images.write import write_label_map
from TransferSegLib.progress import CancelToken, Progress, Task
from TransferSegLib.structures import LabelSet, Structure

Volume = Callable[..., Path]


def planes(*labels: int) -> np.ndarray:
    """Return a label map of 4 x 5 x 6 in which the n-th label fills the plane x = n - 1."""
    voxels = np.zeros((4, 5, 6), np.uint8)
    for x, label in enumerate(labels):
        voxels[:, :, x] = label
    return voxels


def scan(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(-9, 9, (4, 5, 6)).astype(np.int16)


@pytest.fixture
def folders(tmp_path: Path, volume: Volume) -> Path:
    """Write three cases in nnU-Net's layout: spleen 1, left kidney 3; sparse."""
    for number, labels in enumerate([(1, 3), (1,), ()], start=1):
        volume(tmp_path / "imagesTr" / f"p{number}_0000.nii.gz", scan(number))
        volume(tmp_path / "labelsTr" / f"p{number}.nii.gz", planes(*labels))
    text = json.dumps({"labels": {"background": 0, "spleen": 1, "kidney_left": 3}, "channel_names": {"0": "CT"}})
    (tmp_path / "dataset.json").write_text(text)
    return tmp_path


def test_nnunet_folders_become_a_sparse_dataset(folders: Path, tmp_path: Path):
    reports: list[Progress] = []
    made = dataset_from_folders(
        FolderSource(folders / "imagesTr", folders / "labelsTr"),
        tmp_path / "out",
        DatasetFacts(license="CC0", modality="CT"),
        task=Task("", reports.append),
    )
    dataset = read_dataset(tmp_path / "out")
    assert dataset == made.dataset
    assert (dataset.name, dataset.license, dataset.modality) == ("out", "CC0", "CT")
    assert dataset.label_set.names == ("spleen", "left kidney"), "found in nnU-Net's dataset.json"
    assert [(case.id, case.annotated) for case in dataset.cases] == [
        ("p1", ("spleen", "left kidney")),
        ("p2", ("spleen",)),
        ("p3", ()),
    ]
    entry = json.loads((tmp_path / "out" / "dataset.json").read_text())["cases"][0]
    assert entry["image"] == "../imagesTr/p1_0000.nii.gz" and entry["labels"] == "../labelsTr/p1.nii.gz"
    assert reports[-1].fraction == 1.0
    assert json.loads((folders / "dataset.json").read_text())["channel_names"] == {"0": "CT"}, "nnU-Net's own is kept"


def test_all_structures_annotated(folders: Path, tmp_path: Path):
    source = FolderSource(folders / "imagesTr", folders / "labelsTr", annotated="all")
    dataset = dataset_from_folders(source, tmp_path / "out").dataset
    assert dataset.annotated_counts() == {"spleen": 3, "left kidney": 3}


def test_a_table_says_what_is_annotated(folders: Path, tmp_path: Path):
    table = tmp_path / "annotated.csv"
    table.write_text("case,left kidney,spleen\np1,0,1\np2,1,0\np3,,\np4,1,1\n")
    source = FolderSource(folders / "imagesTr", folders / "labelsTr", annotated=table)
    made = dataset_from_folders(source, tmp_path / "out")
    assert [case.annotated for case in made.dataset.cases] == [("spleen",), ("left kidney",), ()]
    assert made.notes == ("left out, no image and label map: p4",)
    table.write_text("case,left kidney,spleen\np1,0,1\n")
    with pytest.raises(DatasetError, match=r"no row for these cases:\n  - p2\n  - p3"):
        dataset_from_folders(source, tmp_path / "out2")


def test_images_without_a_label_map_are_left_out_and_named(folders: Path, tmp_path: Path):
    (folders / "labelsTr" / "p2.nii.gz").unlink()
    made = dataset_from_folders(FolderSource(folders / "imagesTr", folders / "labelsTr"), tmp_path / "out")
    assert made.dataset.ids == ("p1", "p3")
    assert len(made.notes) == 1 and "p2_0000.nii.gz" in made.notes[0]


def test_a_copy_stands_alone_and_is_exact(folders: Path, tmp_path: Path):
    source = FolderSource(folders / "imagesTr", folders / "labelsTr")
    original = (folders / "imagesTr" / "p1_0000.nii.gz").read_bytes()
    dataset_from_folders(source, tmp_path / "moved", copy=True)
    for folder in ("imagesTr", "labelsTr"):
        for path in (folders / folder).iterdir():
            path.unlink()
    (tmp_path / "moved").rename(tmp_path / "elsewhere")
    dataset = read_dataset(tmp_path / "elsewhere")
    assert dataset.case("p1").image == tmp_path / "elsewhere" / "images" / "p1.nii.gz"
    assert dataset.case("p1").image.read_bytes() == original
    assert [problem.severity for problem in check_dataset(dataset)] == ["warning"], "p3 has nothing annotated"
    assert not [path for path in (tmp_path / "elsewhere").rglob("*") if "partial" in path.name]


@pytest.fixture
def with_ignored(folders: Path) -> FolderSource:
    """Give the spleen's dataset nnU-Net's label "ignore" (4): in p1 it fills a plane, in the others there is none."""
    write_volume(folders / "labelsTr" / "p1.nii.gz", planes(1, 3, 4))
    labels = {"background": 0, "spleen": 1, "kidney_left": 3, "ignore": 4}
    (folders / "dataset.json").write_text(json.dumps({"labels": labels}))
    return FolderSource(folders / "imagesTr", folders / "labelsTr", annotated="all")


def test_what_nnunet_ignores_is_not_annotated_in_a_copy(with_ignored: FolderSource, tmp_path: Path):
    made = dataset_from_folders(with_ignored, tmp_path / "out", copy=True)
    dataset = read_dataset(tmp_path / "out")
    assert (
        dataset.label_set.names == ("spleen", "left kidney") and dataset.case("p1").annotated == dataset.label_set.names
    )
    assert [case.id for case in dataset.cases if case.judged is not None] == ["p1"]
    assert len(made.notes) == 1 and made.notes[0].startswith("p1: what nothing is known of")
    image = read_scan(dataset.case("p1").image)
    labels = sitk.GetArrayFromImage(read_label_map_on(image, dataset.case("p1").labels))
    np.testing.assert_array_equal(labels, planes(1, 3))
    assert dataset.case("p1").judged == tmp_path / "out" / "judged" / "p1.nrrd"
    judged = sitk.GetArrayFromImage(read_label_map_on(image, tmp_path / "out" / "judged" / "p1.nrrd"))
    np.testing.assert_array_equal(judged != 0, planes(1, 3, 4) != 4)
    assert not [problem for problem in check_dataset(dataset) if problem.severity == "error"]


def test_a_case_that_is_wholly_ignored_is_left_out(with_ignored: FolderSource, tmp_path: Path):
    write_volume(with_ignored.labels / "p2.nii.gz", np.full_like(planes(1), 4))
    made = dataset_from_folders(with_ignored, tmp_path / "out", copy=True)
    assert [case.id for case in read_dataset(tmp_path / "out").cases] == ["p1", "p3"]
    assert "left out, all of its label map is 'ignore': p2" in made.notes
    assert not [path for path in (tmp_path / "out").rglob("*") if path.name.startswith("p2")]
    for id in ("p1", "p3"):
        write_volume(with_ignored.labels / f"{id}.nii.gz", np.full_like(planes(1), 4))
    with pytest.raises(DatasetError, match="Nothing is known of any case"):
        dataset_from_folders(with_ignored, tmp_path / "out2", copy=True)


def test_what_nnunet_ignores_is_refused_where_files_stay(with_ignored: FolderSource, tmp_path: Path):
    with pytest.raises(DatasetError, match=r"'ignore' \(4\) is no structure.*dataset make --copy"):
        dataset_from_folders(with_ignored, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_only_structures_are_present_beside_what_nnunet_ignores(with_ignored: FolderSource, tmp_path: Path):
    made = dataset_from_folders(replace(with_ignored, annotated="present"), tmp_path / "out", copy=True)
    assert [case.annotated for case in made.dataset.cases] == [("spleen", "left kidney"), ("spleen",), ()]


def test_a_segment_called_ignore_is_refused_though_its_name_is_not_wanted(tmp_path: Path, volume: Volume):
    volume(tmp_path / "i" / "a.nrrd", scan(1))
    (tmp_path / "l").mkdir()
    write_segmentation(tmp_path / "l" / "a.seg.nrrd", planes(1, 2), {1: "spleen", 2: "ignore"})
    source = FolderSource(tmp_path / "i", tmp_path / "l", {1: "spleen"})
    with pytest.raises(DatasetError, match=r"a\.seg\.nrrd: the label 'ignore' \(2\) is no structure"):
        dataset_from_folders(source, tmp_path / "out", copy=True)


@pytest.mark.skipif(os.name == "nt", reason="making links needs a right on Windows that tests lack")
def test_nothing_is_copied_behind_a_link(folders: Path, tmp_path: Path):
    (tmp_path / "out").mkdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "out" / "images").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    with pytest.raises(DatasetError, match="is a link"):
        dataset_from_folders(FolderSource(folders / "imagesTr", folders / "labelsTr"), tmp_path / "out", copy=True)
    assert list((tmp_path / "elsewhere").iterdir()) == []


def test_a_header_with_voxels_elsewhere_is_copied_whole(tmp_path: Path, volume: Volume):
    volume(tmp_path / "in" / "a.mhd", scan(4), (0.7, 0.8, 2.0))
    volume(tmp_path / "in" / "a_seg.mhd", planes(1), (0.7, 0.8, 2.0))
    made = dataset_from_folders(
        FolderSource(tmp_path / "in", tmp_path / "in", {1: "spleen"}), tmp_path / "out", copy=True
    )
    case = made.dataset.case("a")
    assert case.image.name == "a.nrrd" and case.labels.name == "a.nrrd"
    image = sitk.ReadImage(str(case.image))
    assert image.GetSpacing() == (0.7, 0.8, 2.0)
    assert np.array_equal(sitk.GetArrayViewFromImage(image), scan(4))
    assert check_dataset(made.dataset) == []


def write_segmentation(path: Path, labels: np.ndarray, names: dict[int, str]) -> None:
    image = sitk.GetImageFromArray(labels)
    image.SetSpacing((1.0, 1.5, 3.0))
    write_label_map(image, path, LabelSet(tuple(Structure(name, value, (9, 9, 9)) for value, name in names.items())))


def test_slicer_segmentations_are_named_by_their_headers(tmp_path: Path, volume: Volume):
    for id in "ab":
        volume(tmp_path / f"{id}.nrrd", scan(ord(id)))
    write_segmentation(tmp_path / "a.seg.nrrd", planes(1, 2), {1: "Liver", 2: "spleen"})
    write_segmentation(tmp_path / "b.seg.nrrd", planes(1), {1: "Liver", 2: "spleen"})
    dataset = dataset_from_folders(FolderSource(tmp_path, tmp_path), tmp_path / "out").dataset
    assert dataset.label_set.names == ("liver", "spleen")
    assert [case.annotated for case in dataset.cases] == [("liver", "spleen"), ("liver",)]


def test_segmentations_numbered_differently_are_copied_with_one_numbering(tmp_path: Path, volume: Volume):
    for id in "ab":
        volume(tmp_path / f"{id}.nrrd", scan(ord(id)))
    write_segmentation(tmp_path / "a.seg.nrrd", planes(1, 2), {1: "liver", 2: "spleen"})
    write_segmentation(tmp_path / "b.seg.nrrd", planes(1, 0, 2), {1: "Spleen", 2: "kidney left"})
    source = FolderSource(tmp_path, tmp_path)
    with pytest.raises(DatasetError, match="--copy") as caught:
        dataset_from_folders(source, tmp_path / "out")
    assert "b.seg.nrrd: 1 is 'Spleen', 2 is 'kidney left'" in str(caught.value)
    dataset = dataset_from_folders(source, tmp_path / "out", copy=True).dataset
    assert dataset.label_set.names == ("liver", "spleen", "left kidney")
    assert [case.annotated for case in dataset.cases] == [("liver", "spleen"), ("spleen", "left kidney")]
    copied = sitk.GetArrayFromImage(read_label_map(dataset.case("b").labels))
    assert np.array_equal(copied, planes(2, 0, 3))
    assert read_segmentation_names(dataset.case("b").labels) == {1: "liver", 2: "spleen", 3: "left kidney"}
    assert check_dataset(dataset) == []


def test_segments_that_are_not_wanted_become_background_in_the_copy(tmp_path: Path, volume: Volume):
    volume(tmp_path / "a.nrrd", scan(1))
    write_segmentation(tmp_path / "a.seg.nrrd", planes(1, 2), {1: "couch", 2: "spleen"})
    dataset = dataset_from_folders(FolderSource(tmp_path, tmp_path, {1: "spleen"}), tmp_path / "out", copy=True).dataset
    assert np.array_equal(sitk.GetArrayFromImage(read_label_map(dataset.case("a").labels)), planes(0, 1))


def test_label_values_without_a_name_and_unreadable_files_are_all_named(folders: Path, tmp_path: Path, volume: Volume):
    volume(folders / "labelsTr" / "p1.nii.gz", planes(1, 7, 8))
    (folders / "labelsTr" / "p2.nii.gz").write_bytes(b"not an image")
    with pytest.raises(DatasetError) as caught:
        dataset_from_folders(FolderSource(folders / "imagesTr", folders / "labelsTr"), tmp_path / "out")
    assert "p1.nii.gz: no structure has the label value 7, 8" in str(caught.value)
    assert "p2.nii.gz" in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_without_any_names_it_says_how_to_give_them(tmp_path: Path, volume: Volume):
    volume(tmp_path / "deep" / "images" / "a.nii.gz", scan(1))
    volume(tmp_path / "deep" / "labels" / "a.nii.gz", planes(1))
    with pytest.raises(DatasetError, match='"1": "spleen"'):
        dataset_from_folders(FolderSource(tmp_path / "deep" / "images", tmp_path / "deep" / "labels"), tmp_path / "out")


def test_a_dataset_that_is_there_is_replaced_only_on_request(folders: Path, tmp_path: Path):
    source = FolderSource(folders / "imagesTr", folders / "labelsTr")
    dataset_from_folders(source, tmp_path / "out", copy=True)
    with pytest.raises(DatasetError, match="already holds"):
        dataset_from_folders(source, tmp_path / "out")
    again = dataset_from_folders(source, tmp_path / "out", DatasetFacts("again"), copy=True, replace=True)
    assert again.dataset.name == "again"


def test_groups_come_from_the_ids(folders: Path, tmp_path: Path):
    def make(pattern: str) -> list[str]:
        source = FolderSource(folders / "imagesTr", folders / "labelsTr", group_pattern=pattern)
        made = dataset_from_folders(source, tmp_path / "out", replace=True)
        return [case.group for case in made.dataset.cases]

    assert make("p[12]|p3") == ["p1", "p2", "p3"]
    assert make("^(p)[0-9]$") == ["p", "p", "p"]
    with pytest.raises(DatasetError, match="finds no patient in these case ids:\n  - p2\n  - p3"):
        make("p1")
    with pytest.raises(DatasetError, match="not a regular expression"):
        make("(")


def test_it_stops_on_request(folders: Path, tmp_path: Path):
    cancel = CancelToken()
    cancel.cancel()
    with pytest.raises(Cancelled):
        dataset_from_folders(
            FolderSource(folders / "imagesTr", folders / "labelsTr"), tmp_path / "out", task=Task("", None, cancel)
        )
    assert not (tmp_path / "out" / "dataset.json").exists()


def test_head_neck_ct(shared_data: Path, tmp_path: Path):
    dataset = dataset_from_head_neck_ct(shared_data / "head_neck_ct", tmp_path).dataset
    assert len(dataset) == 170 and all(case.image.is_file() and case.labels.is_file() for case in dataset.cases)
    # Counted in cases.csv: cells above 0.
    assert dataset.annotated_counts() == {
        "brainstem": 152,
        "spinal cord": 167,
        "right parotid gland": 162,
        "left parotid gland": 163,
        "oesophagus": 56,
        "larynx": 78,
        "mandible": 112,
    }
    assert dataset.label_set.mirrored_channels() == (0, 1, 2, 4, 3, 5, 6, 7)
    with pytest.raises(DatasetError, match=r"cases\.csv"):
        dataset_from_head_neck_ct(shared_data / "hippocampus_mr", tmp_path / "other")


def test_hippocampus_mr(shared_data: Path, tmp_path: Path):
    folder = shared_data / "hippocampus_mr"
    names = {1: "anterior hippocampus", 2: "posterior hippocampus"}
    source = FolderSource(folder / "images", folder / "labels", names, annotated="all")
    dataset = dataset_from_folders(source, tmp_path).dataset
    assert len(dataset) == 200 and dataset.ids[0] == "hippocampus_003"
    assert len({case.group for case in dataset.cases}) == 200
    assert dataset.annotated_counts() == dict.fromkeys(names.values(), 200)


def test_left_ventricle_mr_has_two_phases_a_patient(shared_data: Path, tmp_path: Path):
    folder = shared_data / "left_ventricle_mr"
    source = FolderSource(folder, folder, {1: "left ventricle"}, group_pattern="^(SC-.+)_ph")
    dataset = dataset_from_folders(source, tmp_path).dataset
    assert len(dataset) == 48 and len({case.group for case in dataset.cases}) == 24
    assert dataset.case("SC-HF-I-01_ph07").group == dataset.case("SC-HF-I-01_ph18").group == "SC-HF-I-01"
    assert dataset.annotated_counts() == {"left ventricle": 48}


def test_a_dicom_folder_is_an_image(shared_data: Path, tmp_path: Path):
    folder = shared_data / "abdomen_ct_mr"
    source = FolderSource(
        folder, folder, folder / "labels_ct_total.json", image_pattern="dicom_{case}", label_pattern="dicom_{case}_seg"
    )
    dataset = dataset_from_folders(source, tmp_path, copy=True).dataset
    case = dataset.case("ct")
    assert case.image.name == "ct.nrrd" and len(case.annotated) > 5
    # This label map is stored with y reversed, as dcm2niix writes it: the same voxels.
    assert [problem for problem in check_dataset(dataset) if problem.severity == "error"] == []
    scan = read_scan(case.image)
    as_stored, in_order = read_label_map(case.labels), read_label_map_on(scan, case.labels)
    assert same_geometry(scan, as_stored) is not None and same_geometry(scan, in_order) is None
    assert np.array_equal(sitk.GetArrayFromImage(in_order), sitk.GetArrayFromImage(as_stored)[:, ::-1])
    dicom_tags = [key for key in sitk.ReadImage(str(case.image)).GetMetaDataKeys() if "|" in key]
    assert dicom_tags == [], "nothing of the patient in the copy"


def test_overlapping_segments_of_a_dataset(tmp_path: Path) -> None:
    """The later segment wins and a note says so; another choice is written into the copies."""
    write_volume(tmp_path / "a.nii.gz", scan_voxels())
    stack_zyxc = np.stack([label_voxels(1, 1, 2), label_voxels(0, 1, 1)], axis=-1)
    layers = sitk.GetImageFromArray(stack_zyxc, isVector=True)
    layers.SetSpacing(SPACING_MM)
    for number, (name, value, layer) in enumerate((("liver", 1, 0), ("spleen", 2, 0), ("cyst", 1, 1))):
        for key, what in (("ID", f"s{number}"), ("Name", name), ("LabelValue", value), ("Layer", layer)):
            layers.SetMetaData(f"Segment{number}_{key}", str(what))
    sitk.WriteImage(layers, str(tmp_path / "a.seg.nrrd"))
    source = FolderSource(tmp_path, tmp_path)
    made = dataset_from_folders(source, tmp_path / "plain")
    assert made.dataset.label_set.names == ("liver", "spleen", "cyst")
    assert "'cyst' and 'liver' overlap: 'cyst' has the 20 shared voxels" in made.notes[0] and len(made.notes) == 2
    planes = [int(value) for value in sitk.GetArrayFromImage(read_label_map(made.dataset.cases[0].labels))[0, 0]]
    assert planes == [1, 3, 3, 0, 0, 0]
    chosen = FolderSource(tmp_path, tmp_path, overlap_priority=("liver",))
    with pytest.raises(DatasetError, match="option --copy"):
        dataset_from_folders(chosen, tmp_path / "chosen")
    copied = dataset_from_folders(chosen, tmp_path / "chosen", copy=True).dataset
    assert read_segmentation_names(copied.cases[0].labels) == {1: "liver", 2: "spleen", 3: "cyst"}
    planes = [int(value) for value in sitk.GetArrayFromImage(read_label_map(copied.cases[0].labels))[0, 0]]
    assert planes == [1, 1, 3, 0, 0, 0]
