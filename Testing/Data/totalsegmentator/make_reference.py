"""Make the models of this folder and let the real TotalSegmentator segment a scan with them.

It needs TotalSegmentator 2.18.0 with nnunetv2 2.8.1, and no network: models with random weights lie where
TotalSegmentator looks for those that it would download. Run from the repository's top folder:

    PYTHONPATH=Testing python Testing/Data/totalsegmentator/make_reference.py [a folder for work]
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path

HERE = Path(__file__).parent
WORK = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(tempfile.mkdtemp())
os.environ["TOTALSEG_HOME_DIR"] = str(WORK)
WORK.mkdir(exist_ok=True)
(WORK / "config.json").write_text(
    json.dumps({"totalseg_id": "x", "send_usage_stats": False, "prediction_counter": 0}), encoding="utf-8"
)

import nibabel  # noqa: E402
import numpy as np  # noqa: E402
import SimpleITK as sitk  # noqa: E402
import torch  # noqa: E402
from dynamic_network_architectures.architectures.unet import PlainConvUNet  # noqa: E402
from dynamic_network_architectures.building_blocks.helper import get_matching_instancenorm  # noqa: E402
from totalsegmentator.map_tasks_config import TASK_CONFIGS, TASK_ID_WEIGHTS_CONFIGS  # noqa: E402
from totalsegmentator.map_to_binary import class_map, class_map_5_parts, map_taskid_to_partname_ct  # noqa: E402
from totalsegmentator.python_api import totalsegmentator  # noqa: E402
from totalsegmentator_fixtures import CAVITIES, FAST, TOTAL, scan  # noqa: E402

RUNS = {
    FAST: {"task": "total", "fast": True},
    CAVITIES: {"task": "trunk_cavities"},
    TOTAL: {"task": "total"},
}
FEATURES, PATCH = [4, 8, 8], [32, 32, 32]


def plans(dataset: str, spacing_mm: float) -> dict:
    """Return plans as nnU-Net 2.0 wrote them, which is the dialect of TotalSegmentator's releases."""
    resampling = {"is_seg": False, "order_z": 0, "force_separate_z": None}
    configuration = {
        "data_identifier": "nnUNetPlans_3d_fullres",
        "preprocessor_name": "DefaultPreprocessor",
        "batch_size": 2,
        "patch_size": PATCH,
        "median_image_size_in_voxels": [100.0, 100.0, 100.0],
        "spacing": [spacing_mm] * 3,
        "normalization_schemes": ["CTNormalization"],
        "use_mask_for_norm": [False],
        "UNet_class_name": "PlainConvUNet",
        "UNet_base_num_features": FEATURES[0],
        "unet_max_num_features": FEATURES[-1],
        "n_conv_per_stage_encoder": [2, 2, 2],
        "n_conv_per_stage_decoder": [2, 2],
        "num_pool_per_axis": [2, 2, 2],
        "pool_op_kernel_sizes": [[1, 1, 1], [2, 2, 2], [2, 2, 2]],
        "conv_kernel_sizes": [[3, 3, 3]] * 3,
        "batch_dice": False,
        "resampling_fn_data": "resample_data_or_seg_to_shape",
        "resampling_fn_seg": "resample_data_or_seg_to_shape",
        "resampling_fn_data_kwargs": resampling | {"order": 3},
        "resampling_fn_seg_kwargs": resampling | {"is_seg": True, "order": 1},
        "resampling_fn_probabilities": "resample_data_or_seg_to_shape",
        "resampling_fn_probabilities_kwargs": resampling | {"order": 1},
    }
    seen = {"mean": -50.0, "std": 300.0, "percentile_00_5": -1000.0, "percentile_99_5": 900.0}
    return {
        "dataset_name": dataset,
        "plans_name": "nnUNetPlans",
        "original_median_spacing_after_transp": [spacing_mm] * 3,
        "original_median_shape_after_transp": [100, 100, 100],
        "image_reader_writer": "SimpleITKIO",
        "transpose_forward": [0, 1, 2],
        "transpose_backward": [0, 1, 2],
        "configurations": {"3d_fullres": configuration},
        "experiment_planner_used": "ExperimentPlanner",
        "label_manager": "LabelManager",
        "foreground_intensity_properties_per_channel": {"0": seen | {"median": -20.0, "min": -1024.0, "max": 3000.0}},
    }


def random_weights(classes: int, seed: int) -> dict[str, torch.Tensor]:
    """Return weights with which about half of all voxels are background, so that parts can be seen below each other."""
    torch.manual_seed(seed)
    network = PlainConvUNet(
        1,
        3,
        FEATURES,
        torch.nn.Conv3d,
        3,
        [1, 2, 2],
        [2, 2, 2],
        classes,
        [2, 2],
        True,
        get_matching_instancenorm(torch.nn.Conv3d),
        {"eps": 1e-5, "affine": True},
        nonlin=torch.nn.LeakyReLU,
        nonlin_kwargs={"inplace": True},
        deep_supervision=False,
    )
    head = network.decoder.seg_layers[-1]
    with torch.no_grad():
        head.weight *= 3
        logits = network(torch.randn(1, 1, *PATCH))[0]
        head.bias[0] += (logits[1:].amax(0) - logits[0]).median()
    return network.state_dict()


def make_model(task_id: int, trainer: str, labels: list[str], spacing_mm: float) -> str:
    """Write a model where TotalSegmentator looks for it, and its zip file as a release has it."""
    dataset = TASK_ID_WEIGHTS_CONFIGS[task_id]["foldername"]
    folder = WORK / "nnunet" / "results" / dataset / f"{trainer}__nnUNetPlans__3d_fullres"
    (folder / "fold_0").mkdir(parents=True, exist_ok=True)
    described = {
        "channel_names": {"0": "CT"},
        "labels": {"background": 0} | {name: number for number, name in enumerate(labels, start=1)},
        "numTraining": 1559,
        "file_ending": ".nii.gz",
    }
    plan = plans(dataset, spacing_mm)
    (folder / "dataset.json").write_text(json.dumps(described), encoding="utf-8")
    (folder / "plans.json").write_text(json.dumps(plan), encoding="utf-8")
    checkpoint = {
        "network_weights": random_weights(len(labels) + 1, task_id),
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {"ema_fg_dice": [np.float64(0.5)]},
        "_best_ema": np.float64(0.5),
        "current_epoch": 4000,
        "init_args": {"plans": plan, "configuration": "3d_fullres", "fold": 0, "dataset_json": described},
        "trainer_name": trainer,
        "inference_allowed_mirroring_axes": None if "NoMirroring" in trainer else (0, 1, 2),
    }
    torch.save(checkpoint, folder / "fold_0" / "checkpoint_final.pth")
    with zipfile.ZipFile(HERE / f"{dataset}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.rglob("*.*")):
            info = zipfile.ZipInfo(file.relative_to(folder.parents[1]).as_posix(), (2026, 1, 1, 0, 0, 0))
            archive.writestr(info, file.read_bytes(), zipfile.ZIP_DEFLATED, 9)
    return dataset


def main() -> None:
    image = WORK / "scan.nii.gz"
    sitk.WriteImage(scan(), str(image))
    settings = {}
    for name, arguments in RUNS.items():
        task = TASK_CONFIGS[arguments["task"]]
        config = task["sub_modes"]["fast" if arguments.get("fast") else "default"] if "sub_modes" in task else task
        spacing = config["resample"]
        spacing = spacing[0] if isinstance(spacing, list) else spacing
        ids = config["task_id"] if isinstance(config["task_id"], list) else [config["task_id"]]
        datasets = []
        for task_id in ids:
            labels = class_map[arguments["task"]]
            if len(ids) > 1:
                labels = class_map_5_parts[map_taskid_to_partname_ct[task_id]]
            datasets.append(make_model(task_id, config["trainer"], list(labels.values()), spacing))
        result = totalsegmentator(image, None, ml=True, device="cpu", quiet=True, skip_saving=True, **arguments)
        labels = np.asarray(result.dataobj).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(labels, nibabel.load(image).affine), HERE / f"{name}.nii.gz")
        settings[name] = {"datasets": datasets, "spacing_mm": spacing, "totalsegmentator": version("TotalSegmentator")}
        print(name, labels.shape, len(np.unique(labels)), "labels")
    (HERE / "reference.json").write_text(json.dumps(settings, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
