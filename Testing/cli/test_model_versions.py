"""``transferseg models history|promote|rollback|compare`` on a library that format version 1 of lines wrote."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from TransferSegLib.models.locate import find_model
from TransferSegLib.wording import local_time

DATA = Path(__file__).resolve().parents[1] / "Data" / "model_versions_1"

Transferseg = Callable[..., tuple[int, str, str]]


@pytest.fixture
def library(library: Path) -> Path:
    """Return a library with the stored line, which is not this user's."""
    shutil.copytree(DATA, library)
    return library


def test_history(transferseg: Transferseg) -> None:
    code, out, _ = transferseg("history", "clinic")
    lines = [line.split() for line in out.splitlines()]
    assert code == 0
    assert lines[3][0] == "0" and " ".join(lines[3]).endswith("what it began with")
    assert lines[4][:2] == ["1", "current"] and lines[4][4:] == ["0", "2", "0.500", "0.700", "better"]
    assert lines[5][0] == "2" and lines[5][3:] == ["1", "1", "0.700", "0.500", "worse"]
    assert lines[6] == ["switches:"] and [line[2:] for line in lines[7:]] == [
        ["promoted", "1"],
        ["promoted", "2"],
        ["rolled", "back", "to", "1"],
    ]
    entry = json.loads(transferseg("history", "clinic", "--json")[1])
    assert (entry["model"], entry["current"], entry["problems"]) == ("clinic", 1, [])
    assert [version["parent_number"] for version in entry["versions"]] == [None, 0, 1]
    assert entry["versions"][2]["record"]["evidence"]["verdict"] == "worse"


def test_switching(transferseg: Transferseg, library: Path) -> None:
    code, _, err = transferseg("promote", "clinic", "2")
    assert code == 2 and "is worse than what it was made from, clinic version 1" in err and "--force" in err
    code, out, _ = transferseg("promote", "clinic@2", "--force")
    assert code == 0 and "'clinic' is version 2 now" in out and find_model("clinic").name == "2"
    assert "'clinic' is version 1 now" in transferseg("rollback", "clinic")[1]
    assert "'clinic' is version 0 now" in transferseg("rollback", "clinic")[1]
    code, _, err = transferseg("rollback", "clinic")
    assert code == 2 and "nothing to go back to" in err
    code, _, err = transferseg("promote", "clinic")
    assert code == 2 and "models promote clinic NUMBER" in err
    assert transferseg("promote", "clinic", "9")[2].strip().endswith("has no version 9. There are: 0, 1, 2.")


@pytest.mark.parametrize(("version", "verb"), [("2", "promote"), ("", "rollback")])
def test_switching_needs_no_torch_and_refuses_damaged_weights(library: Path, version: str, verb: str) -> None:
    """Importing it takes 20 seconds on a slow disk, while the panel's user waits for a button."""
    switch = ["models", verb, "clinic", *([version, "--force"] if version else []), "--library", str(library)]
    call = f"import sys; from TransferSegLib.cli.main import main; print(main({switch!r}), 'torch' in sys.modules)"
    weights = library / "clinic" / "versions" / (version or "0") / "weights.pt"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    damaged = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=False)
    assert damaged.stdout.split() == ["2", "False"] and "weights.pt" in damaged.stderr
    weights.write_bytes(whole)
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-2:] == ["0", "False"] and f"is version {version or 0} now" in done.stdout


def test_compare(transferseg: Transferseg) -> None:
    code, out, _ = transferseg("compare", "clinic")  # the current version with what it was made from
    assert (
        code == 0
        and "version 0 and version 1. Both were measured on the same cases, which were left out of training." in out
    )
    rows = [line.split() for line in out.splitlines()]
    assert ["liver", "0.500", "0.700", "+0.200", "+0.100", "to", "+0.300"] in rows
    assert "only in version 1: spleen" in out
    out = transferseg("compare", "clinic", "1", "2")[1]
    assert "only in version 1: spleen" in out and "--all lists them" in out and "steps" not in out
    assert "steps" in transferseg("compare", "clinic", "1", "2", "--all")[1]
    assert transferseg("compare", "clinic@1", "clinic@2")[1] == out == transferseg("compare", "clinic@1", "2")[1]
    for wrong in (("clinic", "other@2"), ("clinic", "two"), ("clinic@0", "1", "2")):
        code, said, error = transferseg("compare", *wrong)
        assert code == 2 and not said and error.count("\n") == 1, error
    out = transferseg("compare", "clinic", "0", "2")[1]
    assert "do not say which of the two is better" in out
    entry = json.loads(transferseg("compare", "clinic", "1", "2", "--json")[1])
    assert entry["measured_together"] and entry["structures"][0]["difference"] == pytest.approx(-0.2)
    transferseg("rollback", "clinic")  # to version 0, as after a first fine-tuning that was not promoted
    code, out, _ = transferseg("compare", "clinic")
    assert (
        code == 0
        and "version 0 and version 1. Both were measured on the same cases, which were left out of training." in out
    )
    assert transferseg("remove", "clinic@2", "--yes")[0] == 0 and transferseg("remove", "clinic@1", "--yes")[0] == 0
    code, _, err = transferseg("compare", "clinic")
    assert code == 2 and "was made from no other version: say which two" in err


def test_show_list_export_and_import(transferseg: Transferseg, library: Path, tmp_path: Path) -> None:
    code, out, _ = transferseg("show", "clinic")
    made = local_time("2026-11-23T10:01:00+00:00")
    assert code == 0 and f"version 1 of clinic, made {made} from base version 1.0" in out
    assert "verdict: better. On 3 held-out patients" in out and "liver" in out and "spleen" in out
    assert "look: liver is odd in case-0001." in out
    assert json.loads(transferseg("show", "clinic@2", "--json")[1])["record"]["parent"]["name"] == "clinic"
    assert "spleen" not in transferseg("show", "clinic@0")[1]
    listed = [entry for entry in json.loads(transferseg("list", "--json")[1]) if entry["where"] == "library"]
    assert [(entry["name"], entry["version"]) for entry in listed] == [("clinic", "1")]
    file = tmp_path / "clinic.zip"
    assert transferseg("export", "clinic@2", file)[0] == 0
    assert b"case-0001" not in file.read_bytes()
    code, out, _ = transferseg("import", file, "--library", tmp_path / "elsewhere")
    assert code == 0
    out = transferseg("show", "clinic", "--library", tmp_path / "elsewhere")[1]
    assert "clinic, version 2:" in out and "from clinic version 1" in out and "verdict: worse." in out
    assert "look: " not in out


def test_removing_a_version(transferseg: Transferseg, library: Path) -> None:
    code, _, err = transferseg("remove", "clinic@2")
    assert code == 2 and "say --yes" in err and (library / "clinic" / "versions" / "2").exists()
    code, _, err = transferseg("remove", "clinic@1", "--yes")
    assert code == 2 and "is the current one and is what version 2 was made from" in err
    assert transferseg("remove", "clinic@2", "--yes")[0] == 0 and not (library / "clinic" / "versions" / "2").exists()
    assert transferseg("remove", "clinic@1", "--force", "--yes")[0] == 0 and find_model("clinic").name == "0"
    code, _, err = transferseg("remove", "clinic@2", "--yes")
    assert code == 2 and "has no version 2. There are: 0." in err
    assert transferseg("remove", "clinic", "--yes")[0] == 0 and not (library / "clinic").exists()


def test_damage_is_told(transferseg: Transferseg, library: Path) -> None:
    (library / "clinic" / "current.json").write_text("{")
    assert "look: " in transferseg("history", "clinic")[1]
    (library / "clinic" / "current.json.bak").write_text("{")
    assert "models promote clinic NUMBER" in transferseg("history", "clinic")[1]
    for words in (("show", "clinic"), ("compare", "clinic"), ("rollback", "clinic")):
        code, _, err = transferseg(*words)
        assert code == 2 and "models promote clinic NUMBER" in err
    assert "damaged: " in transferseg("list")[1]
