"""What of a model's description leaves this computer: no folders, no file names, no ids of cases.

Folders are often named after a patient, and older versions recorded whole command lines. So of a command only what
identifies no one (numbers and fixed words) is recorded, and whatever else looks like a path, or names a case that the
model learned from, is left out when the model is exported.
"""

from __future__ import annotations

import base64
import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any
from urllib.parse import urlsplit

from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import json_bytes
from TransferSegLib.models.description import parse_json

#: The options whose values are numbers or fixed words, and those without a value; all others may hold anything.
_TOLD = re.compile(
    r"minutes|folds|tolerance-mm|seed|strategy|device|background|width|spacing-mm|steps|batch|patch|frame|"
    r"background-share|learning-rate|warm-up|size-share|weight-decay|gradient-norm|average|validation-share|"
    r"validate-every|checkpoint-every|augment-[a-z-]+"
)
_FLAGS = ("promote", "no-promote", "resume")
_NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", re.IGNORECASE)
_WORDS = ("auto", "cpu", "cuda", "mps", "first", "last", "finetune", "vanilla", "scratch")
_DEVICE = re.compile(r"cuda:\d{1,2}")
#: What a command of ours begins with; of any other text nothing is told.
_BEGINNINGS = (
    "transferseg finetune",
    "transferseg train-base",
    "transferseg models import",
    "transferseg study",
    "Testing/run.py study",
    "Slicer console",
)
_PANEL = " (3D Slicer)"
#: A folder of a computer in a text: /home/..., ~user/..., C:\..., \\server\..., file:..., smb:...; no web address.
_PATH = re.compile(
    r"(?<![\w/:.~])/[^\s/]+/|(?<![\w/:.~])~[\w.-]*/\w|(?<!\w)[A-Za-z]:[\\/]|\\\\\w|(?:file|smb|nfs|afp|s?ftp):/|"
    r"(?<![\w/:.])\.\.?[/\\]\w"
)
_WEB = re.compile(r"https://\S+")
_LEFT_OUT = "(left out: it named a folder or a case)"
#: Texts that lie beside the description and go along with it.
_CARDS = ("README.md", "card.md")
_DEEPEST = 60
#: Entries that list cases, and the one that names the file that a model was made of.
_IDS = ("ids", "case_ids")
_IMPORTED_FROM = ".imported_from"
#: The entries that are written from cases, and those in them that never hold an id; a shorter id is no name.
_MAY_NAME_CASES = ("provenance", "metrics", "record", "training_data")
_NEVER_CASES = ("parent", "created", "code_version", "sha256", "version", "modality", "command", "content_hash")
_SHORTEST_ID = 3
#: Numbers as base64, whose slashes lead nowhere; their sizes are checked where the description is read.
_PACKED = ("fit.features.mean", "fit.features.deviation", "fit.features.axes", "fit.features.usual")


def plain_command(command: str) -> str:
    """Return a command as a model's provenance tells it: what it was, numbers and fixed words, and nothing else.

    >>> plain_command("transferseg finetune --project=/data/DOE/p --minutes 5 --name DOE --promote")
    'transferseg finetune --minutes 5 --promote'
    """
    beginning = next((known for known in _BEGINNINGS if command.startswith(known)), None)
    if beginning is None:
        return "not told"
    if command[len(beginning) :].startswith(_PANEL):
        beginning += _PANEL
    try:
        args = shlex.split(command[len(beginning) :])
    except ValueError:
        args = []
    told = [beginning]
    for place, arg in enumerate(args):
        name, equals, value = arg.partition("=")
        option = name.removeprefix("--")
        value = value if equals else " ".join(args[place + 1 : place + 2])
        if option == name:
            continue
        if option in _FLAGS and not equals:
            told.append(name)
        elif _TOLD.fullmatch(option) and _is_plain(value):
            told += [name, value]
    return " ".join(told)


def told_command(verb: str, options: Mapping[str, Any]) -> str:
    """Return the command of a verb with these options by name (``tolerance_mm``); None and False are left out."""
    args = [f"transferseg {verb}"]
    for name, value in options.items():
        if value is not None and value is not False:
            args.append(f"--{name.replace('_', '-')}")
            args += [] if value is True else [f"{value:g}" if isinstance(value, float) else str(value)]
    return plain_command(" ".join(args))


def without_identifiers(
    files: Mapping[str, bytes], model_file: str, case_ids: Iterable[str] = ()
) -> tuple[dict[str, bytes], tuple[str, ...]]:
    """Return a model's files as they leave this computer, and a line for each thing that was left out.

    ``model_file`` is the name of the description among the files, ``case_ids`` the cases that must not be named.
    Files that name nothing stay as they are, byte for byte.
    """
    entry = parse_json(files[model_file], model_file)
    if not isinstance(entry, dict):
        raise ModelError(f"{model_file} is no description of a model.")
    scrub = _Scrub(case_ids)
    cleaned = scrub.description(entry)
    result = dict(files)
    if cleaned != entry:
        result[model_file] = json_bytes(cleaned)
    for name in _CARDS:
        if name in files:
            text = files[name].decode("utf-8", errors="replace")
            clean = scrub.card(text, name)
            if clean != text:
                result[name] = clean.encode("utf-8")
    return result, tuple(dict.fromkeys(scrub.left_out))


def published_name(source: Any) -> str:
    """Return the name of a file at its address ('https://.../x.h5 (git blob ...)'), empty for one that has none."""
    address = source.split(" ")[0] if isinstance(source, str) else ""
    return PurePosixPath(urlsplit(address).path).name if _WEB.fullmatch(address) else ""


class _Scrub:
    """Leaves out of a model's texts what names folders and cases, and keeps account of it."""

    def __init__(self, case_ids: Iterable[str]) -> None:
        ids = sorted({re.escape(one) for one in case_ids if len(one.strip()) >= _SHORTEST_ID}, key=len, reverse=True)
        self._case = re.compile(rf"(?<![^\W_])(?:{'|'.join(ids)})(?![^\W_])", re.IGNORECASE) if ids else None
        self._commands: dict[str, str] = {}
        self.left_out: list[str] = []

    def description(self, entry: dict[str, Any]) -> dict[str, Any]:
        """Return the content of model.json without them; structures, the name and the weights stay as they are."""
        kept = {"structures", "name", "weights", "network", "intensity"}
        cleaned = {key: value if key in kept else self._value(value, key) for key, value in entry.items()}
        provenance = entry.get("provenance")
        if isinstance(provenance, dict) and isinstance(provenance.get("command"), str):
            command = provenance["command"]
            told = plain_command(command)
            if told != command:
                self._commands[command] = told
                self.left_out.append("the words of the command it was made with that may name folders and cases")
            cleaned["provenance"] = self._value({**provenance, "command": told}, "provenance")
        return cleaned

    def card(self, text: str, name: str) -> str:
        """Return a text for people without the lines that name them."""
        for command, told in self._commands.items():
            text = text.replace(command, told)
        lines = text.splitlines(keepends=True)
        kept = [line for line in lines if not _names_a_folder(line)]
        if len(kept) < len(lines):
            self.left_out.append(f"{len(lines) - len(kept)} lines of {name} that name folders")
        return "".join(kept)

    def _value(self, value: Any, where: str, depth: int = 0) -> Any:
        """Return a value without them; ``where`` is the name of the entry it lies in, whose parts a dot divides."""
        if depth > _DEEPEST:
            return None
        if isinstance(value, dict):
            kept = {key: inner for key, inner in value.items() if key not in _IDS and not self._names(key, where)}
            if (
                where.endswith(_IMPORTED_FROM)
                and kept.get("file")
                and kept["file"] != published_name(kept.get("source"))
            ):
                kept["file"] = ""  # what the file was called on this computer
            if kept != value:
                self._leave(where)
            return {key: self._value(inner, f"{where}.{key}", depth + 1) for key, inner in kept.items()}
        if isinstance(value, list):
            entries = [one for one in value if not (isinstance(one, str) and self._names(one, where))]
            if len(entries) < len(value):
                self._leave(where)
            return [self._value(one, where, depth + 1) for one in entries]
        if isinstance(value, str) and not (where in _PACKED and _is_base64(value)) and self._names(value, where):
            self._leave(where)
            return _LEFT_OUT
        return value

    def _leave(self, where: str) -> None:
        self.left_out.append(f"what names files, folders or cases in the entry '{where}'")

    def _names(self, text: str, where: str) -> bool:
        """Tell whether a text names a folder of a computer or, where ids of cases may stand, a case."""
        first, last = where.split(".")[0], where.split(".")[-1]
        if self._case is not None and first in _MAY_NAME_CASES and last not in _NEVER_CASES and self._case.search(text):
            return True
        return _names_a_folder(text)


def _names_a_folder(text: str) -> bool:
    return _PATH.search(_WEB.sub("", text)) is not None


def _is_base64(value: str) -> bool:
    try:
        return len(base64.b64decode(value, validate=True)) > 0
    except ValueError:
        return False


def _is_plain(value: str) -> bool:
    return bool(_NUMBER.fullmatch(value) or _DEVICE.fullmatch(value)) or value in _WORDS
