"""A policy over a stream: equal to the batch model, with every frame encoded once and every instruction once."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.batch import Batch, History
from support.tiny import COMMANDS, MS, PERIOD_NS, START_NS, Open, observation, same

from edgevlm.graph import Value
from edgevlm.manifest.contract import Observation, Stamped

# --- streaming equals the batch model ---


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

    result = set()
    for camera, frames in history.items():
        by_image = {id(image): stamp_ns for stamp_ns, image in frames}
        for image in slots(frames, now_ns, batch.contract.window):
            if image is not None:
                result.add((camera, by_image[id(image)]))
    return result


def test_masked_slots_reach_the_model(bundles: dict[str, Path], open_policy: Open) -> None:
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
    reported = Observation(base[3].frames, base[3].state, COMMANDS[1])
    assert np.abs(last([*base[:3], reported]) - want).max() > 1e-4


# --- what is run, and how often ---


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
    policy, _ = open_policy("mono")
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
        return sum(type(item) is Value for item in gc.get_objects())

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


# --- chunks and plans ---


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
