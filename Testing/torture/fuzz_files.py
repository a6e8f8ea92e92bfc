"""Damaged files of the project's own formats, given to the command line: it ends with 0 or 2 and one line."""

from __future__ import annotations

import contextlib
import io
import json
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import fuzzing
import tiny
from mutations import damage, damage_json

from Testing.research.study.configuration_file import read_study
from TransferSegLib.cli.main import main
from TransferSegLib.corrections.project import Project
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.catalogue import read_catalogue

DATA = Path(__file__).parents[1] / "Data"


def _command(*words: object) -> None:
    """Run the command line; raises AssertionError unless it ends well, or with 2 and one line."""
    said, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(told):
        try:
            code = main([str(word) for word in words])
        except SystemExit as stopped:
            code = int(str(stopped.code or 0))
    lines = [line for line in told.getvalue().splitlines() if line.startswith("transferseg:")]
    assert code == 0 or (code == 2 and (lines or said.getvalue())), f"exit code {code}: {told.getvalue()[-200:]}"
    assert "Traceback" not in told.getvalue() and "\x1b" not in told.getvalue() + said.getvalue(), told.getvalue()[
        -300:
    ]


def _model(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Damage a model's files, in a folder or as a zip file, or the zip file itself."""
    place = folder / "model"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(DATA / "model_format_1" / "model", place)
    what = chance.choice(("model.json", "model.json", "weights.pt", "zip"))
    if what == "zip":
        file = folder / "model.zip"
        export_model(place, file, overwrite=True)
        file.write_bytes(damage(file.read_bytes(), chance, len(file.read_bytes())))
        return partial(_command, "models", "import", file, "--library", _gone(folder / "library"))
    content = (place / what).read_bytes()
    changed = damage_json(content, chance) if what == "model.json" else damage(content, chance, 2000)
    (place / what).write_bytes(changed)
    if chance.random() < 0.5:
        return partial(_command, "models", "show", place)
    return partial(_command, "models", "import", place, "--library", _gone(folder / "library"))


def _keras(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Damage a Keras file."""
    sources = sorted((DATA / "keras_files").rglob("*.h5"))
    file = folder / "weights.h5"
    content = chance.choice(sources).read_bytes()
    file.write_bytes(damage(content, chance, chance.choice((3000, len(content)))))
    return partial(_command, "models", "import", file, "--library", _gone(folder / "library"))


def _versions(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Damage a file of a model with versions."""
    place = folder / "versions"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(DATA / "model_versions_1", place)
    victim = chance.choice(sorted(place.rglob("*.json")))
    victim.write_bytes(damage_json(victim.read_bytes(), chance))
    library = next((file.parents[1] for file in place.rglob("history.json")), place)
    lines = [entry.name for entry in library.iterdir() if entry.is_dir()] or ["x"]
    words = chance.choice((("list",), ("history", chance.choice(lines)), ("show", chance.choice(lines))))
    return partial(_command, "models", *words, "--library", library)


def _dataset(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Damage a dataset.json."""
    place = folder / "dataset"
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(DATA / "dataset_format_1", place)
    file = next(iter(sorted(place.rglob("dataset.json"))))
    file.write_bytes(damage_json(file.read_bytes(), chance))
    return partial(_command, "dataset", chance.choice(("show", "validate")), file.parent)


def _project(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Damage a file of a project."""
    template, place = folder / "template", folder / "project"
    if not template.exists():
        project = Project(template, create=True)
        for number in range(3):
            labels = tiny.label_map(1 + number % 2)
            project.add_case(tiny.scan(number), labels, ["liver"], structures=tiny.LABEL_SET, prediction=labels)
        project.remove_case("case-0002")
    shutil.rmtree(place, ignore_errors=True)
    shutil.copytree(template, place)
    victim = chance.choice(sorted(file for file in place.rglob("*") if file.is_file() and file.stat().st_size))
    if chance.random() < 0.7:
        victim = place / "dataset.json"
    content = victim.read_bytes()
    victim.write_bytes(damage_json(content, chance) if victim.suffix == ".json" else damage(content, chance))
    words = chance.choice((("list",), ("show", "case-0001"), ("check",), ("remove", "case-0001"), ("structures",)))
    if chance.random() < 0.1:
        words = ("check", "--repair")
    return partial(_command, "cases", *words, "--project", place)


def _job(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Damage a file of a job."""
    place = folder / "jobs"
    shutil.rmtree(place, ignore_errors=True)
    source = next(iter(sorted((DATA / "job_format_1").rglob("request.json")))).parent
    name = "20260101-100000-count-abcd" if not source.name[0].isdigit() else source.name
    shutil.copytree(source, place / name)
    victim = chance.choice(sorted(file for file in (place / name).iterdir() if file.suffix in (".json", ".jsonl")))
    content = victim.read_bytes()
    victim.write_bytes(damage_json(content, chance))
    words = chance.choice((("list",), ("show", name), ("cancel", name), ("remove", name)))
    return partial(_command, "jobs", *words, "--jobs-folder", place)


def _catalogue(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Damage the catalogue of models."""
    source = next(iter(sorted((Path(__file__).parents[2] / "Resources").rglob("catalogue*.json"))))
    (folder / "catalogue.json").write_bytes(damage_json(source.read_bytes(), chance))
    return partial(read_catalogue, folder / "catalogue.json")


def _study(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Damage the configuration of a study."""
    sources = [
        file
        for file in sorted((Path(__file__).parents[2]).glob("**/*study*.json"))
        if b'"strategies"' in file.read_bytes()
    ]
    content = chance.choice(sources).read_bytes() if sources else json.dumps({"format": "transferseg-study"}).encode()
    (folder / "study.json").write_bytes(damage_json(content, chance))
    return partial(read_study, folder / "study.json")


def _structures(folder: Path, chance: random.Random) -> Callable[[], Any]:
    """Damage a file that names label values."""
    content = json.dumps({"labels": {"background": 0, "liver": 1, "spleen": [2, 3]}, "channel_names": {"0": "CT"}})
    (folder / "names.json").write_bytes(damage_json(content.encode(), chance))
    for name in ("images", "labels"):
        (folder / name).mkdir(exist_ok=True)
    if not (folder / "images" / "p.nrrd").exists():
        tiny.sitk.WriteImage(tiny.scan(1), str(folder / "images" / "p.nrrd"))
        tiny.sitk.WriteImage(tiny.label_map(1), str(folder / "labels" / "p.nrrd"))
    words = ["--images", folder / "images", "--labels", folder / "labels", "--structures", folder / "names.json"]
    return partial(_command, "dataset", "make", *words, "--output", _gone(folder / "out"))


def _gone(folder: Path) -> Path:
    """Return a folder that is not there."""
    shutil.rmtree(folder, ignore_errors=True)
    return folder


KINDS = (
    ("models", 0.08, partial(fuzzing.trials, _model)),
    ("Keras files", 0.04, partial(fuzzing.trials, _keras)),
    ("versions", 0.03, partial(fuzzing.trials, _versions)),
    ("datasets", 0.03, partial(fuzzing.trials, _dataset)),
    ("projects", 0.05, partial(fuzzing.trials, _project)),
    ("jobs", 0.03, partial(fuzzing.trials, _job)),
    ("catalogue", 0.01, partial(fuzzing.trials, _catalogue)),
    ("studies", 0.01, partial(fuzzing.trials, _study)),
    ("structure names", 0.02, partial(fuzzing.trials, _structures)),
)
