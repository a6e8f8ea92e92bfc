"""Reading and writing beside computing: in order, never more than three at once, failures where they belong."""

from __future__ import annotations

import threading
import time

import pytest

from TransferSegLib.inference.overlapped import overlapped

PAUSE_S = 0.05


class Held:
    """Counts the items that are in memory."""

    def __init__(self) -> None:
        self.now = self.most = 0
        self._lock = threading.Lock()

    def change(self, by: int) -> None:
        with self._lock:
            self.now += by
            self.most = max(self.most, self.now)


def test_all_come_in_order_and_few_are_held_at_once() -> None:
    held = Held()

    def read(item: int) -> int:
        held.change(1)
        time.sleep(PAUSE_S)
        return item * 10

    def compute(item: int, content: int) -> int:
        time.sleep(PAUSE_S)
        return content + 1

    def write(item: int, content: int, computed: int) -> tuple[int, int]:
        time.sleep(PAUSE_S)
        held.change(-1)
        return content, computed

    started = time.monotonic()
    found = list(overlapped(range(12), read, compute, write, (ValueError,)))
    took_s = time.monotonic() - started
    assert found == [(item, (item * 10, item * 10 + 1)) for item in range(12)]
    assert held.most <= 4 and held.now == 0, "one is read, one computed, and two are or wait to be written"
    assert took_s < 0.75 * 12 * 3 * PAUSE_S, "three times as long if one after another"


@pytest.mark.parametrize("where", ["read", "compute", "write"])
def test_a_failure_is_of_its_item_alone(where: str) -> None:
    def step(name: str, item: int) -> int:
        if name == where and item in (0, 3, 4):
            raise ValueError(f"{item}")
        return item

    outcomes = dict(
        overlapped(
            range(6),
            lambda item: step("read", item),
            lambda item, _: step("compute", item),
            lambda item, _, __: step("write", item),
            (ValueError,),
        )
    )
    assert [item for item, outcome in outcomes.items() if isinstance(outcome, ValueError)] == [0, 3, 4]
    assert [outcomes[item] for item in (1, 2, 5)] == [1, 2, 5]


def test_other_errors_are_raised_when_the_threads_have_ended() -> None:
    threads = threading.active_count()

    def compute(item: int, _: int) -> int:
        if item == 2:
            raise KeyError("a mistake of ours")
        return item

    with pytest.raises(KeyError):
        list(overlapped(range(9), lambda item: item, compute, lambda item, *_: item, (ValueError,)))
    assert threading.active_count() == threads
