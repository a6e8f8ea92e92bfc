"""DICOM Segmentations: written from a label map, read back with pydicom alone and compared voxel by voxel."""

from __future__ import annotations

import builtins
import os
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.errors import ScanError, TransferSegError
from TransferSegLib.images.dicom_seg import check_dicom_seg, write_dicom_seg
from TransferSegLib.images.read import read_scan
from TransferSegLib.structures import LabelSet, Structure

SERIES = Path(os.environ.get("TRANSFERSEG_DATA", "")) / "abdomen_ct_mr" / "dicom_ct"
BALL = Structure("liver", 5, (220, 130, 100), ("10200004", "Liver"))
BOX = Structure("a new structure", 2, (0, 90, 200))
LABELS = LabelSet((BALL, Structure("absent", 3, (9, 9, 9)), BOX))


@pytest.fixture
def series(tmp_path: Path) -> Path:
    """Return a copy of the sample series with the identifiers that were removed from it."""
    pytest.importorskip("highdicom")
    import pydicom
    from pydicom.uid import CTImageStorage, generate_uid

    folder = tmp_path / "series"
    folder.mkdir()
    shared = {name: generate_uid() for name in ("StudyInstanceUID", "SeriesInstanceUID", "FrameOfReferenceUID")}
    for number, file in enumerate(sorted(path for path in SERIES.iterdir() if path.is_file())):
        data = pydicom.dcmread(file)
        for name, value in (shared | {"SOPClassUID": CTImageStorage, "SOPInstanceUID": generate_uid()}).items():
            setattr(data, name, value)
        data.PatientID, data.PatientName = "1234", "Doe^Jane"
        data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.save_as(folder / f"{number}.dcm")
    return folder


def label_map(scan: sitk.Image) -> sitk.Image:
    """Return a ball and a box, far from symmetric, on the grid of a scan."""
    depth, height, width = scan.GetSize()[::-1]
    z, y, x = np.ogrid[:depth, :height, :width]
    labels = np.zeros((depth, height, width), np.uint8)
    labels[(z - depth // 2) ** 2 + ((y - height // 3) / 4) ** 2 + ((x - width // 4) / 4) ** 2 < 9] = 5
    labels[1:3, height // 2 : height // 2 + 7, width // 2 : width // 2 + 20] = 2
    image = sitk.GetImageFromArray(labels)
    image.CopyInformation(scan)
    return image


def voxels_mm(file: Path) -> dict[str, np.ndarray]:
    """Return the positions in mm (sorted rows of x, y, z) of each segment's voxels, read by pydicom and numpy alone."""
    pydicom = pytest.importorskip("pydicom")
    data = pydicom.dcmread(file)
    bits = np.unpackbits(np.frombuffer(data.PixelData, np.uint8), bitorder="little")
    frames = bits[: int(data.NumberOfFrames) * data.Rows * data.Columns].reshape(-1, data.Rows, data.Columns)
    shared = data.SharedFunctionalGroupsSequence[0]
    names = {int(one.SegmentNumber): str(one.SegmentLabel) for one in data.SegmentSequence}
    found: dict[str, list[np.ndarray]] = {name: [] for name in names.values()}
    across, down = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float).reshape(2, 3)
    row_mm, column_mm = (float(one) for one in shared.PixelMeasuresSequence[0].PixelSpacing)
    for frame, groups in zip(frames, data.PerFrameFunctionalGroupsSequence, strict=True):
        name = names[int(groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber)]
        first = np.array(groups.PlanePositionSequence[0].ImagePositionPatient, float)
        rows, columns = np.nonzero(frame)
        found[name].append(first + rows[:, None] * row_mm * down + columns[:, None] * column_mm * across)
    return {name: _sorted(np.concatenate(rows)) for name, rows in found.items()}


def _sorted(points: np.ndarray) -> np.ndarray:
    points = np.round(points, 2) + 0.0
    return points[np.lexsort(points.T)]


@pytest.mark.skipif(not SERIES.is_dir(), reason="needs TRANSFERSEG_DATA")
def test_what_is_written_is_read_back_elsewhere(series: Path, tmp_path: Path) -> None:
    pydicom = pytest.importorskip("pydicom")
    scan = read_scan(series)
    labels = label_map(scan)
    write_dicom_seg(labels, tmp_path / "new" / "seg.dcm", LABELS, series)
    read = voxels_mm(tmp_path / "new" / "seg.dcm")
    assert set(read) == {"liver", "a new structure"}, "only what has voxels"
    array = sitk.GetArrayFromImage(labels)
    for structure in (BALL, BOX):
        expected = [
            labels.TransformIndexToPhysicalPoint((int(x), int(y), int(z)))
            for z, y, x in zip(*np.nonzero(array == structure.label), strict=True)
        ]
        assert np.allclose(read[structure.name], _sorted(np.array(expected)), atol=0.02)
    data = pydicom.dcmread(tmp_path / "new" / "seg.dcm")
    source = pydicom.dcmread(min(series.iterdir()))
    for name in ("PatientID", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert getattr(data, name) == getattr(source, name)
    assert data.SeriesInstanceUID != source.SeriesInstanceUID and data.Modality == "SEG"
    assert data.ReferencedSeriesSequence[0].SeriesInstanceUID == source.SeriesInstanceUID
    codes = {one.SegmentLabel: one.SegmentedPropertyTypeCodeSequence[0].CodeValue for one in data.SegmentSequence}
    assert codes == {"liver": "10200004", "a new structure": "91723000"}


@pytest.mark.skipif(not SERIES.is_dir(), reason="needs TRANSFERSEG_DATA")
def test_what_cannot_be_a_dicom_segmentation(series: Path, tmp_path: Path) -> None:
    scan = read_scan(series)
    labels = label_map(scan)
    out = tmp_path / "seg.dcm"
    with pytest.raises(ScanError, match="nothing was found"):
        write_dicom_seg(labels * 0, out, LABELS, series)
    shifted = sitk.Image(labels)
    shifted.SetOrigin([place + side / 2 for place, side in zip(labels.GetOrigin(), labels.GetSpacing(), strict=True)])
    with pytest.raises(ScanError, match="does not lie on its slices"):
        write_dicom_seg(shifted, out, LABELS, series)
    sitk.WriteImage(scan, str(tmp_path / "scan.nii.gz"))
    with pytest.raises(ScanError, match="is no DICOM scan"):
        write_dicom_seg(labels, out, LABELS, tmp_path / "scan.nii.gz")
    assert not list(tmp_path.glob("*.dcm")) and not list(tmp_path.glob(".*"))


def test_without_the_package_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: object, **more: object) -> object:
        if name == "highdicom":
            raise ImportError(name)
        return real(name, *args, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(TransferSegError, match=r"pip install '\.\[dicom\]'"):
        check_dicom_seg()
