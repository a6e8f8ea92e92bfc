from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from Testing.research.common.plain_cost import level_sides
from TransferSegLib.networks.unet_valid.content import content_spans, map_spans
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork


def after_pair(seen):
    return np.lib.stride_tricks.sliding_window_view(seen, 5).any(axis=1)


def touched(side, content):
    """Along one axis: which positions of every map depend on the content, by the definition of every layer."""
    seen = np.zeros(side, bool)
    seen[slice(*content)] = True
    maps = {}
    for level in range(4):
        seen = maps[f"down{level}"] = after_pair(seen)
        if level < 3:
            seen = seen.reshape(-1, 2).any(axis=1)
    for level in (2, 1, 0):
        seen = seen.repeat(2)
        skip = maps[f"down{level}"]
        first = (len(skip) - len(seen)) // 2
        seen = maps[f"up{level}"] = after_pair(seen | skip[first : first + len(seen)])
    return maps


@settings(max_examples=300, deadline=None)
@given(side=st.sampled_from([108, 116, 164, 252]), ends=st.tuples(st.integers(0, 251), st.integers(1, 252)))
def test_spans_hold_all_that_depends_on_the_content_and_little_more(side, ends):
    first, stop = min(ends[0], side - 1), min(max(ends), side)
    content = (first, max(stop, first + 1))
    spans = map_spans(side, content)
    maps = touched(side, content)
    assert spans.keys() == maps.keys()
    for name, depends in maps.items():
        start, end = spans[name]
        assert 0 <= start < end <= len(depends)
        assert name == "down3" or start % 2 == end % 2 == 0
        where = np.flatnonzero(depends)
        if where.size:
            assert start <= where[0]
            assert where[-1] < end
            # Rounding to pairs, carried along from level to level.
            assert where[0] - start + end - 1 - where[-1] <= 12


def test_without_a_box_everything_is_computed():
    spans = map_spans(132)
    sides = level_sides(132)
    assert [spans[f"down{level}"] for level in range(4)] == [(0, sides[2 * level + 1][2]) for level in range(4)]
    assert [spans[f"up{level}"] for level in (2, 1, 0)] == [(0, sides[9 + 2 * step][2]) for step in range(3)]
    assert spans["up0"] == (0, 44)
    assert map_spans(132, (0, 132)) == spans


def test_content_spans_by_hand():
    values = np.full((4, 5, 6), -1, np.float32)
    assert content_spans(values, -1.0) is None
    values[1, 2, 5] = values[2, 0, 3] = 0
    assert content_spans(values, -1.0) == ((1, 3), (0, 3), (3, 6))


boxes = [
    ((132, 132, 132), ((44, 88), (30, 100), (0, 50))),
    ((108, 116, 164), ((44, 64), (44, 72), (44, 120))),
    ((180, 108, 108), ((0, 10), (0, 5), (50, 52))),
    ((116, 116, 116), ((60, 61), (60, 61), (60, 61))),
    ((132, 108, 108), ((128, 132), (0, 108), (104, 108))),
]


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
@pytest.mark.parametrize(("shape", "content"), boxes)
def test_filling_in_the_answers_to_nothing_changes_nothing(network, shape, content, memory_format):
    scan = torch.full((1, 1, *shape), -1.0)
    window = tuple(slice(*span) for span in content)
    scan[(0, 0, *window)] = torch.randn([b - a for a, b in content], generator=torch.Generator().manual_seed(3))
    with torch.inference_mode():
        expected = network(scan)
    runner = InferenceNetwork(network, "cpu", torch.float32, memory_format)
    assert expected.std() > 0.3
    torch.testing.assert_close(runner(scan, content, -1.0), expected, atol=1e-4, rtol=0)


def test_the_answer_to_nothing_follows_the_intensity(network):
    runner = InferenceNetwork(network)
    content = ((50, 60), (50, 60), (50, 60))
    for nothing in (-1.0, 0.25, -1.0):
        scan = torch.full((1, 1, 108, 108, 108), nothing)
        scan[:, :, 50:60, 50:60, 50:60] = 1.0
        torch.testing.assert_close(runner(scan, content, nothing), runner(scan), atol=1e-4, rtol=0)
