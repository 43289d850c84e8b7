"""The judge passes a clean stream, and finds every kind of violation planted into one."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ros.chaos.judge import KINDS, Placed, Rules, judge, unsigned

S = 1_000_000_000
MS = 1_000_000
PERIOD_NS = 25 * MS
START_NS = 1_700_000_000 * S
V, A = 0.3, 8.0
RULES = Rules(
    axes=((0, V, A), (1, V, A)),
    ranges=((0, "pose", 0, -1.0, 1.0),),
    states=("pose",),
    hand="pose",
    placed=(Placed("command/joint_position", 0, "pose", 2, -1.0, 0.3, 0.5, 0.1),),
    rivals_s=0.5,
)
Stream = list[dict[str, Any]]


def clean(seconds: float = 3.0, speed: float = 0.25, lag_ms: float = 1.0) -> Stream:
    """A robot that speeds up, goes on and slows down; a chunk and a frame each 100 ms, the rest each 25 ms."""
    lines: Stream = []
    steps = round(seconds / 0.025)
    for step in range(steps):
        now = START_NS + step * PERIOD_NS
        if step % 4 == 0:
            frame = {"k": "camera", "r": now - 30 * MS, "stamp": now - 40 * MS}
            chunk = {"stamp": now - 40 * MS, "valid_until": now + 160 * MS, "step_s": 0.025, "rows": 8, "finite": True}
            lines += [frame, {"k": "chunk", "r": now - 5 * MS, "session": 7, **chunk}]
            lines.append({"k": "beat", "r": now - 6 * MS, "stamp": now - 6 * MS})
            lines.append({"k": "graph", "r": now, "publishers": {"hand_pose": 1}})
        state = {"topic": "pose", "stamp": now - 2 * MS, "values": [0.0, 0.5, 0.2]}
        lines.append({"k": "state", "r": now - MS, **state})
        slow = min(1.0, 0.5 * step + 0.5, 0.5 * (steps - 1 - step))
        values = [speed * slow, -speed * slow, 0.0]
        arrived = now + round(lag_ms * MS)
        lines.append({"k": "command", "r": arrived, "topic": "command/twist", "stamp": now, "values": values})
        lines.append({"k": "command", "r": arrived, "topic": "command/gripper", "stamp": now, "values": [0.5]})
        lines.append({"k": "command", "r": arrived, "topic": "command/joint_position", "stamp": now, "values": [0.2]})
        status = {"number": step + 1, "stamp": now, "values": [*values, 0.5, 0.2]}
        lines.append({"k": "status", "r": arrived, **status})
    return [{"s": line["r"], **line} for line in lines]


def twists(lines: Stream) -> Stream:
    return [line for line in lines if line["k"] == "command" and line["topic"] == "command/twist"]


def _change(kind: str, topic: str, values: Sequence[float]) -> Callable[[Stream, int], Stream]:
    def plant(lines: Stream, at_ns: int) -> Stream:
        chosen = next(ln for ln in lines if ln["k"] == kind and ln.get("topic") == topic and ln["r"] >= at_ns)
        announced = [ln for ln in lines if ln["k"] == "status" and ln["stamp"] == chosen["stamp"]]
        for line in announced:
            line["values"] = [*values, *line["values"]]
        chosen["values"] = list(values)
        return lines

    return plant


def _without(*kinds: str, seconds: float = 1.0) -> Callable[[Stream, int], Stream]:
    """These stop for a while, and commands go on."""

    def plant(lines: Stream, at_ns: int) -> Stream:
        end_ns = at_ns + round(seconds * S)
        return [line for line in lines if not (line["k"] in kinds and at_ns <= line["r"] < end_ns)]

    return plant


def _nan_states(lines: Stream, at_ns: int) -> Stream:
    for line in lines:
        if line["k"] == "state" and line["r"] >= at_ns:
            line["values"] = [math.nan, 0.5, 0.2]
    return lines


def _outside(lines: Stream, at_ns: int) -> Stream:
    for line in lines:
        if line["k"] == "state" and line["r"] >= at_ns:
            line["values"] = [1.2, 0.5, 0.2]
    return lines


def _pushed(lines: Stream, at_ns: int) -> Stream:
    for line in lines:
        if line["k"] == "state" and line["r"] >= at_ns:
            line["values"] = [0.0, 0.5, -0.3]
    return lines


def _starts_outside(lines: Stream, at_ns: int) -> Stream:
    """The robot stands outside its range; after a pause the first command is at the edge."""
    for line in lines:
        if line["k"] == "state":
            line["values"] = [0.0, 0.5, 0.38]
        if line["k"] == "command" and line["topic"] == "command/joint_position":
            line["values"] = [0.38 if line["r"] < at_ns else 0.3]
        if line["k"] == "status":
            line["values"] = [*line["values"], 0.38, 0.3]
    return [ln for ln in lines if ln["k"] not in ("command", "status") or not at_ns <= ln["r"] < at_ns + S // 2]


def _clock_stops(lines: Stream, at_ns: int) -> Stream:
    ticks = range(START_NS, at_ns, PERIOD_NS)
    return [*lines, *({"k": "clock", "r": tick, "stamp": tick} for tick in ticks)]


def _shifted_frames(lines: Stream, at_ns: int) -> Stream:
    for line in lines:
        if line["k"] == "camera" and line["r"] >= at_ns:
            line["stamp"] += 10 * S
    return lines


def _pressed(lines: Stream, at_ns: int) -> Stream:
    return [*lines, {"k": "estop", "r": at_ns, "pressed": True}]


def _second_sender(lines: Stream, at_ns: int) -> Stream:
    theirs = [{**line, "session": 8, "r": line["r"] + 50 * MS} for line in lines if line["k"] == "chunk"]
    return [*lines, *(line for line in theirs if line["r"] >= at_ns)]


def _second_publisher(lines: Stream, at_ns: int) -> Stream:
    for line in lines:
        if line["k"] == "graph" and line["r"] >= at_ns:
            line["publishers"] = {"hand_pose": 2}
    return lines


def _late(lines: Stream, at_ns: int) -> Stream:
    for line in twists(lines):
        if at_ns <= line["r"] < at_ns + 200 * MS:
            line["r"] += 150 * MS
            line["s"] += 150 * MS
    return lines


def _rival(lines: Stream, at_ns: int) -> Stream:
    theirs = [{**line, "stamp": line["stamp"] + 3 * MS, "r": line["r"] + 3 * MS} for line in twists(lines)]
    return [*lines, *(line for line in theirs if at_ns <= line["r"] < at_ns + 500 * MS)]


def _restart(lines: Stream, at_ns: int) -> Stream:
    """The gate is gone for half a second and begins again at full speed."""
    return [line for line in lines if line["k"] not in ("command", "status") or not at_ns <= line["r"] < at_ns + S // 2]


def _slow_policy(lines: Stream, at_ns: int) -> Stream:
    """A chunk each 0.4 s, longer than the deadline of 0.3 s, each valid until the next one and longer."""
    chunks = [line for line in lines if line["k"] == "chunk"]
    for line in chunks:
        line.update(rows=40, valid_until=line["stamp"] + S)
    late = [line for line in chunks if line["r"] >= at_ns]
    dropped = {id(line) for number, line in enumerate(late) if number % 4}
    return [line for line in lines if id(line) not in dropped]


def _moves_on(lines: Stream, at_ns: int) -> Stream:
    """The gate is gone, and a controller repeats its last command."""
    lines = [line for line in lines if line["k"] not in ("command", "status") or line["r"] < at_ns]
    for line in lines:
        if line["k"] == "state":
            line["values"] = [0.25 * (line["stamp"] - START_NS) / S - 0.5, 0.5, 0.2]
    return lines


PLANTS: dict[str, Callable[[Stream, int], Stream]] = {
    "not_finite": _change("command", "command/twist", [math.nan, 0.0, 0.0]),
    "velocity": _change("command", "command/twist", [0.31, -0.25, 0.0]),
    "acceleration": _restart,
    "position": _outside,
    "jump": _starts_outside,
    "tracking": _pushed,
    "clock": _clock_stops,
    "gripper": _change("command", "command/gripper", [1.1]),
    "chunk_age": _without("chunk"),
    "slow_policy": _slow_policy,
    "state_age": _without("state"),
    "state_not_finite": _nan_states,
    "camera_age": _without("camera", seconds=1.8),
    "heartbeat": _without("beat"),
    "estop": _pressed,
    "sessions": _second_sender,
    "late": _late,
    "publishers": _second_publisher,
    "rival": _rival,
    "uncommanded": _moves_on,
}


@given(seconds=st.floats(0.5, 2.0), speed=st.floats(0.0, V), lag_ms=st.floats(0.0, 20.0))
def test_a_clean_stream_passes(seconds: float, speed: float, lag_ms: float) -> None:
    assert judge(clean(seconds, speed, lag_ms), RULES) == []


@pytest.mark.parametrize("kind", KINDS)
@settings(max_examples=8)
@given(at_s=st.floats(0.5, 1.0))
def test_finds_what_is_planted(kind: str, at_s: float) -> None:
    lines = PLANTS[kind](clean(3.0), START_NS + round(at_s * S))
    assert kind in {violation.kind for violation in judge(lines, RULES)}


def test_a_jump_from_outside_the_range_to_its_edge_is_a_violation() -> None:
    violations = judge(_starts_outside(clean(3.0), START_NS + S), RULES)
    assert {violation.kind for violation in violations if "joint_position" in violation.detail} == {"jump"}


def test_chunks_that_come_too_late_are_no_reason_to_move_however_long_they_are() -> None:
    lines = _slow_policy(clean(3.0), START_NS + S)
    assert {violation.kind for violation in judge(lines, RULES)} == {"slow_policy"}
    assert judge(lines, replace(RULES, deadline_s=0.5)) == []


def test_a_robot_that_moves_on_after_its_last_command_is_a_violation_and_one_that_leaps_or_rests_is_none() -> None:
    lines = _moves_on(clean(2.0), START_NS + S)
    violations = [violation for violation in judge(lines, RULES) if violation.at_ns > START_NS + S]
    assert {violation.kind for violation in violations} == {"uncommanded"}
    least_s = RULES.valid_s + RULES.slack_s
    assert violations[0].at_ns > START_NS + round((1 + least_s) * S)
    for line in lines:
        if line["k"] == "state" and line["r"] > START_NS + round((1 + least_s) * S):
            line["values"] = [0.0 if line["r"] < START_NS + round(1.5 * S) else 0.4, 0.5, 0.2]
    assert judge(lines, RULES) == []


def test_coming_back_at_limited_speed_is_right() -> None:
    lines, here = clean(2.0), 0.38
    for line in lines:
        if line["k"] == "state":
            line["values"] = [0.0, 0.5, here]
        if line["k"] == "command" and line["topic"] == "command/joint_position":
            here = max(0.25, here - 0.4 * 0.025)
            line["values"] = [here]
        if line["k"] == "status":
            line["values"] = [*line["values"], here]
    assert judge(lines, RULES) == []


def test_a_step_of_the_sender_s_clock_makes_no_robot_faster() -> None:
    """Stamps that are 80 ms apart, and commands that come 25 ms apart: the acceleration of 25 ms counts."""
    lines = clean(2.0, speed=0.0)
    late = [line for line in lines if line["k"] in ("command", "status") and line["stamp"] >= START_NS + S]
    for line in late:
        line["stamp"] += 55 * MS
        line["values"] = [0.29 if value == 0.0 and k == 0 else value for k, value in enumerate(line["values"])]
    slow = Rules(axes=((0, V, 4.0), (1, V, 4.0)), ranges=RULES.ranges, states=RULES.states)
    assert "acceleration" in {violation.kind for violation in judge(lines, slow)}
    kinds = {violation.kind for violation in judge(lines, replace(slow, simulated=True))}
    assert "acceleration" not in kinds, "in a simulation stamps are the time there is"


def test_a_clock_that_stops_while_the_robot_rests_is_no_violation() -> None:
    violations = judge(_clock_stops(clean(3.0, speed=0.0), START_NS + S), RULES)
    assert "clock" not in {violation.kind for violation in violations}


def test_a_robot_measured_outside_may_brake_and_not_go_on() -> None:
    lines = [line for line in clean(2.0) if line["k"] not in ("command", "status") or line["stamp"] <= START_NS + S]
    last, values = twists(lines)[-1], [0.25, -0.25, 0.0]
    for line in lines:
        if line["k"] == "state" and line["r"] > last["r"]:
            line["values"] = [1.2, 0.5, 0.2]
    for step in range(1, 5):
        values = [max(0.0, abs(value) - A * 0.025 * 0.9) * (1 if value > 0 else -1) for value in values]
        stamp = last["stamp"] + step * PERIOD_NS
        for kind, more in (("command", {"topic": "command/twist"}), ("status", {"number": 1000 + step})):
            lines.append({"k": kind, "r": stamp + MS, "s": stamp, "stamp": stamp, "values": list(values), **more})
    assert judge(lines, RULES) == []
    for line in lines:
        if line["k"] in ("command", "status") and line["stamp"] > last["stamp"]:
            line["values"] = [0.24, -0.24, 0.0] if line["stamp"] < last["stamp"] + 60 * MS else [0.0] * 3
    assert "position" in {violation.kind for violation in judge(lines, RULES)}


def test_shifted_stamps_of_frames_are_no_fresh_frames() -> None:
    violations = judge(_shifted_frames(clean(4.0), START_NS + S), RULES)
    assert {violation.kind for violation in violations} == {"camera_age"}


def test_braking_needs_no_reason_and_going_on_does() -> None:
    lines = [line for line in clean(1.0) if line["k"] != "chunk" or line["r"] < START_NS + S // 2]
    cut_ns = max(line["valid_until"] for line in lines if line["k"] == "chunk")
    lines = [line for line in lines if line["k"] not in ("command", "status") or line["stamp"] <= cut_ns]
    last = twists(lines)[-1]
    for step, share in enumerate((0.5, 0.1, 0.0), 1):
        values = [value * share for value in last["values"]]
        stamp = last["stamp"] + step * PERIOD_NS
        for kind, more in (("command", {"topic": "command/twist"}), ("status", {"number": 1000 + step})):
            lines.append({"k": kind, "r": stamp + MS, "s": stamp, "stamp": stamp, "values": values, **more})
    assert judge(lines, RULES) == []
    lines[-2]["values"] = lines[-4]["values"]
    assert judge(lines, RULES)


def test_nothing_of_another_epoch_is_good_for_anything() -> None:
    before = clean(2.0)
    clocks = [{"k": "clock", "r": line["r"], "stamp": line["stamp"]} for line in twists(before)]
    shift = -S * 1_699_999_999
    after = [{**line, "r": line["r"] + 5 * S, "stamp": line.get("stamp", 0) + shift} for line in clean(1.0)]
    restart = {"k": "clock", "r": START_NS + 4 * S, "stamp": S // 2}
    clocks += [{"k": "clock", "r": line["r"], "stamp": line["stamp"]} for line in twists(after)]
    assert judge([*before, *clocks, restart, *_valid(after, shift)], RULES) == []
    stale = [line for line in after if line["k"] != "chunk"]
    kinds = {violation.kind for violation in judge([*before, *clocks, restart, *stale], RULES)}
    assert kinds == {"chunk_age"}


def _valid(lines: Stream, shift: int) -> Stream:
    for line in lines:
        if line["k"] == "chunk":
            line["valid_until"] += shift
    return lines


def test_a_release_alone_does_not_end_an_emergency_stop_and_a_re_arm_does() -> None:
    pressed_ns = START_NS + S // 2
    lines = _pressed(clean(2.0), pressed_ns)
    lines.append({"k": "estop", "r": pressed_ns + S // 4, "pressed": False})
    assert {violation.kind for violation in judge(lines, RULES)} == {"estop"}
    lines.append({"k": "rearm", "r": pressed_ns + MS})
    assert judge(lines, RULES) == []


def test_a_gate_that_begins_may_be_heard_before_its_statuses_and_a_stranger_may_not() -> None:
    lines = clean(3.0, speed=0.0)
    for line in lines:
        if line["k"] in ("command", "status"):
            line["values"] = [0.001 if value == 0.0 else value for value in line["values"]]
    again_ns = START_NS + S
    statuses = [line for line in lines if line["k"] == "status" and line["stamp"] >= again_ns]
    for number, status in enumerate(statuses, 1):
        status["number"] = number  # another gate, of which the first five statuses are not heard
    heard = [line for line in lines if not any(line is status for status in statuses[:5])]
    assert "rival" not in {violation.kind for violation in judge(heard, RULES)}
    for number, status in enumerate(statuses[5:], 1):
        status["number"] = number  # its first status is heard: who sent the five before?
    assert "rival" in {violation.kind for violation in judge(heard, RULES)}


def test_commands_that_the_gate_does_not_announce_are_foreign() -> None:
    lines = clean(1.0)
    strange = {"k": "command", "r": START_NS, "topic": "command/twist", "stamp": START_NS + 1, "values": [0.1, 0, 0]}
    assert unsigned([*lines, strange]) == [strange]
