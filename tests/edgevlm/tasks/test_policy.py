"""A policy over a stream: equal to the batch model, with every frame encoded once and every instruction once."""

from __future__ import annotations

import gc
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.batch import Batch, History
from support.tiny import COMMANDS, MS, PERIOD_NS, START_NS, observation

from edgevlm.bundle import open_bundle
from edgevlm.contract import ActionChunk, Observation, Stamped
from edgevlm.errors import BackendError, BundleError, SessionError
from edgevlm.graph import Value
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy

Open = Callable[..., tuple[Policy, tiny.Counted]]


@pytest.fixture(scope="module")
def bundles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("bundles")
    return {
        "mono": tiny.mono(folder / "mono"),
        "eight": tiny.mono(folder / "eight", slots=8),
        "duo": tiny.duo(folder / "duo"),
        "masked": tiny.duo(folder / "masked", pad="mask"),
    }


@pytest.fixture(scope="module")
def open_policy(bundles: dict[str, Path]) -> Iterator[Open]:
    opened = []

    def open_it(name: str, **more: Any) -> tuple[Policy, tiny.Counted]:
        counted = tiny.Counted()
        policy = Policy(open_bundle(bundles[name]), RuntimeOptions(intra_threads=1), backends=counted, **more)
        opened.append(policy)
        return policy, counted

    yield open_it
    for policy in opened:
        policy.close()


def same(one: ActionChunk, other: ActionChunk) -> bool:
    """Whether two chunks are equal in everything that a robot would use."""
    equal = np.array_equal(one.values, other.values) and one.observed_ns == other.observed_ns
    if one.plan and other.plan:
        equal &= np.array_equal(one.plan.waypoints, other.plan.waypoints)
        equal &= np.array_equal(one.plan.confidence, other.plan.confidence)
    return bool(equal) and (one.plan is None) == (other.plan is None)


# --- streaming equals the batch model -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mono", "eight", "duo", "masked"])
@pytest.mark.parametrize("rate_hz", [15, 30, 60])
def test_a_stream_equals_the_batch_model_at_every_step(
    bundles: dict[str, Path], open_policy: Open, name: str, rate_hz: int
) -> None:
    policy, counted = open_policy(name)
    batch, session = Batch(bundles[name]), policy.session()
    random = np.random.default_rng(rate_hz)
    history: History = {camera.name: [] for camera in policy.contract.cameras}
    sampled: set[tuple[str, int]] = set()
    acts = 0
    for index in range(rate_hz * 2):
        if index and random.random() < 0.1:
            continue  # a dropped frame
        now_ns = START_NS + round(index / rate_hz * 1e9) + int(random.uniform(-5, 5) * MS)
        step = observation(policy.contract, index, COMMANDS[index // rate_hz], now_ns)
        for camera, frame in step.frames.items():
            history[camera].append((frame.stamp_ns, frame.value))
        if index % 3:
            for camera, frame in step.frames.items():
                session.push(camera, frame)
            continue
        acts += 1
        chunk = session.act(step)
        want = batch.values(history, now_ns, step)
        assert np.abs(chunk.values - want).max() < 1e-6
        sampled |= stamps_in_window(batch, history, now_ns)
    assert session.sampled_frames == session.encodes == len(sampled)
    assert session.encodes_per_frame == 1.0
    assert counted.runs["text"] == 2
    assert counted.runs["head"] == acts
    assert session.late_frames == session.resets == 0


def stamps_in_window(batch: Batch, history: History, now_ns: int) -> set[tuple[str, int]]:
    from support.batch import slots

    found = set()
    for camera, frames in history.items():
        by_image = {id(image): stamp_ns for stamp_ns, image in frames}
        for image in slots(frames, now_ns, batch.contract.window):
            if image is not None:
                found.add((camera, by_image[id(image)]))
    return found


def test_masked_slots_are_told_to_the_model(bundles: dict[str, Path], open_policy: Open) -> None:
    session, batch = open_policy("masked")[0].session(), Batch(bundles["masked"])
    step = observation(batch.contract, 0)
    images = {camera: frame.value for camera, frame in step.frames.items()}
    got = session.act(step).values
    scale, offset = batch.contract.action.column("scale"), batch.contract.action.column("offset")

    def chunk(past: bool) -> Any:
        window = {camera: [image if past else None, image if past else None, image] for camera, image in images.items()}
        return batch(window, step.instruction, None)["chunk"][0] * scale + offset

    np.testing.assert_allclose(got, chunk(past=False), atol=1e-6)
    assert np.abs(got - chunk(past=True)).max() > 1e-3  # the control: padding by repeating gives something else


def test_every_part_of_the_input_changes_the_actions(open_policy: Open) -> None:
    policy, _ = open_policy("mono")
    base = [observation(policy.contract, index) for index in range(4)]

    def last(steps: list[Observation]) -> Any:
        session = policy.session()
        return [session.act(step) for step in steps][-1].values

    want = last(base)
    np.testing.assert_array_equal(last(base), want)
    other = observation(policy.contract, 9)
    for place in range(4):  # a frame in any slot
        steps = list(base)
        frames = {"front": Stamped(other.frames["front"].value, base[place].frames["front"].stamp_ns)}
        steps[place] = Observation(frames=frames, state=base[place].state, instruction=base[place].instruction)
        assert np.abs(last(steps) - want).max() > 1e-4
    assert base[3].state is not None and other.state is not None
    moved = Observation(base[3].frames, Stamped(other.state.value, base[3].state.stamp_ns), base[3].instruction)
    assert np.abs(last([*base[:3], moved]) - want).max() > 1e-4
    told = Observation(base[3].frames, base[3].state, COMMANDS[1])
    assert np.abs(last([*base[:3], told]) - want).max() > 1e-4


# --- what is run, and how often -----------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "cameras"), [("mono", 1), ("eight", 1), ("duo", 2)])
def test_encodes_every_sampled_frame_once_and_every_instruction_once(
    open_policy: Open, name: str, cameras: int
) -> None:
    policy, counted = open_policy(name)
    session = policy.session()
    for index in range(20):
        session.act(observation(policy.contract, index))
    assert session.encodes == session.sampled_frames == 20 * cameras
    assert session.encodes_per_frame == 1.0
    assert counted.runs["text"] == 1
    assert dict(session.stage_runs) == counted.runs


@pytest.mark.parametrize("name", ["mono", "eight"])
def test_a_new_instruction_costs_no_image_encode(bundles: dict[str, Path], open_policy: Open, name: str) -> None:
    policy, counted = open_policy(name)
    session, batch = policy.session(), Batch(bundles[name])
    history: History = {"front": []}
    for index in range(12):
        step = observation(policy.contract, index)
        history["front"].append((step.frames["front"].stamp_ns, step.frames["front"].value))
        session.act(step)
    before = dict(counted.runs)
    step = observation(policy.contract, 11, COMMANDS[1])  # the same frame, another word
    chunk = session.act(step)
    changed = {stage: runs - before[stage] for stage, runs in counted.runs.items()}
    assert changed == {"vision": 0, "pool": 0, "text": 1, "head": 1}
    want = batch.values(history, START_NS + 11 * PERIOD_NS, step)
    assert np.abs(chunk.values - want).max() < 1e-6
    session.act(observation(policy.contract, 12, COMMANDS[0]))  # and back, with a fresh frame
    changed = {stage: runs - before[stage] for stage, runs in counted.runs.items()}
    assert changed == {"vision": 1, "pool": 1, "text": 1, "head": 2}


def test_only_sampled_frames_are_encoded(open_policy: Open) -> None:
    policy, counted = open_policy("mono")
    session = policy.session()
    for index in range(300):  # 3 s at 100 Hz; the window samples one in ten
        now_ns = START_NS + index * 10 * MS
        step = observation(policy.contract, index, stamp_ns=now_ns)
        if index % 10:
            session.push("front", step.frames["front"])
        else:
            session.act(step)
    assert counted.runs["vision"] == session.sampled_frames == 30


def test_the_same_observation_twice_takes_the_frame_once_and_gives_the_same(open_policy: Open) -> None:
    policy, counted = open_policy("mono")
    session = policy.session()
    step = observation(policy.contract, 0)
    first, second = session.act(step), session.act(step)
    assert same(first, second)
    assert (first.sequence, second.sequence) == (1, 2)
    assert counted.runs["vision"] == session.sampled_frames == 1


def test_a_pushed_frame_and_the_same_frame_observed_are_one(open_policy: Open) -> None:
    policy, counted = open_policy("mono")
    session = policy.session()
    step = observation(policy.contract, 0)
    session.push("front", step.frames["front"])
    assert same(session.act(step), policy.session().act(step))
    assert session.sampled_frames == 1


def test_memory_stays_bounded_over_a_long_run(open_policy: Open) -> None:
    policy, _ = open_policy("mono")
    session = policy.session()

    def values_after(steps: range) -> int:
        for index in steps:
            session.act(observation(policy.contract, index, COMMANDS[index % 3]))
        gc.collect()
        return sum(isinstance(item, Value) for item in gc.get_objects())

    settled = values_after(range(40))
    assert values_after(range(40, 240)) <= settled + 4


def test_times_of_a_step_name_the_stages_that_ran(open_policy: Open) -> None:
    ticks = iter(range(0, 10**9, 1000))
    policy, _ = open_policy("mono", clock=lambda: next(ticks))
    session = policy.session()
    session.act(observation(policy.contract, 0))
    assert set(session.last_times_ns) == {"step", "preprocess", "vision", "text", "pool", "head"}
    session.act(observation(policy.contract, 0))
    times = dict(session.last_times_ns)
    assert set(times) == {"step", "head"}
    assert times["step"] > times["head"] == 1000


# --- chunks and plans -----------------------------------------------------------------------------------------------


def test_a_chunk_says_what_it_is_and_how_long_it_holds(open_policy: Open) -> None:
    policy, _ = open_policy("mono")
    chunk = policy.session().act(observation(policy.contract, 3))
    assert chunk.values.shape == (5, 3) and chunk.values.dtype == np.float32
    assert (chunk.names, chunk.units) == (("dx", "dy", "grip"), ("m", "m", "1"))
    assert chunk.observed_ns == START_NS + 3 * PERIOD_NS
    assert chunk.valid_until_ns == chunk.observed_ns + 250 * MS
    assert chunk.plan is not None
    assert chunk.plan.stamps_ns == (chunk.observed_ns + 200 * MS, chunk.observed_ns + 400 * MS)
    assert chunk.plan.step in ("approach", "grasp", "carry")


def test_a_contract_without_a_plan_gives_none(open_policy: Open) -> None:
    policy, _ = open_policy("duo")
    assert policy.session().act(observation(policy.contract, 0)).plan is None


def test_what_a_caller_does_to_a_chunk_stays_with_the_caller(open_policy: Open) -> None:
    policy, counted = open_policy("duo")
    session = policy.session()
    step = observation(policy.contract, 0)
    chunk = session.act(step)
    want = chunk.values.copy()
    chunk.values[:] = 1e9
    assert np.array_equal(session.act(step).values, want)
    assert counted.runs["head"] == 1


def test_the_cameras_are_one_instant_of_the_newest_frame(open_policy: Open) -> None:
    policy, _ = open_policy("duo")
    step = observation(policy.contract, 0)
    frames = {**step.frames, "wrist": Stamped(step.frames["wrist"].value, START_NS + 20 * MS)}
    assert policy.session().act(Observation(frames, None, step.instruction)).observed_ns == START_NS + 20 * MS


# --- sessions -------------------------------------------------------------------------------------------------------


@settings(max_examples=15)
@given(turns=st.lists(st.integers(0, 2), min_size=8, max_size=40))
def test_interleaved_sessions_equal_sequential_ones(open_policy: Open, turns: list[int]) -> None:
    policy, _ = open_policy("mono")
    sessions = [policy.session() for _ in range(3)]
    counts = [0, 0, 0]

    def step(who: int, index: int) -> Observation:
        return observation(policy.contract, 50 * who + index, COMMANDS[(who + index // 3) % 3])

    got: list[list[ActionChunk]] = [[], [], []]
    for who in turns:
        got[who].append(sessions[who].act(step(who, counts[who])))
        counts[who] += 1
    for who in range(3):
        alone = policy.session()
        for index, chunk in enumerate(got[who]):
            assert same(alone.act(step(who, index)), chunk)
        assert alone.encodes == sessions[who].encodes
        assert dict(alone.stage_runs) == dict(sessions[who].stage_runs)


@pytest.mark.parametrize("name", ["mono", "duo"])
def test_sessions_in_threads_equal_sequential_ones(open_policy: Open, name: str) -> None:
    policy, _ = open_policy(name)

    def episode(who: int) -> list[ActionChunk]:
        session = policy.session()
        return [session.act(observation(policy.contract, 40 * who + index)) for index in range(30)]

    want = [episode(who) for who in range(3)]
    got: dict[int, list[ActionChunk]] = {}
    threads = [threading.Thread(target=lambda who=who: got.update({who: episode(who)})) for who in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(same(a, b) for who in range(3) for a, b in zip(want[who], got[who], strict=True))


def test_a_second_thread_in_one_session_is_refused_and_the_first_goes_on(open_policy: Open) -> None:
    policy, counted = open_policy("mono")
    session = policy.session()
    step = observation(policy.contract, 0)
    inside, go_on = threading.Event(), threading.Event()

    def block(stage: str) -> None:
        if stage == "vision":
            inside.set()
            go_on.wait(10)

    counted.before_run = block
    chunks: list[ActionChunk] = []
    thread = threading.Thread(target=lambda: chunks.append(session.act(step)))
    thread.start()
    assert inside.wait(10)
    with pytest.raises(SessionError, match=r"another thread.*policy\.session\(\)"):
        session.act(step)
    with pytest.raises(SessionError):
        session.push("front", step.frames["front"])
    with pytest.raises(SessionError):
        session.reset()
    go_on.set()
    thread.join()
    counted.before_run = lambda stage: None
    assert same(chunks[0], policy.session().act(step))
    assert session.act(step).sequence == 2


def test_reset_begins_a_new_episode_and_keeps_the_instruction(open_policy: Open) -> None:
    policy, counted = open_policy("mono")
    session = policy.session()
    for index in range(5):
        session.act(observation(policy.contract, index))
    session.reset()
    early = observation(policy.contract, 7, stamp_ns=START_NS)  # an earlier stamp is no fault now
    assert same(session.act(early), policy.session().act(early))
    assert session.resets == 0
    assert counted.runs["text"] == 2  # once by each of the two sessions


def test_the_default_session_is_one_session(open_policy: Open) -> None:
    policy, _ = open_policy("mono")
    session = policy.session()
    for index in range(4):
        assert same(policy.act(observation(policy.contract, index)), session.act(observation(policy.contract, index)))
    policy.reset()
    early = observation(policy.contract, 0)
    assert same(policy.act(early), policy.session().act(early))


# --- the caller's buffers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("way", ["act", "push", "failed act"])
def test_a_caller_may_overwrite_its_image_and_state_afterwards(open_policy: Open, way: str) -> None:
    policy, counted = open_policy("mono")
    reused, untouched = policy.session(), policy.session()
    camera = policy.contract.cameras[0]
    buffer, state = np.empty(camera.shape, np.uint8), np.empty(3, np.float32)
    for index in range(8):
        step = observation(policy.contract, index)
        assert step.state is not None
        buffer[:], state[:] = step.frames["front"].value, step.state.value
        mine = Observation(
            {"front": Stamped(buffer, step.frames["front"].stamp_ns)},
            Stamped(state, step.state.stamp_ns),
            step.instruction,
        )
        if way == "push" and index % 2:
            reused.push("front", mine.frames["front"])
            untouched.push("front", step.frames["front"])
        elif way == "failed act" and index % 2:
            for session, given_step in ((reused, mine), (untouched, step)):
                counted.before_run = fail_at("head")
                with pytest.raises(BackendError):
                    session.act(given_step)
                counted.before_run = lambda stage: None
        else:
            assert same(reused.act(mine), untouched.act(step))
        buffer[:], state[:] = 255, 1e9


def fail_at(stage: str) -> Callable[[str], None]:
    def fail(running: str) -> None:
        if running == stage:
            raise BackendError(f"{stage} failed")

    return fail


@pytest.mark.parametrize("stage", ["vision", "text", "pool", "head"])
def test_after_an_engine_failed_the_same_observation_can_be_tried_again(open_policy: Open, stage: str) -> None:
    policy, counted = open_policy("mono")
    session, lucky = policy.session(), policy.session()
    for index in range(6):
        step = observation(policy.contract, index, COMMANDS[index % 2])
        counted.before_run = fail_at(stage)
        fails = stage != "text" or index < 2
        if fails:
            with pytest.raises(BackendError, match=f"{stage} failed"):
                session.act(step)
        counted.before_run = lambda running: None
        got, want = session.act(step), lucky.act(step)
        assert same(got, want)
        assert got.sequence == want.sequence
    assert dict(session.stage_runs) == dict(lucky.stage_runs)
    assert session.encodes_per_frame == 1.0


# --- opening, warming up, closing -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "parts",
    [{}, {"pad": "wait"}, {"pad": "wait", "offsets_s": (-1.0, -0.07, 0.0)}, {"pad": "mask", "tolerance_s": 0.001}],
)
def test_warms_up_whatever_the_window(tmp_path: Path, parts: dict[str, Any]) -> None:
    counted = tiny.Counted()
    with Policy(open_bundle(tiny.duo(tmp_path / "b", **parts)), RuntimeOptions(), backends=counted) as policy:
        policy.warm_up(steps=3)
        assert counted.runs == {"vision": 5, "vision_wrist": 5, "pool": 3, "text": 1, "head": 3}


def test_warming_up_leaves_no_trace_in_the_policys_own_session(open_policy: Open) -> None:
    policy, _ = open_policy("mono")
    policy.warm_up()
    first = policy.act(observation(policy.contract, 0, stamp_ns=5))
    assert (first.sequence, first.observed_ns) == (1, 5)


def test_after_close_every_session_says_so(bundles: dict[str, Path]) -> None:
    counted = tiny.Counted()
    with Policy(open_bundle(bundles["mono"]), RuntimeOptions(), backends=counted) as policy:
        session = policy.session()
        step = observation(policy.contract, 0)
        session.act(step)
    assert sorted(counted.closed) == ["head", "pool", "text", "vision"]
    for call in (lambda: session.act(step), lambda: policy.act(step), lambda: session.push("front", step.frames["front"])):
        with pytest.raises(SessionError, match="closed; load the bundle again"):
            call()
    policy.close()


def test_engines_that_were_opened_are_closed_when_a_later_part_is_refused(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "bundle")
    tiny.rewrite(root, lambda data: data["stages"]["head"]["inputs"][1].update(kind="features"))
    counted = tiny.Counted()
    with pytest.raises(BundleError, match=r"'head'.*inputs made once.*'state'"):
        Policy(open_bundle(root), RuntimeOptions(), backends=counted)
    assert sorted(counted.closed) == ["head", "pool", "text", "vision"]


def test_a_preprocess_that_does_not_fit_the_model_is_refused_when_opening(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "bundle")
    tiny.rewrite(root, lambda data: data["preprocess"]["front"][0].update(width=10))
    with pytest.raises(BundleError, match=r"'vision': expected pixels \(1, 3, 8, 8\).*'front' makes \(1, 3, 8, 10\)"):
        Policy(open_bundle(root), RuntimeOptions())
