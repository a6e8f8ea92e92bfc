"""Cases unlike the others: what was planted is found, and the real dataset gives no false alarm."""

from __future__ import annotations

import csv
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.datasets.outliers import StructureMeasures, measure_structures, outliers
from TransferSegLib.datasets.validate import check_dataset
from TransferSegLib.structures import Structure

BALL = Structure("ball", 3, (255, 0, 0))
USUAL = {f"case-{number}": {"ball": StructureMeasures(10.0 + number, 50.0 + number, 0.0)} for number in range(8)}


def whats(case: StructureMeasures, is_ct: bool = True) -> list[str]:
    found = outliers({**USUAL, "odd": {"ball": case}}, is_ct)
    assert all(one.case == "odd" for one in found)
    return [one.what for one in found]


def test_a_structure_is_measured() -> None:
    labels_zyx = np.zeros((6, 8, 10), np.uint8)
    labels_zyx[1:3, 1:4, 1:5] = 3  # 24 voxels
    labels_zyx[5, 7, 9] = 3  # and one apart
    labels_zyx[5, 0, 0] = 7
    intensities_zyx = np.where(labels_zyx == 3, 40, -1000).astype(np.int16)
    intensities_zyx[5, 7, 9] = 90
    image, labels = sitk.GetImageFromArray(intensities_zyx), sitk.GetImageFromArray(labels_zyx)
    for one in (image, labels):
        one.SetSpacing((1.0, 2.0, 5.0))
    other = Structure("absent", 4, (0, 255, 0))
    assert measure_structures(image, labels, [BALL, other]) == {
        "ball": StructureMeasures(pytest.approx(0.25), pytest.approx(42.0), pytest.approx(0.04))
    }


def test_what_is_unusual() -> None:
    # The median of 10, 11, ... 17 and the odd one is 14 or 13.
    assert whats(StructureMeasures(1.4, 53.0, 0.0)) == ["'ball' has 1.4 ml, usual here is 13 ml"]
    assert whats(StructureMeasures(140.0, 53.0, 0.0)) == ["'ball' has 140 ml, usual here is 14 ml"]
    assert whats(StructureMeasures(13.0, -700.0, 0.0)) == ["'ball' has a mean of -700 HU, usual here is 53 HU"]
    assert whats(StructureMeasures(13.0, -700.0, 0.0), is_ct=False) == []
    assert whats(StructureMeasures(13.0, 53.0, 0.3)) == ["'ball' is in pieces: 30 % of it lies apart"]
    for usual in (StructureMeasures(9.0, 100.0, 0.05), StructureMeasures(20.0, 20.0, 0.09)):
        assert whats(usual) == []
    few = dict(list(USUAL.items())[:4])
    assert outliers({**few, "odd": {"ball": StructureMeasures(1000.0, 900.0, 0.9)}}, True) == []


def test_the_check_names_the_case(builder) -> None:
    def case(name: str, *slices: int):
        return builder.case(name, *slices, annotated=("right kidney",))

    usual = [case(f"usual-{number}", 1, 1, 1) for number in range(7)]
    assert not [one for one in check_dataset(builder.dataset(*usual)) if one.what.startswith("look at it")]
    few = case("few", 1, 1, 1)
    labels = sitk.ReadImage(str(few.labels))
    voxels = sitk.GetArrayFromImage(labels)
    voxels[:] = 0
    voxels[0, 0, 0] = 1
    small = sitk.GetImageFromArray(voxels)
    small.CopyInformation(labels)
    sitk.WriteImage(small, str(few.labels))
    found = [one for one in check_dataset(builder.dataset(*usual, few)) if one.what.startswith("look at it")]
    assert {(one.case, one.severity) for one in found} == {("few", "warning")}
    assert "'right kidney' has 0.0045 ml, usual here is 0.27 ml" in found[0].what


DATA = Path(os.environ.get("TRANSFERSEG_DATA", "")) / "head_neck_ct" / "cases"


@pytest.mark.skipif(not DATA.is_dir(), reason="needs TRANSFERSEG_DATA")
def test_planted_mistakes_in_real_cases() -> None:
    """Few of 24 real cases are called unusual; a larynx that is called a mandible is, and so is a cut-off scan."""
    names = {1: "brainstem", 2: "spinal cord", 3: "right parotid", 4: "left parotid", 6: "larynx", 7: "mandible"}
    structures = [Structure(name, label, (0, 0, 0)) for label, name in names.items()]
    with (DATA.parent / "cases.csv").open(newline="") as stream:
        ids = [next(iter(row.values())) for row in csv.DictReader(stream)][:24]
    measured = {}
    for id in ids:
        image, labels = (sitk.ReadImage(str(DATA / f"{id}_{what}.nii.gz")) for what in ("ct", "label"))
        measured[id] = measure_structures(image, labels, structures)
    unusual = {one.case for one in outliers(measured, True)}
    assert len(unusual) <= 2
    ids = [id for id in ids if id not in unusual]
    exchanged = next(id for id in ids if {"larynx", "mandible"} <= measured[id].keys())
    wrong = dict(measured[exchanged])
    wrong["larynx"], wrong["mandible"] = wrong["mandible"], wrong["larynx"]
    found = outliers({**measured, exchanged: wrong}, True)
    assert {one.case for one in found} - unusual == {exchanged} and any("HU" in one.what for one in found)
    cut = {name: replace(one, volume_ml=one.volume_ml / 12) for name, one in measured[ids[0]].items()}
    assert ids[0] in {one.case for one in outliers({**measured, ids[0]: cut}, True)}
