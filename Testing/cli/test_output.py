"""What the command line prints: nothing steers the terminal, and no output that fails ends in a traceback."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from TransferSegLib.clean_text import CleanStream, clean
from TransferSegLib.cli.main import main

MODEL = Path(__file__).resolve().parents[1] / "Data" / "model_format_1" / "model"
#: Clears the screen, sets the window's title, goes back in the line, and turns the direction of reading.
EVIL = "a\x1b[2J\x1b]0;owned\x07b\x9b31m\rc\u202ed\x7f\x00e"

posix = pytest.mark.skipif(os.name == "nt", reason="devices and folders of Linux and macOS")


def test_control_characters_are_shown_as_text() -> None:
    assert clean("plain\ttext\nGröße 日本") == "plain\ttext\nGröße 日本"
    assert clean(EVIL) == r"a\u001b[2J\u001b]0;owned\u0007b\u009b31m\u000dc\u202ed\u007f\u0000e"
    assert json.loads(json.dumps([clean(EVIL)])) == [clean(EVIL)]
    assert json.loads(f'"{clean(EVIL)}"') == EVIL, "as an escape in JSON it means the same"


def test_a_progress_bar_is_still_drawn_over_itself(tmp_path: Path) -> None:
    with (tmp_path / "out").open("w", newline="") as stream:
        clean_stream = CleanStream(stream)
        for text in ("\rbar 10%", "\r", "\rbar\x1b[A 20%\r", "\r\n", "line\r\nline\n", "a\rb"):
            assert clean_stream.write(text) == len(text)
        assert not clean_stream.isatty() and clean_stream.fileno() == stream.fileno()
    assert (tmp_path / "out").read_bytes() == b"\rbar 10%\r\rbar\\u001b[A 20%\r\r\nline\nline\na\\u000db"


def test_no_text_of_a_model_or_argument_reaches_the_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model = tmp_path / "library" / "evil"
    shutil.copytree(MODEL, model)
    entry = json.loads((model / "model.json").read_text())
    entry |= {"summary": EVIL, "license": EVIL, "citation": EVIL, "version": EVIL}
    (model / "model.json").write_text(json.dumps(entry))
    words = ["--library", str(tmp_path / "library")]
    for command in (
        ["show", str(model)],
        ["show", str(model), "--json"],
        ["list"],
        ["list", "--json"],
        ["show", EVIL[:-2]],
    ):
        main(["models", *command, *words])
        captured = capsys.readouterr()
        for text in (captured.out, captured.err):
            assert not set(text) & set("\x1b\x07\x9b\r\u202e\x7f\x00"), command
        if "--json" in command:
            json.loads(captured.out)


def run(words: list[str], **more: object) -> subprocess.CompletedProcess[str]:
    more = {"stdout": subprocess.PIPE, "cwd": None} | more
    command = [sys.executable, "-m", "TransferSegLib", *words]
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    return subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False, env=environment, **more)  # type: ignore[call-overload,no-any-return]


@posix
def test_an_output_that_is_full_is_one_line() -> None:
    if not Path("/dev/full").exists():
        pytest.skip("there is no /dev/full here")
    for words in (["models", "list"], ["models", "list", "--json"]):
        with Path("/dev/full").open("w") as full:
            done = run(words, stdout=full)
        assert done.returncode == 2, done
        assert "No space left" in done.stderr and len(done.stderr.splitlines()) == 1


@posix
def test_an_output_that_nobody_reads_or_that_is_closed() -> None:
    command = f"{shlex.quote(sys.executable)} -m TransferSegLib models list >&-"
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    shell = ["/bin/sh", "-c", command]
    done = subprocess.run(shell, capture_output=True, text=True, check=False, env=environment)
    assert (done.returncode, done.stderr) == (0, "")
    read, write = os.pipe()
    os.close(read)
    done = run(["models", "list"], stdout=write)
    os.close(write)
    assert (done.returncode, done.stderr) == (0, "")


@posix
def test_a_folder_that_was_deleted_and_a_link_to_itself(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        f"import os; os.chdir({str(gone)!r}); os.rmdir({str(gone)!r})\n"
        "from TransferSegLib.cli.main import main; raise SystemExit(main(['models', 'list']))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stderr == (
        "transferseg: the current folder is not there any more: change to another one.\n"
    )


@posix
@pytest.mark.parametrize(
    "words",
    [
        ["cases", "list", "--project", "LOOP"],
        ["cases", "check", "--project", "LOOP/x"],
        ["models", "show", "LOOP"],
        ["models", "list", "--library", "LOOP"],
        ["models", "import", "LOOP"],
        ["models", "export", "LOOP", "x.zip"],
        ["jobs", "list", "--jobs-folder", "LOOP"],
        ["jobs", "show", "LOOP/"],
        ["dataset", "check", "LOOP"],
        ["finetune", "--project", "LOOP", "--minutes", "1"],
        ["segment", "LOOP", "--output", "x.nrrd"],
        ["train-base", "--data", "LOOP", "--output", "LOOP"],
        ["evaluate", "--data", "LOOP"],
    ],
    ids=lambda words: " ".join(words[:2]),
)
def test_a_link_to_itself_is_one_line(words: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loop = tmp_path / "loop"
    loop.symlink_to("loop")
    try:
        code = main([word.replace("LOOP", str(loop)) for word in words])
    except SystemExit as stopped:
        code = int(stopped.code or 0)
    error = capsys.readouterr().err
    assert "Traceback" not in error
    if words[:2] not in (["models", "list"], ["jobs", "list"]):
        assert code == 2 and error.startswith("transferseg: "), (code, error)


def test_numbers_on_the_command_line_that_cannot_be(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = str(tmp_path / "nowhere")
    for value in ("9" * 5000, "1e999", "nan", "-inf", "\ud800", ""):
        for option in ("--minutes", "--folds", "--seed", "--tolerance-mm"):
            try:
                code = main(["finetune", "--project", project, f"{option}={value}"])
            except SystemExit as stopped:
                code = int(stopped.code or 0)
            error = capsys.readouterr().err
            assert code == 2 and error.startswith("transferseg: ") and len(error) < 1500, (option, value)
