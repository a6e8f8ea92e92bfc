"""What went wrong, in a line for a person."""

from __future__ import annotations

import sys

from TransferSegLib.errors import TransferSegError
from TransferSegLib.jobs.events import DISK_FULL
from TransferSegLib.jobs.files import LOG


def describe_failure(error: BaseException) -> str:
    """Return what a job says when an error ended it; an unexpected error points to the log."""
    if isinstance(error, TransferSegError):
        return str(error)
    if _is_out_of_memory(error):
        return (
            "There is not enough memory: close other programs, choose another device, or give less to do at once. "
            f"The details are in {LOG}."
        )
    if isinstance(error, OSError) and error.errno in DISK_FULL:
        where = f": {error.filename} cannot be written" if error.filename else ""
        return f"The disk is full{where}. Free some space and resume the job."
    if isinstance(error, FileNotFoundError | NotADirectoryError) and error.filename:
        return f"{error.filename} is gone or cannot be reached. See {LOG}."
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        return f"PyTorch is not installed for {sys.executable}: install it there."
    said = (str(error).strip().splitlines() or [""])[0].strip()[:300]
    return f"An unexpected error: {type(error).__name__}{': ' + said if said else ''}; see {LOG}."


def _is_out_of_memory(error: BaseException) -> bool:
    """Return whether memory ran out, on whatever device; torch is asked only where it is loaded already."""
    if isinstance(error, MemoryError):
        return True
    if "torch" not in sys.modules:
        return False
    from TransferSegLib.inference.devices import is_out_of_memory

    return is_out_of_memory(error)
