"""Which code this is: the package's version and, from a source tree, its git commit."""

from __future__ import annotations

from pathlib import Path

VERSION = "0.1.0"


def code_version() -> str:
    """Return e.g. '0.1.0+git.1a2b3c4d5e', without the commit where there is no git folder to read it from."""
    commit = _git_commit(Path(__file__).resolve().parents[1] / ".git")
    return VERSION if commit is None else f"{VERSION}+git.{commit[:10]}"


def _git_commit(git_folder: Path) -> str | None:
    """Return the checked-out commit by reading git's own files, so that git need not be installed."""
    try:
        head = (git_folder / "HEAD").read_text(encoding="ascii").strip()
        if not head.startswith("ref: "):
            return head
        reference = head.removeprefix("ref: ")
        loose = git_folder / reference
        if loose.exists():
            return loose.read_text(encoding="ascii").strip()
        for line in (git_folder / "packed-refs").read_text(encoding="ascii").splitlines():
            if line.endswith(" " + reference):
                return line.split()[0]
    except OSError:
        return None
    return None
