"""The weights of the paper's Keras network as a state dict of ``TransferSegLib.networks.unet_valid.unet.UNet3D``.

>>> weights = read_keras_weights(Path("unet3d_Isomulti1v810.h5"))
>>> weights.network.width, weights.network.classes
(32, 23)

Source of the network: github.com/DIAGNijmegen/MedicalTransferLearning3D-UNet; see ``docs/published-model.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from TransferSegLib.errors import ModelError
from TransferSegLib.models.importers.keras.isolated import read_arrays_isolated
from TransferSegLib.models.importers.keras.network import KerasArrays
from TransferSegLib.models.store import expected_shapes
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.progress import Task

if TYPE_CHECKING:
    import torch

#: Which channel of the file is the background; here it is always channel 0.
Background = Literal["first", "last"]


@dataclass(frozen=True, eq=False)
class KerasWeights:
    """Weights by layer name (float32, on the CPU, channel 0 the background), their network, and who wrote the file.

    ``layers_checked``: see ``TransferSegLib.models.importers.keras.network.KerasArrays``.
    """

    network: NetworkSpec
    state_dict: dict[str, torch.Tensor]
    keras_version: str
    backend: str
    layers_checked: bool


def read_keras_weights(path: Path, background: Background = "last", task: Task | None = None) -> KerasWeights:
    """Return the weights of a legacy Keras HDF5 file, written by ``save_weights`` or by ``save``.

    Any width and number of classes are taken; layers count in the order in which the file lists them, and their names
    mean nothing. The background's channel becomes channel 0; the others keep their order. The file is read in a child
    process. Raises ModelError naming the layer that does not fit, or saying what else is wrong; Cancelled.
    """
    if background not in get_args(Background):
        raise ModelError(f"The background is the 'first' or the 'last' channel of the file, not '{background}'.")
    return to_weights(read_arrays_isolated(Path(path), task=task), background)


def to_weights(found: KerasArrays, background: Background = "last") -> KerasWeights:
    """Return the arrays of a file as a state dict, the background's channel first."""
    import torch

    state_dict = {}
    for name, values in zip(expected_shapes(found.network), found.arrays, strict=True):
        if name.startswith("head.") and background == "last":
            values = np.roll(values, 1, axis=0)
        state_dict[name] = torch.from_numpy(values)
    return KerasWeights(found.network, state_dict, found.keras_version, found.backend, found.layers_checked)
