from __future__ import annotations

from itertools import permutations, product

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from TransferSegLib.errors import Cancelled, DeviceError, ModelError, ScanError, TransferSegError
from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.inference import segmenter as segment_module
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.segment import Segmenter, segment
from TransferSegLib.models.store import save_model
from TransferSegLib.networks.unet_valid.tile_plan import tile_memory_bytes
from TransferSegLib.progress import CancelToken


@pytest.fixture(autouse=True)
def _in_float32(monkeypatch):
    """Compute in float32 everywhere, so that results can be compared voxel for voxel."""
    choose = segment_module.choose_device
    monkeypatch.setattr(segment_module, "choose_device", lambda wanted: choose(wanted, torch.float32))


def noisy_scan(size_xyz=(14, 12, 10), spacing_xyz=(1.0, 1.5, 2.5), direction=None, seed=4) -> sitk.Image:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=size_xyz[::-1]), 0.8)
    image = sitk.GetImageFromArray((noise * 2000).astype(np.int16))
    image.SetSpacing(spacing_xyz)
    image.SetOrigin((30.0, -12.0, 5.5))
    if direction is not None:
        image.SetDirection(np.asarray(direction, float).ravel().tolist())
    return image


def oriented_copy(image: sitk.Image, axes, reversed_axes) -> sitk.Image:
    """Return the same image in the world with its axes in another order and direction."""
    return sitk.Flip(sitk.PermuteAxes(image, list(axes)), list(reversed_axes))


def in_frame_of(label_map: sitk.Image, reference: sitk.Image) -> np.ndarray:
    """Return labels on the reference's grid, picked without interpolation."""
    return sitk.GetArrayFromImage(sitk.Resample(label_map, reference, sitk.Transform(), sitk.sitkNearestNeighbor, 99))


def test_the_48_orientations_give_the_same_segmentation(make_model):
    segmenter = Segmenter(make_model(), "cpu")
    image = noisy_scan()
    expected = sitk.GetArrayFromImage(segmenter.segment(image).label_map)
    assert len(np.unique(expected)) == 4
    for axes, reversed_axes in product(permutations(range(3)), product((False, True), repeat=3)):
        label_map = segmenter.segment(oriented_copy(image, axes, reversed_axes)).label_map
        np.testing.assert_array_equal(in_frame_of(label_map, image), expected)


def test_stored_orientations_give_the_same_segmentation(make_model, shared_data):
    files = sorted((shared_data / "odd_volumes" / "orientations").glob("*.nii*"))
    images = [sitk.ReadImage(str(file)) for file in files]
    segmenter = Segmenter(make_model(spacing_mm=8.0, rule=IntensityRule("percentiles", 1, 99)), "cpu")
    expected = segmenter.segment(images[0]).label_map
    for image in images[1::12]:
        label_map = segmenter.segment(image).label_map
        same = in_frame_of(label_map, images[0]) == sitk.GetArrayFromImage(expected)
        assert same.mean() > 0.9999


@pytest.mark.parametrize(
    ("size", "spacing", "degrees"),
    [
        ((14, 12, 10), (1.0, 1.5, 2.5), 25),
        ((40, 40, 1), (1.0, 1.0, 5.0), 0),
        ((30, 30, 5), (0.7, 0.7, 6.0), 0),
        ((3, 3, 3), (1.0, 1.0, 1.0), 0),
        ((1, 2, 9), (4.0, 4.0, 1.0), 10),
    ],
)
def test_the_label_map_lies_on_its_scan_whatever_its_shape(make_model, size, spacing, degrees):
    turn = sitk.Euler3DTransform()
    turn.SetRotation(np.radians(degrees), 0, np.radians(degrees) / 2)
    image = noisy_scan(size, spacing, np.array(turn.GetMatrix()).reshape(3, 3))
    segmentation = Segmenter(make_model(), "cpu").segment(image)
    for part in ("Size", "Spacing", "Origin", "Direction"):
        assert getattr(segmentation.label_map, f"Get{part}")() == getattr(image, f"Get{part}")()
    assert set(np.unique(sitk.GetArrayFromImage(segmentation.label_map))) <= {0, 10, 20, 30}


def test_on_the_models_own_grid_it_is_the_networks_argmax(make_model):
    model = make_model(spacing_mm=2.0)
    image = noisy_scan((14, 12, 10), (2.0, 2.0, 2.0))
    scan = preprocess(image, Preparation.isotropic(2.0, model.description.preparation.channels[0]))
    padded = torch.full((1, 1, 108, 108, 108), scan.padding_values[0])
    padded[0, 0, 44:54, 44:56, 44:58] = torch.from_numpy(scan.intensities_czyx[0])
    with torch.inference_mode():
        expected = 10 * model.network()(padded)[0, :, :10, :12, :14].argmax(dim=0).numpy()
    got = sitk.GetArrayFromImage(Segmenter(model, "cpu").segment(image).label_map)
    assert np.mean(got == expected) > 0.999


def test_structures_not_asked_for_become_background(make_model):
    segmenter = Segmenter(make_model(), "cpu")
    image = noisy_scan()
    every = sitk.GetArrayFromImage(segmenter.segment(image).label_map)
    chosen = segmenter.segment(image, ["Part 2"])
    np.testing.assert_array_equal(sitk.GetArrayFromImage(chosen.label_map), np.where(every == 20, 20, 0))
    assert chosen.label_set.names == ("part 2",)
    assert list(chosen.volumes_ml()) == ["part 2"]


def test_volumes_are_voxels_times_their_size(make_model):
    segmentation = Segmenter(make_model(), "cpu").segment(noisy_scan())
    labels = sitk.GetArrayFromImage(segmentation.label_map)
    expected = {f"part {n}": np.sum(labels == 10 * n) * 1.0 * 1.5 * 2.5 / 1000 for n in (1, 2, 3)}
    assert segmentation.volumes_ml() == pytest.approx(expected)
    assert all(volume > 0 for volume in expected.values())
    assert segmentation.device == "CPU (float32)"
    assert segmentation.seconds > 0


def test_labels_above_255_are_kept(make_model):
    label_map = Segmenter(make_model(factor=1000), "cpu").segment(noisy_scan()).label_map
    assert label_map.GetPixelID() == sitk.sitkUInt16
    assert set(np.unique(sitk.GetArrayFromImage(label_map))) == {0, 1000, 2000, 3000}


def test_a_small_memory_gives_the_same_segmentation(make_model):
    model = make_model()
    image = noisy_scan((60, 20, 20), (1.5, 1.5, 1.5))
    reports = []
    expected = Segmenter(model, "cpu").segment(image, progress=reports.append)
    scan = preprocess(image, Preparation.isotropic(1.5, model.description.preparation.channels[0]))
    besides = Segmenter(model, "cpu")._bytes_besides_tiles(image, scan)
    small = Segmenter(model, "cpu", memory_gb=(besides + tile_memory_bytes((124, 108, 108), 1, 4)) / 1e9)
    many = []
    got = small.segment(image, progress=many.append)
    for followed in (reports, many):
        fractions = [report.fraction for report in followed]
        assert fractions == sorted(fractions) and fractions[-1] == 1
    assert len(many) > len(reports)
    same = sitk.GetArrayFromImage(got.label_map) == sitk.GetArrayFromImage(expected.label_map)
    assert same.mean() > 0.9999


def test_too_little_memory_is_told(make_model):
    with pytest.raises(DeviceError, match="raise the limit"):
        Segmenter(make_model(), "cpu", memory_gb=0.1).segment(noisy_scan())


def test_the_default_device_is_told(make_model, monkeypatch):
    monkeypatch.setattr(segment_module, "choose_device", lambda wanted: Device("cpu", f"chosen for {wanted}"))
    assert Segmenter(make_model()).segment(noisy_scan()).device == "chosen for auto (float32)"


def test_files_and_models_by_path(make_model, tmp_path):
    model = make_model()
    folder = save_model(tmp_path / "model", model.description, model.state_dict)
    file = tmp_path / "scan.nii.gz"
    image = noisy_scan()
    sitk.WriteImage(image, str(file))
    by_path = segment(file, folder, ["part 1"], device="cpu")
    by_object = segment(image, model, ["part 1"], device="cpu")
    np.testing.assert_array_equal(
        sitk.GetArrayFromImage(by_path.label_map), sitk.GetArrayFromImage(by_object.label_map)
    )


def test_what_is_no_scan_is_refused(make_model):
    segmenter = Segmenter(make_model(), "cpu")
    for image in (sitk.Image((8, 8), sitk.sitkInt16), sitk.Image((8, 8, 8), sitk.sitkVectorInt16, 3)):
        with pytest.raises(ScanError, match="one 3D volume of numbers"):
            segmenter.segment(image)
    with pytest.raises(ScanError, match="complex"):
        segmenter.segment(sitk.Image((8, 8, 8), sitk.sitkComplexFloat32))
    voxels = np.random.default_rng(0).normal(size=(8, 8, 8)).astype(np.float32)
    voxels[3, 3, 3] = np.nan
    with pytest.raises(ScanError, match="not numbers"):
        segmenter.segment(sitk.GetImageFromArray(voxels))


def test_an_unknown_structure_is_told_before_any_work(make_model):
    with pytest.raises(TransferSegError, match="no structure 'spleen'"):
        Segmenter(make_model(), "cpu").segment(noisy_scan(), ["spleen"])


def test_cancelling(make_model):
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        Segmenter(make_model(), "cpu").segment(noisy_scan(), cancel=token)


def test_a_missing_model_is_told(tmp_path):
    with pytest.raises(ModelError):
        segment(noisy_scan(), tmp_path / "nothing")
