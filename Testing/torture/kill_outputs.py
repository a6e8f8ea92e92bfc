"""What is written for the user, killed at random moments: label maps, segmentations, datasets, jobs, fine-tuning."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import SimpleITK as sitk
import tiny
from trials import Outcome
from warm import Warm, in_process

from TransferSegLib.cli.main import main
from TransferSegLib.datasets.dataset import read_dataset
from TransferSegLib.datasets.validate import check_dataset, has_errors
from TransferSegLib.images.read import read_label_map
from TransferSegLib.images.write import write_label_map
from TransferSegLib.inference.segment_file import ScanToSegment
from TransferSegLib.jobs import worker
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.segment_job import SegmentParameters
from TransferSegLib.jobs.status import read_state
from TransferSegLib.jobs.store import create_job, request_cancel
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.history import history

sys.path.append(str(Path(__file__).parents[1] / "finetuning"))
import projects

_SUFFIXES = (".nii.gz", ".nrrd", ".seg.nrrd", ".mha")
_BIG = (40, 60, 60)


def label_maps(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Check that a file that is overwritten is the old one or the new one at any moment."""
    while True:
        file = folder / f"labels{chance.choice(_SUFFIXES)}"
        yield 1, _killed(chance, 0.15, _overwrite, (str(file), chance.random()), _one_value, (str(file),))
        for leftover in folder.iterdir():
            leftover.unlink()


def segmentations(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Check that an output that is there is whole, and that the next run writes it."""
    in_process(_prepare_scan, folder)
    while True:
        output = folder / "out" / f"scan{chance.choice(_SUFFIXES[:3])}"
        words = ["segment", str(folder / "scan.nii.gz"), "--output", str(output), "--model", str(folder / "model")]
        words += ["--device", "cpu", "--progress", "json"]
        yield 1, _killed(chance, 0.6, _command, (words,), _whole_or_none, (str(output), words))
        shutil.rmtree(folder / "out", ignore_errors=True)


def datasets(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Check that a dataset that is there is whole, and made again when it is not."""
    in_process(_prepare_dataset, folder)
    while True:
        out = folder / "out"
        words = ["dataset", "make", "--images", str(folder / "images"), "--labels", str(folder / "labels")]
        words += ["--structures", str(folder / "names.json"), "--output", str(out), "--copy"]
        yield 1, _killed(chance, 0.2, _command, (words,), _dataset_or_none, (str(out), words))
        shutil.rmtree(out, ignore_errors=True)


def jobs(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Check that a job whose worker is killed, perhaps while it is cancelled, is listed, goes on and ends."""
    in_process(_prepare_scan, folder)
    while True:
        place = folder / "jobs"
        job = in_process(_make_job, str(folder), str(place))
        if job.failure:
            yield 1, [job.failure]
            continue
        cancelling = Warm(_cancel, job.value) if chance.random() < 0.3 else None
        wrong = _killed(chance, 0.8, worker.main, ([job.value],), _job_ends, (job.value, str(place)))
        if cancelling is not None:
            cancelling.kill()
        yield 1, wrong
        shutil.rmtree(place, ignore_errors=True)


def finetuning(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Killed and started again until it ends, it gives the same weights as never killed."""
    made = in_process(_prepare_finetuning, folder, longest_s=300)
    if made.failure:
        yield 1, [made.failure]
        return
    number = 0
    while True:
        number += 1
        library = folder / f"library-{number}"
        shutil.copytree(folder / "parent", library)
        shutil.copytree(folder / "project", folder / f"project-{number}")
        kills = 0
        while True:
            run = Warm(_finetune, str(folder / f"project-{number}"), str(library))
            deadline = time.monotonic() + chance.uniform(0.05, 0.9) * made.value["seconds"]
            while run.read(0.02) and (kills >= 6 or time.monotonic() < deadline):
                pass
            over = any(line.startswith(("value ", "traceback ")) for line in run.lines)
            run.kill()
            if over:
                break
            kills += 1
            found = in_process(_current, str(library))
            yield 1, [found.failure] if found.failure else []
        last = run.lines[-1]
        same = last == "value " + json.dumps(made.value["sha256"])
        yield 1, [] if same else [f"after {kills} kills: {last[:300]}"]
        shutil.rmtree(library)
        shutil.rmtree(folder / f"project-{number}")


def _killed(
    chance: random.Random,
    longest_s: float,
    act: Callable[..., Any],
    words: tuple[Any, ...],
    check: Callable[..., Any],
    about: tuple[Any, ...],
) -> list[str]:
    """Kill an act at a random moment and return what the check finds, or what the act died of before."""
    run = Warm(act, *words)
    time.sleep(chance.uniform(0.0, longest_s))
    run.kill()
    found = in_process(check, *about, longest_s=120)
    wrong = [line for line in run.lines if line.startswith("traceback ")]
    return [*wrong, *(found.value or []), *([found.failure] if found.failure else [])]


def _command(words: list[str]) -> int:
    """Run the command line; its output does not matter here."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return main(words)


def _overwrite(file: str, seed: float) -> None:
    """Write label maps of the values 1 and 2 into one file for ever."""
    chance = random.Random(seed)
    while True:
        write_label_map(tiny.label_map(chance.choice((1, 2)), _BIG), file, tiny.LABEL_SET)


def _one_value(file: str) -> list[str]:
    """Return what is wrong with a label map that has one value."""
    if not Path(file).exists():
        return []
    values = np.unique(sitk.GetArrayFromImage(read_label_map(file)))
    visible = [path.name for path in Path(file).parent.iterdir() if not path.name.startswith(".")]
    wrong = [] if list(values) in ([0, 1], [0, 2]) else [f"values {list(values)}"]
    return wrong + ([f"visible: {visible}"] if len(visible) > 1 else [])


def _prepare_scan(folder: Path) -> None:
    """Write a scan and a model."""
    sitk.WriteImage(tiny.scan(1, (12, 20, 20)), str(folder / "scan.nii.gz"))
    tiny.write_model(folder / "model")


def _whole_or_none(output: str, words: list[str]) -> list[str]:
    """Return what is wrong with an output, before and after the same command again."""
    wrong = []
    if Path(output).exists():
        read_label_map(output)
    if _command(words) != 0:
        wrong.append("the same command fails afterwards")
    read_label_map(output)
    visible = [path.name for path in Path(output).parent.iterdir() if not path.name.startswith(".")]
    return wrong + ([f"visible: {visible}"] if len(visible) > 1 else [])


def _prepare_dataset(folder: Path) -> None:
    """Write images and label maps of four cases."""
    for name in ("images", "labels"):
        (folder / name).mkdir()
    (folder / "names.json").write_text(json.dumps({"1": "liver", "2": "spleen"}))
    for number in range(4):
        sitk.WriteImage(tiny.scan(number), str(folder / "images" / f"p{number}.nii.gz"))
        sitk.WriteImage(tiny.label_map(1 + number % 2), str(folder / "labels" / f"p{number}.nii.gz"))


def _dataset_or_none(out: str, words: list[str]) -> list[str]:
    """Return what is wrong with a dataset, and whether the same command works afterwards."""
    there = (Path(out) / "dataset.json").exists()
    if not there and _command([*words, "--replace"]) != 0:
        return ["the same command fails afterwards"]
    dataset = read_dataset(out)
    problems = check_dataset(dataset)
    return ["the dataset has errors"] if has_errors(problems) or len(dataset.ids) != 4 else []


def _make_job(folder: str, place: str) -> str:
    """Make a job that segments a scan."""
    each = ScanToSegment(Path(folder) / "scan.nii.gz", Path(place) / "out.nii.gz", None)
    parameters = SegmentParameters((each,), str(Path(folder) / "model"), None, None, None).to_json()
    return str(create_job(JobRequest("segment", parameters, "cpu", "torture"), Path(place)))


def _cancel(job: str) -> None:
    """Ask a job to stop a little later."""
    time.sleep(0.1)
    request_cancel(Path(job))


def _job_ends(job: str, place: str) -> list[str]:
    """Return what is wrong with the jobs after a worker was killed; the job is run to its end."""
    wrong = []
    if _command(["jobs", "list", "--jobs-folder", place]) != 0:
        wrong.append("jobs list fails")
    before = str(read_state(Path(job)))
    if before not in ("queued", "interrupted", "cancelled", "cancelling", "done"):
        wrong.append(f"the state of a killed job is {before}")
    if before != "done":
        ended = in_process(_work, job)
        after = str(read_state(Path(job)))
        if ended.failure or after not in ("done", "cancelled"):
            wrong.append(f"run again after '{before}' it is '{after}' {ended.failure}")
    if str(read_state(Path(job))) == "done":
        read_label_map(Path(place) / "out.nii.gz")
    return wrong


def _work(job: str) -> int:
    """Run a job in this process, as ``jobs resume`` starts it."""
    from TransferSegLib.jobs.files import CANCEL

    (Path(job) / CANCEL).unlink(missing_ok=True)
    return worker.main([job])


def _prepare_finetuning(folder: Path) -> dict[str, Any]:
    """Make a project and a parent, fine-tune once without a kill, and return the weights' checksum and the time."""
    parent = load_model(tiny.write_model(folder / "source"))
    label_set = tiny.LabelSet((tiny.Structure("bright", 1, (200, 0, 0)),))
    network = tiny.UNet3D(classes=2, width=1)
    tiny.initialise(network, seed=3)
    described = replace(parent.description, label_set=label_set, network=replace(parent.description.network, classes=2))
    described = replace(described, preparation=described.preparation.with_spacing(1.0))
    projects.put_parent(folder / "parent", replace(parent, description=described, state_dict=network.state_dict()))
    projects.add_cases(folder / "project", [1, 2])
    shutil.copytree(folder / "parent", folder / "whole")
    shutil.copytree(folder / "project", folder / "whole project")
    started = time.monotonic()
    sha256 = _finetune(str(folder / "whole project"), str(folder / "whole"))
    return {"sha256": sha256, "seconds": time.monotonic() - started}


def _finetune(project: str, library: str) -> str:
    """Fine-tune with few steps and return the checksum of the weights."""
    from TransferSegLib.finetuning.finetune import finetune

    configuration = replace(projects.KNOBS, tail_steps=3, steps=3, patches_per_case=1, report_cases=0)
    wanted = projects.request(Path(project), Path(library), configuration=configuration)
    with contextlib.redirect_stdout(io.StringIO()):
        return finetune(wanted).version.sha256


def _current(library: str) -> int | None:
    """Return the version in use: the parent's library is readable after a kill."""
    return history("tiny", Path(library)).current
