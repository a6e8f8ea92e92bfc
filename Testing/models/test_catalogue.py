"""The catalogue: what the repository's own says, and files that are no catalogue."""

from __future__ import annotations

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from TransferSegLib.errors import ModelError
from TransferSegLib.models.archive import WEIGHTS_FILE
from TransferSegLib.models.catalogue import Catalogue, CatalogueEntry, read_catalogue
from TransferSegLib.models.download import git_blob_id
from TransferSegLib.models.locate import bundled_models, catalogue
from TransferSegLib.models.store import load_description

FILE = Path(__file__).resolve().parents[2] / "Resources" / "Models" / "catalogue.json"


@pytest.fixture
def content() -> dict[str, Any]:
    """Return what the repository's catalogue holds."""
    result: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return result


def refusal(content: Any, tmp_path: Path) -> str:
    """Return the message with which a catalogue is refused."""
    file = tmp_path / "catalogue.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelError) as caught:
        read_catalogue(file)
    assert str(file) in str(caught.value)
    return str(caught.value)


def test_every_bundled_model_is_in_it_and_described_as_it_is() -> None:
    for folder in bundled_models():
        entry, model = catalogue().find(folder.name), load_description(folder)
        assert entry is not None and entry.download is None
        assert (entry.name, entry.modality, entry.structures) == (model.name, model.modality, model.label_set.names)
        assert (entry.spacing_mm, entry.spacing_inferred) == (model.preparation.spacing_mm, model.spacing_inferred)
        assert (entry.width, entry.license, entry.citation) == (
            model.network.arguments["width"],
            model.license,
            model.citation,
        )
        assert entry.about_bytes == pytest.approx((folder / WEIGHTS_FILE).stat().st_size, rel=0.02)


def test_the_published_model() -> None:
    entry = catalogue().find("Thorax-Abdomen-CT")
    assert entry is not None and entry.download is not None
    assert catalogue().to_fetch[0] == entry
    assert len(entry.structures) == 22 and entry.spacing_inferred and entry.width == 32
    # 16,317,015 float32 weights, and the file's own tables.
    assert 16_317_015 * 4 < entry.about_bytes < 16_317_015 * 4 + 200_000
    assert entry.download.git_blob == "5d98f9c595b3d7847e3eabf01b59249767bc4ae4"
    assert catalogue().recognise("5d98f9c595b3d7847e3eabf01b59249767bc4ae4") == entry
    assert catalogue().recognise("0" * 40) is None
    assert entry.download.address.endswith(
        "/raw/8ef06936e12752c265024759e3d005ca90e1e75a/weights/unet3d_Isomulti1v810.h5"
    )


def test_it_is_written_as_it_is_read(content: dict[str, Any]) -> None:
    assert [entry.to_json() for entry in read_catalogue(FILE).entries] == content["models"]
    assert [CatalogueEntry.from_json(entry) for entry in content["models"]] == list(read_catalogue(FILE).entries)


def test_a_file_that_changed_is_read_anew(tmp_path: Path, content: dict[str, Any]) -> None:
    file = tmp_path / "catalogue.json"
    for models in (content["models"], content["models"][:2], content["models"]):
        file.write_text(json.dumps(content | {"models": models}), encoding="utf-8")
        assert len(read_catalogue(file).entries) == len(models)


def test_blob_id_is_that_of_git(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.touch()
    assert git_blob_id(empty) == "e69de29bb2d1d6434b8b29ae775ad8c2e48c5391"  # known to everybody who uses git
    large = tmp_path / "large"
    large.write_bytes(bytes(range(256)) * 8200)  # more than is read at once
    assert git_blob_id(large) == hashlib.sha1(b"blob 2099200\0" + large.read_bytes()).hexdigest()
    try:
        told = subprocess.run(["git", "hash-object", str(large)], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return  # no git here: the two comparisons above stand
    assert git_blob_id(large) == told.strip()
    with pytest.raises(ModelError, match="cannot be read"):
        git_blob_id(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("name", "a/b", "cannot be a model's name"),
        ("name", 3, "'name' must be a text, not 3"),
        ("structures", [], "at least one"),
        ("structures", ["aorta", "aorta"], "different names"),
        ("structures", ["aorta", 3], "list of names"),
        ("structures", "aorta", "must be a list"),
        ("spacing_mm", 0, "larger than 0"),
        ("spacing_mm", "1", "must be a number"),
        ("spacing_inferred", 1, "must be true or false"),
        ("width", True, "must be a whole number"),
        ("about_bytes", -1, "larger than 0"),
        ("homepage", "javascript:alert(1)", "not an HTTPS address"),
        ("download", [], "must be a set of named entries or null"),
        ("download.kind", "pickle", "none of keras, transferseg"),
        ("download.address", "http://example.org/a.h5", "not an HTTPS address"),
        ("download.address", "https://me:secret@example.org/a.h5", "without a password"),
        ("download.address", "https:///a.h5", "not an HTTPS address"),
        ("download.address", "https://[/a.h5", "not an HTTPS address"),
        ("download.git_blob", "5D98", "no git blob id"),
        ("download.bytes", 0, "larger than 0"),
        ("download.bytes", 1.5, "must be a whole number or null"),
    ],
)
def test_wrong_entries_are_named(content: dict[str, Any], tmp_path: Path, field: str, value: Any, words: str) -> None:
    entry = content["models"][1]
    *outer, last = field.split(".")
    for key in outer:
        entry = entry[key]
    entry[last] = value
    message = refusal(content, tmp_path)
    assert words in message and ("thorax-abdomen-ct" in message or field == "name")
    del entry[last]
    assert f"'{last}' is missing" in refusal(content, tmp_path)


def test_files_that_are_no_catalogue(content: dict[str, Any], tmp_path: Path) -> None:
    assert "'format' is missing" in refusal([], tmp_path)
    assert "'format' is not" in refusal(content | {"format": "x"}, tmp_path)
    assert "update TransferSeg" in refusal(content | {"format_version": 2}, tmp_path)
    assert "'models' must be a list" in refusal(content | {"models": None}, tmp_path)
    assert "The model None: The entry 'name' is missing" in refusal(content | {"models": ["x"]}, tmp_path)
    twice = content | {"models": [content["models"][1]] * 2}
    assert "share the name thorax-abdomen-ct" in refusal(twice, tmp_path)
    twice["models"] = [content["models"][1], content["models"][1] | {"name": "b"}]
    assert "share the file 5d98f9" in refusal(twice, tmp_path)
    (tmp_path / "damaged.json").write_bytes(b"\xff{")
    with pytest.raises(ModelError, match="not valid JSON"):
        read_catalogue(tmp_path / "damaged.json")
    with pytest.raises(ModelError, match="cannot be read"):
        read_catalogue(tmp_path / "nowhere.json")
    assert Catalogue().find("x") is None


def test_an_empty_download_is_damaged(content: dict[str, Any], tmp_path: Path) -> None:
    for empty in ({}, {"kind": "keras"}):
        content["models"][0]["download"] = empty
        refusal(content, tmp_path)
