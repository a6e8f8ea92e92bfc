"""What an observer of the deepest maps is shown: the network's own maps, on one lattice for all tiles of a volume."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch.nn import functional

from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.exact_tiles import ExactTilePredictor
from TransferSegLib.networks.unet_valid.geometry import deep_centre
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork
from TransferSegLib.networks.unet_valid.tiles import ValidUNetTiles
from TransferSegLib.networks.unet_valid.unet import UNet3D


def deepest_maps(network: UNet3D, seen: torch.Tensor) -> torch.Tensor:
    """Return the maps of the lowest level, computed by the network's own layers."""
    maps = seen
    with torch.inference_mode():
        for level, pair in enumerate(network.down):
            maps = pair(maps) if level == 3 else functional.max_pool3d(pair(maps), 2)
    return maps


def noise(*sides: int) -> torch.Tensor:
    return torch.randn(1, 1, *sides, generator=torch.Generator().manual_seed(1))


def test_observer_sees_the_maps_of_the_lowest_level(network):
    seen, shown = noise(116, 108, 132), []
    logits = InferenceNetwork(network)(seen, observer=lambda maps, first: shown.append((maps.clone(), first)))
    ((maps, first),) = shown
    assert first == (0, 0, 0)
    torch.testing.assert_close(maps, deepest_maps(network, seen), atol=1e-5, rtol=0)
    torch.testing.assert_close(logits, InferenceNetwork(network)(seen))


def test_observer_sees_only_where_there_is_content(network):
    seen = torch.full((1, 1, 132, 132, 132), -1.0)
    box = slice(0, 16)
    seen[:, :, box, box, box] = noise(16, 16, 16)
    shown = []
    InferenceNetwork(network)(seen, [(0, 16)] * 3, -1.0, lambda maps, first: shown.append((maps.clone(), first)))
    ((maps, (z, y, x)),) = shown
    whole = deepest_maps(network, seen).clone()
    depth, height, width = maps.shape[2:]
    assert depth < whole.shape[2]
    torch.testing.assert_close(maps, whole[:, :, z : z + depth, y : y + height, x : x + width], atol=1e-5, rtol=0)
    whole[:, :, z : z + depth, y : y + height, x : x + width] = whole[:, :, -1:, -1:, -1:]
    assert float((whole - whole[:, :, -1:, -1:, -1:]).abs().max()) < 1e-5


@pytest.mark.parametrize("content", [slice(None), slice(8, 50)])
def test_tiles_share_one_lattice(network, content):
    volume = np.full((18, 16, 60), -1.0, np.float32)
    volume[:, :, content] = noise(18, 16, 60)[0, 0, :, :, content].numpy()
    seen: list[dict[tuple[int, ...], np.ndarray]] = []
    for longest_side in (None, 108):
        values: dict[tuple[int, ...], np.ndarray] = {}

        def observer(maps, first, values=values):
            for offset in np.ndindex(*maps.shape[2:]):
                position = tuple(int(a + b) for a, b in zip(first, offset, strict=True))
                found = maps[(0, slice(None), *offset)].numpy().copy()
                if position in values:
                    np.testing.assert_allclose(values[position], found, atol=1e-5)
                values[position] = found

        predictor = ExactTilePredictor(ValidUNetTiles(network), Device("cpu", "CPU"), longest_side)
        for part in predictor.predict(volume[None], (-1.0,), 2.5e9, observer=observer):
            del part
        seen.append(values)
    one, several = seen
    assert len(several) >= len(one)
    within = [
        position
        for position in one
        if all(0 <= deep_centre(p) < side for p, side in zip(position, volume.shape, strict=True))
    ]
    assert len(within) == 2 * 2 * 7
    for position in within:
        np.testing.assert_allclose(one[position], several[position], atol=1e-5)


def test_a_deep_centre_is_where_a_change_is_seen_most(network):
    """A spot moves the deep maps of its own lattice position more than those of any other, on the average."""
    shifts = np.zeros((2,))
    positive = UNet3D(2, 1)
    with torch.no_grad():
        for parameter in positive.parameters():
            parameter.fill_(0.05)
    for row, position in enumerate((4, 5)):  # away from the ends
        centre = deep_centre(position) + 44
        seen = torch.zeros(1, 1, 140, 108, 108)
        seen[:, :, int(centre - 0.5) : int(centre + 1.5)] = 1.0
        change = deepest_maps(positive, seen) - deepest_maps(positive, torch.zeros_like(seen))
        profile = change.sum(dim=(0, 1, 3, 4))
        shifts[row] = float((profile * torch.arange(len(profile))).sum() / profile.sum()) - position
    np.testing.assert_allclose(shifts, 0, atol=1e-4)
