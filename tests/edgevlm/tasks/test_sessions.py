"""Sessions share a policy and nothing else: with each other, with other threads, with the caller's buffers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.tiny import COMMANDS, START_NS, Open, observation, same

from edgevlm.bundle import open_bundle
from edgevlm.errors import BundleError, EngineError, SessionError, WindowNotReadyError
from edgevlm.manifest.contract import ActionChunk, Observation, Stamped
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy

# --- sessions ---


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


# --- the caller's buffers ---


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
            for session, one in ((reused, mine), (untouched, step)):
                counted.before_run = fail_at("head")
                with pytest.raises(EngineError):
                    session.act(one)
                counted.before_run = lambda stage: None
        else:
            assert same(reused.act(mine), untouched.act(step))
        buffer[:], state[:] = 255, 1e9


def test_a_caller_may_overwrite_its_images_after_an_act_that_came_to_nothing(tmp_path: Path) -> None:
    counted = tiny.Counted()
    with Policy(open_bundle(tiny.duo(tmp_path / "b", pad="wait")), RuntimeOptions(), engines=counted) as policy:
        reused, untouched = policy.session(), policy.session()
        buffers = {camera.name: np.empty(camera.shape, np.uint8) for camera in policy.contract.cameras}
        for index in range(5):
            step = observation(policy.contract, index)
            for name, frame in step.frames.items():
                buffers[name][:] = frame.value
            frames = {name: Stamped(buffers[name], frame.stamp_ns) for name, frame in step.frames.items()}
            mine = Observation(frames, None, step.instruction)
            if index == 3:  # the engine fails at the first camera: the second one's image was not looked at yet
                counted.before_run = fail_at("vision")
            if index < 2 or index == 3:
                for session, one in ((reused, mine), (untouched, step)):
                    with pytest.raises((WindowNotReadyError, EngineError)):
                        session.act(one)
            else:
                assert same(reused.act(mine), untouched.act(step))
            counted.before_run = lambda stage: None
            for buffer in buffers.values():
                buffer[:] = 255


def test_a_stamp_that_comes_again_in_a_new_episode_is_another_frame(open_policy: Open) -> None:
    policy, _ = open_policy("duo")
    session, fresh = policy.session(), policy.session()
    first = observation(policy.contract, 0)
    session.act(first)
    session.reset()
    again = observation(policy.contract, 5, stamp_ns=START_NS)
    assert same(session.act(again), fresh.act(again))
    assert not np.array_equal(fresh.act(again).values, policy.session().act(first).values)


def fail_at(stage: str) -> Callable[[str], None]:
    def fail(running: str) -> None:
        if running == stage:
            raise EngineError(f"{stage} failed")

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
            with pytest.raises(EngineError, match=f"{stage} failed"):
                session.act(step)
        counted.before_run = lambda running: None
        got, want = session.act(step), lucky.act(step)
        assert same(got, want)
        assert got.sequence == want.sequence
    assert dict(session.stage_runs) == dict(lucky.stage_runs)
    assert session.encodes_per_frame == 1.0


# --- opening, warming up, closing ---


@pytest.mark.parametrize(
    "parts",
    [{}, {"pad": "wait"}, {"pad": "wait", "offsets_s": (-1.0, -0.07, 0.0)}, {"pad": "mask", "tolerance_s": 0.001}],
)
def test_warms_up_whatever_the_window(tmp_path: Path, parts: dict[str, Any]) -> None:
    counted = tiny.Counted()
    with Policy(open_bundle(tiny.duo(tmp_path / "b", **parts)), RuntimeOptions(), engines=counted) as policy:
        policy.warm_up(steps=3)
        assert counted.runs == {"vision": 5, "vision_wrist": 5, "pool": 3, "text": 1, "head": 3}


def test_warming_up_leaves_no_trace_in_the_policys_own_session(open_policy: Open) -> None:
    policy, _ = open_policy("mono")
    policy.warm_up()
    first = policy.act(observation(policy.contract, 0, stamp_ns=5))
    assert (first.sequence, first.observed_ns) == (1, 5)


def test_after_close_every_session_says_so(bundles: dict[str, Path]) -> None:
    counted = tiny.Counted()
    with Policy(open_bundle(bundles["mono"]), RuntimeOptions(), engines=counted) as policy:
        session = policy.session()
        step = observation(policy.contract, 0)
        session.act(step)
    assert sorted(counted.closed) == ["head", "pool", "text", "vision"]
    for call in (
        lambda: session.act(step),
        lambda: policy.act(step),
        lambda: session.push("front", step.frames["front"]),
    ):
        with pytest.raises(SessionError, match="closed; load the bundle again"):
            call()
    policy.close()


def test_engines_that_were_opened_are_closed_when_a_later_part_is_refused(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "bundle")
    tiny.rewrite(root, lambda data: data["stages"]["head"]["inputs"][1].update(kind="features"))
    counted = tiny.Counted()
    with pytest.raises(BundleError, match=r"'head'.*inputs made once.*'state'"):
        Policy(open_bundle(root), RuntimeOptions(), engines=counted)
    assert sorted(counted.closed) == ["head", "pool", "text", "vision"]


def test_a_preprocess_that_does_not_fit_the_model_is_refused_when_opening(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "bundle")
    tiny.rewrite(root, lambda data: data["preprocess"]["front"][0].update(width=10))
    with pytest.raises(BundleError, match=r"'vision'.*\(1, 3, 8, 8\).*'front'.*\(1, 3, 8, 10\)"):
        Policy(open_bundle(root), RuntimeOptions())
