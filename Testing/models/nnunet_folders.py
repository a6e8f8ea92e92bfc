"""Small models of nnU-Net, written as nnU-Net writes them, for the tests that read them."""

from __future__ import annotations

import copy
import io
import json
import zipfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from TransferSegLib.models.exporters.nnunet.checkpoint import with_all_names
from TransferSegLib.models.importers.nnunet.plans import read_plans
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.nnunet.backbone import nnunet_spec

INNER = "nnUNetTrainer__nnUNetPlans__3d_fullres"
DATASET: dict[str, Any] = {
    "channel_names": {"0": "CT"},
    "labels": {"background": 0, "liver": 1, "kidney_left": 2},
    "numTraining": 3,
    "file_ending": ".nii.gz",
}
#: A configuration as nnU-Net from 2.4 on writes it.
NEW: dict[str, Any] = {
    "patch_size": [16, 16, 16],
    "spacing": [3.0, 1.5, 1.5],
    "normalization_schemes": ["CTNormalization"],
    "use_mask_for_norm": [False],
    "resampling_fn_data": "resample_data_or_seg_to_shape",
    "resampling_fn_data_kwargs": {"is_seg": False, "order": 3, "order_z": 0, "force_separate_z": None},
    "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
    "resampling_fn_probabilities_kwargs": {"is_seg": False, "order": 1, "order_z": 0, "force_separate_z": None},
    "architecture": {
        "network_class_name": "dynamic_network_architectures.architectures.unet.PlainConvUNet",
        "arch_kwargs": {
            "n_stages": 3,
            "features_per_stage": [2, 4, 6],
            "conv_op": "torch.nn.modules.conv.Conv3d",
            "kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
            "strides": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
            "n_conv_per_stage": [2, 2, 2],
            "n_conv_per_stage_decoder": [2, 2],
            "conv_bias": True,
            "norm_op": "torch.nn.modules.instancenorm.InstanceNorm3d",
            "norm_op_kwargs": {"eps": 1e-05, "affine": True},
            "dropout_op": None,
            "dropout_op_kwargs": None,
            "nonlin": "torch.nn.LeakyReLU",
            "nonlin_kwargs": {"inplace": True},
        },
    },
}
#: The same configuration as nnU-Net up to 2.3 writes it.
OLD: dict[str, Any] = {key: value for key, value in NEW.items() if key != "architecture"} | {
    "UNet_class_name": "PlainConvUNet",
    "UNet_base_num_features": 2,
    "unet_max_num_features": 6,
    "n_conv_per_stage_encoder": [2, 2, 2],
    "n_conv_per_stage_decoder": [2, 2],
    "num_pool_per_axis": [1, 2, 2],
    "pool_op_kernel_sizes": [[1, 1, 1], [1, 2, 2], [2, 2, 2]],
    "conv_kernel_sizes": [[1, 3, 3], [3, 3, 3], [3, 3, 3]],
}
CT = {"mean": 90.0, "std": 40.0, "percentile_00_5": -60.0, "percentile_99_5": 210.0, "min": -1000.0, "max": 3000.0}


def plans_with(configuration: dict[str, Any] | None = None, **changes: Any) -> dict[str, Any]:
    """Return plans with one configuration (``NEW`` unless given) and changes of the outermost entries."""
    return {
        "dataset_name": "Dataset321_Tiny_Liver",
        "plans_name": "nnUNetPlans",
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": copy.deepcopy(NEW if configuration is None else configuration)},
        "foreground_intensity_properties_per_channel": {"0": CT},
    } | changes


def checkpoint_of(plans: dict[str, Any], dataset: dict[str, Any], seed: int = 0, **changes: Any) -> dict[str, Any]:
    """Return the content of a checkpoint with random weights that fit the plans; ``changes`` replace entries."""
    model = read_plans(plans, dataset, "3d_fullres")
    backbone = backbone_of(nnunet_spec(model.plan, len(model.preparation.channels), model.outputs))
    network = backbone.build()
    backbone.initialise(network, seed)
    return {
        "network_weights": with_all_names(network.state_dict()),
        "optimizer_state": {"state": {}, "param_groups": [{"lr": 0.01}]},
        "grad_scaler_state": None,
        "logging": {"mean_fg_dice": [np.float64(0.5)], "train_losses": [np.float32(0.25)]},
        "_best_ema": np.float64(0.75),
        "current_epoch": 1000,
        "init_args": {"configuration": "3d_fullres", "fold": 0, "device": torch.device("cpu")},
        "trainer_name": "nnUNetTrainer",
        "inference_allowed_mirroring_axes": (0, 1, 2),
    } | changes


def saved(entry: Any) -> bytes:
    """Return what torch.save writes."""
    buffer = io.BytesIO()
    torch.save(entry, buffer)
    return buffer.getvalue()


def write_results(
    folder: Path,
    plans: dict[str, Any] | None = None,
    dataset: dict[str, Any] | None = None,
    folds: Iterable[str] = ("0",),
    **changes: Any,
) -> Path:
    """Write a results folder (the inner one) and return it; fold n has the random weights of seed n."""
    plans, dataset = plans or plans_with(), dataset or DATASET
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    for number, fold in enumerate(folds):
        (folder / f"fold_{fold}").mkdir()
        content = saved(checkpoint_of(plans_with(), dataset, number, **changes))
        (folder / f"fold_{fold}" / "checkpoint_final.pth").write_bytes(content)
    return folder


def zipped(folder: Path, file: Path) -> Path:
    """Write everything in a folder into a zip file and return it."""
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in sorted(folder.rglob("*")):
            archive.write(path, path.relative_to(folder).as_posix())
    return file
