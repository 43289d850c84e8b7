"""How a process of a node ends: a signal is noted, whatever runs is finished, then everything is closed in order.

Nothing is done inside a signal handler. rclpy's own handlers shut ROS down at once, and the command that should have
been the last one can no longer be sent. No ROS in here.
"""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import threading
from collections.abc import Callable
from contextlib import suppress

_SIGNALS = (signal.SIGINT, signal.SIGTERM)
_HANG_UP = signal.SIGHUP  # of a terminal that is closed; nohup ignores it, and then so does a node
_PR_SET_PDEATHSIG = 1
WITH_PARENT = "EDGEVLM_END_WITH_PARENT"


class Ending:
    """Whether the process was asked to end, by SIGINT, SIGTERM or SIGHUP, as often as they come.

    Python runs a handler only when the main thread comes back from C, and ROS waits there. The number of the signal
    goes through a socket instead, to a thread that wakes the main one.

    Attributes:
        asked: set once, never reset.
    """

    def __init__(self) -> None:
        self.asked = False
        self.wake: Callable[[], None] = lambda: None
        self._ours, theirs = socket.socketpair()
        self._theirs = theirs
        theirs.setblocking(False)
        for number in handled():
            signal.signal(number, _nothing)
        signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        self._thread = threading.Thread(target=self._listen, name="edgevlm-ending", daemon=True)
        self._thread.start()

    def ask(self) -> None:
        """As a signal would."""
        with suppress(OSError):
            self._theirs.send(b"\0")

    def over(self) -> None:
        """All is closed: what comes now must not kill the interpreter while it takes itself down."""
        for number in handled():
            signal.signal(number, signal.SIG_IGN)
        signal.set_wakeup_fd(-1)
        self._theirs.close()
        self._thread.join()  # one that comes back from C during finalization aborts the process
        self._ours.close()

    def _listen(self) -> None:
        ends = {0, *handled()}
        while received := self._ours.recv(64):
            if not self.asked and ends.intersection(received):
                self.asked = True
                self.wake()


def leave_at_once() -> None:
    """Until `Ending` takes over a signal ends the process: nothing was opened or sent yet.

    For the first line of a program, before it imports what takes a second.
    """
    for number in handled():
        signal.signal(number, _leave)
    end_with_parent()  # now: a parent that ends while this process imports would not be noticed


def handled() -> list[signal.Signals]:
    """The signals that end a node."""
    ignored = signal.getsignal(_HANG_UP) == signal.SIG_IGN
    return [*_SIGNALS, *([] if ignored else [_HANG_UP])]


def end_with_parent() -> bool:
    """Where the environment asks for it, get SIGTERM when the process that started this one is gone; Linux only.

    A launch that is killed leaves its nodes behind otherwise. Source: prctl(2), PR_SET_PDEATHSIG.
    """
    if os.environ.get(WITH_PARENT, "") in ("", "0"):
        return False
    parent = os.getppid()
    try:
        done = ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, int(signal.SIGTERM), 0, 0, 0) == 0
    except (OSError, AttributeError):
        return False
    if done and os.getppid() != parent:  # it ended a moment ago
        os.kill(os.getpid(), signal.SIGTERM)
    return bool(done)


def _nothing(*_: object) -> None:
    """The socket has it."""


def _leave(*_: object) -> None:
    os._exit(0)
