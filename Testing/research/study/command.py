"""``python3 Testing/run.py study``: run, list, choose or report a study. Exit codes as those of ``transferseg``."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from TransferSegLib.clean_text import clean_output
from TransferSegLib.cli.options import add_device_option
from TransferSegLib.cli.reporting import interruptible, progress_shown
from TransferSegLib.errors import Cancelled, StudyError, TransferSegError
from TransferSegLib.output_checks import check_output_file, check_output_folder
from TransferSegLib.progress import end_process

if TYPE_CHECKING:
    from Testing.research.study.configuration import Study


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code: 0 done, 2 an error that one line describes, 130 stopped."""
    arguments = make_parser().parse_args(argv)
    with clean_output():
        try:
            return run(arguments)
        except (Cancelled, KeyboardInterrupt) as stopped:
            print(f"study: {str(stopped) or 'stopped.'}", file=sys.stderr)
            return 130
        except (TransferSegError, OSError) as error:
            print(f"study: {error}", file=sys.stderr)
            return 2


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    parser = argparse.ArgumentParser(
        prog="run.py study",
        description="Run a study (bases x tasks x training-set sizes x strategies x seeds), each run in a process of "
        "its own, or report the results. --resume continues an interrupted study.",
        epilog="docs/study.md describes the study, Testing/research/study.json is its configuration.",
    )
    parser.add_argument(
        "action",
        nargs="?",
        choices=("run", "report", "list", "choose"),
        default="run",
        help="make the missing runs (default), print the report, list the runs, or try the settings under "
        "'choose' on validation cases",
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the study's configuration")
    parser.add_argument(
        "--data", type=Path, metavar="FOLDER", help="folder of the collections (default: the configuration's 'data')"
    )
    parser.add_argument(
        "--work",
        type=Path,
        metavar="FOLDER",
        help="folder for the bases (default: runs/NAME of the file)",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue: make only the runs that are missing or have changed"
    )
    parser.add_argument(
        "--only", default="", metavar="REGEX", help="run, list: only runs whose key has this, e.g. mandible/.*/1$"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time (default: 1)")
    parser.add_argument("--threads", type=int, default=1, metavar="N", help="threads of each run (default: 1)")
    parser.add_argument(
        "--ray",
        default="",
        metavar="ADDRESS",
        help="make the runs on a Ray cluster (auto, or HOST:PORT); see docs/scale.md",
    )
    add_device_option(parser)
    parser.add_argument(
        "--base",
        action="append",
        default=[],
        metavar="NAME=FOLDER",
        help="a base that is already trained, with the structures and settings of the configuration",
    )
    parser.add_argument(
        "--write", action="store_true", help="report: write it into the study's page, with its pictures"
    )
    return parser


def run(arguments: argparse.Namespace) -> int:
    """Run the chosen action."""
    from Testing.research.study.configuration_file import read_study

    study = read_study(arguments.config)
    actions = {"run": _run, "list": _list, "report": _report, "choose": _choose}
    return actions[arguments.action](study, arguments)


def _run(study: Study, arguments: argparse.Namespace) -> int:
    """Make the missing runs and print a summary."""
    from Testing.research.study.runner import StudyOptions, run_study

    data = arguments.data or study.data
    if data is None:
        raise StudyError("Name the folder of the collections with --data.")
    options = StudyOptions(
        data=data.resolve(),
        work=(arguments.work or Path("runs") / study.path.stem).resolve(),
        resume=arguments.resume,
        only=arguments.only,
        workers=arguments.workers,
        threads=arguments.threads,
        device=arguments.device,
        bases=dict(_named_folder(text) for text in arguments.base),
        ray=arguments.ray,
    )
    check_output_file(study.results, StudyError)
    check_output_folder(options.work, StudyError)
    with progress_shown() as progress, interruptible() as cancel:
        outcome = run_study(study, options, progress, cancel)
    print(f"{outcome.runs} runs: {outcome.found} were there, {outcome.made} made, {len(outcome.failed)} failed.")
    for key, words in outcome.failed.items():
        print(f"  {key}: {words}")
    print(f"The results are in {study.results}")
    return 2 if outcome.failed else 0


def _choose(study: Study, arguments: argparse.Namespace) -> int:
    """Try the settings under 'choose', and print their scores."""
    from Testing.research.study.choosing import choice_study
    from Testing.research.study.report import choice_text

    code = _run(choice_study(study), arguments)
    print(choice_text(study))
    return code


def _report(study: Study, arguments: argparse.Namespace) -> int:
    """Print the report, or write it into the study's page."""
    from Testing.research.study.report import read_statistics, report_text, write_report

    statistics = read_statistics(study)
    if not arguments.write:
        print(report_text(statistics))
        return 0
    if study.report is None:
        raise StudyError(f"{study.path} names no 'report' to write into.")
    from Testing.research.study.curves import draw_curves

    pictures = draw_curves(statistics, study.report.parent / "images")
    text = report_text(statistics, [picture.relative_to(study.report.parent).as_posix() for picture in pictures])
    write_report(study, text)
    page = study.report.resolve()
    print(f"The report is in {page}, its pictures in {page.parent / 'images'}")
    return 0


def _named_folder(text: str) -> tuple[str, Path]:
    name, _, folder = text.partition("=")
    if not name or not folder:
        raise StudyError(f"--base takes NAME=FOLDER, not '{text}'.")
    return name, Path(folder).resolve()


def _list(study: Study, arguments: argparse.Namespace) -> int:
    """Print the key of every run, and whether there is a result."""
    from Testing.research.study.results import ResultsFile, finished_runs
    from Testing.research.study.runs import plan_runs

    try:
        only = re.compile(arguments.only)
    except re.error as error:
        raise StudyError(f"--only '{arguments.only}' is not a regular expression: {error}.") from error
    runs = [one for one in plan_runs(study) if only.search(one.key)]
    found = finished_runs(runs, ResultsFile(study.results).read())
    for one in runs:
        print(f"{'done' if one.key in found else '    '} {one.key}")
    print(f"{len(found)} of {len(runs)} runs are done.")
    return 0


if __name__ == "__main__":
    end_process(main())
