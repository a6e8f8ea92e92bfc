"""A process that changes a project until it is killed, and reports each change after it was saved.

    python adding_child.py PROJECT SEED [COUNT]

Every line is a JSON object: the case, its revision, the label value of each plane, and whether it is removed.
"""

from __future__ import annotations

import json
import random
import sys

import numpy as np
import SimpleITK as sitk

from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.revisions import Revision

STRUCTURES = {1: "liver", 2: "spleen", 3: "kidney"}


def volume(voxels_zyx: np.ndarray) -> sitk.Image:
    image = sitk.GetImageFromArray(voxels_zyx)
    image.SetSpacing((1.0, 1.5, 3.0))
    return image


def main(folder: str, seed: int, count: int) -> None:
    project = Project(folder, create=True)
    chance = random.Random(seed)
    scans = 0
    for _ in range(count):
        state = project.state() if scans else None
        action = chance.choice(["new", "new", "again", "remove", "restore"]) if state else "new"
        if action == "remove" and state is not None and state.current:
            report(project.remove_case(chance.choice(state.current).case.id), None)
        elif action == "restore" and state is not None and state.removed:
            report(project.restore_case(chance.choice(state.removed).case.id), None)
        else:
            scans += action == "new"
            scan = seed * 1000 + (scans if action == "new" else chance.randint(1, scans))
            values = [chance.randint(0, 3) for _ in range(5)]
            labels = np.zeros((3, 4, 5), np.uint8)
            labels[:] = values
            voxels_zyx = np.random.default_rng(scan).integers(-1000, 1000, (3, 4, 5)).astype(np.int16)
            added = project.add_case(
                volume(voxels_zyx),
                volume(labels),
                ["liver", "spleen"],
                structures=STRUCTURES,
                prediction=volume(labels),
                notes=f"scan {scan}",
            )
            report(added.revision, values)


def report(revision: Revision, values: list[int] | None) -> None:
    """Print what was saved; ``values`` is None where only the state of a case changed."""
    line = {
        "case": revision.case.id,
        "revision": revision.number,
        "values": values,
        "notes": revision.notes,
        "removed": bool(revision.removed),
    }
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    print("ready", flush=True)
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else 10**9)
