"""Nothing that names a patient gets into a project: not from headers, not from file names, not from DICOM."""

from __future__ import annotations

import gzip
import os
import struct
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.corrections.project import Project
from TransferSegLib.images.write import write_label_map

NAME = "MUELLER_ERIKA"
PATIENT_ID = "PID-1964-08-12"
TEXTS = (NAME, NAME.lower(), PATIENT_ID, "19640812", "Erika")


def every_byte(folder: Path) -> bytes:
    """Return the names and the contents of all files of a folder; compressed parts are unpacked."""
    found = []
    for path in sorted(folder.rglob("*")):
        found.append(str(path.relative_to(folder)).encode())
        if path.is_file():
            content = path.read_bytes()
            found.append(content)
            if path.name.endswith(".nrrd"):
                _, _, voxels = content.partition(b"\n\n")
                found.append(gzip.decompress(voxels))
    return b"\n".join(found)


def assert_anonymous(project: Project) -> None:
    content = every_byte(project.folder).lower()
    assert content
    for text in TEXTS:
        for encoding in ("utf-8", "utf-16-le"):
            assert text.lower().encode(encoding) not in content, text


def named_nifti(path: Path, image: sitk.Image) -> Path:
    """Write a NIfTI file with the name in every text of its header."""
    sitk.WriteImage(image, str(path))
    content = bytearray(gzip.decompress(path.read_bytes()))
    for offset, size, text in (
        (4, 10, "Erika"),  # data_type
        (14, 18, NAME),  # db_name
        (148, 80, f"{NAME} 19640812"),  # descrip
        (228, 24, NAME),  # aux_file
        (328, 16, NAME),  # intent_name
    ):
        content[offset : offset + size] = text.encode().ljust(size, b"\0")
    extension = f"{NAME} {PATIENT_ID}".encode().ljust(56, b"\0")
    content[348:352] = b"\1\0\0\0"
    offset = struct.unpack_from("<f", content, 108)[0]
    content[108:112] = struct.pack("<f", offset + 64)
    content[int(offset) : int(offset)] = struct.pack("<ii", 64, 6) + extension
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def named_nrrd(path: Path, image: sitk.Image) -> Path:
    """Write an NRRD file with the name in its keys, its content field and a comment."""
    image = sitk.Image(image)
    image.SetMetaData("PatientName", NAME)
    image.SetMetaData("DICOM.PatientID", PATIENT_ID)
    sitk.WriteImage(image, str(path), useCompression=False)
    content = path.read_bytes()
    path.write_bytes(content.replace(b"\nencoding:", f"\n# {NAME}\ncontent: {NAME}\nencoding:".encode(), 1))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder named after the patient."""
    path = tmp_path / f"{NAME} {PATIENT_ID}"
    path.mkdir()
    return path


def test_nifti_headers_and_file_names(make, folder: Path) -> None:
    image = named_nifti(folder / f"{NAME}_ct.nii.gz", make.scan())
    labels = named_nifti(folder / f"{NAME}_labels.nii.gz", make.labels(1, 2))
    for path in (image, labels):
        assert NAME.encode() in gzip.decompress(path.read_bytes())
        assert NAME in sitk.ReadImage(str(path)).GetMetaData("descrip")
    judged = named_nifti(folder / f"{NAME}_judged.nii.gz", make.labels(1))
    make.project.add_case(image, labels, ["liver"], structures=make.organs, judged=judged, prediction=labels)
    assert_anonymous(make.project)


def test_nrrd_keys_and_segmentations(make, folder: Path) -> None:
    image = named_nrrd(folder / f"{NAME}.nrrd", make.scan())
    assert sitk.ReadImage(str(image)).GetMetaData("PatientName") == NAME
    plain = folder / f"{NAME}.seg.nrrd"
    write_label_map(make.labels(1, 2), plain, make.organs)
    segmentation = sitk.ReadImage(str(plain))
    for key in ("Segmentation_SourceName", "Segment0_Comment"):
        segmentation.SetMetaData(key, NAME)
    sitk.WriteImage(segmentation, str(plain))
    assert NAME.encode() in plain.read_bytes()
    added = make.project.add_case(image, plain, "all", prediction=plain)
    assert added.revision.case.annotated == ("liver", "spleen", "tumour")
    assert_anonymous(make.project)


def test_images_in_memory(make) -> None:
    image, labels = make.scan(), make.labels(1)
    for one in (image, labels):
        one.SetMetaData("0010|0010", NAME)
        one.SetMetaData("0010|0020", PATIENT_ID)
    make.project.add_case(image, labels, ["liver"], structures=make.organs)
    assert_anonymous(make.project)


def dicom_series(folder: Path, seed: int, patient_id: str | None) -> None:
    """Write a CT of four slices with the patient's name in every place that DICOM has for it."""
    folder.mkdir(parents=True)
    voxels_zyx = np.random.default_rng(seed).integers(0, 1000, (4, 5, 6)).astype(np.int16)
    for z in range(4):
        image = sitk.GetImageFromArray(voxels_zyx[z])
        tags = {
            "0008|0016": "1.2.840.10008.5.1.4.1.1.2",
            "0008|0018": f"1.2.3.{seed}.{z + 1}",
            "0008|0060": "CT",
            "0008|103e": f"{NAME} neck",
            "0008|0080": NAME,
            "0010|0010": "Mueller_Erika",
            "0010|0030": "19640812",
            "0020|000d": f"1.2.{seed}",
            "0020|000e": f"1.2.3.{seed}",
            "0020|0032": f"0\\0\\{3 * z}",
            "0020|0037": "1\\0\\0\\0\\1\\0",
            "0028|0030": "1\\1",
        }
        if patient_id is not None:
            tags["0010|0020"] = patient_id
        for tag, value in tags.items():
            image.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(folder / f"{NAME}_{z}.dcm"))
        writer.Execute(image)


def test_dicom_gives_a_pseudonym(make, folder: Path) -> None:
    """Two scans of one patient are one group, from which the id cannot be read."""
    groups = []
    for seed, patient_id in ((1, PATIENT_ID), (2, PATIENT_ID), (3, None)):
        source = folder / f"{NAME}{seed}"
        dicom_series(source, seed, patient_id)
        labels = sitk.GetImageFromArray(np.ones((4, 5, 6), np.uint8))
        labels.SetSpacing((1, 1, 3))
        image = source / f"{NAME}_1.dcm" if seed == 2 else source
        added = make.project.add_case(image, labels, ["liver"], structures=make.organs)
        groups.append(added.revision.case.group)
    assert groups[0] == groups[1] and groups[0].startswith("patient-")
    assert groups[2] == "case-0003"
    for text in (NAME, PATIENT_ID, "Mueller_Erika", "19640812"):
        assert text.encode() in (folder / f"{NAME}1" / f"{NAME}_0.dcm").read_bytes()
    assert_anonymous(make.project)
    if os.name != "nt":
        assert (make.project.folder / "patient-salt.txt").stat().st_mode & 0o077 == 0
