"""Words of the panel: durations without a precision that they do not have, and names in place of temporary files."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from correcting_world import add_volume

SOURCES = sorted((Path(__file__).resolve().parents[2] / "TransferSeg").rglob("*.py"))
#: A number before a noun in the plural.
PLURAL = re.compile(r"\{(count|number|cases|patients|scans|parts)\} (?!of |is |min\b|s\b)([a-z-]+ ){0,2}?[a-z]+s\b")
#: Texts in which the number is never 1.
NEVER_ONE = {
    "{name}, {count} models",  # a combination has several
    "{count} models, one after another. To fine-tune, choose one of them: {names}.",
    "{count} models that segment one after another: {names}",
    "{count} structures: {names} and {more} more",
    "This model needs {count} images of each patient ({names}), but the panel takes only one volume. Use the command "
    "line: transferseg segment",
    "{trained}; the mean of {count} folds is used.",
    "{count} structures",  # one structure is named
}


def without_singular(source: str) -> set[str]:
    """Return the texts with a number and a plural that have no text with the number 1 that begins or ends alike."""
    texts = [node.value for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Constant)]
    texts = [text for text in texts if isinstance(text, str)]
    ones = [text for text in texts if re.search(r"\b1 [a-z]", text)]

    def has_singular(text: str) -> bool:
        before = text.partition(PLURAL.search(text)[0])[0]
        return any(one.startswith(before) if before else one.startswith("1 ") for one in ones)

    return {text for text in texts if PLURAL.search(text) and not has_singular(text)} - NEVER_ONE


def test_a_plural_without_its_singular_is_found() -> None:
    assert without_singular("a = _('Reviewed in {count} cases')") == {"Reviewed in {count} cases"}
    assert without_singular("a = _('Reviewed in 1 case') if n == 1 else _('Reviewed in {count} cases')") == set()
    assert without_singular("a = _('{count} further scans are left')") == {"{count} further scans are left"}
    assert without_singular("a = _('{number} of {count}: {structure}')") == set()


@pytest.mark.parametrize("path", SOURCES, ids=[path.name for path in SOURCES])
def test_one_is_no_plural(path: Path) -> None:
    source = path.read_text(encoding="utf-8")
    assert without_singular(source) == set()
    assert not re.search(r"\b(case|patient|scan|structure|place)\(s\)", source)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.4, "10 s"),
        (44.0, "40 s"),
        (89.0, "90 s"),
        (136.0, "2 min"),
        (1790.0, "30 min"),
        (3599.0, "1 h 0 min"),
        (8100.0, "2 h 20 min"),
    ],
)
def test_estimated_durations(host, seconds: float, expected: str) -> None:
    from TransferSegGui.duration import roundText

    assert roundText(seconds) == expected


def test_messages_name_scans_and_not_temporary_files(host) -> None:
    from TransferSegGui.segment_process import SegmentProcess

    run = SegmentProcess(add_volume("CT of today"))
    assert run.withoutPaths("/tmp/other is full") == "/tmp/other is full", "there are no files yet"
    scan, result = run.file("volume.nrrd"), run.file("result.seg.nrrd")
    text = run.withoutPaths(f"{scan}: the scan has no contrast. {result} cannot be written: {scan.parent}/part")
    assert text == "'CT of today': the scan has no contrast. the segmentation cannot be written: part"
    run.removeFiles()
