"""SimpleITK's array views do not keep their image alive: one of an image without a name reads freed memory."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
_OF_A_CALL = re.compile(r"GetArrayViewFromImage\(\s*[\w.]+\(")


def views_of_calls(text: str) -> list[str]:
    """Return the places where a view is taken of what a call returns."""
    return _OF_A_CALL.findall(text)


@pytest.mark.parametrize("folder", ["TransferSegLib", "TransferSeg", "Testing"])
def test_views_are_taken_of_images_that_have_a_name(folder: str) -> None:
    files = [path for path in sorted((ROOT / folder).rglob("*.py")) if path != Path(__file__)]
    assert files
    found = {str(path.relative_to(ROOT)): views_of_calls(path.read_text(encoding="utf-8")) for path in files}
    assert not {name: places for name, places in found.items() if places}


def test_what_is_looked_for() -> None:
    assert views_of_calls("a = sitk.GetArrayViewFromImage(read_scan(path))")
    assert views_of_calls("a = GetArrayViewFromImage(\n    sitk.ReadImage(path)\n)")
    assert not views_of_calls("a = sitk.GetArrayViewFromImage(self.image)")
