"""One thread per model: takes the newest matched observation, runs the session, hands on a typed outcome."""

from __future__ import annotations

import logging
import threading
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Literal, Protocol

from edgevlm.errors import EdgevlmError, SessionError
from edgevlm.loop.mailbox import Mailbox
from edgevlm.loop.matching import Frame, Matched
from edgevlm.manifest.contract import ActionChunk, Observation
from edgevlm.profiler import summarize

_log = logging.getLogger(__name__)
_LATENCIES_KEPT = 4096


class Acting(Protocol):
    """What the worker needs of a session; `edgevlm.Session` is one."""

    @property
    def last_times_ns(self) -> Mapping[str, int]: ...

    def push(self, camera: str, frame: Frame) -> None: ...

    def act(self, observation: Observation) -> ActionChunk: ...


@dataclass(frozen=True)
class Clocks:
    """Nanoseconds of data time and of steady time."""

    ros: Callable[[], int]
    steady: Callable[[], int]


@dataclass(frozen=True)
class Times:
    """When one step began and ended, on both clocks; a `warm_up` step is in no statistics."""

    started_ros_ns: int
    ended_ros_ns: int
    started_steady_ns: int
    ended_steady_ns: int
    warm_up: bool

    @property
    def duration_ns(self) -> int:
        """Steady time the step took."""
        return self.ended_steady_ns - self.started_steady_ns


@dataclass(frozen=True)
class Acted:
    """A chunk, what it was made from, and where the time went: `stages_ns` as `Session.last_times_ns`."""

    chunk: ActionChunk
    observation: Observation
    times: Times
    stages_ns: Mapping[str, int]


@dataclass(frozen=True)
class Failed:
    """The model, or the observation it was given, did not make it; the next observation is tried as usual."""

    error: Exception
    observation: Observation
    times: Times

    @property
    def refused(self) -> bool:
        """Whether edgevlm refused with a typed error; anything else is a defect."""
        return isinstance(self.error, EdgevlmError)


Outcome = Acted | Failed


@dataclass(frozen=True)
class Hooks:
    """What the worker calls, always from its own thread.

    Attributes:
        publish: takes every outcome.
        beat: takes a sign of life: None, or the stamp of the observation that is given to the model now.
        instruction: what the robot was told last; None while nobody told it anything.
    """

    publish: Callable[[Outcome], None]
    beat: Callable[[int | None], None]
    instruction: Callable[[], str | None]


class Worker:
    """Runs a session in a thread of its own, from `start` to `stop`.

    Args:
        poll_s: longest wait for an observation before the next sign of life; a step that takes longer shows no life.
        warm_up: how many chunks are left out of `latency`.

    Attributes:
        counts: "acted"; "act_failed", "push_failed", "hook_failed"; "failed.<error class>" of all three;
            "idle": observations without an instruction.
        busy_since_ns: steady time at which the step under way began; None between steps. Any thread may look.
    """

    def __init__(
        self, session: Acting, inbox: Mailbox[Matched], hooks: Hooks, clocks: Clocks, *, poll_s: float, warm_up: int = 3
    ) -> None:
        self._session, self._inbox, self._hooks, self._clocks = session, inbox, hooks, clocks
        self._poll_s, self._warm_up = poll_s, warm_up
        self._latencies_ns: deque[int] = deque(maxlen=_LATENCIES_KEPT)
        self._thread: threading.Thread | None = None
        self._stopping = threading.Event()
        self.busy_since_ns: int | None = None
        self.counts: Counter[str] = Counter()

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread is not None and self._thread.is_alive()

    @property
    def latency(self) -> dict[str, float | int]:
        """Percentiles of the last steps that gave a chunk, as `profiler.summarize`; warm-up and failures left out."""
        return summarize(list(self._latencies_ns))

    def start(self) -> None:
        """Start the thread.

        Raises:
            SessionError: it was started before.
        """
        if self._thread is not None:
            raise SessionError("worker: expected to be started once, it already was; make a new one")
        self._thread = threading.Thread(target=self._run, name="edgevlm-worker", daemon=True)
        self._thread.start()

    def stop(self, timeout_s: float | None = None) -> bool:
        """Close the inbox and let the step under way end; False when it did not within the time."""
        self._stopping.set()
        self._inbox.close()
        if self._thread is not None:
            self._thread.join(timeout_s)
        return not self.alive

    def turn(self) -> Outcome | None:
        """One round of the loop: wait for an observation, act, publish. The thread does this until `stop`."""
        self._guard(lambda: self._hooks.beat(None), "hook")
        matched = self._inbox.take(self._poll_s)
        if matched is None:
            return None
        instruction = self._hooks.instruction()
        if instruction is None:
            self.counts["idle"] += 1
            self._guard(lambda: self._push((*matched.passed, *matched.frames.items())), "push")
            return None
        outcome = self._step(matched, matched.observation(instruction))
        self._guard(lambda: self._hooks.publish(outcome), "hook")
        return outcome

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.turn()

    def _step(self, matched: Matched, observation: Observation) -> Outcome:
        observed_ns = max(frame.stamp_ns for frame in matched.frames.values())
        self._guard(lambda: self._hooks.beat(observed_ns), "hook")
        chunks: list[ActionChunk] = []
        ros_ns, steady_ns = self._clocks.ros(), self._clocks.steady()

        def act() -> None:
            self._push(matched.passed)
            chunks.append(self._session.act(observation))

        self.busy_since_ns = steady_ns
        error = self._guard(act, "act")
        self.busy_since_ns = None
        warm_up = self.counts["acted"] < self._warm_up
        times = Times(ros_ns, self._clocks.ros(), steady_ns, self._clocks.steady(), warm_up)
        if error is not None:
            return Failed(error, observation, times)
        self.counts["acted"] += 1
        if not times.warm_up:
            self._latencies_ns.append(times.duration_ns)
        return Acted(chunks[0], observation, times, dict(self._session.last_times_ns))

    def _push(self, frames: Iterable[tuple[str, Frame]]) -> None:
        for camera, frame in frames:
            self._session.push(camera, frame)

    def _guard(self, call: Callable[[], None], what: Literal["act", "push", "hook"]) -> Exception | None:
        """What `call` raised: the boundary to models and hooks, which must not end the loop."""
        try:
            call()
        except Exception as error:  # noqa: BLE001 - whatever an engine, a model or a hook may raise
            self.counts[f"{what}_failed"] += 1
            self.counts[f"failed.{type(error).__name__}"] += 1
            if not isinstance(error, EdgevlmError):
                _log.exception("worker: %s raised what edgevlm never does", what)
            return error
        return None
