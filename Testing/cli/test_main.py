"""The command as a whole: help, unknown words, exit codes, models, evaluate, train-base."""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from TransferSegLib.cli import jobs
from TransferSegLib.cli.main import main
from TransferSegLib.cli.reporting import duration
from TransferSegLib.errors import Cancelled
from TransferSegLib.wording import table

DATA = Path(__file__).resolve().parents[1] / "Data"
MODEL = str(DATA / "model_format_1" / "model")
TINY = ["--width", "2", "--spacing-mm", "8", "--patch", "32", "--validation-share", "0", "--device", "cpu"]


def test_help_needs_no_torch() -> None:
    code = (
        "import sys; from TransferSegLib.cli.main import main\n"
        "try: main(['--help'])\nexcept SystemExit: pass\n"
        "assert 'torch' not in sys.modules, 'torch was imported'"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    for verb in ("segment", "demo", "train-base", "dataset", "evaluate", "models", "jobs"):
        assert verb in done.stdout


def test_a_command_imports_what_it_needs() -> None:
    """The panel waits for ``jobs start``: it is not to load what other commands compute with."""
    code = (
        "import sys; from TransferSegLib.cli.main import main\n"
        "assert main(['jobs', 'list']) == 0\n"
        "print(*{'numpy', 'scipy', 'SimpleITK', 'torch', 'TransferSegLib.cli.segment'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "", done.stdout


def test_an_option_of_another_command_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["jobs", "list", "--statistics", "here.csv"])
    assert "it is an option of segment" in capsys.readouterr().err


def test_no_verb_prints_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    assert "usage: transferseg" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "transferseg: the following arguments are required: --output (see: transferseg segment --help)\n"),
        (["a", "--output", "b", "--nope"], "transferseg: unrecognized arguments: --nope (see: transferseg --help)\n"),
    ],
)
def test_a_wrong_command_line_is_one_line(words: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        main(["segment", *words])
    assert stopped.value.code == 2
    assert capsys.readouterr() == ("", said)


def test_models_show_and_export(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models", "show", MODEL]) == 0
    shown = capsys.readouterr().out
    description = json.loads((Path(MODEL) / "model.json").read_text())
    assert all(structure["name"] in shown for structure in description["structures"])
    assert main(["models", "export", MODEL, str(tmp_path / "one.zip")]) == 0
    assert main(["models", "show", str(tmp_path / "one.zip")]) == 0
    assert main(["models", "show", "no such model"]) == 2
    assert "Traceback" not in capsys.readouterr().err


def test_evaluate_writes_every_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "dice.json"
    words = ["--data", str(DATA / "head_neck_ct"), "--model", MODEL, "--device", "cpu"]
    assert main(["evaluate", *words, "--cases", "pt_103", "--json", str(file)]) == 0
    assert ", 1 case of " in capsys.readouterr().out
    scores = json.loads(file.read_text())
    assert list(scores) == ["pt_103"]
    assert all(0 <= value <= 1 for value in scores["pt_103"].values())
    assert main(["evaluate", *words, "--cases", "nobody"]) == 2


def test_train_base_and_resume(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["train-base", "--data", str(DATA / "head_neck_ct"), "--output", str(tmp_path / "run")]
    assert main([*words, *TINY, "--steps", "1", "--name", "small one"]) == 0
    assert "model is in" in capsys.readouterr().out
    assert main([*words, *TINY, "--steps", "1"]) == 2
    assert "--resume" in capsys.readouterr().err
    # The knobs of the run are remembered: only what changes needs to be said.
    assert main([*words, "--resume", "--steps", "2", "--device", "cpu"]) == 0
    from TransferSegLib.models.store import load_description
    from TransferSegLib.training.checkpoint import read_checkpoint, write_checkpoint

    assert load_description(tmp_path / "run" / "model").name == "small one"
    # The checkpoint of an earlier version does not tell the name; the model that was written does.
    file = tmp_path / "run" / "checkpoint.pt"
    before = {key: value for key, value in read_checkpoint(file).items() if key != "name"}
    write_checkpoint(file, before)
    assert main([*words, "--resume", "--steps", "3", "--device", "cpu"]) == 0
    assert load_description(tmp_path / "run" / "model").name == "small one"
    assert read_checkpoint(file)["name"] == "small one"
    assert main([*words, "--resume", "--width", "4", "--device", "cpu"]) == 2
    assert "another width" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "message"),
    [("{", "JSON"), ("[1]", "object"), ('{"wdith": 3}', "Unknown setting"), ('{"augmentation": 3}', "object")],
)
def test_bad_configuration_files(
    content: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "knobs.json"
    file.write_text(content)
    words = ["train-base", "--data", str(DATA / "head_neck_ct"), "--output", str(tmp_path / "run")]
    assert main([*words, "--configuration", str(file)]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(os.name == "nt", reason="Ctrl-C is sent as SIGINT here")
def test_ctrl_c_leaves_a_checkpoint_to_resume(tmp_path: Path) -> None:
    words = ["train-base", "--data", str(DATA / "head_neck_ct"), "--output", str(tmp_path / "run"), *TINY]
    command = [sys.executable, "-m", "TransferSegLib", *words, "--steps", "100000", "--checkpoint-every", "1"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 240
        while not (tmp_path / "run" / "checkpoint.pt").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=240)
    assert process.returncode == 130
    assert "--resume" in error and "Traceback" not in error
    from TransferSegLib.training.checkpoint import read_checkpoint

    assert read_checkpoint(tmp_path / "run" / "checkpoint.pt")["trainer"]["step"] >= 1


@pytest.mark.parametrize("has_checkpoint", [False, True])
def test_what_is_said_of_a_stopped_training(
    has_checkpoint: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while the cases are read there is no checkpoint yet; a command that is printed can be given as it is."""
    from TransferSegLib.training import base

    output = tmp_path / "my run"

    def stopped(*_: object) -> Path:
        output.mkdir()
        if has_checkpoint:
            (output / "checkpoint.pt").touch()
        raise Cancelled("Stopped on request.")

    monkeypatch.setattr(base, "train_base", stopped)
    words = ["--data", str(DATA / "head_neck_ct"), "--output", str(output), "--name", "small one"]
    assert main(["train-base", *words]) == 130
    said = capsys.readouterr().err
    if has_checkpoint:
        command = said.split("Go on with: ")[1].splitlines()[0]
        assert shlex.split(command) == ["transferseg", "train-base", *words, "--resume"]
    else:
        assert "nothing to resume" in said and "--resume" not in said


def test_a_printed_command_of_a_job_can_be_given_as_it_is() -> None:
    arguments = argparse.Namespace(jobs_folder=Path("my jobs"))
    command = jobs._call("follow", Path("my jobs") / "job-1", arguments)
    assert shlex.split(command) == ["transferseg", "jobs", "follow", "job-1", "--jobs-folder", "my jobs"]


def test_durations_and_tables() -> None:
    assert [duration(s) for s in (8.4, 185, 7800)] == ["8 s", "3 min 05 s", "2 h 10 min"]
    assert table(("name", "n"), [("a", "10")]) == "name   n\n----  --\na     10"


def test_what_the_output_cannot_show_is_escaped():
    code = (
        "import sys; from TransferSegLib.cli import main; "
        "main.make_parser = lambda: print('脾臓') or sys.exit(0); sys.exit(main.main([]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONIOENCODING": "cp1252"}, capture_output=True, check=False
    )
    assert (done.returncode, done.stdout.strip()) == (0, b"\\u813e\\u81d3"), done.stderr


def test_no_verb_is_imported_before_main_runs():
    code = "import sys, TransferSegLib.cli.main; print([name for name in sys.modules if '.cli.' in name])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "['TransferSegLib.cli.main']"


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        (["segmnt"], "segment"),
        (["cases", "lst"], "list"),
        (["segment", "a", "--output", "b", "--format", ".nii.g"], ".nii.gz"),
        (["segment", "a", "--output", "b", "--previw", "c.png"], "preview"),
        (["segment", "a.nii", "--output", "b", "--structures", "brainsten"], "brainstem"),
        (["models", "show", "head-nek-ct"], "head-neck-ct"),
    ],
)
def test_what_was_probably_meant(words: list[str], meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        code: object = main(words)
    except SystemExit as ended:
        code = ended.code
    assert code == 2
    assert f"Did you mean '{meant}'?" in capsys.readouterr().err


def test_a_word_that_is_like_no_other_gets_no_suggestion(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["xylophone"])
    assert "Did you mean" not in capsys.readouterr().err
