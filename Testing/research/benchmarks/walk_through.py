"""The whole loop of docs/measurements.md: correct six scans, fine-tune, use the new version, and roll back.

Segments six scans with the bundled base model, takes the reference labels as the corrections, fine-tunes, shows the
verdict, makes the new version the current one, segments a seventh scan with both, and goes back:

    python3 Testing/run.py benchmark walk_through --data DATASET --work FOLDER --minutes 6

DATASET is a folder in the dataset format. With head-and-neck CTs the cases are by default the first seven of the
bundled model's validation cases, which it did not learn from; of any other dataset seven are named, e.g. MR, with
structures that the model does not know:

    python3 Testing/run.py benchmark walk_through --data DATASET --work FOLDER --minutes 6 --rounds 2
        --configuration Testing/research/benchmarks/one_millimetre.json --cases ID ID ID ID ID ID ID

With ``--rounds 2`` there are two of them: three scans are corrected first, and the version made of them segments the
next three. FOLDER is made; project and library lie in it. It calls the command line as a person would.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from Testing.research.common.cases import validation_ids
from Testing.research.common.measuring import command_line
from TransferSegLib.cli import main as command
from TransferSegLib.datasets.dataset import Case, Dataset, read_dataset
from TransferSegLib.evaluation.predict_and_score import score_label_maps
from TransferSegLib.images.read import read_label_map
from TransferSegLib.models.locate import DEFAULT_MODEL, find_model
from TransferSegLib.models.store import load_description

LINE = "our-clinic"


def main() -> None:
    """Take the walk."""
    parser = command_line(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with a dataset.json")
    parser.add_argument("--work", type=Path, required=True, help="folder to be made")
    parser.add_argument("--minutes", type=float, default=6.0)
    parser.add_argument("--rounds", type=int, default=1, choices=(1, 2, 3), help="of correcting and fine-tuning [1]")
    parser.add_argument("--cases", nargs=7, metavar="ID", help="six to correct, one to look at")
    parser.add_argument("--reviewed", nargs="+", metavar="NAME", help="structures that are corrected (default: all)")
    parser.add_argument("--configuration", type=Path, metavar="FILE", help="knobs of fine-tuning")
    arguments = parser.parse_args()
    dataset = read_dataset(arguments.data)
    ids = arguments.cases or validation_ids(dataset, 7)[:7]
    *corrected, seventh = (dataset.case(id) for id in ids)
    arguments.work.mkdir(parents=True)
    walk = Walk(dataset, arguments)
    per_round = -(-len(corrected) // arguments.rounds)
    for number in range(1, arguments.rounds + 1):
        model = DEFAULT_MODEL if number == 1 else LINE
        walk.correct(corrected[(number - 1) * per_round : number * per_round], model)
        walk.fine_tune(model)
        walk.heading("Make it the current one (where the verdict has not done so already)")
        transferseg("models", "promote", LINE, number, "--library", walk.library)
        walk.heading(f"Segment the last scan, {seventh.id}, with the version before and this one")
        walk.compare_on(seventh, number - 1)
    walk.heading("Go back")
    transferseg("models", "rollback", LINE, "--library", walk.library)
    transferseg("models", "history", LINE, "--library", walk.library)


class Walk:
    """The steps of the walk, with a number each."""

    def __init__(self, dataset: Dataset, arguments: argparse.Namespace) -> None:
        """Begin with nothing done."""
        self._dataset, self._arguments = dataset, arguments
        self._project, self.library = arguments.work / "project", arguments.work / "library"
        self._step = 0

    def heading(self, text: str) -> None:
        """Print what comes next."""
        self._step += 1
        print(("\n" if self._step > 1 else "") + f"# {self._step}. {text}", flush=True)

    def correct(self, cases: Sequence[Case], model: str) -> None:
        """Segment scans, and add them with the reference labels as corrections."""
        asked, work = self._arguments, self._arguments.work
        self.heading(f"Segment {len(cases)} scans with '{model}', and correct them (the reference labels)")
        place = ["--model", find_model(model, self.library)]
        for case in cases:
            prediction = work / f"{case.id}.seg.nrrd"
            transferseg("segment", case.image, *place, "--output", prediction, "--device", "cpu", quiet=True)
            reviewed = [name for name in case.annotated if not asked.reviewed or name in asked.reviewed]
            args = ["cases", "add", case.image, case.labels, "--project", self._project]
            args += ["--structures", asked.data / "dataset.json", "--id", case.id, "--reviewed", *reviewed]
            args += ["--prediction", prediction, *place]
            transferseg(*args)

    def fine_tune(self, model: str) -> None:
        """Fine-tune on all cases so far."""
        asked = self._arguments
        self.heading("Fine-tune, and see the verdict")
        began = time.monotonic()
        args = ["finetune", "--project", self._project, "--model", model, "--name", LINE, "--library", self.library]
        args += ["--minutes", f"{asked.minutes:g}", "--device", "cpu"]
        args += ["--configuration", asked.configuration] if asked.configuration else []
        transferseg(*args)
        print(f"({(time.monotonic() - began) / 60:.1f} min)", flush=True)

    def compare_on(self, case: Case, earlier: int) -> None:
        """Print the Dice of a case by structure with an earlier version and the current one."""
        columns = []
        for model in (f"{LINE}@{earlier}", LINE):
            path = find_model(model, self.library)
            output = self._arguments.work / f"{case.id}-{path.name}.seg.nrrd"
            transferseg("segment", case.image, "--model", path, "--output", output, "--device", "cpu", quiet=True)
            label_set = load_description(path).label_set
            reference = read_label_map(case.labels)
            found = read_label_map(output)
            scores = score_label_maps(found, label_set, reference, self._dataset.label_set, case)
            columns.append({name: score.dice for name, score in scores.items()})
        before, after = columns
        for name in after:
            was = f"{before[name]:.3f}" if name in before else "not known"
            print(f"{name:24} {was} -> {after[name]:.3f}", flush=True)
        shared = [name for name in after if name in before]
        if shared:
            means = [sum(column[name] for name in shared) / len(shared) for column in columns]
            print(f"{'mean':24} {means[0]:.3f} -> {means[1]:.3f}", flush=True)


def transferseg(*args: object, quiet: bool = False) -> None:
    """Run a command line, show it, and end with its exit code when it fails."""
    texts: Sequence[str] = [str(word) for word in args]
    shown = [Path(text).name if Path(text).is_absolute() else text for text in texts]
    print("$ transferseg " + " ".join(f"'{text}'" if " " in text else text for text in shown), flush=True)
    with contextlib.redirect_stdout(io.StringIO()) if quiet else contextlib.nullcontext():
        code = command.main(texts)
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
