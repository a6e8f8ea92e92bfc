"""Add to a model how often it is wrong by its margin, counted on the cases that it was validated on.

    python3 Testing/run.py benchmark add_doubt_calibration --model Resources/Models/head-neck-ct --data DATASET

``train-base`` and ``finetune`` do so themselves; this is for models that were made before. Only model.json changes.
"""

from __future__ import annotations

from pathlib import Path

from Testing.research.common.measuring import command_line
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.prepared import prepare_case
from TransferSegLib.evaluation.doubt_counts import calibrate
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.models.store import load_model, set_doubt


def main() -> None:
    """Count, and write the curve."""
    parser = command_line(__doc__, device=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with a dataset.json")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    description = model.description
    known = set(description.metrics.get("validation", {}).get("ids", []))
    dataset = read_dataset(arguments.data)
    cases = (
        prepare_case(case, dataset.label_set, description.label_set, description.preparation)
        for case in dataset.cases
        if case.id in known
    )
    doubt = calibrate(model, cases, choose_device(arguments.device))
    if doubt is None:
        raise SystemExit(f"{arguments.data} has too few of the cases that the model was validated on.")
    set_doubt(arguments.model, doubt)
    print(f"{arguments.model}: counted on {doubt.cases} cases")
    for margin, wrong in zip(doubt.margins, doubt.wrong, strict=True):
        print(f"margin {margin:6.3f}: {100 * wrong:8.4f} % wrong")


if __name__ == "__main__":
    main()
