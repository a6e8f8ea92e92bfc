"""Measure what a model's voxels cost the structures of a new task: the Dice that a perfect network could reach.

    python3 Testing/run.py benchmark resolution_caps --data DATA [--parent head-neck-ct] [--cases 20]

DATA holds the three open collections. For some cases of each (every n-th file) it prints the mean Dice between each
structure's reference and the same taken to a grid and back, for the parent's grid and the candidates between it and
the scans' own; below, what fine-tuning would choose from the first five, why, and in how many processor seconds.
"""

from __future__ import annotations

import time
from pathlib import Path

from Testing.research.common.measuring import command_line
from Testing.research.common.open_collections import BRAIN, HEAD, HEART, cases_of, label_set_of
from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.finetuning.cases import CaseSurvey, survey_cases
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.finetuning.own_grid import (
    candidate_spacings,
    masks_by_structure,
    native_spacing,
    resolution_caps,
    with_own_grid,
)
from TransferSegLib.images.preparation import spacing_text
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_description
from TransferSegLib.wording import table


def surveyed(data: Path, collection: str, count: int) -> list[CaseSurvey]:
    """Return the surveys of some cases of a collection, each with all its masks."""
    label_set = label_set_of(collection)
    cases = cases_of(data, collection, label_set)
    cases = cases[:: max(1, len(cases) // count)][:count]
    found: list[CaseSurvey] = []
    for case in cases:  # one by one: of more at once, masks of a few only are kept
        found += survey_cases(Dataset(data, collection, "", "", "", label_set, (case,))).values()
    return found


def caps_table(surveys: list[CaseSurvey], names: tuple[str, ...], parent: ModelDescription) -> str:
    """Return the table of a collection's structures by grid."""
    preparation = parent.preparation
    masks = masks_by_structure(surveys, names)
    native = native_spacing(surveys, preparation.axes)
    grids = [preparation.spacing_zyx_mm, *candidate_spacings(preparation.spacing_zyx_mm, native)]
    columns = [resolution_caps(masks, grid, preparation.axes) for grid in grids]
    rows = [
        (name, str(len(of_cases)), *(f"{column[name]:.3f}" for column in columns)) for name, of_cases in masks.items()
    ]
    return table(("structure", "cases", *map(spacing_text, grids)), rows)


def choice_text(surveys: list[CaseSurvey], names: tuple[str, ...], collection: str, parent: ModelDescription) -> str:
    """Return what would be chosen for a model of nothing but these structures."""
    known, label_set = parent.label_set, label_set_of(collection)
    if any(known.find(name) is not None for name in names):
        return "The parent knows these structures: its grid stays."
    change = plan_label_change(known, label_set, dropped=known.names)
    began = time.process_time()
    settings, notes = with_own_grid(FineTuningConfiguration(), surveys, names, change, parent)
    seconds = time.process_time() - began
    return f"{' '.join(notes)} Patches of {settings.patch} voxels. ({seconds:.2f} s)"


def main() -> None:
    """Print a table and a choice for each collection."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--parent", default="head-neck-ct", help="the model to start from (default: head-neck-ct)")
    parser.add_argument("--cases", type=int, default=20, help="cases of each collection (default: 20)")
    options = parser.parse_args()
    parent = load_description(find_model(options.parent))
    for collection in (BRAIN, HEART, HEAD):
        names, surveys = label_set_of(collection).names, surveyed(options.data, collection, options.cases)
        native = native_spacing(surveys, parent.preparation.axes)
        print(f"\n{collection}: scans of {spacing_text(native)} (median)")
        print(caps_table(surveys, names, parent))
        print(choice_text(surveys[:5], names, collection, parent))


if __name__ == "__main__":
    main()
