"""Legal sides, the sides and channels of every layer, and the cost, each against what the network really does."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from Testing.research.common import plain_cost
from TransferSegLib.errors import NetworkError
from TransferSegLib.networks.unet_valid import geometry
from TransferSegLib.networks.unet_valid.unet import UNet3D

Recorder = Callable[[torch.nn.Module, torch.Tensor], list]


def meta_network(classes: int, width: int) -> UNet3D:
    """Return a network without memory for weights."""
    with torch.device("meta"):
        return UNet3D(classes, width)


@pytest.mark.parametrize(
    ("side", "output"), [(108, 20), (116, 28), (124, 36), (132, 44), (156, 68), (180, 92), (228, 140)]
)
def test_legal_sides_and_their_outputs(side: int, output: int) -> None:
    assert geometry.is_legal_input_side(side)
    assert geometry.output_side(side) == output == side - 2 * geometry.MARGIN


def test_only_every_eighth_side_is_legal() -> None:
    assert [side for side in range(1, 150) if geometry.is_legal_input_side(side)] == [108, 116, 124, 132, 140, 148]


@pytest.mark.parametrize(
    ("side", "words"),
    [
        (0, "too small. Use 108 voxels"),
        (-8, "too small. Use 108 voxels"),
        (64, "too small. Use 108 voxels"),
        (100, "too small. Use 108 voxels"),
        (107, "too small. Use 108 voxels"),
        (109, "not halve evenly. Use 108 or 116 voxels"),
        (115, "not halve evenly. Use 108 or 116 voxels"),
        (128, "not halve evenly. Use 124 or 132 voxels"),
        (131, "not halve evenly. Use 124 or 132 voxels"),
    ],
)
def test_illegal_side_names_the_nearest_legal_ones(side: int, words: str) -> None:
    for refuse in (geometry.check_input_side, geometry.output_side, plain_cost.level_sides):
        with pytest.raises(NetworkError) as caught:
            refuse(side)
        assert f"side {side} " in str(caught.value)
        assert words in str(caught.value)
        assert "108 + 8k" in str(caught.value)


@pytest.mark.parametrize("side", [8, 64, 96])
def test_padded_sides(side: int) -> None:
    geometry.check_padded_side(side)
    assert meta_network(3, 1)(torch.zeros(1, 1, side, side, side, device="meta"), padded=True).shape[2:] == (side,) * 3


@pytest.mark.parametrize("side", [0, 4, 12, 108])
def test_illegal_padded_sides(side: int) -> None:
    with pytest.raises(NetworkError, match=f"padded patch of side {side} .* multiple of 8"):
        geometry.check_padded_side(side)


@given(st.integers(1, 2000))
def test_smallest_tile_for_an_output_is_legal_large_enough_and_the_smallest(wanted: int) -> None:
    side = geometry.legal_input_side_for_output(wanted)
    assert geometry.output_side(side) >= wanted
    assert not geometry.is_legal_input_side(side - 8) or geometry.output_side(side - 8) < wanted


@given(st.integers(-300, 3000))
def test_a_side_is_legal_exactly_when_every_level_halves_evenly(side: int) -> None:
    """Follow the sides down by hand: two convolutions, then an even number to halve, three times, and enough left."""
    remaining, even = side, True
    for _ in range(3):
        even = even and (remaining - 4) % 2 == 0
        remaining = (remaining - 4) // 2
    evenly = even and remaining - 4 > 0 and side - 88 > 0
    assert geometry.is_legal_input_side(side) == (evenly and side >= 108)


@pytest.mark.parametrize("sides_zyx", [(108, 108, 108), (108, 132, 116), (228, 180, 124)])
def test_level_sides_and_channels_are_those_of_the_layers(recorded: Recorder, sides_zyx: tuple[int, int, int]) -> None:
    width, classes = 3, 5
    *pairs, head = recorded(meta_network(classes, width), torch.zeros(1, 1, *sides_zyx, device="meta"))
    assert [(made.channels_in, made.channels_out) for made in pairs] == plain_cost.convolution_channels(width)
    for axis, side in enumerate(sides_zyx):
        sides = [(made.sides_in_zyx[axis], made.sides_out_zyx[axis]) for made in pairs]
        assert [(before, after) for _, before, after in plain_cost.level_sides(side)] == sides
    assert [level for level, _, _ in plain_cost.level_sides(108)] == [0, 0, 1, 1, 2, 2, 3, 3, 2, 2, 1, 1, 0, 0]
    assert head.sides_out_zyx == tuple(geometry.output_side(side) for side in sides_zyx)
    assert (head.channels_in, head.channels_out, head.taps) == (2 * width, classes, 1)


@pytest.mark.parametrize(
    ("sides_zyx", "width", "classes"),
    [((108, 108, 108), 32, 23), ((132, 132, 132), 8, 8), ((108, 180, 132), 16, 2)],
)
def test_multiply_adds_are_those_executed(
    recorded: Recorder, sides_zyx: tuple[int, int, int], width: int, classes: int
) -> None:
    made = recorded(meta_network(classes, width), torch.zeros(1, 1, *sides_zyx, device="meta"))
    assert plain_cost.multiply_adds(sides_zyx, width, classes) == sum(layer.multiply_adds for layer in made)


@pytest.mark.parametrize(("side", "millions"), [(108, 16.3), (132, 3.76), (180, 1.71), (228, 1.34)])
def test_cost_per_output_voxel_of_the_papers_network(side: int, millions: float) -> None:
    cost = plain_cost.multiply_adds((side, side, side), width=32, classes=23) / geometry.output_side(side) ** 3
    assert cost / 1e6 == pytest.approx(millions, abs=0.05 if side == 108 else 0.005)


def test_cost_falls_towards_its_limit() -> None:
    side = 108 + 8 * 2000
    cost = plain_cost.multiply_adds((side, side, side), width=32, classes=23) / geometry.output_side(side) ** 3
    assert cost / 1e6 == pytest.approx(0.90, abs=0.01)
