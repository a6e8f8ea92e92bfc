"""docs/command-line.md lists every command with every option, and nothing else."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

from TransferSegLib.cli.main import make_parser

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"


def commands(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """Yield the parsers of all commands, with those of their verbs."""
    verbs = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    yield parser
    for action in verbs:
        for choice in action.choices.values():
            yield from commands(choice)


def options(parser: argparse.ArgumentParser) -> set[str]:
    """Return a command's long options, but for the settings of training, which are listed elsewhere."""
    groups = [group for group in parser._action_groups if not (group.title or "").startswith("training settings")]
    found = {option for group in groups for action in group._group_actions for option in action.option_strings}
    return {option for option in found if option.startswith("--")} - {"--help", "--version"}


def test_the_page_lists_every_command_and_option() -> None:
    page = PAGE.read_text(encoding="utf-8")
    missing = []
    for parser in commands(make_parser()):
        name = parser.prog
        if name not in page:
            missing.append(name)
        missing += [f"{name} {option}" for option in options(parser) if not re.search(rf"{option}\b(?!-)", page)]
    assert missing == []


def test_every_option_on_the_page_exists() -> None:
    known = {
        option for parser in commands(make_parser()) for action in parser._actions for option in action.option_strings
    }
    named = set(re.findall(r"--[a-z][a-z0-9-]*[a-z0-9]", PAGE.read_text(encoding="utf-8")))
    assert named - known == set()
