"""What a stranger's file may cost and reach: memory and time are bound by its size, other files stay closed."""

from __future__ import annotations

import ctypes
import gzip
import os
import struct
import subprocess
import sys
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from Testing.images import refusals
from TransferSegLib import process_limits
from TransferSegLib.child_process import IsolatedRead, ProcessResult, read_in_child, run_module
from TransferSegLib.corrections.project import Project
from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats import header_facts
from TransferSegLib.images.formats.header_facts import inflate
from TransferSegLib.images.read import read_label_map, read_scan
from TransferSegLib.process_limits import LimitedChild, Limits, held_bytes, resident_bytes
from TransferSegLib.windows_job import _ExtendedLimits

linux = pytest.mark.skipif(sys.platform != "linux", reason="RLIMIT_AS is kept on Linux only")
VOXELS = np.arange(100, 160, dtype=np.uint8).reshape(3, 4, 5)
NRRD = "NRRD0004\ntype: uchar\ndimension: 3\nsizes: 5 4 3\nencoding: raw\n"
MHD = "ObjectType = Image\nNDims = 3\nBinaryData = True\nDimSize = 5 4 3\nElementType = MET_UCHAR\n"


def refusal(path: Path, read=read_scan) -> str:
    return refusals.refusal(read, path)


def nrrd_header(size: tuple[int, int, int], kind: str = "double") -> bytes:
    sizes = " ".join(map(str, size))
    return f"NRRD0004\ntype: {kind}\ndimension: 3\nsizes: {sizes}\nendian: little\nencoding: gzip\n\n".encode()


def test_many_tiny_members_are_refused_in_time_that_grows_with_the_file(tmp_path: Path) -> None:
    empty = gzip.compress(b"")
    (tmp_path / "bomb.nii.gz").write_bytes(empty * 400_000)
    started = time.process_time()
    assert "pieces with next to nothing in them" in refusal(tmp_path / "bomb.nii.gz")
    # Also where real data come before: each of these members copied the rest of a megabyte.
    (tmp_path / "bomb.nrrd").write_bytes(nrrd_header((20, 20, 20)) + gzip.compress(bytes(60_000)) + empty * 400_000)
    assert "pieces" in refusal(tmp_path / "bomb.nrrd")
    assert time.process_time() - started < 3


def test_members_as_bgzip_and_pigz_write_them_are_read(tmp_path: Path) -> None:
    content = np.random.default_rng(0).integers(0, 99, 300_000).astype(np.uint8).tobytes()
    pieces = [gzip.compress(content[start : start + 1000]) for start in range(0, len(content), 1000)]
    between = gzip.compress(b"").join(pieces) + gzip.compress(b"") + b"\0" * 512  # padding, as tar writes it
    (tmp_path / "a.gz").write_bytes(between)
    assert b"".join(inflate(tmp_path / "a.gz")) == content
    (tmp_path / "a.z").write_bytes(b"xx" + zlib.compress(content) + b"rest")
    assert b"".join(inflate(tmp_path / "a.z", 2)) == content
    (tmp_path / "short.gz").write_bytes(between[:90_000])
    assert content.startswith(b"".join(inflate(tmp_path / "short.gz")))


def test_claims_that_cannot_be_held_are_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "claim.nrrd"
    path.write_bytes(nrrd_header((1200, 1200, 1200)) + gzip.compress(bytes(1 << 20)))
    started = time.process_time()
    assert "1,136" not in refusal(path) and "compressed bytes cannot hold" in refusal(path)
    # As many bytes as would do, of which no scan is made: 13.8 GB in 20 MB.
    path.write_bytes(nrrd_header((1200, 1200, 1200)) + os.urandom(20_000_000))
    assert "GB" in refusal(path)
    assert time.process_time() - started < 1


def test_free_memory_is_respected(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = sitk.GetImageFromArray(np.arange(4000, dtype=np.int16).reshape(10, 20, 20))
    for name in ("a.nii", "b.nii.gz", "c.vtk"):
        sitk.WriteImage(image, str(tmp_path / name))
        assert read_scan(tmp_path / name).GetSize() == (20, 20, 10)
    monkeypatch.setattr(header_facts, "available_memory_bytes", lambda: 10_000)
    for name in ("a.nii", "b.nii.gz"):
        assert "GB of memory, and 0.0 GB are free. Close other programs" in refusal(tmp_path / name)
    monkeypatch.setattr(process_limits, "available_memory_bytes", lambda: 1 << 29)
    limits = Limits.for_input(tmp_path / "c.vtk")
    assert limits.scarce and limits.memory_bytes == 1 << 29 and "Close other programs" in limits.memory_text(tmp_path)


def test_blank_volumes_of_ordinary_size_are_read(tmp_path: Path) -> None:
    """The strongest compression there is: an empty label map of a large scan."""
    blank = sitk.Image([512, 512, 300], sitk.sitkUInt8)
    for name in ("blank.nii.gz", "blank.nrrd"):
        sitk.WriteImage(blank, str(tmp_path / name), useCompression=True)
        assert read_label_map(tmp_path / name).GetSize() == (512, 512, 300)


@linux
def test_small_slices_that_claim_huge_images(tmp_path: Path) -> None:
    for number in range(2):
        flat = sitk.GetImageFromArray(np.zeros((1, 40, 40), np.int16))
        flat.SetMetaData("0008|0060", "CT")
        flat.SetMetaData("0020|000e", "1.2.3")
        flat.SetMetaData("0020|0032", f"0\\0\\{number}")
        flat.SetMetaData("0020|0037", "1\\0\\0\\0\\1\\0")
        path = tmp_path / f"{number}.dcm"
        writer = sitk.ImageFileWriter()
        writer.KeepOriginalImageUIDOn()
        writer.SetFileName(str(path))
        writer.Execute(flat)
        content = path.read_bytes()
        for tag in (b"\x28\0\x10\0\2\0\0\0", b"\x28\0\x11\0\2\0\0\0"):
            start = content.index(tag) + 8
            content = content[:start] + struct.pack("<H", 40_000) + content[start + 2 :]
        path.write_bytes(content)
    assert "claims 40000 x 40000 x 2 voxels" in refusal(tmp_path)


HUNGRY = """
import sys
from pathlib import Path
from TransferSegLib.process_limits import is_out_of_memory, limit_this_process, own_limits
limits = own_limits()
limit_this_process(limits)
what = sys.argv[-1]
if what == "memory":
    try:
        taken = [b"x" * (1 << 27) for _ in range(64)]
    except MemoryError as error:
        Path(sys.argv[1], "result.json").write_text('{"error": "%s"}' % limits.memory_text("scan"))
else:
    while True:
        pass
"""


@linux
@pytest.mark.parametrize(("what", "message"), [("memory", "than 0.8 GB of memory, far more"), ("time", "1 s of comp")])
def test_the_limits_end_a_child_in_one_line(tmp_path: Path, monkeypatch, what: str, message: str) -> None:
    (tmp_path / "hungry.py").write_text(HUNGRY)
    (tmp_path / "scan.x").write_bytes(b"123")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    monkeypatch.setattr(process_limits, "_LEAST_PROCESSOR_S", 1)
    reading = IsolatedRead("hungry", tmp_path / "scan.x", ScanError, "", 60, args=(what,))
    with pytest.raises(ScanError, match=message), read_in_child(reading):
        pass


@pytest.mark.skipif(os.name == "nt", reason="ps is not there")
def test_a_child_that_cannot_limit_itself_is_watched(tmp_path: Path, monkeypatch) -> None:
    """As on macOS: the caller looks at the memory of the child and of what it started, and ends it."""
    child = subprocess.Popen(["sh", "-c", "sleep 60 & sleep 60"], start_new_session=True)
    try:
        deadline = time.monotonic() + 60  # the shell and what it started are there a moment later
        while resident_bytes(child.pid) <= 1 << 19 and time.monotonic() < deadline:
            time.sleep(0.02)
        assert 1 << 19 < resident_bytes(child.pid) < 1 << 26
        monkeypatch.setattr(LimitedChild, "_EVERY_S", 0)
        assert not LimitedChild(Limits(1 << 20, 1), child, watch=True).takes_too_much()
        monkeypatch.setattr(process_limits, "_MODULES_BYTES", 0)
        assert LimitedChild(Limits(1 << 10, 1), child, watch=True).takes_too_much()
        assert not LimitedChild(Limits(1 << 10, 1), child, watch=False).takes_too_much()
    finally:
        os.killpg(child.pid, 9)
        child.wait()
    monkeypatch.setattr(LimitedChild, "takes_too_much", lambda self: True)
    (tmp_path / "sleeping.py").write_text("import time; time.sleep(60)")
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    end = run_module(Path(sys.executable), "sleeping", [], 30, None, Limits(1, 1))
    assert end.over_memory and isinstance(end, ProcessResult)


def test_the_structure_that_windows_takes_is_144_bytes_long() -> None:
    assert ctypes.sizeof(_ExtendedLimits) == 144 and _ExtendedLimits.job_memory.offset == 120


def test_a_disk_that_became_full_unnoticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numpy writes arrays without noticing every full disk: the file of the voxels is too short."""
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(tmp_path / "a.vtk"))
    original = np.load

    def cut_off(file: Path, **options: object) -> np.ndarray:
        file.write_bytes(file.read_bytes()[:-20])
        return original(file, **options)

    monkeypatch.setattr(np, "load", cut_off)
    assert "is full" in refusal(tmp_path / "a.vtk")


def test_what_counts_as_input(tmp_path: Path) -> None:
    (tmp_path / "below").mkdir()
    for name in ("a.dcm", "below/b.dcm"):
        (tmp_path / name).write_bytes(bytes(1000))
    assert [held_bytes(tmp_path), held_bytes(tmp_path / "a.dcm"), held_bytes(tmp_path / "a.dcm", True)] == [
        2000,
        1000,
        1000,
    ]


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    """Write a file outside the scan's folder, as many bytes long as the scan has voxels."""
    (tmp_path / "elsewhere").mkdir()
    path = tmp_path / "elsewhere" / "secret.raw"
    path.write_bytes(VOXELS.tobytes())
    (tmp_path / "scans").mkdir()
    return path


def headers(name: str, names: tuple[str, ...] = ()) -> dict[str, str]:
    """Return headers that take their voxels from a name or from a list of names."""
    return {
        "a.nhdr": f"{NRRD}data file: {name}\n" + "".join(f"{one}\n" for one in names),
        "b.nrrd": f"{NRRD}datafile: {name}\n" + "".join(f"{one}\n" for one in names),
        "c.nhdr": f"{NRRD}byte skip: 0\nDATA FILE:  {name}\n" + "".join(f"{one}\n" for one in names),
        "d.mhd": f"{MHD}ElementDataFile = {name}\n" + "".join(f"{one}\n" for one in names),
        "e.mha": f"{MHD}HeaderSize = 0\nElementDataFile = {name}\n" + "".join(f"{one}\n" for one in names),
    }


def test_voxels_are_only_read_beside_the_header(secret: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    (folder / "link.raw").symlink_to(secret)
    (folder / "s1.raw").symlink_to(secret)
    (folder / "out").symlink_to(secret.parent)
    for number in (0, 2):
        (folder / f"s{number}.raw").write_bytes(bytes(range(20)))
    outside = [str(secret), "../elsewhere/secret.raw", "link.raw", "out/secret.raw", "./../elsewhere/secret.raw", "-"]
    outside += [f"{secret.parent}/%s.raw 0 2 1".replace("%s", "s%d"), "s%d.raw 0 2 1", "s%01d.raw 2 0 -1"]
    cases = [(name, ()) for name in outside]
    cases += [("LIST", ("s0.raw", name, "s2.raw")) for name in outside[:5]]
    cases += [("LIST 2", ("s0.raw", str(secret))), ("LISTx", (str(secret),))]
    for name, names in cases:
        for file, text in headers(name, names).items():
            (folder / file).write_text(text)
            said = refusal(folder / file)
            assert "no file in the same folder" in said, (file, name, said)


def test_what_itk_may_understand_otherwise_is_damaged(secret: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    (folder / "own.raw").write_bytes(VOXELS.tobytes())
    hidden = {
        "a.nhdr": f"{NRRD}data file: own.raw\ndata file: {secret}\n",
        "b.nhdr": f"{NRRD}content: x\rdata file: {secret}\ndatafile: own.raw\n",
        "c.nhdr": f"{NRRD}content: x\0data file: {secret}\ndatafile: own.raw\n",
        "d.mhd": f"{MHD}ElementDataFile : {secret}\nElementDataFile = own.raw\n",
        "e.mhd": f"{MHD}Comment = x\rElementDataFile = {secret}\nElementDataFile = own.raw\n",
    }
    for file, text in hidden.items():
        (folder / file).write_text(text, newline="")
        assert "damaged" in refusal(folder / file)


def test_data_files_beside_the_header_are_read(secret: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    (folder / "own.raw").write_bytes(VOXELS.tobytes())
    (folder / "same.raw").symlink_to("own.raw")
    for number in range(3):
        (folder / f"s{number}.raw").write_bytes(VOXELS[number].tobytes())
    listed = ("s0.raw", "s1.raw", "s2.raw")
    for name, names in (("own.raw", ()), ("same.raw", ()), ("s%d.raw 0 2 1", ()), ("LIST", listed)):
        for file, text in headers(name, names).items():
            (folder / file).write_text(text)
            if file == "c.nhdr" and name != "own.raw":  # ITK takes no "byte skip" before several files
                continue
            assert np.array_equal(sitk.GetArrayFromImage(read_scan(folder / file)), VOXELS), (file, name)


def test_a_pair_does_not_lead_outside(secret: Path, tmp_path: Path) -> None:
    image = sitk.GetImageFromArray(VOXELS)
    sitk.WriteImage(image, str(tmp_path / "scans" / "a.hdr"))
    assert read_scan(tmp_path / "scans" / "a.hdr").GetSize() == (5, 4, 3)
    (tmp_path / "scans" / "a.img").unlink()
    (tmp_path / "scans" / "a.img").symlink_to(secret)
    assert "no file in the same folder" in refusal(tmp_path / "scans" / "a.hdr")
    sitk.WriteImage(image, str(tmp_path / "scans" / "b.vtk"))
    (tmp_path / "scans" / "b.rec").symlink_to(secret)
    assert "b.rec beside it is a link to another folder" in refusal(tmp_path / "scans" / "b.vtk")


@pytest.mark.skipif(os.name == "nt", reason="HDF5 files are not read there")
def test_hdf5_takes_no_voxels_from_other_files(secret: Path, tmp_path: Path) -> None:
    h5py = pytest.importorskip("h5py")
    path = tmp_path / "scans" / "a.h5"
    sitk.WriteImage(sitk.GetImageFromArray(VOXELS), str(path))
    assert np.array_equal(sitk.GetArrayFromImage(read_scan(path)), VOXELS)
    with h5py.File(path, "r+") as file:
        del file["/ITKImage/0/VoxelData"]
        file.create_dataset("/ITKImage/0/VoxelData", (3, 4, 5), dtype="u1", external=[(str(secret), 0, 60)])
    assert np.array_equal(sitk.GetArrayFromImage(sitk.ReadImage(str(path))), VOXELS)  # ITK alone would
    refusal(path)


def test_no_case_is_made_of_another_file(secret: Path, tmp_path: Path) -> None:
    folder = tmp_path / "scans"
    (folder / "scan.nhdr").write_text(f"{NRRD}data file: {secret}\n")
    sitk.WriteImage(sitk.GetImageFromArray((VOXELS > 120).astype(np.uint8)), str(folder / "labels.nrrd"))
    project = Project(tmp_path / "project", create=True)
    with pytest.raises(ScanError, match="no file in the same folder"):
        project.add_case(folder / "scan.nhdr", folder / "labels.nrrd", ["liver"], structures={1: "liver"})
    assert not list((tmp_path / "project").rglob("*.nii.gz"))
