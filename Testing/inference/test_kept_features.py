"""Features that are kept of a scan: the head makes the logits of them, near structures, within a budget, on disk."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from scipy import ndimage

from TransferSegLib.errors import ModelError, TransferSegError
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.inference.box_logits import BoxFeatures, BoxLogits
from TransferSegLib.inference.combined import open_segmenter
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.exact_tiles import ExactTilePredictor
from TransferSegLib.inference.kept_features import FeatureKeeper, KeptFeatures, load_features, save_features
from TransferSegLib.inference.predict import predictor_of
from TransferSegLib.inference.segmenter import Segmenter
from TransferSegLib.models.store import Model
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.nnunet.backbone import nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan
from TransferSegLib.progress import Task

CPU = Device("cpu", "CPU")


def noise(*sides_xyz: int) -> sitk.Image:
    """Return a scan of noise with air around."""
    values = np.random.default_rng(2).uniform(-200, 200, sides_xyz[::-1]).astype(np.float32)
    values[:, :3] = -1000
    image = sitk.GetImageFromArray(values)
    image.SetSpacing((1.5, 1.5, 1.5))
    return image


def kept_of(
    model: Model, scan: sitk.Image, keeper: FeatureKeeper | None = None, side: int | None = None
) -> KeptFeatures:
    keeper = keeper or FeatureKeeper()
    segmenter = Segmenter(model, CPU, features=True)
    if side is not None:
        predictor = segmenter._predictor
        assert isinstance(predictor, ExactTilePredictor)
        predictor._longest_side = side
    segmenter.segment_within(Task(), scan, keeper=keeper)
    assert keeper.kept is not None
    return keeper.kept


def relative(logits: np.ndarray) -> np.ndarray:
    """Return logits (n, classes) less what a voxel's have in common."""
    return logits - logits.max(axis=1, keepdims=True)


def test_the_head_makes_the_logits_of_them(make_model) -> None:
    model, scan = make_model(), noise(40, 30, 24)
    kept = kept_of(model, scan)
    prepared = preprocess(scan, model.description.preparation)
    predictor = predictor_of(model.network(), model.description.backbone, CPU)
    logits = np.full((4, *prepared.grid.size_zyx), np.nan, np.float32)
    for box in predictor.predict(prepared.intensities_czyx, prepared.padding_values, 2.5e9):
        logits[(slice(None), *box.window)] = box.values[(slice(None), *box.own)].numpy()
    weights, biases = model.state_dict["head.weight"].flatten(1).numpy(), model.state_dict["head.bias"].numpy()
    made = kept.features.astype(np.float32) @ weights.T + biases
    assert len(kept.voxels) > 1000
    assert np.allclose(relative(made), relative(logits.reshape(4, -1)[:, kept.voxels].T), atol=0.02)


def test_tiles_do_not_matter(make_model) -> None:
    """What is near a structure is kept, whichever tile it and the structure are in."""
    model, scan = make_model(), noise(70, 40, 30)
    whole, tiled = kept_of(model, scan), kept_of(model, scan, side=116)
    assert np.array_equal(whole.voxels, tiled.voxels)
    assert np.allclose(whole.features.astype(float), tiled.features.astype(float), atol=5e-3)


def test_windows_with_two_folds() -> None:
    """The features of both folds are there, and the mean of the heads makes the mean of the logits."""
    strides = ((1, 1, 1), (2, 2, 2))
    plan = UNetPlan(False, (4, 8), ((3, 3, 3),) * 2, strides, (1, 1), (1,), (16, 16, 16), overlap=0.5)
    backbone, networks = backbone_of(nnunet_spec(plan, 1, 3)), []
    for seed in (1, 2):
        network = backbone.build().eval()
        backbone.initialise(network, seed)
        networks.append(network)
    volume = np.random.default_rng(7).normal(size=(1, 40, 20, 18)).astype(np.float32)
    predictor = predictor_of(networks, backbone, CPU, features=True)
    heads = [network.decoder.seg_layers[-1] for network in networks]
    rows = 0
    for box in predictor.predict(volume, [0.0], 1e9, features=True):
        assert box.features is not None and box.features.values.shape[0] == 8
        assert box.features.start_zyx == box.start_zyx
        halves = box.features.values.float().split(4)
        with torch.no_grad():
            made = torch.stack([head(half[None])[0] for head, half in zip(heads, halves, strict=True)]).mean(dim=0)
        assert torch.allclose(made, box.values.float(), atol=0.02)
        rows += box.features.values.shape[1]
    assert rows >= 40


@pytest.fixture
def silent(make_model) -> Model:
    """Return a model that finds nothing."""
    model = make_model(spacing_mm=3.0)
    weights = dict(model.state_dict)
    weights["head.bias"] = weights["head.bias"] + torch.tensor([100.0, 0, 0, 0])
    return Model(model.description, weights, model.path)


def one_voxel(scan: sitk.Image, xyz: tuple[int, int, int]) -> sitk.Image:
    """Return a label map with a structure of one voxel."""
    label_map = sitk.Image(scan.GetSize(), sitk.sitkUInt8)
    label_map.CopyInformation(scan)
    label_map[xyz] = 1
    return label_map


def test_only_near_structures(silent: Model) -> None:
    """Also near one that the model does not find."""
    scan, xyz = noise(90, 90, 90), (30, 50, 40)
    kept = kept_of(silent, scan, FeatureKeeper(also=one_voxel(scan, xyz)))
    grid = preprocess(scan, silent.description.preparation).grid
    place = np.rint(grid.matrix @ np.array(xyz) + grid.offset_xyz).astype(int)[::-1]
    box = np.zeros(grid.size_zyx, bool)
    box[tuple(place)] = True
    expected = ndimage.binary_dilation(box, np.ones((21, 21, 21)))  # 30 mm are 10 voxels of 3 mm
    assert np.array_equal(kept.rows() >= 0, expected) and expected.sum() < expected.size / 2


def test_within_the_budget(silent: Model) -> None:
    scan = noise(90, 90, 90)
    also = one_voxel(scan, (45, 45, 45))
    kept = kept_of(silent, scan, FeatureKeeper(also=also))
    less = kept_of(silent, scan, FeatureKeeper(kept.features.nbytes / 2e6, also))
    assert 0 < less.features.nbytes <= kept.features.nbytes / 2
    assert set(less.voxels) <= set(kept.voxels)
    none = FeatureKeeper(1e-5, also)
    Segmenter(silent, CPU, features=True).segment_within(Task(), scan, keeper=none)
    assert none.kept is None


def test_on_disk(make_model, tmp_path: Path) -> None:
    kept = kept_of(make_model(), noise(30, 20, 20))
    path = tmp_path / "new" / "scan.features"
    assert load_features(path, kept.scan, kept.model) is None
    save_features(kept, path)
    read = load_features(path, kept.scan, kept.model)
    assert (
        read is not None and np.array_equal(read.features, kept.features) and np.array_equal(read.voxels, kept.voxels)
    )
    assert [file.name for file in path.parent.iterdir()] == ["scan.features"]
    assert load_features(path, "another scan", kept.model) is None
    assert load_features(path, kept.scan, "another model") is None
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    assert load_features(path, kept.scan, kept.model) is None  # damaged: it is computed again
    unsorted = replace(kept, voxels=kept.voxels[::-1])
    save_features(unsorted, path)
    assert load_features(path, kept.scan, kept.model) is None


def test_other_files_are_not_taken_for_features(tmp_path: Path) -> None:
    """They would be written over."""
    for name, content in (("scan.nii.gz", b"\x1f\x8b something"), ("empty", b""), ("text.txt", b"PKno zip")):
        path = tmp_path / name
        path.write_bytes(content)
        with pytest.raises(TransferSegError, match="holds no features"):
            load_features(path, "scan", "model")
        assert path.read_bytes() == content
    np.savez(tmp_path / "other.npz", something=np.zeros(3))
    with pytest.raises(TransferSegError, match="holds no features"):
        load_features(tmp_path / "other.npz", "scan", "model")


def test_combinations_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("TransferSegLib.inference.combined.is_combination", lambda path: True)
    with pytest.raises(ModelError, match="combination"):
        open_segmenter(tmp_path / "both", features=True)


def collected(keeper: FeatureKeeper, model: Model, scan: sitk.Image, side: int) -> tuple[KeptFeatures | None, int]:
    """Hand a keeper a scan with a structure in its middle, box by box; return what was kept and the most it held."""
    grid = preprocess(scan, model.description.preparation).grid
    keeper.begin(grid)
    size, most = grid.size_zyx, 0
    middle = np.array(size) // 2
    for corner in np.ndindex(*(-(-length // side) for length in size)):
        start = tuple(side * place for place in corner)
        stop = tuple(min(length, at + side) for length, at in zip(size, start, strict=True))
        shape = tuple(last - first for first, last in zip(start, stop, strict=True))
        logits = torch.zeros(4, *shape)
        inside = [max(0, m - at) for m, at in zip(middle, start, strict=True)]
        if all(at <= m < last for at, m, last in zip(start, middle, stop, strict=True)):
            logits[(1, *inside)] = 1.0
        flat = np.ravel_multi_index(np.ix_(*(np.arange(a, b) for a, b in zip(start, stop, strict=True))), size)
        values = torch.from_numpy(np.broadcast_to(flat % 1000, (8, *shape)).astype(np.float16))
        keeper.add(BoxLogits(start, stop, logits, features=BoxFeatures(start, values)))
        most = max(most, sum(features.nbytes for _, features in keeper._parts))
    keeper.finish(scan, model)
    return keeper.kept, most


def test_collecting_stays_within_a_multiple_of_the_budget(silent: Model) -> None:
    """What waits at the borders of boxes goes when it is not needed; what is near the structure stays all the same."""
    scan = noise(80, 80, 400)
    expected, most_of_all = collected(FeatureKeeper(), silent, scan, 40)
    assert expected is not None
    budget_mb = 3 * expected.features.nbytes / 1e6
    kept, most = collected(FeatureKeeper(budget_mb), silent, scan, 40)
    assert kept is not None and np.array_equal(kept.voxels, expected.voxels)
    assert np.array_equal(kept.features, expected.features)
    assert most <= 4 * budget_mb * 1e6 < most_of_all


@pytest.mark.parametrize("share", [0.3, 0.02])
def test_with_less_room_fewer_are_kept_and_memory_stays_small(silent: Model, share: float) -> None:
    scan = noise(150, 150, 150)
    whole, _ = collected(FeatureKeeper(), silent, scan, 25)
    assert whole is not None
    budget_mb = share * whole.features.nbytes / 1e6
    kept, most = collected(FeatureKeeper(budget_mb), silent, scan, 25)
    assert most <= 4 * budget_mb * 1e6 + 25**3 * 16
    assert kept is None or (kept.features.nbytes <= budget_mb * 1e6 and set(kept.voxels) <= set(whole.voxels))
    assert kept is not None or share < 0.1
