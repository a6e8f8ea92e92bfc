"""Train the real nnU-Net for so many seconds of processor time, from random weights or from a checkpoint.

This file runs where nnunetv2 is installed, apart from this repository's own Python; ``nnunet_finetuning.py`` calls it:

    python nnunet_trainer.py DATASET PLANS --seconds 240 [--start CHECKPOINT] [--optimiser adamw] [--rate 0.01]

Everything is nnU-Net's own but the length of the training: one epoch of as many iterations as the time allows, during
which the learning rate falls as nnU-Net's does over its 1000 epochs. Nothing is mirrored, as left and right are
structures of their own. ``--start`` is what ``nnUNetv2_train -pretrained_weights`` does.
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch

_POWER = 0.9


def trainer_of(dataset: str, plans: str, optimiser: str, rate: float) -> Any:
    """Return nnU-Net's trainer without mirroring for a preprocessed dataset."""
    from nnunetv2.paths import nnUNet_preprocessed
    from nnunetv2.training.nnUNetTrainer.variants.data_augmentation.nnUNetTrainerNoMirroring import (
        nnUNetTrainerNoMirroring,
    )

    folder = Path(str(nnUNet_preprocessed)) / dataset
    plan = json.loads((folder / f"{plans}.json").read_text()) | {"continue_training": False}
    names = json.loads((folder / "dataset.json").read_text())
    trainer = nnUNetTrainerNoMirroring(plan, "3d_fullres", "all", names, torch.device("cpu"))
    trainer.initial_lr = rate
    trainer.num_epochs = 1
    trainer.plot_network_architecture = lambda: None
    trainer.initialize()
    if optimiser == "adamw":
        trainer.optimizer = torch.optim.AdamW(trainer.network.parameters(), rate, weight_decay=trainer.weight_decay)
    return trainer


def train(trainer: Any, seconds: float, rate: float) -> tuple[int, float]:
    """Train for so many seconds of this process's time and write the checkpoint; return the iterations and loss."""
    trainer.on_train_start()
    trainer.on_epoch_start()
    trainer.network.train()
    started, iterations, losses, said = time.process_time(), 0, [], 0
    while (done := (time.process_time() - started) / seconds) < 1.0:
        for group in trainer.optimizer.param_groups:
            group["lr"] = rate * (1 - done) ** _POWER
        losses.append(float(trainer.train_step(next(trainer.dataloader_train))["loss"]))
        iterations += 1
        if int(done * 20) > said:
            said = int(done * 20)
            print(f"{100 * done:.0f} %, iteration {iterations}, loss {sum(losses[-20:]) / 20:.3f}", flush=True)
            if said % 5 == 0:
                trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_part.pth"))
    trainer.current_epoch = 1
    trainer.save_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    return iterations, sum(losses[-20:]) / max(1, len(losses[-20:]))


def main() -> None:
    """Train, and print what was done as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("dataset")
    parser.add_argument("plans")
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--optimiser", choices=("sgd", "adamw"), default="sgd")
    parser.add_argument("--rate", type=float, default=1e-2)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    import numpy as np

    torch.manual_seed(arguments.seed)
    np.random.seed(arguments.seed)
    torch.set_num_threads(1)
    trainer = trainer_of(arguments.dataset, arguments.plans, arguments.optimiser, arguments.rate)
    if arguments.start is not None:
        from nnunetv2.run.load_pretrained_weights import load_pretrained_weights

        load_pretrained_weights(trainer.network, str(arguments.start))
    began = time.process_time()
    iterations, loss = train(trainer, arguments.seconds, arguments.rate)
    used = time.process_time() - began
    print("RESULT " + json.dumps({"iterations": iterations, "loss": loss, "processor_s": used}), flush=True)


if __name__ == "__main__":
    main()
