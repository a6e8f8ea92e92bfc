"""``transferseg train-base``: train a base model on a dataset of sparsely annotated cases."""

from __future__ import annotations

import argparse
import shlex
from dataclasses import fields
from pathlib import Path
from typing import Any

from TransferSegLib.cli.jobs import add_background_options, start_in_background
from TransferSegLib.cli.options import add_device_option, read_settings
from TransferSegLib.cli.reporting import interruptible, progress_shown
from TransferSegLib.errors import Cancelled, TrainingError
from TransferSegLib.jobs.request import JobRequest
from TransferSegLib.jobs.train_base_job import TrainBaseParameters
from TransferSegLib.models.leaving import told_command
from TransferSegLib.models.locate import find_model
from TransferSegLib.output_checks import check_output_folder
from TransferSegLib.training.configuration import NETWORK_SETTINGS, AugmentationConfiguration, TrainingConfiguration
from TransferSegLib.training.processes import Processes, are_several, joined
from TransferSegLib.wording import table


def add_parser(subparsers: Any) -> None:
    """Add the verb and its options."""
    parser = subparsers.add_parser(
        "train-base",
        help="train a base model on sparsely annotated cases",
        description="Train a 3D U-Net on a dataset in which every case may carry labels for only some structures.",
        epilog="Every training setting can also be given in a JSON file with --configuration, e.g. "
        '{"width": 16, "steps": 4000, "augmentation": {"mirror": 0.5}}; options on the command line win over the file. '
        "The settings and what they mean: TransferSegLib/training/configuration.py.",
    )
    parser.add_argument("--data", type=Path, required=True, metavar="FOLDER", help="folder with a dataset.json")
    parser.add_argument(
        "--output", type=Path, required=True, metavar="FOLDER", help="where the run and its model are written"
    )
    parser.add_argument("--name", help="name of the model (default: the output folder's name)")
    parser.add_argument(
        "--start-from",
        metavar="MODEL",
        help="begin with the weights of a model of the same structures (a name or a folder) instead of random ones; "
        "network and spacing are the model's, and so are its validation cases",
    )
    parser.add_argument("--resume", action="store_true", help="continue from the checkpoint in the output folder")
    add_device_option(parser)
    parser.add_argument("--configuration", type=Path, metavar="FILE", help="JSON file with training settings")
    add_background_options(parser)
    settings = parser.add_argument_group("training settings (defaults in brackets)")
    defaults = TrainingConfiguration()
    for field in fields(TrainingConfiguration):
        if field.name != "augmentation":
            default = getattr(defaults, field.name)
            settings.add_argument(_option(field.name), type=type(default), metavar="N", help=f"[{_short(default)}]")
    for field in fields(AugmentationConfiguration):
        default = getattr(defaults.augmentation, field.name)
        settings.add_argument(_option("augment_" + field.name), type=type(default), metavar="N", help=f"[{default:g}]")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Train, print the validation table, and say where the model is."""
    if arguments.background and are_several():
        raise TrainingError("A training with several processes cannot be put into the background: leave --background.")
    with joined(arguments.device) as processes:
        return _run_together(arguments, processes)


def _run_together(arguments: argparse.Namespace, processes: Processes) -> int:
    """Do the same with the processes that torchrun started, of which the first one reads and prints."""
    processes.first_does(lambda: check_output_folder(arguments.output, TrainingError))
    _check_start(arguments)
    if arguments.background:
        return _start_in_background(arguments)
    from TransferSegLib.datasets.dataset import read_dataset
    from TransferSegLib.models.store import load_description, load_model
    from TransferSegLib.training.base import BaseModelPlan, train_base

    configuration, name = processes.first_does(lambda: _configuration_and_name(arguments))
    plan = BaseModelPlan(
        dataset=read_dataset(arguments.data),
        output=arguments.output,
        configuration=configuration,
        name=name,
        device=arguments.device,
        start=None if arguments.start_from is None else load_model(find_model(arguments.start_from)),
        command=_command(arguments),
    )
    with progress_shown() as progress, interruptible() as cancel:
        try:
            folder = train_base(plan, arguments.resume, progress, cancel)
        except Cancelled:
            raise Cancelled(_how_to_go_on(arguments)) from None
    if not processes.is_first:
        return 0
    metrics = load_description(folder).metrics.get("validation", {})
    if metrics:
        rows = [(name, f"{value:.3f}") for name, value in metrics["dice"].items()]
        print(table(("structure", "Dice"), [*rows, ("mean", f"{metrics['mean_dice']:.3f}")]))
        print(f"(validation: {metrics['cases']} cases, {metrics['grid']}, step {metrics['step']})")
    print(f"The model is in {folder}")
    return 0


def _how_to_go_on(arguments: argparse.Namespace) -> str:
    """Return what is said of a training that was stopped: where its checkpoint is, if there is one."""
    from TransferSegLib.training.checkpoint import CHECKPOINT

    if not (arguments.output / CHECKPOINT).exists():
        return "Stopped before the first step, so there is nothing to resume: give the same command again."
    words = ["transferseg", "train-base", "--data", str(arguments.data), "--output", str(arguments.output)]
    words += [] if arguments.name is None else ["--name", arguments.name]
    words += [] if arguments.start_from is None else ["--start-from", arguments.start_from]
    again = shlex.join([*words, "--resume"])
    return f"Stopped; a checkpoint is in {arguments.output}. Go on with: {again}"


def _check_start(arguments: argparse.Namespace) -> None:
    """Raise TrainingError for settings of a network that the model begun with has already."""
    own = [_option(name) for name in NETWORK_SETTINGS if getattr(arguments, name) is not None]
    if arguments.start_from is not None and own:
        raise TrainingError(f"{', '.join(own)} cannot be given with --start-from: network and spacing are the model's.")


def _start_in_background(arguments: argparse.Namespace) -> int:
    """Start the same as a job, after the checks that need no torch."""
    from TransferSegLib.datasets.dataset import read_dataset

    dataset = read_dataset(arguments.data)
    configuration, name = _configuration_and_name(arguments)
    parameters = TrainBaseParameters(
        arguments.data,
        name,
        arguments.output,
        configuration,
        arguments.resume,
        None if arguments.start_from is None else find_model(arguments.start_from),
        _command(arguments),
    )
    title = f"train {parameters.name} on {dataset.name}"
    return start_in_background(JobRequest("train-base", parameters.to_json(), arguments.device, title), arguments)


def _configuration_and_name(arguments: argparse.Namespace) -> tuple[TrainingConfiguration, str]:
    """Return the settings and the model's name; those of a run that is resumed need not be given again."""
    saved: dict[str, Any] = {}
    if arguments.resume:
        from TransferSegLib.training.saved_run import what_was_asked

        saved = what_was_asked(arguments.output)
    name = arguments.name or saved.get("name") or str(arguments.output.resolve().name)
    return _configuration(arguments, dict(saved.get("configuration", {}))), str(name)


def _short(value: str | float) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _option(setting: str) -> str:
    return "--" + setting.replace("_", "-")


def _configuration(arguments: argparse.Namespace, values: dict[str, Any]) -> TrainingConfiguration:
    """Return the settings: defaults, then ``values`` of the run being resumed, then the file, then the command line."""
    values["augmentation"] = dict(values.get("augmentation", {}))
    if arguments.configuration is not None:
        given = read_settings(arguments.configuration, '{"width": 16}')
        values["augmentation"] |= given.pop("augmentation", {})
        values |= given
    for field in fields(TrainingConfiguration):
        if getattr(arguments, field.name, None) is not None:
            values[field.name] = getattr(arguments, field.name)
    for field in fields(AugmentationConfiguration):
        value = getattr(arguments, "augment_" + field.name)
        if value is not None:
            values["augmentation"][field.name] = value
    return TrainingConfiguration.from_json(values)


def _command(arguments: argparse.Namespace) -> str:
    """Return the command for the model's provenance: its numbers, without folders and names."""
    settings = [field.name for field in fields(TrainingConfiguration) if field.name != "augmentation"]
    settings += ["augment_" + field.name for field in fields(AugmentationConfiguration)]
    names = ["device", "resume", *settings]
    return told_command("train-base", {name: getattr(arguments, name) for name in names})
