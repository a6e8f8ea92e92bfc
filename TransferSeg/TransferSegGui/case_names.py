"""What a project's cases are called in the panel: by their scans, as these were called when they were saved.

A project is given to others and keeps no names of scans or files, only numbers ("case-0002"). The names are in Slicer's
settings, so on this computer only: elsewhere, and in older projects, a case is called by its number.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import slicer
from slicer.i18n import tr as _

from TransferSegLib.corrections.revisions import ProjectState

#: In Slicer's settings: the scans' names by the hashes of their images, as JSON.
NAMES_SETTING = "TransferSeg/ScanNames"
#: Longer names lose their middle.
_LONGEST = 36
#: An id that no person gave.
_NUMBERED = re.compile(r"case-\d{4,}")
#: One of the two parts of a scan that was divided for a test: "case-0001 part 2".
_PART = re.compile(r"(.+)\spart\s([12])")


def rememberName(imageHash: str, name: str) -> None:
    """Keep the name of a scan on this computer."""
    names = _remembered()
    if name and names.get(imageHash) != name:
        text = json.dumps(names | {imageHash: name}, ensure_ascii=False)
        slicer.app.userSettings().setValue(NAMES_SETTING, text)


def _remembered() -> dict[str, str]:
    try:
        read = json.loads(slicer.app.userSettings().value(NAMES_SETTING) or "{}")
    except (TypeError, ValueError):
        return {}
    return {key: name for key, name in read.items() if isinstance(name, str)} if isinstance(read, dict) else {}


@dataclass(frozen=True)
class CaseNames:
    """The names of a project's cases, by their ids; a case without one is called by its id.

    ``scans`` are the scans' names, ``rows`` what tables say, where no two cases are called the same, ``patients`` the
    patients' numbers: cases of one patient have the same.
    """

    scans: Mapping[str, str] = field(default_factory=dict)
    rows: Mapping[str, str] = field(default_factory=dict)
    patients: Mapping[str, int] = field(default_factory=dict)

    @staticmethod
    def of(project: ProjectState | None) -> CaseNames:
        """Look up the names of a project's cases, the removed ones included."""
        revisions = [] if project is None else [*project.current, *project.removed]
        known = _remembered() if revisions else {}
        groups = dict.fromkeys(revision.case.group for revision in revisions)
        numbers = {group: number for number, group in enumerate(groups, start=1)}
        patients = {revision.case.id: numbers[revision.case.group] for revision in revisions}
        scans = {each.case.id: _short(known[each.image_hash]) for each in revisions if known.get(each.image_hash)}
        rows = dict(scans)
        for revision in revisions:
            case = revision.case
            if case.id in rows and case.group != case.id:  # whose it is was said, by DICOM or by the user
                rows[case.id] = _("{scan}, patient {number}").format(scan=rows[case.id], number=patients[case.id])
        counts = Counter(rows.values())
        for case, text in tuple(rows.items()):
            if counts[text] > 1 or text in patients:
                rows[case] = f"{text} ({case})"
        return CaseNames(scans, rows, patients)

    def row(self, case: str) -> str:
        """Return what a table calls a case, or a part of it; the table's tooltip says its number."""
        part = _PART.fullmatch(case)
        if part is not None and part[1] in self.rows:
            return _("{scan}, part {number}").format(scan=self.rows[part[1]], number=part[2])
        return self.rows.get(case, case)

    def text(self, case: str) -> str:
        """Return what a sentence calls a case: the scan's name, with the case's number behind it."""
        return f"{self.scans[case]} ({case})" if case in self.scans else case

    def inText(self, text: str) -> str:
        """Return a sentence of the library with the names of the cases in it; paths of files stay.

        An id that a person gave may be any word or number: it is one only where "case" stands before it.
        """
        if not self.scans:
            return text
        ids = sorted(self.scans, key=len, reverse=True)
        before = {case: "" if _NUMBERED.fullmatch(case) else r"(?<=case\s)" for case in ids}
        either = "|".join(before[case] + re.escape(case) for case in ids)
        return re.sub(rf"(?<![\w/\\.(-])({either})(?![\w/\\-]|\.\w)", lambda found: self.text(found[1]), text)


def _short(name: str) -> str:
    """Return a scan's name on one line, without its middle where it is very long."""
    name = " ".join(name.split())
    half = (_LONGEST - 1) // 2
    return name if len(name) <= _LONGEST else f"{name[:half]}…{name[-half:]}"
