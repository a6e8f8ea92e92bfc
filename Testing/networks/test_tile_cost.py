from __future__ import annotations

from math import prod

import numpy as np
import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode

from Testing.research.common import plain_cost
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork
from TransferSegLib.networks.unet_valid.tile_cost import TileSides, counted_bytes, multiply_adds
from TransferSegLib.networks.unet_valid.tile_plan import tile_memory_bytes
from TransferSegLib.networks.unet_valid.unet import UNet3D


def sides(*shape):
    return tuple(TileSides(np.array(side)) for side in shape)


@pytest.mark.parametrize("shape", [(108, 108, 108), (116, 180, 132)])
def test_multiply_adds_are_the_networks_less_the_folded_taps(shape):
    # Up-sampled channels (twice those of the level) meet 8 weights instead of 27.
    saved = 0
    for step, level in enumerate((2, 1, 0)):
        channels = 3 * 2 ** (level + 1)
        outputs = prod(plain_cost.level_sides(side)[8 + 2 * step][2] for side in shape)
        saved += (27 - 8) * 2 * channels * channels * outputs
    assert float(multiply_adds(sides(*shape), 3, 5)) == plain_cost.multiply_adds(shape, 3, 5) - saved


class LargestSum(TorchDispatchMode):
    """Follows all storages made while it is entered; ``most`` is the largest sum of bytes alive at once."""

    def __init__(self) -> None:
        super().__init__()
        self.alive: dict[int, tuple[StorageWeakRef, int]] = {}
        self.most = 0

    def __torch_dispatch__(self, function, types, arguments=(), named=None):
        result = function(*arguments, **(named or {}))
        for tensor in result if isinstance(result, tuple | list) else (result,):
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.alive[storage._cdata] = (StorageWeakRef(storage), storage.nbytes())
        self.alive = {key: entry for key, entry in self.alive.items() if not entry[0].expired()}
        self.most = max(self.most, sum(count for _, count in self.alive.values()))
        return result


@pytest.mark.parametrize("shape", [(108, 108, 108), (108, 108, 204), (188, 108, 116)])
def test_counted_memory_is_what_the_network_keeps_alive(shape):
    runner = InferenceNetwork(UNet3D(3, 2), "cpu", torch.float32, torch.channels_last_3d)
    with LargestSum() as followed:
        runner(torch.zeros(1, 1, *shape))
    counted = float(counted_bytes(sides(*shape), 2, 3, 4))
    assert 0.8 < followed.most / counted < 1.02


def test_memory_grows_with_everything():
    base = tile_memory_bytes((132, 132, 132), 8, 5, 2)
    for larger in (
        tile_memory_bytes((140, 132, 132), 8, 5, 2),
        tile_memory_bytes((132, 132, 140), 8, 5, 2),
        tile_memory_bytes((132, 132, 132), 16, 5, 2),
        tile_memory_bytes((132, 132, 132), 8, 500, 2),
        tile_memory_bytes((132, 132, 132), 8, 5, 4),
    ):
        assert larger > base


def test_a_tile_along_z_takes_less_than_one_along_x():
    # The largest maps are only held in slabs along z.
    assert tile_memory_bytes((108, 292, 292), 16, 8) > 1.05 * tile_memory_bytes((292, 292, 108), 16, 8)
