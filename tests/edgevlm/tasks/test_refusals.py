"""What a policy refuses, and that a refusal leaves the session as it was; time that goes back, stops and restarts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.tiny import COMMANDS, MS, PERIOD_NS, START_NS, observation

from edgevlm.bundle import open_bundle
from edgevlm.errors import (
    ContractError,
    EdgevlmError,
    InstructionError,
    NonFiniteError,
    ShapeError,
    StampError,
    WindowNotReadyError,
)
from edgevlm.manifest.contract import SECOND_NS, ActionChunk, Observation, Stamped
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy, Session

OPTIONS = RuntimeOptions(intra_threads=1)


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policy]:
    with Policy(open_bundle(tiny.mono(tmp_path_factory.mktemp("mono") / "bundle")), OPTIONS) as opened:
        yield opened


@pytest.fixture(scope="module")
def duo(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policy]:
    with Policy(open_bundle(tiny.duo(tmp_path_factory.mktemp("duo") / "bundle")), OPTIONS) as opened:
        yield opened


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Policy]:
    root = tiny.mono(tmp_path_factory.mktemp("fragile") / "bundle", head="head_fragile")
    with Policy(open_bundle(root), OPTIONS) as opened:
        yield opened


def with_image(step: Observation, image: Any) -> Observation:
    return Observation({"front": Stamped(image, step.frames["front"].stamp_ns)}, step.state, step.instruction)


def with_state(step: Observation, values: Any, stamp_ns: Any = None) -> Observation:
    assert step.state is not None
    stamped = Stamped(values, step.state.stamp_ns if stamp_ns is None else stamp_ns)
    return Observation(step.frames, stamped, step.instruction)


def with_frame_stamp(step: Observation, stamp_ns: Any) -> Observation:
    return Observation({"front": Stamped(step.frames["front"].value, stamp_ns)}, step.state, step.instruction)


def instructed(step: Observation, instruction: Any) -> Observation:
    return Observation(step.frames, step.state, instruction)


def framed(step: Observation, frames: Any) -> Observation:
    return Observation(frames, step.state, step.instruction)


IMAGE = np.zeros((12, 16, 3), np.uint8)
Spoil = Callable[[Observation], Observation]
BAD: list[tuple[str, type[EdgevlmError], str, Spoil]] = [
    ("no frame", ContractError, r"each camera \['front'\], got \[\]", lambda o: framed(o, {})),
    ("another camera", ContractError, "got .*'side'", lambda o: framed(o, {**o.frames, "side": o.frames["front"]})),
    (
        "a bare image",
        ContractError,
        r"expected Stamped\(value, stamp_ns\), got ndarray",
        lambda o: framed(o, {"front": IMAGE}),
    ),
    ("a small image", ShapeError, r"expected uint8 \(12, 16, 3\) in rgb8, got", lambda o: with_image(o, IMAGE[:6])),
    ("turned axes", ShapeError, r"got uint8 \(3, 12, 16\)", lambda o: with_image(o, IMAGE.transpose(2, 0, 1))),
    ("alpha", ShapeError, r"got uint8 \(12, 16, 4\)", lambda o: with_image(o, np.zeros((12, 16, 4), np.uint8))),
    ("floats", ShapeError, "got float32", lambda o: with_image(o, IMAGE.astype(np.float32))),
    ("mirrored", ShapeError, "contiguous copy", lambda o: with_image(o, IMAGE[:, ::-1])),
    ("bytes", ShapeError, "got bytes", lambda o: with_image(o, IMAGE.tobytes())),
    ("no image", ShapeError, "got NoneType", lambda o: with_image(o, None)),
    (
        "no state",
        ShapeError,
        "expected the state .*'x', 'y', 'grip'",
        lambda o: Observation(o.frames, None, o.instruction),
    ),
    ("a bare state", ContractError, "got list", lambda o: Observation(o.frames, [0.0] * 3, o.instruction)),  # type: ignore[arg-type]
    ("a short state", ShapeError, r"expected float32 \(3,\)", lambda o: with_state(o, [0.0, 0.0])),
    ("words for numbers", ShapeError, "'grip'", lambda o: with_state(o, ["a", "b", "c"])),
    ("NaN", NonFiniteError, r"not finite: \['y'\]", lambda o: with_state(o, [0.0, float("nan"), 0.0])),
    ("infinity", NonFiniteError, r"not finite: \['x', 'grip'\]", lambda o: with_state(o, [np.inf, 0.0, -np.inf])),
    ("beyond float32", NonFiniteError, r"not finite: \['x'\]", lambda o: with_state(o, [1e39, 0.0, 0.0])),
    ("beyond when normalised", NonFiniteError, "numbers near", lambda o: with_state(o, [3e38, 0.0, 0.0])),
    ("empty words", InstructionError, "instruction", lambda o: instructed(o, " ")),
    ("unknown words", InstructionError, "teapot", lambda o: instructed(o, "push the teapot")),
    ("too many words", InstructionError, "at most 6 tokens", lambda o: instructed(o, "push the red cup left now now")),
    ("no words", InstructionError, "got None", lambda o: instructed(o, None)),
    ("a list of words", InstructionError, "got \\['push'\\]", lambda o: instructed(o, ["push"])),
    ("a stamp in seconds", StampError, "whole nanoseconds, got 1.5", lambda o: with_frame_stamp(o, 1.5)),
    ("no stamp", StampError, "state: expected a stamp in whole nanoseconds", lambda o: with_state(o, [0.0] * 3, "now")),
    (
        "an unset stamp of the state",
        StampError,
        "state: expected a stamp within 1000 ms",
        lambda o: with_state(o, [0.0] * 3, 0),
    ),
    ("an unset stamp of the frame", StampError, "before|after", lambda o: with_frame_stamp(o, 0)),
    ("a state of the future", StampError, "after it", lambda o: with_state(o, [0.0] * 3, START_NS + 60 * SECOND_NS)),
    (
        "a frame that goes back",
        StampError,
        "camera 'front'.*before it; drop late",
        lambda o: observation_back(o, frame=True),
    ),
    ("a state that goes back", StampError, "state.*before it; drop late", lambda o: observation_back(o, frame=False)),
]


def observation_back(step: Observation, *, frame: bool) -> Observation:
    """The step before the last one, for the frame or for the state."""
    back_ns = step.frames["front"].stamp_ns - 2 * PERIOD_NS
    return with_frame_stamp(step, back_ns) if frame else with_state(step, [0.0] * 3, back_ns)


def same(one: ActionChunk, other: ActionChunk) -> bool:
    return np.array_equal(one.values, other.values) and one.sequence == other.sequence


def story(session: Session) -> tuple[Any, ...]:
    return session.sampled_frames, session.encodes, dict(session.stage_runs), session.late_frames, session.resets


@pytest.mark.parametrize(("kind", "message", "spoil"), [case[1:] for case in BAD], ids=[case[0] for case in BAD])
def test_a_refused_observation_leaves_the_session_as_it_was(
    policy: Policy, kind: type[EdgevlmError], message: str, spoil: Spoil
) -> None:
    session, untroubled = policy.session(), policy.session()
    for index in range(6):
        step = observation(policy.contract, index, COMMANDS[index // 3])
        if index:
            before, times = story(session), session.last_times_ns
            with pytest.raises(kind, match=message) as caught:
                session.act(spoil(step))
            assert type(caught.value) is kind
            assert story(session) == before
            assert session.last_times_ns == times
        assert same(session.act(step), untroubled.act(step))
    assert story(session) == story(untroubled)


@settings(max_examples=40)
@given(  # but the last: a state goes back only from the state of an act, and here frames are pushed as well
    plan=st.lists(st.none() | st.sampled_from([case[3] for case in BAD[:-1]]), min_size=4, max_size=14),
    pushes=st.lists(st.booleans(), min_size=14, max_size=14),
)
def test_any_mix_of_good_and_bad_steps_equals_the_good_ones(
    policy: Policy, plan: list[Spoil | None], pushes: list[bool]
) -> None:
    mixed, good = policy.session(), policy.session()
    for index, (spoil, push) in enumerate(zip(plan, pushes, strict=False)):
        step = observation(policy.contract, index, COMMANDS[index % 3])
        if spoil is not None and index:
            with pytest.raises(ContractError):
                mixed.act(spoil(step))
        if push:
            mixed.push("front", step.frames["front"])
            good.push("front", step.frames["front"])
        else:
            assert same(mixed.act(step), good.act(step))
    assert story(mixed) == story(good)


def test_push_refuses_what_act_refuses(policy: Policy) -> None:
    session = policy.session()
    with pytest.raises(ContractError, match=r"camera 'side': the contract has \['front'\]; map your topic"):
        session.push("side", Stamped(IMAGE, START_NS))
    with pytest.raises(ShapeError):
        session.push("front", Stamped(IMAGE[:6], START_NS))
    with pytest.raises(StampError):
        session.push("front", Stamped(IMAGE, 1.5))  # type: ignore[arg-type]
    with pytest.raises(ContractError, match="got ndarray"):
        session.push("front", IMAGE)  # type: ignore[arg-type]
    first = observation(policy.contract, 0, stamp_ns=1)
    assert same(session.act(first), policy.session().act(first))  # nothing of it stayed


# --- output that is not finite ---


def test_output_that_is_not_finite_never_leaves_and_the_next_step_works(fragile: Policy) -> None:
    session, untroubled = fragile.session(), fragile.session()
    for index in range(4):
        step = observation(fragile.contract, index)
        with pytest.raises(NonFiniteError, match=r"stage 'head', output 'chunk'.*NaN.*edgevlm verify"):
            session.act(with_state(step, [-0.6, 0.0, 0.0]))  # the head takes the logarithm of a negative number
        assert same(session.act(step), untroubled.act(step))
    assert session.encodes_per_frame == 1.0


@settings(max_examples=60)
@given(state=st.lists(st.floats(-3.0, 3.0, width=32), min_size=3, max_size=3))
def test_whatever_the_state_a_chunk_is_finite(fragile: Policy, state: list[float]) -> None:
    step = observation(fragile.contract, 0)
    try:
        chunk = fragile.session().act(with_state(step, np.array(state)))
    except NonFiniteError:
        assert min((state[0] - 0.1) / 0.5, (state[1] + 0.1) / 0.5, state[2]) <= -0.999
    else:
        assert np.isfinite(chunk.values).all()
        assert chunk.plan is not None
        assert np.isfinite(chunk.plan.waypoints).all() and np.isfinite(chunk.plan.confidence).all()


# --- time ---


def test_a_restarted_clock_begins_a_new_episode(policy: Policy) -> None:
    session, fresh = policy.session(), policy.session()
    for index in range(6):
        session.act(observation(policy.contract, index))
    for index in range(3):  # simulated time starts again
        step = observation(policy.contract, 20 + index, stamp_ns=index * PERIOD_NS)
        assert np.array_equal(session.act(step).values, fresh.act(step).values)
    assert (session.resets, fresh.resets) == (1, 0)


@pytest.mark.parametrize(("back_ms", "restarts"), [(1, False), (1000, False), (1001, True), (10**9, True)])
def test_a_jump_back_beyond_reset_after_is_a_restart_and_a_smaller_one_is_refused(
    policy: Policy, back_ms: int, restarts: bool
) -> None:
    session = policy.session()
    session.act(observation(policy.contract, 0))
    step = observation(policy.contract, 1, stamp_ns=START_NS - back_ms * MS)
    if restarts:
        assert np.array_equal(session.act(step).values, policy.session().act(step).values)
        assert session.resets == 1
    else:
        with pytest.raises(StampError, match=r"counts as a restart"):
            session.act(step)
        assert session.resets == 0


def test_a_state_alone_can_not_restart_the_window(policy: Policy) -> None:
    session, untroubled = policy.session(), policy.session()
    for index in range(5):
        step = observation(policy.contract, index)
        if index:
            with pytest.raises(StampError, match=r"state: expected a stamp within 1000 ms of the newest frame"):
                session.act(with_state(step, [0.0] * 3, step.frames["front"].stamp_ns - 5 * SECOND_NS))
        assert same(session.act(step), untroubled.act(step))
    assert session.resets == 0


def test_a_late_push_is_dropped_and_counted(policy: Policy) -> None:
    session, untroubled = policy.session(), policy.session()
    for index in range(5):
        step = observation(policy.contract, index)
        session.act(step)
        untroubled.act(step)
        late_ns = step.frames["front"].stamp_ns - 30 * MS
        session.push("front", Stamped(IMAGE, late_ns))
        session.push("front", step.frames["front"])  # the same frame again
    assert session.late_frames == 10
    assert np.array_equal(
        session.act(observation(policy.contract, 5)).values, untroubled.act(observation(policy.contract, 5)).values
    )


def test_a_push_from_a_restarted_clock_empties_every_window(duo: Policy) -> None:
    session, fresh = duo.session(), duo.session()
    for index in range(4):
        session.act(observation(duo.contract, index))
    for index in range(2):
        step = observation(duo.contract, 9 + index, stamp_ns=index * PERIOD_NS)
        for camera, frame in step.frames.items():
            session.push(camera, frame)
            fresh.push(camera, frame)
    step = observation(duo.contract, 11, stamp_ns=2 * PERIOD_NS)
    assert np.array_equal(session.act(step).values, fresh.act(step).values)
    assert (session.resets, session.late_frames) == (1, 0)


def test_a_long_pause_empties_the_window_by_itself(policy: Policy) -> None:
    session = policy.session()
    for index in range(4):
        session.act(observation(policy.contract, index))
    step = observation(policy.contract, 5, stamp_ns=START_NS + 3600 * SECOND_NS)
    assert np.array_equal(session.act(step).values, policy.session().act(step).values)
    assert session.resets == 0


def test_a_camera_that_fell_behind_is_named_and_the_session_goes_on(duo: Policy) -> None:
    session, untroubled = duo.session(), duo.session()
    for index in range(4):
        step = observation(duo.contract, index)
        frames = {**step.frames, "left": Stamped(step.frames["left"].value, step.frames["left"].stamp_ns - 51 * MS)}
        with pytest.raises(StampError, match=r"'left'.*within 50 ms.*51\.0 ms"):
            session.act(Observation(frames, None, step.instruction))
        assert same(session.act(step), untroubled.act(step))


def test_a_contract_without_state_refuses_one(duo: Policy) -> None:
    step = observation(duo.contract, 0)
    state = Stamped(np.zeros(3, np.float32), START_NS)
    with pytest.raises(ShapeError, match="expected no state"):
        duo.session().act(Observation(step.frames, state, step.instruction))


def test_numpy_stamps_are_stamps(policy: Policy) -> None:
    step = observation(policy.contract, 0)
    got = policy.session().act(with_state(with_frame_stamp(step, np.int64(START_NS)), [0.0] * 3, np.uint64(START_NS)))
    assert type(got.observed_ns) is int
    assert got.observed_ns == START_NS


def test_waits_until_the_window_is_full_and_keeps_the_frames(tmp_path: Path) -> None:
    with Policy(open_bundle(tiny.duo(tmp_path / "bundle", pad="wait")), OPTIONS) as waiting:
        session = waiting.session()
        for index in range(2):
            with pytest.raises(WindowNotReadyError, match="no frame yet for the slots at"):
                session.act(observation(waiting.contract, index))
        step = observation(waiting.contract, 2)
        first = session.act(step)
        pushed = waiting.session()
        for index in range(2):
            for camera, frame in observation(waiting.contract, index).frames.items():
                pushed.push(camera, frame)
        assert np.array_equal(first.values, pushed.act(step).values)
        assert (first.sequence, session.encodes) == (1, 6)


def test_an_instruction_can_be_checked_before_it_is_followed(policy: Policy) -> None:
    for command in COMMANDS:
        policy.check_instruction(command)
    for text in ("dance", "", " ", f"{COMMANDS[0]} " * 9):
        with pytest.raises(InstructionError):
            policy.check_instruction(text)
