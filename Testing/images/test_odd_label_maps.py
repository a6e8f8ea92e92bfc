"""Label maps and headers as other programs write them, from the project's collection of odd inputs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.slicer_segmentation import read_segmentation_names
from TransferSegLib.images.notices import notices_of
from TransferSegLib.images.read import read_label_map_on, read_scan


@pytest.fixture(scope="module")
def odd(shared_data: Path) -> Path:
    return shared_data / "odd_inputs"


def labels_of(folder: Path, name: str, scan: str = "ct.nii.gz") -> np.ndarray:
    return sitk.GetArrayFromImage(read_label_map_on(read_scan(folder / scan), folder / name))


def test_segmentations_of_slicer(odd: Path) -> None:
    one_layer = labels_of(odd / "seg_one_layer_4d", "corrected.seg.nrrd")
    whole = labels_of(odd / "label_float_noise", "label_uint8.nii.gz")
    assert np.array_equal(one_layer, whole), "the same label map in another format"
    assert np.array_equal(labels_of(odd / "seg_cropped_extent", "corrected.seg.nrrd"), one_layer)
    layers = odd / "seg_two_layers_no_overlap"
    assert read_segmentation_names(layers / "corrected.seg.nrrd") == {1: "brainstem", 2: "spinal cord", 3: "mandible"}
    merged = labels_of(layers, "corrected.seg.nrrd")
    for value, other in ((1, 1), (2, 2), (3, 7)):
        assert np.array_equal(merged == value, one_layer == other)
    empty = labels_of(odd / "seg_single_voxel_empty", "corrected.seg.nrrd")
    assert empty.shape == whole.shape and not empty.any()


def test_label_maps_of_other_programs(odd: Path) -> None:
    folder = odd / "label_float_noise"
    plain = labels_of(folder, "label_uint8.nii.gz")
    for name in ("label_1e-7.nii.gz", "label_slope_0.001.nii.gz"):
        assert np.array_equal(labels_of(folder, name), plain)
    with pytest.raises(ScanError, match="the value -1"):
        labels_of(folder, "label_int8_neg.nii.gz")
    folder = odd / "dicom_scan_dcm2niix_label"
    reversed_y, same = (labels_of(folder, name, "scan") for name in ("label.nii.gz", "label_same_grid.nii.gz"))
    assert np.array_equal(reversed_y, same) and same.any()


def test_scans_with_odd_headers(odd: Path) -> None:
    folder = odd / "four_d_one_frame"
    plain = sitk.GetArrayFromImage(read_scan(folder / "ct3.nii.gz"))
    for name in ("ct.nii.gz", "ct.nrrd", "ct_last.nrrd"):
        assert np.array_equal(sitk.GetArrayFromImage(read_scan(folder / name)), plain)
    nearly = read_scan(odd / "nearly_orthonormal_0.0002" / "ct.nii.gz")
    assert "were straightened; no voxel moved by more than 0.012 mm" in notices_of(nearly)[0]
