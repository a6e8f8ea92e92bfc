"""What pyproject.toml installs: every package of the library, and the bundled models and sample."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

import pytest

TOP = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def setuptools_part() -> dict[str, Any]:
    with (TOP / "pyproject.toml").open("rb") as stream:
        return tomllib.load(stream)["tool"]["setuptools"]


def test_every_package_is_installed(setuptools_part: dict[str, Any]) -> None:
    packages = {".".join(file.parent.relative_to(TOP).parts) for file in (TOP / "TransferSegLib").rglob("*.py")} | {
        "TransferSegLib.resources"
    }
    assert set(setuptools_part["packages"]) == packages, "add new packages to [tool.setuptools] in pyproject.toml"


def test_resources_are_installed_into_the_package(setuptools_part: dict[str, Any]) -> None:
    assert setuptools_part["package-dir"] == {"TransferSegLib.resources": "Resources"}
    patterns = setuptools_part["package-data"]["TransferSegLib.resources"]
    resources = TOP / "Resources"
    matched = {file for pattern in patterns for file in resources.glob(pattern) if file.is_file()}
    wanted = {file for part in ("Models", "SampleData") for file in (resources / part).rglob("*") if file.is_file()}
    assert matched == wanted
