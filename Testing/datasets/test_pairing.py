"""Pairing by name: the conventions in use, patterns for the others, and what is said when it does not work."""

from __future__ import annotations

from pathlib import Path

import pytest

from TransferSegLib.datasets.pairing import natural_key, pair_files, volume_stem
from TransferSegLib.errors import DatasetError


def touch(folder: Path, *names: str) -> Path:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"x")
    return folder


def triples(folder: Path, pairing) -> list[tuple[str, str, str]]:
    return [
        (pair.id, pair.image.relative_to(folder).as_posix(), pair.labels.relative_to(folder).as_posix())
        for pair in pairing.pairs
    ]


@pytest.mark.parametrize(
    ("image", "label", "id"),
    [
        ("hippocampus_003.nii.gz", "hippocampus_003.nii.gz", "hippocampus_003"),
        ("liver_12_0000.nii.gz", "liver_12.nii.gz", "liver_12"),
        ("pt_1_ct.nii.gz", "pt_1_label.nii.gz", "pt_1"),
        ("a_image.nrrd", "a_seg.nrrd", "a"),
        ("a.nrrd", "a.seg.nrrd", "a"),
        ("a.nrrd", "a-Segmentation.seg.nrrd", "a"),
        ("A_MR.mha", "A_mask.nii", "A"),
        ("sub-01_T1w.nii.gz", "sub-01_seg-manual.nii.gz", "sub-01"),
        ("scan_ct.nii.gz", "scan_ct.nii.gz", "scan_ct"),
        ("scan.v2.nii.gz", "scan.v2.nii.gz", "scan.v2"),
        ("a", "a.nii.gz", "a"),
    ],
)
def test_common_conventions(tmp_path: Path, image: str, label: str, id: str):
    touch(tmp_path, f"images/{image}" if "." in image else f"images/{image}/1.dcm", f"labels/{label}")
    pairing = pair_files(tmp_path / "images", tmp_path / "labels")
    assert triples(tmp_path, pairing) == [(id, f"images/{image}", f"labels/{label}")]
    assert pairing.images_without_labels == ()


def test_one_folder_for_both(tmp_path: Path):
    touch(tmp_path, "SC-1_ph07_mr.nii.gz", "SC-1_ph07_label.nii.gz", "SC-10_mr.nii.gz", "SC-10_label.nii.gz")
    touch(tmp_path, "SC-2.nrrd", "SC-2.seg.nrrd", "SC-3_mr.nii.gz", "notes.txt", ".hidden.nii.gz")
    pairing = pair_files(tmp_path, tmp_path)
    assert triples(tmp_path, pairing) == [
        ("SC-1_ph07", "SC-1_ph07_mr.nii.gz", "SC-1_ph07_label.nii.gz"),
        ("SC-2", "SC-2.nrrd", "SC-2.seg.nrrd"),
        ("SC-10", "SC-10_mr.nii.gz", "SC-10_label.nii.gz"),
    ]
    assert [path.name for path in pairing.images_without_labels] == ["SC-3_mr.nii.gz"]


def test_a_folder_a_case(tmp_path: Path):
    touch(tmp_path, "s01/ct.nii.gz", "s01/liver.nii.gz", "s02/ct.nii.gz", "s02/liver.nii.gz", "s03/ct.nii.gz")
    pairing = pair_files(tmp_path, tmp_path, "{case}/ct", "{case}/liver.nii.gz")
    assert [case for case, _, _ in triples(tmp_path, pairing)] == ["s01", "s02"]
    assert [path.parent.name for path in pairing.images_without_labels] == ["s03"]


def test_patterns_with_repetition_and_wildcard(tmp_path: Path):
    touch(
        tmp_path, "sub-1/anat/sub-1_run-2_T2w.nii.gz", "derived/sub-1_dseg.nii.gz", "sub-1/anat/sub-2_run-1_T2w.nii.gz"
    )
    pairing = pair_files(tmp_path, tmp_path, "{case}/anat/{case}_run-*_T2w", "derived/{case}_dseg")
    assert triples(tmp_path, pairing) == [("sub-1", "sub-1/anat/sub-1_run-2_T2w.nii.gz", "derived/sub-1_dseg.nii.gz")]


def test_one_pattern_is_enough_in_one_folder(tmp_path: Path):
    touch(tmp_path, "a_venous.nii.gz", "a_organs.nii.gz", "b_venous.nii.gz", "b_organs.nii.gz")
    with_labels = pair_files(tmp_path, tmp_path, "{case}_venous", "{case}_organs")
    assert [pair.id for pair in with_labels.pairs] == ["a", "b"]


def test_characters_of_patterns_mean_themselves(tmp_path: Path):
    touch(tmp_path, "images/a(1).x.nii", "labels/a(1)+.nii", "labels/a(1)z.nii")
    pairing = pair_files(tmp_path / "images", tmp_path / "labels", "{case}.x", "{case}+")
    assert [(pair.id, pair.labels.name) for pair in pairing.pairs] == [("a(1)", "a(1)+.nii")]


def test_several_channels_are_refused_until_one_is_chosen(tmp_path: Path):
    touch(tmp_path, "images/a_0000.nii.gz", "images/a_0001.nii.gz", "labels/a.nii.gz")
    with pytest.raises(DatasetError, match="several channels"):
        pair_files(tmp_path / "images", tmp_path / "labels")
    pairing = pair_files(tmp_path / "images", tmp_path / "labels", "{case}_0001")
    assert pairing.pairs[0].image.name == "a_0001.nii.gz"


def test_everything_that_does_not_pair_is_named(tmp_path: Path):
    touch(tmp_path, "images/a_ct.nii", "images/a_mr.nii", "images/b.nii")
    touch(tmp_path, "labels/a.nii", "labels/b_seg.nii", "labels/b_mask.nii", "labels/c.nii")
    with pytest.raises(DatasetError) as caught:
        pair_files(tmp_path / "images", tmp_path / "labels")
    text = str(caught.value)
    assert "a.nii could belong to a_ct.nii and to a_mr.nii" in text
    assert "c.nii has no image" in text
    assert "b.nii has several label maps: b_mask.nii, b_seg.nii" in text
    assert "image pattern" in text


def test_empty_and_missing_folders(tmp_path: Path):
    touch(tmp_path, "images/a.nii")
    (tmp_path / "labels").mkdir()
    with pytest.raises(DatasetError, match="no label map was found"):
        pair_files(tmp_path / "images", tmp_path / "labels")
    with pytest.raises(DatasetError, match="cannot be read"):
        pair_files(tmp_path / "images", tmp_path / "nowhere")
    with pytest.raises(DatasetError, match="no folder"):
        pair_files(tmp_path / "nowhere", tmp_path / "labels", "{case}_ct")
    with pytest.raises(DatasetError, match=r"must have '\{case\}'"):
        pair_files(tmp_path / "images", tmp_path / "labels", "ct_*")


def test_numbers_in_names_count():
    assert sorted(["pt_10", "pt_9", "pt_1b", "pt_1", "x", "7"], key=natural_key) == [
        "7",
        "pt_1",
        "pt_1b",
        "pt_9",
        "pt_10",
        "x",
    ]


def test_the_ending_of_a_volume_is_taken_off_whole():
    assert volume_stem(Path("a.b.nii.gz")) == "a.b"
    assert volume_stem(Path("a.SEG.NRRD")) == "a"
    assert volume_stem(Path("series.12")) == "series.12"
