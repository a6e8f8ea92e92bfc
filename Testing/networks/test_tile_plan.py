from __future__ import annotations

from itertools import pairwise, product
from math import prod

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from TransferSegLib.errors import DeviceError
from TransferSegLib.networks.unet_valid.content import content_spans, map_spans
from TransferSegLib.networks.unet_valid.geometry import ALIGNMENT, MARGIN, is_legal_input_side
from TransferSegLib.networks.unet_valid.tile_plan import (
    TilePlan,
    candidate_sides,
    plan_tiles,
    region_around,
    tile_memory_bytes,
    tiles_along,
)

sizes = st.tuples(*(st.integers(1, 400) for _ in range(3)))


@settings(max_examples=60, deadline=None)
@given(size=sizes, width=st.sampled_from([2, 16, 32]), gigabytes=st.floats(0.4, 4), itemsize=st.sampled_from([2, 4]))
def test_every_voxel_once_aligned_and_within_budget(size, width, gigabytes, itemsize):
    plan = plan_tiles(size, width, 8, gigabytes * 1e9, itemsize)
    assert all(is_legal_input_side(side) for side in plan.input_zyx)
    assert tile_memory_bytes(plan.input_zyx, width, 8, itemsize) <= gigabytes * 1e9
    tiles = list(plan)
    assert len(tiles) == len(plan)
    # The tiles are a product of intervals, so it is enough that these divide every axis.
    for axis in range(3):
        intervals = sorted({(tile.start_zyx[axis], tile.stop_zyx[axis]) for tile in tiles})
        assert intervals[0][0] == 0
        assert intervals[-1][1] == size[axis]
        assert all(here[1] == there[0] for here, there in pairwise(intervals))
        for start, stop in intervals:
            assert start % ALIGNMENT == 0
            # A tile's output holds what it owns and the next voxel, if there is one.
            assert min(stop + 1, size[axis]) <= start + plan.input_zyx[axis] - 2 * MARGIN
    assert len({(tile.start_zyx, tile.stop_zyx) for tile in tiles}) == len(tiles)


def test_one_tile_as_small_as_possible_for_a_small_volume():
    assert plan_tiles((1, 20, 21), 16, 8, 4e9).input_zyx == (108, 108, 116)
    assert plan_tiles((92, 93, 100), 16, 8, 4e9).input_zyx == (180, 188, 188)


def test_thin_stack_gets_a_thin_tile():
    plan = plan_tiles((5, 200, 200), 16, 8, 4e9, 2)
    assert plan.input_zyx == (108, 292, 292)
    assert len(plan) == 1


def test_neighbours_are_the_largest_multiple_of_8_apart():
    plan = TilePlan((0, 0, 0), (100, 20, 20), (132, 108, 108))
    assert plan.step_zyx == (40, 16, 16)
    assert [(tile.start_zyx[0], tile.stop_zyx[0]) for tile in plan if tile.start_zyx[1:] == (0, 0)] == [
        (0, 40),
        (40, 80),
        (80, 100),
    ]


@pytest.mark.parametrize(("length", "step", "tiles"), [(1, 16, 1), (20, 16, 1), (21, 16, 2), (36, 16, 2), (37, 16, 3)])
def test_tiles_along(length, step, tiles):
    assert tiles_along(length, step) == tiles


def computed(plan, content, width=8, classes=5):
    """Multiply-adds of a plan, tile by tile and layer by layer, less what is filled in where a tile sees nothing."""
    total = 0.0
    for tile in plan:
        corner = [start - MARGIN for start in tile.start_zyx]
        seen = [
            (max(0, first - low), min(side, end - low))
            for (first, end), low, side in zip(content, corner, plan.input_zyx, strict=True)
        ]
        if any(first >= end for first, end in seen):
            continue
        spans = [map_spans(side, span) for side, span in zip(plan.input_zyx, seen, strict=True)]

        def voxels(name, more=0, spans=spans):
            return prod(axis[name][1] - axis[name][0] + more for axis in spans)

        for level in range(4):
            here = width * 2**level
            total += voxels(f"down{level}", 2) * 27 * (here if level else 1) * here
            total += voxels(f"down{level}") * 27 * here * 2 * here
        for level in (2, 1, 0):
            here = width * 2 ** (level + 1)
            total += voxels(f"up{level}", 2) * (8 * 2 * here + 27 * here) * here + voxels(f"up{level}") * 27 * here**2
        total += voxels("up0") * 2 * width * classes
    return total


@pytest.mark.parametrize("size", [(60, 45, 37), (7, 100, 30)])
@pytest.mark.parametrize("share", [1, 2])
def test_no_other_legal_shape_is_cheaper(size, share):
    budget = 1.05 * tile_memory_bytes((124, 124, 124), 8, 5)
    content = [(length // 5 * (share - 1), length // share) for length in size]
    region = region_around(content, size)
    best = plan_tiles(size, 8, 5, budget, region=region, content_zyx=content)

    def cost(plan):
        return computed(plan, content)

    others = [TilePlan(*region, shape) for shape in product(range(108, 190, 8), repeat=3)]
    allowed = [plan for plan in others if tile_memory_bytes(plan.input_zyx, 8, 5) <= budget]
    assert 5 < len(allowed) < len(others)
    # With content in a part of the tiles only, another side may win by a little: it cuts elsewhere.
    assert cost(best) <= min(cost(plan) for plan in allowed) * (1 if share == 1 else 1.02)


def test_more_memory_is_never_slower():
    costs = []
    for gigabytes in (0.5, 1, 2, 4, 8):
        plan = plan_tiles((300, 350, 350), 32, 23, gigabytes * 1e9, 2)
        costs.append(computed(plan, [(0, 300), (0, 350), (0, 350)], 32, 23))
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


def test_however_much_memory_there_is_maps_can_be_counted_in_32_bits():
    plan = plan_tiles((900, 900, 900), 32, 23, 1e13, 2)
    z, y, x = plan.input_zyx
    assert len(plan) > 1
    assert 64 * (z - 84) * (y - 84) * (x - 84) < 2**31
    assert 128 * (z // 2) * (y // 2) * (x // 2) < 1.2 * 2**31
    assert len(plan_tiles((300, 300, 300), 32, 23, 1e13, 2)) == 1


def test_too_little_memory_is_told():
    with pytest.raises(DeviceError, match="smallest tile needs"):
        plan_tiles((300, 300, 300), 32, 23, 1e8)


def test_longest_side_caps_but_never_below_the_smallest():
    assert max(plan_tiles((300, 300, 300), 8, 5, 1e12, longest_side=140).input_zyx) <= 140
    assert plan_tiles((300, 300, 300), 8, 5, 1e12, longest_side=10).input_zyx == (108, 108, 108)


def test_candidate_sides_are_the_smallest_for_some_number_of_tiles():
    # 100 voxels: 1 tile of output 100, 2 of 52, 3 of 36, 4 and 5 of 28, 6 of 20.
    assert candidate_sides(100).tolist() == [108, 116, 124, 140, 188]


def box(size, start, stop):
    volume = np.full(size, -1.0, np.float32)
    volume[tuple(slice(*ends) for ends in zip(start, stop, strict=True))] = 0.5
    return volume


def test_region_by_hand():
    volume = box((300, 30, 300), (120, 10, 0), (150, 11, 1))
    # z: the smallest tile at 56 sees up to 120, not included, and answers for 56 to 75: the region begins at 72.
    # Behind, the tile at 200 sees from 156 on (192 would see 148): its first voxel, 200, is the region's last.
    assert region_around(content_spans(volume, -1.0), volume.shape) == ((72, 0, 0), (201, 30, 49))


def test_region_of_everything():
    assert region_around(((0, 9), (0, 8), (0, 7)), (9, 8, 7)) == ((0, 0, 0), (9, 8, 7))


@settings(max_examples=50, deadline=None)
@given(first=st.integers(0, 250), length=st.integers(1, 50))
def test_outside_of_the_region_some_smallest_tile_sees_no_content(first, length):
    (start, _, _), (stop, _, _) = region_around(((first, first + length), (0, 1), (0, 1)), (300, 1, 1))
    assert start % ALIGNMENT == 0

    def answered_without_content(voxel):
        origins = [origin for origin in range(-24, 320, 8) if origin <= voxel < origin + 20]
        return any(origin + 64 <= first or origin - 44 >= first + length for origin in origins)

    if start > 0:
        assert all(answered_without_content(voxel) for voxel in range(start + 1))
    if stop < 300:
        assert all(answered_without_content(voxel) for voxel in range(stop - 1, 300))
