"""``plans.json`` and ``dataset.json`` of a model, as nnU-Net v2 (2.4 and later) reads them; needs no torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from TransferSegLib.errors import ModelError
from TransferSegLib.images.intensity import IntensityRule
from TransferSegLib.images.preparation import Preparation
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.networks.nnunet.backbone import KIND, NnUNetBackbone
from TransferSegLib.networks.nnunet.plan import UNetPlan
from TransferSegLib.version import code_version

#: The names by which nnU-Net's commands find a model when they are not told otherwise.
TRAINER, PLANS, CONFIGURATION = "nnUNetTrainer", "nnUNetPlans", "3d_fullres"
#: The entry of dataset.json that says who wrote it; nnU-Net ignores it.
WRITTEN_BY = "written_by"
_SCHEMES = {
    "fixed-zscore": "CTNormalization",
    "zscore": "ZScoreNormalization",
    "zscore-nonzero": "ZScoreNormalization",
    "unit": "RescaleTo01Normalization",
    "rgb": "RGBTo01Normalization",
    "none": "NoNormalization",
}
_AS_STORED, _AS_STORED_ZYX = "SimpleITKIO", "kji"
_RAS, _RAS_ZYX = "NibabelIOWithReorient", "SAR"
#: Names that mean something else to nnU-Net.
_RESERVED = ("background", "ignore")


@dataclass(frozen=True)
class NnUNetFiles:
    """The two files of a model for nnU-Net, and the network's channel of each of nnU-Net's classes."""

    plans: dict[str, Any]
    dataset: dict[str, Any]
    channels: tuple[int, ...]


def nnunet_files(description: ModelDescription, dataset_name: str) -> NnUNetFiles:
    """Return what nnU-Net has to know of a model; raises ModelError for a model that nnU-Net cannot run."""
    plan = _plan_of(description)
    preparation = description.preparation
    reader, transpose = _reader(description)
    labels, channels = _labels(description)
    count = len(preparation.channels)
    names = preparation.image_names or (description.modality,)
    plans = {
        "dataset_name": dataset_name,
        "plans_name": PLANS,
        "image_reader_writer": reader,
        "transpose_forward": transpose,
        "transpose_backward": [transpose.index(axis) for axis in range(3)],
        "configurations": {CONFIGURATION: _configuration(plan, preparation)},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {
            str(number): _properties(rule) for number, rule in enumerate(preparation.channels)
        },
    }
    dataset = {
        "channel_names": {str(number): names[number] for number in range(count)},
        "labels": labels,
        "numTraining": 0,
        "file_ending": ".nii.gz",
        "licence": description.license,
        WRITTEN_BY: f"TransferSeg {code_version()}",
    }
    if description.regions:
        dataset["regions_class_order"] = [structure.label for structure in description.label_set]
    return NnUNetFiles(plans, dataset, channels)


def notes(description: ModelDescription, files: NnUNetFiles) -> tuple[str, ...]:
    """Return in lines what to know when nnU-Net runs the model."""
    lines = []
    moved = [
        f"{structure.name} {structure.label} -> {files.dataset['labels'][structure.name]}"
        for structure in description.label_set
        if not description.regions and structure.label != files.dataset["labels"][structure.name]
    ]
    if moved:
        lines.append(f"nnU-Net numbers labels from 1 on without gaps: {', '.join(moved)}")
    plan = UNetPlan.from_json(description.network.arguments)
    if plan.overlap != 0.5:
        lines.append(f"predict with -step_size {1 - plan.overlap:g}, as TransferSeg does")
    if description.preparation.resampling == "totalsegmentator":
        lines.append(
            f"nnU-Net resamples scans by splines: for the same labels resample them to "
            f"{description.preparation.spacing_text} first, as TotalSegmentator does"
        )
    if plan.mirror_axes_zyx:
        lines.append(
            "nnU-Net also predicts mirrored scans and averages, TransferSeg only with --mirror: for the same labels "
            "predict with --disable_tta"
        )
    if description.single_part:
        lines.append(
            "TransferSeg keeps only the largest part of some structures, nnU-Net does not: "
            f"{', '.join(description.single_part)}"
        )
    return tuple(lines)


def _labels(description: ModelDescription) -> tuple[dict[str, Any], tuple[int, ...]]:
    """Return what nnU-Net calls the labels, or regions, and the network's channel of each of its classes."""
    structures = list(description.label_set)
    for structure in structures:
        if structure.name.casefold() in _RESERVED:
            raise ModelError(
                f"nnU-Net cannot have a structure called '{structure.name}': the name means something else to it."
            )
    if description.regions:
        regions = {name: list(values) for name, values in description.own_labels.items()}
        return {"background": 0} | regions, tuple(range(len(structures)))
    # nnU-Net numbers classes by their order: sorted by label value they keep their values where these have no gaps.
    order = sorted(range(len(structures)), key=lambda number: structures[number].label)
    labels = {"background": 0} | {structures[number].name: value for value, number in enumerate(order, start=1)}
    return labels, (0, *(number + 1 for number in order))


def _plan_of(description: ModelDescription) -> UNetPlan:
    """Return the plan of a network that nnU-Net has; raises ModelError for other networks and preparations."""
    backbone = description.backbone
    if description.network.kind != KIND or not isinstance(backbone, NnUNetBackbone):
        raise ModelError(
            f"'{description.name}' has no network of nnU-Net ({backbone.summary}): only models imported from nnU-Net, "
            "and those fine-tuned from them, can be exported for it."
        )
    preparation = description.preparation
    if not preparation.is_of_nnunet:
        raise ModelError(f"nnU-Net cannot resample scans as '{description.name}' needs them.")
    if len(preparation.channels) > 1 and preparation.images != tuple(range(len(preparation.channels))):
        raise ModelError(
            f"nnU-Net takes one image for each channel, '{description.name}' makes several channels of one image."
        )
    return backbone.plan


def _reader(description: ModelDescription) -> tuple[str, list[int]]:
    """Return the name of nnU-Net's reader for the model's axes, and how the axes it reads are exchanged."""
    axes_zyx = description.preparation.axes[::-1]
    for reader, read_zyx in ((_AS_STORED, _AS_STORED_ZYX), (_RAS, _RAS_ZYX)):
        if sorted(axes_zyx) == sorted(read_zyx):
            return reader, [read_zyx.index(letter) for letter in axes_zyx]
    raise ModelError(
        f"nnU-Net reads scans as they are stored, or with RAS axes; '{description.name}' needs "
        f"{description.preparation.axes} axes."
    )


def _configuration(plan: UNetPlan, preparation: Preparation) -> dict[str, Any]:
    """Return the one configuration of the plans."""
    resampling = "resample_data_or_seg_to_shape"
    usual = {"order_z": 0, "force_separate_z": None}
    return {
        "data_identifier": f"{PLANS}_{CONFIGURATION}",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": list(plan.patch_zyx),
        "spacing": list(preparation.spacing_zyx_mm),
        "normalization_schemes": [_SCHEMES[rule.kind] for rule in preparation.channels],
        "use_mask_for_norm": [rule.kind == "zscore-nonzero" for rule in preparation.channels],
        "resampling_fn_data": resampling,
        "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, **usual},
        "resampling_fn_seg": resampling,
        "resampling_fn_seg_kwargs": {"is_seg": True, "order": 1, **usual},
        "resampling_fn_probabilities": resampling,
        "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, **usual},
        "batch_dice": False,
        "architecture": _architecture(plan),
    }


def _architecture(plan: UNetPlan) -> dict[str, Any]:
    """Return the network in the words of dynamic_network_architectures."""
    kind, blocks = (
        ("ResidualEncoderUNet", "n_blocks_per_stage") if plan.is_residual else ("PlainConvUNet", "n_conv_per_stage")
    )
    return {
        "network_class_name": f"dynamic_network_architectures.architectures.unet.{kind}",
        "arch_kwargs": {
            "n_stages": len(plan.features),
            "features_per_stage": list(plan.features),
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [list(kernel) for kernel in plan.kernels_zyx],
            "strides": [list(stride) for stride in plan.strides_zyx],
            blocks: list(plan.encoder_blocks),
            "n_conv_per_stage_decoder": list(plan.decoder_convolutions),
            "conv_bias": plan.bias,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": plan.norm_eps, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
        "_kw_requires_import": ["conv_op", "norm_op", "dropout_op", "nonlin"],
    }


def _properties(rule: IntensityRule) -> dict[str, float]:
    """Return what nnU-Net's CTNormalization needs to know of the training set; the other schemes need nothing."""
    if rule.kind != "fixed-zscore":
        return {}
    return {
        "mean": rule.mean,
        "std": rule.std,
        "percentile_00_5": rule.lower,
        "percentile_99_5": rule.upper,
    }
