"""Versions of a model: what a line is, which version is the current one, and that nothing is ever half done."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some

from TransferSegLib.errors import Cancelled, ModelError
from TransferSegLib.evaluation.verdict import Answer, judge
from TransferSegLib.models import locate
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.library import import_model, remove_model
from TransferSegLib.models.locate import find_model, library_models
from TransferSegLib.models.store import load_description, load_model, save_model
from TransferSegLib.models.versions import add_version, promote, remove_version, rollback
from TransferSegLib.models.versions_compare import compare_versions
from TransferSegLib.models.versions_history import Version, history
from TransferSegLib.models.versions_record import (
    BETTER,
    WORSE,
    LearnedCase,
    ModelReference,
    VersionRecord,
    load_record,
)
from TransferSegLib.models.versions_state import LineState, read_state
from TransferSegLib.progress import CancelToken

Weights = dict[str, torch.Tensor]
Add = Callable[..., Version]
CASES = (LearnedCase("a" * 64, "case-0001"), LearnedCase("b" * 64, "MRI of Tuesday"))


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's library, which does not exist yet; the only bundled model is called 'bundled'."""
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "library"))
    monkeypatch.setattr(locate, "resource_folders", lambda: [tmp_path / "Resources"])
    return tmp_path / "library"


@pytest.fixture
def bundled(tmp_path: Path, library: Path, description: ModelDescription, state_dict: Weights) -> Path:
    """Return the bundled model."""
    parent = replace(description, name="bundled", version="1", license="CC0-1.0", citation="cite the parent")
    return save_model(tmp_path / "Resources" / "Models" / "bundled", parent, state_dict)


def evidence(verdict: str, before: float = 0.5, after: float = 0.7) -> dict[str, Any]:
    """Return made-up evidence in the form that ``judge`` gives."""
    row = {"patients": 3, "parent": before, "candidate": after, "difference": after - before, "low": 0.1, "high": 0.3}
    return {
        "verdict": verdict,
        "reasons": ["On 3 held-out patients the mean Dice changed."],
        "warnings": ["The candidate marks left kidney where there is none: case-0001."],
        "overall": row | {"structure": None},
        "structures": [row | {"structure": "left kidney"}],
        "new": [{"structure": "Rückenmark", "patients": 3, "mean": 0.6, "smallest": 0.4}],
        "scores": {"case-0001": {"left kidney": 0.7}},
    }


@pytest.fixture
def add(library: Path, bundled: Path, description: ModelDescription, state_dict: Weights) -> Add:
    """Return a function that adds a candidate made from a model to the line 'ours'; each has other weights."""
    made = 0

    def run(parent: str | Path = "bundled", verdict: str = BETTER, name: str = "ours", **options: Any) -> Version:
        nonlocal made
        made += 1
        path = find_model(parent, library)
        knobs = {"strategy": "finetune", "steps": made, "augmentation": {"noise": 0.1}}
        candidate = replace(description, provenance=replace(description.provenance, configuration=knobs))
        fates = ({"parent": ["left kidney"], "new": ["left kidney"], "fate": "kept", "dice_before": 0.5},)
        record = VersionRecord(ModelReference.of(path), CASES, evidence(verdict) if verdict else {}, fates)
        weights = {layer: values + made for layer, values in state_dict.items()}
        return add_version(library, name, candidate, weights, record, **options)

    return run


def first_number(path: Path) -> float:
    """Return the first weight of a model, less that of the bundled one: the number of the candidate."""
    model = load_model(path)
    base = load_model(find_model("bundled"))
    layer = next(iter(model.state_dict))
    return round(float((model.state_dict[layer] - base.state_dict[layer]).flatten()[0]), 3)


def test_a_new_line_begins_with_its_parent(library: Path, bundled: Path, add: Add) -> None:
    version = add(log="stage 1\n")
    assert (version.number, version.current, version.path) == (1, True, library / "ours" / "versions" / "1")
    assert find_model("ours") == find_model(library / "ours") == find_model("OURS@1") == version.path
    assert first_number(find_model("ours")) == 1 and first_number(find_model("ours@0")) == 0
    assert load_model(library / "ours").path == version.path
    assert (version.path / "log.txt").read_text() == "stage 1\n"
    assert [path.name for path in library_models()] == ["ours"]

    shutil.rmtree(bundled.parent)  # the line does not need it any more
    assert rollback("ours", library).number == 0
    assert find_model("ours") == library / "ours" / "versions" / "0"
    began = load_model(find_model("ours")).description
    assert (began.name, began.version, began.license) == ("ours", "1", "CC0-1.0")
    with pytest.raises(ModelError, match="nothing to go back to"):
        rollback("ours", library)
    promote("ours", library, 1)
    assert find_model("ours") == version.path


def test_what_a_version_says_of_itself(bundled: Path, add: Add) -> None:
    first, second = add().description, add("ours").description
    assert (first.name, first.version, first.provenance.parent) == ("ours", "1", "bundled version 1")
    assert (first.license, first.citation) == ("CC0-1.0", "cite the parent")
    assert first.training_data == "fine-tuned from bundled version 1 on 2 corrected cases; bundled version 1: none"
    assert (second.version, second.provenance.parent, second.license) == ("2", "ours version 1", "CC0-1.0")
    assert second.training_data.startswith("fine-tuned from ours version 1 on 2 corrected cases; ours version 1: fine-")


def test_a_model_from_random_weights_keeps_its_own_words(
    library: Path, bundled: Path, description: ModelDescription, state_dict: Weights
) -> None:
    provenance = replace(description.provenance, configuration={"strategy": "scratch"})
    candidate = replace(description, provenance=provenance, license="mine")
    record = VersionRecord(ModelReference.of(bundled), CASES[:1])
    made = add_version(library, "ours", candidate, state_dict, record).description
    assert (made.license, made.training_data) == ("mine", "trained from random weights on 1 corrected case")


@pytest.mark.parametrize(
    ("verdict", "promotion", "current"),
    [
        ("better", "if better", 1),
        ("no clear difference", "if better", 0),
        ("too few cases to say", "if better", 0),
        ("worse", "if better", 0),
        ("", "if better", 0),
        ("no clear difference", "unless worse", 1),
        ("", "unless worse", 1),
        ("worse", "unless worse", 0),
        ("better", "never", 0),
    ],
)
def test_what_becomes_current_by_itself(library: Path, add: Add, verdict: str, promotion: str, current: int) -> None:
    version = add(verdict=verdict, promote=promotion)
    assert version.current == (current == 1)
    assert find_model("ours") == library / "ours" / "versions" / str(current)
    assert history("ours", library).current == current


def test_better_than_something_that_is_not_in_use_is_not_promoted(library: Path, add: Add) -> None:
    add()
    assert not add("bundled").current and not add("ours@0").current
    assert add("ours@1").current


def test_the_verdicts_are_those_of_the_evaluation() -> None:
    assert {BETTER, WORSE} == {str(Answer.BETTER), str(Answer.WORSE)}
    parent, candidate = ({f"case {n}": {"liver": dice} for n in range(4)} for dice in (0.5, 0.8))
    record = VersionRecord(ModelReference("x", "1", "0" * 64), evidence=judge(parent, candidate).to_json())
    assert record.verdict == BETTER and record.mean_dice == pytest.approx((0.5, 0.8))
    again = VersionRecord.from_json(json.loads(json.dumps(record.to_json())), "here")
    assert (again.verdict, again.mean_dice, again.reasons) == (record.verdict, record.mean_dice, record.reasons)


def test_worse_needs_force_and_says_why(library: Path, add: Add) -> None:
    add(verdict="worse")
    with pytest.raises(
        ModelError, match=r"Version 1 of 'ours' is worse than .* bundled version 1\. On 3 held-out .*--fo"
    ):
        promote("ours", library, 1)
    assert find_model("ours").name == "0"
    assert promote("ours", library, 1, force=True).current and find_model("ours").name == "1"


def test_names_of_versions(library: Path, saved: Path, add: Add) -> None:
    add()
    import_model(saved, library)
    import_model(saved, library, name="odd@7")
    assert find_model("tiny@0") == library / "tiny"
    assert find_model("odd@7") == library / "odd@7"  # a name before it is a version
    for name, words in (
        ("ours@2", r"The model 'ours' has no version 2\. There are: 0, 1\."),
        ("tiny@1", "The model 'tiny' has no versions but itself"),
        ("bundled@1", "The model 'bundled' has no versions but itself"),
        ("nothing@1", "There is no model 'nothing@1'"),
        ("ours@one", "There is no model 'ours@one'"),
        ("ours@-1", "There is no model 'ours@-1'"),
        ("@1", "There is no model '@1'"),
    ):
        with pytest.raises(ModelError, match=words):
            find_model(name)
    for act in (lambda: promote("ours", library, 5), lambda: history("ours", library).find(5)):
        with pytest.raises(ModelError, match=r"no version 5\. There are: 0, 1\."):
            act()


def test_a_plain_model_becomes_version_0_and_stays(library: Path, saved: Path, add: Add) -> None:
    import_model(saved, library)
    before = {path.name: path.read_bytes() for path in (library / "tiny").iterdir()}
    assert [version.number for version in history("tiny", library).versions] == [0]
    with pytest.raises(ModelError, match="has no versions: there is nothing to go back to"):
        rollback("tiny", library)
    (library / "tiny" / "versions").mkdir()  # somebody's own folder of that name is no reason to refuse
    (library / "tiny" / "versions" / "2.pt").write_bytes(b"mine")
    assert find_model("tiny") == library / "tiny"
    version = add("tiny", name="tiny")
    assert version.current and find_model("tiny") == library / "tiny" / "versions" / "1"
    assert load_description(library / "tiny").version == "1"
    rollback("tiny", library)
    assert load_model(find_model("tiny")).description == load_description(saved)
    assert {path.name: path.read_bytes() for path in (library / "tiny").iterdir() if path.name in before} == before
    assert (library / "tiny" / "versions" / "2.pt").read_bytes() == b"mine"


def test_version_0_is_called_0_whatever_its_maker_called_it(
    library: Path, saved: Path, bundled: Path, description: ModelDescription, state_dict: Weights, add: Add
) -> None:
    add()
    assert load_description(find_model("ours@0")).version == "1", "which here is another version"
    assert str(ModelReference.of(find_model("ours@0"))) == "ours version 0"
    assert str(ModelReference.of(find_model("ours@1"))) == str(ModelReference.of(library / "ours")) == "ours version 1"
    assert ModelReference.of(bundled).version == "1", "no version of a model here"
    second = add("ours@0")
    assert second.record is not None and str(second.record.parent) == "ours version 0"
    assert second.description.training_data.startswith("fine-tuned from ours version 0 on")

    import_model(saved, library)
    changed = {layer: values + 1 for layer, values in state_dict.items()}
    record = VersionRecord(ModelReference.of(find_model("tiny")), CASES, evidence(BETTER))
    first = add_version(library, "tiny", description, changed, record)
    renamed = VersionRecord(ModelReference.of(find_model("tiny@0")), CASES, evidence(BETTER))
    assert record.parent != renamed.parent, "it has become version 0 meanwhile"
    assert add_version(library, "tiny", description, changed, renamed).number == first.number == 1


def test_a_line_is_not_replaced(library: Path, saved: Path, add: Add) -> None:
    add(name="tiny")
    with pytest.raises(ModelError, match=r"'tiny' has versions .*another name with --name, or remove it first"):
        import_model(saved, library, replace=True)
    remove_model("tiny", library)
    import_model(saved, library)


def test_names_that_cannot_be_a_line(library: Path, saved: Path, add: Add) -> None:
    with pytest.raises(ModelError, match="'bundled' is the name of a model that comes with TransferSeg"):
        add(name="bundled")
    with pytest.raises(ModelError, match="cannot be a model's name"):
        add(name="a/b")
    library.mkdir(exist_ok=True)
    export_model(saved, library / "zipped.zip")
    with pytest.raises(ModelError, match=r"as the file .*zipped\.zip, which can have no versions"):
        add(name="zipped")
    (library / "notes").mkdir()
    with pytest.raises(ModelError, match="is no model: move it away"):
        add(name="notes")
    for act in (promote, remove_version):
        with pytest.raises(ModelError, match="comes with TransferSeg"):
            act("bundled", library, 1)
    with pytest.raises(ModelError, match="no model 'unknown'"):
        history("unknown", library)


def test_the_parent_must_be_the_one_the_candidate_was_made_from(
    library: Path, bundled: Path, add: Add, description: ModelDescription, state_dict: Weights
) -> None:
    add()
    other = library / "ours" / "versions" / "1"
    record = VersionRecord(ModelReference.of(bundled))
    with pytest.raises(ModelError, match="with other weights than the bundled version 1 that the candidate was made"):
        add_version(library, "new", description, state_dict, record, origin=other)
    gone = VersionRecord(ModelReference("gone", "3", "0" * 64))
    with pytest.raises(ModelError, match="would begin with gone version 3, of which there is no copy"):
        add_version(library, "new", description, state_dict, gone)
    # To a line that is there it is added all the same: a candidate is not thrown away.
    version = add_version(library, "ours", description, state_dict, gone)
    assert (version.number, version.current, version.description.license) == (2, False, "Apache-2.0")


def test_a_candidate_is_not_added_twice(
    library: Path, bundled: Path, description: ModelDescription, state_dict: Weights
) -> None:
    """As after a kill between adding and saying so, or between adding and promoting."""
    record = VersionRecord(ModelReference.of(bundled), CASES, evidence(BETTER))
    changed = {layer: values + 1 for layer, values in state_dict.items()}
    first = add_version(library, "ours", description, changed, record, promote="never")
    again = add_version(library, "ours", description, changed, record)
    assert (first.number, first.current, again.number, again.current) == (1, False, 1, True)
    other = add_version(library, "ours", description, changed, replace(record, cases=CASES[:1]))
    assert other.number == 2


def test_cancelled_addition_leaves_nothing(library: Path, add: Add) -> None:
    token = CancelToken()
    token.cancel()
    with pytest.raises(Cancelled):
        add(cancel=token)
    assert [path.name for path in library.iterdir()] == [".lock"]


def test_removing_versions(library: Path, add: Add) -> None:
    add()
    add("ours")
    add("ours")
    with pytest.raises(
        ModelError, match=r"Version 3 of 'ours' is the current one\. To remove it all the same: --force"
    ):
        remove_version("ours", library, 3)
    with pytest.raises(ModelError, match="Version 1 of 'ours' is what version 2 was made from"):
        remove_version("ours", library, 1)
    with pytest.raises(ModelError, match="Version 0 is what 'ours' began with and stays"):
        remove_version("ours", library, 0, force=True)
    remove_version("ours", library, 3, force=True)
    assert history("ours", library).current == 2
    assert add("ours@0", verdict="worse").number == 4  # a number is never given again
    remove_version("ours", library, 4)
    remove_version("ours", library, 1, force=True)
    assert rollback("ours", library).number == 0
    assert [version.number for version in history("ours", library).versions] == [0, 2]
    assert sorted(path.name for path in library.iterdir()) == [".lock", "ours"]


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
    assert [version.number for version in found.versions] == [0, 2] and "Version 1 is damaged" in found.damaged[0]
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
    words = (
        r"current.json is damaged .*not the one its history leads to.* models promote ours NUMBER\. There are: 0, 1, 2"
    )
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
    assert (record.line, record.number, record.parent) == ("ours", 2, ModelReference.of(find_model("ours@1")))
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


ACTIONS = some.lists(
    some.one_of(
        some.tuples(some.just("add"), some.sampled_from(["better", "worse", "no clear difference"])),
        some.tuples(some.just("promote"), some.integers(0, 5)),
        some.tuples(some.just("roll back"), some.none()),
    ),
    max_size=25,
)


@given(ACTIONS)
@settings(max_examples=200, deadline=None)
def test_any_sequence_of_switches_leads_where_it_should(actions: list[tuple[str, Any]]) -> None:
    """Against the plainest model there is: a stack."""
    state, stack = LineState(), [0]
    for what, value in actions:
        if what == "promote" or (what == "add" and value == "better"):
            number = value if what == "promote" else 6
            state = state.promoted(number, "2026-11-24")
            if stack[-1] != number:
                stack.append(number)
        elif what == "roll back" and len(stack) > 1:
            state = state.rolled_back("2026-11-24")
            stack.pop()
        elif what == "roll back":
            with pytest.raises(ModelError):
                state.rolled_back("2026-11-24")
        assert state.trail == tuple(stack)
    assert LineState.from_json(json.loads(json.dumps(state.to_json())), "here") == state


@given(ACTIONS)
@settings(max_examples=6, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_of_changes_on_the_disk(library: Path, add: Add, actions: list[tuple[str, Any]]) -> None:
    shutil.rmtree(library / "ours", ignore_errors=True)
    stack, verdicts = [0], ["", "better"]
    add()
    stack.append(1)
    for what, value in actions[:8]:
        if what == "add":
            number = add("ours", verdict=value).number
            assert number == len(verdicts)
            verdicts.append(value)
            if value == "better":
                stack.append(number)
        elif what == "promote" and value < len(verdicts):
            promote("ours", library, value, force=verdicts[value] == "worse")
            if stack[-1] != value:
                stack.append(value)
        elif what == "roll back" and len(stack) > 1:
            stack.pop()
            assert rollback("ours", library).number == stack[-1]
        assert find_model("ours").name == str(stack[-1])
        assert read_state(library / "ours").trail == tuple(stack)
