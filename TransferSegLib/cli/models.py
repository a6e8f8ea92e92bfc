"""``transferseg models``: the bundled models, those of your library, and those that can be fetched."""

from __future__ import annotations

import argparse
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.cli.model_listing import (
    combination_text,
    entry_text,
    known_catalogue,
    listed,
    others_text,
    spacing_words,
)
from TransferSegLib.cli.model_versions import add_verbs, library_of, record_lines, run_remove_version
from TransferSegLib.cli.options import add_json_option, add_verb, print_json
from TransferSegLib.cli.reporting import interruptible, progress_shown
from TransferSegLib.errors import ModelError, TransferSegError
from TransferSegLib.output_checks import check_output_folder
from TransferSegLib.progress import Task
from TransferSegLib.wording import local_time, table

if TYPE_CHECKING:
    from TransferSegLib.models.incoming import KerasOptions
    from TransferSegLib.models.library import Added


def add_parser(subparsers: Any) -> None:
    """Add the verb and its own verbs."""
    parser = subparsers.add_parser("models", help="list, show, fetch, import, export, compare and remove models")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)

    listed = _verb(verbs, "list", run_list, "list the models on this computer; with --all also those you can fetch")
    listed.add_argument("--all", action="store_true", help="also list the models of the catalogue that are not here")
    add_json_option(listed)

    show = _verb(verbs, "show", run_show, "show what a model segments and where it comes from")
    show.add_argument("model", nargs="?", help="model name, NAME@3, folder or .zip (default: the bundled model)")
    add_json_option(show)

    fetch = _verb(verbs, "fetch", run_fetch, "fetch a model of the catalogue into your library")
    fetch.add_argument("model", help="a name that 'transferseg models list --all' shows as 'to fetch'")
    fetch.add_argument("--spacing-mm", type=float, metavar="MM", help="another spacing than the inferred one")
    fetch.add_argument(
        "--sha256",
        metavar="HEX",
        help="refuse the file unless it has this SHA-256, e.g. the one that was printed on another computer",
    )
    _add_replace(fetch)

    imported = _verb(verbs, "import", run_import, "add a model from a file to your library")
    imported.add_argument(
        "file",
        type=Path,
        help="exported .zip, model folder, .h5 file of a Keras network, or results of nnU-Net v2 (folder or .zip)",
    )
    imported.add_argument("--name", help="another name for the model")
    imported.add_argument(
        "--modality", help="CT, MR ..., where the file does not state it (default: CT; nnU-Net: by the channel's name)"
    )
    _add_replace(imported)
    keras = imported.add_argument_group("Keras files", "what a .h5 file does not state, unless it is the published one")
    keras.add_argument(
        "--structures", nargs="+", metavar="NAME", help="structures in the order of the channels, without background"
    )
    keras.add_argument("--background", choices=("first", "last"), help="the background's channel (default: last)")
    keras.add_argument("--spacing-mm", type=float, metavar="MM", help="spacing it was trained at (default: 1)")
    nnunet = imported.add_argument_group("nnU-Net", "for results of nnU-Net v2")
    nnunet.add_argument("--fold", metavar="N", help="import only this fold (default: all of them, averaged)")
    nnunet.add_argument(
        "--axes",
        metavar="LETTERS",
        help="directions of the axes as stored in its training files, such as RAS (default: not known)",
    )

    export = _verb(verbs, "export", run_export, "write a model as one .zip file, or as a folder for nnU-Net v2")
    export.add_argument("model", help="model name or folder; NAME@3 is version 3")
    export.add_argument("file", type=Path, help="the .zip file to write; for nnU-Net, its folder of results")
    export.add_argument(
        "--format",
        choices=("zip", "nnunet"),
        default="zip",
        help="nnunet: as nnU-Net v2 itself writes a model, for nnUNetv2_predict_from_modelfolder (default: zip)",
    )
    export.add_argument(
        "--dataset-id",
        type=int,
        metavar="N",
        help="nnU-Net's number of the data set (default: the first free one from 900)",
    )
    export.add_argument("--replace", action="store_true", help="overwrite a file or an earlier export of that name")

    remove = _verb(verbs, "remove", run_remove, "remove a model from your library")
    remove.add_argument("model", help="model name; NAME@3 is version 3 only")
    remove.add_argument("--yes", action="store_true", help="do not ask")
    remove.add_argument(
        "--force", action="store_true", help="also remove a version that is current, or the parent of others"
    )

    add_verbs(lambda name, run, text: _verb(verbs, name, run, text))


def run_list(arguments: argparse.Namespace) -> int:
    """Print a line per model; one that cannot be read is listed with the reason. JSON has all of the catalogue."""
    models = listed(library_of(arguments))
    if arguments.json:
        print_json([model.to_json() for model in models])
        return 0
    shown = [model for model in models if arguments.all or model.path is not None]
    header = ("model", "version", "modality", "structures", "spacing", "size", "where")
    print(table(header, [model.row() for model in shown]) if shown else "There are no models on this computer.")
    if more := others_text([model for model in models if model not in shown]):
        print(more)
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print a model's description for a person, or what the catalogue says of one that is not here yet."""
    from TransferSegLib.models.combination import is_combination, load_combination
    from TransferSegLib.models.locate import find_model
    from TransferSegLib.models.store import load_model
    from TransferSegLib.models.versions.record import load_record

    try:
        path = find_model(arguments.model, library_of(arguments))
    except ModelError:
        entry = known_catalogue().find(arguments.model or "")
        if entry is None or entry.is_bundled:
            raise
        if arguments.json:
            print_json(entry.to_json())
        else:
            print(entry_text(entry))
        return 0
    if is_combination(path):
        if arguments.json:
            print_json(load_combination(path).to_json() | {"path": str(path)})
        else:
            print(combination_text(path))
        return 0
    model = load_model(path).description  # the weights too: a damaged model is not shown as if it were whole
    if arguments.json:
        record = load_record(path)
        recorded = {} if record is None else {"record": record.to_json()}
        print_json(model.to_json() | recorded | {"path": str(path)})
        return 0
    dice = model.metrics.get("validation", {}).get("dice", {})
    rows = []
    for structure in model.label_set:
        codes = [code[0] for code in (structure.terminology, structure.modifier) if code is not None]
        code = " + ".join(codes) or "-"
        score = "-" if dice.get(structure.name) is None else f"{dice[structure.name]:.3f}"
        rows.append((structure.name, str(structure.label), code, score))
    print(f"{model.name}, version {model.version}: {model.summary}")
    spacing = spacing_words(model.preparation.spacing_mm, model.spacing_inferred)
    print(f"{model.modality}, works at {spacing}, network {model.backbone.summary}, licence {model.license}")
    if model.preparation.image_names:
        print(f"takes {len(model.preparation.image_names)} images: {', '.join(model.preparation.image_names)}")
    if model.folds > 1:
        print(f"the mean of {model.folds} networks, each trained on other cases")
    axes = model.preparation.axes
    print(
        "takes the axes of scans as they are stored" if axes.islower() else f"turns scans so that their axes run {axes}"
    )
    print(table(("structure", "label", "SNOMED CT", "validation Dice"), rows))
    print("\n".join([*record_lines(path), f"trained on: {model.training_data}"]))
    print(
        f"made by: {model.provenance.command} ({model.provenance.code_version}, {local_time(model.provenance.created)})"
    )
    print(f"cite: {model.citation}\nin: {path}")
    return 0


def _check_can_grow(library: Path) -> None:
    """Raise ModelError, before anything takes long, when no model can be written into a library."""
    from TransferSegLib.models.locate import check_library

    check_library(library)
    check_output_folder(library, ModelError)


def run_fetch(arguments: argparse.Namespace) -> int:
    """Fetch a model, or the models of a combination, and add it to the library."""
    from TransferSegLib.models.combined_fetch import combination_entry, fetch_combination
    from TransferSegLib.models.library import fetch_model

    library = library_of(arguments)
    _check_can_grow(library)
    entry = combination_entry(arguments.model)
    if entry is not None and (arguments.sha256 is not None or arguments.spacing_mm is not None):
        raise ModelError(
            f"'{entry.name}' is a combination of several files: use --sha256 and --spacing-mm with each of "
            f"{', '.join(entry.parts)}."
        )
    with progress_shown() as progress, interruptible() as cancel:
        if entry is not None:
            fetched = fetch_combination(entry, library, arguments.replace, progress, cancel)
        else:
            spacing_mm, sha256 = arguments.spacing_mm, arguments.sha256
            added = fetch_model(
                arguments.model, library, arguments.replace, progress, cancel, spacing_mm=spacing_mm, sha256=sha256
            )
    if entry is None:
        _report_fetched(added, arguments)
        return 0
    for part in fetched.parts:
        _report_fetched(part, arguments)
    print(f"'{entry.name}' is in your library: {len(entry.structures)} structures, {len(entry.parts)} models")
    use = entry.name if arguments.library is None else str(fetched.path)
    print(f"use it with: transferseg segment SCAN --output FILE --model {shlex.quote(use)}")
    return 0


def _report_fetched(added: Added, arguments: argparse.Namespace) -> None:
    """Print where a model lies now, and the checksum of a file that was seen for the first time."""
    if added.was_there:
        print(f"'{added.description.name}' is in your library already, and whole: {added.path}")
        return
    if added.recorded_sha256 is not None:
        name = shlex.quote(added.description.name)
        print(
            f"Its makers publish no checksum: this file was trusted as the first one seen. Its SHA-256 is recorded in "
            f"your library, which refuses another file from now on:\n{added.recorded_sha256}\n"
            f"On another computer: transferseg models fetch {name} --sha256 {added.recorded_sha256}"
        )
    _report(added, arguments)


def run_import(arguments: argparse.Namespace) -> int:
    """Add a model from a file to the library."""
    from TransferSegLib.models.incoming import KerasOptions
    from TransferSegLib.models.library import import_model

    options = KerasOptions(
        structures=None if arguments.structures is None else tuple(arguments.structures),
        background=arguments.background,
        spacing_mm=arguments.spacing_mm,
        modality=arguments.modality,
        fold=arguments.fold,
        axes=arguments.axes,
    )
    _check_can_grow(library_of(arguments))
    with interruptible() as cancel:
        added = import_model(
            arguments.file, library_of(arguments), arguments.name, options, arguments.replace, cancel=cancel
        )
    for line in _recognised(added, arguments.file, options):
        print(line)
    _report(added, arguments)
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Write a model as one file."""
    from TransferSegLib.models.archive import export_model
    from TransferSegLib.models.locate import find_model

    path = find_model(arguments.model, library_of(arguments))
    if arguments.format == "nnunet":
        return _export_nnunet(path, arguments)
    if arguments.dataset_id is not None:
        raise ModelError("--dataset-id is for --format nnunet.")
    left_out: list[str] = []
    with interruptible() as cancel:
        written = export_model(path, arguments.file, arguments.replace, left_out.append, cancel)
    print(f"written to {written}")
    for line in left_out:
        print(f"left out: {line}", file=sys.stderr)
    return 0


def _export_nnunet(path: Path, arguments: argparse.Namespace) -> int:
    """Write a model for nnU-Net."""
    from TransferSegLib.models.exporters.nnunet.export import export_nnunet

    with progress_shown() as progress, interruptible() as cancel:
        task = Task("Exporting", progress, cancel)
        exported = export_nnunet(path, arguments.file, arguments.replace, arguments.dataset_id, task)
    print(f"written to {exported.folder}")
    print(f"use it with: {exported.command}")
    for line in exported.notes:
        print(line)
    return 0


def run_remove(arguments: argparse.Namespace) -> int:
    """Remove a model from the library, once the user has said so twice."""
    from TransferSegLib.models.library import remove_model
    from TransferSegLib.models.locate import find_library_model, find_version
    from TransferSegLib.models.versions.state import split_version

    library = library_of(arguments)
    path = find_library_model(arguments.model, library)
    version = split_version(arguments.model)
    if path is None and version is not None:
        if not arguments.yes:
            _confirm(arguments.model, find_version(arguments.model, library) or library)
        return run_remove_version(arguments, *version)
    if path is not None and not arguments.yes:
        _confirm(arguments.model, path)
    print(f"removed: {remove_model(arguments.model, library)}")
    return 0


def _recognised(added: Added, file: Path, options: KerasOptions) -> list[str]:
    """Return in lines what a file was taken for; nothing for a model that describes itself."""
    if added.entry is not None:
        return [f"{file} is the published file of '{added.entry.name}'."]
    if added.claimed is not None and added.kind == "nnunet":
        return [
            f"{file} has the name of '{added.claimed.name}' and is imported as that model. The name proves nothing: "
            "its makers publish no checksum.",
            *_of_nnunet(added),
        ]
    if added.claimed is not None:
        return [
            f"{file} says that it was made from the published file of '{added.claimed.name}'; only that file itself "
            "can be verified."
        ]
    if added.kind == "nnunet":
        return _of_nnunet(added)
    if added.kind != "keras":
        return []
    how = "imported as the options say" if options.said else "imported as a CT network that works at 1 mm"
    lines = [f"{file} is no file of the catalogue: {how}."]
    if added.description.provenance.configuration.get("structure_names_assumed"):
        lines.append(
            "The file does not name its structures, they are assumed: give them with --structures if they are others."
        )
    return lines


def _of_nnunet(added: Added) -> list[str]:
    """Return in lines what to know of a model of nnU-Net."""
    imported = added.description.provenance.configuration["imported_from"]
    folds = [file["fold"] for file in imported["checkpoints"]]
    lines = [f"A model of nnU-Net v2, fold {folds[0]}."]
    if len(folds) > 1:
        lines = [f"A model of nnU-Net v2; the results of its {len(folds)} folds are averaged (--fold N: one of them)."]
    if unfinished := [file["fold"] for file in imported["checkpoints"] if file.get("unfinished")]:
        lines.append(f"Not trained to the end, the best checkpoint so far is used: fold {', '.join(unfinished)}.")
    axes = added.description.preparation.axes
    if axes.islower():
        lines.append(
            "nnU-Net ignores how scans are oriented. Assumed: your scans are stored as the files that the model was "
            "trained on. If you know in which directions their axes ran, import it with --axes (such as --axes RAS), "
            "and scans are turned."
        )
    else:
        lines.append(f"Scans are turned so that their axes run {axes}.")
    return lines


def _report(added: Added, arguments: argparse.Namespace) -> None:
    model = added.description
    spacing = spacing_words(model.preparation.spacing_mm, model.spacing_inferred)
    print(f"'{model.name}' is in your library: {len(model.label_set)} structures, works at {spacing}, in {added.path}")
    use = model.name if arguments.library is None else str(added.path)
    print(f"use it with: transferseg segment SCAN --output FILE --model {shlex.quote(use)}")
    print(f"licence: {model.license}\ncite: {model.citation}")


def _confirm(name: str, path: Path) -> None:
    """Ask whether a model is to be removed; raises TransferSegError unless the user types its name."""
    if not sys.stdin.isatty():
        raise TransferSegError(f"Removing {path} cannot be undone: say --yes to do it.")
    print(f"This removes {path} and all that lies in it, and cannot be undone.")
    try:
        typed = input(f"Type {name} to go on: ")
    except EOFError:
        typed = ""
    if typed.strip() != name:
        raise TransferSegError("Nothing was removed: that was not the model's name.")


def _verb(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    """Add a verb with the options they all have."""
    parser = add_verb(verbs, name, run, text)
    parser.add_argument(
        "--library", type=Path, metavar="FOLDER", help="your model library (default: TRANSFERSEG_MODELS, else your own)"
    )
    return parser


def _add_replace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--replace", action="store_true", help="replace the model of that name in your library")
