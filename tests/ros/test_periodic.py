"""The thread calls at a steady rate, and ends when it is told to."""

from __future__ import annotations

import threading
import time

import pytest

pytest.importorskip("edgevlm_ros", reason="needs the built workspace: make ros-build")

from edgevlm_ros.command_gate import PeriodicThread

PERIOD_S = 0.02


def test_calls_come_a_period_apart_from_the_first_at_once() -> None:
    at: list[float] = []
    enough = threading.Event()

    def call() -> None:
        at.append(time.monotonic())
        if len(at) == 20:
            enough.set()

    thread = PeriodicThread(PERIOD_S, call)
    begin = time.monotonic()
    thread.start()
    assert enough.wait(10)
    thread.stop()
    assert at[0] - begin < 10 * PERIOD_S
    assert at[19] - at[0] >= 18.5 * PERIOD_S  # never sooner, however late one was
    count = len(at)
    time.sleep(3 * PERIOD_S)
    assert len(at) == count


def test_periods_that_a_call_took_too_long_for_are_left_out() -> None:
    at: list[float] = []

    def call() -> None:
        at.append(time.monotonic())
        if len(at) == 1:
            time.sleep(3.5 * PERIOD_S)

    thread = PeriodicThread(PERIOD_S, call)
    thread.start()
    time.sleep(6.5 * PERIOD_S)
    thread.stop()
    assert at[1] - at[0] >= 3.9 * PERIOD_S
    assert len(at) <= 5


def test_a_long_wait_ends_at_once() -> None:
    calls = threading.Event()
    thread = PeriodicThread(30.0, calls.set)
    thread.start()
    assert calls.wait(10)
    begin = time.monotonic()
    thread.stop()
    assert time.monotonic() - begin < 5
