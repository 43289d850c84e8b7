"""Limits are complete or refused; one step of an axis never leaves it unable to brake."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import ValidationError
from support import gate_judge

from edgevlm.clock import Elapsed, even
from edgevlm.errors import ContractError
from edgevlm.gate.columns import Column, columns, orientations
from edgevlm.gate.limits import FALLBACKS, GateLimits
from edgevlm.gate.motion import At, fastest, step_position, step_velocity
from edgevlm.manifest.contract import ActionGroup, Contract, StateField

Edit = Callable[[dict[str, Any]], None]


def limits(edit: Edit = lambda table: None) -> GateLimits:
    table = gate_judge.limits()
    edit(table)
    return GateLimits(**table)


def one_group(**more: Any) -> Contract:
    """A contract whose only action group is this one, with a state field for each of its columns."""
    names = more.get("names", ("j",))
    group: dict[str, Any] = {"kind": "joint_position", "names": names, "units": ("rad",) * len(names)}
    group |= {
        key: (value,) * len(names) for key, value in (("scale", 1.0), ("offset", 0.0), ("lower", -1.0), ("upper", 1.0))
    }
    fields = tuple(StateField(name=f"measured_{name}", unit="rad") for name in names)
    return gate_judge.contract((ActionGroup(**{**group, **more}),), fields)


def axis(name: str = "j", **more: Any) -> Edit:
    """Limits of one axis only."""
    full = {"action": name, "state": f"measured_{name}", "position": (-0.5, 2.0), "velocity": 1.0}
    full |= {"acceleration": 2.0, "tracking": 0.1}

    def edit(table: dict[str, Any]) -> None:
        table["axes"] = ({**full, **more},)

    return edit


def test_every_kind_of_column_is_sent_in_its_form() -> None:
    by_name = {column.name: column for column in columns(gate_judge.arm(), limits())}
    assert {name: column.sent for name, column in by_name.items()} == {
        "shoulder": "position",
        "dx": "velocity",
        "elbow_offset": "position",
        "spin": "velocity",
        "grip": "value",
    }
    assert by_name["dx"].unit == "m/s"
    assert by_name["dx"].divide_s == gate_judge.STEP_S
    assert by_name["dx"].upper == pytest.approx(0.3)
    assert (by_name["elbow_offset"].relative, by_name["shoulder"].relative) == (True, False)


def test_the_narrower_of_contract_and_limits_holds() -> None:
    (column,) = columns(one_group(), limits(axis()))
    assert (column.low, column.high) == (-0.5, 1.0)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda table: table.update(axes=table["axes"][1:]), "'shoulder' has no limits"),
        (lambda table: table["axes"][0].update(action="wrist"), "'shoulder' has no limits"),
        (lambda table: table["axes"][0].update(state="shoulder"), "measured by 'shoulder'"),
        (lambda table: table["axes"][0].update(tracking=None), "sent as a position"),
        (lambda table: table["axes"][0].update(position=None), "sent as a position"),
        (lambda table: table["axes"][0].update(position=(1.5, 2.0)), "may be nowhere"),
        (lambda table: table.update(axes=(*table["axes"], {**table["axes"][0], "action": "grip"})), "grip"),
        (lambda table: table.update(axes=(*table["axes"], {**table["axes"][0], "action": "leg"})), "leg"),
    ],
)
def test_refuses_limits_that_do_not_fit_the_contract(edit: Edit, message: str) -> None:
    with pytest.raises(ContractError, match=message):
        columns(gate_judge.arm(), limits(edit))


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda table: table["axes"][3].update(position=(0.0, 1.0)), "need the state field"),
        (lambda table: table["axes"][0].update(position=(1.0, 0.0)), "lowest, highest"),
        (lambda table: table["axes"][0].update(velocity=0.0), "velocity"),
        (lambda table: table["axes"][0].update(acceleration=math.nan), "acceleration"),
        (lambda table: table["axes"][0].update(effort=3.0), "effort"),
        (lambda table: table["axes"][0].pop("tracking"), "tracking"),
        (lambda table: table["axes"][0].update(action="dx"), "once"),
        (lambda table: table.update(fallbacks={"estop": "hold"}), "always stops"),
        (lambda table: table.update(latched=()), "always latches"),
        (lambda table: table.update(latched=("tracking",)), "always latches"),
        (lambda table: table.update(fallbacks={"moon": "hold"}), "fallbacks"),
        (lambda table: table.update(command_valid_s=0.001), "command_valid_s"),
        (lambda table: table.update(deadline_s=0.0), "deadline_s"),
    ],
)
def test_refuses_limits_that_make_no_sense(edit: Edit, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        limits(edit)


def test_a_fallback_that_is_not_named_is_as_documented() -> None:
    resolved = limits(lambda table: table.update(fallbacks={"tracking": "stop"})).fallbacks
    assert resolved == {**FALLBACKS, "tracking": "stop"}


@pytest.mark.parametrize(
    ("kind", "relative_to", "rotation"),
    [
        ("ee_delta", "none", "none"),
        ("joint_delta", "none", "none"),
        ("joint_position", "previous", "none"),
        ("ee_delta", "previous", "quaternion_xyzw"),
        ("twist", "none", "quaternion_xyzw"),
    ],
)
def test_refuses_actions_that_can_be_read_in_two_ways(kind: str, relative_to: str, rotation: str) -> None:
    with pytest.raises(ContractError, match=r"two ways|not supported"):
        columns(one_group(kind=kind, relative_to=relative_to, rotation=rotation), limits(axis()))


def test_refuses_rotations_that_would_be_added_column_by_column() -> None:
    contract = one_group(kind="ee_delta", names=("x", "y", "z"), relative_to="observation", rotation="rotation_vector")
    with pytest.raises(ContractError, match="cannot be added"):
        columns(contract, limits(axis("x")))


@pytest.mark.parametrize("name", ["command_period_s", "deadline_s", "state_max_age_s", "future_s", "reset_after_s"])
def test_refuses_times_shorter_than_a_stamp_can_tell(name: str) -> None:
    with pytest.raises(ValidationError, match=name):
        limits(lambda given: given.update({name: 1e-10}))


def test_refuses_an_axis_that_may_never_stand_still() -> None:
    with pytest.raises(ContractError, match="stand still"):
        columns(one_group(kind="joint_velocity", lower=(0.1,)), limits(axis()))


POSE: dict[str, Any] = {"kind": "ee_pose", "names": ("x", "qx", "qy", "qz", "qw"), "rotation": "quaternion_xyzw"}


def turning(**more: Any) -> Edit:
    def edit(table: dict[str, Any]) -> None:
        axis("x")(table)
        names = POSE["names"][1:]
        full = {"actions": names, "state": tuple(f"measured_{name}" for name in names)}
        table["orientations"] = ({**full, "velocity": 1.0, "acceleration": 4.0, "tracking": 0.3, **more},)

    return edit


def test_an_orientation_is_limited_as_one() -> None:
    contract = one_group(**POSE)
    assert [column.sent for column in columns(contract, limits(turning()))] == ["position"] + ["orientation"] * 4
    (orientation,) = orientations(contract, limits(turning()))
    assert (orientation.columns, orientation.state, orientation.form) == ((1, 2, 3, 4), (1, 2, 3, 4), "quaternion_xyzw")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (axis("x"), "part of an orientation"),
        (turning(actions=("qy", "qx", "qz", "qw")), "in its order"),
        (turning(state=("measured_qx", "measured_qy", "measured_qz")), "for each"),
        (turning(state=("qx", "qy", "qz", "qw")), "measured by 'qx'"),
        (turning(velocity=100.0), "quarter turn"),
    ],
)
def test_refuses_orientations_that_do_not_fit(edit: Edit, message: str) -> None:
    contract, rules = one_group(**POSE), limits(edit)
    with pytest.raises(ContractError, match=message):
        columns(contract, rules)
        orientations(contract, rules)


COLUMN = Column(
    name="j", unit="rad", sent="position", bounds=(-1, 1), lower=-2.0, upper=2.0, acceleration=3.0, low=-1.0, high=1.0
)
REST = At(0.0, 0.0, False)
DT = st.floats(0.001, 0.2)
TARGET = st.one_of(st.none(), st.floats(-1e6, 1e6))


@given(room=st.floats(0, 1e3), acceleration=st.floats(0.01, 1e3), horizon_s=st.floats(0, 1))
def test_the_fastest_speed_uses_up_the_room_exactly(room: float, acceleration: float, horizon_s: float) -> None:
    speed = fastest(room, acceleration, horizon_s)
    assert speed * speed / (2 * acceleration) + speed * horizon_s == pytest.approx(room, rel=1e-6, abs=1e-6)
    assert fastest(-room, acceleration, horizon_s) == 0.0


@given(st.lists(st.tuples(TARGET, DT, st.floats(0, 0.3)), max_size=60))
@example([(1e6, 0.02, 0.0)] * 200)
@example([(-1e6, 0.2, 0.0)] * 50)
def test_a_position_axis_keeps_every_limit(steps: list[tuple[float | None, float, float]]) -> None:
    at = REST
    for target, dt, remaining in steps:
        after = step_position(COLUMN, at, target, even(dt), remaining)
        real = (after.position - at.position) / dt
        assert -1.0 <= after.position <= 1.0
        assert abs(real) <= 2.0 * (1 + 1e-9)
        assert abs(real - at.velocity) <= 3.0 * dt * (1 + 1e-6)
        assert after.velocity == pytest.approx(real, abs=1e-9)
        at = after._replace(velocity=real)


@given(st.lists(st.tuples(TARGET, DT), max_size=60))
@example([(1e6, 0.02)] * 200)
@example([(-1e6, 0.2)] * 50)
def test_a_velocity_axis_never_leaves_its_workspace(steps: list[tuple[float | None, float]]) -> None:
    """A plant that does exactly what it is told, each velocity until the next command."""
    position, velocity = 0.0, 0.0
    for target, dt in steps:
        after, _ = step_velocity(COLUMN, position, velocity, target, even(dt), horizon_s=0.2)
        assert abs(after) <= 2.0
        assert abs(after - velocity) <= 3.0 * dt * (1 + 1e-9)
        velocity = after
        position += velocity * dt  # until the next command; dt is drawn for both, at most the horizon
        assert -1.0 - 1e-9 <= position <= 1.0 + 1e-9


@given(st.floats(-0.9, 0.9), st.sampled_from([0.005, 0.02, 0.05]))
def test_a_far_target_is_reached_without_running_past_it(target: float, dt: float) -> None:
    """Past it by at most what one command may change: acceleration * dt^2."""
    at, furthest = REST, 0.0
    for _ in range(600):
        at = step_position(COLUMN, at, target, even(dt), 0.0)
        furthest = max(furthest, at.position * math.copysign(1, target))
    assert at.position == target
    assert at.velocity == 0.0
    assert furthest <= abs(target) + 3.0 * dt * dt * (1 + 1e-9)


def test_an_axis_that_fell_behind_a_moving_target_catches_up() -> None:
    at, target, errors = REST, 0.0, []
    for k in range(200):  # 0.4 rad/s at once: 27 times what one command may change
        target = min(0.4 * 0.005 * (k + 1), 0.2)
        at = step_position(COLUMN, at, target, even(0.005), 0.0)
        errors.append(abs(target - at.position))
    assert max(errors) > 0.01
    assert errors[-1] == 0.0


def test_what_is_within_the_limits_passes_bit_for_bit() -> None:
    assert step_position(COLUMN, REST._replace(position=0.1), 0.1003, even(0.02), 0.02).position == 0.1003
    assert step_velocity(COLUMN, None, 0.0, 0.0123, even(0.02), 0.1) == (0.0123, False)


def test_a_row_is_a_ramp_over_its_own_interval() -> None:
    at, positions = REST, []
    for k in range(5):
        at = step_position(COLUMN, at, 0.004, even(0.02), 0.1 - 0.02 * k)
        positions.append(at.position)
        assert not at.behind
    assert positions == pytest.approx([0.0008, 0.0016, 0.0024, 0.0032, 0.004])
    assert positions[-1] == 0.004


def test_outside_its_workspace_a_velocity_axis_may_only_come_back() -> None:
    assert step_velocity(COLUMN, 1.1, 0.0, 1.0, even(0.02), 0.1) == (0.0, True)
    assert step_velocity(COLUMN, 1.1, 0.0, -0.05, even(0.02), 0.1) == (-0.05, False)


@pytest.mark.parametrize("position", [1.3, -1.4])
@pytest.mark.parametrize("target", [None, 0.0, 1e6, -1e6])
def test_outside_its_range_a_position_comes_back_at_limited_speed_or_stays(position: float, target: Any) -> None:
    at = At(position, 0.0, False)
    for _ in range(400):
        after = step_position(COLUMN, at, target, even(0.02), 0.0)
        real = (after.position - at.position) / 0.02
        assert abs(real) <= 2.0 * (1 + 1e-9)
        assert abs(real - at.velocity) <= 3.0 * 0.02 * (1 + 1e-6)
        assert max(abs(after.position), 1.0) <= max(abs(at.position), 1.0), "never further out"
        at = after._replace(velocity=real)
    assert at.position == (position if target is None else min(max(target, -1.0), 1.0))


@given(st.lists(st.tuples(TARGET, DT, st.floats(0, 1)), max_size=60))
@example([(1e6, 0.02, 0.0)] * 100)
@example([(1e6, 0.02, 1.0)] * 100 + [(-1e6, 0.2, 0.0)] * 20)
def test_a_position_axis_keeps_every_limit_in_steady_time_however_slow_data_time_is(
    steps: list[tuple[float | None, float, float]],
) -> None:
    at = REST
    for target, dt, share in steps:
        after = step_position(COLUMN, at, target, Elapsed(dt, dt * share), 0.0)
        real = (after.position - at.position) / dt
        assert -1.0 <= after.position <= 1.0
        assert abs(real) <= 2.0 * (1 + 1e-9)
        assert abs(real - at.velocity) <= 3.0 * dt * (1 + 1e-6)
        assert abs(real) - abs(at.velocity) <= 3.0 * dt * share * (1 + 1e-6) + 1e-9, "faster by data time alone"
        at = after._replace(velocity=real)


@pytest.mark.parametrize(
    ("kind", "unit", "measured", "refused"),
    [
        ("joint_position", "rad", "deg", True), ("joint_position", "m", "mm", True),
        ("joint_position", "rad", "m", True),
        ("joint_velocity", "rad/s", "deg", True), ("joint_velocity", "rad/s", "rad/s", True),
        ("joint_position", "rad/s", "rad/s", True), ("joint_position", "deg", "deg", False),
        ("joint_velocity", "deg/s", "deg", False), ("joint_velocity", "rad", "rad", False),
        ("joint_position", "rad", "1", False),
    ],
)  # fmt: skip
def test_what_commands_an_axis_and_what_measures_it_are_in_one_unit(
    kind: Any, unit: str, measured: str, refused: bool
) -> None:
    one = {"scale": (1.0,), "offset": (0.0,), "lower": (-1.0,), "upper": (1.0,)}
    group = ActionGroup(kind=kind, names=("j",), units=(unit,), **one)
    contract = gate_judge.contract((group,), (StateField(name="measured_j", unit=measured),))
    if refused:
        with pytest.raises(ContractError, match=r"gate: 'j' is"):
            columns(contract, limits(axis()))
    else:
        (column,) = columns(contract, limits(axis()))
        assert column.unit == (unit if kind == "joint_position" else f"{unit.removesuffix('/s')}/s")
