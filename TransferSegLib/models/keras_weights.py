"""The weights of the paper's Keras network as a state dict of ``TransferSegLib.network.unet.UNet3D``.

>>> weights = read_keras_weights(Path("unet3d_Isomulti1v810.h5"))
>>> weights.width, weights.classes
(32, 23)

Source of the network: github.com/DIAGNijmegen/MedicalTransferLearning3D-UNet; see ``docs/published-model.md``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import LARGEST_WEIGHTS_FILE
from TransferSegLib.models.description import NetworkDescription
from TransferSegLib.models.keras_architecture import check_architecture
from TransferSegLib.models.keras_file import KerasFile, KerasLayer, open_keras_file
from TransferSegLib.models.store import expected_shapes

if TYPE_CHECKING:
    import torch

#: Which channel of the file is the background; here it is always channel 0.
Background = Literal["first", "last"]

#: 3x3x3 convolutions: two on each of four levels down and of three up, and the 1x1x1 head.
_CONVOLUTIONS = 15


@dataclass(frozen=True, eq=False)
class KerasWeights:
    """Weights by layer name (float32, on the CPU, channel 0 the background), their network, and who wrote the file.

    ``layers_checked`` tells that the file described its layers and that they are those of the paper's network;
    otherwise only the shapes of the weights are known to be right.
    """

    network: NetworkDescription
    state_dict: dict[str, torch.Tensor]
    keras_version: str
    backend: str
    layers_checked: bool


def read_keras_weights(path: Path, background: Background = "last") -> KerasWeights:
    """Return the weights of a legacy Keras HDF5 file, written by ``save_weights`` or by ``save``.

    Any width and number of classes are taken; layers count in the order in which the file lists them, and their names
    mean nothing. Kernels are stored (z, y, x, in, out) and returned (out, in, z, y, x). The background's channel
    becomes channel 0; the others keep their order. Raises ModelError naming the layer that does not fit.
    """
    if background not in get_args(Background):
        raise ModelError(f"The background is the 'first' or the 'last' channel of the file, not '{background}'.")
    path = Path(path)
    with open_keras_file(path) as file:
        network = _network(file.layers, path)
        shapes = expected_shapes(network)
        _check_shapes(file.layers, shapes, network.width, path)
        if file.configuration is not None:
            check_architecture(file.configuration, str(path))
        state_dict = _read(file, shapes, background)
        return KerasWeights(network, state_dict, file.keras_version, file.backend, file.configuration is not None)


def _network(layers: tuple[KerasLayer, ...], path: Path) -> NetworkDescription:
    """Return the network that the first and last layers show; raises ModelError when they are not of this kind."""
    for layer in layers:
        dimensions = [len(array.shape) for array in layer.arrays]
        if dimensions != [5, 1]:
            held = ", ".join(f"{array.name} {array.shape}" for array in layer.arrays[:6])
            raise ModelError(
                f"{path} holds another network than the 3D U-Net of the paper: its layer '{layer.name}' is not a 3D "
                f"convolution with a kernel and a bias, and that network has no other layers with weights. It has: "
                f"{held}."
            )
    if len(layers) != _CONVOLUTIONS:
        raise ModelError(
            f"{path} holds another network than the 3D U-Net of the paper: it has {len(layers)} convolutions instead "
            f"of {_CONVOLUTIONS}."
        )
    try:
        return NetworkDescription(width=layers[0].arrays[0].shape[-1], classes=layers[-1].arrays[0].shape[-1])
    except ModelError as error:
        raise ModelError(f"{path} holds a network that cannot be used. {error}") from error


def _check_shapes(layers: tuple[KerasLayer, ...], shapes: dict[str, tuple[int, ...]], width: int, path: Path) -> None:
    """Raise ModelError naming the first layer whose kernel or bias has not the shape it must have at this width."""
    size = 4 * sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes.values())
    if size > LARGEST_WEIGHTS_FILE:
        raise ModelError(
            f"{path} is refused: at the width of its first layer '{layers[0].name}' ({width}) its weights would take "
            f"{size:,} bytes, more than {LARGEST_WEIGHTS_FILE:,}."
        )
    expected = iter(shapes.values())
    for number, layer in enumerate(layers, start=1):
        for what, array in zip(("kernel", "bias"), layer.arrays, strict=True):
            wanted = _in_keras(next(expected))
            if array.shape != wanted:
                raise ModelError(
                    f"{path} holds another network than the 3D U-Net of the paper: its layer '{layer.name}' "
                    f"(convolution {number} of {len(layers)}) has a {what} of the shape {array.shape} instead of "
                    f"{wanted}, which goes with {width} channels in the first layer."
                )


def _read(file: KerasFile, shapes: dict[str, tuple[int, ...]], background: Background) -> dict[str, torch.Tensor]:
    """Return the state dict, the values of one layer after the other read and put in order."""
    import torch

    arrays = [array for layer in file.layers for array in layer.arrays]
    state_dict = {}
    for name, array in zip(shapes, arrays, strict=True):
        values = array.read()
        if values.ndim == 5:
            values = values.transpose(4, 3, 0, 1, 2)
        if name.startswith("head.") and background == "last":
            values = np.roll(values, 1, axis=0)
        state_dict[name] = torch.from_numpy(np.ascontiguousarray(values))
    return state_dict


def _in_keras(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Return a weight's shape (out, in, z, y, x) as Keras stores it: (z, y, x, in, out); a bias's stays."""
    return (*shape[2:], shape[1], shape[0]) if len(shape) == 5 else shape
