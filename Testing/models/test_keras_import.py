"""A Keras file as a model: names, codes, spacing, provenance; saved, loaded and used."""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.models.importers.keras.convert import PUBLISHED, PUBLISHED_STRUCTURES, KerasImport, model_from_keras
from TransferSegLib.models.locate import resource_folders
from TransferSegLib.models.store import load_model, save_model

SMALL = Path(__file__).resolve().parents[1] / "Data" / "keras_files" / "keras_2" / "full_model.h5"


def test_unknown_structures_are_numbered():
    description, state_dict = model_from_keras(SMALL, KerasImport(name="mine"))
    assert description.label_set.names == ("structure 1", "structure 2", "structure 3")
    assert description.label_set.label_values == (0, 1, 2, 3)
    assert (description.network.arguments["width"], description.network.classes) == (1, 4)
    assert description.preparation.spacing_mm == 1.0 and description.spacing_inferred
    assert description.preparation.channels[0].output is None and (
        description.preparation.channels[0].lower,
        description.preparation.channels[0].upper,
    ) == (
        -500.0,
        400.0,
    )
    assert description.provenance.configuration["structure_names_assumed"] is True
    assert state_dict["head.weight"].shape == (4, 2, 1, 1, 1)


def test_what_the_user_says_is_taken():
    options = KerasImport(
        name="mine",
        structures=("Kidney_Left", "kidney_right", "lesion"),
        background="first",
        spacing_mm=1.5,
        spacing_inferred=False,
        modality="MR",
        license="CC0",
    )
    description, _ = model_from_keras(SMALL, options, source="https://example.org/x.h5")
    assert description.label_set.names == ("left kidney", "right kidney", "lesion")
    left = description.label_set.structures[0]
    assert left.terminology == ("64033007", "Kidney") and left.modifier == ("7771000", "Left")
    assert (description.preparation.spacing_mm, description.spacing_inferred, description.modality) == (
        1.5,
        False,
        "MR",
    )
    assert description.summary == "left kidney, right kidney, lesion (MR)" and description.license == "CC0"


def test_where_it_comes_from_is_kept_without_the_names_of_this_computer():
    description, _ = model_from_keras(SMALL, KerasImport(name="mine"), source="https://example.org/x.h5")
    provenance = description.provenance
    assert provenance.configuration["imported_from"] == {
        "file": "x.h5",
        "sha256": hashlib.sha256(SMALL.read_bytes()).hexdigest(),
        "bytes": SMALL.stat().st_size,
        "source": "https://example.org/x.h5",
    }
    assert provenance.configuration["layers_checked"] is True
    assert provenance.command == "transferseg models import --background last --spacing-mm 1"
    assert SMALL.name not in json.dumps(provenance.to_json())


def test_the_number_of_names_must_be_that_of_the_channels():
    with pytest.raises(ModelError, match=r"4 channels: the background and 3 structures. 2 structures are named"):
        model_from_keras(SMALL, KerasImport(name="mine", structures=("liver", "spleen")))
    with pytest.raises(ModelError, match=r"4 channels.* 22 structures are named"):
        model_from_keras(SMALL, PUBLISHED)
    with pytest.raises(ModelError, match=r"full_model\.h5.*share the name liver"):
        model_from_keras(SMALL, KerasImport(name="mine", structures=("liver", "Liver", "spleen")))


def test_saved_loaded_and_run_it_gives_keras_labels(tmp_path: Path):
    description, state_dict = model_from_keras(SMALL, KerasImport(name="mine"))
    network = load_model(save_model(tmp_path / "mine", description, state_dict)).network()
    z, y, x = np.indices((108, 108, 108))
    scan = (z * 7 + y * 13 + x * 29 + (z // 9) * (y // 7) * (x // 5) * 11) % 901 - 500
    with torch.inference_mode():
        labels = network(torch.from_numpy(scan[None, None].astype(np.float32))).argmax(dim=1).numpy()
    with np.load(SMALL.with_name("reference.npz")) as reference:
        expected = np.roll(reference["y"], 1, axis=1).argmax(axis=1)
    assert np.array_equal(labels, expected)


def test_the_published_model(shared_data: Path):
    """On the published code's own file of 23 classes, whose weights are random and whose width is 4."""
    path = shared_data / "keras_reference" / "full_model.h5"
    description, _ = model_from_keras(path, PUBLISHED)
    names = description.label_set.names
    assert names == PUBLISHED_STRUCTURES and len(names) == 22
    assert (names[0], names[9], names[16], names[21]) == ("aorta", "left psoas major", "right psoas major", "trachea")
    assert description.label_set.mirrored_channels()[10] == 17, "left and right psoas change places"
    assert description.license == "Apache-2.0" and "2311.05032" in description.citation
    colors = [structure.color for structure in description.label_set]
    assert len(set(colors)) == 22
    unnamed, _ = model_from_keras(path, replace(PUBLISHED, structures=None))
    assert unnamed.label_set.names == names
    assert unnamed.provenance.configuration["structure_names_assumed"] is True


def test_the_catalogue_says_the_same_of_the_published_model():
    files = [folder / "Models" / "catalogue.json" for folder in resource_folders()]
    file = next(file for file in files if file.is_file())
    entries = {entry["name"]: entry for entry in json.loads(file.read_text(encoding="utf-8"))["models"]}
    entry = entries[PUBLISHED.name]
    assert entry["structures"] == list(PUBLISHED_STRUCTURES)
    assert (entry["spacing_mm"], entry["spacing_inferred"]) == (PUBLISHED.spacing_mm, PUBLISHED.spacing_inferred)
    assert (entry["modality"], entry["license"]) == (PUBLISHED.modality, PUBLISHED.license)
    assert (entry["citation"], entry["summary"]) == (PUBLISHED.citation, PUBLISHED.summary)


@pytest.mark.parametrize(
    ("names", "words"),
    [
        (("liver", "", "spleen"), "The name '' of structure 2 for .*full_model.h5 is empty"),
        (("liver", "a\nb", "spleen"), r"The name 'a\\nb' of structure 2 .* cannot be printed"),
        (("liver", "a\x1b[31m", "spleen"), "cannot be printed"),
        (("Background", "liver", "spleen"), "'Background' is no structure"),
        (("RightKidney", "kidney_right", "spleen"), "share the name right kidney: 'RightKidney' and 'kidney_right'"),
    ],
)
def test_names_that_cannot_be_used_are_named(names: tuple[str, ...], words: str):
    with pytest.raises(ModelError, match=words):
        model_from_keras(SMALL, KerasImport(name="mine", structures=names))


@pytest.mark.parametrize("modality", ["", "  ", "C\nT"])
def test_modality_that_is_none(modality: str):
    with pytest.raises(ModelError, match="is no modality"):
        model_from_keras(SMALL, KerasImport(name="mine", modality=modality))
