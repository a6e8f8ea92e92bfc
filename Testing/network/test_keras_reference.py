"""The network against the paper's own: weights, input and softmax output written by the published Keras code."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from TransferSegLib.network.unet import UNet3D


def keras_convolutions(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return (kernel, bias) of every convolution in the file's own layer order, which is the order of execution.

    Kernels are stored (kd, kh, kw, in, out) and returned (out, in, kd, kh, kw).
    """
    with h5py.File(path) as file:
        layers = file.get("model_weights", file)
        found = []
        for name in layers.attrs["layer_names"]:
            weights = [np.asarray(layers[name][weight]) for weight in layers[name].attrs["weight_names"]]
            if weights:
                kernel, bias = weights
                found.append((kernel.transpose(4, 3, 0, 1, 2), bias))
    return found


def network_from_keras(path: Path) -> UNet3D:
    """Return our network with a Keras file's weights; the background moves from the last channel to the first."""
    convolutions = keras_convolutions(path)
    head_kernel, head_bias = convolutions[-1]
    convolutions[-1] = np.roll(head_kernel, 1, axis=0), np.roll(head_bias, 1)
    network = UNet3D(classes=len(head_bias), width=len(convolutions[0][1]))
    layers = [layer for pair in (*network.down, *network.up) for layer in (pair.first, pair.second)] + [network.head]
    with torch.no_grad():
        for layer, (kernel, bias) in zip(layers, convolutions, strict=True):
            assert layer.weight.shape == kernel.shape
            layer.weight.copy_(torch.from_numpy(kernel.copy()))
            layer.bias.copy_(torch.from_numpy(bias.copy()))
    return network.eval()


@pytest.mark.parametrize("name", ["weights_only.h5", "full_model.h5"])
def test_softmax_is_that_of_the_published_network(shared_data: Path, name: str) -> None:
    """Each probability is Keras's within 1e-5, as far as Keras's own rounding lets a probability be known.

    The random weights turn Hounsfield units into logits of up to 1,700, of which float32 keeps about 1e-3 after 15
    layers. Where two classes are close, that alone moves a probability p by p (1 - p) times as much: at most 3e-4 here,
    in 0.12 % of the values, no less when our side computes in float64. Everywhere else 1e-5 holds as it stands.
    """
    folder = shared_data / "keras_reference"
    network = network_from_keras(folder / name)
    assert (network.width, network.classes) == (4, 23)
    with np.load(folder / "reference.npz") as reference:
        scan, background_last = reference["x"], reference["y"]
    expected = np.roll(background_last, 1, axis=1).astype(np.float64)
    with torch.no_grad():
        logits = network(torch.from_numpy(scan)).double()
        softmax = torch.softmax(logits, dim=1).numpy()
    assert softmax.shape == expected.shape == (1, 23, 20, 20, 20)
    difference = np.abs(softmax - expected)
    logit_rounding = float(logits.abs().max()) * 16 * 2.0**-23
    assert logit_rounding < 0.004
    assert bool((difference <= 1e-5 + expected * (1 - expected) * logit_rounding).all())
    assert float((difference <= 1e-5).mean()) > 0.998
    assert float(difference.mean()) < 1e-6
    assert np.array_equal(softmax.argmax(axis=1), expected.argmax(axis=1))
