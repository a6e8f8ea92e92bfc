"""Blended windows against a whole-volume computation that is written out here, by way of the tests' own family."""

from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from Testing.impatient import Impatient
from Testing.tiny_family import TinyBackbone, tiny_model, tiny_network, tiny_spec
from TransferSegLib.cli.main import main
from TransferSegLib.errors import Cancelled, DeviceError, ModelError, TransferSegError
from TransferSegLib.fit.check import NO_FEATURES, NO_PROFILE
from TransferSegLib.images.label_resampling import LabelResampler, Probabilities
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.inference import fallback, window_sums
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.options import PredictionOptions
from TransferSegLib.inference.predict import label_volume, predictor_of
from TransferSegLib.inference.profiling import profile_of_scans
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.inference.sliding_window import WindowPredictor, in_window_precision
from TransferSegLib.inference.window_sums import bell, nnunet_weights, shares_along, window_starts
from TransferSegLib.models.store import Model, save_model
from TransferSegLib.progress import Task

CPU = Device("cpu", "CPU")
BACKBONE = TinyBackbone(tiny_spec(classes=4))
PATCH = (8, 16, 16)
PADDING = (-1.0, 0.0)
PLENTY = 1e9


def starts_by_hand(size: int, side: int) -> list[int]:
    """Windows at most half a side apart, the first and the last at the ends."""
    steps = int(np.ceil(max(0, size - side) / (side / 2)))
    return [int(np.round(step * (size - side) / steps)) for step in range(steps + 1)] if steps else [0]


def whole_logits(network: torch.nn.Module, volume_czyx: np.ndarray) -> np.ndarray:
    """Return the blended logits of a volume in float64, all of it at once."""
    sides = np.array(volume_czyx.shape[1:])
    before = np.maximum(0, np.array(PATCH) - sides) // 2
    after = np.maximum(0, np.array(PATCH) - sides) - before
    padded = np.stack(
        [
            np.pad(channel, list(zip(before, after, strict=True)), constant_values=value)
            for channel, value in zip(volume_czyx, PADDING, strict=True)
        ]
    )
    offsets = np.indices(PATCH) - np.array(PATCH).reshape(3, 1, 1, 1) // 2
    bell = np.exp(-0.5 * ((offsets / (np.array(PATCH).reshape(3, 1, 1, 1) / 8)) ** 2).sum(axis=0))
    sums, weights = np.zeros((4, *padded.shape[1:])), np.zeros(padded.shape[1:])
    for z, y, x in product(*(starts_by_hand(size, side) for size, side in zip(padded.shape[1:], PATCH, strict=True))):
        here = (slice(z, z + PATCH[0]), slice(y, y + PATCH[1]), slice(x, x + PATCH[2]))
        with torch.inference_mode():
            logits = network(torch.from_numpy(padded[(slice(None), *here)])[None])[0].numpy()
        sums[(slice(None), *here)] += bell * logits
        weights[here] += bell
    inside = tuple(slice(start, start + size) for start, size in zip(before, sides, strict=True))
    return (sums / weights)[(slice(None), *inside)]


def noise(*sides: int, seed: int = 5) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(2, *sides)).astype(np.float32)


def assembled(predictor: WindowPredictor, volume: np.ndarray, task: Task | None = None) -> np.ndarray:
    """Return the logits of all slabs, whose shared rows must agree."""
    logits = np.full((4, *volume.shape[1:]), np.nan, np.float32)
    for box in predictor.predict(volume, PADDING, PLENTY, task):
        stop = box.start_zyx[0] + box.values.shape[1]
        assert stop == box.stop_zyx[0]
        if box.start_zyx[0]:
            np.testing.assert_array_equal(logits[:, box.start_zyx[0]], box.values[:, 0].numpy())
        logits[:, box.start_zyx[0] : stop] = box.values.numpy()
    return logits


@pytest.fixture(scope="module")
def network() -> torch.nn.Module:
    return tiny_network(BACKBONE.spec)


@pytest.mark.parametrize("sides", [(19, 37, 30), (8, 16, 16), (9, 17, 40), (3, 33, 20), (5, 7, 9), (1, 50, 1)])
def test_slabs_are_the_whole_computation(network: torch.nn.Module, sides: tuple[int, int, int]) -> None:
    volume = noise(*sides)
    predictor = predictor_of(network, BACKBONE, CPU)
    assert isinstance(predictor, WindowPredictor) and predictor.deepest_lattice is None
    expected = whole_logits(network, volume)
    assert np.abs(assembled(predictor, volume) - expected).max() < 1e-4
    labels = label_volume(network, BACKBONE, volume, PADDING, device="cpu")
    assert labels.dtype == np.uint8 and np.mean(labels == expected.argmax(axis=0)) > 0.999


def test_no_slab_holds_more_rows_than_a_window(network: torch.nn.Module) -> None:
    prediction = predictor_of(network, BACKBONE, CPU).predict(noise(40, 20, 20), PADDING, PLENTY)
    rows = [box.values.shape[1] for box in prediction]
    assert len(rows) == 9 and max(rows) == PATCH[0] + 1, "the last one is a whole window, and the row it shares"
    assert sum(rows) == 40 + len(rows) - 1


def test_windows_begin_where_nnunets_do() -> None:
    assert window_starts(20, 8, 0.5) == [0, 4, 8, 12]
    assert window_starts(21, 8, 0.5) == [0, 3, 6, 10, 13]
    assert window_starts(100, 64, 0.8) == [0, 36]
    assert window_starts(8, 8, 0.5) == [0]
    assert window_starts(5, 8, 0.5) == [-1], "one voxel of padding before, two behind"


def test_weights_are_nnunets() -> None:
    impulse = np.zeros((8, 20, 6))
    impulse[4, 10, 3] = 1
    expected = ndimage.gaussian_filter(impulse, (1.0, 2.5, 0.75), mode="constant")
    found = nnunet_weights((8, 20, 6)).numpy()
    assert found.dtype == np.float16 and found.max() == 10
    np.testing.assert_allclose(found, 10 * expected / expected.max(), atol=4e-3)
    assert nnunet_weights((64, 64, 64)).min() > 0, "the smallest would round to 0"
    ours = bell(8)[:, None, None] * bell(20)[:, None] * bell(6)
    np.testing.assert_allclose(ours, expected / expected.max(), atol=1e-12)
    assert min(bell(side).min() for side in (1, 2, 3, 5, 8, 64, 255)) > 0


@pytest.mark.parametrize(("size", "side", "step"), [(50, 16, 0.5), (31, 8, 0.8), (5, 8, 0.5), (16, 16, 0.5)])
def test_shares_of_a_voxel_add_up_to_one(size: int, side: int, step: float) -> None:
    starts = window_starts(size, side, step)
    total = np.zeros(size + 2 * side)
    for start, share in shares_along(side, starts, size).items():
        total[start + side : start + 2 * side] += share
    np.testing.assert_allclose(total[side : side + size], 1, atol=1e-6)
    assert total[:side].max() == total[side + size :].max() == 0, "none lies beyond the scan"


def scan_file(folder: Path, size_xyz: tuple[int, int, int] = (30, 26, 18)) -> Path:
    voxels = ndimage.gaussian_filter(np.random.default_rng(3).normal(size=size_xyz[::-1]), 1.5) * 3000
    image = sitk.GetImageFromArray(voxels.astype(np.int16))
    image.SetSpacing((1.2, 1.4, 2.0))
    image.SetOrigin((-20.0, 7.0, 100.0))
    file = folder / "scan.nii.gz"
    sitk.WriteImage(image, str(file))
    return file


@pytest.fixture(scope="module")
def model() -> Model:
    return tiny_model()


@pytest.mark.parametrize("size", [(30, 26, 18), (9, 8, 6)])
def test_segmenting_a_scan_and_the_command(model: Model, tmp_path: Path, size: tuple[int, int, int]) -> None:
    file = scan_file(tmp_path, size)
    image = sitk.ReadImage(str(file))
    scan = preprocess(image, model.description.preparation)
    assert scan.padding_values == PADDING
    logits = torch.from_numpy(whole_logits(model.network(), scan.intensities_czyx))
    resampler = LabelResampler(scan.grid, (0, 10, 20, 30))
    resampler.write(Probabilities(torch.softmax(logits, dim=0).permute(1, 2, 3, 0).float().numpy()), (0, 0, 0))
    result = Segmenter(model, CPU).segment(image)
    found = sitk.GetArrayFromImage(result.label_map)
    assert len(np.unique(found)) == 4 and np.mean(found == resampler.labels_zyx) > 0.999
    assert NO_PROFILE in result.fit.unchecked

    folder = save_model(tmp_path / "model", model.description, model.state_dict)
    output = tmp_path / "labels.nrrd"
    assert main(["segment", str(file), "--model", str(folder), "--device", "cpu", "--output", str(output)]) == 0
    # The command computes in the precision that is fastest on this computer.
    by_command = sitk.GetArrayFromImage(sitk.ReadImage(str(output)))
    in_library = sitk.GetArrayFromImage(Segmenter(model, "cpu").segment(image).label_map)
    assert np.array_equal(by_command, in_library) and np.mean(by_command == found) > 0.95


def test_a_family_that_shows_no_maps_has_a_profile_without_them(model: Model, tmp_path: Path) -> None:
    image = sitk.ReadImage(str(scan_file(tmp_path)))
    profile = profile_of_scans(Segmenter(model, CPU), [lambda: image] * 2)
    assert profile is not None and profile.cases == 2 and profile.features is None
    described = replace(model, description=replace(model.description, fit=profile))
    assert NO_FEATURES in Segmenter(described, CPU).segment(image).fit.unchecked


def test_stopped_at_any_layer(network: torch.nn.Module) -> None:
    volume, reports, patient = noise(20, 20, 20), [], Impatient()
    label_volume(network, BACKBONE, volume, PADDING, task=Task("", reports.append, patient))
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
    assert {report.message for report in reports} == {"on CPU (float32)"}
    assert patient.looks > 4 * 2 * 2 * 8, "one for every layer of a window"
    for at in range(1, patient.looks + 1, 25):
        with pytest.raises(Cancelled):
            label_volume(network, BACKBONE, volume, PADDING, task=Task("", None, Impatient(at)))


class Failing(WindowPredictor):
    """A predictor on a pretended GPU; ``fails`` (batch, device) returns an error, a value to answer with, or None."""

    def window_outputs(self, windows: np.ndarray, layer_done: Any = None) -> torch.Tensor:
        failure = self.fails(len(windows), self.device)
        real, self._fallback.device = self.device, CPU

        def compute() -> torch.Tensor:
            if isinstance(failure, Exception):
                raise failure
            logits = WindowPredictor.window_outputs(self, windows, layer_done)
            return logits if failure is None else torch.full_like(logits, failure)

        try:
            return fallback.finite_logits(compute)
        finally:
            self._fallback.device = real


def test_short_memory_takes_fewer_windows_then_the_cpu(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(window_sums, "free_memory_bytes", lambda device: 1e3 if device.kind == "cuda" else None)
    monkeypatch.setattr(fallback, "choose_device", lambda wanted: CPU)
    predictor = Failing((network,), 4, BACKBONE.tiling, Device("cuda:0", "GPU", torch.bfloat16))
    assert predictor.device.dtype == torch.float16, "of which logits keep more digits"
    tried: list[tuple[int, str]] = []

    def no_memory_on_gpu(batch: int, device: Device) -> Exception | None:
        tried.append((batch, device.kind))
        return torch.cuda.OutOfMemoryError("CUDA out of memory.") if device.kind == "cuda" else None

    predictor.fails = no_memory_on_gpu
    volume, reports = noise(12, 20, 20), []
    logits = assembled(predictor, volume, Task("", reports.append))
    assert np.abs(logits - whole_logits(network, volume)).max() < 1e-4
    assert [batch for batch, kind in tried if kind == "cuda"] == [4, 2, 1] and predictor.device == in_window_precision(
        CPU
    )
    messages = list(dict.fromkeys(report.message for report in reports))
    assert "Not enough memory on GPU: continuing with fewer windows at once" in messages
    assert "Not enough memory on GPU: continuing on the CPU" in messages and messages[-1] == "on CPU (float32)"


def test_half_precision_that_overflows_is_given_up(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(window_sums, "free_memory_bytes", lambda device: 1e3)
    predictor = Failing((network,), 4, BACKBONE.tiling, Device("cuda:0", "GPU", torch.float16))
    predictor.fails = lambda batch, device: float("inf") if device.dtype == torch.float16 else None
    volume = noise(8, 20, 20)
    assert np.abs(assembled(predictor, volume) - whole_logits(network, volume)).max() < 1e-4
    assert str(predictor.device) == "GPU (float32)"
    predictor.fails = lambda batch, device: float("nan")
    with pytest.raises(ModelError, match="not finite"):
        assembled(predictor, volume)


def test_too_little_memory_is_told(network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    predictor = Failing((network,), 4, BACKBONE.tiling, CPU)
    with pytest.raises(DeviceError, match="raise the limit"):
        predictor.predict(noise(8, 20, 20), PADDING, 1e4)
    predictor.fails = lambda batch, device: MemoryError()
    with pytest.raises(DeviceError, match="a window of 16 x 16 x 8 voxels: close other programs"):
        assembled(predictor, noise(8, 20, 20))
    monkeypatch.setattr(torch, "zeros", lambda *a, **k: torch.empty(2**60, dtype=torch.uint8))
    with pytest.raises(DeviceError, match="logits of a slab"):
        assembled(predictor, noise(8, 20, 20))


def test_the_network_stays_as_it_is(network: torch.nn.Module) -> None:
    network.train()
    label_volume(network, BACKBONE, noise(8, 16, 16), PADDING)
    assert network.training
    network.eval()


@pytest.mark.parametrize("relative", [True, False])
def test_sums_in_half_precision_keep_what_decides(
    network: torch.nn.Module, monkeypatch: pytest.MonkeyPatch, relative: bool
) -> None:
    """Two classes that are nearly equal and far from 0, as softmax allows, lie within float16's rounding."""
    expected = whole_logits(network, noise(19, 37, 30))
    monkeypatch.setattr(window_sums, "_MOST_IN_FLOAT32", 0.0)
    shifted = ShiftedLogits(network, 300.0)
    predictor = WindowPredictor((shifted,), 4, BACKBONE.tiling, CPU, regions=not relative)
    found = assembled(predictor, noise(19, 37, 30))
    if relative:
        assert np.mean(found.argmax(axis=0) != expected.argmax(axis=0)) < 1e-3
        most = found.max(axis=0, keepdims=True)
        np.testing.assert_allclose(found - most, expected - expected.max(axis=0, keepdims=True), atol=0.01)
    else:
        assert np.abs(found - (expected + 300)).max() < 1, "regions need logits as they are"
        assert np.mean(found.argmax(axis=0) != expected.argmax(axis=0)) > 0.03


class ShiftedLogits(torch.nn.Module):
    """A network whose classes all get the same number more."""

    def __init__(self, network: torch.nn.Module, shift: float) -> None:
        super().__init__()
        self.network, self.shift = network, shift

    def forward(self, scans: torch.Tensor) -> torch.Tensor:
        return self.network(scans) + self.shift


def test_mirrored_windows_are_averaged(network: torch.nn.Module) -> None:
    tiling = replace(BACKBONE.tiling, mirror_axes_zyx=(0, 2))
    window = noise(*PATCH)
    with torch.inference_mode():
        scans = torch.from_numpy(window)[None]
        flipped = [network(scans.flip(axes)).flip(axes) if axes else network(scans) for axes in ((), 2, 4, (2, 4))]
    expected = torch.stack(flipped).mean(dim=0)[0].numpy()
    assert np.abs(expected - flipped[0][0].numpy()).max() > 0.01, "else the test says nothing"
    predictor = WindowPredictor((network,), 4, tiling, CPU, PredictionOptions(mirror=True))
    np.testing.assert_allclose(assembled(predictor, window), expected, atol=1e-5)
    plain = WindowPredictor((network,), 4, tiling, CPU)
    np.testing.assert_allclose(assembled(plain, window), flipped[0][0].numpy(), atol=1e-5)


def test_mirrored_windows_report_every_layer(network: torch.nn.Module) -> None:
    tiling, fractions = replace(BACKBONE.tiling, mirror_axes_zyx=(0, 1, 2)), []
    predictor = WindowPredictor((network, network), 4, tiling, CPU, PredictionOptions(mirror=True))
    predictor.window_outputs(noise(*PATCH)[None], fractions.append)
    assert len(fractions) % 16 == 0 and fractions == sorted(fractions) and fractions[-1] == 1


def test_the_step_decides_how_many_windows_there_are(network: torch.nn.Module) -> None:
    for step, count in ((0.5, 4), (0.25, 7), (1.0, 3)):
        predictor = WindowPredictor((network,), 4, BACKBONE.tiling, CPU, PredictionOptions(step=step))
        assert [len(starts) for starts in predictor.starts((20, 16, 16))] == [count, 1, 1]


@pytest.mark.parametrize("step", [0.0, -1.0, 1.5, float("nan")])
def test_a_step_is_a_share_of_a_window(step: float) -> None:
    with pytest.raises(TransferSegError, match="share of a window"):
        PredictionOptions(step=step)
