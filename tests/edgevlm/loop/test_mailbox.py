"""The newest value between threads, and what was dropped for it."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from hypothesis import given
from hypothesis import strategies as st

from edgevlm.loop.mailbox import Mailbox


class FakeMonitor:
    """A monitor on a clock of its own: each wait lets `arrive` put something in, or lets the time run out."""

    def __init__(self, arrive: Callable[[], object] | None = None) -> None:
        self.waited_s: list[float | None] = []
        self._arrive = arrive

    def __enter__(self) -> bool:
        return True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass

    def wait_for(self, predicate: Callable[[], bool], timeout: float | None = None) -> bool:
        if not predicate():
            self.waited_s.append(timeout)
            if self._arrive is not None:
                self._arrive()
        return predicate()

    def notify_all(self) -> None:
        pass


def test_a_new_value_replaces_the_old_one_and_is_counted() -> None:
    mailbox: Mailbox[int] = Mailbox()
    assert [mailbox.put(value) for value in (1, 2, 3)] == [False, True, True]
    assert mailbox.take(0) == 3
    assert mailbox.take(0) is None
    assert (mailbox.puts, mailbox.drops) == (3, 2)


def test_a_falsy_value_is_a_value() -> None:
    mailbox: Mailbox[int] = Mailbox()
    mailbox.put(0)
    assert mailbox.take(0) == 0


def test_take_waits_on_the_injected_monitor() -> None:
    monitor = FakeMonitor()
    mailbox: Mailbox[int] = Mailbox(monitor=monitor)
    assert mailbox.take(0.25) is None
    assert monitor.waited_s == [0.25]


def test_take_returns_what_arrives_while_it_waits() -> None:
    mailbox: Mailbox[str] = Mailbox(monitor=FakeMonitor(lambda: mailbox.put("late")))
    assert mailbox.take(1.0) == "late"


def test_merge_keeps_what_must_not_be_lost() -> None:
    mailbox: Mailbox[list[int]] = Mailbox(merge=lambda old, new: old + new)
    for value in ([1], [2], [3]):
        mailbox.put(value)
    assert mailbox.take(0) == [1, 2, 3]
    mailbox.put([4])
    assert mailbox.take(0) == [4]


def test_close_wakes_takers_and_drops_what_is_left() -> None:
    mailbox: Mailbox[int] = Mailbox()
    taken: list[int | None] = []
    taker = threading.Thread(target=lambda: taken.append(mailbox.take(None)))
    taker.start()
    mailbox.close()
    taker.join(10)
    assert taken == [None]
    assert mailbox.put(1) is False
    mailbox.close()
    assert (mailbox.closed, mailbox.take(None), mailbox.drops) == (True, None, 1)


def test_threads_lose_no_value_without_counting_it() -> None:
    mailbox: Mailbox[int] = Mailbox()
    taken: list[int] = []

    def take_all() -> None:
        while (value := mailbox.take(None)) is not None:
            taken.append(value)

    taker = threading.Thread(target=take_all)
    taker.start()
    putters = [
        threading.Thread(target=lambda base=base: [mailbox.put(base + i) for i in range(2000)]) for base in (0, 10_000)
    ]
    for putter in putters:
        putter.start()
    for putter in putters:
        putter.join()
    mailbox.close()
    taker.join(10)
    assert mailbox.puts == 4000
    assert len(taken) == len(set(taken))
    assert len(taken) + mailbox.drops == 4000
    for base in (0, 10_000):
        of_one = [value for value in taken if value // 10_000 == base // 10_000]
        assert of_one == sorted(of_one)


@given(st.lists(st.one_of(st.integers(), st.none()), max_size=30))
def test_every_value_is_taken_or_counted_as_dropped(steps: list[int | None]) -> None:
    """An integer is put in, None stands for a take."""
    mailbox: Mailbox[int] = Mailbox()
    newest: int | None = None
    taken = 0
    for step in steps:
        if step is None:
            assert mailbox.take(0) == newest
            taken += newest is not None
            newest = None
        else:
            mailbox.put(step)
            newest = step
    mailbox.close()
    assert mailbox.puts == taken + mailbox.drops
