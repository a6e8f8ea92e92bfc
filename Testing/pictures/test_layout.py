"""Where the panels go, what the legend says."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from TransferSegLib.pictures.layout import Sizes, panel_places
from TransferSegLib.pictures.legend import lay_out_legend, luminous, volume_text
from TransferSegLib.pictures.slices import StructureExtents
from TransferSegLib.structures import LabelSet, Structure


@given(st.tuples(*[st.floats(0.005, 200)] * 3), st.integers(480, 4000))
def test_panels_fill_the_width_and_never_touch(aspects: tuple[float, float, float], width: int) -> None:
    sizes = Sizes(width / 1500)
    places = panel_places(aspects, width, sizes)
    assert min(left for _, left, _, _ in places) == sizes.edge
    assert max(left + wide for _, left, _, wide in places) == width - sizes.edge
    assert all(height > 20 and wide > 20 for _, _, height, wide in places)
    covered = np.zeros((4000, width), np.int8)
    for top, left, height, wide in places:
        covered[top : top + height, left : left + wide] += 1
    assert covered.max() == 1
    assert max(top + height for top, _, height, _ in places) < 1.05 * width


def test_panels_of_usual_scans_have_the_shape_of_what_they_show() -> None:
    places = panel_places((1.4, 1.0, 0.8), 1500, Sizes(1.0))
    assert len({(top, height) for top, _, height, _ in places}) == 1
    assert [wide / height for _, _, height, wide in places] == pytest.approx([1.4, 1.0, 0.8], rel=0.01)


def test_thin_stacks_have_coronal_over_sagittal_beside_a_large_axial() -> None:
    axial, coronal, sagittal = panel_places((1.2, 5.0, 4.0), 1500, Sizes(1.0))
    assert coronal[1] == sagittal[1] > axial[1] + axial[3]
    assert coronal[3] / coronal[2] == pytest.approx(5.0, rel=0.02)
    assert sagittal[3] / sagittal[2] == pytest.approx(4.0, rel=0.02)
    assert axial[3] / axial[2] == pytest.approx(1.2, rel=0.02)
    assert sagittal[0] + sagittal[2] == axial[0] + axial[2]


@pytest.mark.parametrize(
    ("volume_ml", "text"),
    [
        (0.0004, "< 0.001 ml"),
        (0.042, "0.042 ml"),
        (0.416, "0.42 ml"),
        (7.06, "7.1 ml"),
        (31.24, "31.2 ml"),
        (261.4, "261 ml"),
        (1618.9, "1,619 ml"),
    ],
)
def test_volumes_have_the_digits_they_deserve(volume_ml: float, text: str) -> None:
    assert volume_text(volume_ml) == text


@given(st.tuples(*[st.integers(0, 255)] * 3))
def test_colours_are_bright_enough_and_keep_their_hue(color: tuple[int, int, int]) -> None:
    bright = luminous(color)
    assert max(bright) >= 228 or max(color) == 0
    if max(color) >= 228:
        assert bright == color
    if max(color) > 0:
        expected = np.array(color) / max(color)
        assert np.allclose(np.array(bright) / max(bright), expected, atol=0.01)


def extents(voxels: list[int]) -> StructureExtents:
    profile = np.array(voxels)[:, None]
    return StructureExtents((profile, profile, profile), np.array(voxels))


def test_the_legend_lists_volumes_and_names_what_is_absent() -> None:
    structures = [Structure(f"structure {n}", n, (200, 0, 0)) for n in range(1, 8)]
    legend = lay_out_legend(LabelSet(tuple(structures)), extents([10, 0, 30, 40, 0, 60, 70]), 100.0, 1450, Sizes(1.0))
    assert [(structure.label, volume) for structure, volume in legend.entries] == [
        (1, "1.0 ml"),
        (3, "3.0 ml"),
        (4, "4.0 ml"),
        (6, "6.0 ml"),
        (7, "7.0 ml"),
    ]
    assert legend.absent == ["Not found: structure 2, structure 5"]


@pytest.mark.parametrize("number", [1, 2, 7, 104, 300])
@pytest.mark.parametrize("width", [480, 1500])
def test_the_legend_stays_within_the_picture(number: int, width: int) -> None:
    sizes = Sizes(width / 1500)
    structures = tuple(Structure(f"left common carotid artery {n}", n, (200, 0, 0)) for n in range(1, number + 1))
    inner = width - 2 * sizes.edge
    legend = lay_out_legend(LabelSet(structures), extents([5000] * number), 1.0, inner, sizes)
    columns = -(-number // legend.rows)
    assert columns * legend.pitch <= inner + 3 * sizes.text + 1e-6
    assert columns * legend.rows >= number and legend.absent == []
    assert legend.height == legend.rows * legend.row_height


def test_without_any_structure_found_the_legend_only_names_them() -> None:
    label_set = LabelSet((Structure("liver", 1, (1, 2, 3)),))
    legend = lay_out_legend(label_set, extents([0]), 1.0, 1000, Sizes(1.0))
    assert legend.entries == [] and legend.absent == ["Not found: liver"] and legend.height == legend.row_height
