"""Models of TotalSegmentator's format with what the real package made of them, from ``Testing/Data/totalsegmentator``.

The weights are random; ``Testing/Data/totalsegmentator/make_reference.py`` made them and ran TotalSegmentator.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk

FOLDER = Path(__file__).parent / "Data" / "totalsegmentator"
SCAN = Path(__file__).parent / "Data" / "head_neck_ct" / "images" / "pt_103.nii.gz"
FAST, CAVITIES, TOTAL = "total_fast", "trunk_cavities", "total"
#: The parts of the total task at 1.5 mm, in the order in which TotalSegmentator joins them.
PARTS = ("organs", "vertebrae", "cardiac", "muscles", "ribs")


@dataclass(frozen=True)
class TotalSegmentatorFixture:
    """One run of TotalSegmentator: its task, the models it used and the label map it wrote."""

    name: str

    @cached_property
    def labels(self) -> np.ndarray:
        """The label map of TotalSegmentator (zyx, of the scan)."""
        return sitk.GetArrayFromImage(sitk.ReadImage(str(FOLDER / f"{self.name}.nii.gz")))

    @property
    def models(self) -> list[Path]:
        """The zip files of its models, named as TotalSegmentator's releases are, in the order they were run."""
        return [FOLDER / f"{dataset}.zip" for dataset in self.settings["datasets"]]

    @property
    def settings(self) -> dict[str, Any]:
        return json.loads((FOLDER / "reference.json").read_text(encoding="utf-8"))[self.name]


def with_combination(library: Path, name: str, models: Iterable[Path]) -> Path:
    """Import the parts of a combination of the catalogue into a library, add the combination; return the library."""
    from TransferSegLib.models.combination import COMBINATION_FILE, Combination
    from TransferSegLib.models.combined_fetch import combination_entry
    from TransferSegLib.models.library import import_model

    for file in models:
        import_model(file, library)
    entry = combination_entry(name)
    assert entry is not None
    (library / name).mkdir()
    content = json.dumps(Combination.of(entry).to_json())
    (library / name / COMBINATION_FILE).write_text(content, encoding="utf-8")
    return library


def scan() -> sitk.Image:
    """Return the scan of all runs: a part of a head and neck CT, stored in unusual axes, with a border of zeros.

    The border makes nnU-Net crop; TotalSegmentator brings the axes into the order of RAS.
    """
    image = sitk.ReadImage(str(SCAN))[6:46, 12:60, 5:35]
    turned = sitk.Flip(sitk.PermuteAxes(image, [2, 0, 1]), [True, False, True], False)
    voxels = sitk.GetArrayFromImage(turned)
    voxels[:3] = voxels[:, -5:] = voxels[:, :, :2] = 0
    bordered = sitk.GetImageFromArray(voxels)
    bordered.CopyInformation(turned)
    return bordered
