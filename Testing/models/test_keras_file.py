"""Files that are not what their name says, damaged ones, and files made to reach outside or to exhaust the memory."""

from __future__ import annotations

import random
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pytest

from TransferSegLib.errors import ModelError
from TransferSegLib.models.importers.keras.isolated import read_arrays_isolated
from TransferSegLib.models.importers.keras.network import read_arrays

GOOD = Path(__file__).resolve().parents[1] / "Data" / "keras_files" / "keras_2" / "weights_only.h5"
KERNEL = "conv3d_7/conv3d_7/kernel:0"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Return a copy of a good file that may be changed."""
    path = tmp_path / "copy.h5"
    shutil.copyfile(GOOD, path)
    path.chmod(0o644)
    return path


def refused(path: Path, words: str) -> None:
    """Check that reading ends with a message that names the file and holds these words."""
    with pytest.raises(ModelError, match=words) as raised:
        read_arrays(path)
    assert str(path) in str(raised.value)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.h5", b"", "is empty"),
        ("a.h5", b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 65330888\n", "pointer of git-lfs"),
        ("a.h5", b"\n<!DOCTYPE html>\n<html>", "web page.*raw file"),
        ("a.keras", b"PK\x03\x04" + bytes(100), r".keras archive.*model.save\('model.h5'\)"),
        ("a.onnx", b"\x08\x07\x12\x07pytorch", "ONNX file: give the Keras file"),
        ("a.h5", b"not at all" * 100, "not an HDF5 file"),
    ],
)
def test_other_files_are_recognised(tmp_path: Path, name: str, content: bytes, words: str):
    path = tmp_path / name
    path.write_bytes(content)
    refused(path, words)


def test_no_file_and_a_folder(tmp_path: Path):
    refused(tmp_path / "missing.h5", "does not exist")
    refused(tmp_path, "is a folder")


def test_without_h5py_the_message_says_how_to_install_it(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(ModelError, match=r'pip install "TransferSegLib\[keras\]".*slicer.util.pip_install\("h5py"\)'):
        read_arrays(GOOD)


def test_other_hdf5_files(tmp_path: Path):
    path = tmp_path / "measurements.h5"
    with h5py.File(path, "w") as file:
        file["table"] = np.zeros(3)
    refused(path, "not one with Keras weights")


@pytest.mark.parametrize("group", ["layers", "_layer_checkpoint_dependencies"])
def test_the_newer_format_is_told_how_to_become_the_older(tmp_path: Path, group: str):
    path = tmp_path / "model.weights.h5"
    with h5py.File(path, "w") as file:
        file[f"{group}/conv3d/vars/0"] = np.zeros((3, 3, 3, 1, 1), np.float32)
    refused(path, r"newer format of Keras.*model.save\('model.h5'\)")


def test_a_file_that_is_cut_off(copy: Path):
    copy.write_bytes(GOOD.read_bytes()[:-20_000])
    refused(copy, "cut off")


def test_a_listed_layer_that_is_not_there(copy: Path):
    with h5py.File(copy, "r+") as file:
        del file["conv3d_8"]
    refused(copy, "lists 'conv3d_8', but does not hold it")


def link_outside(file: h5py.File, folder: Path) -> None:
    file[KERNEL] = h5py.ExternalLink(str(GOOD), KERNEL)


def link_inside(file: h5py.File, folder: Path) -> None:
    file["elsewhere"] = np.zeros((3, 3, 3, 8, 16), np.float32)
    file[KERNEL] = h5py.SoftLink("/elsewhere")


def store_outside(file: h5py.File, folder: Path) -> None:
    size = 3 * 3 * 3 * 8 * 16 * 4
    (folder / "secret.bin").write_bytes(bytes(size))
    file.create_dataset(KERNEL, (3, 3, 3, 8, 16), "float32", external=[(str(folder / "secret.bin"), 0, size)])


def virtual(file: h5py.File, folder: Path) -> None:
    layout = h5py.VirtualLayout((3, 3, 3, 8, 16), "float32")
    layout[...] = h5py.VirtualSource(str(GOOD), KERNEL, (3, 3, 3, 8, 16))
    file.create_virtual_dataset(KERNEL, layout)


def never_written(file: h5py.File, folder: Path) -> None:
    file.create_dataset(KERNEL, (3, 3, 3, 8, 16), "float32", chunks=(3, 3, 3, 8, 16))


def huge_chunk(file: h5py.File, folder: Path) -> None:
    file.create_dataset(
        KERNEL,
        data=np.zeros((3, 3, 3, 8, 16), np.float32),
        maxshape=(None, 3, 3, 8, 16),
        chunks=(10_000, 3, 3, 8, 16),
        compression="gzip",
    )


def group_instead(file: h5py.File, folder: Path) -> None:
    file.create_group(KERNEL)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (link_outside, "a link to another place"),
        (link_inside, "a link to another place"),
        (store_outside, "lie in another file"),
        (virtual, "lie in another file"),
        (never_written, r"should have 13,824 bytes and has 0"),
        (huge_chunk, "packed in an unusual way"),
        (group_instead, "is not an array"),
    ],
)
def test_files_that_reach_outside_or_declare_what_they_do_not_hold(
    copy: Path, tmp_path: Path, make: Callable[[h5py.File, Path], None], words: str
):
    with h5py.File(copy, "r+") as file:
        del file[KERNEL]
        make(file, tmp_path)
    refused(copy, words)


def test_a_layer_whose_group_is_a_link(copy: Path):
    with h5py.File(copy, "r+") as file:
        file.move("conv3d_3", "moved")
        file["conv3d_3"] = h5py.ExternalLink(str(GOOD), "/conv3d_3")
    refused(copy, "'conv3d_3' is a link")


def test_an_absurd_shape_takes_no_memory(copy: Path):
    with h5py.File(copy, "r+") as file:
        del file[KERNEL]
        file.create_dataset(KERNEL, (10**6, 10**6, 3, 8, 16), "float32", chunks=(1, 1, 3, 8, 16))
    refused(copy, r"\(1000000, 1000000, 3, 8, 16\) instead of")


@pytest.mark.parametrize("value", [7, np.zeros((2, 2)), np.array([b"\xff\xfe"]), np.arange(3)])
def test_a_list_of_layers_that_is_none(copy: Path, value: object):
    with h5py.File(copy, "r+") as file:
        file.attrs["layer_names"] = value
    refused(copy, "list of layers cannot be read")


def test_damage_anywhere_gives_weights_or_a_message(copy: Path):
    """Bytes changed at random in the structure of the file: nothing but a ModelError ever comes out."""
    chance = random.Random(3)
    content = GOOD.read_bytes()
    marks = [at for mark in (b"TREE", b"SNOD", b"HEAP", b"\x89HDF") for at in positions(content, mark)]
    messages = 0
    for _ in range(5):
        damaged = bytearray(content)
        for _ in range(chance.choice((1, 3, 20))):
            damaged[min(chance.choice(marks) + chance.randrange(300), len(content) - 1)] = chance.randrange(256)
        copy.write_bytes(damaged)
        try:
            read_arrays_isolated(copy)
        except ModelError:
            messages += 1
    assert messages > 0


def test_a_file_that_crashes_the_hdf5_library_ends_a_child_only(copy: Path):
    """HDF5 1.14 ends with a segmentation fault on this one changed byte."""
    damaged = bytearray(GOOD.read_bytes())
    damaged[9129] = 98
    copy.write_bytes(damaged)
    with pytest.raises(ModelError, match="is damaged") as raised:
        read_arrays_isolated(copy)
    assert str(copy) in str(raised.value)


def positions(content: bytes, mark: bytes) -> list[int]:
    """Return where a mark occurs."""
    found, at = [], content.find(mark)
    while at >= 0:
        found.append(at)
        at = content.find(mark, at + 1)
    return found
