"""Finding models by name and path in made-up installations."""

from __future__ import annotations

import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.models import locate
from TransferSegLib.models.archive import export_model
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.locate import (
    bundled_models,
    bundled_sample,
    catalogue,
    find_library_model,
    find_model,
    library_folder,
    library_models,
    library_names,
)
from TransferSegLib.models.store import save_model

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture
def installation(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    description: ModelDescription,
    state_dict: dict[str, torch.Tensor],
) -> Path:
    """Make a package folder with two bundled models and a sample beside it, and a library with two models."""
    package = tmp_path / "site" / "TransferSegLib"
    (package / "models").mkdir(parents=True)
    monkeypatch.setattr(locate, "__file__", str(package / "models" / "locate.py"))
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(tmp_path / "library"))
    models = tmp_path / "site" / "Resources" / "Models"
    for folder, name in (("head-neck-ct", "Head and neck CT"), ("abdomen", "Abdomen CT")):
        save_model(models / folder, replace(description, name=name), state_dict)
    (models / "not-a-model").mkdir()
    (tmp_path / "site" / "Resources" / "SampleData" / "head-neck-ct").mkdir(parents=True)
    save_model(tmp_path / "library" / "mine", replace(description, name="My kidneys"), state_dict)
    export_model(tmp_path / "library" / "mine", tmp_path / "library" / "colleague.zip")
    (tmp_path / "library" / ".mine.part").mkdir()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path


def names(paths: list[Path]) -> list[str]:
    """Return the paths' names."""
    return [path.name for path in paths]


def test_lists(installation: Path) -> None:
    assert names(bundled_models()) == ["abdomen", "head-neck-ct"]
    assert names(library_models()) == ["colleague.zip", "mine"]
    assert bundled_sample() == installation / "site" / "Resources" / "SampleData" / "head-neck-ct"


def test_names_of_the_library_are_those_that_find_a_model(installation: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (installation / "library" / "broken").mkdir()
    (installation / "library" / "broken" / "model.json").write_text("{")
    read: list[str] = []
    load = locate.load_description
    monkeypatch.setattr(locate, "load_description", lambda path: [read.append(path.name), load(path)][1])
    known = library_names()
    assert known == {"mine", "colleague", "my kidneys", "broken"}
    assert sorted(read) == ["broken", "colleague.zip", "mine"], "each is read once"
    assert all(find_library_model(name) is not None for name in known)


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (None, "site/Resources/Models/head-neck-ct"),
        ("head-neck-ct", "site/Resources/Models/head-neck-ct"),
        ("HEAD-neck-ct", "site/Resources/Models/head-neck-ct"),
        ("abdomen ct", "site/Resources/Models/abdomen"),
        ("mine", "library/mine"),
        ("colleague", "library/colleague.zip"),
    ],
)
def test_names(installation: Path, wanted: str | None, found: str) -> None:
    assert find_model(wanted) == installation / found


def test_paths(installation: Path) -> None:
    mine = installation / "library" / "mine"
    for path in (mine, str(mine), mine / "model.json", Path("../library/mine"), "../library/mine"):
        assert find_model(path).resolve() == mine
    assert find_model("../library/colleague.zip").resolve() == installation / "library" / "colleague.zip"


def test_a_bare_word_is_a_name_before_it_is_a_path(installation: Path) -> None:
    shutil.copytree(installation / "library" / "mine", "abdomen")
    shutil.copytree(installation / "library" / "mine", "local")
    assert find_model("abdomen") == installation / "site" / "Resources" / "Models" / "abdomen"
    assert find_model("./abdomen") == Path("abdomen")
    assert find_model(Path("abdomen")) == Path("abdomen")
    assert find_model("local") == Path("local")


def test_a_folder_name_goes_before_a_description_and_bundled_before_the_library(
    installation: Path, description: ModelDescription, state_dict: dict[str, torch.Tensor]
) -> None:
    library = installation / "library"
    save_model(library / "abdomen", description, state_dict)
    save_model(library / "a-first", replace(description, name="mine"), state_dict)
    assert find_model("abdomen") == installation / "site" / "Resources" / "Models" / "abdomen"
    assert find_model("mine") == library / "mine"


def test_a_damaged_model_does_not_hide_the_others(installation: Path) -> None:
    broken = installation / "library" / "a-broken"
    broken.mkdir()
    (broken / "model.json").write_text("{")
    assert find_model("my kidneys").name in ("mine", "colleague.zip")
    assert find_model("a-broken") == broken


@pytest.mark.parametrize("wanted", ["lungs", "../lungs", "lungs.zip", Path("lungs"), "~/lungs"])
def test_unknown_model_lists_what_is_known_in_a_line(installation: Path, wanted: str | Path) -> None:
    with pytest.raises(ModelError) as caught:
        find_model(wanted)
    assert str(caught.value) == (
        f"There is no model '{wanted}', neither as a name nor as a path. "
        "Known are: abdomen, head-neck-ct, colleague, mine."
    )


def test_a_model_that_can_be_fetched_is_said_to_be(installation: Path) -> None:
    models = installation / "site" / "Resources" / "Models"
    shutil.copyfile(TOP / "Resources" / "Models" / "catalogue.json", models / "catalogue.json")
    with pytest.raises(ModelError, match=r"not on this computer yet.* transferseg models fetch thorax-abdomen-ct$"):
        find_model("Thorax-Abdomen-CT")
    with pytest.raises(ModelError, match=r"Known are: .*mine\. To fetch .*NAME\): \S+, .* others \(.*shows them\)\.$"):
        find_model("lungs")
    (models / "catalogue.json").write_text("{")
    with pytest.raises(ModelError, match=r"Known are: abdomen, head-neck-ct, colleague, mine\.$"):
        find_model("lungs")


def test_the_catalogue_is_no_model(installation: Path) -> None:
    assert catalogue().entries == ()
    models = installation / "site" / "Resources" / "Models"
    shutil.copyfile(TOP / "Resources" / "Models" / "catalogue.json", models / "catalogue.json")
    assert names(bundled_models()) == ["abdomen", "head-neck-ct"]
    assert [entry.name for entry in catalogue().entries][:2] == ["head-neck-ct", "thorax-abdomen-ct"]


def test_another_library_can_be_named(installation: Path) -> None:
    (installation / "library").rename(installation / "other")
    other = installation / "other"
    assert library_models() == []
    assert names(library_models(other)) == ["colleague.zip", "mine"]
    assert find_model("mine", other) == find_library_model("MINE", other) == other / "mine"
    assert find_library_model("head-neck-ct", other) is None
    with pytest.raises(ModelError, match=r"Known are: abdomen, head-neck-ct\."):
        find_model("mine")
    with pytest.raises(ModelError, match=r"Known are: abdomen, head-neck-ct, colleague, mine\."):
        find_model("yours", other)


@pytest.mark.parametrize(
    "place", ["TransferSegLib/resources", "TransferSegLib/Resources", "Resources"], ids=["pip", "slicer", "source"]
)
def test_each_place_of_bundled_files(installation: Path, place: str) -> None:
    site = installation / "site"
    (site / "Resources").rename(site / "moved")
    (site / "moved").rename(site / place)
    assert find_model() == site / place / "Models" / "head-neck-ct"
    assert bundled_sample() == site / place / "SampleData" / "head-neck-ct"
    assert names(bundled_models()) == ["abdomen", "head-neck-ct"]


def test_nothing_installed(installation: Path) -> None:
    shutil.rmtree(installation / "site" / "Resources")
    shutil.rmtree(installation / "library")
    assert bundled_models() == []
    assert library_models() == []
    with pytest.raises(ModelError, match=r"head-neck-ct.*missing: install TransferSeg again.*Looked in .*resources"):
        find_model()
    with pytest.raises(ModelError, match="No models are installed"):
        find_model("x")
    with pytest.raises(ModelError, match=r"sample scan .* is missing.*Looked in"):
        bundled_sample()


@pytest.mark.parametrize(
    ("platform", "variables", "expected"),
    [
        ("linux", {}, "home/.local/share/transferseg/models"),
        ("linux", {"XDG_DATA_HOME": "data"}, "data/transferseg/models"),
        ("darwin", {}, "home/Library/Application Support/TransferSeg/Models"),
        ("win32", {}, "home/AppData/Local/TransferSeg/Models"),
        ("win32", {"LOCALAPPDATA": "local"}, "local/TransferSeg/Models"),
        ("linux", {"TRANSFERSEG_MODELS": "~/mine"}, "home/mine"),
    ],
)
def test_library_folder_follows_the_platform(
    monkeypatch: pytest.MonkeyPatch, platform: str, variables: dict[str, str], expected: str
) -> None:
    for name in ("TRANSFERSEG_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, "home")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "platform", platform)
    assert library_folder() == Path(expected)


def test_no_home_folder_is_explained(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    for name in ("TRANSFERSEG_MODELS", "XDG_DATA_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    with pytest.raises(ModelError, match="set TRANSFERSEG_MODELS"):
        library_folder()
