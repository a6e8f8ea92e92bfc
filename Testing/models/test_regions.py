"""Models whose structures overlap (regions), and those that take several images of a scan."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from Testing.nnunet_fixtures import REGIONS, TRAINED, NnUNetFixture, imported
from TransferSegLib.errors import ModelError, TransferSegError
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.exporters.nnunet.plans import nnunet_files
from TransferSegLib.models.importers.nnunet.plans import read_plans
from TransferSegLib.models.importers.nnunet.source import find_source


def described(name: str) -> ModelDescription:
    return imported(name)[0]


def plans_of(name: str) -> tuple[Any, Any]:
    source = find_source(NnUNetFixture(name).model)
    assert source is not None
    return source.json(source.plans), source.json(source.dataset)


def test_regions_and_images_are_imported_and_written(tmp_path: Path) -> None:
    model = described(REGIONS)
    assert [(s.name, s.label) for s in model.label_set] == [("whole", 1), ("core", 2), ("enh", 3)]
    assert model.regions == ((1, 2, 3), (2, 3), (3,)) and model.network.classes == 3
    assert model.own_labels == {"whole": (1, 2, 3), "core": (2, 3), "enh": (3,)}
    assert model.preparation.image_names == ("T1", "T2") and model.preparation.images == (0, 1)
    assert ModelDescription.from_json(json.loads(json.dumps(model.to_json()))) == model
    for what in ("Fine-tuning", "Scoring"):
        with pytest.raises(ModelError, match=rf"{what} is not possible yet with 'model', whose structures overlap"):
            model.check_single_structures(what)
    with pytest.raises(ModelError, match="takes several images: T1, T2"):
        model.check_one_image("It")
    plain = described(TRAINED)
    plain.check_single_structures("It")
    assert plain.own_labels == {"anterior": (1,), "posterior": (2,)} and "regions" not in plain.to_json()


def test_they_go_back_to_nnunet_as_they_came() -> None:
    _, dataset = plans_of(REGIONS)
    written = nnunet_files(described(REGIONS), "Dataset001_X")
    assert written.dataset["labels"] == {"background": 0, "whole": [1, 2, 3], "core": [2, 3], "enh": [3]}
    assert written.dataset["regions_class_order"] == dataset["regions_class_order"]
    assert written.dataset["channel_names"] == dataset["channel_names"]
    assert written.channels == (0, 1, 2)
    again = read_plans(written.plans, written.dataset, "3d_fullres")
    assert (again.regions, again.values, again.outputs) == (((1, 2, 3), (2, 3), (3,)), (1, 2, 3), 3)


@pytest.mark.parametrize(
    ("changed", "told"),
    [
        ({"regions_class_order": [1, 2]}, "must give each a value of its own"),
        ({"regions_class_order": [1, 2, 2]}, "must give each a value of its own"),
        ({"labels": {"background": 0, "a": 1, "b": 3}}, "not numbered from 0 on"),
    ],
)
def test_labels_that_make_no_sense_are_refused(changed: dict[str, Any], told: str) -> None:
    plans, dataset = plans_of(REGIONS)
    with pytest.raises(ModelError, match=told):
        read_plans(plans, dataset | changed, "3d_fullres")


def test_the_order_of_regions_is_nnunets() -> None:
    plans, dataset = plans_of(REGIONS)
    labels = {"background": [0], "enh": 3, "whole": [1, 2, 3], "ignore": 4}
    model = read_plans(plans, dataset | {"labels": labels, "regions_class_order": [3, 1]}, "3d_fullres")
    assert (model.labels, model.values, model.regions) == (("enh", "whole"), (3, 1), ((3,), (1, 2, 3)))


def test_images_of_one_name_are_told_apart() -> None:
    plans, dataset = plans_of(REGIONS)
    model = read_plans(plans, dataset | {"channel_names": {"0": "MR", "1": "mr"}}, "3d_fullres")
    assert model.preparation.image_names == ("MR 1", "mr 2")


@pytest.mark.parametrize(
    "regions", [[[1]], [[1], [2], []], [[1], [2], [0]], [[1], [2], [1.5]], [[1], [2], 3], "all", [[1], [2], [3], [4]]]
)
def test_regions_that_do_not_fit_are_refused(regions: Any) -> None:
    with pytest.raises(ModelError, match="region"):
        ModelDescription.from_json(described(REGIONS).to_json() | {"regions": regions})


def test_the_paper_s_network_has_no_regions() -> None:
    from Testing.random_models import random_model

    description = random_model(3.0).description
    with pytest.raises(ModelError, match="cannot have regions"):
        replace(description, regions=((1,), (2,), (3,)))


@pytest.mark.parametrize("names", [(), ("T1",), ("T1", "t1"), ("T1", "a=b"), ("T1", " "), ("a", "b", "c")])
def test_images_need_names_of_their_own(names: tuple[str, ...]) -> None:
    usual = described(REGIONS).preparation
    with pytest.raises(ModelError, match="'image_names' must give each a name of its own"):
        Preparation(usual.spacing_zyx_mm, usual.channels, usual.axes, "nnunet", (0, 1), names)


def test_fine_tuning_and_scoring_refuse_them(tmp_path: Path) -> None:
    from Testing.inference.test_nnunet_equality import model_of
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.evaluation.predict_and_score import evaluate
    from TransferSegLib.inference.segment import Segmenter
    from TransferSegLib.models.locate import bundled_sample

    segmenter = Segmenter(model_of(NnUNetFixture(REGIONS)), "cpu")
    with pytest.raises(TransferSegError, match="Scoring is not possible yet"):
        evaluate(segmenter, read_dataset(bundled_sample()))
