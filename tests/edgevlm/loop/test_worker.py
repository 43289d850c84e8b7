"""The thread around a model: it acts on the newest, tells what happened, and survives whatever the model does."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
from support import tiny
from support.tiny import COMMANDS, MS, PERIOD_NS, START_NS

from edgevlm.bundle import open_bundle
from edgevlm.errors import NonFiniteError, SessionError, ShapeError
from edgevlm.loop.mailbox import Mailbox
from edgevlm.loop.matching import Frame, Matched, merge
from edgevlm.loop.worker import Acted, Acting, Clocks, Failed, Hooks, Outcome, Worker
from edgevlm.manifest.contract import ActionChunk, Observation, Stamped
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy


@dataclass
class Time:
    """Both clocks, moved by hand."""

    now_ns: int = 0

    def clocks(self) -> Clocks:
        return Clocks(ros=lambda: START_NS + self.now_ns, steady=lambda: self.now_ns)


@dataclass
class Model:
    """Remembers what it saw, takes time, and raises when told to."""

    time: Time
    step_ms: float = 10.0
    errors: list[Exception | None] = field(default_factory=list)
    frames: list[tuple[str, int]] = field(default_factory=list)
    instructions: list[str] = field(default_factory=list)
    last_times_ns: Mapping[str, int] = field(default_factory=dict)

    def push(self, camera: str, frame: Frame) -> None:
        self.frames.append((camera, frame.stamp_ns))

    def act(self, observation: Observation) -> ActionChunk:
        self.frames += [(name, frame.stamp_ns) for name, frame in observation.frames.items()]
        self.instructions.append(observation.instruction)
        self.time.now_ns += round(self.step_ms * MS)
        error = self.errors.pop(0) if self.errors else None
        if error is not None:
            raise error
        self.last_times_ns = {"step": round(self.step_ms * MS)}
        observed_ns = max(frame.stamp_ns for frame in observation.frames.values())
        return ActionChunk(
            np.zeros((2, 1), np.float32), ("x",), ("m",), 0.1, observed_ns, observed_ns, len(self.instructions)
        )


def matched(index: int) -> Matched:
    return Matched({"front": Stamped(np.zeros((1, 1, 3), np.uint8), START_NS + index * PERIOD_NS)}, None)


class Bench:
    """A worker whose turns the test takes itself, without a thread."""

    def __init__(self, model: Acting | None = None, warm_up: int = 0) -> None:
        self.time = Time()
        self.model = Model(self.time)
        self.outcomes: list[Outcome] = []
        self.beats: list[int | None] = []
        self.instruction: str | None = COMMANDS[0]
        self.inbox: Mailbox[Matched] = Mailbox(merge)
        hooks = Hooks(publish=self.outcomes.append, beat=self.beats.append, instruction=lambda: self.instruction)
        self.worker = Worker(
            self.model if model is None else model,
            self.inbox,
            hooks,
            self.time.clocks(),
            poll_s=0.0,
            warm_up=warm_up,
        )

    def turn(self, index: int) -> Outcome | None:
        self.inbox.put(matched(index))
        return self.worker.turn()


def test_publishes_the_chunk_with_times_on_both_clocks() -> None:
    bench = Bench()
    outcome = bench.turn(3)
    assert isinstance(outcome, Acted)
    assert bench.outcomes == [outcome]
    assert outcome.chunk.observed_ns == START_NS + 3 * PERIOD_NS
    times = outcome.times
    assert (times.started_ros_ns, times.ended_ros_ns) == (START_NS, START_NS + 10 * MS)
    assert (times.started_steady_ns, times.ended_steady_ns, times.duration_ns) == (0, 10 * MS, 10 * MS)
    assert outcome.stages_ns == {"step": 10 * MS}


def test_acts_on_the_newest_and_shows_the_model_what_it_missed() -> None:
    bench = Bench()
    for index in (1, 2):
        bench.inbox.put(matched(index))
    bench.turn(3)
    assert [stamp - START_NS for _, stamp in bench.model.frames] == [PERIOD_NS, 2 * PERIOD_NS, 3 * PERIOD_NS]
    assert len(bench.model.instructions) == 1


@pytest.mark.parametrize("error", [NonFiniteError("nan"), ValueError("a defect"), ZeroDivisionError(), MemoryError()])
def test_a_model_that_raises_is_reported_and_the_next_observation_is_tried(error: Exception) -> None:
    bench = Bench()
    bench.model.errors = [error, None]
    failed = bench.turn(1)
    assert isinstance(failed, Failed)
    assert failed.error is error
    assert failed.refused == isinstance(error, NonFiniteError)
    assert failed.observation.frames["front"].stamp_ns == START_NS + PERIOD_NS
    assert isinstance(bench.turn(2), Acted)
    assert bench.worker.counts["act_failed"] == 1
    assert bench.worker.counts[f"failed.{type(error).__name__}"] == 1
    assert [type(outcome) for outcome in bench.outcomes] == [Failed, Acted]


def test_a_frame_that_does_not_fit_fails_one_step_only() -> None:
    bench = Bench()

    def refuse(camera: str, frame: Frame) -> None:
        raise ShapeError("another encoding")

    push, bench.model.push = bench.model.push, refuse  # type: ignore[method-assign]
    bench.inbox.put(matched(1))
    assert isinstance(bench.turn(2), Failed)
    bench.model.push = push  # type: ignore[method-assign]
    assert isinstance(bench.turn(3), Acted)


def test_a_hook_that_raises_ends_nothing() -> None:
    time, inbox = Time(), Mailbox[Matched](merge)

    def fail(outcome: Outcome) -> None:
        raise RuntimeError("the middleware is gone")

    hooks = Hooks(publish=fail, beat=lambda observing_ns: None, instruction=lambda: COMMANDS[0])
    worker = Worker(Model(time), inbox, hooks, time.clocks(), poll_s=0.0)
    inbox.put(matched(1))
    assert isinstance(worker.turn(), Acted)
    assert worker.counts["hook_failed"] == 1


def test_warm_up_and_failures_are_in_no_statistics() -> None:
    bench = Bench(warm_up=2)
    bench.model.errors = [ValueError("a defect")]
    bench.model.step_ms = 500.0
    outcomes = [bench.turn(index) for index in range(3)]
    bench.model.step_ms = 10.0
    outcomes += [bench.turn(index) for index in range(3, 8)]
    assert bench.worker.latency == {"p50": 10.0, "p95": 10.0, "p99": 10.0, "max": 10.0, "n": 5}
    assert [outcome.times.warm_up for outcome in outcomes if isinstance(outcome, Acted)] == [True] * 2 + [False] * 5


def test_shows_life_while_idle_and_announces_the_inputs_of_the_model() -> None:
    bench = Bench()
    assert bench.worker.turn() is None
    bench.turn(4)
    assert bench.beats == [None, None, START_NS + 4 * PERIOD_NS]


def test_without_an_instruction_the_model_only_watches() -> None:
    bench = Bench()
    bench.instruction = None
    assert bench.turn(1) is None
    assert bench.model.instructions == []
    bench.instruction = COMMANDS[1]
    bench.turn(2)
    assert [stamp - START_NS for _, stamp in bench.model.frames] == [PERIOD_NS, 2 * PERIOD_NS]
    assert bench.model.instructions == [COMMANDS[1]]
    assert bench.worker.counts["idle"] == 1


def test_the_thread_stops_cleanly_and_only_starts_once() -> None:
    time, inbox, published = Time(), Mailbox[Matched](merge), threading.Event()
    hooks = Hooks(lambda outcome: published.set(), lambda observing_ns: None, lambda: COMMANDS[0])
    worker = Worker(Model(time), inbox, hooks, time.clocks(), poll_s=30.0)
    worker.start()
    assert worker.alive
    inbox.put(matched(1))
    assert published.wait(10)
    with pytest.raises(SessionError, match="once"):
        worker.start()
    assert worker.stop(10), "it does not wait for the poll to end"
    assert not worker.alive
    inbox.put(matched(2))
    assert inbox.drops == 1


def test_stop_reports_a_model_that_hangs() -> None:
    time, inbox, release = Time(), Mailbox[Matched](merge), threading.Event()
    started = threading.Event()

    class Hanging(Model):
        def act(self, observation: Observation) -> ActionChunk:
            started.set()
            release.wait(30)
            return super().act(observation)

    hooks = Hooks(lambda outcome: None, lambda observing_ns: None, lambda: COMMANDS[0])
    worker = Worker(Hanging(time), inbox, hooks, time.clocks(), poll_s=0.05)
    worker.start()
    inbox.put(matched(1))
    assert started.wait(10)
    assert not worker.stop(0.01)
    release.set()
    assert worker.stop(10)


def test_a_real_policy_gives_the_same_chunks_as_without_a_worker(tmp_path: Path) -> None:
    with Policy(open_bundle(tiny.mono(tmp_path / "mono")), RuntimeOptions(intra_threads=1)) as policy:
        bench = Bench(policy.session())
        observations = [tiny.observation(policy.contract, index) for index in range(6)]
        for observation in observations[:-1]:  # all but the last come while the model is busy
            bench.inbox.put(Matched(observation.frames, observation.state))
        bench.inbox.put(Matched(observations[-1].frames, observations[-1].state))
        outcome = bench.worker.turn()
        plain = policy.session()
        for observation in observations[:-1]:
            plain.push("front", observation.frames["front"])
        expected = plain.act(observations[-1])
    assert isinstance(outcome, Acted)
    np.testing.assert_array_equal(outcome.chunk.values, expected.values)
    assert set(outcome.stages_ns) >= {"step", "vision", "head"}
