"""Paths into messages: by field, by index, by name; an index into something that has names is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevlm.errors import LogError
from edgevlm.rosmsg.selectors import Absent, Reading, Step, parse_path, read_number
from edgevlm.rosmsg.topic_map import StateSource

KEYS = ["name", "header.frame_id"]
VALUES = st.text("ab./ -é=", min_size=1)
NAMES = st.lists(st.text("abc_1", min_size=1, max_size=4), min_size=1, max_size=6, unique=True)


def message(**fields: Any) -> Any:
    """A message as a decoder makes it: a class with slots."""
    kind = type("Message", (), {"__slots__": list(fields)})()
    for name, value in fields.items():
        setattr(kind, name, value)
    return kind


def joints(names: list[str], position: list[float]) -> Any:
    return message(name=names, position=position, velocity=[], effort=[])


def transform(child: str, x: float, parent: str = "base", sec: int = 7) -> Any:
    header = message(stamp=message(sec=sec, nanosec=0), frame_id=parent)
    moved = message(translation=message(x=x, y=0.0, z=0.0))
    return message(header=header, child_frame_id=child, transform=moved)


def read(root: Any, path: str) -> Reading | Absent:
    return read_number(root, parse_path(path), "here")


def number(root: Any, path: str) -> float:
    reading = read(root, path)
    assert isinstance(reading, Reading), reading
    return reading.value


@given(names=NAMES, data=st.data())
def test_a_name_selects_its_own_number_in_any_order(names: list[str], data: st.DataObject) -> None:
    values = {name: float(i) for i, name in enumerate(names)}
    order = data.draw(st.permutations(names))
    for name in names:
        assert number(joints(order, [values[each] for each in order]), f"position[name={name}]") == values[name]
        frames = message(transforms=[transform(each, values[each]) for each in order])
        assert number(frames, f"transforms[child_frame_id={name}].transform.translation.x") == values[name]


def test_a_joint_of_the_map_and_its_selector_read_the_same() -> None:
    by_name = StateSource(topic="/j", joint="grip.l/er")
    by_path = StateSource(topic="/j", path="position[name=grip.l/er]")
    assert by_name.steps == by_path.steps == (Step("position", key="name", value="grip.l/er"),)


def test_an_element_brings_its_own_header() -> None:
    reading = read(
        message(transforms=[transform("tool0", 1.0, "world", 9)]),
        "transforms[child_frame_id=tool0].transform.translation.x",
    )
    assert isinstance(reading, Reading) and reading.header.frame_id == "world" and reading.header.stamp.sec == 9
    assert read(message(data=[1.0]), "data[0]") == Reading(1.0, None)


TOOL0 = "transforms[child_frame_id=tool0].transform.translation.x"
POINT = message(positions=[1.5], velocities=[0.25], time=2.0)
FINGER = message(joint_names=["finger"], points=[POINT])
STATE = message(joint_names=["a", "b"], feedback=message(positions=[1.0, 2.0]))


@pytest.mark.parametrize(
    ("root", "path", "write", "value"),
    [
        (joints(["arm", "gripper"], [3.0, 0.5]), "position[1]", "position[name=gripper]", 0.5),
        (message(transforms=[transform("tool0", 4.0)]), "transforms[0].transform.translation.x", TOOL0, 4.0),
        (STATE, "feedback.positions[1]", "feedback.positions[joint_names=b]", 2.0),
        (message(name=["cup"], pose=[message(x=1.0)]), "pose[0].x", "pose[name=cup].x", 1.0),
        (message(ids=[11, 12], position=[1.0, 2.0]), "position[1]", "position[ids=12]", 2.0),
        (message(tags=[message(id=5, x=3.0)]), "tags[0].x", "tags[id=5].x", 3.0),
        (FINGER, "points[0].positions[0]", "points[0].positions[joint_names=finger]", 1.5),
    ],
)
def test_an_index_into_something_that_has_names_is_refused_with_the_selector(
    root: Any, path: str, write: str, value: float
) -> None:
    with pytest.raises(LogError, match="an index into something that has names") as caught:
        read(root, path)
    assert str(caught.value).split("write ")[1] in write
    assert number(root, write) == value


def test_lists_of_unequal_lengths_are_no_reason_to_take_an_index() -> None:
    with pytest.raises(LogError, match=r"write position\[name=arm\]"):
        read(joints(["arm", "gripper"], [3.0]), "position[0]")


@pytest.mark.parametrize(
    ("root", "path", "value"),
    [
        (message(layout=message(dim=[message(label="x", size=3)]), data=[1.0, 2.0, 3.0]), "data[2]", 3.0),
        (message(poses=[message(x=1.0), message(x=2.0)]), "poses[1].x", 2.0),
        (message(covariance=[0.0] * 35 + [4.0], frame_id="a"), "covariance[35]", 4.0),
        (joints([], [3.0, 0.5]), "position[1]", 0.5),
        (message(joint_names=["a", "b"], points=[message(positions=[[5.0]], time=1.0)]), "points[0].time", 1.0),
        (FINGER, "points[0].positions[joint_names=finger]", 1.5),
        (FINGER, "points[0].time", 2.0),
        (message(errors=["hot", "slow"], data=[1.0, 2.0]), "data[1]", 2.0),
        (message(warnings=["hot"], data=[3.0]), "data[0]", 3.0),
        (message(errors=["hot"], pose=[message(x=1.0)]), "pose[0].x", 1.0),
    ],
)
def test_an_index_into_something_without_names_goes_on_working(root: Any, path: str, value: float) -> None:
    assert number(root, path) == value


@pytest.mark.parametrize(
    ("root", "path", "reason"),
    [
        (joints(["arm"], [3.0]), "position[name=gripper]", "no name 'gripper'; there are arm"),
        (joints(["arm"], []), "position[name=arm]", "position is empty"),
        (joints(["arm", "b"], [1.0]), "position[name=arm]", "position has 1 element(s) for 2 names"),
        (message(transforms=[]), TOOL0, "transforms is empty"),
        (message(data=[1.0]), "data[3]", "data has 1 element(s)"),
        (message(data="12"), "data", "data is text and no number"),
        (message(pose=message(x=1.0)), "pose", "pose is a structure and no number"),
        (message(data=[1.0]), "data", "data is an array and no number"),
    ],
)
def test_what_a_message_does_not_have_is_absent_with_its_reason(root: Any, path: str, reason: str) -> None:
    assert read(root, path) == Absent(reason)


@pytest.mark.parametrize(
    ("root", "path", "words"),
    [
        (joints(["a", "a"], [1.0, 2.0]), "position[name=a]", "name 'a' stands 2 times in one message"),
        (message(transforms=[transform("t", 1.0)] * 2), "transforms[child_frame_id=t].transform", "stands 2 times"),
        (joints(["a"], [1.0]), "torque[name=a]", "ends at 'torque'; there are"),
        (message(data=[1.0]), "data[name=a]", "nothing in 'data' is named by 'name'"),
        (message(data=1.0), "data[0]", "'data' is no array"),
        (message(data=1.0), "data.real", "ends at 'real'"),
    ],
)
def test_what_no_message_can_have_is_refused(root: Any, path: str, words: str) -> None:
    with pytest.raises(LogError) as caught:
        read(root, path)
    assert words in str(caught.value)


@given(
    steps=st.lists(
        st.builds(Step, field=st.from_regex(r"[a-z][a-z_0-9]{0,5}", fullmatch=True))
        | st.builds(Step, field=st.from_regex(r"[a-z]{1,3}", fullmatch=True), index=st.integers(0, 999))
        | st.builds(Step, field=st.just("f"), key=st.sampled_from(KEYS), value=VALUES),
        min_size=1, max_size=5,
    )
)  # fmt: skip
def test_a_path_that_is_written_is_read_back(steps: list[Step]) -> None:
    assert parse_path(".".join(map(str, steps))) == tuple(steps)


@pytest.mark.parametrize(
    "path", ["", ".", "a.", "a..b", "a[", "a[]", "a[-1]", "a[1", "a[name=]", "a[=b]", "a[1][2]", "a b", "a[١]", "_a"]
)
def test_what_is_no_path_is_refused(path: str) -> None:
    with pytest.raises(ValueError, match=r"is none such as|either"):
        parse_path(path)
