"""The module for scripts and the Python console, behind ``slicer.util.getModuleLogic("TransferSeg")``.

What takes long is done in processes of their own: with ``wait=True`` until it is done (Slicer's window stays alive
meanwhile), with ``wait=False`` as an object that can be followed, waited for and cancelled. Whatever is wrong is a
RuntimeError with a line for a person. Examples, which are tests: docs/slicer-module.md.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from slicer.i18n import tr as _

from TransferSegGui.annotated_region import AnnotatedRegion, slicesText
from TransferSegGui.command_process import CommandProcess, runCommand
from TransferSegGui.correction_process import Correction, CorrectionProcess
from TransferSegGui.job_process import JobProcess
from TransferSegGui.learn_here_process import LearnHereProcess
from TransferSegGui.model_choices import ModelChoice, modelChoices
from TransferSegGui.project_choice import defaultProject, projectFolder
from TransferSegGui.segment_process import SegmentProcess
from TransferSegGui.structure_choice import LEFT_OUT, leftOutStructures
from TransferSegLib.corrections.inputs import JudgedSlices
from TransferSegLib.errors import TransferSegError
from TransferSegLib.finetuning.configuration import FineTuningConfiguration
from TransferSegLib.finetuning.request import DEFAULT_MINUTES, FineTuneRequest
from TransferSegLib.jobs.events import JobState
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.models.combination import is_combination
from TransferSegLib.models.combined_parts import described
from TransferSegLib.models.locate import find_model, library_folder
from TransferSegLib.models.versions.history import history
from TransferSegLib.models.versions.state import current_folder
from TransferSegLib.structure_groups import groups_of_set, named_structures


@dataclass(frozen=True)
class InstalledModel:
    """A model on this computer; ``name`` is what ``segment(model=...)`` takes, ``versions`` those it has (or none).

    A combination of models has none, and no ``spacing_mm`` (None) where its models work at different ones.
    """

    name: str
    version: str
    modality: str
    spacing_mm: float | tuple[float, float, float] | None
    structures: tuple[str, ...]
    versions: tuple[int, ...]
    path: Path


def models() -> list[InstalledModel]:
    """Return the models that can be used: those that came with TransferSeg, then those of the user's library."""
    return [_installed(choice.path) for choice in _asRuntimeError(modelChoices) if not choice.problem]


def segment(
    volumeNode,
    model: str | Path | None = None,
    device: str = "auto",
    structures: Sequence[str] | str | None = None,
    wait: bool = True,
    onProgress: Callable[[float, float | None, str], None] | None = None,
    onEnd: Callable[[SegmentProcess], None] | None = None,
):
    """Return a new segmentation node for a volume or, with ``wait=False``, the run that will make it.

    ``model`` is a model's name, ``name@version`` or path (None: the bundled one), ``device`` auto, cpu, cuda or mps,
    ``structures`` names those wanted, or groups as in ``structureGroups`` (None: all). ``onProgress`` gets the fraction
    done, the seconds left (None: not known yet) and where it is computed; ``onEnd`` gets the run, see
    ``SegmentProcess``.
    """
    run = SegmentProcess(
        volumeNode, model="" if model is None else str(model), device=device, structures=_named(model, structures)
    )
    run.onProgress, run.onEnd = onProgress or run.onProgress, onEnd or run.onEnd
    run.start()
    if not wait:
        return run
    run.wait()
    if run.segmentationNode is None:
        raise RuntimeError(run.error or _("Cancelled."))
    return run.segmentationNode


def structureGroups(model: str | Path | None = None) -> dict[str, tuple[str, ...]]:
    """Return a model's structures by group: organs, vertebrae, ribs, muscles, bones, vessels, heart, brain."""
    return _asRuntimeError(lambda: groups_of_set(described(find_model(model)).label_set))


def panelStructures(parameterNode, model: str | Path | None = None) -> tuple[str, ...] | None:
    """Return the structures of a model that are ticked in the panel, None where all are."""
    if not parameterNode.GetParameter(LEFT_OUT):
        return None
    path = _asRuntimeError(lambda: find_model(model))
    choice = next((each for each in _asRuntimeError(modelChoices) if _isAt(each, path)), None)
    leftOut = frozenset() if choice is None else leftOutStructures(parameterNode, choice.key)
    if not leftOut:
        return None
    names = _asRuntimeError(lambda: described(path)).label_set.names
    chosen = tuple(name for name in names if name not in leftOut)
    if not chosen:
        raise RuntimeError(_("No structure is ticked in the panel: name some with structures=, or 'all'."))
    return chosen if len(chosen) < len(names) else None


def saveCorrection(
    volumeNode,
    segmentationNode,
    reviewed: Sequence[str],
    project: str | Path,
    notes: str = "",
    wait: bool = True,
    onEnd: Callable[[CorrectionProcess], None] | None = None,
    patient: str = "",
):
    """Save a corrected segmentation of a volume as a case, and return what ``cases list --json`` says of it.

    ``reviewed`` names the segments that are right wherever they are in this volume; of the others nothing is learned.
    ``project`` is the folder of corrected cases. Scans with the same ``patient``, any text, are never split between
    training and test; a pseudonym of it is kept (empty: as DICOM says). With ``wait=False`` the process that saves the
    case is returned, see ``CorrectionProcess``; the nodes may change or go away then.
    """
    ids = _segmentIds(segmentationNode, reviewed)
    folder = Path(project).absolute()
    saving = CorrectionProcess(Correction(volumeNode, segmentationNode, ids, folder, notes=notes, patient=patient))
    saving.onEnd = onEnd or saving.onEnd
    saving.start()
    if not wait:
        return saving
    saving.wait()
    if saving.error:
        raise RuntimeError(saving.error)
    return saving.case


def learnHere(
    volumeNode,
    segmentationNode,
    structures: Sequence[str],
    slices: str,
    model: str | Path | None = None,
    device: str = "auto",
    wait: bool = True,
    onProgress: Callable[[float | None, float | None, str], None] | None = None,
    onEnd: Callable[[LearnHereProcess], None] | None = None,
):
    """Redraw segments from their corrected slices ("z:10,20"), and return what changed; no such slice changes.

    ``structures`` names the segments, ``model`` the model whose last layer learns (None: the bundled one); it stays as
    it is. The segmentation is changed unless it was changed meanwhile. With ``wait=False`` the run is returned, see
    ``LearnHereProcess``.
    """
    ids = _segmentIds(segmentationNode, structures)
    judged = _asRuntimeError(lambda: slicesText(JudgedSlices.parse(slices)))
    path = str(_asRuntimeError(lambda: find_model(model)))
    run = LearnHereProcess(volumeNode, segmentationNode, ids, AnnotatedRegion(judged), path, device)
    run.onProgress, run.onEnd = onProgress or run.onProgress, onEnd or run.onEnd
    run.start()
    if not wait:
        return run
    run.wait()
    if run.error:
        raise RuntimeError(run.error)
    return run.result


def fineTune(
    project: str | Path,
    model: str | None = None,
    name: str | None = None,
    minutes: float = DEFAULT_MINUTES,
    device: str = "auto",
    configuration: Mapping[str, Any] | None = None,
    promote: bool = False,
    wait: bool = False,
    onProgress: Callable[[float | None, float | None, str], None] | None = None,
    onPoint: Callable[[str, int | None, float | None, float | None], None] | None = None,
    onEnd: Callable[[JobProcess], None] | None = None,
    **more: Any,
) -> JobProcess:
    """Start making a better model from corrected cases, and return the job; with ``wait=True`` when it is over.

    The job is a process that keeps running when Slicer is closed; ``JobProcess.find(job.id)`` finds it again, and its
    docstring tells what the callbacks get. ``job.result`` holds the verdict. ``project`` is the folder of corrected
    cases, ``model`` the one to start from (None: the bundled one), ``name`` the model in the
    library that gets the new version, ``configuration`` settings by name, ``more`` what else ``FineTuneRequest`` takes.
    The new version is used from then on only if it is better, or with ``promote`` unless it is worse or not usable.
    With ``wait=True`` a job that does not end well is a RuntimeError.
    """
    job = _asRuntimeError(
        lambda: _fineTuneJob(Path(project).absolute(), model, name, minutes, device, configuration, promote, more)
    )
    job.onProgress, job.onPoint, job.onEnd = onProgress or job.onProgress, onPoint or job.onPoint, onEnd or job.onEnd
    job.start()
    if wait:
        job.wait()
        if job.state != JobState.DONE:
            raise RuntimeError(job.error or _("Cancelled."))
    return job


def promote(
    model: str,
    version: int,
    force: bool = False,
    wait: bool = True,
    onEnd: Callable[[CommandProcess], None] | None = None,
) -> CommandProcess:
    """Make a version of a model the one that is used; one that is clearly worse needs ``force``."""
    return _command(["models", "promote", model, str(version), *(["--force"] if force else [])], wait, onEnd)


def rollback(model: str, wait: bool = True, onEnd: Callable[[CommandProcess], None] | None = None) -> CommandProcess:
    """Go back to the version of a model that was used before the present one."""
    return _command(["models", "rollback", model], wait, onEnd)


def _command(args: Sequence[str], wait: bool, onEnd: Callable[[CommandProcess], None] | None) -> CommandProcess:
    """Run a command of the library, which verifies the weights before it changes anything."""
    command = runCommand(args, onEnd or (lambda command: None))
    if wait:
        command.wait()
        if command.error:
            raise RuntimeError(command.error)
    return command


def _installed(path: Path) -> InstalledModel:
    found = find_model(path)
    description = described(found)
    spacings = {part.description.preparation.spacing_mm for part in description.parts}
    versions: tuple[int, ...] = ()
    if path.is_dir() and path.parent == library_folder() and not is_combination(path):
        versions = tuple(version.number for version in history(path.name, path.parent).versions)
    return InstalledModel(
        path.stem if path.is_file() else path.name,
        description.version,
        description.modality,
        spacings.pop() if len(spacings) == 1 else None,
        description.label_set.names,
        versions,
        path,
    )


def _isAt(choice: ModelChoice, path: Path) -> bool:
    """Return whether a choice is the model of a path, which is a version's for a model with versions."""
    return choice.path == path or (choice.path.is_dir() and not choice.problem and current_folder(choice.path) == path)


def _named(model: str | Path | None, structures: Sequence[str] | str | None) -> tuple[str, ...]:
    """Return the names of structures that are given by name or group; none for None: all."""
    if structures is None:
        return ()
    words = [structures] if isinstance(structures, str) else structures
    return _asRuntimeError(lambda: named_structures(described(find_model(model)).label_set, words))


def _segmentIds(segmentationNode, names: Sequence[str]) -> list[str]:
    ids = [segmentationNode.GetSegmentation().GetSegmentIdBySegmentName(name) for name in names]
    missing = [name for name, segmentId in zip(names, ids, strict=True) if not segmentId]
    if missing:
        raise RuntimeError(
            _("'{segmentation}' has no segment '{name}'.").format(
                segmentation=segmentationNode.GetName(), name=missing[0]
            )
        )
    return ids


def panelProject(parameterNode) -> Path:
    """Return the folder of corrected cases that the panel shows, else the usual one."""
    return projectFolder(parameterNode) or Path(defaultProject())


def _fineTuneJob(
    project: Path,
    model: str | None,
    name: str | None,
    minutes: float,
    device: str,
    settings: Mapping[str, Any] | None,
    promote: bool,
    more: Mapping[str, Any],
) -> JobProcess:
    from TransferSegLib.finetuning.plan import check_request  # reads scans: not for the start of Slicer

    configuration = FineTuningConfiguration.from_json(dict(settings or {}))
    request = FineTuneRequest(
        project, model, name, minutes, configuration, device=device, promote=promote, command="Slicer console", **more
    )
    title = _("fine-tune {name} on {project}").format(name=check_request(request), project=project.name)
    return JobProcess.create(JobRequest("finetune", request.to_json(), device, title))


def _asRuntimeError(work: Callable[[], Any]) -> Any:
    """Do something; an error of the library becomes a RuntimeError with its message."""
    try:
        return work()
    except TransferSegError as error:
        raise RuntimeError(str(error)) from error
