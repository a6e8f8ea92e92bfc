"""``transferseg models history|promote|rollback|compare``: the versions of a model in your library."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from TransferSegLib.cli.options import add_json_option, print_json
from TransferSegLib.errors import TransferSegError
from TransferSegLib.wording import before_and_after, local_time, table

if TYPE_CHECKING:
    from TransferSegLib.models.versions.compare import ComparedStructure, VersionComparison
    from TransferSegLib.models.versions.history import History, Version

#: Adds a verb: its name, what runs it, what it does.
AddVerb = Callable[[str, Callable[[argparse.Namespace], int], str], argparse.ArgumentParser]


def add_verbs(add: AddVerb) -> None:
    """Add the verbs about versions to those of ``transferseg models``."""
    history = add("history", run_history, "list the versions of a model of your library, and which were current when")
    history.add_argument("model", help="model name")
    add_json_option(history)

    promote = add("promote", run_promote, "make a version the current one")
    promote.add_argument("model", help="model name, or NAME@NUMBER")
    promote.add_argument("version", nargs="?", type=int, metavar="NUMBER", help="the version to use from now on")
    promote.add_argument("--force", action="store_true", help="even if it is worse than its parent")

    rollback = add("rollback", run_rollback, "go back to the version that was current before")
    rollback.add_argument("model", help="model name")

    compare = add("compare", run_compare, "show how two versions of a model differ")
    compare.add_argument("model", help="model name, or NAME@NUMBER")
    compare.add_argument("first", nargs="?", metavar="NUMBER", help="(default: what the other was made from)")
    compare.add_argument("second", nargs="?", metavar="NUMBER", help="(default: the current version)")
    compare.add_argument("--all", action="store_true", help="list also every training setting that differs")
    add_json_option(compare)


def run_history(arguments: argparse.Namespace) -> int:
    """Print a line per version, then the switches."""
    from TransferSegLib.models.versions.history import history
    from TransferSegLib.models.versions.state import ROLLED_BACK

    found = history(arguments.model, library_of(arguments))
    if arguments.json:
        print_json(_history_entry(found))
        return 0
    header = ("version", "", "made", "from", "cases", "mean Dice before", "after", "verdict")
    print(f"{found.name}: {found.path}")
    print(table(header, [_row(found, version) for version in found.versions]))
    if found.state.switches:
        print("switches:")
    for switch in found.state.switches:
        to = " to" if switch.action == ROLLED_BACK else ""
        print(f"  {local_time(switch.date)}  {switch.action}{to} {switch.version}")
    for problem in (found.state.problem, *found.damaged):
        if problem:
            print(f"look: {problem}")
    return 0


def run_promote(arguments: argparse.Namespace) -> int:
    """Make a version the current one."""
    from TransferSegLib.models.versions.state import split_version
    from TransferSegLib.models.versions.versions import promote

    name, number = arguments.model, arguments.version
    split = split_version(name)
    if number is None and split is not None:
        name, number = split
    if number is None:
        raise TransferSegError(f"Which version? Say: transferseg models promote {arguments.model} NUMBER")
    version = promote(name, library_of(arguments), number, arguments.force)
    _print_current(name, version)
    if version.number and version.record is not None and version.record.warning:
        print(f"Warning: {version.record.warning}")
        print(f"transferseg models rollback {name}    # go back to what was in use before")
    return 0


def run_rollback(arguments: argparse.Namespace) -> int:
    """Go back to what was current before."""
    from TransferSegLib.models.versions.versions import rollback

    _print_current(arguments.model, rollback(arguments.model, library_of(arguments)))
    return 0


def run_compare(arguments: argparse.Namespace) -> int:
    """Print the evidence of two versions and what else differs."""
    from TransferSegLib.models.versions.compare import compare_versions
    from TransferSegLib.models.versions.history import history

    name, *numbers = _asked_for([arguments.model, arguments.first, arguments.second])
    found = history(name, library_of(arguments))
    compared = compare_versions(found, *_pair(found, *numbers))
    if arguments.json:
        print_json({"model": found.name} | compared.to_json())
        return 0
    print(_comparison_text(found.name, compared, arguments.all))
    return 0


def run_remove_version(arguments: argparse.Namespace, name: str, number: int) -> int:
    """Remove one version; the current one and one that others were made from need --force."""
    from TransferSegLib.models.versions.versions import remove_version

    print(f"removed: {remove_version(name, library_of(arguments), number, arguments.force)}")
    return 0


def record_lines(path: Path) -> list[str]:
    """Return what ``show`` says of a version beyond its description: parent, verdict, warnings; nothing for others."""
    from TransferSegLib.models.versions.card import verdict_text
    from TransferSegLib.models.versions.record import load_record

    record = load_record(path)
    if record is None:
        return []
    lines = [f"version {record.number} of {record.model_name}, made {local_time(record.created)} from {record.parent}"]
    warnings = record.evidence.get("warnings", [])  # of a model made elsewhere they stayed there
    looks = [f"look: {warning}" for warning in warnings if isinstance(warnings, list)]
    return [*lines, f"verdict: {verdict_text(record).replace('**', '')}", *looks]


def library_of(arguments: argparse.Namespace) -> Path:
    """Return the library folder to use."""
    from TransferSegLib.models.locate import library_folder

    named: Path | None = arguments.library
    return library_folder() if named is None else named.expanduser()


def _asked_for(texts: list[str | None]) -> tuple[str, int | None, int | None]:
    """Return the model and the numbers in 'NAME 1 2', 'NAME@1 2' or 'NAME@1 NAME@2'."""
    from TransferSegLib.models.versions.state import split_version

    model = texts[0] or ""
    split = split_version(model)
    name = model if split is None else split[0]
    numbers = [] if split is None else [split[1]]
    for text in filter(None, texts[1:]):
        other, number = split_version(text if "@" in text else f"{name}@{text}") or (None, 0)
        if other != name:
            raise TransferSegError(
                f"'{text}' is no version of '{name}': give numbers, as in transferseg models compare {name} 1 2."
            )
        numbers.append(number)
    if len(numbers) > 2:
        raise TransferSegError(f"Two versions are compared, not {len(numbers)}: {', '.join(map(str, numbers))}.")
    first, second = (*numbers, None, None)[:2]
    return name, first, second


def _pair(found: History, first: int | None, second: int | None) -> tuple[int, int]:
    """Return the two versions to compare: by default the current one with its parent, else with its last child."""
    if first is not None and second is not None:
        return first, second
    if found.current is None:
        raise TransferSegError(found.damaged[0])
    if first is not None:
        return first, found.current
    parent = found.parent_of(found.find(found.current))
    if parent is None:
        # After a first fine-tuning that was not promoted, it is the one to look at.
        children = found.children_of(found.current)
        if children:
            return found.current, children[-1].number
        raise TransferSegError(
            f"Version {found.current} of '{found.name}', the current one, was made from no other version: say which "
            "two are to be compared."
        )
    return parent.number, found.current


def _print_current(name: str, version: Version) -> None:
    print(f"'{name}' is version {version.number} now: {len(version.description.label_set)} structures, {version.path}")


def _row(found: History, version: Version) -> tuple[str, ...]:
    current = "current" if version.current else ""
    record = None if version.number == 0 else version.record
    if record is None:
        what = "what it began with" if version.number == 0 else "-"
        return (
            str(version.number),
            current,
            local_time(version.description.provenance.created),
            "-",
            "-",
            "-",
            "-",
            what,
        )
    from TransferSegLib.models.versions.card import plain

    parent = found.parent_of(version)
    before, after = (plain(value) for value in record.mean_dice)
    came = str(record.parent) if parent is None else str(parent.number)
    verdict = record.verdict or "not measured"
    return (
        str(version.number),
        current,
        local_time(record.created),
        came,
        str(len(record.cases)),
        before,
        after,
        verdict,
    )


def _history_entry(found: History) -> dict[str, Any]:
    entries = []
    for version in found.versions:
        parent = found.parent_of(version)
        description = version.description
        entries.append(
            {
                "number": version.number,
                "current": version.current,
                "path": str(version.path),
                "sha256": version.sha256,
                "structures": list(description.label_set.names),
                "parent_number": None if parent is None else parent.number,
                "record": None if version.record is None else version.record.to_json(),
            }
        )
    return {
        "model": found.name,
        "path": str(found.path),
        "current": found.current,
        "versions": entries,
        "switches": [switch.to_json() for switch in found.state.switches],
        "problems": [problem for problem in (found.state.problem, *found.damaged) if problem],
    }


def _comparison_text(name: str, compared: VersionComparison, every_setting: bool) -> str:
    from TransferSegLib.models.versions.card import plain, signed

    one, other = f"version {compared.first.number}", f"version {compared.second.number}"
    lines = [f"{name}: {one} and {other}. {compared.note}"]
    rows = []
    for row in compared.rows:
        interval = "-" if row.low is None or row.high is None else f"{signed(row.low)} to {signed(row.high)}"
        rows.append((row.structure, plain(row.first), plain(row.second), _difference(row), interval))
    if rows:
        lines.append(table(("Dice of", one, other, "difference", "interval"), rows))
    for which, names in ((one, compared.only_first), (other, compared.only_second)):
        if names:
            lines.append(f"only in {which}: {', '.join(names)}")
    if compared.configuration and not every_setting:
        lines.append(f"Different training settings: {len(compared.configuration)} (--all lists them).")
    elif compared.configuration:
        shown = [(change.knob, _value(change.first), _value(change.second)) for change in compared.configuration]
        lines += ["what else differs:", table(("setting", one, other), shown)]
    return "\n".join(lines)


def _difference(row: ComparedStructure) -> str:
    """Return the difference of the two scores as they are printed; '-' where they were not measured together."""
    if row.difference is None or row.first is None or row.second is None:
        return "-"
    return before_and_after(row.first, row.second, 3)[2]


def _value(value: Any) -> str:
    """Return a setting's value as it is printed, at most 40 characters."""
    shown = "-" if value is None else value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= 40 else f"{shown[:37]}..."
