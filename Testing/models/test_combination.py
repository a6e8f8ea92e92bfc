"""Combinations: several models under one name, for segmenting only; the real TotalSegmentator's labels at 1.5 mm."""

from __future__ import annotations

import gc
import json
import shutil
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from libraries import contents
from misbehaving_server import Request, Server, answers, well

from Testing.totalsegmentator_fixtures import PARTS, TOTAL, TotalSegmentatorFixture, scan, with_combination
from TransferSegLib.cli.main import main
from TransferSegLib.errors import Cancelled, ModelError, TransferSegError
from TransferSegLib.inference.combined import CombinedSegmenter, open_segmenter
from TransferSegLib.inference.devices import choose_device
from TransferSegLib.inference.options import PredictionOptions
from TransferSegLib.inference.segment import Segmenter, segment
from TransferSegLib.inference.segment_file import ScanToSegment
from TransferSegLib.jobs.fetch_job import FETCH, FetchParameters
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.segment_job import SEGMENT, SegmentParameters
from TransferSegLib.models.combination import COMBINATION_FILE, is_combination, load_combination
from TransferSegLib.models.combined_fetch import combination_entry, fetch_combination
from TransferSegLib.models.combined_parts import parts_of
from TransferSegLib.models.library import fetch_model, import_model, remove_model
from TransferSegLib.models.locate import catalogue, find_model, library_models
from TransferSegLib.models.store import load_description, load_model
from TransferSegLib.progress import CancelToken, Progress

NAME = "totalsegmentator-total"
FIXTURE = TotalSegmentatorFixture(TOTAL)


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve each model's file by its name in the address."""
    answer = Request.do_GET

    def by_name(request: Request) -> None:
        request.served.content = next(file.read_bytes() for file in FIXTURE.models if request.path.endswith(file.name))
        answer(request)

    monkeypatch.setattr(Request, "do_GET", by_name)
    with Server(b"") as running:
        yield running


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library with the five parts and their combination."""
    return with_combination(tmp_path_factory.mktemp("library"), NAME, FIXTURE.models)


def test_labels_are_totalsegmentators(library: Path) -> None:
    """Five networks, one after another, merged by name; a later one overwrites what an earlier one has found."""
    segmenter = CombinedSegmenter(library / NAME, choose_device("cpu", torch.float32), None, PredictionOptions(True))
    segmentation = segmenter.segment(scan())
    labels = sitk.GetArrayFromImage(segmentation.label_map)
    found = set(np.unique(labels))
    assert any(label <= 24 for label in found - {0}) and any(label >= 92 for label in found), "of first and last part"
    assert np.array_equal(labels, FIXTURE.labels)
    assert segmentation.label_set.structures[116].name == "costal cartilages"


def test_one_call_segments_with_it(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(library))
    options = PredictionOptions(step=1.0)
    segmentation = segment(scan()[:20, :20, :20], NAME, ["left rib 1"], device="cpu", options=options)
    assert segmentation.label_set.names == ("left rib 1",) and segmentation.label_set.label_values == (0, 92)


def test_only_the_models_that_are_needed_run(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    whole = Segmenter.__init__

    def noted(self: Segmenter, model: object, *more: object) -> None:
        ran.append(model.description.name)  # type: ignore[attr-defined]
        whole(self, model, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(Segmenter, "__init__", noted)
    image = scan()[:20, :20, :20]
    segmenter = CombinedSegmenter(library / NAME, "cpu", None, PredictionOptions(step=1.0))
    segmentation = segmenter.segment(image, ["sternum", "left rib 1", "brain"])
    assert ran == ["totalsegmentator-total-muscles", "totalsegmentator-total-ribs"]
    assert segmentation.label_set.names == ("brain", "left rib 1", "sternum")
    assert set(np.unique(sitk.GetArrayFromImage(segmentation.label_map))) <= {0, 90, 92, 116}
    with pytest.raises(TransferSegError, match="no structure 'tail'"):
        segmenter.segment(image, ["tail"])
    cancelled = CancelToken()
    cancelled.cancel()
    with pytest.raises(Cancelled):
        segmenter.segment(image, cancel=cancelled)


def test_command_segments_with_it(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(library))
    sitk.WriteImage(scan()[:20, :20, :20], str(tmp_path / "scan.nii.gz"))
    given = ["segment", str(tmp_path / "scan.nii.gz"), "--model", NAME, "--output", str(tmp_path / "labels.nii.gz")]
    assert main([*given, "--structures", "sternum", "--step", "1", "--device", "cpu"]) == 0
    assert (tmp_path / "labels.nii.gz").exists()


def test_what_needs_one_model_names_the_parts(
    library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(library))
    project = str(tmp_path / "project")
    (tmp_path / "project").mkdir()
    given = [str(tmp_path / "scan.nii.gz")] * 2
    sitk.WriteImage(scan()[:20, :20, :20], given[0])
    commands = (
        ["models", "export", NAME, str(tmp_path / "model.zip")],
        ["models", "export", NAME, str(tmp_path / "results"), "--format", "nnunet"],
        *(["models", verb, NAME] for verb in ("history", "rollback", "compare")),
        ["models", "promote", NAME, "1"],
        ["finetune", "--project", project, "--model", NAME],
        ["finetune", "--project", project, "--model", NAME, "--name", "better"],
        ["finetune", "--project", project, "--model", NAME, "--background"],
        ["evaluate", "--data", project, "--model", NAME],
        ["cases", "add", *given, "--project", project, "--reviewed", "liver", "--model", NAME],
    )
    for command in commands:
        assert main(command) == 2
        error = capsys.readouterr().err
        assert "is a combination of 5 models" in error and "totalsegmentator-total-ribs" in error, command
    for read in (load_model, load_description):
        with pytest.raises(ModelError, match="can only segment: take the one of them that you need"):
            read(find_model(NAME, library))
    assert main(["models", "fetch", NAME, "--sha256", 64 * "a"]) == 2
    assert "use --sha256 and --spacing-mm with each of totalsegmentator-total-organs" in capsys.readouterr().err
    assert main(["finetune", "--project", project, "--model", "totalsegmentator-total-ribs", "--name", NAME]) == 2
    assert "is a combination of models in your library: give the new model another" in capsys.readouterr().err


def test_list_and_show(library: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "list", "--library", str(library)]) == 0
    (line,) = [line for line in capsys.readouterr().out.splitlines() if line.split()[0] == NAME]
    assert "117" in line and "1.5 mm" in line and line.endswith("library: 5 models")
    assert main(["models", "list", "--json", "--library", str(library)]) == 0
    (entry,) = [entry for entry in json.loads(capsys.readouterr().out) if entry["name"] == NAME]
    assert entry["where"] == "library" and entry["parts"] == [f"{NAME}-{part}" for part in PARTS]
    assert main(["models", "show", NAME, "--library", str(library)]) == 0
    shown = capsys.readouterr().out
    assert "5 models one after another" in shown and "totalsegmentator-total-cardiac" in shown
    assert main(["models", "show", NAME, "--json", "--library", str(library)]) == 0
    assert json.loads(capsys.readouterr().out)["parts"][0] == "totalsegmentator-total-organs"


def test_a_missing_part_is_named(library: Path, tmp_path: Path) -> None:
    copy = shutil.copytree(library, tmp_path / "copy")
    remove_model("totalsegmentator-total-ribs", copy)
    with pytest.raises(
        ModelError,
        match=r"A part of 'totalsegmentator-total' cannot be used.*total-ribs' is not on this.*models fetch totals",
    ):
        parts_of(copy / NAME)
    remove_model(NAME, copy)
    assert not (copy / NAME).exists() and len(library_models(copy)) == 4, "its models stay"


def test_structures_that_a_part_has_learned_come_last(library: Path, tmp_path: Path) -> None:
    """Their labels move no other's."""
    copy = shutil.copytree(library, tmp_path / "copy")
    file = copy / NAME / COMBINATION_FILE
    content = json.loads(file.read_text(encoding="utf-8"))
    content["structures"].remove("liver")
    file.write_text(json.dumps(content), encoding="utf-8")
    label_set, parts = parts_of(copy / NAME)
    assert len(parts) == 5 and label_set.names[-1] == "liver" and len(label_set) == 117
    assert label_set.find("stomach").label == 5 and label_set.find("liver").label == 117  # type: ignore[union-attr]


def test_fetch_gets_the_parts_and_joins_them(tmp_path: Path, server: Server) -> None:
    entry, folder = combination_entry(NAME.upper()), tmp_path / "library"
    assert entry is not None
    with pytest.raises(ModelError, match="is a combination; fetch its parts"):
        fetch_model(NAME, folder)
    server.behaviours = [well, well, answers(404)]
    with pytest.raises(ModelError, match="404"):
        fetch_combination(entry, folder, session=server.session())
    assert len(library_models(folder)) == 2 and not (folder / NAME).exists()
    fetched = fetch_combination(entry, folder, session=server.session())
    assert [part.was_there for part in fetched.parts] == [True, True, False, False, False]
    assert is_combination(fetched.path) and load_combination(fetched.path) == fetched.combination
    assert isinstance(open_segmenter(fetched.path, "cpu"), CombinedSegmenter)
    before = contents(folder)
    again = fetch_combination(entry, folder, session=server.session())
    assert again.was_there and contents(folder) == before
    with pytest.raises(ModelError, match="is a combination of models in the library"):
        import_model(FIXTURE.models[0], folder, NAME, replace=True)


def test_jobs(library: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The jobs that the panel starts segment with a combination, and find all of it here."""
    monkeypatch.setenv("TRANSFERSEG_MODELS", str(library))
    sitk.WriteImage(scan()[:20, :20, :20], str(tmp_path / "scan.nii.gz"))
    each = ScanToSegment(tmp_path / "scan.nii.gz", tmp_path / "labels.nii.gz")
    parameters = SegmentParameters((each,), NAME, ("sternum", "spleen"), options=PredictionOptions(step=1.0))
    request = JobRequest("segment", parameters.to_json(), "cpu", "")
    shown: list[Progress] = []
    (entry,) = SEGMENT.run(request, tmp_path, shown.append, CancelToken())["scans"]
    assert set(entry["volumes_ml"]) == {"sternum", "spleen"} and each.output.exists()
    fractions = [progress.fraction for progress in shown]
    assert fractions == sorted(fractions) and any("odel 2 of 2" in f"{each.stage} {each.message}" for each in shown)
    asked = JobRequest("fetch-model", FetchParameters(NAME).to_json(), "cpu", "")
    fetched = FETCH.run(asked, tmp_path, shown.append, CancelToken())
    assert fetched == {"model": NAME, "path": str(library / NAME), "was_there": True}


def test_a_fetch_job_that_is_cancelled_goes_on_where_it_was(
    tmp_path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The panel's: cancelled during the second model, it keeps the first; started again, it fetches four."""
    monkeypatch.setattr("TransferSegLib.models.fetch.new_session", server.session)
    request = JobRequest("fetch-model", FetchParameters(NAME, tmp_path / "library").to_json(), "cpu", "")
    cancel, shown = CancelToken(), []

    def progress(reached: Progress) -> None:
        shown.append(reached.fraction)
        if "odel 2 of 5" in reached.stage:
            cancel.cancel()

    with pytest.raises(Cancelled):
        FETCH.run(request, tmp_path, progress, cancel)
    assert [path.name for path in library_models(tmp_path / "library")] == [f"{NAME}-organs"]
    assert shown == sorted(shown) and 0.1 < shown[-1] < 0.5
    asked = len(server.requests)
    result = FETCH.run(request, tmp_path, lambda reached: None, CancelToken())
    assert result["model"] == NAME and not result["was_there"] and len(parts_of(Path(result["path"]))[1]) == 5
    assert len(server.requests) - asked == 4


def test_one_network_is_in_memory_at_a_time(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when the second model is cancelled, all that there was of the first one is gone."""
    loaded: list[weakref.ref[torch.nn.Module]] = []
    whole, cancelled = Segmenter.__init__, CancelToken()

    def noted(self: Segmenter, *given: object) -> None:
        gc.collect()
        assert not any(reference() for reference in loaded), "a network is still in memory"
        whole(self, *given)  # type: ignore[arg-type]
        loaded.extend(map(weakref.ref, self._networks))
        if len(loaded) == 2:
            cancelled.cancel()

    monkeypatch.setattr(Segmenter, "__init__", noted)
    segmenter = CombinedSegmenter(library / NAME, "cpu", None, PredictionOptions(step=1.0))
    with pytest.raises(Cancelled):
        segmenter.segment(scan()[:20, :20, :20], cancel=cancelled)
    assert len(loaded) == 2


def test_damaged_files(library: Path, tmp_path: Path) -> None:
    good = json.loads((library / NAME / COMBINATION_FILE).read_text(encoding="utf-8"))
    for change, words in (
        ({"format": "x"}, "'format' is not"),
        ({"format_version": 2}, "newer TransferSeg"),
        ({"parts": []}, "at least one"),
        ({"parts": ["a", "a"]}, "different names"),
        ({"structures": "liver"}, "must be a list"),
        ({"license": None}, "must be a text"),
    ):
        (tmp_path / COMBINATION_FILE).write_text(json.dumps(good | change), encoding="utf-8")
        with pytest.raises(ModelError, match=words):
            load_combination(tmp_path)
    (tmp_path / COMBINATION_FILE).write_text("{", encoding="utf-8")
    with pytest.raises(ModelError, match=r"combination\.json cannot be used"):
        load_combination(tmp_path)


def test_combinations_of_the_catalogue() -> None:
    known = {entry.name: entry for entry in catalogue().combinations}
    assert set(known) == {NAME, "totalsegmentator-total-mr", "totalsegmentator-headneck-muscles"}
    assert known[NAME].parts == tuple(f"{NAME}-{part}" for part in PARTS)
    for entry in known.values():
        parts = [catalogue().find(part) for part in entry.parts]
        assert entry.structures == tuple(name for part in parts if part is not None for name in part.structures)
        assert not entry.is_bundled and entry.download is None
