"""Labels and logits of nnU-Net's models against what nnunetv2 itself made of the same images."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from Testing.half_precision import large_in_bfloat16
from Testing.nnunet_fixtures import NAMES, OLD, TRAINED, NnUNetFixture, every_second, imported
from TransferSegLib.images import copied_labels
from TransferSegLib.images.label_resampling import LabelResampler
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference import segment
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.inference.options import PredictionOptions
from TransferSegLib.models.store import Model
from TransferSegLib.networks.interface import Triple
from TransferSegLib.progress import Task

#: What two kinds of processors may make of one convolution, as seen in float16; and in how many voxels it may show.
ROUNDING, MOST_BY_ROUNDING = 2e-3, 5


def model_of(fixture: NnUNetFixture) -> Model:
    description, state = imported(fixture.name)
    return Model(description, state, Path("model"))


def options_of(fixture: NnUNetFixture, exact: bool) -> PredictionOptions:
    return PredictionOptions(exact, fixture.mirror, fixture.step)


def images_of(fixture: NnUNetFixture, model: Model) -> sitk.Image | dict[str, sitk.Image]:
    images = [read_scan(file) for file in fixture.images]
    names = model.description.preparation.image_names
    return dict(zip(names, images, strict=True)) if names else images[0]


class RecordingResampler(LabelResampler):
    """Keeps the logits that it makes labels of, on the model's grid."""

    logits: np.ndarray | None = None

    def write(self, answers: Any, start_zyx: Triple, task: Task | None = None) -> None:
        cls = RecordingResampler
        if cls.logits is None:
            cls.logits = np.full((answers.outputs, *self.grid.size_zyx), np.nan, np.float32)
        rows = slice(start_zyx[0], start_zyx[0] + answers.values.shape[1])
        if start_zyx[0]:
            shared = answers.values[:, 0].float().numpy()
            np.testing.assert_array_equal(cls.logits[:, rows.start], shared, "slabs agree on the row they share")
        cls.logits[:, rows] = answers.values.float().numpy()
        super().write(answers, start_zyx, task)


@pytest.mark.parametrize("name", NAMES)
def test_every_voxel_has_nnunets_label(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fixture = NnUNetFixture(name)
    model = model_of(fixture)
    monkeypatch.setattr(copied_labels, "LabelResampler", RecordingResampler)
    monkeypatch.setattr(RecordingResampler, "logits", None)
    found = segment.Segmenter(model, "cpu", options=options_of(fixture, exact=True)).segment(images_of(fixture, model))
    assert RecordingResampler.logits is not None
    logits, expected = every_second(RecordingResampler.logits), fixture.logits.astype(np.float32)
    difference = np.abs(logits - expected)
    # On another processor a sum of windows, in half precision, may end one or two of its numbers away.
    assert np.count_nonzero(difference > ROUNDING * (1 + np.abs(expected))) <= MOST_BY_ROUNDING
    assert difference.max() <= 2 * np.spacing(np.float16(np.abs(expected).max()))
    labels = sitk.GetArrayFromImage(found.label_map)
    allowed = 0 if np.array_equal(logits, expected) else MOST_BY_ROUNDING
    assert np.count_nonzero(labels != fixture.labels) <= allowed


#: The largest share of voxels that may differ, for trained and for random weights (whose classes are close).
MOST = {torch.float32: (0.0, 0.006), torch.bfloat16: (2e-4, 0.02)}


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        # Of bfloat16 the trained weights and the smaller of the random ones run everywhere.
        pytest.param(name, dtype, marks=() if dtype == torch.float32 or name in (OLD, TRAINED) else large_in_bfloat16)
        for name in NAMES
        for dtype in MOST
    ],
    ids=str,
)
def test_the_usual_sums_give_nearly_the_same_labels(name: str, dtype: torch.dtype) -> None:
    fixture = NnUNetFixture(name)
    model = model_of(fixture)
    segmenter = segment.Segmenter(model, choose_device("cpu", dtype), options=options_of(fixture, exact=False))
    labels = sitk.GetArrayFromImage(segmenter.segment(images_of(fixture, model)).label_map)
    trained, random = MOST[dtype]
    assert np.mean(labels != fixture.labels) <= (trained if name == TRAINED else random)
