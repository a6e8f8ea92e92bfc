"""One family of errors whose messages are written for a person: what is wrong, with which file, what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager


class TransferSegError(Exception):
    """Anything the user can put right. The command line prints the message and exits with 2."""


class ScanError(TransferSegError):
    """A scan or label map cannot be read, written or used."""


class DatasetError(TransferSegError):
    """A dataset folder is incomplete or contradicts itself."""


class ModelError(TransferSegError):
    """A model on disk is missing, damaged, from a newer version, or does not fit what is asked of it."""


class NetworkError(TransferSegError):
    """The network is asked for something its geometry does not allow."""


class TrainingError(TransferSegError):
    """Training cannot start or go on with what it was given."""


class DeviceError(TransferSegError):
    """The device asked for is not there or has not enough memory."""


class JobError(TransferSegError):
    """A background job cannot be found, read, started or ended as asked."""


class StudyError(TransferSegError):
    """A study's configuration or its data do not allow what is asked of it."""


class Cancelled(TransferSegError):
    """The user asked to stop; what was saved up to here is complete."""


@contextmanager
def naming_case(case_id: str) -> Iterator[None]:
    """Raise a ScanError from within as a DatasetError that names the case."""
    try:
        yield
    except ScanError as error:
        raise DatasetError(f"Case {case_id}: {error}") from error
