"""Children of the library: nothing in the current folder is run, Ctrl-C is the caller's, and each end has its words."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.child_process import IsolatedRead, ProcessResult, read_in_child, run_module
from TransferSegLib.errors import Cancelled, ModelError, ScanError
from TransferSegLib.images.read import read_scan
from TransferSegLib.models.importers.keras.isolated import read_arrays_isolated
from TransferSegLib.process_tree import descendants, end_process_tree
from TransferSegLib.progress import CancelToken, Task

ROOT = Path(__file__).resolve().parents[1]
KERAS_FILE = ROOT / "Testing" / "Data" / "keras_files" / "keras_2" / "weights_only.h5"
#: Reads each kind of file in a child. Its own modules are imported before the current folder comes to the front of its
#: path, as ``python -m`` has it there: what is planted could only be run by a child.
CALLER = """
import os, sys
from pathlib import Path
import h5py, json, SimpleITK
from TransferSegLib.corrections.dicom_patient import read_patient_id
from TransferSegLib.models.importers.keras.isolated import read_arrays_isolated
from TransferSegLib.images.read import read_scan
sys.path.insert(0, os.getcwd())
keras, scan, dicom = map(Path, sys.argv[1:])
print(read_arrays_isolated(keras).keras_version, read_scan(scan).GetSize(), read_patient_id(dicom))
"""
#: A stand-in for an interpreter: says its process id, then takes a minute.
SLOW = "#!/bin/sh\necho $$ > {}\nsleep 60 & wait\n"
posix = pytest.mark.skipif(os.name == "nt", reason="the stand-ins for an interpreter are shell scripts")


def test_nothing_in_the_current_folder_is_run(tmp_path: Path) -> None:
    downloads, ran = tmp_path / "downloads", tmp_path / "ran"
    downloads.mkdir()
    shutil.copyfile(KERAS_FILE, downloads / "weights.h5")
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(2, 3, 4))
    sitk.WriteImage(image, str(downloads / "scan.vtk"))
    flat = sitk.GetImageFromArray(np.zeros((1, 3, 4), np.int16))
    flat.SetMetaData("0010|0020", "P-77")
    sitk.WriteImage(flat, str(downloads / "slice.dcm"))
    for planted in ("json.py", "h5py.py", "numpy.py", "SimpleITK.py"):
        (downloads / planted).write_text(f"open({str(ran)!r}, 'a').write({planted!r})\nraise SystemExit('planted')\n")
    words = [sys.executable, "-P", "-c", CALLER, "weights.h5", "scan.vtk", "slice.dcm"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(words, cwd=downloads, env=environment, capture_output=True, text=True, check=False)
    assert not ran.exists(), f"{ran.read_text()} was run"
    assert done.stdout.split("\n")[0] == "2.15.0 (4, 3, 2) P-77", done.stderr


def stand_in(folder: Path, script: str) -> Path:
    """Return a program that is run instead of Python."""
    program = folder / "python-stand-in"
    program.write_text(script)
    program.chmod(0o755)
    return program


@posix
def test_a_cancelled_child_is_gone(tmp_path: Path) -> None:
    told, cancel = tmp_path / "pid", CancelToken()
    python = stand_in(tmp_path, SLOW.format(told))

    def cancel_when_it_runs() -> None:
        while not (told.exists() and told.read_text().endswith("\n")):
            time.sleep(0.01)
        cancel.cancel()

    threading.Thread(target=cancel_when_it_runs, daemon=True).start()
    with pytest.raises(Cancelled):
        read_arrays_isolated(KERAS_FILE, python, Task("", None, cancel))
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


@posix
def test_a_child_that_hangs_is_ended_and_told(tmp_path: Path) -> None:
    told = tmp_path / "pid"
    reading = IsolatedRead("nothing", tmp_path / "x.h5", ModelError, "", 1.0)
    python = stand_in(tmp_path, SLOW.format(told))
    with pytest.raises(ModelError, match=r"x\.h5 cannot be read: .* timed out"), read_in_child(reading, python):
        pass
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


@posix
def test_ctrl_c_in_the_terminal_does_not_reach_the_child(tmp_path: Path) -> None:
    """The terminal sends SIGINT to the caller's group, of which the child is no member."""
    python = stand_in(tmp_path, f"#!{sys.executable}\nimport os; print(os.getpgrp())\n")
    group = int(run_module(python, "nothing", [], 20).output)
    assert group != os.getpgrp()


@posix
def test_ctrl_c_while_a_model_is_imported(tmp_path: Path) -> None:
    """SIGINT to the group of a whole ``models import`` is a cancellation, not a damaged file."""
    told = tmp_path / "pid"
    python = stand_in(tmp_path, SLOW.format(told))
    program = (
        "import sys; from pathlib import Path; import TransferSegLib.child_process as child; "
        "python = Path(sys.argv.pop(1)); child.find_interpreter = lambda: python; "
        "from TransferSegLib.cli.main import main; sys.exit(main())"
    )
    words = [sys.executable, "-c", program, str(python), "models", "import", str(KERAS_FILE)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "TRANSFERSEG_MODELS": str(tmp_path / "library")}
    process = subprocess.Popen(
        words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while process.poll() is None and not (told.exists() and told.read_text().endswith("\n")):
        time.sleep(0.01)
    assert process.poll() is None, process.communicate()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert "damaged" not in said and "Traceback" not in said and process.returncode not in (0, 1), said
    with pytest.raises(ProcessLookupError):
        os.kill(int(told.read_text()), 0)


@posix
@pytest.mark.parametrize(
    ("script", "words"),
    [
        ("kill -KILL $$", "not enough memory"),
        ("sh -c 'kill -KILL $$'", "not enough memory"),  # behind a launcher, as PythonSlicer is
        ("kill -TERM $$", "ended from outside"),
        ("kill -SEGV $$", r"crashes its reader: it is damaged\. "),
        ("echo oh >&2; exit 3", r"crashes its reader \(oh\): it is damaged\. "),
        ("exit 0", r"crashes its reader: it is damaged\. "),
    ],
)
def test_what_is_said_of_an_end(tmp_path: Path, script: str, words: str) -> None:
    (tmp_path / "scan.vtk").write_bytes(b"anything")
    python = stand_in(tmp_path, f"#!/bin/sh\n{script}\n")
    for error, read in (
        (ModelError, lambda: read_arrays_isolated(KERAS_FILE, python)),
        (ScanError, lambda: read_scan(tmp_path / "scan.vtk", interpreter=python)),
    ):
        with pytest.raises(error, match=words) as caught:
            read()
        assert ("damaged" in str(caught.value)) == ("damaged" in words)


def test_the_signal_of_an_end() -> None:
    ends = {code: ProcessResult(code, b"", b"").end_signal for code in (0, 1, -9, -11, 137, 128, 255)}
    assert ends == {0: None, 1: None, -9: 9, -11: 11, 137: 9, 128: None, 255: None}


def test_models_do_not_need_simpleitk() -> None:
    program = "import sys, TransferSegLib.models.importers.keras.isolated; assert 'SimpleITK' not in sys.modules"
    subprocess.run([sys.executable, "-c", program], check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@posix
def test_a_pipe_is_no_model(tmp_path: Path) -> None:
    from TransferSegLib.models.download import git_blob_id
    from TransferSegLib.models.incoming import read_incoming

    os.mkfifo(tmp_path / "model.h5")
    for read in (git_blob_id, read_incoming):
        # In a thread: a version that opens the pipe waits for ever.
        said: list[str] = []

        def attempt(read=read, said=said) -> None:
            try:
                read(tmp_path / "model.h5")
            except ModelError as error:
                said.append(str(error))

        thread = threading.Thread(target=attempt, daemon=True)
        thread.start()
        thread.join(20)
        assert said and "no file but a pipe" in said[0] and "\n" not in said[0]


@posix
def test_a_process_is_ended_with_what_it_started_in_sessions_of_its_own(tmp_path: Path) -> None:
    """A worker's child that reads a scan leads a session: neither a group nor a signal to the worker reaches it."""
    program = (
        "import subprocess, sys, time; "
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'], start_new_session=True); "
        f"open({str(tmp_path / 'pid')!r}, 'w').write(f'{{child.pid}}\\n'); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", program], start_new_session=True)
    told = tmp_path / "pid"
    while not (told.exists() and told.read_text().endswith("\n")):
        time.sleep(0.01)
    child = int(told.read_text())
    assert child in descendants(process.pid)
    end_process_tree(process.pid)
    assert process.wait(timeout=20) == -signal.SIGKILL
    deadline = time.monotonic() + 20
    while _runs(child) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not _runs(child)
    end_process_tree(process.pid)  # one that has ended is no error
    end_process_tree(0)


def _runs(process_id: int) -> bool:
    """Return whether a process runs: one that has ended may wait for its new parent."""
    try:
        os.kill(process_id, 0)
    except ProcessLookupError:
        return False
    stat = Path(f"/proc/{process_id}/stat")
    return not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] != "Z"
