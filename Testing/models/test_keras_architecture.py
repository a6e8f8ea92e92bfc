"""Networks with weights of the same shapes that are not the paper's, told apart by the description in the file."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import pytest

from TransferSegLib.errors import ModelError
from TransferSegLib.models.importers.keras.architecture import check_architecture

FILES = Path(__file__).resolve().parents[1] / "Data" / "keras_files"
Layers = dict[str, dict[str, Any]]


@pytest.fixture(params=["keras_2", "keras_3"])
def configuration(request: pytest.FixtureRequest) -> dict[str, Any]:
    """Return what Keras 2 and Keras 3 wrote of the published network."""
    with h5py.File(FILES / request.param / "full_model.h5") as file:
        return json.loads(file.attrs["model_config"])


def layers(configuration: dict[str, Any]) -> Layers:
    """Return a description's layers by name."""
    return {layer["config"]["name"]: layer for layer in configuration["config"]["layers"]}


def test_the_published_network_passes(configuration: dict[str, Any]):
    check_architecture(json.dumps(configuration), "x.h5")


def same_padding(of: Layers) -> None:
    of["conv3d_3"]["config"]["padding"] = "same"


def dilated(of: Layers) -> None:
    of["conv3d_3"]["config"]["dilation_rate"] = [2, 2, 2]


def strided(of: Layers) -> None:
    of["conv3d_3"]["config"]["strides"] = [1, 1, 2]


def other_activation(of: Layers) -> None:
    of["conv3d_3"]["config"]["activation"] = "elu"


def no_activation(of: Layers) -> None:
    of["conv3d_3"]["config"]["activation"] = "linear"


def average(of: Layers) -> None:
    of["max_pooling3d_1"]["class_name"] = "AveragePooling3D"


def transposed(of: Layers) -> None:
    of["conv3d_3"]["class_name"] = "Conv3DTranspose"


def sigmoid(of: Layers) -> None:
    of["output_segm"]["config"]["activation"] = "sigmoid"


def other_order(of: Layers) -> None:
    inbound = of["concatenate_1"]["inbound_nodes"]
    (inbound[0]["args"][0] if isinstance(inbound[0], dict) else inbound[0]).reverse()


def rectified_head(of: Layers) -> None:
    of["conv3d_3"]["config"]["activation"] = "linear"  # as many ReLUs as before
    of["output_segm"]["config"]["activation"] = "relu"


def rectified_head_alone(of: Layers) -> None:
    of["output_segm"]["config"]["activation"] = "relu"


def cropped_at_one_side(of: Layers) -> None:
    of["cropping3d_1"]["config"]["cropping"] = [[32, 0], [16, 16], [16, 16]]


def cropped_too_much(of: Layers) -> None:
    of["cropping3d_1"]["config"]["cropping"] = 18


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (rectified_head, "'conv3d_3' is not followed by a ReLU"),
        (rectified_head_alone, "relu"),
        (cropped_at_one_side, "'cropping3d_1' has cropping = .* instead of 16 on every side"),
        (cropped_too_much, "'cropping3d_1' has cropping = 18 instead of 16"),
        (same_padding, "'conv3d_3' has padding = 'same' instead of 'valid'"),
        (dilated, r"'conv3d_3' has dilation_rate = \[2, 2, 2\]"),
        (strided, r"'conv3d_3' has strides = \[1, 1, 2\]"),
        (other_activation, "'conv3d_3' has activation = 'elu'"),
        (no_activation, "'conv3d_3' is not followed by a ReLU"),
        (average, "'max_pooling3d_1' is of the kind AveragePooling3D"),
        (transposed, "'conv3d_3' is of the kind Conv3DTranspose"),
        (sigmoid, "'output_segm' has activation = 'sigmoid'"),
        (other_order, "'concatenate_1' joins its inputs in another order"),
    ],
)
def test_another_network_is_told_by_its_layer(
    configuration: dict[str, Any], change: Callable[[Layers], None], words: str
):
    change(layers(configuration))
    with pytest.raises(ModelError, match=words):
        check_architecture(json.dumps(configuration), "x.h5")


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {"layers": [3]}}', "[" * 100_000])
def test_a_description_that_is_none(text: str):
    with pytest.raises(ModelError, match=r"x\.h5 is damaged: its description"):
        check_architecture(text, "x.h5")
