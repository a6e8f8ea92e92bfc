"""The patient of a DICOM scan, for a pseudonym that keeps two scans of one patient together.

Read in a child process, as DICOM always is here: a file that crashes its reader ends the child and not the caller.

Run as ``python -m TransferSegLib.corrections.dicom_patient PATH [SERIES]``; prints the PatientID as JSON.
"""

from __future__ import annotations

import hmac
import json
import subprocess
import sys
from pathlib import Path

from TransferSegLib.child_process import find_interpreter, run_module
from TransferSegLib.errors import ScanError
from TransferSegLib.images.formats.dicom.series import chosen_files, is_dicom_file
from TransferSegLib.process_limits import Limits, limit_this_process, own_limits

PATIENT_ID = "0010|0020"
_LONGEST_S = 300


def pseudonym(patient_id: str, salt: str) -> str:
    """Return a name for a patient from which the id cannot be found without the project's salt."""
    digest = hmac.new(salt.encode(), patient_id.strip().encode(), "sha256").hexdigest()
    return f"patient-{digest[:16]}"


def read_patient_id(path: Path, series: str | None = None) -> str:
    """Return the PatientID of a DICOM file, or of a series in a folder; '' when it is no DICOM or has none."""
    python = find_interpreter()
    try:
        if python is None or not (path.is_dir() or is_dicom_file(path)):
            return ""
        args = [str(path.absolute()), *([series] if series else [])]
        limits = Limits.for_input(path, with_folder=path.is_file())
        end = run_module(python, "TransferSegLib.corrections.dicom_patient", args, _LONGEST_S, None, limits)
        return str(json.loads(end.output.splitlines()[-1])) if end.exit_code == 0 else ""
    except (OSError, ValueError, IndexError, subprocess.TimeoutExpired):
        return ""


def _find_patient_id(path: Path, series: str | None) -> str:
    """Return the PatientID of the series that would be read (the child's side)."""
    try:
        files, _, _ = chosen_files(path, series)
    except ScanError:
        return ""
    return files[0].patient_id


if __name__ == "__main__":
    limit_this_process(own_limits())
    found = _find_patient_id(Path(sys.argv[1]), sys.argv[2] if len(sys.argv) > 2 else None)
    print(json.dumps(found.encode("utf-8", "replace").decode("utf-8")))
