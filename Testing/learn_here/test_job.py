"""The job of Learn here, from a front end's copy of a scan to the redrawn label map."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.learn_here.conftest import Sample
from TransferSegLib.corrections.snapshot import DESCRIPTION, Grid, Layer, Snapshot
from TransferSegLib.errors import JobError
from TransferSegLib.inference.kept_features import save_features
from TransferSegLib.jobs.kinds import find_kind
from TransferSegLib.jobs.learn_here_job import LearnHereParameters
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.learn_here.learn import learn_here
from TransferSegLib.progress import CancelToken, Progress


def test_a_copy_becomes_a_redrawn_label_map(sample: Sample, tmp_path: Path) -> None:
    labels, judged = sample.corrected("larynx")
    label_set = sample.model.description.label_set
    grid = Grid(sample.scan.GetSpacing(), sample.scan.GetOrigin(), sample.scan.GetDirection())
    values = tuple((structure.label, structure.label, False) for structure in label_set)
    layer = Layer((0, 0, 0), labels.astype(np.uint8), values)
    snapshot = Snapshot(sitk.GetArrayFromImage(sample.scan), grid, label_set, (layer,))
    (tmp_path / DESCRIPTION).write_text(snapshot.description(), encoding="utf-8")
    for name, array in snapshot.arrays():
        (tmp_path / name).write_bytes(array.tobytes())
    features, output = tmp_path / "scan.features", tmp_path / "redrawn.nrrd"
    save_features(sample.kept, features)
    slices = "z:" + ",".join(map(str, np.flatnonzero(judged.all(axis=(1, 2)))))
    asked = LearnHereParameters(str(tmp_path), str(output), ("larynx",), slices, features=str(features))
    reports: list[Progress] = []
    kind = find_kind("learn-here")
    request = JobRequest("learn-here", asked.to_json(), "cpu")
    assert LearnHereParameters.from_json(request.parameters) == asked
    result = kind.run(request, tmp_path, reports.append, CancelToken())
    assert result["features_kept"] and result["structures"][0]["changed_voxels"] > 0
    assert reports[-1].fraction > 0.99
    image = sample.image(labels)
    expected = learn_here(
        sample.scan, image, sample.image(judged), sample.model, ["larynx"], features=features, device="cpu"
    )
    written = sitk.GetArrayFromImage(sitk.ReadImage(str(output)))
    assert np.array_equal(written, sitk.GetArrayFromImage(expected.label_map))
    nothing = JobRequest("learn-here", replace(asked, slices="").to_json(), "cpu")
    with pytest.raises(JobError, match="which part"):
        kind.run(nothing, tmp_path, reports.append, CancelToken())
