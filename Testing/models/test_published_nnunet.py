"""Published models of nnU-Net: fetched, trusted at first sight, held to it later, imported as the catalogue says."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from libraries import contents
from misbehaving_server import Server, breaks_after
from nnunet_fixtures import OLD, NnUNetFixture

from TransferSegLib.cli.main import main
from TransferSegLib.errors import ModelError
from TransferSegLib.models import fetch
from TransferSegLib.models.catalogue import CatalogueEntry, NnUNetProfile
from TransferSegLib.models.download import Download
from TransferSegLib.models.known_files import known_file
from TransferSegLib.models.library import fetch_model, import_model, remove_model
from TransferSegLib.models.locate import catalogue
from TransferSegLib.models.store import load_model

FIXTURE = NnUNetFixture(OLD)
CONTENT = FIXTURE.model.read_bytes()
SHA256 = hashlib.sha256(CONTENT).hexdigest()
ADDRESS = "https://models.example/v1/Dataset903_Fix.zip"
TASKS: dict[str, list[str]] = json.loads(
    (Path(__file__).parents[1] / "Data" / "totalsegmentator" / "class_names.json").read_text(encoding="utf-8")
)


def entry(structures: tuple[str, ...] = ("left kidney", "vertebra L1"), **changes: Any) -> CatalogueEntry:
    download = Download("nnunet", ADDRESS, None, len(CONTENT), **changes)
    return CatalogueEntry(
        "published",
        "As the catalogue says.",
        "CT",
        structures,
        None,
        False,
        None,
        len(CONTENT),
        "Apache-2.0",
        "cite me",
        "https://models.example",
        download,
        NnUNetProfile("RAS", "nnunet", 0.2),
    )


def offer(resources: Path, *entries: CatalogueEntry) -> None:
    content = {"format": "transferseg-catalogue", "format_version": 1, "models": [each.to_json() for each in entries]}
    (resources / "catalogue.json").write_text(json.dumps(content), encoding="utf-8")


def count_of_labels() -> int:
    with zipfile.ZipFile(FIXTURE.model) as archive:
        name = next(name for name in archive.namelist() if name.endswith("dataset.json"))
        return len(json.loads(archive.read(name))["labels"]) - 1


def another_file() -> bytes:
    """Return another archive with the same model."""
    stream = io.BytesIO()
    with zipfile.ZipFile(FIXTURE.model) as archive, zipfile.ZipFile(stream, "w") as changed:
        for name in archive.namelist():
            changed.writestr(name, archive.read(name))
    return stream.getvalue()


@pytest.fixture
def server(resources: Path) -> Iterator[Server]:
    structures = tuple(f"left part {number}" for number in range(count_of_labels() - 1))
    offer(resources, entry(("left kidney", *structures)))
    with Server(CONTENT) as running:
        yield running


def test_first_fetch_records_the_checksum_and_imports_as_the_catalogue_says(folder: Path, server: Server) -> None:
    added = fetch_model("published", folder, session=server.session())
    assert added.recorded_sha256 == SHA256
    known = known_file(folder, ADDRESS)
    assert known is not None and (known.sha256, known.bytes) == (SHA256, len(CONTENT))
    model = load_model(added.path).description
    assert model.preparation.axes == "RAS" and model.preparation.resampling == "nnunet"
    assert model.network.arguments["overlap"] == 0.2
    assert (model.summary, model.license, model.citation, model.modality) == (
        "As the catalogue says.",
        "Apache-2.0",
        "cite me",
        "CT",
    )
    first = model.label_set.structures[0]
    assert (first.name, first.label, first.terminology) == ("left kidney", 1, ("64033007", "Kidney"))
    imported = model.provenance.configuration["imported_from"]
    assert (imported["source"], imported["file_sha256"]) == (ADDRESS, SHA256)
    assert set(contents(folder)) == {".checksums.json", "published/model.json", "published/weights.pt"}


def test_later_fetch_of_another_file_is_refused(folder: Path, server: Server) -> None:
    fetch_model("published", folder, session=server.session())
    remove_model("published", folder)
    assert fetch_model("published", folder, session=server.session()).recorded_sha256 is None
    remove_model("published", folder)
    server.content = another_file()
    other = hashlib.sha256(server.content).hexdigest()
    with pytest.raises(ModelError, match=f"has the SHA-256 {other} instead of {SHA256}"):
        fetch_model("published", folder, session=server.session())
    assert set(contents(folder)) == {".checksums.json"}
    added = fetch_model("published", folder, session=server.session(), sha256=other.upper())
    assert added.recorded_sha256 is None, "it was asked for, not trusted"
    known = known_file(folder, ADDRESS)
    assert known is not None and known.sha256 == other


def test_another_computer_can_be_held_to_the_checksum(folder: Path, server: Server) -> None:
    with pytest.raises(ModelError, match="is no SHA-256: give its 64 hexadecimal digits"):
        fetch_model("published", folder, session=server.session(), sha256="5d98")
    with pytest.raises(ModelError, match=f"has the SHA-256 {SHA256} instead of {'0' * 64}"):
        fetch_model("published", folder, session=server.session(), sha256="0" * 64)
    assert not contents(folder) and known_file(folder, ADDRESS) is None
    added = fetch_model("published", folder, session=server.session(), sha256=SHA256)
    assert added.recorded_sha256 is None and not added.was_there
    assert fetch_model("published", folder, session=server.session(), sha256=SHA256).was_there
    with pytest.raises(ModelError, match=f"made of a file with another SHA-256 .{SHA256}"):
        fetch_model("published", folder, session=server.session(), sha256="1" * 64)


def test_broken_fetch_continues(folder: Path, server: Server) -> None:
    server.behaviours = [breaks_after(100_000)]
    added = fetch_model("published", folder, session=server.session())
    assert added.recorded_sha256 == SHA256 and any(server.ranges())


@pytest.mark.parametrize("damage", ["cut", "changed"])
def test_damaged_archive_is_not_trusted(folder: Path, server: Server, damage: str) -> None:
    middle = len(CONTENT) // 2
    server.content = CONTENT[:middle] if damage == "cut" else CONTENT[:middle] + b"\0" * 64 + CONTENT[middle + 64 :]
    with pytest.raises(ModelError, match="is no whole archive"):
        fetch_model("published", folder, session=server.session())
    assert not contents(folder)


def test_file_with_another_number_of_structures_is_refused(folder: Path, resources: Path, server: Server) -> None:
    offer(resources, entry(("liver",)))
    with pytest.raises(ModelError, match="the catalogue's model 'published' has 1: it is another one"):
        fetch_model("published", folder, session=server.session())


def test_file_that_was_carried_by_hand_is_known_by_its_folder(folder: Path, server: Server, tmp_path: Path) -> None:
    copy = tmp_path / "carried.zip"
    shutil.copy(FIXTURE.model, copy)
    added = import_model(copy, folder)
    assert added.entry is None and added.claimed is not None and added.claimed.name == "published"
    assert added.description.name == "published" and added.description.preparation.axes == "RAS"
    unpacked = FIXTURE.unpacked(tmp_path / "results")
    for given in (unpacked, unpacked.parent):
        assert import_model(given, folder, replace=True).description.name == "published"
    moved = shutil.copytree(unpacked, tmp_path / "of a colleague")
    other = import_model(moved, folder)
    assert other.claimed is None and other.description.preparation.axes != "RAS"
    assert "file_sha256" not in added.description.provenance.configuration["imported_from"]


def test_restricted_models_are_named_and_never_fetched(folder: Path) -> None:
    restricted = catalogue().restricted
    assert {"totalsegmentator-face", "totalsegmentator-brain-aneurysm"} <= {each.name for each in restricted}
    for each in restricted:
        assert each.download is None and each.license != "Apache-2.0"
        with pytest.raises(ModelError, match=r"is not fetched: its .*licence"):
            fetch_model(each.name, folder)


def test_open_tasks_of_totalsegmentator() -> None:
    """Every task that TotalSegmentator names is offered or said to be restricted; names are those of its class map."""
    offered = {each.name: each for each in catalogue().to_fetch if each.name.startswith("totalsegmentator-")}
    assert len(offered) == 41
    assert all(each.license == "Apache-2.0" and "nnU-Net" in each.citation for each in offered.values())
    assert len({each.download.address for each in offered.values() if each.download}) == 41
    parts = ("organs", "vertebrae", "cardiac", "muscles", "ribs")
    joined = [name for part in parts for name in offered[f"totalsegmentator-total-{part}"].structures]
    assert joined == list(offered["totalsegmentator-total-3mm"].structures) and len(joined) == 117
    both = [name for part in ("organs", "muscles") for name in offered[f"totalsegmentator-total-mr-{part}"].structures]
    assert both == list(offered["totalsegmentator-total-mr-6mm"].structures) and len(both) == 50
    for each in offered.values():
        assert each.profile is not None and each.profile.axes == "RAS"
        assert each.profile.overlap == (0.2 if "-total-" in each.name else 0.5)
        assert each.download is not None and each.download.address.startswith(
            "https://github.com/wasserth/TotalSegmentator/releases/download/v2."
        )
    named = {each.name for each in catalogue().entries}
    left_out = {"total", "total_mr", "total_v1", "total_v3", "total_highres_test", "covid", "headneck_muscles"}
    left_out |= {task for task in TASKS if task.endswith(("_LEGACY", "_auxiliary", "_refined"))}
    assert {f"totalsegmentator-{task.replace('_', '-')}" for task in set(TASKS) - left_out} <= named


def test_command_prints_the_checksum_that_other_computers_need(
    folder: Path, server: Server, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(fetch, "new_session", server.session)
    assert main(["models", "show", "published", "--library", str(folder)]) == 0
    assert "no published checksum" in capsys.readouterr().out
    assert main(["models", "fetch", "published", "--library", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "Its makers publish no checksum" in printed
    assert f"transferseg models fetch published --sha256 {SHA256}" in printed
    other = folder.with_name("another computer")
    assert main(["models", "fetch", "published", "--library", str(other), "--sha256", SHA256]) == 0
    assert "Its makers" not in capsys.readouterr().out
    assert main(["models", "fetch", "published", "--library", str(other), "--replace", "--sha256", "0" * 64]) == 2
    assert f"instead of {'0' * 64}" in capsys.readouterr().err
