"""What Slicer's extension manager installs and reads: the lists in CMake, and the entry for the Extensions Index."""

from __future__ import annotations

import json
import re
import struct
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
RAW = "https://raw.githubusercontent.com/transferseg/SlicerTransferSeg/main/"


def cmake_list(name: str) -> set[str]:
    """Return the words of a ``set(name ...)`` in the module's CMakeLists.txt."""
    text = (TOP / "TransferSeg" / "CMakeLists.txt").read_text(encoding="utf-8").replace("${MODULE_NAME}", "TransferSeg")
    (words,) = re.findall(rf"set\({name}\s([^)]*)\)", text)
    return set(words.split())


def extension_setting(name: str) -> str:
    """Return a quoted setting of the extension's CMakeLists.txt, which Slicer reads line by line."""
    text = (TOP / "CMakeLists.txt").read_text(encoding="utf-8")
    (value,) = re.findall(rf'^set\({name} "([^"]*)"\)$', text, re.MULTILINE)
    return value


def test_every_script_of_the_module_is_installed() -> None:
    module = TOP / "TransferSeg"
    scripts = {file.relative_to(module).as_posix() for file in module.rglob("*.py")}
    assert cmake_list("MODULE_PYTHON_SCRIPTS") == scripts, "add new files to TransferSeg/CMakeLists.txt"


def test_every_resource_of_the_module_is_installed() -> None:
    module = TOP / "TransferSeg"
    resources = {file.relative_to(module).as_posix() for file in (module / "Resources").rglob("*") if file.is_file()}
    assert cmake_list("MODULE_PYTHON_RESOURCES") == resources, "add new files to TransferSeg/CMakeLists.txt"


def test_every_file_of_the_library_is_installed() -> None:
    """The library is not listed file by file: all its Python files, and all files of models and samples, go."""
    text = (TOP / "TransferSegLib" / "CMakeLists.txt").read_text(encoding="utf-8")
    assert "GLOB_RECURSE TransferSegLib_SCRIPTS CONFIGURE_DEPENDS" in text
    others = [file for file in (TOP / "TransferSegLib").rglob("*") if file.is_file() and file.suffix != ".py"]
    kept = [file for file in others if "__pycache__" not in file.parts and file.name not in ("CMakeLists.txt",)]
    assert kept == [], "files that are not Python are not installed: put them into Resources"


def test_entry_for_the_extensions_index_agrees_with_cmake() -> None:
    entry = json.loads((TOP / "TransferSeg.json").read_text(encoding="utf-8"))
    allowed = {"$schema", "category", "scm_url", "scm_revision", "scm_type", "build_dependencies", "build_subdirectory"}
    assert {"$schema", "category", "scm_url"} <= set(entry) <= allowed | {"enabled", "tier", "dicom_support_rule"}
    assert entry["$schema"].endswith("schema-v1.0.2.json#"), "what the index checks entries with"
    assert 1 <= entry["tier"] <= 5
    assert entry["category"] == extension_setting("EXTENSION_CATEGORY") == "Segmentation"
    assert entry["build_dependencies"] == extension_setting("EXTENSION_DEPENDS").split() == ["PyTorch"]
    assert entry["scm_url"] == extension_setting("EXTENSION_HOMEPAGE") + ".git"


def test_the_pictures_that_the_extension_names_are_there() -> None:
    urls = [extension_setting("EXTENSION_ICONURL"), *extension_setting("EXTENSION_SCREENSHOTURLS").split()]
    for url in urls:
        assert url.startswith(RAW) and (TOP / url.removeprefix(RAW)).is_file(), url
    icon = (TOP / urls[0].removeprefix(RAW)).read_bytes()
    assert icon[:8] == b"\x89PNG\r\n\x1a\n" and struct.unpack(">II", icon[16:24]) == (128, 128)


def test_the_pictures_of_the_tutorial_are_there() -> None:
    for page in (TOP / "README.md", TOP / "docs" / "tutorial.md"):
        pictures = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", page.read_text(encoding="utf-8"))
        assert pictures and all((page.parent / picture).is_file() for picture in pictures), page.name
