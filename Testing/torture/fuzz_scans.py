"""Damaged scans and label maps in every format that is read, and small files that claim or unpack to too much."""

from __future__ import annotations

import gzip
import random
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fuzzing
import numpy as np
import SimpleITK as sitk
import tiny
from mutations import damage

from TransferSegLib.images.formats.slicer_segmentation import read_segmentation_names
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.images.write import write_label_map


def _in_formats(names: tuple[str, ...], folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Write a scan in one of the formats and damage one of its files."""
    name = chance.choice(names)
    place = _emptied(folder / "scans")
    image = tiny.scan(chance.randrange(9))
    if name not in ("o.gipl", "p.mnc"):
        image.SetDirection((0.8, -0.6, 0.0, 0.6, 0.8, 0.0, 0.0, 0.0, 1.0))
    sitk.WriteImage(image, str(place / name), useCompression=name in ("b.nii.gz", "d.nrrd", "f.mha", "k.h5"))
    victim = chance.choice(sorted(place.iterdir()))
    victim.write_bytes(damage(victim.read_bytes(), chance, 2000 if name.endswith((".h5", ".mnc")) else 400))
    return partial(chance.choice((read_scan, read_scan, read_label_map)), place / name)


def _segmentation(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Write a segmentation of 3D Slicer and damage it."""
    file = _emptied(folder / "scans") / "a.seg.nrrd"
    write_label_map(tiny.label_map(1), file, tiny.LABEL_SET)
    file.write_bytes(damage(file.read_bytes(), chance, 3000))
    return partial(chance.choice((read_label_map, read_segmentation_names)), file)


def _dicom(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Write a series of four slices and damage some; sometimes one file alone is given."""
    place = _emptied(folder / "series")
    for number in range(4):
        flat = tiny.volume(np.random.default_rng(number).integers(0, 2000, (1, 24, 20)).astype(np.int16))
        tags = {"0008|0060": "CT", "0020|000e": "1.2.3", "0020|000d": "1.2", "0020|0037": "1\\0\\0\\0\\1\\0"}
        tags |= {"0020|0032": f"0\\0\\{2 * number}", "0010|0020": "P1", "0028|1053": "1", "0028|1052": "-1024"}
        for tag, value in tags.items():
            flat.SetMetaData(tag, value)
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetUseCompression(chance.random() < 0.3)
        writer.SetFileName(str(place / f"{number}.dcm"))
        writer.Execute(flat)
    for file in sorted(place.iterdir()):
        if chance.random() < 0.5:
            file.write_bytes(damage(file.read_bytes(), chance, 1500))
    return partial(read_scan, place if chance.random() < 0.7 else place / "1.dcm")


def _bomb(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Write a small file that claims much, unpacks to much, or takes its voxels from elsewhere."""
    place = _emptied(folder / "bombs")
    side = chance.choice((400, 1200, 1600, 40_000))
    kind = chance.choice(("uchar", "short", "double"))
    header = f"NRRD0004\ntype: {kind}\ndimension: 3\nsizes: {side} {side} {side}\nendian: little\nencoding: "
    mha = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = {side} {side} {side}\nElementType = MET_DOUBLE\n"
    )
    other = chance.choice(
        ("/etc/passwd", "../a.raw", "/dev/zero", "/dev/stdin", "-", "LIST\n/etc/passwd", "/proc/%d/mem 1 9 1")
    )
    nothing, much = gzip.compress(b""), gzip.compress(bytes(chance.choice((1 << 20, 1 << 25))))
    content = {
        "members.nrrd": f"{header}gzip\n\n".encode() + much + nothing * 50_000,
        "blank.nrrd": f"{header}gzip\n\n".encode() + much,
        "noise.nrrd": f"{header}gzip\n\n".encode() + chance.randbytes(1 << 18),
        "bzip.nrrd": f"{header}bzip2\n\n".encode() + much,
        "hex.nrrd": f"{header}hex\n\n".encode() + b"ff" * 1000,
        "short.nrrd": f"{header}raw\n\n".encode() + b"ff" * 1000,
        "skip.nrrd": f"{header}raw\nbyte skip: -1\n\n".encode() + b"ff" * 1000,
        "other.nhdr": f"{header}raw\ndata file: {other}\n".encode(),
        "other.mhd": f"{mha}ElementDataFile = {other}\n".encode(),
        "packed.mha": f"{mha}CompressedData = True\nElementDataFile = LOCAL\n".encode() + much,
        "sizes.mha": f"{mha}HeaderSize = -1\nElementDataFile = LOCAL\n".encode() + much,
        "text.vtk": "# vtk DataFile Version 3.0\nx\nASCII\nDATASET STRUCTURED_POINTS\n"
        f"DIMENSIONS {side} {side} {side}\n"
        f"SPACING 1 1 1\nORIGIN 0 0 0\nPOINT_DATA {side**3}\nSCALARS s double 1\nLOOKUP_TABLE default\n0 1\n".encode(),
    }
    name = chance.choice(list(content))
    (place / name).write_bytes(content[name])
    return partial(read_scan, place / name)


def _emptied(folder: Path) -> Path:
    """Return a folder with nothing in it."""
    folder.mkdir(exist_ok=True)
    for file in folder.iterdir():
        file.unlink()
    return folder


NIFTI = ("a.nii", "b.nii.gz", "h.hdr")
NRRD = ("c.nrrd", "d.nrrd", "i.nhdr")
META = ("e.mha", "f.mha", "g.mhd")
OTHER = ("l.vtk", "o.gipl", "k.h5", "p.mnc", "q.mrc", "r.tif", "s.nia")
KINDS = (
    ("NIfTI", 0.1, partial(fuzzing.trials, partial(_in_formats, NIFTI))),
    ("NRRD", 0.1, partial(fuzzing.trials, partial(_in_formats, NRRD))),
    ("MetaImage", 0.1, partial(fuzzing.trials, partial(_in_formats, META))),
    ("segmentations", 0.06, partial(fuzzing.trials, _segmentation)),
    ("other formats", 0.1, partial(fuzzing.trials, partial(_in_formats, OTHER))),
    ("DICOM", 0.15, partial(fuzzing.trials, _dicom)),
    ("bombs", 0.09, partial(fuzzing.trials, _bomb)),
)
