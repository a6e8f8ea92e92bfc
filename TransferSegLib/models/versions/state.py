"""Which version of a model in the library is the current one, and which were before it.

The folder of a model with versions holds ``versions/0``, ``versions/1`` ..., each a model's folder, and
``current.json``, which is replaced in one step. Version 0 is what the model began with. A plain model, with no
versions, counts as a model with nothing but a version 0. Nothing here needs torch. The format, entry by entry, is
in ``docs/model-format.md``.
"""

from __future__ import annotations

import json
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from TransferSegLib import safe_json
from TransferSegLib.durable_writing import unfinished_texts, write_text_durably
from TransferSegLib.errors import ModelError
from TransferSegLib.json_fields import json_field, whole
from TransferSegLib.models.archive import MODEL_FILE

VERSIONS_FOLDER = "versions"
CURRENT_FILE = "current.json"
BACKUP_FILE = f"{CURRENT_FILE}.bak"
#: The entry ``format`` of every current.json, and the version written here; newer ones are refused.
FORMAT = "transferseg-versions"
FORMAT_VERSION = 1
#: What can happen to a version.
PROMOTED, ROLLED_BACK, REMOVED = "promoted", "rolled back", "removed"


class DamagedState(ModelError):
    """Neither current.json nor its backup can be read: the user must choose the current version."""


@dataclass(frozen=True)
class VersionEvent:
    """An entry of the history: what was done, which version it made current (or removed), and when (ISO date)."""

    action: str
    version: int
    date: str

    def to_json(self) -> dict[str, Any]:
        """Return a JSON-ready description."""
        return dict(vars(self))


@dataclass(frozen=True)
class VersionState:
    """Every switch since the model began, to which more are only ever added.

    ``problem`` tells that current.json could not be read and its backup was, empty if all is well.
    """

    switches: tuple[VersionEvent, ...] = ()
    problem: str = ""

    @property
    def trail(self) -> tuple[int, ...]:
        """The versions that rolling back goes through, the current one last, version 0 first."""
        trail = [0]
        for switch in self.switches:
            if switch.action == PROMOTED:
                trail.append(switch.version)
            elif switch.action == ROLLED_BACK:
                trail = trail[:-1] or [0]
            else:
                trail = [version for version in trail if version != switch.version]
            trail = [version for place, version in enumerate(trail) if place == 0 or trail[place - 1] != version]
        return tuple(trail)

    @property
    def current(self) -> int:
        """The current version."""
        return self.trail[-1]

    def promoted(self, version: int, date: str) -> VersionState:
        """Return the state in which this version is the current one."""
        return self if version == self.current else self._with(VersionEvent(PROMOTED, version, date))

    def rolled_back(self, date: str) -> VersionState:
        """Return the state in which what was current before is so again; raises ModelError at the model's beginning."""
        if len(self.trail) < 2:
            raise ModelError("There is nothing to go back to: what the model began with is the current version.")
        return self._with(VersionEvent(ROLLED_BACK, self.trail[-2], date))

    def removed(self, version: int, date: str) -> VersionState:
        """Return the state in which this version is not gone back to any more."""
        return self._with(VersionEvent(REMOVED, version, date))

    def _with(self, switch: VersionEvent) -> VersionState:
        return replace(self, switches=(*self.switches, switch), problem="")

    def to_json(self) -> dict[str, Any]:
        """Return the content of current.json."""
        switches = [switch.to_json() for switch in self.switches]
        return {"format": FORMAT, "format_version": FORMAT_VERSION, "current": self.current, "switches": switches}

    @staticmethod
    def from_json(entry: Any, source: str) -> VersionState:
        """Read the content of current.json; raises DamagedState, or ModelError when it is newer than this version."""
        try:
            if json_field(entry, "format", str, error=DamagedState) != FORMAT:
                raise DamagedState(f"Its entry 'format' is not '{FORMAT}'.")
            if json_field(entry, "format_version", int, error=DamagedState) > FORMAT_VERSION:
                raise ModelError(f"{source} was written by a newer TransferSeg: update TransferSeg to use it.")
            switches = json_field(entry, "switches", list, error=DamagedState)
            state = VersionState(tuple(_event(switch) for switch in switches))
            if json_field(entry, "current", int, error=DamagedState) != state.current:
                raise DamagedState("Its current version is not the one its history leads to.")
        except DamagedState as error:
            raise DamagedState(f"{source} is damaged. {error}") from error
        return state


def has_versions(path: Path) -> bool:
    """Tell whether a path is a model with versions."""
    return (path / VERSIONS_FOLDER / "0" / MODEL_FILE).is_file() or (path / CURRENT_FILE).is_file()


def version_folder(model: Path, version: int) -> Path:
    """Return the folder of a version, whether it is there or not."""
    return model / VERSIONS_FOLDER / str(version)


def version_numbers(model: Path) -> list[int]:
    """Return the versions that are there, in order; raises ModelError when the folder cannot be read."""
    folder = model / VERSIONS_FOLDER
    try:
        names = [entry.name for entry in folder.iterdir()] if folder.is_dir() else []
        numbers = sorted(int(name) for name in names if name.isdecimal() and name == str(int(name)))
        return [number for number in numbers if (version_folder(model, number) / MODEL_FILE).is_file()]
    except OSError as error:
        raise ModelError(f"{folder} cannot be read: {error.strerror or error}.") from error


def read_state(model: Path) -> VersionState:
    """Return a model's state; without a current.json nothing was switched yet.

    Raises DamagedState when neither it nor its backup can be read, ModelError when it is newer than this version.
    """
    damage = ""
    for name in (CURRENT_FILE, BACKUP_FILE):
        path = model / name
        try:
            state = VersionState.from_json(safe_json.read(path), str(path))
        except FileNotFoundError:
            continue
        except (OSError, ValueError, DamagedState) as error:
            damage = damage or (str(error) if isinstance(error, DamagedState) else f"{path} cannot be read: {error}.")
            continue
        lost = damage or (f"{model / CURRENT_FILE} is missing." if name == BACKUP_FILE else "")
        return replace(state, problem=f"{lost} Its backup was read instead." if lost else "")
    if damage:
        raise DamagedState(
            f"{damage} Choose the version of '{model.name}' to use: transferseg models promote "
            f"{_quoted(model.name)} NUMBER. There are: {', '.join(map(str, version_numbers(model)))}."
        )
    return VersionState()


def write_state(model: Path, state: VersionState) -> None:
    """Make a state the model's, in one step; the caller holds the library's lock. Raises OSError.

    The backup goes first: it never lacks a switch that was reported done. Of a model that was never switched it comes
    second: alone it would stand for one whose current.json was lost.
    """
    text = json.dumps(state.to_json(), indent=1) + "\n"
    names = (BACKUP_FILE, CURRENT_FILE) if (model / CURRENT_FILE).exists() else (CURRENT_FILE, BACKUP_FILE)
    for name in names:
        write_text_durably(model / name, text)
    tidy_state(model)


def tidy_state(model: Path) -> None:
    """Remove what killed writers of the state left; the caller holds the library's lock."""
    for leftover in (file for name in (BACKUP_FILE, CURRENT_FILE) for file in unfinished_texts(model / name)):
        with suppress(OSError):
            leftover.unlink()


def current_folder(path: Path) -> Path:
    """Return the folder of a model's current version; any other path, such as a plain model's, is returned as it is.

    Raises ModelError when it cannot be told which version that is, or it is missing.
    """
    if not has_versions(path):
        return path
    current = read_state(path).current
    folder = version_folder(path, current)
    if not (folder / MODEL_FILE).is_file():
        raise ModelError(
            f"Version {current} of '{path.name}', the current one, is missing in {path / VERSIONS_FOLDER}. Choose "
            f"another one: transferseg models promote {_quoted(path.name)} NUMBER. There are: "
            f"{', '.join(map(str, version_numbers(path))) or 'none'}."
        )
    return folder


def version_name(path: Path, described: str) -> str:
    """Return what the version of a model is called: of a model with versions its number, else ``described``.

    ``described`` is what the model's own description says. It differs for version 0, which says what its maker called
    it: "2", say, which here is another version.
    """
    if has_versions(path):
        return str(read_state(path).current)
    folder = path.resolve()
    in_line = folder.parent.name == VERSIONS_FOLDER and folder.name.isdecimal() and has_versions(folder.parent.parent)
    return folder.name if in_line else described


def unknown_version(model: Path, version: int) -> ModelError:
    """Return the error for a version that is not there."""
    if not has_versions(model):
        return ModelError(
            f"The model '{model.stem if model.is_file() else model.name}' has no versions but itself (0)."
        )
    numbers = ", ".join(map(str, version_numbers(model)))
    return ModelError(f"The model '{model.name}' has no version {version}. There are: {numbers}.")


def split_version(name: str) -> tuple[str, int] | None:
    """Return what 'name@3' means, a model's name and a version, or None for any other text.

    >>> split_version("liver@3")
    ('liver', 3)
    """
    base, mark, number = name.rpartition("@")
    if not mark or not base or not number.isascii() or not number.isdecimal() or len(number) > 9:
        return None
    return base, int(number)


def _event(entry: Any) -> VersionEvent:
    """Read an entry of the history; raises DamagedState when it is not one."""
    event = VersionEvent(
        json_field(entry, "action", str, error=DamagedState),
        whole(json_field(entry, "version", int, error=DamagedState), "The version", 0, error=DamagedState),
        json_field(entry, "date", str, error=DamagedState),
    )
    if event.action not in (PROMOTED, ROLLED_BACK, REMOVED):
        raise DamagedState(f"Its history has the action '{event.action}', which this version does not know.")
    return event


def _quoted(name: str) -> str:
    return f'"{name}"' if " " in name else name
