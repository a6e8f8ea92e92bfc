"""``transferseg models``: from a fetched file to a segmentation, and every refusal in one line."""

from __future__ import annotations

import hashlib
import json
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

TESTING = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(TESTING))
import misbehaving_server as server_module  # noqa: E402
from misbehaving_server import Server  # noqa: E402

from TransferSegLib.cli import models  # noqa: E402
from TransferSegLib.cli.main import main  # noqa: E402
from TransferSegLib.models import fetch, locate  # noqa: E402
from TransferSegLib.models.archive import export_model  # noqa: E402
from TransferSegLib.models.store import load_description  # noqa: E402

MODEL = TESTING / "Data" / "model_format_1" / "model"
NAME = load_description(MODEL).name

Transferseg = Callable[..., tuple[int, str, str]]


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    """Serve a model that the catalogue of these tests has; the command's own session is carried to the server."""
    content = export_model(MODEL, tmp_path / "served.zip").read_bytes()
    entry = json.loads((TESTING.parent / "Resources" / "Models" / "catalogue.json").read_text(encoding="utf-8"))
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    del entry["models"][2:]
    entry["models"][1] |= {"name": NAME, "about_bytes": len(content)}
    entry["models"][1]["download"] |= {"kind": "transferseg", "git_blob": blob}
    folder = tmp_path / "Resources" / "Models"
    shutil.copytree(locate.find_model(None), folder / "head-neck-ct")
    (folder / "catalogue.json").write_text(json.dumps(entry), encoding="utf-8")
    monkeypatch.setattr(locate, "resource_folders", lambda: [folder.parent])
    with Server(content) as running:
        monkeypatch.setattr(fetch, "new_session", running.session)
        yield running


def offer_keras(catalogue: Path, content: bytes) -> None:
    """Make the file to fetch of a catalogue a Keras file of this content, of the width of the reference files."""
    offered = json.loads(catalogue.read_text(encoding="utf-8"))
    blob = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    offered["models"][1] |= {"width": 4, "about_bytes": len(content)}
    offered["models"][1]["download"] |= {"kind": "keras", "git_blob": blob}
    catalogue.write_text(json.dumps(offered), encoding="utf-8")


def test_list_and_show_before_anything_is_fetched(transferseg: Transferseg, library: Path) -> None:
    code, out, _ = transferseg("list")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[0] == ["model", "version", "modality", "structures", "spacing", "size", "where"]
    assert lines[2] == ["head-neck-ct", "3", "CT", "7", "3", "mm", "8.2", "MB", "bundled"]
    assert len(lines) == 4, "what is on this computer, and one line on the rest"
    count, *rest = out.splitlines()[3].split()
    assert " ".join(rest) == "more models can be fetched: 'transferseg models list --all' lists them."
    code, out, _ = transferseg("list", "--all")
    lines = [line.split() for line in out.splitlines()]
    assert lines[2][0] == "head-neck-ct"
    assert sum("to fetch" in line for line in out.splitlines()) == int(count) > 40
    assert " ".join(lines[3]) == "thorax-abdomen-ct - CT 22 1 mm (inferred) about 65 MB to fetch"
    assert "can be fetched" not in out
    code, out, _ = transferseg("list", "--json")
    bundled, published, *others = json.loads(out)
    assert (bundled["name"], bundled["where"], bundled["spacing_mm"]) == ("head-neck-ct", "bundled", 3.0)
    assert (published["where"], published["path"], len(published["structures"])) == ("to fetch", None, 22)
    assert {other["where"] for other in others} == {"to fetch", "not fetched: restricted licence"}
    code, out, _ = transferseg("show", "thorax-abdomen-CT")
    assert code == 0 and "inferior vena cava" in out and "licence Apache-2.0" in out
    assert "transferseg models fetch thorax-abdomen-ct" in out and "5d98f9c595b3d7847e3eabf01b59249767bc4ae4" in out
    code, out, _ = transferseg("show", "thorax-abdomen-ct", "--json")
    assert json.loads(out)["download"]["kind"] == "keras"
    assert not library.exists()


def test_show_needs_the_whole_model(transferseg: Transferseg, tmp_path: Path) -> None:
    code, out, _ = transferseg("show", MODEL, "--json")
    assert code == 0 and json.loads(out)["name"] == NAME and json.loads(out)["path"] == str(MODEL)
    shutil.copytree(MODEL, tmp_path / "copy")
    (tmp_path / "copy" / "weights.pt").write_bytes(b"x")
    code, out, err = transferseg("show", tmp_path / "copy")
    assert (code, out) == (2, "") and "incomplete" in err
    code, _, err = transferseg("show", "nothing")
    assert code == 2 and "Known are: head-neck-ct. To fetch (transferseg models fetch NAME): " in err
    assert str(TESTING.parent) not in err


def test_there_and_back_between_two_computers(transferseg: Transferseg, library: Path, tmp_path: Path) -> None:
    carried, other = tmp_path / "carried.zip", tmp_path / "other library"
    assert transferseg("import", MODEL)[0] == 0
    assert transferseg("export", NAME, carried)[0] == 0
    code, out, _ = transferseg("import", carried, "--library", other)
    assert code == 0 and f"'{NAME}' is in your library" in out and str(other / NAME) in out
    assert (other / NAME / "weights.pt").read_bytes() == (MODEL / "weights.pt").read_bytes()
    carried_entry, entry = (json.loads((folder / "model.json").read_bytes()) for folder in (other / NAME, MODEL))
    assert carried_entry["provenance"].pop("command") == "not told"  # the words it was made with may name folders
    assert entry["provenance"].pop("command")
    assert carried_entry == entry
    code, out, _ = transferseg("list", "--library", other)
    assert code == 0 and [line.split()[-1] for line in out.splitlines()[2:4]] == ["bundled", "library"]
    code, _, err = transferseg("import", carried)
    assert code == 2 and "--replace" in err and len(err.splitlines()) == 1
    assert transferseg("import", carried, "--replace")[0] == 0
    code, out, _ = transferseg("import", carried, "--name", "my own")
    assert code == 0 and "--model 'my own'" in out
    assert sorted(path.name for path in locate.library_models()) == sorted([NAME, "my own"])


def test_export_of_the_bundled_model_comes_back_under_another_name(transferseg: Transferseg, tmp_path: Path) -> None:
    carried = tmp_path / "carried.zip"
    assert transferseg("export", "head-neck-ct", carried)[0] == 0
    code, _, err = transferseg("import", carried)
    assert code == 2 and "comes with TransferSeg" in err and "--name" in err and "is not that model" not in err
    assert transferseg("import", carried, "--name", "Klinik ü")[0] == 0


def test_export_refuses_other_names_and_overwriting(transferseg: Transferseg, tmp_path: Path) -> None:
    for name in ("model", "model.tar.gz", "model.pt"):
        code, _, err = transferseg("export", MODEL, tmp_path / name)
        assert code == 2 and "ends in .zip" in err and not (tmp_path / name).exists()
    assert transferseg("export", MODEL, tmp_path / "model.zip")[0] == 0
    code, _, err = transferseg("export", MODEL, tmp_path / "model.zip")
    assert code == 2 and "exists already" in err
    assert transferseg("export", MODEL, tmp_path / "model.zip", "--replace")[0] == 0


def test_keras_options(transferseg: Transferseg, library: Path, shared_data: Path) -> None:
    file = shared_data / "keras_reference" / "weights_only.h5"
    code, out, _ = transferseg("import", file)
    assert (
        code == 0
        and "is no file of the catalogue: imported as a CT network that works at 1 mm" in out
        and "are assumed" in out
    )
    assert "works at 1 mm (inferred)" in out
    names = [f"part {number}" for number in range(1, 23)]
    words = ["--name", "mine", "--background", "first", "--spacing-mm", "1.5", "--modality", "MR", "--structures"]
    code, out, _ = transferseg("import", file, *words, *names)
    assert code == 0 and "works at 1.5 mm, in" in out and "assumed" not in out and "imported as the options say" in out
    model = load_description(library / "mine")
    assert (model.preparation.spacing_mm, model.spacing_inferred, model.modality) == (1.5, False, "MR")
    assert model.label_set.names == tuple(names)
    for more, message in (
        (["--structures", "a", "b"], "22 structures"),
        (["--spacing-mm", "0"], "spacing"),
        (["--spacing-mm", "nan"], "spacing"),
    ):
        code, _, err = transferseg("import", file, "--name", "bad", *more)
        assert code == 2 and message in err and len(err.splitlines()) == 1
    code, _, err = transferseg("import", MODEL, "--spacing-mm", "2")
    assert code == 2 and "describes itself" in err


def test_remove_asks(transferseg: Transferseg, library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    transferseg("import", MODEL)
    code, _, err = transferseg("remove", NAME)
    assert code == 2 and "say --yes" in err
    monkeypatch.setattr(models.sys.stdin, "isatty", lambda: True, raising=False)
    for typed in ("", "yes", "y"):
        monkeypatch.setattr("builtins.input", lambda prompt, typed=typed: typed)
        code, _, err = transferseg("remove", NAME)
        assert code == 2 and "Nothing was removed" in err and (library / NAME).is_dir()

    def closed(prompt: str) -> str:
        raise EOFError

    monkeypatch.setattr("builtins.input", closed)
    assert transferseg("remove", NAME)[0] == 2
    monkeypatch.setattr("builtins.input", lambda prompt: NAME)
    code, out, _ = transferseg("remove", NAME)
    assert code == 0 and "removed: " in out and not (library / NAME).exists()
    code, _, err = transferseg("remove", NAME, "--yes")
    assert code == 2 and "There is no model" in err
    code, _, err = transferseg("remove", "head-neck-ct", "--yes")
    assert code == 2 and "comes with TransferSeg" in err


def test_damaged_models_are_listed_with_the_reason(transferseg: Transferseg, library: Path) -> None:
    transferseg("import", MODEL)
    (library / NAME / "model.json").write_text("{")
    code, out, _ = transferseg("list")
    assert code == 0 and "damaged: " in out and "not valid JSON" in out and "head-neck-ct" in out
    (broken,) = [model for model in json.loads(transferseg("list", "--json")[1]) if model["problem"]]
    assert broken["name"] == NAME and broken["structures"] == []


def test_fetch_and_use(transferseg: Transferseg, library: Path, server: Server, tmp_path: Path) -> None:
    assert "to fetch" in transferseg("list", "--all")[1]
    assert f"transferseg models fetch {NAME}" in transferseg("export", NAME, tmp_path / "x.zip")[2]
    code, out, _ = transferseg("fetch", NAME)
    assert code == 0 and f"'{NAME}' is in your library" in out and "licence:" in out and "cite:" in out
    assert "to fetch" not in transferseg("list", "--all")[1]
    assert (library / NAME / "weights.pt").read_bytes() == (MODEL / "weights.pt").read_bytes()
    code, out, _ = transferseg("fetch", NAME)
    assert code == 0 and "is in your library already" in out and len(server.requests) == 1
    assert transferseg("fetch", NAME, "--replace")[0] == 0 and len(server.requests) == 2
    scan = TESTING / "Data" / "head_neck_ct" / "images" / "pt_103.nii.gz"
    output = tmp_path / "organs.nii.gz"
    assert main(["segment", str(scan), "--model", NAME, "--output", str(output), "--device", "cpu"]) == 0
    assert output.stat().st_size > 0


def test_file_fetched_by_hand_goes_the_same_way(transferseg: Transferseg, server: Server, tmp_path: Path) -> None:
    by_hand = tmp_path / "from a stick.zip"
    by_hand.write_bytes(server.content)
    code, out, _ = transferseg("import", by_hand)
    assert code == 0 and f"is the published file of '{NAME}'" in out and server.requests == []
    assert "to fetch" not in transferseg("list", "--all")[1]


def test_fetch_at_another_spacing(
    transferseg: Transferseg, library: Path, server: Server, shared_data: Path, tmp_path: Path
) -> None:
    code, _, err = transferseg("fetch", NAME, "--spacing-mm", "1.5")
    assert code == 2 and "leave out --spacing-mm" in err and server.requests == []
    server.content = (shared_data / "keras_reference" / "weights_only.h5").read_bytes()
    offer_keras(tmp_path / "Resources" / "Models" / "catalogue.json", server.content)
    for spacing in ("0", "nan"):
        code, out, err = transferseg("fetch", NAME, "--spacing-mm", spacing)
        assert (code, out, len(err.splitlines())) == (2, "", 1) and "spacing" in err
    assert server.requests == []
    code, out, _ = transferseg("fetch", NAME, "--spacing-mm", "1.5")
    assert code == 0 and "works at 1.5 mm" in out
    assert load_description(library / NAME).preparation.spacing_mm == 1.5


def test_the_published_model_travels_as_a_zip(
    transferseg: Transferseg, library: Path, server: Server, shared_data: Path, tmp_path: Path
) -> None:
    """What 'models export' writes of a fetched model is imported under its own name on another computer."""
    server.content = (shared_data / "keras_reference" / "weights_only.h5").read_bytes()
    offer_keras(tmp_path / "Resources" / "Models" / "catalogue.json", server.content)
    carried, other = tmp_path / "carried.zip", tmp_path / "other library"
    assert transferseg("fetch", NAME)[0] == 0
    assert transferseg("export", NAME, carried)[0] == 0
    code, out, err = transferseg("import", carried, "--library", other)
    assert code == 0, err
    assert f"says that it was made from the published file of '{NAME}'" in out
    assert "no file of the catalogue" not in out and "--structures" not in out
    assert (other / NAME / "weights.pt").read_bytes() == (library / NAME / "weights.pt").read_bytes()
    code, out, _ = transferseg("fetch", NAME, "--library", other)
    assert code == 0 and "in your library already" in out


def test_exported_keras_model_is_not_spoken_of_as_a_keras_file(
    transferseg: Transferseg, shared_data: Path, tmp_path: Path
) -> None:
    assert transferseg("import", shared_data / "keras_reference" / "weights_only.h5", "--name", "mine")[0] == 0
    assert transferseg("export", "mine", tmp_path / "mine.zip")[0] == 0
    code, out, _ = transferseg("import", tmp_path / "mine.zip", "--name", "again")
    assert code == 0 and "'again' is in your library" in out
    # What a zip describes itself cannot be given with options, so it is no use to advise them.
    assert "imported as" not in out and "--structures" not in out


def test_fetch_that_fails(transferseg: Transferseg, library: Path, server: Server) -> None:
    server.behaviours = [server_module.answers(404)]
    code, out, err = transferseg("fetch", NAME)
    assert (code, out) == (2, "") and err.startswith("transferseg: ") and "404 Not Found" in err
    assert len(err.splitlines()) == 1 and locate.library_models() == []
    code, _, err = transferseg("fetch", "head-neck-ct")
    assert code == 2 and "comes with TransferSeg" in err
    code, _, err = transferseg("fetch", "nothing")
    assert code == 2 and f"To fetch: {NAME}." in err


COMMAND = """
import sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from misbehaving_server import session_to
from TransferSegLib.cli.main import main
from TransferSegLib.models import fetch
from TransferSegLib.models import locate
fetch.new_session = lambda: session_to(int(sys.argv[2]))
locate.resource_folders = lambda: [Path(sys.argv[3])]
sys.exit(main(["models", "fetch", sys.argv[4]]))
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Ctrl-C is sent as SIGINT here")
def test_ctrl_c_while_the_server_is_silent(
    transferseg: Transferseg, library: Path, server: Server, tmp_path: Path
) -> None:
    server.behaviours = [server_module.stalls_after(20_000)]
    words = [sys.executable, "-c", COMMAND, str(TESTING), str(server.port), str(tmp_path / "Resources"), NAME]
    with subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not any(file.stat().st_size for file in library.rglob("*.part")):
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130 and "Traceback" not in err and out == ""
    assert "Stopped on request." in err and "are kept: fetch again to continue from there" in err
    assert transferseg("fetch", NAME)[0] == 0
    assert server.ranges()[-1] is not None


def test_library_that_is_a_file(transferseg: Transferseg, library: Path) -> None:
    library.write_text("mine")
    for words in (("list",), ("import", MODEL)):
        code, out, err = transferseg(*words)
        assert (code, out, len(err.splitlines())) == (2, "", 1)
        assert f"{library} cannot be a model library: {library} is a file, not a folder. Choose" in err
        assert "TRANSFERSEG_MODELS" in err
    assert library.read_text() == "mine"
