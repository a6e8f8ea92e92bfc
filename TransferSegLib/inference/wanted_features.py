"""The features of certain voxels of a scan, computed without the rest of the scan."""

from __future__ import annotations

import numpy as np
import SimpleITK as sitk
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.inference.box_logits import BoxLogits, Window
from TransferSegLib.inference.kept_features import KeptFeatures, model_key, scan_key
from TransferSegLib.models.store import Model
from TransferSegLib.networks.interface import Triple


class WantedFeatures:
    """Collects the features of some voxels of the model's grid; hand it to ``Segmenter.features_within``."""

    def __init__(self, wanted_zyx: np.ndarray) -> None:
        """Ask for the voxels of a mask on the model's grid; it must hold one."""
        self._wanted = wanted_zyx
        self._parts: list[tuple[np.ndarray, np.ndarray]] = []
        sides = []
        for axis in range(3):
            found = np.flatnonzero(wanted_zyx.any(axis=tuple(other for other in range(3) if other != axis)))
            sides.append(slice(int(found[0]), int(found[-1]) + 1))
        #: The box around all voxels that are asked for.
        self.window: Window = (sides[0], sides[1], sides[2])

    def add(self, box: BoxLogits) -> None:
        """Take what was computed of a box of the grid."""
        if box.features is None:
            return
        start, values = box.features.start_zyx, box.features.values
        size: Triple = (values.shape[1], values.shape[2], values.shape[3])
        here = tuple(slice(at, at + length) for at, length in zip(start, size, strict=True))
        places = np.nonzero(self._wanted[here])
        z, y, x = (torch.from_numpy(index) for index in places)
        features = values[:, z, y, x].T.contiguous().numpy()
        on_grid = tuple(index + at for index, at in zip(places, start, strict=True))
        self._parts.append((np.ravel_multi_index(on_grid, self._wanted.shape), features))

    def kept(self, image: sitk.Image, model: Model) -> KeptFeatures:
        """Return what was collected of a scan; raises ModelError for a model that gave no features."""
        if not self._parts:
            raise ModelError(f"The model '{model.description.name}' gives no features: fine-tune it instead.")
        voxels, order = np.unique(np.concatenate([flat for flat, _ in self._parts]), return_index=True)
        features = np.concatenate([values for _, values in self._parts])[order]
        z, y, x = self._wanted.shape
        return KeptFeatures(scan_key(image), model_key(model), (z, y, x), voxels, features)
