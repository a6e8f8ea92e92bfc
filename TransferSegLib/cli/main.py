"""The command ``transferseg``: one small file a verb; this one only dispatches and prints errors.

Exit codes: 0 done, 2 something the user can put right (one line says what), 130 stopped with Ctrl-C.
"""

from __future__ import annotations

import argparse
import errno
import io
import os
import re
import sys
from collections.abc import Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TextIO

from TransferSegLib.clean_text import clean_output
from TransferSegLib.errors import Cancelled, TransferSegError
from TransferSegLib.progress import end_process
from TransferSegLib.training.processes import speaks_for_all
from TransferSegLib.version import code_version
from TransferSegLib.wording import did_you_mean

#: The modules of the verbs, in the order of the help. They are imported in ``main``, where Ctrl-C is answered already.
_VERBS = (
    "demo",
    "segment",
    "learn_here",
    "train_base",
    "dataset",
    "cases",
    "finetune",
    "evaluate",
    "models",
    "devices",
    "jobs",
)

#: What the computer or a file can do to any command; whatever else is raised is a mistake of ours and shown as one.
_OF_THE_COMPUTER = (OSError, MemoryError, OverflowError, RecursionError, UnicodeError)
#: A wrong word on the command line is not repeated at any length.
_LONGEST_MESSAGE = 1000


def run() -> NoReturn:
    """Run the command line of this process and end it with its exit code; this is the program ``transferseg``."""
    end_process(main())


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command line and return its exit code."""
    for stream in (sys.stdout, sys.stderr):
        # What a terminal or a pipe cannot show (a name in Japanese on cp1252) is escaped, and no reason to fail.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")
    with clean_output():
        code = _run(argv)
        for stream in (sys.stdout, sys.stderr):
            if not _flushed(stream):
                code = code or 2
    return code


def _run(argv: Sequence[str] | None) -> int:
    """Do what a command line asks for, say what was wrong in one line, and return the exit code."""
    as_json = False
    try:
        Path.cwd()
    except OSError:
        _say("the current folder is not there any more: change to another one.")
        return 2
    try:
        words = list(sys.argv[1:] if argv is None else argv)
        arguments = _parser_for(words).parse_args(words)
        arguments.words = words
        as_json = getattr(arguments, "progress", None) == "json"
        if not hasattr(arguments, "run"):
            make_parser().print_help()
            return 0
        code = int(arguments.run(arguments))
        if sys.stdout is not None:
            sys.stdout.flush()
        return code
    except Cancelled as stopped:
        _say(str(stopped), as_json, is_stopped=True)
        return 130
    except KeyboardInterrupt:
        _say("stopped.", as_json)
        return 130
    except TransferSegError as error:
        _say(str(error), as_json)
        return 2
    except BrokenPipeError:
        # The reader of our output has ended, as `head` does: there is no one to report to.
        _forget(sys.stdout)
        return 0
    except _OF_THE_COMPUTER as error:
        _say(_reason(error), as_json)
        return 2
    except RuntimeError as error:
        if not str(error).startswith("Symlink loop"):  # what pathlib raises for one
            raise
        _say(f"{error}: give another path.", as_json)
        return 2


def _say(message: str, as_json: bool = False, is_stopped: bool = False) -> None:
    """Print an error for a person, where that is possible; of processes that train together one does.

    A program that reads JSON lines gets one, too.
    """
    if not speaks_for_all(is_stopped):
        return
    if as_json:
        from TransferSegLib.cli.reporting import JsonLines

        with suppress(OSError, ValueError):
            JsonLines().error(message)
    with suppress(OSError, ValueError):
        print(f"transferseg: {message}", file=sys.stderr)


def _reason(error: BaseException) -> str:
    """Return in a line what a computer, a disk or a text that is none had against a command."""
    if isinstance(error, OSError) and error.strerror:
        where = f"{error.filename}: " if error.filename is not None else ""
        full = " Is the disk full?" if error.errno == errno.ENOSPC else ""
        return f"{where}{error.strerror}.{full}"
    if isinstance(error, MemoryError):
        return (
            f"there is not enough memory for this ({error})." if str(error) else "there is not enough memory for this."
        )
    lines = str(error).splitlines()
    return f"a value cannot be used: {lines[0][:200] if lines else type(error).__name__}."


def _flushed(stream: TextIO | None) -> bool:
    """Write what is left of an output; where that is refused (/dev/full), say so once and forget it."""
    if stream is None:
        return True
    try:
        stream.flush()
    except BrokenPipeError:
        _forget(stream)
    except ValueError:
        return True  # closed
    except OSError as error:
        _forget(stream)
        if stream is sys.stdout:
            _say(f"the output cannot be written: {error.strerror or error}.")
        return False
    return True


def _forget(stream: TextIO | None) -> None:
    """Let what is left of an output go nowhere, so that Python does not fail at it when it ends."""
    with suppress(OSError, ValueError, AttributeError):
        assert stream is not None
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)


class _Parser(argparse.ArgumentParser):
    """Says what is wrong with a command line in one line; the verbs' parsers are of this kind, too."""

    _words: Sequence[str] = ()

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line, and keep its words for what is said of a mistake in it."""
        self._words = list(sys.argv[1:] if args is None else args)
        return super().parse_args(self._words, namespace)

    def error(self, message: str) -> NoReturn:
        """Print the line and exit with 2, without the whole usage, in which it would not be found."""
        suggestion = self._suggestion(message)
        if not speaks_for_all():
            self.exit(2)
        message = f"{message}{'.' if suggestion.startswith(' ') else ''}{suggestion}"
        message = message if len(message) <= _LONGEST_MESSAGE else f"{message[:_LONGEST_MESSAGE]}..."
        self.exit(2, f"transferseg: {message} (see: {self.prog} --help)\n")

    def _suggestion(self, message: str) -> str:
        """Return a question that names what was probably meant by a word that is unknown."""
        wrong = re.search(r"invalid choice: '(.*?)' \(choose from (.*)\)", message, re.DOTALL)
        if wrong is not None:
            return did_you_mean(wrong[1], re.findall(r"[^', ]+", wrong[2]))
        unknown = re.match(r"unrecognized arguments: --([^ =]+)", message)
        if unknown is None:
            return ""
        own = _options(_parser_of(self, self._words))
        others = sorted(command for command, options in _commands(make_parser()).items() if unknown[1] in options)
        if unknown[1] not in own and others:
            return f": it is an option of {' and of '.join(others[:3])}"
        return did_you_mean(unknown[1], own)


def _subparsers(parser: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    """Return the parsers of a parser's commands by name."""
    actions = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    return {name: command for action in actions for name, command in action.choices.items()}


def _parser_of(parser: argparse.ArgumentParser, words: Sequence[str]) -> argparse.ArgumentParser:
    """Return the parser of the command that the words of a command line name."""
    for word in words:
        parser = _subparsers(parser).get(word, parser)
    return parser


def _options(parser: argparse.ArgumentParser) -> set[str]:
    """Return the long options of a parser, without the dashes."""
    return {option[2:] for action in parser._actions for option in action.option_strings if option.startswith("--")}


def _commands(parser: argparse.ArgumentParser) -> dict[str, set[str]]:
    """Return the long options of every command below a parser, by its name: 'models import'."""
    found = {}
    for name, command in _subparsers(parser).items():
        found[name] = _options(command)
        found.update({f"{name} {below}": options for below, options in _commands(command).items()})
    return found


def _parser_for(words: Sequence[str]) -> argparse.ArgumentParser:
    """Return a parser that knows the verb of a command line; all verbs are imported only where none is named.

    The panel waits for ``transferseg jobs start``, which needs a tenth of what the others import.
    """
    verb = words[0].replace("-", "_") if words and "_" not in words[0] else ""
    return make_parser([verb]) if verb in _VERBS else make_parser()


def make_parser(verbs: Sequence[str] = _VERBS) -> argparse.ArgumentParser:
    """Return the parser of these verbs, of all where none are named."""
    parser = _Parser(
        prog="transferseg",
        description="Segment structures in 3D scans, and adapt the model to new ones from a few corrected cases.",
    )
    parser.add_argument("--version", action="version", version=f"transferseg {code_version()}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for verb in verbs:
        import_module(f"TransferSegLib.cli.{verb}").add_parser(subparsers)
    return parser


if __name__ == "__main__":
    run()
