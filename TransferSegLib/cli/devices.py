"""``transferseg devices``: what there is to compute on, and which of it ``auto`` takes."""

from __future__ import annotations

import argparse
import json
from typing import Any

from TransferSegLib.cli.options import add_json_option


def add_parser(subparsers: Any) -> None:
    """Add the verb and its option."""
    parser = subparsers.add_parser(
        "devices",
        help="list the devices that can run the network; the first is what --device auto takes",
        description="List the devices that run the network on this computer; the first is what --device auto takes.",
    )
    add_json_option(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a line per device."""
    from TransferSegLib.inference.devices import found_devices

    found = found_devices()
    if arguments.json:
        print(json.dumps([{"device": device, "name": name} for device, name in found]))
        return 0
    for device, name in found:
        print(f"{device:8} {name}")
    return 0
