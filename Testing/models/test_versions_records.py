"""What is known of versions: their history, damaged files, the record that travels, comparisons."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from version_lines import CASES, Add

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.library import import_model
from TransferSegLib.models.locate import find_model
from TransferSegLib.models.store import load_model
from TransferSegLib.models.versions.compare import compare_versions
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.record import (
    BETTER,
    WORSE,
    ModelReference,
    load_record,
)
from TransferSegLib.models.versions.versions import promote, rollback


def test_history(library: Path, bundled: Path, add: Add) -> None:
    add()
    add("ours", verdict="worse")
    add("ours@0", verdict="")
    promote("ours", library, 3)
    rollback("ours", library)
    found = history("ours", library)
    assert [(version.number, version.current) for version in found.versions] == [(0, 0), (1, 1), (2, 0), (3, 0)]
    parents = [found.parent_of(version) for version in found.versions]
    assert [None if parent is None else parent.number for parent in parents] == [None, 0, 1, 0]
    records = [version.record for version in found.versions[1:]]
    assert [record.verdict for record in records if record] == ["better", "worse", ""]
    assert records[0] is not None and records[0].mean_dice == (0.5, 0.7) and records[0].cases == CASES
    assert [(switch.action, switch.version) for switch in found.state.switches] == [
        ("promoted", 1),
        ("promoted", 3),
        ("rolled back", 1),
    ]


def test_one_damaged_version_hides_no_other(library: Path, add: Add) -> None:
    add()
    add("ours")
    (library / "ours" / "versions" / "1" / "model.json").write_text("{")
    found = history("ours", library)
    assert [version.number for version in found.versions] == [0, 2] and "Version 1 cannot be read" in found.damaged[0]
    with pytest.raises(ModelError):
        rollback("ours", library)
    assert find_model("ours").name == "2"
    weights = library / "ours" / "versions" / "0" / "weights.pt"
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(ModelError, match="incomplete"):
        promote("ours", library, 0)
    shutil.rmtree(library / "ours" / "versions" / "2")
    with pytest.raises(ModelError, match=r"Version 2 of 'ours', the current one, is missing.*There are: 0, 1\."):
        find_model("ours")


@pytest.mark.parametrize("damage", [b"", b"{", b"\xff\xfe", b"[]", b'{"format": "other"}', None], ids=repr)
def test_damaged_current_file_is_read_from_its_backup(library: Path, add: Add, damage: bytes | None) -> None:
    add()
    file = library / "ours" / "current.json"
    file.unlink() if damage is None else file.write_bytes(damage)
    assert find_model("ours").name == "1"
    assert "Its backup was read instead" in history("ours", library).state.problem
    promote("ours", library, 1)  # puts it right
    assert json.loads(file.read_text())["current"] == 1 and history("ours", library).state.problem == ""


def test_damaged_current_file_and_backup(library: Path, add: Add) -> None:
    """Nobody guesses then which version a patient's scan is segmented with."""
    add()
    add("ours", promote="never")
    for name in ("current.json", "current.json.bak"):
        content = json.loads((library / "ours" / name).read_text())
        (library / "ours" / name).write_text(json.dumps(content | {"current": 2}))
    words = r"current.json is damaged\. .*not the one its history leads to.* models promote ours NUMBER\. There are: 0"
    for act in (lambda: find_model("ours"), lambda: load_model(library / "ours"), lambda: rollback("ours", library)):
        with pytest.raises(ModelError, match=words):
            act()
    found = history("ours", library)
    assert found.current is None and len(found.versions) == 3 and "models promote" in found.damaged[0]
    assert not add("ours@1", promote="unless worse").current  # kept, and no choice is made for the user
    assert promote("ours", library, 0).current and find_model("ours").name == "0"


def test_newer_current_file_is_left_alone(library: Path, add: Add) -> None:
    add()
    file = library / "ours" / "current.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format_version": 2}))
    for act in (lambda: find_model("ours"), lambda: promote("ours", library, 0)):
        with pytest.raises(ModelError, match="written by a newer TransferSeg"):
            act()
    assert json.loads(file.read_text())["format_version"] == 2


def test_exported_version_names_no_case_and_keeps_its_record(library: Path, tmp_path: Path, add: Add) -> None:
    add()
    version = add("ours")
    zipped = export_model(find_model("ours@2"), tmp_path / "ours.zip")
    assert b"case-0001" in (version.path / "record.json").read_bytes()  # here it is known
    for secret in (b"case-0001", b"Tuesday"):
        assert secret not in zipped.read_bytes()
        for name in ("model.json", "README.md"):
            assert secret not in (version.path / name).read_bytes()
    added = import_model(zipped, tmp_path / "elsewhere")
    record = load_record(added.path)
    assert record is not None and load_record(zipped) == record
    assert (record.model_name, record.number, record.parent) == ("ours", 2, ModelReference.of(find_model("ours@1")))
    assert [case.content_hash for case in record.cases] == ["a" * 64, "b" * 64]
    assert record.verdict == BETTER and record.mean_dice == (0.5, 0.7)
    assert added.description == version.description
    card = (added.path / "README.md").read_text(encoding="utf-8")
    assert "# ours, version 2" in card and "2 corrected cases" in card and "CC0-1.0" in card
    assert "| left kidney | 3 | 0.500 | 0.700 | +0.200 | +0.100 to +0.300 |" in card
    assert "**better**. On 3 held-out patients" in card


def test_record_that_is_damaged_is_read_from_the_other_copy(library: Path, add: Add) -> None:
    version = add()
    (version.path / "record.json").write_text('{"line": 3}')
    record = load_record(version.path)
    assert record is not None and record.verdict == BETTER and record.cases[0].id == ""
    assert load_record(find_model("ours@0")) is None


def test_record_that_is_damaged_and_has_no_copy_is_not_taken_for_none(library: Path, add: Add) -> None:
    """Without its record a worse version could be promoted as if nothing were known of it."""
    version = add(verdict=WORSE)
    description = json.loads((version.path / "model.json").read_text(encoding="utf-8"))
    del description["record"]
    (version.path / "model.json").write_text(json.dumps(description), encoding="utf-8")
    assert load_record(version.path) is not None, "its own record is whole"
    (version.path / "record.json").write_text("{")
    with pytest.raises(ModelError, match=r"record of the version in .* is damaged, and .*model\.json has no copy"):
        load_record(version.path)


def test_comparison_of_a_version_with_its_parent(library: Path, add: Add) -> None:
    add()
    found = history("ours", library)
    forth, back = compare_versions(found, 0, 1), compare_versions(found, 1, 0)
    assert forth.measured_together and [row.structure for row in forth.rows] == ["left kidney", "Rückenmark", "mean"]
    kidney, cord, _ = forth.rows
    assert (kidney.first, kidney.second, kidney.low, kidney.high) == (0.5, 0.7, 0.1, 0.3)
    assert kidney.difference == pytest.approx(0.2) and (cord.first, cord.second) == (None, 0.6)
    turned = back.rows[0]
    assert (turned.first, turned.second, turned.low, turned.high) == (0.7, 0.5, -0.3, -0.1)
    assert turned.difference == pytest.approx(-0.2)
    knobs = {change.knob: (change.first, change.second) for change in forth.configuration}
    assert knobs == {"steps": (3, 1), "strategy": (None, "finetune"), "augmentation.noise": (None, 0.1)}


def test_comparison_of_versions_that_were_not_measured_together(library: Path, add: Add) -> None:
    for verdict in ("better", "worse"):
        add("ours@0" if verdict == "worse" else "bundled", verdict=verdict)
    comparison = compare_versions(history("ours", library), 1, 2)
    assert not comparison.measured_together and "do not say which" in comparison.note
    assert [(row.structure, row.first, row.second, row.difference) for row in comparison.rows] == [
        ("left kidney", 0.7, 0.7, None),
        ("Rückenmark", 0.6, 0.6, None),
        ("mean", 0.7, 0.7, None),
    ]
    assert [change.knob for change in comparison.configuration] == ["steps"]
    assert json.loads(json.dumps(comparison.to_json()))["versions"] == [1, 2]
