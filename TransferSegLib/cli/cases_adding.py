"""``transferseg cases add``: a corrected case, or all of a folder or a table, into a project."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from TransferSegLib.cli.patterns import expanded, is_pattern
from TransferSegLib.cli.reporting import JsonLines, task_shown
from TransferSegLib.corrections.adding import AddedCase, CorrectedCase
from TransferSegLib.corrections.pairs_to_add import FilesToAdd, PairToAdd, pairs_to_add
from TransferSegLib.corrections.project import Project
from TransferSegLib.corrections.revisions import ModelReference
from TransferSegLib.datasets.pairing import told_apart
from TransferSegLib.errors import Cancelled, DatasetError, TransferSegError
from TransferSegLib.wording import table


def run_add(arguments: argparse.Namespace) -> int:
    """Add a case and say what became of it."""
    from TransferSegLib.corrections.case_modality import AnotherModality
    from TransferSegLib.corrections.effort_curve import metres

    many = files_to_add(arguments.files)
    if many is not None:
        return _add_many(arguments, many)
    if len(arguments.files) == 1:
        raise DatasetError(f"Which label map belongs to {arguments.files[0]}? Give it as the second file.")
    if not arguments.reviewed:
        raise DatasetError("Say with --reviewed which structures are correct in the whole scan, or --reviewed all.")
    if arguments.image_pattern or arguments.label_pattern:
        raise DatasetError("--image-pattern and --label-pattern are for folders.")
    if arguments.progress == "json":
        lines = JsonLines()
        try:
            lines.result(_add(arguments, lines).to_json())
        except AnotherModality as error:
            lines.another_modality(error.scan, error.project)
            raise
        return 0
    added = _add(arguments)
    for note in added.notes:
        print(note)
    revision = added.revision
    if revision.effort is not None:
        print(f"{metres(revision.effort.added_path_mm)} of contour were drawn anew or moved.")
    print(f"{revision.case.id}, revision {revision.number}, is saved in {arguments.project.resolve()}")
    return 0


def files_to_add(words: list[str]) -> FilesToAdd | None:
    """Return the many cases that the words of a command line stand for, None for a single case."""
    paths = [Path(word) for word in words]
    if len(words) == 1 and not is_pattern(words[0]):
        is_many = paths[0].is_dir() or paths[0].suffix.lower() == ".csv"
        return FilesToAdd(paths[0]) if is_many else None
    if len(words) == 2 and any(map(is_pattern, words)):
        images, labels = (tuple(expanded(word)) if is_pattern(word) else Path(word) for word in words)
        return FilesToAdd(images, labels)
    if len(words) == 2:
        return FilesToAdd(paths[0], paths[1]) if paths[1].is_dir() else None
    files = [path for word in words for path in expanded(word)]
    images_of, labels_of = told_apart(files)
    return FilesToAdd(tuple(images_of), tuple(labels_of))


def _add_many(arguments: argparse.Namespace, files: FilesToAdd) -> int:
    """Add all pairs; 2 when one of them could not be added."""
    for option in ("judged", "judged_slices", "prediction", "prediction_structures", "id", "patient", "series"):
        if getattr(arguments, option):
            raise DatasetError(f"--{option.replace('_', '-')} is for one case: leave it out, or use a CSV table.")
    pairs, problems = pairs_to_add(files, arguments.image_pattern, arguments.label_pattern)
    if pairs and not arguments.reviewed and not any(pair.reviewed for pair in pairs):
        raise DatasetError(
            "Say with --reviewed which structures are correct in the whole scans, or --reviewed all (in a table: in "
            "its column 'reviewed')."
        )
    model = _model(arguments.model, arguments.model_version)
    project = Project(arguments.project, create=True)
    lines = JsonLines() if arguments.progress == "json" else None
    rows = [(problem.name, "failed", problem.reason) for problem in problems]
    if lines is not None:
        for problem in problems:
            lines.error(f"{problem.name}: {problem.reason}")
    with task_shown(lines=lines) as task:
        for pair, part in task.each(pairs):
            part.check()
            try:
                added = project.add(_case_of(pair, arguments, model), part)
            except Cancelled:
                raise
            except (TransferSegError, OSError, MemoryError) as error:
                reason = " ".join(str(error).split()) or "not enough memory"
                rows.append((pair.image.name, "failed", reason))
                if lines is not None:
                    lines.error(f"{pair.image}: {reason}")
                continue
            if lines is not None:
                lines.result(added.to_json())
            what = (
                "unchanged" if added.unchanged else f"revision {added.revision.number}" if added.replaced else "added"
            )
            rows.append((pair.image.name, what, " ".join((f"{added.revision.case.id}.", *added.notes))))
    failed = sum(row[1] == "failed" for row in rows)
    if lines is None:
        print(table(("image", "", "case, or why not"), rows))
        print(f"{len(rows) - failed} of {len(rows)} are in {project.folder}")
    return 2 if failed else 0


def _case_of(pair: PairToAdd, arguments: argparse.Namespace, model: ModelReference | None) -> CorrectedCase:
    """Return a pair as a case, with what the table says of it before what the options say of all."""
    reviewed = pair.reviewed or arguments.reviewed
    if not reviewed:
        raise DatasetError("Say with --reviewed, or in the column 'reviewed', which structures are correct.")
    return CorrectedCase(
        image=pair.image,
        label_map=pair.labels,
        reviewed="all" if list(reviewed) == ["all"] else reviewed,
        structures=arguments.structures,
        prediction=pair.prediction,
        model=model,
        case_id=pair.id or None,
        group=pair.group or arguments.group,
        patient=pair.patient,
        notes=pair.notes or arguments.notes,
        modality=arguments.modality,
        any_modality=arguments.any_modality,
        overlap_priority=tuple(arguments.overlap_priority),
        unless_same=True,
    )


def _add(arguments: argparse.Namespace, lines: JsonLines | None = None) -> AddedCase:
    """Add a case, with text for a person, or with JSON ``lines`` for a program."""
    from TransferSegLib.corrections.inputs import JudgedSlices

    slices = arguments.judged_slices
    image, labels = arguments.files
    case = CorrectedCase(
        image=Path(image),
        label_map=Path(labels),
        reviewed="all" if arguments.reviewed == ["all"] else arguments.reviewed,
        structures=arguments.structures,
        judged=arguments.judged if slices is None else JudgedSlices.parse(slices),
        prediction=arguments.prediction,
        prediction_structures=arguments.prediction_structures,
        model=_model(arguments.model, arguments.model_version),
        case_id=arguments.id,
        group=arguments.group,
        patient=sys.stdin.readline().strip() if arguments.patient == "-" else arguments.patient,
        series=arguments.series,
        notes=arguments.notes,
        modality=arguments.modality,
        any_modality=arguments.any_modality,
        overlap_priority=tuple(arguments.overlap_priority),
    )
    with task_shown(lines=lines) as task:
        return Project(arguments.project, create=True).add(case, task)


def _model(name: str | None, version: str | None) -> ModelReference | None:
    """Return the model named on the command line, with the version of the installed one when none is given."""
    from TransferSegLib.corrections.revisions import ModelReference
    from TransferSegLib.errors import DatasetError, ModelError
    from TransferSegLib.models.locate import find_model
    from TransferSegLib.models.store import load_description
    from TransferSegLib.models.versions.state import version_name

    if name is None:
        if version is not None:
            raise DatasetError("--model-version says nothing without --model.")
        return None
    try:
        path = find_model(name)
        description = load_description(path)
    except ModelError:
        if version is None:
            raise
        return ModelReference(name, version)
    return ModelReference(description.name, version or version_name(path, description.version))
