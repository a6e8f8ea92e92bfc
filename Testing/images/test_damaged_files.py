"""No damaged file may end the caller's process: thousands are read in a child process, which must survive them all."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from TransferSegLib.child_process import find_interpreter
from TransferSegLib.errors import ScanError
from TransferSegLib.images.read import read_scan


@pytest.mark.parametrize("seed", [1, 2])
def test_damaged_headers_never_crash(tmp_path: Path, seed: int) -> None:
    script = Path(__file__).with_name("fuzz_reading.py")
    root = Path(__file__).parents[2]
    command = [sys.executable, str(script), str(tmp_path), "120", str(seed)]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    read, refused = (int(number) for number in done.stdout.split()[-2:])
    assert read + refused == 9 * 120
    assert read > 50 and refused > 300  # the damage is neither always harmless nor always caught


@pytest.mark.parametrize("name", ["scan.vtk", "scan.hdf5", "scan.gipl", "slice.dcm"])
def test_damaged_files_of_other_formats_are_one_line(tmp_path: Path, name: str) -> None:
    voxels = np.random.default_rng(0).integers(0, 1000, (8, 9, 10)).astype(np.int16)
    image = sitk.GetImageFromArray(voxels)
    image.SetMetaData("0008|0060", "MR")
    sitk.WriteImage(image, str(tmp_path / name))
    content = bytearray((tmp_path / name).read_bytes())
    content[len(content) // 3 : len(content) // 3 + 40] = bytes(40)
    (tmp_path / name).write_bytes(content[: len(content) * 2 // 3])
    with pytest.raises(ScanError) as caught:
        read_scan(tmp_path / name)
    assert str(tmp_path) in str(caught.value) and "\n" not in str(caught.value)


def test_a_crash_of_the_reader_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "scan.vtk").write_bytes(b"anything")
    crashing = tmp_path / "python-that-crashes"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o755)
    with pytest.raises(ScanError, match="crashes its reader"):
        read_scan(tmp_path / "scan.vtk", interpreter=crashing)


def test_the_interpreter_inside_slicer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_interpreter() == Path(sys.executable)
    (tmp_path / "bin").mkdir()
    beside = tmp_path / "bin" / ("PythonSlicer.exe" if sys.platform == "win32" else "PythonSlicer")
    beside.touch()
    for executable in (tmp_path / "bin" / "SlicerApp-real", tmp_path / "Slicer"):
        monkeypatch.setattr(sys, "executable", str(executable))
        assert find_interpreter() == beside


def test_the_file_that_crashes_itk(tmp_path: Path, shared_data: Path) -> None:
    hostile = shared_data / "odd_volumes" / "hostile" / "5D_small.nii"
    with pytest.raises(ScanError, match="3 numbers in each voxel"):
        read_scan(hostile)
    # Read under a name without a header check, ITK crashes: only the child process does.
    renamed = tmp_path / "scan.nia"
    renamed.write_bytes(hostile.read_bytes())
    with pytest.raises(ScanError):
        read_scan(renamed)
