"""The features of certain voxels of a scan, computed without the rest of the scan."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.inference.box_logits import BoxLogits
from TransferSegLib.inference.kept_features import KeptFeatures, model_key, scan_key
from TransferSegLib.models.store import Model
from TransferSegLib.networks.interface import Triple


class WantedFeatures:
    """Collects the features of some voxels of the model's grid; hand it to ``Segmenter.features_within``."""

    def __init__(self, wanted_zyx: np.ndarray) -> None:
        """Ask for the voxels of a mask on the model's grid; it must hold one."""
        #: What is asked for.
        self.wanted_zyx = wanted_zyx
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        self._was_computed = False

    def add(self, box: BoxLogits) -> None:
        """Take what was computed of a box of the grid."""
        self._was_computed = True
        if box.features is None:
            return
        start, values = box.features.start_zyx, box.features.values
        size: Triple = (values.shape[1], values.shape[2], values.shape[3])
        here = tuple(slice(at, at + length) for at, length in zip(start, size, strict=True))
        places = np.nonzero(self.wanted_zyx[here])
        z, y, x = (torch.from_numpy(index) for index in places)
        features = values[:, z, y, x].T.contiguous().numpy()
        on_grid = tuple(index + at for index, at in zip(places, start, strict=True))
        self._parts.append((np.ravel_multi_index(on_grid, self.wanted_zyx.shape), features))

    def kept(self, image: sitk.Image, model: Model) -> KeptFeatures:
        """Return what was collected of a scan; raises ModelError where there was nothing to collect."""
        if not self._parts and not self._was_computed:
            raise ModelError("The structures lie where the scan holds nothing but padding: there is nothing to learn.")
        if not self._parts:
            raise ModelError(f"The model '{model.description.name}' gives no features: fine-tune it instead.")
        parts, self._parts = self._parts, []
        voxels, order = np.unique(np.concatenate([flat for flat, _ in parts]), return_index=True)
        features = np.concatenate([values for _, values in parts])
        del parts
        if len(order) != len(features) or not np.array_equal(order, np.arange(len(order))):
            features = features[order]
        z, y, x = self.wanted_zyx.shape
        return KeptFeatures(scan_key(image), model_key(model), (z, y, x), voxels, features)
