"""What the tests of the library share: a catalogue with one model to fetch, and all that lies in a library."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from fetching import blob_of

from TransferSegLib.models.catalogue import CatalogueEntry
from TransferSegLib.models.download import Download

#: Begins programs that need no weights: the import of torch takes seconds in each process.
WITHOUT_TORCH = """
import sys, time
from pathlib import Path
from types import SimpleNamespace
from TransferSegLib.errors import ModelError
from TransferSegLib.models import library
from TransferSegLib.models import locate
from TransferSegLib.models.archive import parse_model_file, read_model_files
from TransferSegLib.models.library import fetch_model, import_model, remove_model
def load_model(path):
    return SimpleNamespace(description=parse_model_file(read_model_files(path)["model.json"], "")[0])
library.load_model = load_model
"""


def put_into_catalogue(resources: Path, content: bytes, kind: Any = "transferseg", **changes: Any) -> CatalogueEntry:
    """Write a catalogue with one model to fetch, whose file has this content."""
    download = Download(kind, "https://models.example/file", blob_of(content), len(content))
    plain: dict[str, Any] = {
        "name": "tiny",
        "summary": "As the catalogue says.",
        "modality": "CT",
        "structures": ("liver", "spleen"),
        "spacing_mm": 2.0,
        "spacing_inferred": True,
        "width": 1,
        "about_bytes": len(content),
        "license": "Apache-2.0",
        "citation": "cite me",
        "homepage": "https://models.example",
    }
    entry = CatalogueEntry(**{**plain, **changes}, download=download)
    text = json.dumps({"format": "transferseg-catalogue", "format_version": 1, "models": [entry.to_json()]})
    (resources / "catalogue.json").write_text(text)
    return entry


def contents(folder: Path) -> dict[str, bytes]:
    """Return every file below a library but its empty locks, by path."""
    files = (file for file in folder.rglob("*") if file.is_file() and file.suffix != ".lock" and file.name != ".lock")
    return {file.relative_to(folder).as_posix(): file.read_bytes() for file in files}
