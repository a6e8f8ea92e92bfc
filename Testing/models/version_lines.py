"""What the tests of versions share: made-up evidence, and candidates that are told apart by a number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.history import Version
from TransferSegLib.models.versions.record import LearnedCase

Weights = dict[str, torch.Tensor]
Add = Callable[..., Version]
CASES = (LearnedCase("a" * 64, "case-0001"), LearnedCase("b" * 64, "MRI of Tuesday"))


def evidence(verdict: str, before: float = 0.5, after: float = 0.7) -> dict[str, Any]:
    """Return made-up evidence in the form that ``judge`` gives."""
    row = {"patients": 3, "parent": before, "candidate": after, "difference": after - before, "low": 0.1, "high": 0.3}
    return {
        "verdict": verdict,
        "reasons": ["On 3 held-out patients the mean Dice changed."],
        "warnings": ["The candidate marks left kidney where there is none: case-0001."],
        "overall": row | {"structure": None},
        "structures": [row | {"structure": "left kidney"}],
        "new": [{"structure": "Rückenmark", "patients": 3, "mean": 0.6, "smallest": 0.4}],
        "scores": {"case-0001": {"left kidney": 0.7}},
    }


def first_number(path: Path) -> float:
    """Return the first weight of a model, less that of the bundled one: the number of the candidate."""
    model = load_model(path)
    base = load_model(find_model("bundled"))
    layer = next(iter(model.state_dict))
    return round(float((model.state_dict[layer] - base.state_dict[layer]).flatten()[0]), 3)
