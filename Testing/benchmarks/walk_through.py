"""The walk-through of docs/fine-tuning.md: six scans corrected, a better model made, used, and given back.

Segments six scans with the bundled base model, takes the reference labels as the corrections, fine-tunes, shows the
verdict, makes the new version the current one, segments a seventh scan with both, and goes back:

    python Testing/benchmarks/walk_through.py --data DATASET --work FOLDER --minutes 6

DATASET is a folder in the dataset format with head-and-neck CTs. By default the cases are the first seven of the
bundled model's validation cases, which it did not learn from. FOLDER is made; project and library lie in it. It calls
the command line as a person would.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from TransferSegLib.cli import finetune as finetune_verb
from TransferSegLib.cli import main as command
from TransferSegLib.datasets.dataset import Case, Dataset, read_dataset
from TransferSegLib.evaluation.cases import dice_by_structure
from TransferSegLib.models.locate import DEFAULT_MODEL, find_model
from TransferSegLib.models.store import load_description
from TransferSegLib.scans.read import read_label_map

LINE = "our-clinic"


def main() -> None:
    """Take the walk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with a dataset.json")
    parser.add_argument("--work", type=Path, required=True, help="folder to be made")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--cases", nargs=7, metavar="ID", help="six to correct and one to look at")
    parser.add_argument("--reviewed", nargs="+", metavar="NAME", help="structures that are corrected (default: all)")
    parser.add_argument("--configuration", type=Path, metavar="FILE", help="knobs of fine-tuning")
    arguments = parser.parse_args()
    dataset = read_dataset(arguments.data)
    ids = arguments.cases or unseen(dataset)
    *corrected, seventh = (dataset.case(id) for id in ids)
    arguments.work.mkdir(parents=True)
    project, library = arguments.work / "project", arguments.work / "library"
    structures = arguments.data / "dataset.json"

    print(f"# 1. Segment six scans with '{DEFAULT_MODEL}', and correct them (the reference labels)", flush=True)
    for case in corrected:
        prediction = arguments.work / f"{case.id}.seg.nrrd"
        transferseg("segment", case.image, "--output", prediction, "--device", "cpu", quiet=True)
        reviewed = [name for name in case.annotated if not arguments.reviewed or name in arguments.reviewed]
        words = ["cases", "add", case.image, case.labels, "--project", project, "--structures", structures]
        words += ["--id", case.id, "--reviewed", *reviewed]
        words += ["--prediction", prediction, "--model", DEFAULT_MODEL]
        transferseg(*words)
    print("\n# 2. Fine-tune, and see the verdict", flush=True)
    began = time.monotonic()
    words = ["finetune", "--project", project, "--model", DEFAULT_MODEL, "--name", LINE, "--library", library]
    words += ["--minutes", f"{arguments.minutes:g}", "--device", "cpu"]
    words += ["--configuration", arguments.configuration] if arguments.configuration else []
    transferseg(*words)
    print(f"({(time.monotonic() - began) / 60:.1f} min)", flush=True)
    print("\n# 3. Make it the current one (where the verdict has not done so already)", flush=True)
    transferseg("models", "promote", LINE, "1", "--library", library)
    print(f"\n# 4. Segment a seventh scan, {seventh.id}, with both", flush=True)
    compare_on(seventh, dataset, arguments.work, library)
    print("\n# 5. Go back", flush=True)
    transferseg("models", "rollback", LINE, "--library", library)
    transferseg("models", "history", LINE, "--library", library)


def unseen(dataset: Dataset) -> list[str]:
    """Return seven cases of the dataset that the bundled model was validated on, and did not learn from."""
    known = load_description(find_model()).metrics["validation"]["ids"]
    found = [id for id in known if id in dataset.ids]
    if len(found) < 7:
        sys.exit("The dataset has fewer than seven cases the bundled model was validated on: name seven with --cases.")
    return found[:7]


def compare_on(case: Case, dataset: Dataset, work: Path, library: Path) -> None:
    """Print the Dice of a case by structure with the model before and after."""
    columns = []
    for model in (f"{LINE}@0", LINE):
        path = find_model(model, library)
        output = work / f"{case.id}-{path.name}.seg.nrrd"
        transferseg("segment", case.image, "--model", path, "--output", output, "--device", "cpu", quiet=True)
        label_set = load_description(path).label_set
        reference = read_label_map(case.labels)
        columns.append(dice_by_structure(read_label_map(output), label_set, reference, dataset.label_set, case))
    before, after = columns
    for name in after:
        print(f"{name:24} {before.get(name, float('nan')):.3f} -> {after[name]:.3f}")
    shared = [name for name in after if name in before]
    means = [sum(column[name] for name in shared) / len(shared) for column in columns]
    print(f"{'mean':24} {means[0]:.3f} -> {means[1]:.3f}", flush=True)


def transferseg(*words: object, quiet: bool = False) -> None:
    """Run a command line, show it, and end with its exit code when it fails."""
    texts: Sequence[str] = [str(word) for word in words]
    shown = [Path(text).name if Path(text).is_absolute() else text for text in texts]
    print("$ transferseg " + " ".join(f"'{text}'" if " " in text else text for text in shown), flush=True)
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        code = command.main(texts)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    if finetune_verb not in command._VERBS:
        sys.exit("transferseg finetune is not there yet.")
    main()
