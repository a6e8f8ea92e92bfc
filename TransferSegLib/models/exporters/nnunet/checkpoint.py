"""The checkpoint of a fold, as nnU-Net v2 writes it, without an optimiser: for predicting and as pretrained weights."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence

import torch

from TransferSegLib.models.exporters.nnunet.plans import CONFIGURATION, TRAINER, NnUNetFiles

_HEADS = "decoder.seg_layers."


def checkpoint_bytes(
    state: Mapping[str, torch.Tensor], files: NnUNetFiles, fold: int, mirror_axes_zyx: Sequence[int]
) -> bytes:
    """Return the content of ``checkpoint_final.pth`` for the weights of our network by layer name."""
    entry = {
        "network_weights": with_all_names(_in_order(state, files.channels)),
        "optimizer_state": None,
        "grad_scaler_state": None,
        "logging": {},
        "_best_ema": None,
        "current_epoch": 0,
        "init_args": {
            "plans": files.plans,
            "configuration": CONFIGURATION,
            "fold": fold,
            "dataset_json": files.dataset,
            "device": torch.device("cpu"),
        },
        "trainer_name": TRAINER,
        "inference_allowed_mirroring_axes": tuple(mirror_axes_zyx) or None,
    }
    buffer = io.BytesIO()
    torch.save(entry, buffer)
    return buffer.getvalue()


def with_all_names(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the weights under all names that nnU-Net's network has for them; they share memory, also in a file.

    Its layers list their modules once more in order (``all_modules``), and its decoder holds the encoder. Loading is
    strict: a name that is missing is an error.
    """
    named = {}
    for name, values in state.items():
        second = name.replace(".conv.", ".all_modules.0.").replace(".norm.", ".all_modules.1.")
        for known in dict.fromkeys((name, second)):
            named[known] = values
            if known.startswith("encoder."):
                named[f"decoder.{known}"] = values
    return named


def _in_order(state: Mapping[str, torch.Tensor], channels: Sequence[int]) -> dict[str, torch.Tensor]:
    """Return the weights with the classes of all heads in another order."""
    order = list(channels)
    # Fresh copies: torch would write a view with the whole array it is a part of.
    return {
        name: values[order] if name.startswith(_HEADS) else values.detach().to("cpu", copy=True)
        for name, values in state.items()
    }
