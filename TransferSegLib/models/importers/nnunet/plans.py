"""What ``plans.json`` and ``dataset.json`` of a model of nnU-Net v2 say, in both of its dialects; needs no torch.

Versions from 2.4 on describe the network under ``architecture``, earlier ones by keys of their own
(``UNet_class_name`` ...), from which the same network follows.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from TransferSegLib.errors import ModelError
from TransferSegLib.images.intensity import IntensityKind, IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.networks.nnunet.plan import UNetPlan

_PLAIN, _RESIDUAL = "PlainConvUNet", "ResidualEncoderUNet"
_SCHEMES: dict[str, IntensityKind] = {
    "CTNormalization": "fixed-zscore",
    "ZScoreNormalization": "zscore",
    "NoNormalization": "none",
    "RescaleTo01Normalization": "unit",
    "RGBTo01Normalization": "rgb",
}
#: Arguments of the two networks that are understood, or that matter in training only.
_KNOWN_ARGUMENTS = {
    *("n_stages", "features_per_stage", "kernel_sizes", "strides", "n_conv_per_stage", "n_blocks_per_stage"),
    *("n_conv_per_stage_decoder", "conv_bias", "conv_op", "norm_op", "norm_op_kwargs", "nonlin", "nonlin_kwargs"),
    *("dropout_op", "dropout_op_kwargs", "deep_supervision", "stochastic_depth_p"),
}
#: Of leaky ReLU, torch's own.
_SLOPE = 0.01
_READERS_AS_STORED = ("SimpleITKIO", "NibabelIO")
_READERS_RAS = ("NibabelIOWithReorient", "SimpleITKIOWithReorient")
#: What channels of MR are called: 'MRI', 'T1', 't1ce', 'T2-FLAIR', 'ADC' ...
_MR = re.compile(r"MR|(?<![a-z])(?:t[12]|flair|pdw?|adc|dwi|swi|dixon)(?![0-9])", re.IGNORECASE)
_MOST_PARENTS = 10


@dataclass(frozen=True)
class NnUNetModel:
    """One configuration of a model: its network, how scans are prepared for it, and what its classes mean.

    ``labels`` are the names of the classes without the background, in the order of the network's channels, ``values``
    what they are in label maps. ``regions`` holds, for classes that overlap, the values that each consists of.
    ``axes_are_known`` is false where the model takes scans as they were stored.
    """

    plan: UNetPlan
    preparation: Preparation
    labels: tuple[str, ...]
    modality: str
    axes_are_known: bool
    values: tuple[int, ...]
    regions: tuple[tuple[int, ...], ...] = ()

    @property
    def outputs(self) -> int:
        """The number of the network's channels: regions have none for the background."""
        return len(self.labels) + (0 if self.regions else 1)


def read_plans(plans: Mapping[str, Any], dataset: Mapping[str, Any], configuration: str) -> NnUNetModel:
    """Return what the two files say of a configuration; raises ModelError for what cannot be used here."""
    try:
        chosen = resolved(plans["configurations"], configuration)
        _check_supported(chosen)
        network = _network(chosen)
        channel_names = _channel_names(dataset)
        rules = _rules(plans, chosen, len(channel_names))
        axes, known = _axes(plans)
        z, y, x = (float(side) for side in chosen["spacing"])
        several = (tuple(range(len(rules))), _different(channel_names)) if len(rules) > 1 else ((), ())
        preparation = Preparation((z, y, x), rules, axes, "nnunet", *several)
        labels, values, regions = _labels(dataset)
        return NnUNetModel(network, preparation, labels, _modality(channel_names), known, values, regions)
    except (LookupError, TypeError, ValueError, AttributeError, OverflowError) as error:
        what = f"the entry {error} is missing" if isinstance(error, KeyError) else f"an entry is wrong ({error!s:.200})"
        raise ModelError(f"The model's plans.json or dataset.json cannot be read: {what}.") from error


def resolved(configurations: Mapping[str, Any], name: str, depth: int = 0) -> dict[str, Any]:
    """Return a configuration with what it inherits."""
    if name not in configurations:
        raise ModelError(f"The model's plans have no configuration '{name}', only {', '.join(configurations)}.")
    own = dict(configurations[name])
    if "inherits_from" not in own:
        return own
    if depth == _MOST_PARENTS:
        raise ModelError(f"The configuration '{name}' of the model's plans inherits from itself.")
    return resolved(configurations, str(own["inherits_from"]), depth + 1) | own


def _check_supported(configuration: Mapping[str, Any]) -> None:
    """Raise ModelError for kinds of models that this product cannot run."""
    if len(configuration["patch_size"]) != 3:
        raise ModelError("This is a 2D model of nnU-Net: only its 3D configurations can be used. Import 3d_fullres.")
    if configuration.get("previous_stage"):
        raise ModelError(
            "This is the second stage of a cascade of nnU-Net, which needs the result of the first: import 3d_fullres "
            "or 3d_lowres instead."
        )
    preprocessor = configuration.get("preprocessor_name", "DefaultPreprocessor")
    if preprocessor != "DefaultPreprocessor":
        raise ModelError(f"The model prepares scans by nnU-Net's '{preprocessor}', which is not known here.")
    for what in ("resampling_fn_data", "resampling_fn_probabilities"):
        function = configuration.get(what, "resample_data_or_seg_to_shape")
        if function != "resample_data_or_seg_to_shape":
            raise ModelError(f"The model resamples scans by nnU-Net's function '{function}', which is not known here.")
    for what, order in (("resampling_fn_data_kwargs", 3), ("resampling_fn_probabilities_kwargs", 1)):
        arguments = configuration.get(what, {})
        given = (arguments.get("order", order), arguments.get("order_z", 0), arguments.get("force_separate_z"))
        if given != (order, 0, None):
            raise ModelError(f"The model resamples scans with other settings than nnU-Net's own ({what}: {arguments}).")


def _network(configuration: Mapping[str, Any]) -> UNetPlan:
    """Return the network of a configuration."""
    patch = configuration["patch_size"]
    if "architecture" in configuration:
        entry = configuration["architecture"]
        kind, arguments = _kind(entry["network_class_name"]), entry["arch_kwargs"]
        levels = int(arguments["n_stages"])
        features = _for_levels(arguments["features_per_stage"], levels)
        kernels, strides = arguments["kernel_sizes"], arguments["strides"]
        blocks = arguments["n_conv_per_stage" if kind == _PLAIN else "n_blocks_per_stage"]
        bias, norm = bool(arguments.get("conv_bias", False)), arguments.get("norm_op_kwargs") or {}
        _check_layers(arguments, norm)
        decoder = arguments["n_conv_per_stage_decoder"]
    else:
        kind = _kind(configuration["UNet_class_name"])
        blocks, decoder = configuration["n_conv_per_stage_encoder"], configuration["n_conv_per_stage_decoder"]
        levels = len(blocks)
        base, most = int(configuration["UNet_base_num_features"]), int(configuration["unet_max_num_features"])
        features = [min(base * 2**level, most) for level in range(levels)]
        kernels, strides = configuration["conv_kernel_sizes"], configuration["pool_op_kernel_sizes"]
        bias, norm = True, {}
    return UNetPlan.from_json(
        {
            "is_residual": kind == _RESIDUAL,
            "features": features,
            "kernels_zyx": [_sides(kernel) for kernel in _for_levels(kernels, levels)],
            "strides_zyx": [_sides(stride) for stride in _for_levels(strides, levels)],
            "encoder_blocks": _for_levels(blocks, levels),
            "decoder_convolutions": _for_levels(decoder, levels - 1),
            "patch_zyx": patch,
            "bias": bias,
            "norm_eps": norm.get("eps", 1e-5),
            "overlap": 0.5,
        }
    )


def _kind(class_name: Any) -> str:
    """Return the name of a network's class without its module; raises ModelError for other networks."""
    kind = str(class_name).rsplit(".", 1)[-1]
    if kind not in (_PLAIN, _RESIDUAL):
        raise ModelError(
            f"The model's network is nnU-Net's '{kind}'; only {_PLAIN} and {_RESIDUAL} can be used, which nnU-Net "
            "plans by default."
        )
    return kind


def _check_layers(arguments: Mapping[str, Any], norm: Mapping[str, Any]) -> None:
    """Raise ModelError for layers other than those that nnU-Net plans."""
    given = {what: str(arguments.get(what) or "").rsplit(".", 1)[-1] for what in ("conv_op", "norm_op", "nonlin")}
    usual = {"conv_op": "Conv3d", "norm_op": "InstanceNorm3d", "nonlin": "LeakyReLU"}
    other = [f"{what} {given[what]}" for what in usual if given[what] not in ("", usual[what])]
    other += [f"{name} {value}" for name, value in arguments.items() if name not in _KNOWN_ARGUMENTS and value]
    slope = (arguments.get("nonlin_kwargs") or {}).get("negative_slope", _SLOPE)
    if slope != _SLOPE:
        other.append(f"negative_slope {slope}")
    if other or not norm.get("affine", True):
        raise ModelError(f"The model's network has layers that are not known here: {', '.join(other) or norm}.")


def _for_levels(value: Any, levels: int) -> list[Any]:
    """Return one value a level: nnU-Net lets one number stand for all."""
    return [value] * levels if isinstance(value, int) else list(value)


def _sides(value: Any) -> list[int]:
    return [value] * 3 if isinstance(value, int) else list(value)


def _channel_names(dataset: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the names of the input channels, e.g. CT."""
    names = dataset.get("channel_names") or dataset.get("modality")
    if not names:
        raise ModelError("The model's dataset.json names no channel: it needs an entry 'channel_names'.")
    return tuple(str(names[str(number)]) for number in range(len(names)))


def _modality(channel_names: tuple[str, ...]) -> str:
    """Return CT where nnU-Net treats the scans as such, MR for the names of its sequences, else the channel's name."""
    first = channel_names[0]
    return "CT" if first.upper() == "CT" else "MR" if _MR.search(first) else first


def _rules(plans: Mapping[str, Any], configuration: Mapping[str, Any], channels: int) -> tuple[IntensityRule, ...]:
    """Return the intensity rule of every channel."""
    schemes, masks = configuration["normalization_schemes"], configuration["use_mask_for_norm"]
    if len(schemes) != channels:
        raise ModelError(f"The model's plans normalise {len(schemes)} channels, its dataset.json names {channels}.")
    found = plans.get("foreground_intensity_properties_per_channel")
    properties = found or plans["foreground_intensity_properties_by_modality"]
    rules = []
    for number, (scheme, inside) in enumerate(zip(schemes, masks, strict=True)):
        if scheme not in _SCHEMES:
            raise ModelError(f"The model normalises intensities by '{scheme}', which is not known here.")
        kind = _SCHEMES[scheme]
        if kind == "fixed-zscore":
            seen = properties[str(number)]
            ends = float(seen["percentile_00_5"]), float(seen["percentile_99_5"])
            rules.append(IntensityRule(kind, *ends, None, float(seen["mean"]), float(seen["std"])))
        else:
            rules.append(IntensityRule("zscore-nonzero" if kind == "zscore" and inside else kind, output=None))
    return tuple(rules)


def _axes(plans: Mapping[str, Any]) -> tuple[str, bool]:
    """Return the axes of the model's grid as ``Preparation`` names them, and whether they are those of the world."""
    reader = str(plans.get("image_reader_writer", _READERS_AS_STORED[0]))
    if reader not in (*_READERS_AS_STORED, *_READERS_RAS):
        raise ModelError(f"The model reads scans by nnU-Net's '{reader}', which is not known here.")
    known = reader in _READERS_RAS
    stored_zyx = "SAR" if known else "kji"
    return "".join(stored_zyx[axis] for axis in reversed(plans["transpose_forward"])), known


def _different(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of images that all differ, those that come again with a number."""
    plain = [" ".join(name.replace("=", " ").split()) or "image" for name in names]
    keys = [name.casefold() for name in plain]
    return tuple(
        f"{name} {number}" if keys.count(key) > 1 else name
        for number, (name, key) in enumerate(zip(plain, keys, strict=True), start=1)
    )


def _labels(dataset: Mapping[str, Any]) -> tuple[tuple[str, ...], tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Return the names of the classes without the background, their values, and of regions what they consist of.

    The label to ignore, if there is one, has no channel.
    """
    if all(str(value).isdecimal() and not str(name).isdecimal() for value, name in dataset["labels"].items()):
        raise ModelError(
            "The model's dataset.json gives a name to each label, as nnU-Net v1 did: only models of v2 can be used."
        )
    given = {
        str(name): tuple(int(part) for part in value) if isinstance(value, list) else (int(value),)
        for name, value in dataset["labels"].items()
        if name != "ignore"
    }
    if any(len(parts) > 1 for parts in given.values()):
        regions = {name: parts for name, parts in given.items() if set(parts) != {0}}
        order = [int(value) for value in dataset["regions_class_order"]]
        if len(order) != len(regions) or len(set(order)) != len(order):
            raise ModelError(
                f"The model has {len(regions)} regions; its regions_class_order must give each a value of its own, not "
                f"{order}."
            )
        return tuple(regions), tuple(order), tuple(regions.values())
    numbers = {value: name for name, (value,) in given.items()}
    if sorted(numbers) != list(range(len(given))):
        raise ModelError(f"The model's labels are not numbered from 0 on without gaps: {sorted(numbers)}.")
    values = tuple(range(1, len(numbers)))
    return tuple(numbers[value] for value in values), values, ()
