"""Scan after scan with reading and writing beside the computing: the next is read, and the last written, meanwhile.

No more than three scans are in memory at any time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

Item = TypeVar("Item")
Read = TypeVar("Read")
Computed = TypeVar("Computed")
Written = TypeVar("Written")


def overlapped(
    items: Iterable[Item],
    read: Callable[[Item], Read],
    compute: Callable[[Item, Read], Computed],
    write: Callable[[Item, Read, Computed], Written],
    failures: tuple[type[Exception], ...],
) -> Iterator[tuple[Item, Written | Exception]]:
    """Yield each item with what ``write`` returned, or with the error of ``failures`` that stopped it, in order.

    ``read`` and ``write`` run in threads of their own, one item each at a time; ``compute`` runs in the caller's. Other
    errors are raised, after the work in the threads has ended.
    """
    with ThreadPoolExecutor(1, "reading") as reading, ThreadPoolExecutor(1, "writing") as writing:
        waiting = iter(items)
        ahead = _submitted(reading, read, waiting)
        behind: tuple[Item, Future[Written] | Exception] | None = None
        while ahead is not None:
            item, future = ahead
            outcome: Future[Written] | Exception
            try:
                content = future.result()
                ahead = _submitted(reading, read, waiting)
                outcome = writing.submit(write, item, content, compute(item, content))
                del content
            except failures as error:
                outcome = error
                if ahead is not None and ahead[0] is item:
                    ahead = _submitted(reading, read, waiting)
            del future
            if behind is not None:
                yield behind[0], _ended(behind[1], failures)  # type: ignore[arg-type]
            behind = item, outcome
        if behind is not None:
            yield behind[0], _ended(behind[1], failures)  # type: ignore[arg-type]


def _submitted(
    pool: ThreadPoolExecutor, read: Callable[[Item], Read], items: Iterator[Item]
) -> tuple[Item, Future[Read]] | None:
    """Begin to read the next item; None when there is none."""
    for item in items:
        return item, pool.submit(read, item)
    return None


def _ended(outcome: Future[Written] | Exception, failures: tuple[type[Exception], ...]) -> Written | Exception:
    """Wait for an item's end."""
    if isinstance(outcome, Exception):
        return outcome
    try:
        return outcome.result()
    except failures as error:
        return error
