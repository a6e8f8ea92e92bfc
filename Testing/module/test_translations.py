"""Every text that a person reads goes through tr(): literals that do not are found, wherever they stand.

``test_pythonqt_rules.py`` looks where texts are handed to widgets; here any literal that reads like words is looked at.
"""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

MODULE = Path(__file__).resolve().parents[2] / "TransferSeg"
SOURCES = sorted(each for each in MODULE.rglob("*.py") if each.name != "self_test.py")  # it speaks to developers
#: Words that nobody reads in the panel: names of Slicer, of files and of structures, style sheets, records.
NOT_SHOWN = {
    "TransferSeg contributors",  # a name
    "left parotid gland",  # the name of a structure in a model
    "Binary labelmap",  # Slicer's name of a representation
    " part 1",  # how the library calls the parts of a case
    " part 2",
    "transferseg: ",  # how lines of the command line begin; it is cut off
    "Slicer console",  # kept in a version's record, as the next one
    "transferseg finetune (3D Slicer)",
    "held out",  # a key in a model's file
    " is a link",  # an error that is caught
}


def untranslated(source: str) -> list[str]:
    """Return the literals of a source file with two words or more, or with a space at an end, outside of tr()."""
    tree, hidden = ast.parse(source), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            hidden.add(node.value)  # docstrings
        if isinstance(node, ast.Call) and _name(node.func) in ("_", "translate"):
            hidden |= set(ast.walk(node))
        if isinstance(node, ast.ClassDef) and node.name.endswith("Test"):
            hidden |= set(ast.walk(node))
    texts = [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and node not in hidden]
    return [text for text in texts if isinstance(text, str) and " " in text and any(map(str.isalpha, text))]


def _name(function: ast.expr) -> str:
    return function.id if isinstance(function, ast.Name) else getattr(function, "attr", "")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("a = 'Two words'", ["Two words"]),
        ("return f'{count} cases'", [" cases"]),
        ("texts = {'key': 'Not saved yet'}", ["Not saved yet"]),
        ("call(label, 'Not saved: ' + reason)", ["Not saved: "]),
        ("raise TransferSegError(f'The file {file} is missing.')", ["The file ", " is missing."]),
        ("a = _('Two words')", []),
        ("a = _('{count} cases').format(count=3)", []),
        ("a = 'library/tiny'", []),
        ("def f():\n    '''Two words.'''", []),
    ],
)
def test_a_literal_that_is_not_translated_is_found(line: str, expected: list[str]) -> None:
    source = f"def g():\n    {line}" if line.startswith("return") else line
    assert untranslated(source) == expected


@pytest.mark.parametrize("path", SOURCES, ids=[str(path.relative_to(MODULE)) for path in SOURCES])
def test_every_text_is_translated(path: Path) -> None:
    assert [text for text in untranslated(path.read_text(encoding="utf-8")) if text not in NOT_SHOWN] == []


def test_what_is_not_shown_is_still_there() -> None:
    """The list of exceptions does not outlive what it excepts."""
    found = {text for path in SOURCES for text in untranslated(path.read_text(encoding="utf-8"))}
    assert found >= NOT_SHOWN
