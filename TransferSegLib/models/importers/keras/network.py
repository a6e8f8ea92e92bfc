"""The arrays of a Keras file as those of the paper's network, every shape checked before a value is read.

Nothing here needs torch. The HDF5 library can crash on a damaged file, so that this runs in a child process
(``TransferSegLib.models.importers.keras.isolated``); call it directly only for a file that you wrote yourself.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal, get_args

import numpy as np

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import LARGEST_WEIGHTS_FILE
from TransferSegLib.models.importers.keras.architecture import check_architecture
from TransferSegLib.models.importers.keras.file import KerasFile, KerasLayer, open_keras_file
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.interface import NetworkSpec
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec

if TYPE_CHECKING:
    import torch

#: Which channel of the file is the background; here it is always channel 0.
Background = Literal["first", "last"]
#: 3x3x3 convolutions, two on each of four levels down and of three up, and the 1x1x1 head.
_CONVOLUTIONS = 15
_OTHER_NETWORK = "holds another network than the 3D U-Net of the paper:"


@dataclass(frozen=True, eq=False)
class KerasArrays:
    """Kernels (out, in, z, y, x) and biases (out,) in order of execution, float32, the channels as in the file.

    ``layers_checked`` tells that the file described its layers and that they are those of the paper's network;
    otherwise only the shapes of the weights are known to be right.
    """

    network: NetworkSpec
    arrays: tuple[np.ndarray, ...]
    keras_version: str
    backend: str
    layers_checked: bool

    def state_dict(self, background: Background = "last") -> dict[str, torch.Tensor]:
        """Return the weights by layer name, for ``UNet3D``: the background's channel first, the others in their order.

        Raises ModelError unless ``background`` is the first or last channel of the file.
        """
        import torch

        from TransferSegLib.models.store import expected_shapes

        if background not in get_args(Background):
            raise ModelError(f"The background is the 'first' or the 'last' channel of the file, not '{background}'.")
        state_dict = {}
        for name, values in zip(expected_shapes(self.network), self.arrays, strict=True):
            shift = 1 if name.startswith("head.") and background == "last" else 0
            state_dict[name] = torch.from_numpy(np.roll(values, shift, axis=0))
        return state_dict


def read_arrays(path: Path) -> KerasArrays:
    """Return the arrays of a legacy Keras HDF5 file, written by ``save_weights`` or by ``save``.

    Raises ModelError naming the layer that does not fit.
    """
    with open_keras_file(path) as file:
        network = _network(file.layers, path)
        _check_shapes(file.layers, network, path)
        if file.configuration is not None:
            check_architecture(file.configuration, str(path))
        described = file.configuration is not None
        return KerasArrays(network, _read(file), file.keras_version, file.backend, described)


def array_shapes(network: NetworkSpec) -> tuple[tuple[int, ...], ...]:
    """Return the shapes of the network's arrays as Keras stores them, kernel (z, y, x, in, out) then bias (out,)."""
    width = network.arguments["width"]
    channels = []
    for level in range(4):
        here = width * 2**level
        channels += [(1 if level == 0 else here, here), (here, 2 * here)]
    for level in (2, 1, 0):
        here = width * 2 ** (level + 1)
        channels += [(3 * here, here), (here, here)]
    shapes: list[tuple[int, ...]] = []
    for channels_in, channels_out in channels:
        shapes += [(3, 3, 3, channels_in, channels_out), (channels_out,)]
    return (*shapes, (1, 1, 1, 2 * width, network.classes), (network.classes,))


def _network(layers: tuple[KerasLayer, ...], path: Path) -> NetworkSpec:
    """Return the network that the first and last layers show; raises ModelError when they are not of this kind."""
    for layer in layers:
        dimensions = [len(array.shape) for array in layer.arrays]
        if dimensions != [5, 1]:
            held = ", ".join(f"{array.name} {array.shape}" for array in layer.arrays[:6])
            raise ModelError(
                f"{path} {_OTHER_NETWORK} its layer '{layer.name}' is not a 3D "
                f"convolution with a kernel and a bias, and that network has no other layers with weights. It has: "
                f"{held}."
            )
    if len(layers) != _CONVOLUTIONS:
        raise ModelError(f"{path} {_OTHER_NETWORK} it has {len(layers)} convolutions instead of {_CONVOLUTIONS}.")
    try:
        network = unet_valid_spec(width=layers[0].arrays[0].shape[-1], classes=layers[-1].arrays[0].shape[-1])
        backbone_of(network)
        return network
    except ModelError as error:
        raise ModelError(f"{path} holds a network that cannot be used. {error}") from error


def _check_shapes(layers: tuple[KerasLayer, ...], network: NetworkSpec, path: Path) -> None:
    """Raise ModelError naming the first layer whose kernel or bias has not the shape it must have at this width."""
    shapes = array_shapes(network)
    size = 4 * sum(int(np.prod(shape, dtype=np.int64)) for shape in shapes)
    if size > LARGEST_WEIGHTS_FILE:
        raise ModelError(
            f"{path} is refused: with {network.arguments['width']} channels in its first layer '{layers[0].name}' its "
            f"weights would take {size:,} bytes, more than {LARGEST_WEIGHTS_FILE:,}."
        )
    expected = iter(shapes)
    for number, layer in enumerate(layers, start=1):
        for what, array in zip(("kernel", "bias"), layer.arrays, strict=True):
            wanted = next(expected)
            if array.shape != wanted:
                raise ModelError(
                    f"{path} {_OTHER_NETWORK} its layer '{layer.name}' (convolution {number} of {len(layers)}) has a "
                    f"{what} of the shape {array.shape} instead of {wanted}, which goes with "
                    f"{network.arguments['width']} channels in the first layer."
                )


def _read(file: KerasFile) -> tuple[np.ndarray, ...]:
    """Return the values of one array after the other, kernels turned to (out, in, z, y, x)."""
    arrays = []
    for layer in file.layers:
        for array in layer.arrays:
            values = array.read()
            arrays.append(np.ascontiguousarray(values.transpose(4, 3, 0, 1, 2)) if values.ndim == 5 else values)
    return tuple(arrays)
