"""What identifies a scan, and what was learned from a case: hashes of voxels and geometry, whatever the file format."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

import numpy as np
import SimpleITK as sitk

from TransferSegLib.datasets.dataset import Case
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.progress import Task
from TransferSegLib.structures import LabelSet


def hash_volume(image: sitk.Image, task: Task | None = None) -> str:
    """Return the SHA-256 (hexadecimal) of a 3D image's grid and voxel values.

    The same for every file format and voxel type that holds the values exactly. Positions count to 0.001 mm and
    directions to 0.0001, because formats round them. Raises Cancelled from the task.
    """
    digest = sha256()
    geometry = (
        ("size", image.GetSize(), 0),
        ("spacing mm", image.GetSpacing(), 4),
        ("origin mm", image.GetOrigin(), 3),
        ("direction", image.GetDirection(), 4),
    )
    for what, numbers, decimals in geometry:
        digest.update(f"{what} {_rounded(numbers, decimals)}\n".encode())
    for plane_yx in (task or Task()).over(list(sitk.GetArrayViewFromImage(image))):
        digest.update(_plane_bytes(plane_yx))
    return digest.hexdigest()


def hash_content(image_hash: str, labels_hash: str, judged_hash: str, reviewed: Iterable[int]) -> str:
    """Return the hash of what a case teaches: scan, label map, annotated region ('' for all), reviewed label values.

    The structures' names are not part of it: a structure that is renamed is the same structure.
    """
    values = " ".join(str(value) for value in sorted(reviewed))
    text = f"image {image_hash}\nlabels {labels_hash}\njudged {judged_hash}\nreviewed {values}\n"
    return sha256(text.encode()).hexdigest()


def hash_case(case: Case, label_set: LabelSet, task: Task | None = None) -> str:
    """Return the content hash of any dataset's case, read from its files.

    Raises ScanError when one is unreadable, Cancelled from the task.
    """
    reading, hashing, labels, judged = (task or Task()).split(4, 2, 3, 1)
    return hash_content(
        hash_volume(read_scan(case.image, task=reading), hashing),
        hash_label_map(case.labels, labels),
        "" if case.judged is None else hash_label_map(case.judged, judged),
        reviewed_values(case.annotated, label_set),
    )


def hash_label_map(path: Path, task: Task) -> str:
    """Return the hash of a label map's file; raises ScanError when it is unreadable, Cancelled from the task."""
    reading, hashing = task.split(2, 1)
    return hash_volume(read_label_map(path, task=reading), hashing)


def reviewed_values(names: Iterable[str], label_set: LabelSet) -> list[int]:
    """Return the label values of the named structures that the label set knows."""
    return [structure.label for name in names if (structure := label_set.find(name)) is not None]


def _plane_bytes(plane_yx: np.ndarray) -> bytes:
    """Return a plane's values in a form that depends on nothing else: as int32 where all are such, else as float64."""
    low, high = plane_yx.min(), plane_yx.max()
    if (
        low >= -(2**31)
        and high < 2**31
        and (plane_yx.dtype.kind in "iu" or np.array_equal(plane_yx, np.rint(plane_yx)))
    ):
        return b"i" + plane_yx.astype("<i4").tobytes()
    return b"f" + (plane_yx.astype("<f8") + 0.0).tobytes()  # + 0.0 makes -0.0 the zero it equals


def _rounded(numbers: Sequence[float], decimals: int) -> str:
    """Return numbers as text with so many decimals, without a negative zero."""
    return " ".join(f"{np.round(number, decimals) + 0.0:.{decimals}f}" for number in numbers)
