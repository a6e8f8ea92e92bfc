"""What a tile costs in the paper's network as it is written, layer by layer: the measure of what predicting saves."""

from __future__ import annotations

from TransferSegLib.networks.unet_valid.geometry import check_input_side, output_side


def level_sides(input_side: int) -> list[tuple[int, int, int]]:
    """Return, per convolution in order of execution, (level, input side, output side) in voxels of that level."""
    check_input_side(input_side)
    sides = []
    side = input_side
    for level in range(4):
        for _ in range(2):
            sides.append((level, side, side - 2))
            side -= 2
        if level < 3:
            side //= 2
    for level in (2, 1, 0):
        side *= 2
        for _ in range(2):
            sides.append((level, side, side - 2))
            side -= 2
    return sides


def convolution_channels(width: int) -> list[tuple[int, int]]:
    """Return, per 3x3x3 convolution in order of execution, (input channels, output channels)."""
    channels: list[tuple[int, int]] = []
    before = 1
    for level in range(4):
        first, second = width * 2**level, width * 2 ** (level + 1)
        channels += [(before, first), (first, second)]
        before = second
    for level in (2, 1, 0):
        here = width * 2 ** (level + 1)
        channels += [(before + here, here), (here, here)]
        before = here
    return channels


def multiply_adds(input_shape_zyx: tuple[int, int, int], width: int, classes: int) -> int:
    """Return the multiply-adds of one tile, counting every convolution as written (27 taps)."""
    per_axis = [level_sides(side) for side in input_shape_zyx]
    total = 0
    for index, (before, after) in enumerate(convolution_channels(width)):
        voxels = 1
        for axis in per_axis:
            voxels *= axis[index][2]
        total += voxels * before * after * 27
    voxels = 1
    for side in input_shape_zyx:
        voxels *= output_side(side)
    return total + voxels * 2 * width * classes
