"""Files and names of the catalogue: which model a file is, and who may be called like it."""

from __future__ import annotations

import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from libraries import contents, put_into_catalogue
from misbehaving_server import Server

from TransferSegLib.errors import ModelError
from TransferSegLib.models import incoming, locate
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.importers.keras import convert as keras_import
from TransferSegLib.models.importers.keras.convert import KerasImport
from TransferSegLib.models.incoming import KerasOptions
from TransferSegLib.models.library import fetch_model, import_model
from TransferSegLib.models.store import load_description, load_model
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec
from TransferSegLib.progress import CancelToken

Weights = dict[str, torch.Tensor]


@pytest.fixture
def keras_calls(monkeypatch: pytest.MonkeyPatch, description: ModelDescription, state_dict: Weights) -> list[Any]:
    """Replace the reading of Keras weights by the tiny network; what it is asked for is listed."""
    calls: list[Any] = []

    def stand_in(
        path: Path, options: KerasImport, source: str = "", cancel: CancelToken | None = None
    ) -> tuple[ModelDescription, Weights]:
        calls.append((options, source))
        names = options.structures or ("structure 1", "structure 2")
        structures = [
            replace(s, name=name, label=number)
            for number, (s, name) in enumerate(zip(description.label_set, names, strict=True), start=1)
        ]
        return replace(
            description,
            name=options.name,
            label_set=replace(description.label_set, structures=tuple(structures)),
            preparation=description.preparation.with_spacing(options.spacing_mm),
            spacing_inferred=options.spacing_inferred,
            modality=options.modality,
            summary=options.summary or "",
            network=unet_valid_spec(width=1, classes=3),
        ), state_dict

    monkeypatch.setattr(keras_import, "model_from_keras", stand_in)
    return calls


def test_file_of_the_catalogue_is_recognised(
    folder: Path, resources: Path, keras_file: Path, keras_calls: list[Any]
) -> None:
    entry = put_into_catalogue(resources, keras_file.read_bytes(), "keras")
    added = import_model(keras_file, folder)
    assert added.entry == entry and added.path == folder / "tiny"
    model = load_description(added.path)
    assert model.label_set.names == ("liver", "spleen") and model.summary == "As the catalogue says."
    assert (model.preparation.spacing_mm, model.spacing_inferred, model.modality) == (2.0, True, "CT")
    assert entry.download is not None
    assert keras_calls[0][1] == f"https://models.example/file (git blob {entry.download.git_blob})"
    added = import_model(keras_file, folder, "finer", KerasOptions(spacing_mm=1.5))
    assert (added.description.preparation.spacing_mm, added.description.spacing_inferred) == (1.5, True)
    with pytest.raises(ModelError, match=r"published file of 'tiny'.*leave out --structures, --modality\."):
        import_model(keras_file, folder, "x", KerasOptions(structures=("a", "b"), spacing_mm=1.0, modality="MR"))


def test_other_keras_file_is_imported_as_the_options_say(
    folder: Path, resources: Path, keras_file: Path, keras_calls: list[Any]
) -> None:
    put_into_catalogue(resources, b"something else", "keras")
    added = import_model(keras_file, folder)
    assert added.entry is None and added.path == folder / "unet weights"
    options = KerasOptions(structures=("liver", "spleen"), background="first", spacing_mm=1.5, modality="MR")
    added = import_model(keras_file, folder, "mine", options)
    assert keras_calls == [
        (KerasImport("unet weights"), ""),
        (KerasImport("mine", ("liver", "spleen"), "first", 1.5, False, "MR"), ""),
    ]
    assert load_model(added.path).description.label_set.names == ("liver", "spleen")
    odd = keras_file.rename(keras_file.with_name("_weights?.h5" if os.name != "nt" else "_weights.h5"))
    with pytest.raises(ModelError, match="Give another name"):
        import_model(odd, folder)


@pytest.mark.parametrize("name", ["weights_only.h5", "full_model.h5"])
def test_real_keras_files(folder: Path, resources: Path, shared_data: Path, name: str) -> None:
    file = shared_data / "keras_reference" / name
    names = tuple(f"part {number}" for number in range(1, 23))
    added = import_model(file, folder, options=KerasOptions(structures=names, spacing_mm=1.5))
    model = load_model(added.path)
    assert model.description.label_set.names == names and model.description.network.arguments["width"] == 4
    entry = put_into_catalogue(resources, file.read_bytes(), "keras", name="published", structures=names[::-1])
    with Server(file.read_bytes()) as server:
        added = fetch_model("published", folder, session=server.session())
    fetched = load_model(added.path)
    assert added.entry == entry and fetched.description.label_set.names == names[::-1]
    assert all(torch.equal(values, model.state_dict[layer]) for layer, values in fetched.state_dict.items())
    assert contents(folder).keys() == {
        f"{m}/{f}" for m in (file.stem, "published") for f in ("model.json", "weights.pt")
    }
    with pytest.raises(ModelError, match="in the library already"):
        fetch_model("published", folder, spacing_mm=1.5)
    with Server(file.read_bytes()) as server:
        added = fetch_model("published", folder, replace=True, session=server.session(), spacing_mm=1.5)
    assert added.description.preparation == load_model(added.path).description.preparation
    assert added.description.preparation.spacing_mm == 1.5


@pytest.mark.parametrize("name", ["published", "PUBLISHED"])
def test_another_file_cannot_borrow_a_name_of_the_catalogue(
    folder: Path, resources: Path, shared_data: Path, name: str
) -> None:
    file = shared_data / "keras_reference" / "weights_only.h5"
    put_into_catalogue(resources, b"the published file", "keras", name="published", structures=("a", "b"))
    with pytest.raises(ModelError, match="'published' is the catalogue's name of a model, and this file is not"):
        import_model(file, folder, name)
    assert not contents(folder)
    # Put there by hand, it is not taken for the published one.
    import_model(file, folder, "mine")
    (folder / "mine").rename(folder / "published")
    with pytest.raises(ModelError, match="is another one than the catalogue's"):
        fetch_model("published", folder)


def test_exported_model_keeps_a_name_of_the_catalogue_if_it_was_made_of_its_file(
    tmp_path: Path, folder: Path, resources: Path, shared_data: Path
) -> None:
    file = shared_data / "keras_reference" / "weights_only.h5"
    names = tuple(f"part {number}" for number in range(1, 23))
    entry = put_into_catalogue(resources, file.read_bytes(), "keras", name="published", structures=names, width=4)
    original = import_model(file, folder)
    assert (original.kind, original.entry, original.claimed) == ("keras", entry, None)
    carried = export_model(original.path, tmp_path / "carried.zip")
    added = import_model(carried, tmp_path / "other")
    assert (added.kind, added.entry, added.claimed) == ("transferseg", None, entry)
    assert added.description == original.description
    # Neither other structures nor weights that were trained further have the name.
    text = (original.path / "model.json").read_text(encoding="utf-8")
    for number, (old, new) in enumerate((("part 7", "part of another"), (entry.download.git_blob, "0" * 40))):
        changed = shutil.copytree(original.path, tmp_path / f"changed {number}")
        assert old in text
        (changed / "model.json").write_text(text.replace(old, new), encoding="utf-8")
        with pytest.raises(ModelError, match="'published' is the catalogue's name"):
            import_model(changed, tmp_path / "third")
        assert import_model(changed, tmp_path / "third", f"mine {number}").claimed is None


def test_the_catalogues_published_model_is_what_the_keras_import_knows() -> None:
    entry = locate.catalogue().find(keras_import.PUBLISHED.name)
    assert entry is not None
    known = keras_import.PUBLISHED
    assert (entry.structures, entry.spacing_mm, entry.spacing_inferred, entry.modality) == (
        known.structures,
        known.spacing_mm,
        known.spacing_inferred,
        known.modality,
    )
    assert (entry.license, entry.citation) == (known.license, known.citation)


def test_options_that_say_something() -> None:
    assert KerasOptions().said == ()
    assert KerasOptions(structures=(), spacing_mm=0.0).said == ("structures", "spacing_mm")
    assert incoming.is_portable_name("con-trast") and not incoming.is_portable_name("CON.trast")
