"""Trained weights in half precision against a float32 tile of the network as it is written: the labels must agree.

Random weights tie everywhere, so this takes the bundled model and the sample that comes with it, of which the part with
most voxels in structures. ``Testing/research/benchmarks/compare_inference.py --only`` compares the whole sample, and
``Testing/networks/test_inference_network.py`` small tiles of random weights on every processor.
"""

from __future__ import annotations

import numpy as np
import torch

from Testing.half_precision import large_in_bfloat16
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.inference.exact_tiles import ExactTilePredictor, tile_input
from TransferSegLib.models.locate import bundled_sample, find_model
from TransferSegLib.models.store import load_model
from TransferSegLib.networks.interface import Tile
from TransferSegLib.networks.unet_valid.tile_plan import TilePlan

#: A tile of 132 voxels that answers for these voxels of the canonical scan.
TILE = Tile((32, 16, 56), (76, 60, 100))


@large_in_bfloat16
def test_labels_of_trained_weights_in_bfloat16_are_those_of_float32():
    model = load_model(find_model())
    description, network = model.description, model.network()
    image = read_scan(read_dataset(bundled_sample()).cases[0].image)
    scan = preprocess(image, description.preparation)
    plan = TilePlan(TILE.start_zyx, TILE.stop_zyx, (132, 132, 132))
    predictor = ExactTilePredictor(description.backbone.exact_tiles(network), choose_device("cpu", torch.bfloat16))
    seen = tile_input(scan.intensities_czyx, scan.padding_values, plan, TILE, predictor.tiles.margin_zyx)
    with torch.inference_mode():
        by_float32 = network(torch.from_numpy(seen)[None])[0]
    expected = by_float32.argmax(dim=0).numpy()
    best_two = by_float32.topk(2, dim=0).values.numpy()
    logits = predictor.logits(seen, scan.padding_values)
    assert logits.dtype == torch.bfloat16
    got = logits.argmax(dim=0).numpy()
    in_a_structure = (got != 0) | (expected != 0)
    assert len(np.unique(expected)) >= 7 and in_a_structure.sum() > 5000
    assert np.mean(got == expected) > 0.9998
    assert np.mean(got[in_a_structure] == expected[in_a_structure]) > 0.9985
    # Only where two classes are as good as equal may the other one win; logits reach 30.
    assert (best_two[0] - best_two[1])[got != expected].max(initial=0.0) < 0.05
    # Half precision must not favour the background, the first of the classes, where two are close.
    assert abs(int((got != 0).sum()) - int((expected != 0).sum())) < 10
