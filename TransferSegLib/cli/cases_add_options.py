"""The options of ``transferseg cases add``."""

from __future__ import annotations

import argparse
from pathlib import Path

from TransferSegLib.cli.options import add_overlap_option, add_progress_option

ADD_HELP = "add corrected cases, or new revisions of cases with the same scans"


def add_options(add: argparse.ArgumentParser) -> None:
    """Add the options of the verb."""
    add.add_argument(
        "files",
        nargs="+",
        metavar="FILE",
        help="scan (a file, or a DICOM folder) and corrected label map on its voxel grid. For many: two folders, one "
        "folder, a CSV table, files, or patterns such as 'scans/*.nii.gz' 'labels/*.nii.gz'",
    )
    add.add_argument("--image-pattern", metavar="PATTERN", help="of folders: how images are named, e.g. {case}_ct")
    add.add_argument("--label-pattern", metavar="PATTERN", help="of folders: how label maps are named, e.g. {case}_seg")
    add.add_argument(
        "--reviewed",
        nargs="+",
        action="extend",
        metavar="NAME",
        help="structures that are correct everywhere in this scan, or 'all' in the label map; the model learns "
        "nothing about the others. A reviewed structure without voxels counts as absent.",
    )
    add.add_argument(
        "--structures",
        type=Path,
        metavar="FILE",
        help='what the label values mean: a file with JSON like {"1": "spleen"}, or a dataset.json (default: the names '
        "in a .seg.nrrd file, else the project's values)",
    )
    judged = add.add_mutually_exclusive_group()
    judged.add_argument(
        "--judged",
        type=Path,
        metavar="FILE",
        help="mask of the annotated region (default: the whole scan)",
    )
    judged.add_argument(
        "--judged-slices", metavar="SLICES", help="the annotated region as slices, e.g. z:10-20,25 (they count from 0)"
    )
    add.add_argument("--prediction", type=Path, metavar="FILE", help="label map that was corrected")
    add.add_argument(
        "--prediction-structures",
        type=Path,
        metavar="FILE",
        help="what the prediction's label values mean (default: the names in a .seg.nrrd file, else --structures)",
    )
    add.add_argument("--model", metavar="NAME", help="model that made the prediction: name, folder or .zip")
    add.add_argument("--model-version", metavar="VERSION", help="its version (default: that of the installed model)")
    add.add_argument("--id", metavar="CASE", help="id of a new case (default: case-0001 and so on); no patient's name")
    patient = add.add_mutually_exclusive_group()
    patient.add_argument(
        "--patient", default="", metavar="ID", help="patient's id (-: from standard input); only a pseudonym is stored"
    )
    patient.add_argument(
        "--group", metavar="NAME", help="group of cases that are never split between training and test; stored as it is"
    )
    _add_reading(add)
    add.add_argument("--notes", default="", metavar="TEXT", help="a line that is kept with the revision")
    add_progress_option(add)


def _add_reading(add: argparse.ArgumentParser) -> None:
    add.add_argument("--series", metavar="UID", help="DICOM series to read if a folder holds several")
    add.add_argument(
        "--modality",
        default="",
        metavar="WORD",
        help="modality of the scan, e.g. CT or MR (default: as DICOM states, else judged by the intensities)",
    )
    add.add_argument(
        "--any-modality", action="store_true", help="add the case even if its modality differs from the project's"
    )
    add_overlap_option(add)
