"""The sample scan of the bundled model, of which four slices of a structure were corrected."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.images.label_values import image_like
from TransferSegLib.images.read import read_label_map_on, read_scan
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.kept_features import FeatureKeeper, KeptFeatures
from TransferSegLib.inference.segmenter import Segmenter
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import Model, load_model
from TransferSegLib.progress import Task

SAMPLE = Path(__file__).resolve().parents[2] / "Resources" / "SampleData" / "head-neck-ct"


@dataclass(frozen=True)
class Sample:
    """A scan, what the model made of it, what a person did, and the features that were kept."""

    scan: sitk.Image
    model: Model
    predicted_zyx: np.ndarray
    truth_zyx: np.ndarray
    kept: KeptFeatures

    @property
    def spacing_zyx_mm(self) -> tuple[float, float, float]:
        x_mm, y_mm, z_mm = self.scan.GetSpacing()
        return z_mm, y_mm, x_mm

    def corrected(self, name: str, count: int = 4) -> tuple[np.ndarray, np.ndarray]:
        """Return a label map in which so many slices of a structure are right, and the judged slices (mask, zyx)."""
        structure = self.model.description.label_set.find(name)
        assert structure is not None
        truth = self.truth_zyx == structure.label
        there = np.flatnonzero(truth.any(axis=(1, 2)))
        judged = np.zeros(truth.shape, bool)
        judged[np.unique(np.rint(np.linspace(there[0], there[-1], count)).astype(int))] = True
        labels = self.predicted_zyx.copy()
        labels[judged & (labels == structure.label)] = 0
        labels[judged & truth] = structure.label
        return labels, judged

    def image(self, array: np.ndarray) -> sitk.Image:
        """Return an array as an image on the scan's grid."""
        return image_like(array.astype(np.uint8), self.scan)


@pytest.fixture(scope="session")
def sample() -> Sample:
    """Return the sample scan as the bundled model segments it on a CPU."""
    scan = read_scan(SAMPLE / "pt_95_ct.nii.gz")
    model = load_model(find_model("head-neck-ct"))
    keeper = FeatureKeeper()
    found = Segmenter(model, Device("cpu", "CPU"), features=True).segment_within(Task(), scan, keeper=keeper)
    assert keeper.kept is not None
    truth = sitk.GetArrayFromImage(read_label_map_on(scan, SAMPLE / "pt_95_label.nii.gz"))
    return Sample(scan, model, sitk.GetArrayFromImage(found.label_map), truth, keeper.kept)
