"""Models of several folds: on disk, averaged in prediction, imported from nnU-Net."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from Testing.nnunet_fixtures import RESIDUAL, NnUNetFixture, imported
from Testing.tiny_family import tiny_model
from TransferSegLib.errors import ModelError
from TransferSegLib.images.preprocess import preprocess
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.predict import label_volume
from TransferSegLib.models.archive import MODEL_FILE, export_model
from TransferSegLib.models.folds import fold_of, joined_folds
from TransferSegLib.models.library import import_model
from TransferSegLib.models.store import Model, load_description, load_model, save_model, set_profile


@pytest.fixture(scope="module")
def parts() -> list[Model]:
    return [tiny_model(seed=seed) for seed in (1, 2, 3)]


@pytest.fixture(scope="module")
def joined(parts: list[Model]) -> Model:
    states = joined_folds([part.state_dict for part in parts])
    return Model(replace(parts[0].description, folds=3), states, Path("joined"))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return list(first) == list(second) and all(torch.equal(first[name], second[name]) for name in first)


def test_folds_come_apart_as_they_went_in() -> None:
    folds = [{"1.a": 1, "b": 2}, {"1.a": 3, "b": 4}]
    assert joined_folds(folds) == {"0.1.a": 1, "0.b": 2, "1.1.a": 3, "1.b": 4}
    assert [fold_of(joined_folds(folds), number, 2) for number in (0, 1)] == folds
    assert fold_of(joined_folds(folds[:1]), 0, 1) == folds[0]


@pytest.mark.parametrize("half", [False, True])
def test_saved_and_loaded(parts: list[Model], joined: Model, tmp_path: Path, half: bool) -> None:
    folder = save_model(tmp_path / "model", joined.description, joined.state_dict, half)
    assert json.loads((folder / MODEL_FILE).read_text(encoding="utf-8"))["folds"] == 3
    read = load_model(folder)
    assert read.description == joined.description
    for number, part in enumerate(parts):
        expected = {name: v.half().float() if half else v for name, v in part.state_dict.items()}
        assert equal(read.fold_weights(number), expected)
        assert equal(dict(read.networks()[number].state_dict()), expected)
    assert equal(dict(read.network().state_dict()), read.fold_weights())
    set_profile(folder, None)
    archive = export_model(folder, tmp_path / "model.zip")
    added = import_model(archive, tmp_path / "library", "again")
    assert load_description(added.path).folds == 3
    assert equal(load_model(added.path).state_dict, read.state_dict)


def test_the_default_is_one_fold(parts: list[Model], tmp_path: Path) -> None:
    assert "folds" not in parts[0].description.to_json()
    read = load_model(save_model(tmp_path / "model", parts[0].description, parts[0].state_dict))
    assert read.description.folds == 1 and len(read.networks()) == 1


def test_weights_of_other_folds_are_refused(joined: Model, parts: list[Model], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="lack the layer '0"):
        save_model(tmp_path / "a", joined.description, parts[0].state_dict)
    with pytest.raises(ModelError, match="have a layer '2"):
        save_model(tmp_path / "a", replace(joined.description, folds=2), joined.state_dict)
    folder = save_model(tmp_path / "model", joined.description, joined.state_dict)
    for folds, told in (
        (2, "54 entries for 32 arrays"),
        (4, "lack the layer '3"),
        (0, "folds"),
        (1.5, "folds"),
        (99, "folds"),
    ):
        entry = json.loads((folder / MODEL_FILE).read_text(encoding="utf-8")) | {"folds": folds}
        (folder / MODEL_FILE).write_text(json.dumps(entry), encoding="utf-8")
        with pytest.raises(ModelError, match=told):
            load_model(folder)


def test_a_file_may_be_as_large_as_all_folds(tmp_path: Path) -> None:
    """The bound on the weights file counts every fold; one fold less would refuse it."""
    parts = [tiny_model(width=64, seed=seed) for seed in range(6)]
    described = replace(parts[0].description, folds=6)
    folder = save_model(tmp_path / "model", described, joined_folds([part.state_dict for part in parts]))
    size = (folder / "weights.pt").stat().st_size
    assert size > 4 * described.backbone.parameters + 2**20, "else the test says nothing"
    assert len(load_model(folder).networks()) == 6


def test_the_paper_s_network_has_one_fold() -> None:
    from Testing.random_models import random_model

    with pytest.raises(ModelError, match="cannot have several folds"):
        replace(random_model(3.0).description, folds=2)


def test_the_mean_of_the_logits_counts(parts: list[Model], joined: Model) -> None:
    volume = np.random.default_rng(1).normal(size=(2, 8, 16, 16)).astype(np.float32)
    with torch.inference_mode():
        each = [part.network()(torch.from_numpy(volume)[None])[0] for part in parts]
    expected = torch.stack(each).mean(dim=0).argmax(dim=0).numpy()
    found = label_volume(joined.networks(), joined.description.backbone, volume, (-1.0, 0.0), device="cpu")
    assert np.mean(found == expected) > 0.999
    assert np.mean(found == each[0].argmax(dim=0).numpy()) < 0.99


def test_all_folds_of_nnunet_are_imported_or_one() -> None:
    description, state = imported(RESIDUAL)
    assert description.folds == 2
    for fold in (0, 1):
        alone, weights = imported(RESIDUAL, str(fold))
        assert alone.folds == 1 and equal(weights, fold_of(state, fold, 2))
    assert description.network.arguments["mirror_axes_zyx"] == [0, 1, 2]
    with pytest.raises(ModelError, match="no fold 7"):
        imported(RESIDUAL, "7")


def test_a_parent_of_two_folds_is_compared_as_a_whole(tmp_path: Path) -> None:
    """What a user gets of a parent is the mean of its folds: held-out cases are predicted so, too."""
    fixture = NnUNetFixture(RESIDUAL)
    description, state = imported(RESIDUAL)
    model = Model(description, state, tmp_path)
    scan = preprocess(read_scan(fixture.images[0]), description.preparation)
    prepared = scan.intensities_czyx[:, :, :64, :64]
    both = label_volume(model.networks(), description.backbone, prepared, (0.0,), device="cpu")
    first = label_volume(model.network(), description.backbone, prepared, (0.0,), device="cpu")
    assert both.shape == first.shape and np.mean(both == first) < 0.9
