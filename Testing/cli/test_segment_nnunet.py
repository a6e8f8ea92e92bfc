"""``transferseg segment`` with models of nnU-Net: its options, and scans of several images."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.nnunet_fixtures import OLD, REGIONS, NnUNetFixture, imported
from TransferSegLib.cli.main import main
from TransferSegLib.errors import JobError
from TransferSegLib.inference.options import PredictionOptions
from TransferSegLib.inference.segment import segment
from TransferSegLib.inference.segment_file import ScanToSegment
from TransferSegLib.jobs.segment_job import SegmentParameters
from TransferSegLib.models.store import save_model

TWO, ONE = NnUNetFixture(REGIONS), NnUNetFixture(OLD)
T1, T2 = TWO.images


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder, saved = tmp_path_factory.mktemp("models"), {}
    for fixture in (TWO, ONE):
        description, state = imported(fixture.name)
        saved[fixture.name] = save_model(folder / fixture.name, replace(description, name=fixture.name), state)
    return saved


def labels(file: Path) -> np.ndarray:
    return sitk.GetArrayFromImage(sitk.ReadImage(str(file)))


def run(*words: str | Path) -> int:
    return main(["segment", *map(str, words), "--device", "cpu"])


def test_options_reach_the_network(models: dict[str, Path], tmp_path: Path) -> None:
    exact, plain = tmp_path / "exact.nii.gz", tmp_path / "plain.nii.gz"
    words = (ONE.images[0], "--model", models[OLD])
    assert run(*words, "--output", exact, "--exact", "--mirror", "--step", "0.5") == 0
    assert np.count_nonzero(labels(exact) != ONE.labels) <= 5
    assert run(*words, "--output", plain, "--step", "1") == 0
    assert np.mean(labels(plain) != ONE.labels) > 0.01


def test_a_file_for_each_image(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, picture = tmp_path / "out.nii.gz", tmp_path / "out.png"
    words = ("--model", models[REGIONS], "--exact", "--mirror", "--step", "0.8")
    images = ("--channel", f"T2={T2}", "--channel", f"t1={T1}")
    assert run(*images, *words, "--output", output, "--preview", picture, "--progress", "json") == 0
    assert np.count_nonzero(labels(output) != TWO.labels) <= 5 and picture.exists()
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    result = next(line["result"] for line in lines if "result" in line)
    assert result["images"] == {"T2": str(T2), "t1": str(T1)}
    # What lies in the inner regions belongs to the outer ones, too.
    voxel_ml = float(np.prod(sitk.ReadImage(str(T1)).GetSpacing())) / 1000
    expected = {
        name: np.isin(labels(output), values).sum() * voxel_ml
        for name, values in (("whole", (1, 2, 3)), ("core", (2, 3)), ("enh", (3,)))
    }
    assert result["volumes_ml"] == {name: pytest.approx(ml, abs=1e-3) for name, ml in expected.items()}

    assert run(*images, *words, "--output", tmp_path / "core.nii.gz", "--structures", "core") == 0
    np.testing.assert_array_equal(labels(tmp_path / "core.nii.gz"), np.isin(labels(output), (2, 3)) * 2)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ([T1], "takes 2 images of each scan: give them with --channel T1=FILE --channel T2=FILE"),
        ([], "no scan to segment"),
        (["--channel", f"T1={T1}"], "also needs T2: it takes T1 and T2 of each scan"),
        (["--channel", f"T1={T1}", "--channel", f"FLAIR={T2}"], "has no image 'FLAIR': it takes T1 and T2"),
        (["--channel", f"T1={T1}", "--channel", f"t1={T2}"], "the image t1 is given twice"),
        (["--channel", str(T1)], "give the name of an image and its file"),
        ([T1, "--channel", f"T1={T1}"], "not both"),
        (["--channel", f"T1={T1}", "--channel", f"T2={T2}", "--background"], "in the background yet"),
        (["--channel", f"T1={T1}", "--channel", f"T2={T2}", "--step", "2"], "step of 2 is not possible"),
    ],
)
def test_images_that_do_not_fit_the_model(
    models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str | Path], told: str
) -> None:
    output = tmp_path / "out.nii.gz"
    assert run(*words, "--model", models[REGIONS], "--output", output) == 2
    captured = capsys.readouterr().err
    assert told in captured and len(captured.strip().splitlines()) == 1 and not output.exists()


def test_no_image_is_overwritten(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = tmp_path / "t2.nii.gz"
    copy.write_bytes(T2.read_bytes())
    words = ("--channel", f"T1={T1}", "--channel", f"T2={copy}", "--model", models[REGIONS])
    assert run(*words, "--output", copy) == 2
    assert "would be overwritten" in capsys.readouterr().err and copy.read_bytes() == T2.read_bytes()


def test_images_of_other_grids(models: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    image = sitk.ReadImage(str(T2))
    smaller, moved = image[1:], sitk.Image(image)
    moved.SetOrigin([place + 5 for place in image.GetOrigin()])
    for name, other, told in (("small", smaller, "the sizes differ"), ("moved", moved, "same grid")):
        file = tmp_path / f"{name}.nii.gz"
        sitk.WriteImage(other, str(file))
        words = ("--channel", f"T1={T1}", "--channel", f"T2={file}", "--model", models[REGIONS])
        assert run(*words, "--output", tmp_path / "out.nii.gz") == 2
        printed = capsys.readouterr().err
        assert "The images T1 and T2 of the scan do not have the same grid" in printed and told in printed


def test_models_of_one_image_know_no_names(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("--channel", f"MR={ONE.images[0]}", "--model", models[OLD], "--output", "x.nii.gz") == 2
    assert "takes one image of each scan" in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--exact"], ["--mirror"], ["--step", "0.5"]])
def test_the_paper_s_network_has_no_such_options(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: list[str]
) -> None:
    assert run(ONE.images[0], "--output", tmp_path / "out.nii.gz", *option) == 2
    assert "are for models that are computed in overlapping windows" in capsys.readouterr().err


def test_in_python_by_name(models: dict[str, Path]) -> None:
    options = PredictionOptions(exact=True, mirror=True, step=0.8)
    found = segment({"T1": T1, "T2": T2}, models[REGIONS], device="cpu", options=options)
    assert np.count_nonzero(sitk.GetArrayFromImage(found.label_map) != TWO.labels) <= 5


def test_jobs_keep_the_options(tmp_path: Path) -> None:
    options = PredictionOptions(exact=True, step=0.8)
    parameters = SegmentParameters((ScanToSegment(T1, tmp_path / "out.nii.gz"),), options=options)
    assert SegmentParameters.from_json(json.loads(json.dumps(parameters.to_json()))).options == options
    entry = parameters.to_json()
    del entry["options"]
    assert SegmentParameters.from_json(entry).options == PredictionOptions()
    with pytest.raises(JobError, match="several images"):
        SegmentParameters((ScanToSegment(T1, tmp_path / "out.nii.gz", None, {"T1": T1, "T2": T2}),))


def test_the_names_are_shown(models: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", str(models[REGIONS])]) == 0
    assert "takes 2 images: T1, T2" in capsys.readouterr().out
