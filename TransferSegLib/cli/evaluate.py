"""``transferseg evaluate``: Dice of a model on the cases of a dataset, on each scan's own grid."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from TransferSegLib.cli.reporting import interruptible, progress_shown, table
from TransferSegLib.errors import DatasetError


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "evaluate",
        help="measure a model on the annotated structures of a dataset",
        description="Segment the cases of a dataset and compare every annotated structure with its label.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder with a dataset.json")
    parser.add_argument("--model", help="model name, folder or .zip (default: the bundled model)")
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--cases", nargs="+", metavar="ID", help="only these cases (default: all)")
    which.add_argument(
        "--validation", action="store_true", help="only the cases the model was validated on, by its description"
    )
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every case's numbers to a file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a table of mean, median, smallest and number of cases by structure."""
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.evaluation.cases import evaluate, summarise
    from TransferSegLib.models.locate import find_model
    from TransferSegLib.models.store import load_model
    from TransferSegLib.segmenting.segment import Segmenter

    dataset = read_dataset(arguments.data)
    model = load_model(find_model(arguments.model))
    if arguments.validation:
        ids = model.description.metrics.get("validation", {}).get("ids", [])
        known = [id for id in ids if id in dataset.ids]
        if not known:
            raise DatasetError(f"None of the model's validation cases is in {arguments.data}: name some with --cases.")
        dataset = dataset.select(known)
    elif arguments.cases:
        dataset = dataset.select(arguments.cases)
    with progress_shown() as progress, interruptible() as cancel:
        results = evaluate(Segmenter(model, arguments.device), dataset, progress, cancel)
    summary = summarise(results, model.description.label_set.names)
    rows = [
        (name, str(row.cases), f"{row.mean:.3f}", f"{row.median:.3f}", f"{row.smallest:.3f}")
        for name, row in summary.items()
    ]
    print(f"Dice on each scan's own grid, {len(dataset)} cases of '{dataset.name}', model '{model.description.name}'")
    print(table(("structure", "cases", "mean", "median", "smallest"), rows))
    if arguments.json is not None:
        arguments.json.write_text(json.dumps(results, indent=1) + "\n", encoding="utf-8")
    return 0
