"""A project's cases are of one modality: which one a scan is, and that another one is not mixed in unasked."""

from __future__ import annotations

import SimpleITK as sitk

from TransferSegLib.corrections.revisions import ProjectState
from TransferSegLib.errors import DatasetError, ScanError
from TransferSegLib.images.modality import guess_modality, modality_word, sampled_range
from TransferSegLib.images.notices import modality_of
from TransferSegLib.images.read import read_scan
from TransferSegLib.progress import Task

#: So many scans tell the modality of a project that does not name it: it was made before projects did.
_LOOKED_AT = 3


class AnotherModality(DatasetError):
    """A scan is of another modality (``scan``) than the cases of its project (``project``)."""

    def __init__(self, message: str, scan: str, project: str) -> None:
        """Keep both words, for front ends with words of their own."""
        super().__init__(message)
        self.scan, self.project = scan, project


def scan_modality(scan: sitk.Image, said: str = "") -> str:
    """Return DICOM's word for a scan's modality: as the user or its header says, or else as it looks; '' in doubt."""
    # The image is named by the caller: the view of its voxels does not keep it alive.
    return modality_word(said or modality_of(scan)) or guess_modality(sitk.GetArrayViewFromImage(scan))


def project_modality(state: ProjectState | None, task: Task) -> str:
    """Return the modality of a project's cases: as it says, else as its first scans look; '' when not known.

    Raises Cancelled from the task.
    """
    if state is None:
        return ""
    if state.dataset.modality:
        return modality_word(state.dataset.modality)
    looks = set()
    for revision, reading in task.each(state.current[:_LOOKED_AT]):
        try:
            scan = read_scan(revision.case.image, task=reading)
        except ScanError:
            continue  # ``check`` reports a damaged case, and another one can be added all the same
        looks.add(scan_modality(scan))
    return looks.pop() if len(looks) == 1 else ""


def check_modality(scan: sitk.Image, said: str, known: str, allowed: bool, name: str) -> tuple[str, ...]:
    """Return lines for a person when it cannot be told whether a scan is of the project's modality (``known``).

    ``said`` is what the user calls it, ``allowed`` that any modality may be added, ``name`` what a message calls the
    scan. Raises AnotherModality when it is not.
    """
    own = scan_modality(scan, said)
    if not known or own == known or allowed:
        return ()
    lowest, highest = sampled_range(sitk.GetArrayViewFromImage(scan))
    if not own:
        return (
            f"Whether {name} is {known}, as the project's other cases, cannot be told from its intensities "
            f"({lowest:g} to {highest:g}).",
        )
    if said or modality_of(scan):
        why, advice = f"is {own}" + ("" if said else " by its DICOM header"), ""
    else:
        why = f"looks like {own} (intensities from {lowest:g} to {highest:g})"
        advice = f"If it is {known} all the same, say so with --modality {known}. "
    raise AnotherModality(
        f"{name} {why}, and the project's cases are {known}: it was not added. {advice}Use another project for "
        f"{own}, or mix them with --any-modality.",
        own,
        known,
    )
