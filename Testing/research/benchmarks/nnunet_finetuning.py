"""Compare this repository's fine-tuning with nnU-Net's own, from one base of nnU-Net, for the same processor time.

    python3 Testing/run.py benchmark nnunet_finetuning --data DATA --nnunet PYTHON --work WORK
    python3 Testing/run.py benchmark nnunet_finetuning --report

DATA holds ``head_neck_ct``, PYTHON is a Python with nnunetv2. The base is trained by nnU-Net on all cases that have
brainstem, spinal cord, both parotids and oesophagus drawn (AdamW, --base-seconds of processor time); it knows neither
mandible nor larynx. Then the mandible is learned from 1, 3 or 5 further cases: by each strategy here, and by nnU-Net
as ``nnUNetv2_train -pretrained_weights`` does it, at its own learning rate and at a tenth of it.

Each run may spend --seconds of processor time on one thread on training (features and the fit of new channels
included; reading, resampling and predicting are counted on neither side), so that a busy machine changes nothing. The
scores are Dice on the scan's own grid in ten patients that no run has seen. Runs that are in the output file are not
repeated.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import time
from collections.abc import Sequence
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import torch

from Testing.research.common.cases import add_line, read_lines
from Testing.research.common.measuring import command_line
from TransferSegLib.datasets.dataset import Dataset
from TransferSegLib.datasets.openkbp import dataset_from_head_neck_ct
from TransferSegLib.datasets.prepared import prepare_cases
from TransferSegLib.evaluation.predict_and_score import evaluate
from TransferSegLib.finetuning.adapt import adapt
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.label_change import plan_label_change
from TransferSegLib.inference.devices import Device
from TransferSegLib.inference.segment import Segmenter
from TransferSegLib.models.importers.nnunet.convert import model_from_nnunet
from TransferSegLib.models.importers.nnunet.source import find_source
from TransferSegLib.models.store import Model
from TransferSegLib.wording import table

RESULTS = Path(__file__).with_suffix(".jsonl")
TRAINER = Path(__file__).with_name("nnunet_trainer.py")
KNOWN = ("Brainstem", "SpinalCord", "RightParotid", "LeftParotid", "Esophagus")
NEW = "Mandible"
BASE, TESTED, POOL = 101, 10, 15
#: The arms: this repository's strategies, some with other settings, and nnU-Net's learning rates. ``alone`` drops what
#: the base knows, as nnU-Net's own fine-tuning does.
OURS: dict[str, dict[str, Any]] = {
    "finetune": {},
    "vanilla": {"strategy": "vanilla"},
    "scratch": {"strategy": "scratch"},
    "finetune, deep supervision": {"deep_supervision": 0.5},
    "finetune, cut at the head": {"tail": "head"},
    "finetune, mandible alone": {"alone": True},
    "vanilla, mandible alone": {"alone": True, "strategy": "vanilla"},
}
NNUNET = {"nnU-Net, rate 0.01": 0.01, "nnU-Net, rate 0.001": 0.001}
PRECISION = Device("cpu", "CPU", torch.bfloat16)


class Experiment:
    """The data of the experiment and its two sides."""

    def __init__(self, data: Path, work: Path, python: Path, seconds: float) -> None:
        """Choose the cases: those of the base, ten to test on, and a pool to learn the mandible from."""
        self._source, self._work, self._python, self._seconds = data / "head_neck_ct", work, python, seconds
        with (self._source / "cases.csv").open(encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        self.base_ids = sorted(row["case"] for row in rows if all(int(row[name]) > 0 for name in KNOWN))
        with_new = sorted(row["case"] for row in rows if int(row[NEW]) > 0 and row["case"] not in self.base_ids)
        order = [with_new[number] for number in np.random.default_rng(17).permutation(len(with_new))]
        self.test_ids, self.pool_ids = order[:TESTED], order[TESTED : TESTED + POOL]
        self._roots = {name: work / "nnunet" / name for name in ("raw", "preprocessed", "results")}
        for folder in self._roots.values():
            folder.mkdir(parents=True, exist_ok=True)

    def drawn(self, cases: int, draw: int) -> list[str]:
        """Return the cases that a run learns from; draws share none as far as the pool goes."""
        return [self.pool_ids[(draw * cases + number) % POOL] for number in range(cases)]

    def dataset(self) -> Dataset:
        """Return all cases; nothing is copied."""
        return dataset_from_head_neck_ct(self._source, self._work / "dataset", replace=True).dataset

    def base(self, seconds: float) -> tuple[Model, dict[str, Any]]:
        """Return nnU-Net's model that does not know the mandible, trained unless it was, and what was done."""
        if not list(self._roots["results"].glob(f"Dataset{BASE:03d}_*/*/done.json")):
            names = {name: number for number, name in enumerate(KNOWN, start=1)}
            options = ["--optimiser", "adamw", "--rate", "0.002"]
            self._nnunet(BASE, "HeadNeckBase", self.base_ids, names, seconds, options)
        return self._made(self._results(BASE))

    def nnunet(self, ids: Sequence[str], number: int, rate: float) -> tuple[Model, dict[str, Any]]:
        """Fine-tune by nnU-Net and return its model, and what it did."""
        start = next(self._results(BASE).rglob("checkpoint_final.pth"))
        options = ["--start", str(start), "--rate", str(rate)]
        folder = self._nnunet(number, f"Mandible{number}", ids, {NEW: 7}, self._seconds, options)
        return self._made(folder)

    def _made(self, folder: Path) -> tuple[Model, dict[str, Any]]:
        done = json.loads((folder / "done.json").read_text())
        return imported(folder), {"steps": int(done["iterations"]), "processor_s": round(done["processor_s"], 1)}

    def ours(self, ids: Sequence[str], dataset: Dataset, settings: dict[str, Any]) -> tuple[Model, dict[str, Any]]:
        """Fine-tune here and return the model, and what was done."""
        parent = imported(self._results(BASE))
        wanted = dataset.label_set.select([NEW])
        chosen = tuple(replace(case, annotated=wanted.names) for case in dataset.select(ids).cases)
        cases = replace(dataset, cases=chosen, label_set=wanted)
        known, rest = parent.description.label_set, {name: value for name, value in settings.items() if name != "alone"}
        change = plan_label_change(known, wanted, dropped=known.names if settings.get("alone") else ())
        configuration = FineTuningConfiguration(
            minutes=self._seconds / 60, tail_steps=100_000, steps=100_000, report_cases=0, **rest
        )
        prepared = prepare_cases(cases, change.label_set, configuration.preparation(parent.description))
        began = time.process_time()
        adapted = adapt(parent, prepared, change, configuration, device=PRECISION, clock=time.process_time)
        used = time.process_time() - began
        description = replace(parent.description, label_set=change.label_set, network=adapted.network)
        steps = {"tail_steps": adapted.tail_steps, "steps": adapted.steps, "processor_s": round(used, 1)}
        return Model(description, adapted.state_dict, parent.path), steps

    def test(self, model: Model, dataset: Dataset) -> dict[str, dict[str, float]]:
        """Return the Dice by structure and case."""
        found = evaluate(Segmenter(model, "cpu"), dataset.select(self.test_ids))
        names = sorted({name for scores in found.values() for name in scores})
        return {
            name: {case: round(scores[name].dice, 4) for case, scores in found.items() if name in scores}
            for name in names
        }

    def _results(self, number: int) -> Path:
        return next(self._roots["results"].glob(f"Dataset{number:03d}_*/*"))

    def _nnunet(
        self, number: int, name: str, ids: Sequence[str], labels: dict[str, int], seconds: float, options: list[str]
    ) -> Path:
        """Make a data set for nnU-Net, preprocess it and train; return the results folder."""
        dataset = f"Dataset{number:03d}_{name}"
        raw = self._roots["raw"] / dataset
        if not (raw / "dataset.json").exists():
            self._write_raw(raw, ids, labels)
        if not (self._roots["preprocessed"] / dataset / "nnUNetSmallPlans_3d_fullres").exists():
            self._call(["plan", str(number)] if number == BASE else ["adopt", str(number), str(BASE)], threads=1)
        text = self._call(["train", dataset, "--seconds", str(seconds), *options], threads=0)
        folder = self._results(number)
        done = next(line for line in text.splitlines() if line.startswith("RESULT "))
        (folder / "done.json").write_text(done.removeprefix("RESULT "))
        return folder

    def _call(self, words: list[str], threads: int) -> str:
        """Run nnU-Net's side and return what it printed."""
        places = {f"nnUNet_{name}": str(folder) for name, folder in self._roots.items()}
        environment = os.environ | places | {"nnUNet_n_proc_DA": str(threads), "OMP_NUM_THREADS": "1"}
        environment.pop("PYTHONPATH", None)
        command = [str(self._python), str(TRAINER), *words]
        done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
        if done.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr[-2000:]}")
        return done.stdout

    def _write_raw(self, folder: Path, ids: Sequence[str], labels: dict[str, int]) -> None:
        """Write scans and label maps as nnU-Net wants them; ``labels`` gives the value of each structure here."""
        for part in ("imagesTr", "labelsTr"):
            (folder / part).mkdir(parents=True, exist_ok=True)
        for id in ids:
            image = sitk.ReadImage(str(self._source / "cases" / f"{id}_ct.nii.gz"))
            values = sitk.GetArrayFromImage(sitk.ReadImage(str(self._source / "cases" / f"{id}_label.nii.gz")))
            chosen = np.zeros(values.shape, np.uint8)
            for number, value in enumerate(labels.values(), start=1):
                chosen[values == value] = number
            label_map = sitk.GetImageFromArray(chosen)
            label_map.CopyInformation(image)
            sitk.WriteImage(image, str(folder / "imagesTr" / f"{id}_0000.nii.gz"))
            sitk.WriteImage(label_map, str(folder / "labelsTr" / f"{id}.nii.gz"))
        numbered = {"background": 0} | {name: number for number, name in enumerate(labels, start=1)}
        entry = {"channel_names": {"0": "CT"}, "labels": numbered, "numTraining": len(ids), "file_ending": ".nii.gz"}
        (folder / "dataset.json").write_text(json.dumps(entry))


def imported(folder: Path) -> Model:
    """Return a model of nnU-Net as one of this library."""
    source = find_source(folder)
    if source is None:
        raise SystemExit(f"{folder} holds no model of nnU-Net.")
    description, state = model_from_nnunet(source, "base")
    return Model(description, state, folder)


def report(file: Path) -> None:
    """Print the mean Dice of the mandible by arm and number of cases, and what became of the other structures."""
    lines = read_lines(file)
    counts = sorted({line["cases"] for line in lines if line["cases"]})
    reference = {_cases_of(run): _mean_new(run) for run in lines if run["arm"] == "finetune"}
    rows = []
    for arm in dict.fromkeys(("the base itself", *OURS, *NNUNET)):
        runs = [line for line in lines if line["arm"] == arm]
        if not runs:
            continue
        cells = [_mean_and_count([_mean_new(run) for run in runs if run["cases"] == count]) for count in counts]
        shared = [_mean_new(run) - reference[_cases_of(run)] for run in runs if _cases_of(run) in reference]
        others = [mean for run in runs for name, mean in _means(run).items() if name != NEW.lower()]
        rows.append(
            (
                arm,
                *cells,
                "" if arm == "finetune" else _mean_and_count(shared, "+.3f"),
                f"{np.mean(others):.3f}" if others else "not kept",
                " + ".join(f"{np.mean([run[key] for run in runs]):.0f}" for key in _stages(runs)),
            )
        )
    patients = {case for line in lines for scores in line["dice"].values() for case in scores}
    print(f"Mandible: mean Dice over {len(patients)} test patients and the runs in brackets, each with other cases.\n")
    heads = (f"{count} case{'s' if count > 1 else ''}" for count in counts)
    print(table(("", *heads, "minus finetune", "other structures", "steps"), rows))


def _cases_of(run: dict[str, Any]) -> tuple[int, int]:
    return run["cases"], run["draw"]


def _means(run: dict[str, Any]) -> dict[str, float]:
    """Return the mean Dice over the patients by structure, whose names nnU-Net's side writes in its own way."""
    return {name.lower(): float(np.mean(list(scores.values()))) for name, scores in run["dice"].items()}


def _mean_new(run: dict[str, Any]) -> float:
    return _means(run).get(NEW.lower(), float("nan"))


def _mean_and_count(values: Sequence[float], style: str = ".3f") -> str:
    return f"{np.mean(values):{style}} ({len(values)})" if values else ""


def _stages(runs: Sequence[dict[str, Any]]) -> tuple[str, ...]:
    """Return the names of the counts of steps: of the last layers, where an arm has this stage, and of all layers."""
    return ("tail_steps", "steps") if any(run.get("tail_steps") for run in runs) else ("steps",)


def main() -> None:
    """Train the base and make the runs that are missing, or print what was measured."""
    parser = command_line(__doc__)
    parser.add_argument("--report", action="store_true", help="print the table of the runs made so far")
    parser.add_argument("--data", type=Path, metavar="FOLDER")
    parser.add_argument("--work", type=Path, metavar="FOLDER", help="where nnU-Net's data sets and results go")
    parser.add_argument("--nnunet", type=Path, metavar="PYTHON")
    parser.add_argument("--output", type=Path, default=RESULTS)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--base-seconds", type=float, default=300.0)
    parser.add_argument("--cases", type=int, nargs="+", default=[3, 1, 5])
    parser.add_argument("--draws", type=int, nargs="+", default=[0])
    parser.add_argument("--arms", nargs="+", default=["finetune", *NNUNET, "vanilla", "scratch"])
    options = parser.parse_args()
    if options.report:
        report(options.output)
        return
    torch.set_num_threads(1)
    experiment = Experiment(options.data, options.work, options.nnunet, options.seconds)
    dataset = experiment.dataset()
    if not _made(options.output, "the base itself", 0, 0):
        seconds = options.base_seconds
        base, done = experiment.base(seconds)
        line = {"arm": "the base itself", "cases": 0, "draw": 0, "seconds": seconds} | done
        add_line(options.output, line | {"dice": experiment.test(base, dataset)})
    for draw, cases, arm in product(options.draws, options.cases, options.arms):
        if _made(options.output, arm, cases, draw):
            continue
        ids = experiment.drawn(cases, draw)
        if arm in NNUNET:
            number = 200 + 100 * list(NNUNET).index(arm) + 10 * cases + draw
            model, done = experiment.nnunet(ids, number, NNUNET[arm])
        else:
            model, done = experiment.ours(ids, dataset, OURS[arm])
        line = {"arm": arm, "cases": cases, "draw": draw, "seconds": options.seconds} | done
        line["dice"] = experiment.test(model, dataset)
        add_line(options.output, line)
        means = {name: round(float(np.mean(list(scores.values()))), 3) for name, scores in line["dice"].items()}
        print(arm, cases, draw, means, flush=True)


def _made(file: Path, arm: str, cases: int, draw: int) -> bool:
    return any((line["arm"], line["cases"], line["draw"]) == (arm, cases, draw) for line in read_lines(file))


if __name__ == "__main__":
    main()
