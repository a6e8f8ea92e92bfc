"""The contract: a line of versions that was written by format version 1 is read, and computes what it computed then."""

from __future__ import annotations

import json
from hashlib import sha256
from pathlib import Path

import pytest

from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.record import LearnedCase, load_record
from TransferSegLib.models.versions.state import VersionEvent

DATA = Path(__file__).resolve().parents[1] / "Data" / "model_versions_1"


def test_line() -> None:
    found = history("clinic", DATA)
    assert (found.current, found.damaged, found.state.problem) == (1, (), "")
    assert found.state.trail == (0, 1)
    assert found.state.switches == (
        VersionEvent("promoted", 1, "2026-11-23T10:02:00+00:00"),
        VersionEvent("promoted", 2, "2026-11-23T10:03:00+00:00"),
        VersionEvent("rolled back", 1, "2026-11-23T10:04:00+00:00"),
    )
    assert [version.description.label_set.names for version in found.versions] == [
        ("liver",),
        ("liver", "spleen"),
        ("liver",),
    ]
    assert [found.parent_of(version) for version in found.versions] == [None, found.versions[0], found.versions[1]]
    assert find_model("clinic", DATA) == DATA / "clinic" / "versions" / "1"


def test_record() -> None:
    record = history("clinic", DATA).versions[1].record
    assert record is not None
    assert (record.model_name, record.number, record.created) == ("clinic", 1, "2026-11-23T10:01:00+00:00")
    assert (record.parent.name, record.parent.version) == ("base", "1.0")
    weights = (DATA / "clinic" / "versions" / "0" / "weights.pt").read_bytes()
    assert record.parent.sha256 == sha256(weights).hexdigest()
    assert record.cases == (LearnedCase("a" * 64, "case-0001"), LearnedCase("b" * 64, "case-0002"))
    assert (record.verdict, record.mean_dice) == ("better", (0.5, 0.7))
    assert record.forgetting[0]["fate"] == "kept"


def test_the_travelling_record_of_model_json() -> None:
    entry = json.loads((DATA / "clinic" / "versions" / "1" / "model.json").read_text(encoding="utf-8"))["record"]
    assert entry["cases"] == [{"content_hash": "a" * 64}, {"content_hash": "b" * 64}]
    assert set(entry["evidence"]) == {"verdict", "reasons", "overall", "structures", "new"}
    assert load_record(DATA / "clinic" / "versions" / "0") is None


@pytest.mark.parametrize(("number", "first"), [(0, 0.25), (1, 0.5), (2, 0.75)])
def test_weights(number: int, first: float) -> None:
    """Every weight of version n is (n + 1) / 4, exactly so in half precision."""
    model = load_model(find_model(f"clinic@{number}", DATA))
    assert {float(value) for values in model.state_dict.values() for value in (values.min(), values.max())} == {first}
