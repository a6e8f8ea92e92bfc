"""Features of certain voxels: those of the whole scan, and only the tiles and windows that hold them are computed."""

from __future__ import annotations

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.impatient import Impatient
from Testing.inference.test_kept_features import CPU, noise
from TransferSegLib.errors import Cancelled, ScanError
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.inference.exact_tiles import ExactTilePredictor
from TransferSegLib.inference.kept_features import FeatureKeeper, KeptFeatures, joined
from TransferSegLib.inference.predict import predictor_of
from TransferSegLib.inference.segmenter import Segmenter
from TransferSegLib.inference.wanted_features import WantedFeatures
from TransferSegLib.models.store import Model
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.nnunet.backbone import nnunet_spec
from TransferSegLib.networks.nnunet.plan import UNetPlan
from TransferSegLib.progress import Task


def segmenter_of(model: Model, side: int, monkeypatch: pytest.MonkeyPatch) -> tuple[Segmenter, list[int]]:
    """Return a segmenter with tiles of a side, and a list that gets longer with each that is computed."""
    segmenter, computed = Segmenter(model, CPU, features=True), []
    predictor = segmenter._predictor
    assert isinstance(predictor, ExactTilePredictor)
    predictor._longest_side = side
    compute = predictor.logits
    monkeypatch.setattr(predictor, "logits", lambda *values: (computed.append(1), compute(*values))[1])
    return segmenter, computed


def every_voxel(scan: sitk.Image) -> FeatureKeeper:
    """Return a keeper of the features of the whole scan."""
    label_map = sitk.Cast(scan * 0 + 1, sitk.sitkUInt8)
    return FeatureKeeper(1000, also=label_map)


def test_they_are_those_of_the_whole_scan(make_model, monkeypatch: pytest.MonkeyPatch) -> None:
    model, scan = make_model(), noise(70, 64, 60)
    segmenter, computed = segmenter_of(model, 116, monkeypatch)
    keeper = every_voxel(scan)
    segmenter.segment_within(Task(), scan, keeper=keeper)
    tiles = len(computed)
    assert keeper.kept is not None and tiles > 4
    wanted_zyx = np.zeros(preprocess(scan, model.description.preparation).grid.size_zyx, bool)
    wanted_zyx[-9:-4, 10:15, -12:] = True
    wanted_zyx[-4, 12, -3] = True
    computed.clear()
    found = segmenter.features_within(Task(), scan, WantedFeatures(wanted_zyx))
    assert 0 < len(computed) < tiles / 2
    assert np.array_equal(found.voxels, np.flatnonzero(wanted_zyx))
    rows = keeper.kept.rows().reshape(-1)[found.voxels]
    assert (rows >= 0).all() and np.array_equal(found.features, keeper.kept.features[rows])
    assert (found.scan, found.model) == (keeper.kept.scan, keeper.kept.model)


@pytest.mark.parametrize(
    "window", [(slice(3, 5), slice(2, 4), slice(1, 17)), (slice(30, 40), slice(0, 20), slice(15, 18))]
)
def test_windows_elsewhere_are_not_computed(window: tuple[slice, slice, slice]) -> None:
    """And those that are computed say the same of the part that is asked for."""
    strides = ((1, 1, 1), (2, 2, 2))
    plan = UNetPlan(False, (4, 8), ((3, 3, 3),) * 2, strides, (1, 1), (1,), (16, 16, 16), overlap=0.5)
    backbone = backbone_of(nnunet_spec(plan, 1, 3))
    network = backbone.build().eval()
    backbone.initialise(network, 3)
    volume = np.random.default_rng(7).normal(size=(1, 64, 20, 18)).astype(np.float32)
    predictor = predictor_of(network, backbone, CPU, features=True)
    found, counts, boxes, shares = [], [], [], []
    wanted_zyx = np.zeros(volume.shape[1:], bool)
    wanted_zyx[window] = True
    for within in (None, wanted_zyx):
        shares.clear()
        features, computed = np.full((4, *volume.shape[1:]), np.nan, np.float16), []
        compute = predictor.window_outputs
        predictor.window_outputs = lambda *values, run=compute, seen=computed: (seen.append(1), run(*values))[1]
        task = Task("", lambda progress: shares.append(progress.fraction))
        for box in predictor.predict(volume, [0.0], 1e9, task, features=True, within=within):
            rows = box.features.values.numpy()
            boxes.append(within is None)
            features[:, box.start_zyx[0] : box.start_zyx[0] + rows.shape[1]] = rows
        predictor.window_outputs = compute
        found.append(features[(slice(None), *window)])
        counts.append(len(computed))
    assert np.isfinite(found[0]).all() and np.array_equal(*found)
    assert 0 < counts[1] < counts[0] / 2 and boxes.count(False) < boxes.count(True) / 2
    assert shares == sorted(shares) and shares[-1] == pytest.approx(1.0)


def test_a_scan_smaller_than_a_window_and_two_folds() -> None:
    """Windows begin before such a scan; the features of both folds are those of the whole scan."""
    strides = ((1, 1, 1), (2, 2, 2))
    plan = UNetPlan(False, (4, 8), ((3, 3, 3),) * 2, strides, (1, 1), (1,), (16, 16, 16), overlap=0.5)
    backbone, networks = backbone_of(nnunet_spec(plan, 1, 3)), []
    for seed in (1, 2):
        networks.append(backbone.build().eval())
        backbone.initialise(networks[-1], seed)
    volume = np.random.default_rng(7).normal(size=(1, 40, 9, 11)).astype(np.float32)
    wanted_zyx = np.zeros(volume.shape[1:], bool)
    wanted_zyx[20, 0, 10] = True
    found = []
    for within in (None, wanted_zyx):
        predictor = predictor_of(networks, backbone, CPU, features=True)
        for box in predictor.predict(volume, [0.0], 1e9, features=True, within=within):
            if box.start_zyx[0] <= 20 < box.stop_zyx[0]:
                found.append(box.features.values[:, 20 - box.start_zyx[0], 0, 10].numpy())
    whole, part = found
    assert len(part) == 8 and np.array_equal(whole, part)


def test_stopping_and_scans_without_numbers(make_model) -> None:
    model, scan = make_model(), noise(40, 36, 30)
    segmenter = Segmenter(model, CPU, features=True)
    wanted = WantedFeatures(np.ones(preprocess(scan, model.description.preparation).grid.size_zyx, bool))
    with pytest.raises(Cancelled):
        segmenter.features_within(Task("", None, Impatient(3)), scan, wanted)
    scan[20, 20, 20] = float("nan")
    with pytest.raises(ScanError, match="not numbers"):
        segmenter.features_within(Task(), scan, wanted)


def test_what_was_kept_before_stays_if_there_is_room() -> None:
    def kept(*voxels: int, value: float) -> KeptFeatures:
        features = np.full((len(voxels), 4), value, np.float16)
        return KeptFeatures("scan", "model", (2, 3, 4), np.array(voxels), features)

    before, new = kept(1, 5, 9, value=1), kept(5, 6, value=2)
    both = joined(before, new, 1.0)
    assert both.voxels.tolist() == [1, 5, 6, 9] and both.features[:, 0].tolist() == [1, 2, 2, 1]
    assert joined(before, new, 3 * 16 / 1e6) is new, "four voxels of 16 bytes do not fit"
    assert joined(None, new, 1.0) is new
    other = KeptFeatures("another scan", "model", (2, 3, 4), before.voxels, before.features)
    assert joined(other, new, 1.0) is new
