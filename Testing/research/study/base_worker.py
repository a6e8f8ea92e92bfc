"""The worker process that trains a base of a study; it continues where an earlier one was stopped."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from Testing.research.study.worker import ProgressFile, worker_main


def make_base(request: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train a base and return where its model is; see ``bases.train`` for the entries of the request."""
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.training.base import BaseModelPlan, train_base
    from TransferSegLib.training.configuration import TrainingConfiguration

    output = Path(request["output"])
    plan = BaseModelPlan(
        dataset=read_dataset(request["dataset"]),
        output=output,
        configuration=TrainingConfiguration.from_json(request["configuration"]),
        name=request["name"],
        device=request["device"],
        command="Testing/run.py study",
    )
    model = train_base(plan, (output / "checkpoint.pt").exists(), ProgressFile(folder).report)
    return {"model": str(model)}


if __name__ == "__main__":
    sys.exit(worker_main(make_base))
