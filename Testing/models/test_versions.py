"""Versions of a model: what a line is, which version is the current one, and that nothing is ever half done."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from version_lines import CASES, Add, Weights, evidence, first_number

from TransferSegLib.errors import Cancelled, ModelError
from TransferSegLib.evaluation.verdict import Answer, judge
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.library import import_model, remove_model
from TransferSegLib.models.locate import find_model, library_models
from TransferSegLib.models.store import load_description, load_model
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.record import (
    BETTER,
    WORSE,
    ModelReference,
    VersionRecord,
)
from TransferSegLib.models.versions.state import VersionState, read_state
from TransferSegLib.models.versions.versions import add_version, promote, remove_version, rollback
from TransferSegLib.progress import CancelToken


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


@pytest.mark.parametrize("verdict", ["better", "no clear difference", "too few cases to say"])
def test_asked_for_it_does_not_replace_what_it_was_not_compared_with(library: Path, add: Add, verdict: str) -> None:
    """``finetune --model ours@1 --promote`` where version 2 is in use."""
    assert add(verdict=verdict, promote="unless worse").current, "a new model is what it was made from"
    assert add("ours@1", verdict=verdict, promote="unless worse").current
    assert not add("ours@1", verdict=verdict, promote="unless worse").current
    assert history("ours", library).current == 2


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
    import_model(saved, library, name="odd")
    (library / "odd").rename(library / "odd@7")  # by hand: no model is given such a name
    (library / "odd@7" / "model.json").write_text(
        json.dumps(json.loads((saved / "model.json").read_bytes()) | {"name": "x"})
    )
    assert find_model("tiny@0") == library / "tiny"
    assert find_model("odd@7") == library / "odd@7"  # there is no 'odd' that it could be a version of
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
    for may_replace in (True, False):  # without, too, it is not to suggest what would be refused
        with pytest.raises(ModelError, match=r"has versions, which would .*with --name, or remove it first") as refusal:
            import_model(saved, library, replace=may_replace)
        assert "--replace" not in str(refusal.value)
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
    state, stack = VersionState(), [0]
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
    assert VersionState.from_json(json.loads(json.dumps(state.to_json())), "here") == state


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
