"""Where a model of nnU-Net lies in a folder or a zip file, and what of it is imported under which names."""

from __future__ import annotations

import json
import os
import stat
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from nnunet_folders import DATASET, INNER, OLD, checkpoint_of, plans_with, write_results, zipped

from Testing.nnunet_fixtures import model_in
from TransferSegLib.cli.main import main
from TransferSegLib.errors import ModelError
from TransferSegLib.models.importers.nnunet.source import NnUNetSource, find_source
from TransferSegLib.models.library import import_model
from TransferSegLib.models.store import load_description

FINAL, BEST = "checkpoint_final.pth", "checkpoint_best.pth"


@pytest.fixture
def results(tmp_path: Path) -> Path:
    """Return a results folder with one model in it; the inner folder is ``results / DATA / INNER``."""
    write_results(tmp_path / "results" / "Dataset321_Tiny_Liver" / INNER)
    return tmp_path / "results"


def found(path: Path) -> NnUNetSource:
    source = find_source(path)
    assert source is not None
    return source


def inner(results: Path) -> Path:
    return results / "Dataset321_Tiny_Liver" / INNER


def test_the_model_is_found_from_every_folder_and_in_a_zip_file(results: Path, tmp_path: Path) -> None:
    _, expected = model_in(inner(results))
    for path in (
        inner(results).parent,
        results,
        zipped(results, tmp_path / "exported.zip"),
        zipped(inner(results), tmp_path / "inner_only.zip"),
    ):
        source = found(path)
        assert source.usual_folds == ("0",)
        assert source.name == "tiny-liver"
        description, state = model_in(path)
        assert description.label_set.names == ("liver", "left kidney")
        assert all(torch.equal(state[name], expected[name]) for name in expected)


def test_plans_under_their_other_name(results: Path) -> None:
    (inner(results) / "plans.json").rename(inner(results) / "nnUNetPlans.json")
    assert found(results).plans.endswith("nnUNetPlans.json")
    assert model_in(results)[0].label_set.names == ("liver", "left kidney")


def test_the_names_of_folders_do_not_matter(results: Path) -> None:
    inner(results).rename(results / "Dataset321_Tiny_Liver" / "renamed by someone")
    assert model_in(results)[0].network.classes == 3


def test_the_configuration_is_the_one_in_the_checkpoint(tmp_path: Path) -> None:
    plans = plans_with()
    plans["configurations"] = {"2d": OLD | {"patch_size": [16, 16]}, "mine": plans["configurations"]["3d_fullres"]}
    folder = write_results(tmp_path / INNER, plans, init_args={"configuration": "mine"})
    description, _ = model_in(folder)
    assert description.provenance.configuration["trained_by"] == {"trainer": "nnUNetTrainer", "configuration": "mine"}
    folder = write_results(tmp_path / "other" / INNER, plans, init_args={"configuration": "2d"})
    with pytest.raises(ModelError, match="2D model of nnU-Net"):
        model_in(folder)


def test_the_final_checkpoint_is_taken_before_the_best(results: Path) -> None:
    fold = inner(results) / "fold_0"
    (fold / BEST).write_bytes(b"worse")
    assert found(results).folds["0"].endswith(FINAL)
    (fold / FINAL).unlink()
    assert found(results).folds["0"].endswith(BEST)
    (fold / BEST).rename(fold / "checkpoint_latest.pth")
    with pytest.raises(ModelError, match=r"no fold_\*/checkpoint_final.pth: train it first"):
        find_source(results)


def test_folds(tmp_path: Path) -> None:
    several = write_results(tmp_path / "several", folds=("3", "0", "all"))
    source = found(several)
    assert source.usual_folds == ("0", "3") and set(source.folds) == {"0", "3", "all"}
    description, state = model_in(several)
    assert description.folds == 2
    only, alone = model_in(several, "all")
    assert only.folds == 1
    layer = "decoder.seg_layers.1.weight"
    expected = checkpoint_of(plans_with(), DATASET, seed=2)["network_weights"][layer]
    assert torch.equal(alone[layer], expected) and not torch.equal(state[f"0.{layer}"], expected)
    with pytest.raises(ModelError, match="has no fold 1, only 0, 3, all"):
        model_in(several, "1")
    assert found(write_results(tmp_path / "all", folds=("all",))).usual_folds == ("all",)


def test_a_fold_that_is_still_trained_is_not_averaged_with_finished_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = write_results(tmp_path / "some", folds=("0", "1"))
    (folder / "fold_1" / FINAL).rename(folder / "fold_1" / BEST)
    assert found(folder).usual_folds == ("0",)
    assert model_in(folder)[0].folds == 1 and model_in(folder, "1")[0].folds == 1
    library = ("--library", str(tmp_path / "library"))
    assert main(["models", "import", str(folder), "--name", "first", *library]) == 0
    assert "Not trained to the end" not in capsys.readouterr().out
    (folder / "fold_0" / FINAL).rename(folder / "fold_0" / BEST)
    assert main(["models", "import", str(folder), "--name", "second", *library]) == 0
    assert "Not trained to the end, the best checkpoint so far is used: fold 0, 1." in capsys.readouterr().out


@pytest.mark.parametrize("missing", ["plans.json", "dataset.json"])
def test_checkpoints_without_their_description_are_told(missing: str, results: Path, tmp_path: Path) -> None:
    (inner(results) / missing).unlink()
    for path in (results, inner(results) / "fold_0", zipped(results, tmp_path / "part.zip")):
        with pytest.raises(ModelError, match=r"without the plans.json and dataset.json that describe it"):
            import_model(path, tmp_path / "library")


def test_names_of_structures_have_one_line(tmp_path: Path) -> None:
    dataset = DATASET | {"labels": {"background": 0, "my\nliver ": 1, "kidney_left": 2}}
    description, _ = model_in(write_results(tmp_path / INNER, dataset=dataset))
    assert description.label_set.names == ("my liver", "left kidney") and "\n" not in description.summary


def test_names_that_differ_by_case_only_are_refused_with_advice(tmp_path: Path) -> None:
    dataset = DATASET | {"labels": {"background": 0, "Liver": 1, "liver": 2}}
    with pytest.raises(ModelError, match=r"share the name liver\. Rename them in its dataset\.json\."):
        model_in(write_results(tmp_path / INNER, dataset=dataset))


@pytest.mark.parametrize(("words", "line"), [((), "as they are stored"), (("--axes", "RAS"), "their axes run RAS")])
def test_show_tells_how_a_model_takes_axes(
    words: tuple[str, ...], line: str, results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    library = ("--library", str(tmp_path / "library"))
    assert main(["models", "import", str(results), "--name", "mine", *words, *library]) == 0
    capsys.readouterr()
    assert main(["models", "show", "mine", *library]) == 0
    assert line in capsys.readouterr().out


def test_several_models_in_one_place_are_named(results: Path, tmp_path: Path) -> None:
    write_results(results / "Dataset321_Tiny_Liver" / "nnUNetTrainer__nnUNetPlans__3d_lowres")
    for path in (results, zipped(results, tmp_path / "two.zip")):
        with pytest.raises(
            ModelError, match=r"several models of nnU-Net .*3d_fullres.*3d_lowres.*give the folder of one"
        ):
            find_source(path)


def test_what_is_no_model_of_nnunet_is_none(tmp_path: Path) -> None:
    (tmp_path / "plans.json").write_text("{}")
    assert find_source(tmp_path) is None, "there is no dataset.json"
    assert find_source(zipped(tmp_path, tmp_path / "x.zip")) is None


@pytest.mark.parametrize("share", [0.3, 0.7, 0.999])
def test_a_part_of_a_zip_file_is_refused(share: float, results: Path, tmp_path: Path) -> None:
    content = zipped(results, tmp_path / "whole.zip").read_bytes()
    part = tmp_path / "part.zip"
    part.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ModelError, match="damaged"):
        import_model(part, tmp_path / "library")
    assert not (tmp_path / "library").exists()


def test_a_damaged_entry_is_refused(results: Path, tmp_path: Path) -> None:
    path = zipped(results, tmp_path / "model.zip")
    with zipfile.ZipFile(path) as archive:
        info = next(info for info in archive.infolist() if info.filename.endswith("plans.json"))
    content = bytearray(path.read_bytes())
    start = info.header_offset + 30 + len(info.filename)
    content[start + 20 : start + 40] = bytes(20)
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"plans.json cannot be read"):
        model_in(path)


@pytest.mark.parametrize("name", ["../plans.json", "/etc/plans.json", "C:/plans.json", "a/../../plans.json"])
def test_names_that_lead_out_of_a_zip_file_are_refused(name: str, results: Path, tmp_path: Path) -> None:
    path = zipped(results, tmp_path / "model.zip")
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(name, "{}")
    with pytest.raises(ModelError, match="leads out of its folder"):
        find_source(path)


def test_links_in_a_zip_file_are_refused(results: Path, tmp_path: Path) -> None:
    path = zipped(results, tmp_path / "model.zip")
    link = zipfile.ZipInfo(f"Dataset321_Tiny_Liver/{INNER}/fold_1/{FINAL}")
    link.create_system, link.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr(link, "/etc/passwd")
    with pytest.raises(ModelError, match="is a link or a device"):
        find_source(path)


def test_a_zip_file_that_would_fill_the_memory_is_refused(results: Path, tmp_path: Path) -> None:
    (inner(results) / "fold_0" / FINAL).write_bytes(bytes(3 * 10**8))
    path = zipped(results, tmp_path / "bomb.zip")
    assert path.stat().st_size < 10**6
    with pytest.raises(ModelError, match="would unpack to 300,000,000 bytes"):
        model_in(path)


def test_json_that_is_none_is_refused(results: Path) -> None:
    for name in ("plans.json", "dataset.json"):
        before = (inner(results) / name).read_text()
        for text in ("", "{", '{"a": NaN}', "[" * 100_000):
            (inner(results) / name).write_text(text)
            with pytest.raises(ModelError) as caught:
                model_in(results)
            assert name in str(caught.value) and "\n" not in str(caught.value)
        (inner(results) / name).write_text(before)


@pytest.mark.skipif(os.name == "nt", reason="links need rights on Windows")
def test_links_to_folders_are_not_followed(results: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "to_results").symlink_to(results)
    assert find_source(tmp_path / "elsewhere") is None


@pytest.mark.parametrize(
    ("given", "name"),
    [
        ("Dataset321_Tiny_Liver", "tiny-liver"),
        ("Dataset007_Ähre", "hre"),
        ("", "nnunet-model"),
        ("Dataset1_../../x", "x"),
        (7, "7"),
    ],
)
def test_a_model_is_called_as_its_data_set(given: Any, name: str, tmp_path: Path) -> None:
    folder = write_results(tmp_path / "model", plans_with(dataset_name=given))
    assert found(folder).name == name


@pytest.mark.parametrize(
    ("labels", "names"),
    [
        ({"background": 0, "kidney_left": 1, "LeftFemur": 2}, ("left kidney", "left femur")),
        ({"background": 0, "my structure": 2, "a_b": 1}, ("a b", "my structure")),
    ],
)
def test_structures_get_readable_names_in_the_order_of_their_numbers(
    labels: dict[str, int], names: tuple[str, ...], tmp_path: Path
) -> None:
    description, _ = model_in(write_results(tmp_path / "model", dataset=DATASET | {"labels": labels}))
    assert description.label_set.names == names
    assert description.label_set.label_values == (0, 1, 2)


def test_structures_that_become_the_same_are_refused(tmp_path: Path) -> None:
    labels = {"background": 0, "kidney_left": 1, "left kidney": 2}
    with pytest.raises(ModelError, match="Two structures share the name left kidney"):
        model_in(write_results(tmp_path / "model", dataset=DATASET | {"labels": labels}))


def test_the_command_imports_a_folder_and_refuses_in_one_line(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["models", "import", str(results), "--library", str(tmp_path / "library")]
    assert main(args) == 0
    assert "'tiny-liver' is in your library: 2 structures" in capsys.readouterr().out
    plans = json.loads((inner(results) / "plans.json").read_text())
    plans["configurations"]["3d_fullres"]["previous_stage"] = "3d_lowres"
    (inner(results) / "plans.json").write_text(json.dumps(plans))
    assert main([*args, "--replace"]) == 2
    shown = capsys.readouterr().err.strip().splitlines()
    assert len(shown) == 1 and "cascade" in shown[0]


def test_the_modality_can_be_told(results: Path, tmp_path: Path) -> None:
    dataset = json.loads((inner(results) / "dataset.json").read_text())
    (inner(results) / "dataset.json").write_text(json.dumps(dataset | {"channel_names": {"0": "noNorm"}}))
    args = ["models", "import", str(results), "--library", str(tmp_path / "library"), "--replace"]
    for words, modality in (([], "noNorm"), (["--modality", "MR"], "MR")):
        assert main([*args, *words]) == 0
        description = load_description(tmp_path / "library" / "tiny-liver")
        assert description.modality == modality and f"({modality})" in description.summary


def test_the_axes_of_the_training_files_can_be_told(
    results: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    args = ["models", "import", str(results), "--library", str(tmp_path / "library"), "--replace"]
    assert main(args) == 0
    assert "Assumed: your scans are stored as" in capsys.readouterr().out
    assert main([*args, "--axes", "ras"]) == 0
    assert "Scans are turned so that their axes run RAS." in capsys.readouterr().out
    assert load_description(tmp_path / "library" / "tiny-liver").preparation.axes == "RAS"
    for wrong in ("RA", "RAX", "RRS", "RASL"):
        assert main([*args, "--axes", wrong]) == 2
        assert "letters such as" in capsys.readouterr().err
    (inner(results) / "plans.json").write_text(json.dumps(plans_with(transpose_forward=[0, 2, 1])))
    assert main([*args, "--axes", "LPS"]) == 0
    assert load_description(tmp_path / "library" / "tiny-liver").preparation.axes == "PLS"
    (inner(results) / "plans.json").write_text(json.dumps(plans_with(image_reader_writer="NibabelIOWithReorient")))
    assert main([*args, "--axes", "LPS"]) == 2
    assert "it takes RAS axes: leave out --axes" in capsys.readouterr().err
