"""Stopping a segmentation at every look it takes at the token: nothing is left, and progress never goes back."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch

from Testing.impatient import Impatient
from TransferSegLib.errors import Cancelled
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.inference.segment_file import ScanToSegment, segment_file
from TransferSegLib.networks.unet_valid import inference_network
from TransferSegLib.networks.unet_valid.inference_network import InferenceNetwork
from TransferSegLib.networks.unet_valid.unet import UNet3D
from TransferSegLib.progress import Task


@pytest.fixture(scope="module")
def segmenter(make_model) -> Segmenter:
    return Segmenter(make_model(), "cpu")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    voxels = np.random.default_rng(2).integers(-400, 300, (20, 18, 16)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetSpacing((1.5, 1.5, 1.5))
    file = tmp_path / "scan.nii.gz"
    sitk.WriteImage(image, str(file))
    return file


def test_stopped_at_any_look_nothing_is_left(segmenter, scan, tmp_path):
    token, reports = Impatient(), []
    each = ScanToSegment(scan, tmp_path / "out" / "labels.nii.gz")
    segment_file(segmenter, each, task=Task("Segmenting", reports.append, token))
    assert list((tmp_path / "out").iterdir()) == [each.output]
    fractions = [report.fraction for report in reports]
    assert fractions == sorted(fractions) and fractions[-1] == 1
    looks = token.looks
    # Each of the 18 slices on the way to the grid, the slabs of a tile, each of the 20 slices of the label map.
    assert looks > 60
    # All of them would take a minute: some from everywhere, and the last ones.
    for at in [*range(1, looks, looks // 10), *range(looks - 3, looks + 1)]:
        each.output.unlink(missing_ok=True)
        with pytest.raises(Cancelled):
            segment_file(segmenter, each, task=Task("Segmenting", None, Impatient(at)))
        assert list((tmp_path / "out").iterdir()) == [], at


def test_a_tile_in_pieces_is_the_same_to_the_bit(network, monkeypatch):
    seen = torch.randn(1, 1, 124, 116, 108, generator=torch.Generator().manual_seed(1))
    shares = []
    for dtype in (torch.float32, torch.bfloat16):
        runner = InferenceNetwork(network, "cpu", dtype, torch.channels_last_3d)
        whole = runner(seen)
        monkeypatch.setattr(inference_network, "_MOST_AT_ONCE", 2e6)
        shares.clear()
        assert torch.equal(runner(seen, piece_done=shares.append), whole)
        monkeypatch.undo()
        assert len(shares) > 100
        assert shares == sorted(shares) and shares[-1] == pytest.approx(1, abs=1e-6) and shares[-2] < 1


def test_no_piece_is_larger_than_the_limit_allows(monkeypatch):
    pieces = []
    done = inference_network.Pieces.done
    monkeypatch.setattr(
        inference_network.Pieces, "done", lambda self, cost, dtype: (pieces.append(cost), done(self, cost, dtype))
    )
    monkeypatch.setattr(inference_network, "_MOST_AT_ONCE", 2e7)
    InferenceNetwork(UNet3D(3, 4))(torch.zeros(1, 1, 116, 108, 108), piece_done=lambda share: None)
    # Two rows at least are computed at once.
    assert max(pieces) < 3 * 2e7


def test_the_token_ends_a_tile_between_its_pieces(network):
    token = Impatient(3)

    def look(share: float) -> None:
        token.check()

    with pytest.raises(Cancelled):
        InferenceNetwork(network)(torch.zeros(1, 1, 108, 108, 108), piece_done=look)
    assert token.looks == 3
