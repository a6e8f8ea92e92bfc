"""What may be the id of a case: also the name of a folder, on every system."""

from __future__ import annotations

import re

from TransferSegLib.errors import DatasetError

#: Also a folder's name, on every system.
_CASE_ID = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9 ._-]{0,62}[A-Za-z0-9_-])?")
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)


def check_case_id(case_id: str) -> None:
    """Raise DatasetError unless an id can be the name of a folder on every system."""
    if not _CASE_ID.fullmatch(case_id) or _RESERVED.fullmatch(case_id):
        raise DatasetError(
            f"'{case_id}' cannot be a case's id: use up to 64 letters (a to z), digits, spaces and . _ - (a folder is "
            "named after it), and no patient's name."
        )
