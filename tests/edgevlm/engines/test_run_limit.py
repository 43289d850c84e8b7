"""A run that takes too long is ended from outside; runs that end by themselves are left alone."""

from __future__ import annotations

import threading
import time

from edgevlm.engines.run_limit import RunLimits


def test_ends_a_run_that_takes_too_long_and_no_other() -> None:
    limits, ended, other = RunLimits(), threading.Event(), threading.Event()
    with limits.limit(30.0, other.set), limits.limit(0.1, ended.set):
        assert ended.wait(5.0)
    assert not other.is_set()


def test_a_run_that_has_ended_is_not_ended_again() -> None:
    limits, ended = RunLimits(), threading.Event()
    with limits.limit(0.05, ended.set):
        pass
    assert not ended.wait(0.6)


def test_its_thread_goes_when_there_is_nothing_to_look_at_and_comes_back() -> None:
    limits = RunLimits(idle_s=0.1)
    for _ in range(2):
        ended = threading.Event()
        with limits.limit(0.05, ended.set):
            assert ended.wait(5.0)
        begin = time.monotonic()
        while any(thread is limits._thread for thread in threading.enumerate()):
            assert time.monotonic() - begin < 5.0
            time.sleep(0.02)
        assert limits._thread is None
