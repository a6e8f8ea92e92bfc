"""Whether the layers that a Keras file describes are those of the paper's network.

``model.save`` writes the network's layers as JSON beside the weights. Two networks may have weights of equal shapes
and still differ, e.g. in padding or in the order of what is joined: with this description they are told apart. A
file of ``save_weights`` has none, and only shapes can be checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from TransferSegLib import safe_json
from TransferSegLib.errors import ModelError

_Layer = tuple[str, dict[str, Any], Any]
_ACTIVATIONS = ("Activation", "ReLU", "Softmax")
_WITHOUT_EFFECT = ("Dropout", "SpatialDropout3D")
#: Voxels cut off each side of the skipped maps, in order of joining: what the convolutions without padding of the
#: levels below take away, 4 at the lowest, then twice (4 + 4) and twice (16 + 4).
_CROPPED = (4, 16, 40)
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
        layers = safe_json.parse(configuration)["config"]["layers"]
        described = [(str(layer["class_name"]), dict(layer["config"]), layer.get("inbound_nodes")) for layer in layers]
        _check_settings(described, source)
        _check_activations(described, source)
        _check_order_of_joining(described, source)
        _check_croppings(described, source)
    except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"{source} is damaged: its description of the network cannot be read.") from error


def _check_settings(layers: list[_Layer], source: str) -> None:
    """Raise ModelError for a kind of layer or a setting that the paper's network does not have."""
    for kind, settings, _ in layers:
        if kind not in _SETTINGS:
            raise _other_network(source, settings, f"is of the kind {kind}, which that network does not have")
        for setting, allowed in _SETTINGS[kind].items():
            value = settings.get(setting, allowed[0])
            if isinstance(value, tuple):
                value = list(value)
            if not any(value == choice for choice in allowed):
                raise _other_network(source, settings, f"has {setting} = {value!r} instead of {allowed[0]!r}")


def _check_activations(layers: list[_Layer], source: str) -> None:
    """Raise ModelError unless a ReLU follows each convolution but the last, and nothing or a softmax the last."""
    known: dict[Any, tuple[str, dict[str, Any]]] = {}  # by layer: how its maps are activated, by which convolution
    for kind, settings, inbound in layers:
        before = [known[name] for name in _input_names(inbound)]
        own = {"ReLU": "relu", "Softmax": "softmax"}.get(kind, settings.get("activation") or "linear")
        if kind == "InputLayer":
            known[settings["name"]] = ("relu", settings)  # nothing has to follow it
            continue
        activation, convolution = before[0]
        if kind in _ACTIVATIONS and activation not in ("linear", own) and own != "linear":
            raise _other_network(source, settings, f"applies {own} after {activation}")
        if kind in _ACTIVATIONS or kind in _WITHOUT_EFFECT:
            known[settings["name"]] = (activation if own == "linear" else own, convolution)
            continue
        for activation, convolution in before:
            if activation != "relu":
                raise _other_network(source, convolution, "is not followed by a ReLU")
        known[settings["name"]] = (own, settings) if kind == "Conv3D" else before[0]
    activation, head = known[layers[-1][1]["name"]]
    if activation not in ("linear", "softmax"):
        raise _other_network(source, head, f"is the last and has activation = {activation!r} instead of 'softmax'")


def _check_croppings(layers: list[_Layer], source: str) -> None:
    """Raise ModelError unless what is skipped is cropped around its centre, to the size of what it is joined with."""
    kinds = {settings.get("name"): (kind, settings, list(_input_names(inbound))) for kind, settings, inbound in layers}
    joinings = [settings for kind, settings, _ in layers if kind == "Concatenate"]
    croppings = sum(kind == "Cropping3D" for kind, _, _ in layers)
    if len(joinings) != len(_CROPPED) or croppings != len(_CROPPED):
        raise _other_network(source, layers[-1][1], f"comes after {len(joinings)} joinings and {croppings} croppings")
    for joining, margin in zip(joinings, _CROPPED, strict=True):
        skipped = kinds[joining.get("name")][2][1]
        while kinds[skipped][0] in _WITHOUT_EFFECT:
            skipped = kinds[skipped][2][0]
        kind, settings, _ = kinds[skipped]
        if kind != "Cropping3D":
            raise _other_network(source, joining, "joins maps that are not cropped")
        cropping = settings["cropping"]
        per_axis = [cropping] * 3 if isinstance(cropping, int) else list(cropping)
        pairs = [[axis, axis] if isinstance(axis, int) else list(axis) for axis in per_axis]
        if pairs != [[margin, margin]] * 3:
            raise _other_network(source, settings, f"has cropping = {cropping!r} instead of {margin} on every side")


def _check_order_of_joining(layers: list[_Layer], source: str) -> None:
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
    name = str(settings.get("name", "?"))[:60]
    return ModelError(f"{source} holds another network than the 3D U-Net of the paper: its layer '{name}' {what}.")
