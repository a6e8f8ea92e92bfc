from __future__ import annotations

import numpy as np
import pytest
import torch

from Testing.random_models import backbone
from TransferSegLib.errors import Cancelled, DeviceError, ModelError
from TransferSegLib.inference import exact_tiles, fallback, predict
from TransferSegLib.inference.devices import Device, choose_device
from TransferSegLib.inference.exact_tiles import ExactTilePredictor
from TransferSegLib.networks.unet_valid import tiles as unet_tiles
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork
from TransferSegLib.networks.unet_valid.tile_plan import tile_memory_bytes
from TransferSegLib.networks.unet_valid.tiles import ValidUNetTiles
from TransferSegLib.progress import CancelToken, Task

CPU = Device("cpu", "CPU")


def predictor_of(network, device=CPU, longest_side=None) -> ExactTilePredictor:
    return ExactTilePredictor(ValidUNetTiles(network), device, longest_side)


def predicted(predictor, volume, tile_bytes=predict.DEFAULT_TILE_BYTES, **options):
    return predictor.predict(volume[None], (-1.0,), tile_bytes, **options)


def label_volume(network, volume, **options) -> np.ndarray:
    return predict.label_volume(network, backbone(network), volume[None], (-1.0,), **options)


@pytest.fixture(scope="module")
def volume() -> np.ndarray:
    return np.random.default_rng(5).normal(size=(22, 41, 30)).astype(np.float32)


@pytest.fixture(scope="module")
def reference(network, volume) -> np.ndarray:
    """Logits of the whole volume in one pass of the network itself, without any of the code under test."""
    padded = np.full((132, 132, 132), -1.0, np.float32)
    padded[44:66, 44:85, 44:74] = volume
    with torch.inference_mode():
        return network(torch.from_numpy(padded)[None, None])[0, :, :22, :41, :30].numpy()


def assembled(prediction, classes=4) -> np.ndarray:
    """All logits of a prediction put together, from the tiles' own voxels."""
    logits = np.full((classes, *prediction.size_zyx), np.nan, np.float32)
    if prediction.background_logits is not None:
        logits[:] = prediction.background_logits.numpy()[:, None, None, None]
    for part in prediction:
        logits[(slice(None), *part.window)] = part.values[(slice(None), *part.own)].numpy()
    return logits


@pytest.mark.parametrize("longest_side", [108, 116, None])
def test_the_tile_size_does_not_matter(network, volume, reference, longest_side):
    logits = assembled(predicted(predictor_of(network, CPU, longest_side), volume))
    assert np.abs(logits - reference).max() < 1e-4
    assert np.mean(logits.argmax(axis=0) == reference.argmax(axis=0)) > 0.9999


def test_tiles_hold_one_voxel_more_than_they_own(network, volume, reference):
    prediction = predicted(predictor_of(network, CPU, 108), volume)
    parts = list(prediction)
    assert len(parts) == 2 * 3 * 2
    for part in parts:
        z, y, x = part.start_zyx
        depth, height, width = part.values.shape[1:]
        assert (z + depth, y + height, x + width) == tuple(
            min(stop + 1, size) for stop, size in zip(part.stop_zyx, volume.shape, strict=True)
        )
        expected = reference[:, z : z + depth, y : y + height, x : x + width]
        assert np.abs(part.values.numpy() - expected).max() < 1e-4


def test_label_volume(network, volume, reference):
    network.train()
    labels = label_volume(network, volume, tile=116)
    assert labels.dtype == np.uint8
    assert labels.shape == volume.shape
    assert np.mean(labels == reference.argmax(axis=0)) > 0.9999
    assert len(np.unique(labels)) == 4
    assert network.training
    assert all(parameter.requires_grad and parameter.dtype == torch.float32 for parameter in network.parameters())


def test_label_volume_in_bfloat16_is_nearly_the_same(network, volume, reference):
    labels = label_volume(network, volume, dtype=torch.bfloat16)
    assert 0.9 < np.mean(labels == reference.argmax(axis=0)) < 1


def test_air_is_left_out_and_the_answer_stays(network):
    volume = np.full((20, 20, 180), -1.0, np.float32)
    volume[:, :, 120:130] = np.random.default_rng(0).normal(size=(20, 20, 10))
    prediction = predicted(predictor_of(network, CPU, 108), volume)
    tiles = list(prediction)
    # Content at 120 to 129 is seen from x = 72 on, see test_plan; without leaving out there were 11 tiles.
    assert min(tile.start_zyx[2] for tile in tiles) == 72
    assert len(tiles) == 7
    padded = np.full((108, 108, 268), -1.0, np.float32)
    padded[44:64, 44:64, 44:224] = volume
    with torch.inference_mode():
        expected = network(torch.from_numpy(padded)[None, None])[0].numpy()
    assert np.abs(assembled(prediction) - expected).max() < 1e-4
    labels = label_volume(network, volume, tile=108)
    assert np.mean(labels == expected.argmax(axis=0)) > 0.9999


def test_a_hole_of_air_between_two_contents_is_left_out(network):
    volume = np.full((20, 20, 160), -1.0, np.float32)
    volume[10, 10, 0] = volume[10, 10, 159] = 1.0
    prediction = predicted(predictor_of(network, CPU, 108), volume)
    starts = [part.start_zyx[2] for part in prediction]
    # A tile at x sees x - 44 to x + 63: those from 48 to 80 see neither end.
    assert starts == [0, 16, 32, 96, 112, 128, 144]
    whole = assembled(predicted(predictor_of(network), volume))
    assert np.abs(assembled(prediction) - whole).max() < 1e-4


def test_a_volume_of_air_needs_no_tile(network):
    prediction = predicted(predictor_of(network), np.full((30, 30, 30), -1.0, np.float32))
    assert list(prediction) == []
    nothing = InferenceNetwork(network)(torch.full((1, 1, 108, 108, 108), -1.0))[0, :, 10, 10, 10]
    torch.testing.assert_close(prediction.background_logits, nothing, atol=1e-5, rtol=0)
    assert prediction.background_channel == int(nothing.argmax())


def test_progress_counts_tiles_and_names_the_device(network, volume):
    reports = []
    label_volume(network, volume, tile=108, task=Task("", reports.append))
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
    for tile in range(1, 13):
        assert any(fraction == pytest.approx(tile / 12) for fraction in fractions)
    assert {report.message for report in reports} == {"on CPU (float32)"}
    assert reports[-1].seconds_left == 0


def test_cancelled_between_two_tiles(network, volume):
    token, reports = CancelToken(), []

    def after_the_second(report):
        reports.append(report)
        if len(reports) == 2:
            token.cancel()

    with pytest.raises(Cancelled):
        label_volume(network, volume, tile=108, task=Task("", after_the_second, token))
    assert len(reports) == 2


class Failing(InferenceNetwork):
    """Fails as told by ``fails(network, scan)``, which returns an error to raise, a value to answer with, or None."""

    fails = staticmethod(lambda network, scan: None)

    def __call__(self, scan, content_zyx=None, padding_value=0.0, observer=None, piece_done=None, head_maps=None):
        failure = type(self).fails(self, scan)
        if isinstance(failure, Exception):
            raise failure
        logits = super().__call__(scan, content_zyx, padding_value, observer, piece_done, head_maps)
        return logits if failure is None else torch.full_like(logits, failure)


@pytest.fixture
def failing(monkeypatch):
    monkeypatch.setattr(unet_tiles, "InferenceNetwork", Failing)

    def set_failure(fails):
        monkeypatch.setattr(Failing, "fails", staticmethod(fails))

    return set_failure


def test_out_of_memory_makes_smaller_tiles(network, volume, reference, failing):
    tried = []

    def too_large(runner, scan):
        tried.append(scan.numel())
        too_much = scan.numel() > 109 * 109 * 124
        return RuntimeError("DefaultCPUAllocator: not enough memory: you tried") if too_much else None

    failing(too_large)
    reports = []
    labels = label_volume(network, volume, task=Task("", reports.append))
    assert np.mean(labels == reference.argmax(axis=0)) > 0.9999
    assert "Not enough memory on CPU: continuing with smaller tiles" in [report.message for report in reports]
    assert reports[-1].fraction == 1
    assert tried[0] > tried[-1]


def test_out_of_memory_on_a_gpu_goes_on_on_the_cpu(network, volume, reference, failing, monkeypatch):
    monkeypatch.setattr(exact_tiles, "free_memory_bytes", lambda device: 1e10 if device.kind == "cuda" else None)
    monkeypatch.setattr(fallback, "choose_device", lambda wanted: choose_device(wanted, torch.float32))
    sides = []

    class OnGpu(Failing):
        def __init__(self, network, device, dtype, memory_format):
            self.wanted = str(device)
            super().__init__(network, "cpu", dtype, memory_format)

    def no_memory_on_gpu(runner, scan):
        sides.append((runner.wanted, scan.shape[-1]))
        return torch.cuda.OutOfMemoryError("CUDA out of memory.") if runner.wanted == "cuda:0" else None

    failing(no_memory_on_gpu)
    monkeypatch.setattr(unet_tiles, "InferenceNetwork", OnGpu)
    monkeypatch.setattr(OnGpu, "fails", staticmethod(no_memory_on_gpu))
    reports = []
    predictor = predictor_of(network, Device("cuda:0", "GPU"))
    logits = assembled(predicted(predictor, volume, task=Task("Segmenting", reports.append)))
    assert np.abs(logits - reference).max() < 1e-4
    assert predictor.device == CPU
    messages = [report.message for report in reports]
    assert "Not enough memory on GPU: continuing on the CPU" in messages
    assert messages[-1] == "on CPU (float32)"
    assert ("cuda:0", 108) in sides


def test_a_gpu_that_others_fill_is_given_up_for_the_cpu(network, volume, reference, monkeypatch):
    monkeypatch.setattr(exact_tiles, "free_memory_bytes", lambda device: 1.2e8 if device.kind == "cuda" else None)
    monkeypatch.setattr(fallback, "choose_device", lambda wanted: choose_device(wanted, torch.float32))
    reports = []
    predictor = predictor_of(network, Device("cuda:0", "GPU"))
    logits = assembled(predicted(predictor, volume, task=Task("Segmenting", reports.append)))
    assert np.abs(logits - reference).max() < 1e-4
    assert predictor.device == CPU
    assert reports[0].message == "Not enough memory on GPU: continuing on the CPU"
    # It stays to be read until the first tile is done.
    messages = [report.message for report in reports]
    assert set(messages[messages.index("on CPU (float32)") :]) == {"on CPU (float32)"}


def test_one_value_that_is_no_number_is_seen(network):
    logits = torch.zeros(3, 40, 20, 20)
    assert fallback.are_finite(logits)
    for value in (float("nan"), float("inf"), -float("inf")):
        damaged = logits.clone()
        damaged[2, 39, 19, 19] = value
        assert not fallback.are_finite(damaged)


def test_out_of_memory_for_the_smallest_tile_on_the_cpu_is_told(network, volume, failing):
    failing(lambda runner, scan: MemoryError())
    with pytest.raises(DeviceError, match="not enough memory for the smallest tile"):
        label_volume(network, volume)


def test_other_errors_pass_through(network, volume, failing):
    failing(lambda runner, scan: RuntimeError("something else"))
    with pytest.raises(RuntimeError, match="something else"):
        label_volume(network, volume)


def test_half_precision_that_overflows_goes_on_in_float32(network, volume, reference, failing):
    failing(lambda runner, scan: float("inf") if runner.dtype == torch.bfloat16 else None)
    reports = []
    labels = label_volume(network, volume, dtype=torch.bfloat16, task=Task("", reports.append))
    assert np.mean(labels == reference.argmax(axis=0)) > 0.9999
    messages = list(dict.fromkeys(report.message for report in reports))
    assert messages == [
        "on CPU (bfloat16)",
        "CPU (bfloat16) is not precise enough for this model: continuing in float32",
        "on CPU (float32)",
    ]
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[-1] == pytest.approx(1)
    assert reports[-1].message == "on CPU (float32)"


def test_a_network_that_computes_no_numbers_is_told(network, volume, failing):
    failing(lambda runner, scan: float("nan"))
    with pytest.raises(ModelError, match="not finite"):
        label_volume(network, volume)


def test_the_memory_for_a_tile_is_kept_to(network, volume):
    budget = tile_memory_bytes((108, 116, 108), 2, 4)
    sides = set()
    predictor = predictor_of(network)
    plan = predicted(predictor, volume, tile_bytes=budget)
    for part in plan:
        sides.add(tuple(stop - start for start, stop in zip(part.start_zyx, part.stop_zyx, strict=True)))
    assert max(max(side) for side in sides) <= 28


def test_answers_of_a_tile(network, volume, reference):
    expected = np.exp(reference) / np.exp(reference).sum(axis=0)
    (part,) = predicted(predictor_of(network), volume)
    most = part.most_probable()
    assert most.dtype == np.uint8
    assert np.mean(most == reference.argmax(axis=0)) > 0.9999
    positions = tuple(np.random.default_rng(0).integers(0, size, 500) for size in volume.shape)
    values = part.probabilities_at(positions)
    assert values.dtype == np.float32
    assert np.abs(values - expected[(slice(None), *positions)].T).max() < 1e-4
