"""Segment one scan with a model or a combination of models, given by name or folder, in one call.

>>> segment("scan.nii.gz", "head-neck-ct").volumes_ml()
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

import SimpleITK as sitk

from TransferSegLib.images.read import scan_given
from TransferSegLib.inference.combined import open_segmenter
from TransferSegLib.inference.options import USUAL, PredictionOptions
from TransferSegLib.inference.segmenter import Segmentation, Segmenter
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model
from TransferSegLib.progress import CancelToken, ProgressCallback, Task

__all__ = ["Segmentation", "Segmenter", "segment"]


def segment(
    scan: Path | str | sitk.Image | Mapping[str, Path | str | sitk.Image],
    model: Model | Path | str | None = None,
    structures: Iterable[str] | None = None,
    *,
    device: str = "auto",
    memory_gb: float | None = None,
    options: PredictionOptions = USUAL,
    doubt: bool = False,
    progress: ProgressCallback | None = None,
    cancel: CancelToken | None = None,
) -> Segmentation:
    """Segment one scan, a file, a DICOM folder or an image, with a model, its folder, its name, or the bundled one.

    The folder or name may be that of a combination of models.

    With ``doubt`` the result also tells how doubtful each voxel is, and where to look.
    For a model of several images give them by name, ``{"T1": "t1.nii.gz", "T2": "t2.nii.gz"}``. For several scans make
    one ``Segmenter``. Raises TransferSegError saying what is wrong and what to do.
    """
    image = scan_given(scan, cancel)
    if isinstance(model, Model):
        return Segmenter(model, device, memory_gb, options).segment(image, structures, progress, cancel, doubt=doubt)
    segmenter = open_segmenter(find_model(model), device, memory_gb, options)
    return segmenter.segment_within(Task("Segmenting", progress, cancel), image, structures, doubt=doubt)
