"""The test host with the real module in it, for the tests of this folder.

Where it cannot start they are skipped, loudly; where CI is set to true, they fail.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from Testing.conftest import NOT_STARTED

TESTING = Path(__file__).resolve().parents[1]
MODULE = TESTING.parent / "TransferSeg" / "TransferSeg.py"
#: What the host needs of the system; Testing/run.py installs the Python packages.
NEEDED = "libegl1 libgl1 libgl1-mesa-dri libxkbcommon0 libdbus-1-3 fonts-dejavu-core (Debian's names)"

os.environ.setdefault("QT_QPA_PLATFORM", "offscreen")
os.environ.setdefault("VTK_DEFAULT_OPENGL_WINDOW", "vtkEGLRenderWindow")
os.environ.setdefault("PYSIDE6_OPTION_PYTHON_ENUM", "2")  # as slicerhost needs it, whoever imports PySide6 first
sys.path[:0] = [str(TESTING), str(Path(__file__).parent)]  # the host, and what tests of this folder share


@pytest.fixture(scope="session")
def host_environment() -> dict[str, str]:
    """Return the environment of a process in which the host starts; skips, or in CI fails, when it does not.

    It is tried in a process of its own, because a missing library may end the process instead of raising.
    """
    environment = os.environ | {"PYTHONPATH": str(TESTING)}
    program = "from slicerhost.window import Host; Host().slices['Red'].view.pixels()"
    command = [sys.executable, "-c", program]
    tried = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if tried.returncode:
        last = (tried.stderr.strip() or f"exit code {tried.returncode}").splitlines()[-1]
        why = f"{NOT_STARTED}{last}. It needs {NEEDED}."
        (pytest.fail if os.environ.get("CI", "").lower() == "true" else pytest.skip)(why)
    return environment


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Return a library folder with one tiny model, which is the user's library for these tests."""
    folder = tmp_path_factory.mktemp("models")
    shutil.copytree(TESTING / "Data" / "model_format_1" / "model", folder / "tiny")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRANSFERSEG_MODELS", str(folder))
        patch.setenv("TRANSFERSEG_PROJECTS", str(tmp_path_factory.mktemp("projects")))
        # Not the user's: a job that a test leaves there would be found by the panel of a later run.
        patch.setenv("TRANSFERSEG_JOBS", str(tmp_path_factory.mktemp("jobs")))
        yield folder


@pytest.fixture(scope="session")
def loaded_host(host_environment, models):
    """Return the host with the module's panel open."""
    from slicerhost.window import Host

    host = Host()
    host.loadModule(MODULE)
    yield host
    host.close()


@pytest.fixture(scope="session")
def closed_sections(loaded_host) -> dict[str, bool]:
    """Return which sections of the panel are closed when it is loaded, by the names of their buttons."""
    names = [f"{section}CollapsibleButton" for section in ("model", "segment", "correct", "fineTune")]
    return {name: getattr(loaded_host.widget.ui, name).collapsed for name in names}


@pytest.fixture
def host(loaded_host, closed_sections):
    """Return the host with an empty scene; afterwards no slot may have raised."""
    import slicer
    from slicerhost import pythonqt

    pythonqt.slotErrors.clear()
    slicer.mrmlScene.Clear(False)
    slicer.app.userSettings().remove("TransferSeg/ScanNames")  # another test may have saved the same scan
    for name, is_closed in closed_sections.items():
        getattr(loaded_host.widget.ui, name).collapsed = is_closed  # the tour opens one and closes the others
    four_up = loaded_host.layoutManager.layoutLogic().GetLayoutNode().SlicerLayoutFourUpView
    loaded_host.layoutManager.setLayout(four_up)  # another test may have shown a chart
    loaded_host.widget.enter()  # another test may have had a library of its own
    loaded_host.process()
    yield loaded_host
    assert not pythonqt.slotErrors


@pytest.fixture
def ui(host):
    return host.widget.ui


@pytest.fixture
def held_jobs(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch):
    """Hold the jobs that segment or rank until the test lets them work."""
    from held_jobs import HeldJobs

    return HeldJobs(tmp_path_factory.mktemp("held"), monkeypatch)


@pytest.fixture
def folder(tmp_path: Path, ui) -> Path:
    """Choose a project as the user does; it does not exist yet."""
    ui.projectPathLineEdit.currentPath = str(tmp_path / "project")
    ui.scanFolderPathLineEdit.currentPath = ""
    ui.notesLineEdit.text = ""
    return tmp_path / "project"
