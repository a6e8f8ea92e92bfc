"""Train the real nnU-Net for so many seconds of processor time, from random weights or from a checkpoint.

This file runs where nnunetv2 is installed, apart from this repository's own Python; ``nnunet_finetuning`` calls it:

    python nnunet_trainer.py plan 101                # fingerprint, plans of a small network, preprocessing
    python nnunet_trainer.py adopt 102 101           # the same with the plans of another data set
    python nnunet_trainer.py train NAME --seconds 60 [--start CHECKPOINT] [--optimiser adamw] [--rate 0.01]

Everything is nnU-Net's own but the length of the training: one epoch of as many iterations as the time allows, during
which the learning rate falls as nnU-Net's does over its 1000 epochs. Nothing is mirrored, as left and right are
structures of their own. ``--start`` does what ``nnUNetv2_train -pretrained_weights`` does.
"""

from __future__ import annotations

import argparse
import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch

PLANS = "nnUNetSmallPlans"
#: nnU-Net's plans for a network that one core trains in minutes: 5 mm, 1.4 million weights.
SMALL = {"spacing": [5.0, 5.0, 5.0], "patch_size": [32, 40, 48], "batch_size": 2}
LEVELS, FEATURES = 4, [16, 32, 64, 128]
_POWER = 0.9


def preprocessed() -> Path:
    """Return the folder that nnU-Net's variable of the environment names."""
    from nnunetv2.paths import nnUNet_preprocessed

    return Path(str(nnUNet_preprocessed))


def folder_of(number: int) -> Path:
    """Return the folder of a preprocessed data set."""
    return next(preprocessed().glob(f"Dataset{number:03d}_*"))


def plan(number: int) -> None:
    """Let nnU-Net plan, make its network small, and preprocess."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import (
        extract_fingerprints,
        plan_experiments,
        preprocess_dataset,
    )

    extract_fingerprints([number], num_processes=1)
    plan_experiments([number], gpu_memory_target_in_gb=2)
    planned = json.loads((folder_of(number) / "nnUNetPlans.json").read_text())
    configuration = planned["configurations"]["3d_fullres"] | SMALL | {"data_identifier": f"{PLANS}_3d_fullres"}
    configuration["architecture"]["arch_kwargs"] |= {
        "n_stages": LEVELS,
        "features_per_stage": FEATURES,
        "kernel_sizes": [[3, 3, 3]] * LEVELS,
        "strides": [[1, 1, 1]] + [[2, 2, 2]] * (LEVELS - 1),
        "n_conv_per_stage": [2] * LEVELS,
        "n_conv_per_stage_decoder": [2] * (LEVELS - 1),
    }
    planned |= {"configurations": {"3d_fullres": configuration}, "plans_name": PLANS}
    (folder_of(number) / f"{PLANS}.json").write_text(json.dumps(planned, indent=1))
    preprocess_dataset(number, PLANS, ("3d_fullres",), num_processes=(1,))


def adopt(number: int, source: int) -> None:
    """Preprocess a data set by the plans of another one, as nnU-Net's documentation asks for before fine-tuning."""
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, preprocess_dataset
    from nnunetv2.experiment_planning.plans_for_pretraining.move_plans_between_datasets import (
        move_plans_between_datasets,
    )
    from nnunetv2.paths import nnUNet_raw

    extract_fingerprints([number], num_processes=1)
    move_plans_between_datasets(source, number, PLANS, PLANS)
    shutil.copyfile(Path(str(nnUNet_raw)) / folder_of(number).name / "dataset.json", folder_of(number) / "dataset.json")
    preprocess_dataset(number, PLANS, ("3d_fullres",), num_processes=(1,))


def trainer_of(dataset: str, optimiser: str, rate: float) -> Any:
    """Return nnU-Net's trainer without mirroring for a preprocessed data set."""
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )

    folder = preprocessed() / dataset
    plans = json.loads((folder / f"{PLANS}.json").read_text()) | {"continue_training": False}
    names = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainerNoMirroring(plans, "3d_fullres", "all", names, torch.device("cpu"))
    trainer.initial_lr = rate
    trainer.num_epochs = 1
    trainer.plot_network_architecture = lambda: None
    trainer.initialize()
    if optimiser == "adamw":
        trainer.optimizer = torch.optim.AdamW(trainer.network.parameters(), rate, weight_decay=trainer.weight_decay)
    return trainer


def train(trainer: Any, seconds: float, rate: float) -> dict[str, float]:
    """Train for so many seconds of this process's time and write the checkpoint; return what was done."""
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.network.train()
    started, losses, said = time.process_time(), [], 0
    while (done := (time.process_time() - started) / seconds) < 1.0:
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate * (1 - done) ** _POWER
        losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
        if int(done * 20) > said:
            said = int(done * 20)
            print(f"{100 * done:.0f} %, iteration {len(losses)}, loss {np.mean(losses[-20:]):.3f}", flush=True)
    trainer.current_epoch = 1
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    used = time.process_time() - started
    return {"iterations": len(losses), "loss": float(np.mean(losses[-20:])), "processor_s": used}


def main() -> None:
    """Do one of the three; a training prints what it did as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True)
    verbs.add_parser("plan").add_argument("number", type=int)
    adopting = verbs.add_parser("adopt")
    adopting.add_argument("number", type=int)
    adopting.add_argument("source", type=int)
    training = verbs.add_parser("train")
    training.add_argument("dataset")
    training.add_argument("--seconds", type=float, required=True)
    training.add_argument("--start", type=Path)
    training.add_argument("--optimiser", choices=("sgd", "adamw"), default="sgd")
    training.add_argument("--rate", type=float, default=1e-2)
    training.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if options.verb == "plan":
        plan(options.number)
        return
    if options.verb == "adopt":
        adopt(options.number, options.source)
        return
    torch.manual_seed(options.seed)
    np.random.seed(options.seed)
    torch.set_num_threads(1)
    trainer = trainer_of(options.dataset, options.optimiser, options.rate)
    if options.start is not None:
        from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

        load_pretrained_weights(trainer.network, str(options.start))
    print("RESULT " + json.dumps(train(trainer, options.seconds, options.rate)), flush=True)


if __name__ == "__main__":
    main()
