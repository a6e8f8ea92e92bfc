"""Five writers on a model library, killed at random moments: no model is hidden, lost, mixed or half-written."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import tiny
from trials import Outcome
from warm import Warm, in_process

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.library import import_model, remove_model
from TransferSegLib.models.locate import find_model, library_models
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.record import ModelReference, VersionRecord
from TransferSegLib.models.versions.versions import add_version, promote, remove_version, rollback

WRITERS = 5
KILLS_A_LIBRARY = 40
#: Versions of odd numbers are removed again.
#: Models that are imported and replaced and never removed: once reported they are there for good.
KEPT = ("kept-0", "kept-1")


def trials(folder: Path, chance: random.Random) -> Iterator[Outcome]:
    """Yield after each kill what was lost."""
    sources = folder / "sources"
    made = in_process(_make_sources, sources)
    if made.failure:
        yield 1, [made.failure]
        return
    number = 0
    while True:
        number += 1
        library = folder / f"library-{number}"
        writers = [Warm(_write, str(library), str(sources), chance.random()) for _ in range(WRITERS)]
        reported: list[str] = []
        try:
            for kill in range(1, KILLS_A_LIBRARY + 1):
                time.sleep(chance.uniform(0.0, 0.15))
                victim = writers.pop(chance.randrange(len(writers)))
                victim.kill()
                gone = victim.lines
                if kill <= KILLS_A_LIBRARY - WRITERS:
                    writers.append(Warm(_write, str(library), str(sources), chance.random()))
                for writer in writers:
                    writer.read()
                reported += [line for line in gone if line.startswith("{")]
                now = [line for writer in writers for line in writer.lines if line.startswith("{")]
                wrong = [line for line in gone if line.startswith("traceback ")]
                found = in_process(_check, str(library), [json.loads(line) for line in [*reported, *now]], not writers)
                yield 1, [*wrong, *(found.value or []), *([found.failure] if found.failure else [])]
        finally:
            for writer in writers:
                writer.kill()
        shutil.rmtree(library, ignore_errors=True)


def _make_sources(folder: Path) -> None:
    """Write two models as zip files."""
    for seed in (1, 2):
        model = tiny.write_model(folder / f"model-{seed}", seed)
        (model / "README.md").write_text(f"card {seed}")
        export_model(model, folder / f"{seed}.zip")


def _write(library: str, sources: str, seed: float) -> None:
    """Change the library again and again and report each change after it."""
    chance, folder = random.Random(seed), Path(library)
    saved = folder.parent / f"{folder.name}-saved"
    models = [load_model(Path(sources) / f"model-{number}") for number in (1, 2)]
    while True:
        act = chance.choice(("import", "import", "export", "remove", "save", "version", "version", "promote", "drop"))
        report: dict[str, object] = {"act": act}
        source = Path(sources) / f"{chance.choice((1, 2))}.zip"
        # What another writer does meanwhile can make an act impossible: one line of the family says so.
        with suppress(ModelError):
            if act == "import":
                report["name"] = chance.choice((*KEPT, "removed"))
                import_model(source, folder, str(report["name"]), replace=True)
            elif act == "remove":
                remove_model("removed", folder)
            elif act == "export":
                report["file"] = str(folder.parent / f"{folder.name}-{chance.choice((1, 2))}.zip")
                export_model(find_model(KEPT[0], folder), Path(str(report["file"])), overwrite=True)
            elif act == "save":
                report["folder"] = str(saved)
                tiny.write_model(saved, chance.choice((1, 2)))
            elif act == "version":
                model, parent = chance.choice(models), find_model(KEPT[1], folder)
                weights = {name: values + chance.random() for name, values in model.state_dict.items()}
                record = VersionRecord(ModelReference.of(parent))
                described = replace(load_model(parent).description, name="line")
                report["number"] = add_version(folder, "line", described, weights, record, origin=parent).number
            elif act == "promote":
                report["current"] = promote(
                    "line", folder, chance.choice(history("line", folder).versions).number, True
                ).number
                if chance.random() < 0.5:
                    rollback("line", folder)
            else:
                odd = [one.number for one in history("line", folder).versions if one.number % 2]
                report["dropped"] = chance.choice(odd) if odd else 1
                remove_version("line", folder, int(str(report["dropped"])), force=True)
            print(json.dumps(report), flush=True)


def _load(path: Path) -> None:
    """Read a model; while others replace it, its two files can be of two models for a moment."""
    for attempt in range(30):
        try:
            load_model(path)
            return
        except ModelError:
            if attempt == 29:
                raise
            time.sleep(0.02)


def _check(library: str, reported: list[dict[str, object]], alone: bool) -> list[str]:
    """Return what is not as it was reported."""
    folder, wrong = Path(library), []
    names = {path.name.removesuffix(".zip") for path in library_models(folder)}
    for line in reported:
        if line["act"] == "import" and line["name"] in KEPT and line["name"] not in names:
            wrong.append(f"lost: {line['name']}")
    written = {str(line[key]) for line in reported for key in ("file", "folder") if key in line}
    for path in sorted(written):
        _load(Path(path))
    for name in KEPT:
        if name in names:
            _load(find_model(name, folder))
    numbers = {line["number"] for line in reported if line["act"] == "version" and int(str(line["number"])) % 2 == 0}
    if numbers:
        lacking = numbers - {one.number for one in history("line", folder).versions}
        wrong += [f"lost: version {number}" for number in sorted(lacking, key=str)]
    if alone and folder.exists():
        tiny.write_model(folder / "next", 1)
        import_model(folder / "next", folder, "after", replace=True)
        for path in library_models(folder):
            load_model(path)
        hidden = [path for path in folder.iterdir() if path.name.startswith(".") and path.is_dir()]
        wrong += [f"left over: {path}" for place in hidden for path in place.iterdir()]
    return wrong
