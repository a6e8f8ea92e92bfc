"""What is written down of a version: its parent, the cases it learned from, the evidence, and what was forgotten.

Two copies lie in a version's folder: ``record.json`` with everything, which never leaves this computer, and the entry
``record`` of ``model.json``, which goes along when the model is exported and names no case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import checked, json_bytes, json_field
from TransferSegLib.models.archive import MODEL_FILE, file_in, parse_model_file, read_model_entry
from TransferSegLib.models.description import ModelDescription, Provenance, finite, parse_json
from TransferSegLib.models.versions.state import current_folder, version_name
from TransferSegLib.safe_json import read_bounded
from TransferSegLib.wording import counted

RECORD_FILE = "record.json"
#: The entry of model.json that holds the record; readers of models do not need it.
RECORD_ENTRY = "record"
#: The verdicts on which something depends here; TransferSegLib.evaluation.verdict has them all.
BETTER, WORSE = "better", "worse"
#: What of the evidence goes along with an exported model: numbers over cases, never of single ones.
_TRAVELLING = (
    "verdict",
    "reasons",
    "overall",
    "structures",
    "new",
    "claims",
    "comparisons",
    "rule",
    "method",
    "promotion",
    "steps",
)
#: By these, records of earlier versions are looked at anew (TransferSegLib.evaluation has the rule of today).
_LARGE_LOSS, _USABLE_DICE = 0.1, 0.5
_SHA256 = re.compile(r"[0-9a-f]{64}")
#: More nesting than any evidence has.
_DEEPEST = 50


def now() -> str:
    """Return this moment as an ISO date with time and UTC offset, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@dataclass(frozen=True)
class ModelReference:
    """A model as others refer to it: name, version, and the SHA-256 of its weights file, which settles it."""

    name: str
    version: str
    sha256: str

    def __post_init__(self) -> None:
        """Raise ModelError for a field of the wrong kind."""
        if not isinstance(self.name, str) or not isinstance(self.version, str):
            raise ModelError("A parent is referred to by its name and its version, which are texts.")
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise ModelError(f"The parent '{self.name}' is referred to without the SHA-256 of its weights.")

    def __str__(self) -> str:
        """Return it for a person: 'head-neck-ct version 1'."""
        return f"{self.name} version {self.version}"

    @staticmethod
    def of(path: Path) -> ModelReference:
        """Return the reference of a model's folder or zip file; with versions, of the current one. Raises ModelError.

        The version is the number that it has in the library, for other models what their description says.
        """
        path = current_folder(Path(path))
        description, weights = parse_model_file(read_model_entry(path, MODEL_FILE), file_in(path, MODEL_FILE))
        return ModelReference(description.name, version_name(path, description.version), weights.sha256)

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return dict(vars(self))


@dataclass(frozen=True)
class LearnedCase:
    """A case that a version was trained on: the hash of its content, and its id, which stays on this computer."""

    content_hash: str
    id: str = ""

    def __post_init__(self) -> None:
        """Raise ModelError for a field of the wrong kind."""
        if not isinstance(self.content_hash, str) or not self.content_hash or not isinstance(self.id, str):
            raise ModelError("A case that a model was trained on is recorded by the hash of its content and its id.")


@dataclass(frozen=True)
class VersionRecord:
    """Where a version comes from and what is known of it.

    ``evidence`` is what ``Verdict.to_json`` gives, with whatever else was found; empty when nothing was measured.
    ``forgetting`` holds an entry per structure that the parent knew. ``model_name`` and ``number`` say which version of
    which model it became; ``add_version`` fills them in.
    """

    parent: ModelReference
    cases: tuple[LearnedCase, ...] = ()
    evidence: dict[str, Any] = field(default_factory=dict)
    forgetting: tuple[dict[str, Any], ...] = ()
    created: str = field(default_factory=now)
    model_name: str = ""
    number: int | None = None

    @property
    def verdict(self) -> str:
        """The verdict in words, empty when nothing was measured."""
        verdict = self.evidence.get("verdict", "")
        return verdict if isinstance(verdict, str) else ""

    @property
    def is_promoted_by_itself(self) -> bool:
        """Whether the evidence is such that this version may be used without asking anyone."""
        promotion = self.evidence.get("promotion")
        automatic = promotion.get("automatic") if isinstance(promotion, dict) else not self.warning
        return self.verdict == BETTER and automatic is True

    @property
    def is_worse(self) -> bool:
        """Whether the mean over all structures, or the verdict, is clearly worse than the parent's."""
        overall = self.evidence.get("overall")
        return self.verdict == WORSE or (isinstance(overall, dict) and overall.get("answer") == WORSE)

    @property
    def warning(self) -> str:
        """Why this version should not be used, for a person who is about to; empty when nothing speaks against it.

        The evidence of an earlier version of TransferSeg says less, and is looked at anew: a new structure below the
        Dice of a usable one, or a known one that lost much, was passed over then.
        """
        promotion = self.evidence.get("promotion")
        if isinstance(promotion, dict):
            obstacles = promotion.get("obstacles")
            if promotion.get("warned") is True and isinstance(obstacles, list):
                return " ".join(text for text in obstacles if isinstance(text, str)) or f"Its verdict: {self.verdict}."
            return ""
        found = [
            f"{row.get('structure')} fell from {number(row, 'parent'):.2f} to {number(row, 'candidate'):.2f}."
            for row in _rows(self.evidence, "structures")
            if (number(row, "parent") or 0.0) - (number(row, "candidate") or 0.0) >= _LARGE_LOSS
            and number(row, "candidate") is not None
        ]
        for row in _rows(self.evidence, "new"):
            mean = number(row, "mean")
            if mean is not None and mean < _USABLE_DICE:
                found.append(f"{row.get('structure')} is not usable yet (mean Dice {mean:.2f}).")
        if self.verdict == WORSE and not found:
            found.append(f"It is worse than what it was made from, {self.parent}.")
        return " ".join(found)

    @property
    def reasons(self) -> str:
        """The verdict's reasons as a paragraph."""
        reasons = self.evidence.get("reasons", [])
        return " ".join(reason for reason in reasons if isinstance(reason, str)) if isinstance(reasons, list) else ""

    @property
    def mean_dice(self) -> tuple[float | None, float | None]:
        """Mean Dice of the parent and of this version on the cases held out, None where there is none."""
        overall = self.evidence.get("overall")
        return (number(overall, "parent"), number(overall, "candidate"))

    def without_cases(self) -> VersionRecord:
        """Return the record as it leaves this computer: no ids of cases, no numbers of single cases."""
        ids = [re.escape(case.id) for case in self.cases if case.id]
        named = re.compile(rf"(?<![^\W_])(?:{'|'.join(ids)})(?![^\W_])") if ids else None
        evidence = {key: self.evidence[key] for key in _TRAVELLING if key in self.evidence}
        return replace(
            self,
            cases=tuple(LearnedCase(case.content_hash) for case in self.cases),
            evidence=_scrubbed(evidence, named),
            forgetting=tuple(_scrubbed(entry, named) for entry in self.forgetting),
        )

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description; numbers that are not finite become null."""
        return {
            "line": self.model_name,
            "number": self.number,
            "created": self.created,
            "parent": self.parent.to_json(),
            "cases": [vars(case) if case.id else {"content_hash": case.content_hash} for case in self.cases],
            "evidence": finite(self.evidence),
            "forgetting": finite(list(self.forgetting)),
        }

    @staticmethod
    def from_json(entry: Any, source: str) -> VersionRecord:
        """Read a description written by ``to_json``; raises ModelError naming ``source`` when it is not one."""
        try:
            parent, evidence = entry["parent"], checked(entry.get("evidence", {}), "Evidence", dict, error=ModelError)
            changes = [checked(one, "A change", dict, error=ModelError) for one in entry.get("forgetting", [])]
            return VersionRecord(
                parent=ModelReference(parent["name"], parent["version"], parent["sha256"]),
                cases=tuple(LearnedCase(case["content_hash"], case.get("id", "")) for case in entry.get("cases", [])),
                evidence=evidence,
                forgetting=tuple(changes),
                created=json_field(entry, "created", str, error=ModelError),
                model_name=json_field(entry, "line", str, error=ModelError),
                number=json_field(entry, "number", int, None, error=ModelError),
            )
        except (KeyError, TypeError, AttributeError, ModelError) as error:
            raise ModelError(f"The record of the version in {source} is damaged ({error}).") from error


def load_record(path: Path) -> VersionRecord | None:
    """Return what is recorded of a model's folder or zip file, None for a model that is no version of anything.

    A folder's own record.json that is damaged is read from the other copy, in model.json, which says the same but for
    the names of cases. Raises ModelError when that is damaged too, or not there: a version whose record is lost must
    not pass for a model that never had one, and be promoted without its verdict.
    """
    path = current_folder(Path(path))
    damage: ModelError | OSError | ValueError | None = None
    if path.is_dir() and (path / RECORD_FILE).is_file():
        own = path / RECORD_FILE
        try:
            return VersionRecord.from_json(parse_json(read_bounded(own), str(own)), str(own))
        except (ModelError, OSError, ValueError) as error:
            damage = error
    source = file_in(path, MODEL_FILE)
    entry = parse_json(read_model_entry(path, MODEL_FILE), source)
    record = entry.get(RECORD_ENTRY) if isinstance(entry, dict) else None
    if record is not None:
        return VersionRecord.from_json(record, source)
    if damage is not None:
        raise ModelError(f"The record of the version in {path} is damaged, and {source} has no copy of it.") from damage
    return None


def descended(
    description: ModelDescription, title: str, record: VersionRecord, parent: ModelDescription | None
) -> ModelDescription:
    """Return a candidate's description as a version's: named after its model, and with what its parent passes on.

    Licence and citation are the parent's, None where the parent is not there any more to be asked. A model trained
    from random weights owes its parent nothing but the comparison.
    """
    provenance = replace(description.provenance, parent=str(record.parent))
    cases = counted(len(record.cases), "corrected case")
    named = replace(description, name=title, version=str(record.number), provenance=provenance)
    if _from_random_weights(description.provenance):
        return replace(named, training_data=f"trained from random weights on {cases}")
    text = f"fine-tuned from {record.parent} on {cases}"
    if parent is None:
        return replace(named, training_data=text)
    return replace(
        named,
        license=parent.license,
        citation=parent.citation,
        training_data=f"{text}; {record.parent}: {parent.training_data}",
    )


def with_record(files: Mapping[str, bytes], record: VersionRecord) -> dict[str, bytes]:
    """Return the files of a model by name with a record in two copies; raises ModelError when it is not JSON."""
    try:
        everything = json_bytes(record.to_json())
        content = parse_json(files[MODEL_FILE], MODEL_FILE) | {RECORD_ENTRY: record.without_cases().to_json()}
        return {**files, MODEL_FILE: json_bytes(content), RECORD_FILE: everything}
    except (TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"The evidence of a version cannot be written as JSON: {error}.") from error


def number(entry: Any, key: str) -> float | None:
    """Return a number of a JSON object, None where there is none."""
    value = entry.get(key) if isinstance(entry, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _rows(evidence: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """Return the entries by structure of a part of the evidence; nothing where there are none."""
    rows = evidence.get(part)
    return [row for row in rows if isinstance(row, dict)] if isinstance(rows, list) else []


def _from_random_weights(provenance: Provenance) -> bool:
    return provenance.configuration.get("strategy") == "scratch"


def _scrubbed(value: Any, named: re.Pattern[str] | None, depth: int = 0) -> Any:
    """Return JSON-like data without the keys and texts in which a case is named."""
    if named is None or depth > _DEEPEST:
        return value if named is None else None
    if isinstance(value, Mapping):
        kept = {key: inner for key, inner in value.items() if not named.search(str(key)) and not _names(inner, named)}
        return {key: _scrubbed(inner, named, depth + 1) for key, inner in kept.items()}
    if isinstance(value, list | tuple):
        return [_scrubbed(inner, named, depth + 1) for inner in value if not _names(inner, named)]
    return value


def _names(value: Any, named: re.Pattern[str]) -> bool:
    return isinstance(value, str) and named.search(value) is not None
