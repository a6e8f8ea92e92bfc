"""What the bases of a study were trained on and how well they know it, in a small file beside the results.

The report needs it and must not need the data: ``study.bases.jsonl`` has one JSON object a line for each base model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from Testing.research.study.bases import ReadyBase
from Testing.research.study.configuration import Study
from Testing.research.study.study_data import StudyData, base_dataset
from TransferSegLib import safe_json
from TransferSegLib.durable_writing import write_text_durably
from TransferSegLib.errors import StudyError
from TransferSegLib.models.store import load_description


@dataclass(frozen=True)
class BaseFacts:
    """A base model, known by the hash of its ``weights``.

    ``cases`` are those that it was made with, ``validation`` of them only to choose by; ``drawn`` says in how many each
    structure is annotated (empty with no collection: a model that was there already). ``dice`` is its mean Dice on the
    validation cases, None without any.
    """

    base: str
    weights: str
    cases: int
    validation: int
    drawn: Mapping[str, int]
    dice: float | None


def facts_of(study: Study, data: StudyData, name: str, ready: ReadyBase) -> BaseFacts:
    """Return the facts of a base that is ready; raises StudyError and ModelError as its reading does."""
    validated = load_description(ready.model).metrics.get("validation", {})
    cases, drawn = 0, {}
    if study.bases[name].collection:
        dataset = base_dataset(study, data, name)
        cases, drawn = len(dataset), dict(dataset.annotated_counts())
    return BaseFacts(name, ready.weights, cases, int(validated.get("cases", 0)), drawn, validated.get("mean_dice"))


def facts_file(study: Study) -> Path:
    """Return where a study's facts of its bases lie."""
    return study.results.with_name(f"{study.path.stem}.bases.jsonl")


def read_facts(file: Path) -> dict[tuple[str, str], BaseFacts]:
    """Return the facts by base and hash of the weights; empty without a file. Raises StudyError."""
    if not file.exists():
        return {}
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
        found = [BaseFacts(**safe_json.parse(line)) for line in lines if line.strip()]
    except (OSError, ValueError, TypeError) as error:
        raise StudyError(f"{file} holds no facts of bases ({error}): remove it, it is made again.") from error
    return {(facts.base, facts.weights): facts for facts in found}


def keep_facts(file: Path, facts: BaseFacts) -> None:
    """Add the facts of a base, or put them in place of older ones; raises StudyError."""
    known = read_facts(file)
    if known.get((facts.base, facts.weights)) == facts:
        return
    known[facts.base, facts.weights] = facts
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_text_durably(file, "".join(json.dumps(asdict(one), ensure_ascii=False) + "\n" for one in known.values()))
    except OSError as error:
        raise StudyError(f"{file} cannot be written: {error.strerror or error}.") from error
