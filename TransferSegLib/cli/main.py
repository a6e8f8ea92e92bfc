"""The command ``transferseg``: one small file a verb; this one only dispatches and prints errors.

Exit codes: 0 done, 2 something the user can put right (one line says what), 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import io
import sys
from collections.abc import Sequence
from importlib import import_module
from typing import NoReturn

from TransferSegLib.errors import Cancelled, TransferSegError
from TransferSegLib.version import code_version

#: The modules of the verbs, in the order of the help. They are imported in ``main``, where Ctrl-C is answered already.
_VERBS = (
    "demo",
    "segment",
    "train_base",
    "dataset",
    "cases",
    "finetune",
    "evaluate",
    "models",
    "devices",
    "jobs",
    "study",
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # What a terminal or a pipe cannot show (a name in Japanese on cp1252) is escaped, and no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    try:
        parser = make_parser()
        arguments = parser.parse_args(argv)
        if not hasattr(arguments, "run"):
            parser.print_help()
            return 0
        return int(arguments.run(arguments))
    except Cancelled as stopped:
        print(f"transferseg: {stopped}", file=sys.stderr)
        return 130
    except KeyboardInterrupt:
        print("transferseg: stopped.", file=sys.stderr)
        return 130
    except TransferSegError as error:
        print(f"transferseg: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output went away (as `head` does): nothing to say, and nobody to say it to.
        sys.stderr.close()
        return 0


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line; the verbs' parsers are of this kind, too."""

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2, without the whole usage, in which it would not be found."""
        self.exit(2, f"transferseg: {message} (see: {self.prog} --help)\n")


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of all verbs."""
    parser = _Parser(
        prog="transferseg",
        description="Segment structures in 3D scans, and adapt the model to new ones from a few corrected cases.",
    )
    parser.add_argument("--version", action="version", version=f"transferseg {code_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for verb in _VERBS:
        import_module(f"TransferSegLib.cli.{verb}").add_parser(subparsers)
    return parser


if __name__ == "__main__":
    sys.exit(main())
