"""Nothing that names a patient leaves with a model, whatever older versions wrote into it."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest
from libraries import contents

from TransferSegLib.models.archive import export_model
from TransferSegLib.models.description import ModelDescription
from TransferSegLib.models.leaving import plain_command, told_command, without_identifiers

NAME = "JANE_DOE_1963"
TRAINED = "transferseg train-base --width 16 --augment-mirror 0.5 --resume"
IMPORTED = "transferseg models import --background last --spacing-mm 1"


@pytest.mark.parametrize(
    ("command", "told"),
    [
        (f"transferseg finetune --project=/data/{NAME}/p --minutes 5", "transferseg finetune --minutes 5"),
        (f"transferseg finetune --proj /data/{NAME}/p --minutes=5", "transferseg finetune --minutes 5"),
        (f"transferseg finetune --p {NAME} --model ../{NAME}/m.zip --folds 3", "transferseg finetune --folds 3"),
        (f"transferseg finetune --cases {NAME} 19630812 --promote", "transferseg finetune --promote"),
        ("transferseg finetune --name 19630812 --seed 3", "transferseg finetune --seed 3"),
        (f"transferseg finetune '--project' '/data/J DOE/{NAME}' --device mps", "transferseg finetune --device mps"),
        (f"transferseg finetune --merged {NAME} a b --strategy scratch", "transferseg finetune --strategy scratch"),
        (f"transferseg finetune --strategy {NAME} --seed {NAME} --device {NAME}", "transferseg finetune"),
        (f"transferseg finetune --minutes '5 {NAME}' --project 'unclosed", "transferseg finetune"),
        (f"transferseg finetune {NAME}", "transferseg finetune"),
        ("transferseg finetune (3D Slicer)", "transferseg finetune (3D Slicer)"),
        (f"{TRAINED} --data {NAME}", TRAINED),
        (f"{IMPORTED.replace('import', f'import {NAME}.h5')} --modality {NAME}", IMPORTED),
        (f"python /home/{NAME}/train.py", "not told"),
    ],
)  # fmt: skip
def test_a_command_is_told_by_what_names_nobody(command: str, told: str) -> None:
    assert plain_command(command) == told
    assert plain_command(told) == told


def test_a_command_is_made_from_parsed_options() -> None:
    options = {"minutes": 5.0, "tolerance_mm": 2.5, "folds": None, "promote": True, "no_promote": False, "name": NAME}
    assert told_command("finetune", options) == "transferseg finetune --minutes 5 --tolerance-mm 2.5 --promote"


def described(saved: Path) -> dict:
    return json.loads((saved / "model.json").read_text(encoding="utf-8"))


PATHS = [
    f"/home/me/{NAME}/p",
    f"~/{NAME}/p",
    f"~me/{NAME}/p",
    f"~/{NAME}",
    f"smb://server/{NAME}/p",
    f"C:\\Users\\{NAME}",
    f"c:/{NAME}/p",
    f"\\\\server\\{NAME}",
    f"file:///{NAME}",
    f"../{NAME}/p",
    f"see /mnt/x/{NAME}.",
]


@pytest.mark.parametrize("path", PATHS)
def test_paths_in_any_text_stay_here(saved: Path, path: str) -> None:
    entry = described(saved)
    kept = entry | {"citation": "Doe et al. and/or others, https://example.org/a/b (2023), 3 mm/voxel"}
    files = {"model.json": json.dumps(kept | {"training_data": path}).encode()}
    cleaned, lines = without_identifiers(files, "model.json")
    assert NAME.encode() not in cleaned["model.json"]
    assert json.loads(cleaned["model.json"])["citation"] == kept["citation"]
    assert any("training_data" in line for line in lines)


def test_what_an_older_version_wrote_down_stays_here(saved: Path, tmp_path: Path) -> None:
    """Planted wherever a version could have it; the zip is searched byte by byte, unpacked."""
    entry = described(saved)
    command = f"transferseg finetune --project=/data/{NAME}/p --minutes 5"
    entry["provenance"] |= {"command": command, "parent": "tiny version 1"}
    entry["provenance"]["configuration"] = {
        "imported_from": {"file": f"{NAME}.h5", "sha256": "0" * 64},
        "runs": f"/data/{NAME}/p/.fine-tuning",
        "steps": 200,
        NAME: 1,
    }
    entry["metrics"] = {"validation": {"cases": 2, "ids": [NAME, "b"], "dice": {}}, f"/data/{NAME}": {}}
    entry["record"] = {"evidence": {"reasons": [f"{NAME} got worse.", "All others got better."]}}
    entry["training_data"] = f"{NAME}: 3 training cases"
    (saved / "model.json").write_text(json.dumps(entry), encoding="utf-8")
    (saved / "record.json").write_text(json.dumps({"cases": [{"content_hash": "a", "id": NAME}, {"id": "1"}]}))
    (saved / "log.txt").write_text(NAME)
    (saved / "README.md").write_text(f"# tiny\n\n- **Made by:** `{command}`\nFrom ~/{NAME}/p\n3 mm, version 1\n")
    before = contents(saved)
    lines: list[str] = []
    zipped = export_model(saved, tmp_path / "tiny.zip", report=lines.append)
    with zipfile.ZipFile(zipped) as archive:
        unpacked = {name: archive.read(name) for name in archive.namelist()}
    assert sorted(unpacked) == ["README.md", "model.json", "weights.pt"]
    for name, content in unpacked.items():
        assert NAME.encode() not in content and NAME.encode() not in name.encode(), name
    assert contents(saved) == before, "the library's own is not changed"
    left = json.loads(unpacked["model.json"])
    assert left["provenance"]["command"] == "transferseg finetune --minutes 5"
    assert left["provenance"]["configuration"] == {
        "imported_from": {"file": "", "sha256": "0" * 64},
        "runs": "(left out: it named a folder or a case)",
        "steps": 200,
    }
    assert left["metrics"] == {"validation": {"cases": 2, "dice": {}}}
    assert left["record"]["evidence"]["reasons"] == ["All others got better."]
    assert (
        unpacked["README.md"].decode()
        == "# tiny\n\n- **Made by:** `transferseg finetune --minutes 5`\n3 mm, version 1\n"
    )
    assert any("the words of the command" in line for line in lines) and any("README.md" in line for line in lines)
    ModelDescription.from_json(left)


def test_a_model_that_names_nobody_stays_as_it_is(saved: Path, tmp_path: Path) -> None:
    entry = described(saved)
    entry["provenance"]["command"] = "transferseg finetune --minutes 5"
    (saved / "model.json").write_text(json.dumps(entry), encoding="utf-8")
    lines: list[str] = []
    zipped = export_model(saved, tmp_path / "tiny.zip", report=lines.append)
    with zipfile.ZipFile(zipped) as archive:
        assert archive.read("model.json") == (saved / "model.json").read_bytes()
    assert lines == []


def test_packed_numbers_with_slashes_stay_and_paths_do_not() -> None:
    packed, path = "/AB/CD/+AAAA", f"/home/{NAME}/scan"
    entry = {"fit": {"features": {"mean": packed, "axes": f"{path}.nrrd", "rest": path}, "cases": 2}}
    files, left_out = without_identifiers({"model.json": json.dumps(entry).encode()}, "model.json")
    features = json.loads(files["model.json"])["fit"]["features"]
    assert features["mean"] == packed
    assert NAME not in str(features) and len(left_out) == 2
