"""Segments of .seg.nrrd files: layers that are merged, who wins where they overlap, and headers of other programs."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.segments import merge_layers, segments_of
from TransferSegLib.images.formats.slicer_segmentation import read_segmentation_names
from TransferSegLib.images.notices import notices_of
from TransferSegLib.images.read import read_label_map, read_scan

SHAPE = (3, 4, 5)


def write_segmentation(
    path: Path,
    layers: Sequence[np.ndarray],
    pairs: Sequence[str],
    *,
    list_axis: str = "first",
    encoding: str = "gzip",
    voxel_type: str = "uint8",
) -> Path:
    """Write layers (zyx) as a NRRD file with these keys; ``list_axis`` 'none' for one layer in three dimensions."""
    stack = np.stack(layers)  # layer, z, y, x
    fastest_last = stack.transpose(1, 2, 3, 0) if list_axis == "first" else stack
    z, y, x = layers[0].shape
    space, kinds = "(1,0,0) (0,1.5,0) (0,0,2)", "domain domain domain"
    sizes = f"{x} {y} {z}"
    if list_axis == "first":
        sizes, space, kinds = f"{len(layers)} {sizes}", f"none {space}", f"list {kinds}"
    elif list_axis == "last":
        sizes, space, kinds = f"{sizes} {len(layers)}", f"{space} none", f"{kinds} list"
    header = (
        f"NRRD0004\ntype: {voxel_type}\ndimension: {len(sizes.split())}\nspace: left-posterior-superior\n"
        f"sizes: {sizes}\nspace directions: {space}\nkinds: {kinds}\nendian: little\nencoding: {encoding}\n"
        f"space origin: (1,2,3)\n" + "".join(f"{pair}\n" for pair in pairs) + "\n"
    )
    kind = {"uint8": "u1", "uint16": "<u2", "int16": "<i2"}[voxel_type]
    voxels = np.ascontiguousarray(fastest_last).astype(kind).tobytes()
    path.write_bytes(header.encode() + (gzip.compress(voxels) if encoding == "gzip" else voxels))
    return path


def segment(number: int, name: str, value: int, layer: int = 0, extent: str = "0 4 0 3 0 2") -> list[str]:
    return [
        f"Segment{number}_ID:=id{number}",
        f"Segment{number}_Name:={name}",
        f"Segment{number}_LabelValue:={value}",
        f"Segment{number}_Layer:={layer}",
        f"Segment{number}_Extent:={extent}",
    ]


def planes(*values: int) -> np.ndarray:
    """Return a layer in which the n-th value fills the plane x = n - 1."""
    layer = np.zeros(SHAPE, np.uint8)
    for x, value in enumerate(values):
        layer[:, :, x] = value
    return layer


def values(image: sitk.Image) -> list[int]:
    array = sitk.GetArrayFromImage(image)
    assert all(len(np.unique(array[:, :, x])) == 1 for x in range(array.shape[2]))
    return [int(value) for value in array[0, 0]]


TWO = [*segment(0, "liver", 1), *segment(1, "spleen", 2), *segment(2, "tumour", 1, 1)]


@pytest.mark.parametrize("list_axis", ["first", "last"])
@pytest.mark.parametrize(("encoding", "voxel_type"), [("gzip", "uint8"), ("raw", "uint8"), ("gzip", "uint16")])
def test_layers_without_overlap_are_merged(tmp_path: Path, list_axis: str, encoding: str, voxel_type: str) -> None:
    path = write_segmentation(
        tmp_path / "a.seg.nrrd",
        [planes(1, 2), planes(0, 0, 1)],
        TWO,
        list_axis=list_axis,
        encoding=encoding,
        voxel_type=voxel_type,
    )
    assert read_segmentation_names(path) == {1: "liver", 2: "spleen", 3: "tumour"}
    labels = read_label_map(path)
    assert values(labels) == [1, 2, 3, 0, 0] and notices_of(labels) == ()
    assert labels.GetPixelID() == sitk.sitkUInt8
    assert labels.GetSpacing() == (1, 1.5, 2) and labels.GetOrigin() == (1, 2, 3)


@pytest.mark.parametrize("list_axis", ["first", "last", "none"])
def test_one_layer_with_and_without_a_list_axis(tmp_path: Path, list_axis: str) -> None:
    path = write_segmentation(tmp_path / "a.seg.nrrd", [planes(1, 2)], TWO[:10], list_axis=list_axis)
    assert values(read_label_map(path)) == [1, 2, 0, 0, 0]
    assert values(read_scan(path)) == [1, 2, 0, 0, 0]
    assert read_segmentation_names(path) == {1: "liver", 2: "spleen"}


def test_where_segments_overlap_one_wins_and_is_named(tmp_path: Path) -> None:
    path = write_segmentation(tmp_path / "a.seg.nrrd", [planes(1, 1, 2), planes(0, 1, 1)], TWO)
    labels = read_label_map(path)
    assert values(labels) == [1, 3, 3, 0, 0]
    said = "'tumour' and 'liver' overlap: 'tumour' has the 12 shared voxels."
    assert len(notices_of(labels)) == 2 and said in notices_of(labels)[0] and "'spleen'" in notices_of(labels)[1]
    liver = read_label_map(path, first=["Liver"])
    assert values(liver) == [1, 1, 3, 0, 0]
    assert "'liver' has the 12 shared voxels" in notices_of(liver)[0]
    assert values(read_label_map(path, first=["spleen", "tumour", "liver"])) == [1, 3, 2, 0, 0]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.integers(0, 2), min_size=8, max_size=8), min_size=1, max_size=4), st.permutations(range(8)))
def test_the_highest_rank_wins_in_every_voxel(layers, order) -> None:
    stack = np.array(layers, np.uint8).T.reshape(1, 2, 4, len(layers))
    pairs = dict(pair.split(":=") for n in range(2 * len(layers)) for pair in segment(n, f"s{n}", n % 2 + 1, n // 2))
    segments = segments_of(pairs, len(layers), Path("x"))
    assert len({one.label for one in segments}) == len(segments)
    first = [f"s{n}" for n in order[:3]]
    merged, lines = merge_layers(stack, segments, Path("x"), first)
    rank = [one.name for one in segments if one.name not in first] + first[::-1]
    overlaps = False
    for voxel, here in enumerate(np.array(layers).T):
        there = [f"s{2 * layer + value - 1}" for layer, value in enumerate(here) if value]
        overlaps |= len(there) > 1
        best = max(there, key=rank.index, default=None)
        found = next((one.name for one in segments if one.label == merged.ravel()[voxel]), None)
        assert found == best
    assert bool(lines) == overlaps


def test_headers_of_other_programs(tmp_path: Path) -> None:
    # Before layers existed: one segment each, of the value 1, in the order of the list.
    old = ["Segment0_ID:=a", "Segment0_Name:=liver", "Segment1_ID:=b", "Segment1_Name:=spleen"]
    path = write_segmentation(tmp_path / "old.seg.nrrd", [planes(1), planes(0, 1)], old)
    assert values(read_label_map(path)) == [1, 2, 0, 0, 0]
    assert read_segmentation_names(path) == {1: "liver", 2: "spleen"}
    # No ID, a number left out, names with spaces, quotes, accents, an escaped line break; no name at all.
    odd = ["Segment1_Name:=  Große  Vene: links ", "Segment1_LabelValue:=4", "Segment7_Name:=a\\nb\\\\n"]
    odd += ["Segment7_LabelValue:=6", "Segment9_LabelValue:=9"]
    path = write_segmentation(tmp_path / "odd.seg.nrrd", [planes(4, 6, 9)], odd, list_axis="none")
    assert read_segmentation_names(path) == {4: "Große Vene: links", 6: "a b\\n", 9: "segment 10"}
    latin = write_segmentation(tmp_path / "latin.seg.nrrd", [planes(1)], segment(0, "L?on", 1), list_axis="none")
    latin.write_bytes(latin.read_bytes().replace(b"L?on", "Léon".encode("cp1252")))
    assert read_segmentation_names(latin) == {1: "Léon"}


def test_empty_segments_may_share_a_value(tmp_path: Path) -> None:
    nothing = "0 -1 0 -1 0 -1"
    pairs = [*segment(0, "liver", 1, 0, nothing), *segment(1, "spleen", 1), *segment(2, "tumour", 1, 2, nothing)]
    path = write_segmentation(tmp_path / "a.seg.nrrd", [planes(1)], pairs, list_axis="none")
    assert read_segmentation_names(path) == {2: "liver", 1: "spleen", 3: "tumour"}
    assert values(read_label_map(path)) == [1, 0, 0, 0, 0]
    pairs = [*segment(0, "liver", 1, 0, nothing), *segment(1, "liver", 2)]
    path = write_segmentation(tmp_path / "b.seg.nrrd", [planes(2)], pairs, list_axis="none")
    assert read_segmentation_names(path) == {2: "liver"}


def test_one_voxel_without_label_is_an_empty_segmentation(tmp_path: Path) -> None:
    pairs = segment(0, "liver", 1, 0, "0 -1 0 -1 0 -1")
    for list_axis in ("first", "none"):
        path = write_segmentation(tmp_path / "a.seg.nrrd", [np.zeros((1, 1, 1), np.uint8)], pairs, list_axis=list_axis)
        assert read_segmentation_names(path) == {1: "liver"}
        assert read_label_map(path).GetSize() == (1, 1, 1)


def test_a_negative_background_of_a_layer_is_no_label(tmp_path: Path) -> None:
    background = planes(1).astype(int)
    background[background == 0] = -1
    path = write_segmentation(tmp_path / "a.seg.nrrd", [background, planes(0, 1)], TWO, voxel_type="int16")
    with pytest.raises(ScanError, match="layer 0 holds the value -1, which belongs to no segment"):
        read_label_map(path)


def test_what_cannot_be_told_is_refused(tmp_path: Path) -> None:
    def refused(layers: list[np.ndarray], pairs: list[str], message: str) -> None:
        path = write_segmentation(tmp_path / "a.seg.nrrd", layers, pairs)
        with pytest.raises(ScanError, match=message):
            read_segmentation_names(path)
            read_label_map(path)

    twins = [*segment(0, "liver", 1), *segment(1, "Liver", 1, 1)]
    refused([planes(1), planes(0, 1)], twins, "has two segments called 'Liver'")
    same = [*segment(0, "liver", 1), *segment(1, "spleen", 1), *segment(2, "tumour", 1, 1)]
    refused([planes(1), planes(0, 1)], same, "'liver' and 'spleen' share the label value 1 in layer 0")
    refused([planes(1), planes(0, 7)], TWO, "layer 1 holds the value 7, which belongs to no segment")
    large = [*segment(0, "liver", 1), *segment(1, "spleen", 999_999_999, 1)]
    refused(
        [planes(1), planes(0)], large, "'spleen' has the label value '999999999'; numbers from 0 to 65,535 are read"
    )
    refused([planes(1), planes(0, 1)], [*TWO, *segment(3, "far", 1, 5)], "'far' is in layer 5, but the file has 2")
    refused([planes(1), planes(0, 1)], [*TWO, "Segment3_Name:=bad", "Segment3_LabelValue:=-1"], "label value '-1'")
    shares = [*TWO, "Segmentation_MasterRepresentation:=Fractional labelmap"]
    refused([planes(1), planes(0, 1)], shares, "shares of voxels")
    path = write_segmentation(tmp_path / "nameless.seg.nrrd", [planes(1), planes(0, 1)], [])
    with pytest.raises(ScanError, match="holds 2 numbers in each voxel"):
        read_label_map(path)
    with pytest.raises(ScanError, match="holds 2 numbers in each voxel"):
        read_scan(write_segmentation(tmp_path / "two.seg.nrrd", [planes(1), planes(0, 1)], TWO))
