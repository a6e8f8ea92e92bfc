"""``transferseg models``: which models there are, and what one of them says of itself."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from TransferSegLib.cli.reporting import table


def add_parser(subparsers: Any) -> None:
    """Add the verb and its own verbs."""
    parser = subparsers.add_parser("models", help="list models, show one, export one as a single file")
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    verbs.add_parser("list", help="list the bundled models and those of your library").set_defaults(run=run_list)
    show = verbs.add_parser("show", help="show what a model segments and where it comes from")
    show.add_argument("model", nargs="?", help="model name, folder or .zip (default: the bundled model)")
    show.set_defaults(run=run_show)
    export = verbs.add_parser("export", help="write a model as one .zip file")
    export.add_argument("model", help="model name or folder")
    export.add_argument("file", type=Path, help="the .zip file to write")
    export.set_defaults(run=run_export)


def run_list(arguments: argparse.Namespace) -> int:
    """Print a line per model; one that cannot be read is listed with the reason."""
    from TransferSegLib.errors import ModelError
    from TransferSegLib.models.locate import bundled_models, library_models
    from TransferSegLib.models.store import load_description

    rows = []
    for place, folders in (("bundled", bundled_models()), ("library", library_models())):
        for folder in folders:
            try:
                model = load_description(folder)
                rows.append((model.name, model.version, model.modality, str(len(model.label_set)), place))
            except ModelError as error:
                rows.append((folder.name, "-", "-", "-", f"damaged: {error}"))
    print(table(("model", "version", "modality", "structures", "where"), rows) if rows else "There are no models.")
    return 0


def run_show(arguments: argparse.Namespace) -> int:
    """Print a model's description for a person."""
    from TransferSegLib.models.locate import find_model
    from TransferSegLib.models.store import load_model

    folder = find_model(arguments.model)
    model = load_model(folder).description  # the weights too: a damaged model is not shown as if it were whole
    dice = model.metrics.get("validation", {}).get("dice", {})
    rows = []
    for structure in model.label_set:
        codes = [code[0] for code in (structure.terminology, structure.modifier) if code is not None]
        code = " + ".join(codes) or "-"
        score = "-" if dice.get(structure.name) is None else f"{dice[structure.name]:.3f}"
        rows.append((structure.name, str(structure.label), code, score))
    print(f"{model.name}, version {model.version}: {model.summary}")
    inferred = " (inferred)" if model.spacing_inferred else ""
    print(f"works at {model.spacing_mm:g} mm{inferred}, network width {model.network.width}, licence {model.license}")
    print(table(("structure", "label", "SNOMED CT", "validation Dice"), rows))
    print(f"trained on: {model.training_data}")
    print(f"made by: {model.provenance.command} ({model.provenance.code_version}, {model.provenance.created})")
    print(f"cite: {model.citation}\nin: {folder}")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Write a model folder as one file."""
    from TransferSegLib.models.archive import export_model
    from TransferSegLib.models.locate import find_model

    print(f"written to {export_model(find_model(arguments.model), arguments.file)}")
    return 0
