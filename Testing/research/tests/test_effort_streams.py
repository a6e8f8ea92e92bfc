"""Streams of corrected scans on balls in noise: real segmenting, real projects, real fine-tuning, in seconds."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path
from typing import Any

import pytest
import SimpleITK as sitk

from Testing.finetuning import projects
from Testing.finetuning.conftest import make_parent
from Testing.research.benchmarks import effort_streams
from Testing.research.benchmarks.effort_streams import BASE, INTERPOLATE, Stream, run_stream, steps_between
from Testing.research.common.annotator import Person
from Testing.research.common.cases import read_lines
from Testing.research.common.effort_report import draw_report, report_table, streams
from TransferSegLib.corrections.project import Project
from TransferSegLib.datasets.dataset import Case, Dataset
from TransferSegLib.structures import LabelSet

IDS = tuple(f"ball_{number}" for number in range(5))


@pytest.fixture
def options(tmp_path: Path) -> Namespace:
    """Return what the command line gives, for a tiny base that does not find what is bright."""
    parent = projects.seeing(make_parent(LabelSet((projects.BRIGHT, projects.DARK))))
    library = projects.put_parent(tmp_path / "library", parent)
    return Namespace(
        output=tmp_path / "lines.jsonl",
        base=str(library / "tiny"),
        held_out="study",
        device="cpu",
        minutes=0.0,
        steps=[60, 0],
        every=[2, 4],
        precision=0.3,
        target=0.95,
        tolerance_voxels=1.0,
        configuration=projects.KNOBS,
    )


@pytest.fixture
def stream(tmp_path: Path) -> Stream:
    """Return five scans of balls, of which the bright one is drawn."""
    labels = LabelSet((projects.BRIGHT,))
    cases = []
    for number, id in enumerate(IDS):
        image, truth = projects.ball_scan(number)
        drawn = sitk.GetImageFromArray((truth == 1).astype("uint8"))
        files = [tmp_path / f"{id}_{kind}.nii.gz" for kind in ("ct", "label")]
        for volume, file in zip((image, drawn), files, strict=True):
            sitk.WriteImage(volume, str(file))
        cases.append(Case(id, *files, ("bright",)))
    dataset = Dataset(tmp_path, "balls", "", "", "CT", labels, tuple(cases))
    return Stream("balls", 1, dataset, IDS, tmp_path / "stream", Person(0.3, tolerance_voxels=1.0))


def lines_of(options: Namespace, mode: str) -> list[dict[str, Any]]:
    return [line for line in read_lines(options.output) if line["mode"] == mode]


def test_a_stream_from_nothing_to_a_model_that_has_learned(options: Namespace, stream: Stream, tmp_path: Path) -> None:
    every = steps_between(options, stream)
    found = lines_of(options, INTERPOLATE)
    assert [line["scan"] for line in found] == [1, 2, 3, 4, 5] * 2 and {line["every"] for line in found} == {2, 4}
    sums = {k: sum(line["added_path_m"] for line in found if line["every"] == k) for k in (2, 4)}
    assert sums[every] == min(sums.values()) > 0
    assert all(line["after"]["bright"] >= 0.95 and line["model"] is None for line in found)
    run_stream(options, stream, BASE, every)
    run_stream(options, stream, "tune 2", every)
    base, tuned = lines_of(options, BASE), lines_of(options, "tune 2")
    assert [line["model"] for line in tuned] == ["tiny 1", "tiny 1", "stream 1", "stream 1", "stream 2"]
    assert [line["added_path_m"] for line in tuned[:2]] == [line["added_path_m"] for line in base[:2]]
    assert all(line["before"]["bright"] < 0.5 and line["interpolated"] for line in base)
    late = [sum(line["added_path_m"] for line in one[2:]) for one in (base, tuned)]
    assert late[1] < 0.5 * late[0], "the model has learned what is bright"
    # Every scan is a case with the prediction that it started from, and the effort of that.
    project = Project(stream.folder / f"tune-2-k{every}-0min" / "project").state()
    assert [revision.case.id for revision in project.current] == list(IDS)
    efforts = [revision.effort for revision in project.current]
    assert [round(one.added_path_mm / 1000, 4) for one in efforts if one] == [line["kept_path_m"] for line in tuned]
    # What is there is not repeated.
    before = options.output.read_bytes()
    run_stream(options, stream, "tune 2", every)
    assert options.output.read_bytes() == before
    printed = report_table(read_lines(options.output))
    assert [row.split()[:2] for row in printed.splitlines()[2:]] == [
        ["balls", "interpolate"], ["balls", "base"], ["balls", "tune"]
    ]  # fmt: skip
    pytest.importorskip("matplotlib")
    draw_report(read_lines(options.output), tmp_path / "curves.png")
    assert sitk.ReadImage(str(tmp_path / "curves.png")).GetWidth() > 100


def test_an_interrupted_stream_continues(options: Namespace, stream: Stream, monkeypatch: pytest.MonkeyPatch) -> None:
    tuned = []

    def noted(request: Any) -> Any:
        tuned.append(len(Project(request.project).state().current))
        raise effort_streams.TrainingError("refused")

    monkeypatch.setattr(effort_streams, "finetune", noted)
    add = effort_streams.add_line

    def interrupted(file: Path, line: dict[str, Any]) -> None:
        if line["scan"] == 3:
            raise KeyboardInterrupt  # the case is in the project, its line is not
        add(file, line)

    monkeypatch.setattr(effort_streams, "add_line", interrupted)
    with pytest.raises(KeyboardInterrupt):
        run_stream(options, stream, "tune 2", 2)
    monkeypatch.setattr(effort_streams, "add_line", add)
    run_stream(options, stream, "tune 2", 2)
    assert tuned == [2, 4], "each fine-tuning was made once"
    lines = lines_of(options, "tune 2")
    assert [line["scan"] for line in lines] == [1, 2, 3, 4, 5]
    assert {line["model"] for line in lines} == {"tiny 1"}, "a refused fine-tuning leaves the model as it is"
    assert len(Project(stream.folder / "tune-2-k2-0min" / "project").state().current) == 5


def test_the_report_takes_the_best_step_of_interpolating() -> None:
    def line(mode: str, scan: int, every: int, path_m: float) -> dict[str, Any]:
        return {
            "task": "t", "mode": mode, "seed": 1, "every": every, "minutes": 2.0 if "tune" in mode else 0.0,
            "steps": None, "target": 0.95, "scan": scan, "added_path_m": path_m,
            "model": f"stream {scan}" if "tune" in mode else None, "slices": 4,
            "before": {"s": 0.5}, "after": {"s": 0.96},
        }  # fmt: skip

    lines = [line("interpolate", n, k, m) for k, m in ((2, 3.0), (3, 1.0)) for n in (1, 2)]
    lines += [line("tune 1", 1, 3, 2.0), line("tune 1", 2, 3, 0.4)]
    found = streams(lines)
    assert {key: list(scans) for key, scans in found.items()} == {
        ("t", "interpolate"): [1, 2], ("t", "tune 1, 2 min"): [1, 2]
    }  # fmt: skip
    rows = [row.split() for row in report_table(lines).splitlines()[2:]]
    assert rows[0] == ["t", "interpolate", "3", "2", "0", "1.00", "1.00", "1.00", "4.0", "0.50", "2/2"]
    assert rows[1][-8:] == ["2", "2", "2.00", "1.20", "1.20", "4.0", "0.50", "2/2"]
