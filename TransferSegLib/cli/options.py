"""What several commands share: options, each defined once, and how JSON is read and printed."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from TransferSegLib.errors import TrainingError
from TransferSegLib.json_fields import read_json


def add_verb(verbs: Any, name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    """Add a verb of a command with what runs it and its help."""
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(run=run)
    return parser


def add_device_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for the device that computes."""
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or mps (default: auto)")


def add_json_option(parser: argparse.ArgumentParser) -> None:
    """Add the option that prints JSON."""
    parser.add_argument("--json", action="store_true", help="print JSON, for other programs")


def add_progress_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for progress as JSON lines; see ``reporting.JsonLines``."""
    parser.add_argument(
        "--progress",
        choices=("text", "json"),
        default="text",
        help="json: progress, results and errors as one JSON object per line on standard output, for other programs",
    )


def add_overlap_option(parser: argparse.ArgumentParser) -> None:
    """Add the option for segments that overlap."""
    parser.add_argument(
        "--overlap-priority",
        nargs="+",
        action="extend",
        default=[],
        metavar="NAME",
        help="segments that win where segments of a .seg.nrrd file overlap (default: the later one in the file)",
    )


def print_json(content: Any) -> None:
    """Print JSON that a person can read, too."""
    print(json.dumps(content, indent=1, ensure_ascii=False))


def read_settings(path: Path, example: str) -> dict[str, Any]:
    """Return the settings in a JSON file; raises TrainingError with an example."""
    content = read_json(path, TrainingError)
    if not isinstance(content, dict) or not isinstance(content.get("augmentation", {}), dict):
        raise TrainingError(f"The configuration {path} must be an object of settings, e.g. {example}.")
    return content
