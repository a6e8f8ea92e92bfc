"""A project of balls, a tiny parent in the library, and a fine-tuning that takes seconds; for the panel's tests."""

from __future__ import annotations

import json
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType
from typing import Any

TESTING = Path(__file__).resolve().parents[1]


def load(file: Path) -> ModuleType:
    """Return the module in a file: test folders are no packages."""
    spec = spec_from_file_location(file.stem + "_of_" + file.parent.name, file)
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def settings(**changes: Any) -> str:
    """Return the further settings of a quick fine-tuning, as the parameter node keeps them."""
    quick = load(TESTING / "finetuning" / "projects.py").KNOBS.to_json()
    for key in ("strategy", "seed", "minutes", "intensity"):
        quick.pop(key)
    return json.dumps(quick | changes)


def put_parent(library: Path, name: str = "balls") -> Path:
    """Put a parent into the library that finds dark balls and no bright ones."""
    from dataclasses import replace

    from TransferSegLib.models.store import save_model

    conftest, projects = (load(TESTING / "finetuning" / f"{each}.py") for each in ("conftest", "projects"))
    parent = projects.seeing(conftest.make_parent(conftest.label_set("bright", "dark")))
    return save_model(library / name, replace(parent.description, name=name), parent.state_dict)


def add_cases(folder: Path, numbers: list[int], reviewed: tuple[str, ...] = ("bright",), **more: Any) -> Path:
    """Add corrected ball scans, one patient each, to a project."""
    return load(TESTING / "finetuning" / "projects.py").add_cases(folder, numbers, list(reviewed), **more)
