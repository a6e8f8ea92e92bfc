"""Small files that would fill the memory or take for ever: refused before they are unpacked."""

from __future__ import annotations

import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from TransferSegLib.errors import ModelError
from TransferSegLib.models.library import import_model
from TransferSegLib.models.store import expected_shapes, load_model
from TransferSegLib.models.weights_pickle import check_pickle, check_weights_file
from TransferSegLib.networks.families import backbone_of
from TransferSegLib.networks.unet_valid.backbone import unet_valid_spec

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(("width", "classes"), [(1, 2), (4, 7), (16, 17), (33, 23)])
def test_the_size_of_a_network_is_known_without_torch(width: int, classes: int) -> None:
    network = unet_valid_spec(width=width, classes=classes)
    shapes = expected_shapes(network)
    assert backbone_of(network).parameters == sum(torch.Size(shape).numel() for shape in shapes.values())


def zipped_model(path: Path, entry: dict, weights: bytes, kind: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", kind) as archive:
        archive.writestr("model.json", json.dumps(entry))
        archive.writestr("weights.pt", weights)
    return path


def bomb(saved: Path, tmp_path: Path, change: Callable[[dict], None], size: int) -> Path:
    entry = json.loads((saved / "model.json").read_text(encoding="utf-8"))
    change(entry)
    entry["weights"] |= {"size": size}
    return zipped_model(tmp_path / "bomb.zip", entry, bytes(size))


def test_weights_that_the_network_does_not_need_are_not_unpacked(saved: Path, tmp_path: Path) -> None:
    file = bomb(saved, tmp_path, lambda entry: None, 60 * 10**6)
    assert file.stat().st_size < 4 * 10**5
    with pytest.raises(ModelError, match="would unpack to 60,000,000 bytes"):
        import_model(file, tmp_path / "library")
    with zipfile.ZipFile(file) as archive:
        (saved / "model.json").write_bytes(archive.read("model.json"))
    with pytest.raises(ModelError, match=r"60,000,000 bytes; the network needs .* at most"):
        load_model(saved)


def test_a_description_that_claims_a_large_network_does_not_help(saved: Path, tmp_path: Path) -> None:
    file = bomb(saved, tmp_path, lambda entry: entry["network"].update(width=64), 60 * 10**6)
    with pytest.raises(ModelError, match="would unpack to 60,000,000 bytes"):
        import_model(file, tmp_path / "library")


@pytest.mark.skipif(sys.platform != "linux", reason="memory is counted in kB on Linux")
def test_a_bomb_costs_no_memory(saved: Path, tmp_path: Path) -> None:
    file = bomb(saved, tmp_path, lambda entry: entry["network"].update(width=64), 60 * 10**6)
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from TransferSegLib.errors import ModelError\n"
        "from TransferSegLib.models.incoming import read_incoming\n"
        "def peak_kb(): return int(Path('/proc/self/status').read_text().partition('VmHWM:')[2].split()[0])\n"
        "before = peak_kb()\n"
        "try: read_incoming(Path(sys.argv[1]))\n"
        "except ModelError as error: print(error)\n"
        "print(peak_kb() - before)\n"
    )
    words = [sys.executable, "-c", code, str(file)]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=ROOT)
    message, more_kb = done.stdout.splitlines()
    assert "would unpack" in message and int(more_kb) < 20_000, done.stdout


def test_overlapping_entries_are_refused(saved: Path, tmp_path: Path) -> None:
    """Many entries of the directory that mean the same bytes."""
    file = tmp_path / "overlapping.zip"
    content = json.dumps({"a": "b" * 10_000}).encode()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("1.png", content)
    data = file.read_bytes()
    at = data.index(b"PK\x01\x02")
    end = data.index(b"PK\x05\x06")
    entry = data[at:end]
    entries = b"".join(entry.replace(b"1.png", f"{chr(65 + number)}.png".encode()) for number in range(20))
    tail = bytearray(data[end:])
    tail[8:12] = (20).to_bytes(2, "little") * 2
    tail[12:16] = len(entries).to_bytes(4, "little")
    file.write_bytes(data[:at] + entries + bytes(tail))
    with pytest.raises(ModelError, match=r"lie over each other"):
        import_model(file, tmp_path / "library")


@pytest.mark.parametrize("size", [4 * 2**20 + 1, 10**6])
def test_descriptions_of_any_size_and_depth(saved: Path, size: int) -> None:
    file = saved / "model.json"
    text = file.read_text(encoding="utf-8").rstrip()[:-1]
    inner = '"x": "' + "a" * size + '"}' if size > 10**6 else '"x": ' + "[" * size + "]" * size + "}"
    file.write_text(f"{text}, {inner}", encoding="utf-8")
    with pytest.raises(ModelError, match=r"nested too deeply|more than the"):
        load_model(saved)


def saved_state(**options: object) -> bytes:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2, dtype=torch.float16)}, buffer, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def test_what_torch_writes_passes() -> None:
    check_weights_file(saved_state(), 2)
    with pytest.raises(ValueError, match="entries for -20 arrays"):
        check_weights_file(saved_state(), -20)


def doubling(depth: int) -> object:
    value: object = ("x",)
    for _ in range(depth):
        value = (value, value)
    return value


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"a": doubling(40)}, protocol=2),
        pickle.dumps({"a": [1]}, protocol=2),
        pickle.dumps({"a": {}}, protocol=2),
        pickle.dumps({"a": b"x" * 100}, protocol=4),
        pickle.dumps([], protocol=2),
        b"\x80\x02ctorch\nzeros\nq\x00.",
        b"cos\nsystem\n.",
        b"not a pickle",
        b"",
    ],
)
def test_pickles_that_hold_more_than_arrays_are_refused(content: bytes) -> None:
    with pytest.raises(ValueError):
        check_pickle(content)
