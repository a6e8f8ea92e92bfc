"""The bar chart: heights in proportion, colours by group, a round axis."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.errors import ScanError
from TransferSegLib.pictures.bars import Bar, axis_step, draw_bars, group_color


def heights(pixels: np.ndarray, color: tuple[int, int, int]) -> list[int]:
    """Return the height of every bar of a colour, from left to right, without the swatch of the legend."""
    of_color = (np.abs(pixels.astype(int) - color).max(axis=2) <= 1).sum(axis=0)
    edges = np.flatnonzero(np.diff(np.r_[0, of_color > 20, 0].astype(int)))
    return [int(of_color[first:end].max()) for first, end in zip(edges[::2], edges[1::2], strict=True)]


def test_bars_are_as_high_as_their_values(tmp_path: Path) -> None:
    values = [3.0, 1.5, None, 0.75]
    bars = [Bar(str(n), value, f"{value} m", "v0" if n < 2 else "v1") for n, value in enumerate(values)]
    draw_bars(bars, "Contour drawn per scan", "m", tmp_path / "curve.png")
    pixels = sitk.GetArrayFromImage(sitk.ReadImage(str(tmp_path / "curve.png")))
    first, second = (heights(pixels, group_color(group)) for group in (0, 1))
    assert len(first) == 2 and len(second) == 1
    assert first[0] == pytest.approx(2 * first[1], abs=2) and first[0] == pytest.approx(4 * second[0], abs=3)


def test_many_bars_and_no_values(tmp_path: Path) -> None:
    draw_bars([Bar(str(n), 0.1 * n, "x", "g") for n in range(200)], "many", "m", tmp_path / "many.png")
    draw_bars([Bar("1", 0.0, "0 m", "g"), Bar("2", None, "-", "g")], "none", "m", tmp_path / "none.png")
    with pytest.raises(ValueError, match="needs bars"):
        draw_bars([], "x", "m", tmp_path / "x.png")
    with pytest.raises(ValueError, match="from 0 up"):
        draw_bars([Bar("1", -1.0, "", "g")], "x", "m", tmp_path / "x.png")
    with pytest.raises(ScanError, match=r"ends in \.png"):
        draw_bars([Bar("1", 1.0, "", "g")], "x", "m", tmp_path / "x.jpg")


def test_axes_are_divided_at_round_numbers() -> None:
    for largest in (0.003, 0.07, 0.4, 1.0, 3.1, 7.0, 12.0, 99.0, 5000.0):
        step = axis_step(largest)
        assert 2.9 <= largest / step <= 6
        assert f"{step:e}"[0] in "125" and float(f"{step:.0e}") == pytest.approx(step)
    assert axis_step(0.0) == 1.0
