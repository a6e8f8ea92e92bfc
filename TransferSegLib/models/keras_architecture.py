"""Whether the layers that a Keras file describes are those of the paper's network.

``model.save`` writes the network's layers as JSON beside the weights. Two networks may have weights of equal shapes
and still differ, e.g. in padding or in the order of what is joined: with this description they are told apart. A
file of ``save_weights`` has none, and only shapes can be checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

from TransferSegLib.errors import ModelError

_ONE, _TWO = (1, [1, 1, 1]), (2, [2, 2, 2])
#: By kind of layer: the settings that matter with the values they may have. Layers of no effect are allowed.
_SETTINGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "InputLayer": {},
    "Conv3D": {
        "padding": ("valid",),
        "strides": _ONE,
        "dilation_rate": _ONE,
        "groups": (1, None),
        "activation": ("relu", "linear", "softmax", None),
    },
    "MaxPooling3D": {"pool_size": _TWO, "strides": (*_TWO, None), "padding": ("valid",)},
    "UpSampling3D": {"size": _TWO},
    "Cropping3D": {},
    "Concatenate": {"axis": (1, 4, -1)},
    "Activation": {"activation": ("relu", "linear", "softmax")},
    "ReLU": {"max_value": (None,), "negative_slope": (0, 0.0, None), "threshold": (0, 0.0, None)},
    "Softmax": {"axis": (1, 4, -1)},
    "Dropout": {},
    "SpatialDropout3D": {},
}


def check_architecture(configuration: str, source: str) -> None:
    """Raise ModelError naming the layer that makes a described network another one than the paper's.

    ``configuration`` is the JSON that Keras 2 or 3 writes into the attribute ``model_config``.
    """
    try:
        layers = json.loads(configuration)["config"]["layers"]
        described = [(str(layer["class_name"]), dict(layer["config"]), layer.get("inbound_nodes")) for layer in layers]
        _check_settings(described, source)
        _check_order_of_joining(described, source)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{source} is damaged: its description of the network cannot be read.") from error


def _check_settings(layers: list[tuple[str, dict[str, Any], Any]], source: str) -> None:
    """Raise ModelError for a kind of layer or a setting that the paper's network does not have."""
    convolutions = [settings for kind, settings, _ in layers if kind == "Conv3D"]
    for kind, settings, _ in layers:
        if kind not in _SETTINGS:
            raise _other_network(source, settings, f"is of the kind {kind}, which that network does not have")
        for setting, allowed in _SETTINGS[kind].items():
            value = settings.get(setting, allowed[0])
            if isinstance(value, tuple):
                value = list(value)
            if not any(value == choice for choice in allowed):
                raise _other_network(source, settings, f"has {setting} = {value!r} instead of {allowed[0]!r}")
    rectifiers = sum(kind == "ReLU" or settings.get("activation") == "relu" for kind, settings, _ in layers)
    if rectifiers < len(convolutions) - 1:
        bare = next(s for s in convolutions if s.get("activation") != "relu")
        raise _other_network(source, bare, "is not followed by a ReLU")


def _check_order_of_joining(layers: list[tuple[str, dict[str, Any], Any]], source: str) -> None:
    """Raise ModelError unless each joining puts the up-sampled maps before the skipped ones."""
    kinds = {settings.get("name"): kind for kind, settings, _ in layers}
    for kind, settings, inbound in layers:
        if kind != "Concatenate":
            continue
        inputs = [kinds.get(name) for name in _input_names(inbound)]
        if len(inputs) != 2 or inputs[0] != "UpSampling3D":
            raise _other_network(source, settings, "joins its inputs in another order (up-sampled, then skipped)")


def _input_names(node: Any) -> Iterator[str]:
    """Yield the names of the layers that a layer takes its input from, in order, as Keras 2 or 3 writes them."""
    if isinstance(node, dict):
        if "keras_history" in node:
            yield str(node["keras_history"][0])
        else:
            for inner in node.values():
                yield from _input_names(inner)
    elif isinstance(node, list):
        if len(node) >= 3 and isinstance(node[0], str):
            yield node[0]
        else:
            for inner in node:
                yield from _input_names(inner)


def _other_network(source: str, settings: dict[str, Any], what: str) -> ModelError:
    """Return the error for a network that is not the paper's."""
    name = str(settings.get("name", "?"))[:60]
    return ModelError(f"{source} holds another network than the 3D U-Net of the paper: its layer '{name}' {what}.")
