"""What model.json says: the way there and back, and every kind of wrong content named in the error."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import parse_model_file
from TransferSegLib.models.description import ModelDescription, Provenance, finite, parse_json
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec

VALID: dict[str, Any] = {
    "format": "transferseg-model",
    "format_version": 1,
    "name": "x",
    "version": "1",
    "summary": "",
    "modality": "CT",
    "structures": [{"name": "heart", "label": 1, "color": [1, 2, 3]}],
    "axes": "LPS",
    "spacing_mm": 1,
    "intensity": {"kind": "window", "lower": 0, "upper": 1, "output": None},
    "network": {"kind": "unet3d-valid", "width": 8, "classes": 2},
    "license": "",
    "training_data": "",
    "citation": "",
    "metrics": {},
    "provenance": {"command": "", "seed": None, "code_version": "", "created": "2026-01-01"},
}

DELETED = object()


def changed(description: ModelDescription, path: str, value: Any) -> Any:
    """Return the description's JSON with the entry at a dotted path replaced or deleted."""
    entry = json.loads(json.dumps(description.to_json()))
    *folders, last = (int(step) if step.isdigit() else step for step in path.split("."))
    inner = entry
    for folder in folders:
        inner = inner[folder]
    if value is DELETED:
        del inner[last]
    else:
        inner[last] = value
    return entry


def test_json_and_back(description: ModelDescription) -> None:
    text = json.dumps(description.to_json(), allow_nan=False)
    assert ModelDescription.from_json(json.loads(text)) == description


def test_unknown_entries_are_ignored(description: ModelDescription) -> None:
    entry = description.to_json() | {"sponsor": {"name": "nobody"}}
    entry["network"]["dropout"] = 0.5
    assert ModelDescription.from_json(entry) == description


def test_optional_entries_have_defaults(description: ModelDescription) -> None:
    entry = description.to_json()
    del entry["metrics"], entry["spacing_inferred"], entry["provenance"]["parent"], entry["provenance"]["configuration"]
    read = ModelDescription.from_json(entry)
    assert (read.metrics, read.spacing_inferred) == ({}, False)
    assert (read.provenance.parent, read.provenance.configuration) == (None, {})


@pytest.mark.parametrize(
    "path",
    [
        "format",
        "format_version",
        "name",
        "version",
        "summary",
        "modality",
        "structures",
        "preparation",
        "preparation.axes",
        "preparation.spacing_zyx_mm",
        "preparation.channels.0.lower",
        "network",
        "network.kind",
        "network.channels",
        "network.arguments",
        "network.arguments.width",
        "network.classes",
        "license",
        "training_data",
        "citation",
        "provenance",
        "provenance.command",
        "provenance.seed",
        "provenance.created",
        "provenance.code_version",
    ],
)
def test_missing_entry_is_named(description: ModelDescription, path: str) -> None:
    with pytest.raises(ModelError, match=path.split(".")[-1]):
        ModelDescription.from_json(changed(description, path, DELETED))


@pytest.mark.parametrize(
    ("path", "value", "words"),
    [
        ("format", "nnunet", "not the description of a TransferSeg model"),
        ("format_version", "1", "whole number"),
        ("format_version", True, "whole number"),
        ("format_version", 0, "1 or more"),
        ("name", 3, "'name' must be a text"),
        ("name", "../evil", "cannot be a model's name"),
        ("name", "a/b", "cannot be a model's name"),
        ("name", "", "cannot be a model's name"),
        ("name", "x" * 101, "cannot be a model's name"),
        ("name", "line\nbreak", "cannot be a model's name"),
        ("version", "", "no version"),
        ("summary", None, "'summary' must be a text"),
        ("structures", {}, "must be a list"),
        ("structures", [], "at least one structure"),
        ("structures.0", {"name": "x"}, "not the description of a structure"),
        ("structures.1.label", 7, "share the label value 7"),
        ("structures.0.label", 1e999, "structures"),
        ("preparation", [], "preparation cannot be read"),
        ("preparation.axes", "LRS", "three letters such as LPS"),
        ("preparation.axes", "LP", "three letters such as LPS"),
        ("preparation.axes", ["L", "P", "S"], "axes"),
        ("preparation.spacing_zyx_mm", 1.5, "preparation cannot be read"),
        ("preparation.spacing_zyx_mm", [1, 1], "preparation cannot be read"),
        ("preparation.spacing_zyx_mm.0", "1.5", "must be a number"),
        ("preparation.spacing_zyx_mm.1", 0, "outside 0.1 to 20 mm"),
        ("preparation.spacing_zyx_mm.2", -1.0, "outside 0.1 to 20 mm"),
        ("preparation.spacing_zyx_mm.0", 10**400, "must be a number"),
        ("preparation.spacing_zyx_mm.0", math.nan, "must be a number"),
        ("preparation.channels", [], "at least one input channel"),
        ("spacing_inferred", "no", "true or false"),
        ("preparation.channels.0", [], "not an intensity rule"),
        ("preparation.channels.0.kind", "z-score", "Unknown intensity rule"),
        ("preparation.channels.0.upper", -5, "must be below"),
        ("preparation.channels.0.upper", 10**400, "cannot be read"),
        ("preparation.channels.0.output", [0, math.inf], "not finite"),
        ("network", "unet", "network"),
        ("network.kind", "transformer", "Update TransferSeg"),
        ("network.arguments", 5, "named entries"),
        ("network.arguments.width", 1.0, "whole number"),
        ("network.arguments.width", 0, "from 1 to 256"),
        ("network.arguments.width", 10**9, "from 1 to 256"),
        ("network.channels", 2, "one input channel"),
        ("network.channels", 1.0, "whole number"),
        ("network.classes", 4, "4 classes, but 2 structures and the background make 3"),
        ("network.classes", 1, "from 2"),
        ("metrics", [1], "metrics"),
        ("metrics.validation", 0.8, "metrics of 'validation'"),
        ("metrics.validation.dice", [0.8], "Dice of 'validation'"),
        ("metrics.validation.dice", {"left kidney": "good"}, "Dice of 'left kidney' must be a number or null"),
        ("provenance.seed", "7", "seed"),
        ("provenance.seed", -1, "seed"),
        ("provenance.created", "yesterday", "ISO date"),
        ("provenance.parent", 5, "parent"),
        ("provenance.configuration", "fast", "configuration"),
    ],
)
def test_wrong_entry_is_explained(description: ModelDescription, path: str, value: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ModelDescription.from_json(changed(description, path, value))


def test_newer_format_asks_for_an_update(description: ModelDescription) -> None:
    with pytest.raises(ModelError, match=r"made by a newer TransferSeg .*Update TransferSeg"):
        ModelDescription.from_json(changed(description, "format_version", 3))


def test_newer_format_is_said_before_anything_else_is_judged() -> None:
    with pytest.raises(ModelError, match="made by a newer TransferSeg"):
        ModelDescription.from_json({"format": "transferseg-model", "format_version": 9, "axes": "RAS"})


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.sampled_from([1, 2]),
    st.sampled_from(
        ["structures", "intensity", "network", "provenance", "metrics", "spacing_mm", "name", "axes", "preparation"]
    ),
)
def test_any_json_is_read_or_refused_with_a_model_error(value: Any, version: int, key: str) -> None:
    entry = (VALID if version == 1 else ModelDescription.from_json(VALID).to_json()) | {key: value}
    try:
        read = ModelDescription.from_json(entry)
    except ModelError as error:
        assert len(str(error)) < 2000
    else:
        assert ModelDescription.from_json(read.to_json()).to_json() == read.to_json()


def test_the_smallest_valid_description_is_read() -> None:
    read = ModelDescription.from_json(VALID)
    assert (read.preparation.spacing_mm, read.preparation.channels[0].output) == (1, None)
    assert read.network == unet_valid_spec(width=8, classes=2)


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("axes", "RAS", "format 1 knows 'LPS' only"),
        ("axes", ["L", "P", "S"], "axes"),
        ("spacing_mm", "1.5", "must be a number"),
        ("spacing_mm", 10**400, "must be a number"),
        ("intensity", [], "not an intensity rule"),
        ("intensity", {"kind": "window", "lower": 0, "upper": 10**400, "output": None}, "cannot be read"),
        ("network", {"kind": "unet3d-valid", "classes": 2}, "width"),
        ("network", {"kind": "unet3d-valid", "width": 1.0, "classes": 2}, "whole number"),
    ],
)
def test_a_wrong_entry_of_format_1_is_explained(key: str, value: Any, words: str) -> None:
    with pytest.raises(ModelError, match=words):
        ModelDescription.from_json(VALID | {key: value})


@pytest.mark.parametrize(
    "text",
    [b"", b"{", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a": 1} {'],
    ids=["empty", "cut", "not utf-8", "NaN", "nested", "two"],
)
def test_invalid_json_names_the_file(text: bytes) -> None:
    with pytest.raises(ModelError, match=r"some/model.json is not valid JSON"):
        parse_json(text, "some/model.json")


@pytest.mark.parametrize("weights", [None, {}, {"sha256": "ab", "size": 3}, {"sha256": "a" * 64, "size": "3"}, [1]])
def test_weights_record_is_checked(description: ModelDescription, weights: Any) -> None:
    text = json.dumps(description.to_json() | {"weights": weights}).encode()
    with pytest.raises(ModelError, match=r"model.json cannot be used.*SHA-256"):
        parse_model_file(text, "model.json")


def test_not_finite_metrics_become_null(description: ModelDescription) -> None:
    measured = replace(description, metrics={"test": {"dice": {"a": math.nan, "b": 0.5}, "all": [math.inf]}})
    entry = measured.to_json()
    assert entry["metrics"] == {"test": {"dice": {"a": None, "b": 0.5}, "all": [None]}}
    assert ModelDescription.from_json(entry).metrics == entry["metrics"]
    assert finite((1, -math.inf)) == [1, None]


def test_descriptions_cannot_be_built_wrong(description: ModelDescription) -> None:
    with pytest.raises(ModelError, match="classes"):
        replace(description, network=unet_valid_spec(width=1, classes=5))
    with pytest.raises(ModelError, match="ISO date"):
        Provenance("x", 1, "0.1.0", "31.1.2026")


def test_descriptions_are_read_without_torch(saved: Path) -> None:
    program = (
        "import sys; from TransferSegLib.models.store import load_description;"
        "from TransferSegLib.models import locate, archive;"
        "print(load_description(sys.argv[1]).name, 'torch' in sys.modules)"
    )
    result = subprocess.run(
        [sys.executable, "-c", program, str(saved)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[2],
        check=True,
    )
    assert result.stdout.split() == ["tiny", "False"]
