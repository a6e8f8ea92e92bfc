"""Add a profile of the training cases to a model; the check of fit compares scans with it.

    python3 Testing/run.py benchmark add_fit_profile --model Resources/Models/head-neck-ct --data DATASET

The model's validation cases (``metrics.validation.ids``) are left out. Only model.json changes, not the weights.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from Testing.research.common.measuring import command_line
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.images.read import read_scan
from TransferSegLib.inference.profiling import profile_of_scans
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.store import load_model, set_profile


def main() -> None:
    """Make the profile and write it."""
    parser = command_line(__doc__)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True, help="folder with a dataset.json")
    parser.add_argument("--device", default="auto")
    arguments = parser.parse_args()
    model = load_model(arguments.model)
    left_out = set(model.description.metrics.get("validation", {}).get("ids", []))
    cases = [case for case in read_dataset(arguments.data).cases if case.id not in left_out]
    scans = [partial(read_scan, case.image) for case in cases]
    profile = profile_of_scans(Segmenter(model, arguments.device), scans)
    if profile is None:
        raise SystemExit(f"{arguments.data} holds no case that the model was trained on.")
    set_profile(arguments.model, profile)
    print(f"The profile of {profile.cases} cases is in {arguments.model}.")


if __name__ == "__main__":
    main()
