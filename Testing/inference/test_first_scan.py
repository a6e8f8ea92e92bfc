"""The directions of stored axes: told at import, or compared with the first scan of a model."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.nnunet_fixtures import TRAINED, NnUNetFixture, imported
from TransferSegLib.images.model_grid import AxisOrder
from TransferSegLib.images.stored_axes import named_axes, stored_axes
from TransferSegLib.inference.first_scan import other_axes_notices, remember_axes
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.inference.segment_file import ScanToSegment, segment_file
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.store import Model

RAS, LPS = (-1, 0, 0, 0, -1, 0, 0, 0, 1), (1, 0, 0, 0, 1, 0, 0, 0, 1)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("TRANSFERSEG_CACHE", str(tmp_path / "cache"))
    yield tmp_path / "cache"


def scan(direction: tuple[float, ...]) -> sitk.Image:
    image = sitk.GetImageFromArray(np.zeros((2, 3, 4), np.float32))
    image.SetDirection(direction)
    return image


def notices(model: ModelDescription, image: sitk.Image) -> str:
    return " ".join(other_axes_notices(model, image))


@pytest.mark.parametrize(
    ("direction", "letters"),
    [
        (LPS, "LPS"),
        (RAS, "RAS"),
        ((0, 0, 1, 1, 0, 0, 0, 1, 0), "PSL"),
        ((0, 0, -1, -1, 0, 0, 0, 1, 0), "ASR"),
        ((0.9, -0.436, 0, 0.436, 0.9, 0, 0, 0, -1), "LPI"),
    ],
)
def test_stored_axes_are_named_by_the_nearest_directions(direction: tuple[float, ...], letters: str) -> None:
    """The columns of the direction are the axes i, j, k in LPS coordinates."""
    assert stored_axes(scan(direction)) == letters


def test_axes_of_a_model_by_their_directions() -> None:
    assert [named_axes("ijk", "RAS"), named_axes("kji", "RAS"), named_axes("jki", "LPI")] == ["RAS", "SAR", "PIL"]
    assert named_axes("RAS", "LPS") == "RAS"


@pytest.mark.parametrize("axes", ["ijk", "jik", "kij"])
@pytest.mark.parametrize("direction", [LPS, RAS, (0, 0, 1, 1, 0, 0, 0, 1, 0)])
def test_a_scan_stored_as_the_training_files_is_taken_as_it_is(axes: str, direction: tuple[float, ...]) -> None:
    image = scan(direction)
    named = named_axes(axes, stored_axes(image))
    assert AxisOrder.of_scan(image, named) == AxisOrder.of_scan(image, axes)


def test_another_scan_than_the_first_is_told() -> None:
    model, _ = imported(TRAINED)
    assert model.preparation.axes == "ijk"
    assert notices(model, scan(LPS)) == "", "nothing is known yet"
    remember_axes(model, scan(RAS))
    remember_axes(model, scan(LPS))
    assert notices(model, scan(RAS)) == "", "the first one counts"
    told = notices(model, scan(LPS))
    assert "stored as LPS" in told and "as RAS" in told and "--axes" in told
    assert notices(replace(model, version="7"), scan(LPS)) == told, "versions share what is known"
    assert notices(replace(model, name="other"), scan(LPS)) == ""
    turned = replace(model, preparation=replace(model.preparation, axes="RAS"))
    remember_axes(turned, scan(LPS))
    assert notices(turned, scan(RAS)) == ""


def test_a_cache_that_cannot_be_used_is_no_matter(cache: Path) -> None:
    model, _ = imported(TRAINED)
    cache.mkdir()
    (cache / "first-scans.json").write_text("{damaged")
    assert notices(model, scan(LPS)) == ""
    remember_axes(model, scan(RAS))
    assert "stored as LPS" in notices(model, scan(LPS))
    (cache / "first-scans.json").unlink()
    cache.rmdir()
    cache.write_text("a file")
    remember_axes(model, scan(RAS))
    assert notices(model, scan(LPS)) == ""


def test_segmenting_files_tells_it(tmp_path: Path) -> None:
    fixture = NnUNetFixture(TRAINED)
    description, state = imported(TRAINED)
    segmenter = Segmenter(Model(description, state, tmp_path), "cpu")
    first = segment_file(segmenter, ScanToSegment(fixture.images[0], tmp_path / "a.nii.gz"))
    assert not any("stored as" in line for line in first.notices)
    image = sitk.ReadImage(str(fixture.images[0]))
    sitk.WriteImage(sitk.Flip(image, [True, False, False]), str(tmp_path / "flipped.nii.gz"))
    second = segment_file(segmenter, ScanToSegment(tmp_path / "flipped.nii.gz", tmp_path / "b.nii.gz"))
    assert any("stored as" in line for line in second.notices)


def test_segmenting_images_in_python_tells_it(tmp_path: Path) -> None:
    image = sitk.ReadImage(str(NnUNetFixture(TRAINED).images[0]))
    description, state = imported(TRAINED)
    segmenter = Segmenter(Model(description, state, tmp_path), "cpu")
    assert not segmenter.segment(image).notices
    for _ in range(2):
        (told,) = segmenter.segment(sitk.Flip(image, [True, False, False])).notices
        assert "stored as LAS" in told
    assert not segmenter.segment(image).notices


def test_with_known_axes_a_turned_scan_gets_the_same_labels(tmp_path: Path) -> None:
    """The same scan stored in another way: only a model whose axes were told finds the same."""
    fixture = NnUNetFixture(TRAINED)
    image = sitk.ReadImage(str(fixture.images[0]))
    flipped = sitk.Flip(image, [True, True, False])
    assert (stored_axes(image), stored_axes(flipped)) == ("RAS", "LPS")
    description, state = imported(TRAINED)
    told = replace(description, preparation=replace(description.preparation, axes="RAS"))
    labels = {}
    for name, model in (("as stored", description), ("told", told)):
        segmenter = Segmenter(Model(model, state, tmp_path), "cpu")
        plain, turned = segmenter.segment(image).label_map, segmenter.segment(flipped).label_map
        back = sitk.GetArrayFromImage(sitk.Flip(turned, [True, True, False]))
        labels[name] = sitk.GetArrayFromImage(plain), back
    assert np.array_equal(*labels["told"])
    assert not np.array_equal(*labels["as stored"])
