"""Replaying a recording acts as the robot would have: in order, on what had come by then, the same every time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from support import tiny

from edgevlm import load
from edgevlm.data import LogWriter, read_log
from edgevlm.data.base import Event, FrameEvent, InstructionEvent, StateEvent
from edgevlm.data.container import Container
from edgevlm.data.stream import open_stream
from edgevlm.errors import ContractError, InstructionError
from edgevlm.loop.matching import Frame
from edgevlm.loop.worker import Acted, Failed
from edgevlm.manifest.contract import ActionChunk, Contract, Observation, Stamped
from edgevlm.replay.comparison import Comparison
from edgevlm.replay.replay import AsFastAsPossible, RealTime, Replay, Turn, check_same, replay_spec
from edgevlm.rosmsg.topic_map import StateSource, TopicMap
from edgevlm.tasks import Policy

EXAMPLE = Path(__file__).parents[3] / "examples/tabletop/log.mcap"
EXAMPLE_TOPICS = TopicMap(
    cameras={"front": "/front/image_raw/compressed"},
    state={
        "x": StateSource(topic="/hand_pose", path="pose.position.x"),
        "y": StateSource(topic="/hand_pose", path="pose.position.y"),
        "grip": StateSource(topic="/joint_states", joint="gripper"),
    },
    instruction="/instruction",
)
MS = 1_000_000
CONTRACT = tiny.mono_contract()


def example(path: Path) -> Contract:
    """Copy the example's recording, told in words that the small test bundle knows; that bundle's contract for it."""
    container = Container(EXAMPLE)
    instruction_count = 0
    with LogWriter(path) as log:
        for ref in container.refs:
            channel = container.channels[ref.channel]
            if channel.topic == "/instruction":
                log.string(channel.topic, ref.log_ns, tiny.COMMANDS[instruction_count % len(tiny.COMMANDS)])
                instruction_count += 1
            else:
                log.raw(channel.topic, channel.type_name, container.read(ref), ref.log_ns)
    camera = CONTRACT.cameras[0].model_copy(update={"width": 320, "height": 240})
    return CONTRACT.model_copy(update={"cameras": (camera,)})


class Model:
    """Acts in `takes_ns` of a clock that only it moves; the chunk tells number and frames pushed. Fails on demand."""

    def __init__(self, contract: Contract = CONTRACT, *, off: float = 0.0) -> None:
        self.contract, self.off = contract, off
        self.pushed: list[int] = []
        self.observations: list[Observation] = []
        self.before: Callable[[], None] = lambda: None
        self.last_times_ns: Mapping[str, int] = {"step": 5}

    def push(self, camera: str, frame: Frame) -> None:
        self.pushed.append(frame.stamp_ns)

    def act(self, observation: Observation) -> ActionChunk:
        self.before()
        self.observations.append(observation)
        action = self.contract.action
        observed_ns = max(frame.stamp_ns for frame in observation.frames.values())
        values = np.full((action.steps, len(action.names)), len(self.observations) / 100, np.float32)
        values[2, 1] += self.off * len(self.observations)
        return ActionChunk(values, action.names, action.units, action.step_s, observed_ns, observed_ns + 1, 1)


def picture(number: int = 0) -> NDArray[np.uint8]:
    return tiny.image(CONTRACT.cameras[0], number)


def frame(at_ms: int, stamp_ms: int | None = None) -> FrameEvent:
    return FrameEvent(at_ms * MS, "front", Stamped(picture(), (at_ms if stamp_ms is None else stamp_ms) * MS))


def state(at_ms: int) -> StateEvent:
    return StateEvent(at_ms * MS, Stamped(np.full(3, at_ms, np.float32), at_ms * MS))


def run(model: Model, events: list[Event], pace: AsFastAsPossible | RealTime | None = None) -> list[Turn]:
    return list(Replay(CONTRACT, {"a": model}, pace or AsFastAsPossible()).run(events))


def stamps(model: Model) -> list[int]:
    return [observation.frames["front"].stamp_ns // MS for observation in model.observations]


def chunks(turns: list[Turn]) -> list[ActionChunk]:
    return [turn.outcome.chunk for turn in turns if isinstance(turn.outcome, Acted)]


def by_hand(policy: Policy, path: Path, topics: TopicMap | None = None) -> Iterator[ActionChunk]:
    recording = read_log(path, policy.contract, topics)
    session = policy.session()
    for episode in recording.episodes:
        for observation in recording.observations(episode):
            yield session.act(observation)


def test_a_recording_gives_the_chunks_that_its_observations_give(tmp_path: Path) -> None:
    path = tmp_path / "log.mcap"
    parts = tiny.mono_parts(4, "head", example(path))
    with load(tiny.write_bundle(tmp_path / "bundle", parts)) as policy:
        want = list(by_hand(policy, path, EXAMPLE_TOPICS))
        stream = open_stream(path, policy.contract, EXAMPLE_TOPICS)
        turns = list(Replay(policy.contract, {"a": policy.session()}, AsFastAsPossible()).run(stream))
    got = chunks(turns)
    assert len(got) == len(want) == 953
    assert all(tiny.same(one, other) for one, other in zip(got, want, strict=True))
    assert turns[-1].counts == {
        "frames_received": 953,
        "frames_dropped": 0,
        "observations_dropped": 0,
        "acted": 953,
        "failed": 0,
    }


def test_frames_before_the_first_instruction_are_observed_but_not_acted_on() -> None:
    model = Model()
    turns = run(
        model, [state(0), frame(0), state(100), frame(100), InstructionEvent(150 * MS, "go"), state(200), frame(200)]
    )
    assert stamps(model) == [200] and model.pushed == [0, 100 * MS]
    assert len(turns) == 1


def test_an_empty_instruction_or_a_loss_makes_it_idle_until_the_next() -> None:
    model = Model()
    events: list[Event] = []
    for number, text in enumerate(("go", " ", "go on", None, "on")):
        events += [InstructionEvent(number * 100 * MS, text), state(number * 100), frame(number * 100)]
    run(model, events)
    steps = zip(model.observations, stamps(model), strict=True)
    assert [(observation.instruction, stamp) for observation, stamp in steps] == [
        ("go", 0),
        ("go on", 200),
        ("on", 400),
    ]


def test_a_frame_waits_for_the_state_of_its_time_and_takes_the_newest_before_it() -> None:
    model = Model()
    turns = run(model, [InstructionEvent(0, "go"), state(80), frame(95, 90), state(120), state(140)])
    assert [observation.state.stamp_ns for observation in model.observations if observation.state] == [80 * MS]
    (turn,) = turns
    assert turn.outcome.times.started_ros_ns == turn.outcome.times.ended_ros_ns == 120 * MS  # when it was certain


def test_without_waiting_it_takes_the_newest_state_that_had_come_as_a_node_does() -> None:
    events: list[Event] = [
        InstructionEvent(0, "go"),
        state(80),
        frame(100),
        StateEvent(101 * MS, state(100).state),
        state(120),
    ]
    taken = {}
    for wait in (True, False):
        model = Model()
        list(
            Replay(CONTRACT, {"a": model}, AsFastAsPossible(), spec=replay_spec(CONTRACT, wait_for_state=wait)).run(
                events
            )
        )
        taken[wait] = [observation.state.stamp_ns // MS for observation in model.observations if observation.state]
    assert taken == {True: [100], False: [80]}


def test_the_last_frame_is_acted_on_when_nothing_comes_after_it() -> None:
    model = Model()
    run(model, [InstructionEvent(0, "go"), state(80), frame(100)])
    assert stamps(model) == [100]


def test_a_step_that_fails_is_reported_and_the_next_one_acts() -> None:
    model = Model()

    def fail() -> None:
        model.before = lambda: None
        raise InstructionError("no such word")

    model.before = fail
    events: list[Event] = [InstructionEvent(0, "go"), state(0), frame(0), state(100), frame(100)]
    first, second = run(model, events)
    assert isinstance(first.outcome, Failed) and first.counts["failed"] == 1
    assert isinstance(second.outcome, Acted) and second.counts["acted"] == 1


class Wall:
    """A clock that sleeping moves."""

    def __init__(self) -> None:
        self.ns = 77
        self.slept_ns = 0

    def sleep(self, seconds: float) -> None:
        self.ns += round(seconds * 1e9)
        self.slept_ns += round(seconds * 1e9)


def real_time(model: Model, takes_ms: int, frames: int = 10) -> tuple[list[Turn], Wall]:
    wall = Wall()
    events: list[Event] = [InstructionEvent(1000 * MS, "go")]
    for at_ms in range(1000, 1000 + frames * 100, 100):
        events += [state(at_ms), frame(at_ms)]

    def work() -> None:
        wall.ns += takes_ms * MS

    model.before = work
    return run(model, events, RealTime(1000 * MS, lambda: wall.ns, wall.sleep)), wall


def test_in_real_time_a_quick_model_acts_on_every_frame_at_its_time() -> None:
    model = Model()
    turns, wall = real_time(model, takes_ms=30)
    assert stamps(model) == list(range(1000, 2000, 100))
    assert [turn.outcome.times.started_ros_ns // MS for turn in turns] == stamps(model)
    assert all(turn.outcome.times.duration_ns == 30 * MS for turn in turns)
    assert wall.slept_ns == 9 * 70 * MS


def test_in_real_time_a_slow_model_drops_what_it_is_too_slow_for_and_counts_it() -> None:
    model = Model()
    turns, _ = real_time(model, takes_ms=250)
    # Free again 250, 500, 750 ms after the first frame: the newest one by then is taken, those between are pushed.
    assert stamps(model) == [1000, 1200, 1500, 1700, 1900]
    assert model.pushed == [stamp * MS for stamp in (1100, 1300, 1400, 1600, 1800)]
    assert turns[-1].counts["observations_dropped"] == 5


def test_models_side_by_side_see_the_same_and_do_not_disturb_each_other() -> None:
    a, b = Model(), Model(off=0.01)
    events: list[Event] = [InstructionEvent(0, "go")]
    for at_ms in range(0, 500, 100):
        events += [state(at_ms), frame(at_ms)]
    turns = list(Replay(CONTRACT, {"a": a, "b": b}, AsFastAsPossible()).run(events))
    assert [turn.lane for turn in turns] == ["a", "b"] * 5
    assert stamps(a) == stamps(b) == [0, 100, 200, 300, 400]

    comparison = Comparison(CONTRACT, worst=2)
    differences = [apart for turn in turns if (apart := comparison.add(turn)) is not None]
    assert [apart.stamp_ns // MS for apart in differences] == [0, 100, 200, 300, 400]
    columns = comparison.columns()
    assert columns["dy"]["max"] == pytest.approx(0.05) and columns["dy"]["mean"] == pytest.approx(0.03)
    assert columns["dx"] == {"unit": "m", "mean": 0.0, "p99": 0.0, "max": 0.0}
    first, second = comparison.worst
    assert (first.stamp_ns // MS, first.column, first.row, first.instruction) == (400, "dy", 2, "go")
    assert (first.a, first.b) == (pytest.approx(0.05), pytest.approx(0.10)) and second.stamp_ns == 300 * MS
    assert comparison.alone == {"a": 0, "b": 0}


def test_observations_that_only_one_acted_on_are_counted_and_not_compared() -> None:
    model = Model()
    turns = run(model, [InstructionEvent(0, "go"), state(0), frame(0), state(100), frame(100)])
    comparison = Comparison(CONTRACT)
    assert comparison.add(turns[0]) is None
    assert comparison.add(Turn("b", turns[1].outcome, turns[1].counts)) is None
    assert comparison.alone == {"a": 1, "b": 1}
    assert comparison.add(Turn("b", turns[0].outcome, turns[0].counts)) is not None
    assert comparison.alone == {"a": 0, "b": 1}


def test_a_simulated_clock_that_starts_again_begins_anew() -> None:
    model = Model()
    events: list[Event] = [InstructionEvent(0, "go")]
    for number in range(6):
        stamp_ms = 50_000 + 100 * number if number < 3 else 100 * (number - 3)
        log_ms = 10_000_000 + 100 * number
        state = Stamped(np.zeros(3, np.float32), stamp_ms * MS)
        events += [FrameEvent(log_ms * MS, "front", Stamped(picture(), stamp_ms * MS)), StateEvent(log_ms * MS, state)]
    replay = Replay(CONTRACT, {"a": model}, AsFastAsPossible(), stamps_are_time=True)
    list(replay.run(events))
    assert stamps(model) == [50_000, 50_100, 50_200, 0, 100, 200]
    assert replay.lanes[0].matcher.counts["restarts"] == 1


def test_contracts_are_compared_but_for_what_normalises_inside_a_model() -> None:
    fields = tuple(field.model_copy(update={"mean": 0.7, "std": 2.0}) for field in CONTRACT.state.fields)  # type: ignore[union-attr]
    assert CONTRACT.state is not None
    check_same(CONTRACT, CONTRACT.model_copy(update={"state": CONTRACT.state.model_copy(update={"fields": fields})}))
    slower = CONTRACT.action.model_copy(update={"step_s": 0.1})
    with pytest.raises(ContractError, match=r"differ at action\.step_s: 0\.05 and 0\.1"):
        check_same(CONTRACT, CONTRACT.model_copy(update={"action": slower}))
    with pytest.raises(ContractError, match="differ at cameras"):
        check_same(CONTRACT, tiny.duo_contract())


def test_frames_of_another_camera_that_were_not_the_nearest_reach_the_window_too(tmp_path: Path) -> None:
    contract = tiny.duo_contract()
    path = tmp_path / "duo.mcap"
    with LogWriter(path) as log:
        log.string("/instruction", 0, "go")
        for number in range(4):
            at_ns = (1000 + 100 * number) * MS
            for camera, late_ms in (("left", 0), ("wrist", 1), ("wrist", 50)):
                spec = next(spec for spec in contract.cameras if spec.name == camera)
                image = tiny.image(spec, number)
                log.image(f"/{camera}/image_raw", at_ns + late_ms * MS, image, encoding=spec.encoding)
    model = Model(contract)
    list(Replay(contract, {"a": model}, AsFastAsPossible()).run(open_stream(path, contract)))
    assert [o.frames["wrist"].stamp_ns // MS for o in model.observations] == [1001, 1101, 1201, 1301]
    assert [stamp // MS for stamp in model.pushed] == [1050, 1150, 1250]  # what `read_log` never hands out
