"""Definitions that come with a recording: what cannot be decoded by is refused before it is tried."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgevlm.rosmsg.definitions import LONGEST_TEXT, MOST_TYPES, check_definition, check_idl, check_layout
from edgevlm.rosmsg.schemas import BODIES, JOINT_STATE, definition

RULE = "=" * 80


def with_types(root: str, **types: str) -> str:
    return root + "".join(f"\n{RULE}\nMSG: p/{name}\n{body}" for name, body in types.items())


@pytest.mark.parametrize("type_name", sorted(BODIES))
def test_every_definition_that_is_written_is_accepted(type_name: str) -> None:
    text = definition(type_name)
    assert check_definition(type_name, text)
    check_layout(type_name, f"# a comment\n\n{text}", text)


def test_what_a_definition_may_hold_is_accepted() -> None:
    text = with_types(
        "int8 LOW=-1\nstring NAME = a # b\nfloat64[3] x [1, 2, 3]\nstring<=10[<=5] names\nPart[] parts\np/Part one\n"
        "builtin_interfaces/Duration wait\nEmpty nothing\nfloat32 y 0.5  # why",
        Part="uint8 id",
        Empty="",
    )
    assert [field.name for field in check_definition("p/msg/Root", text)["p/Root"]] == [
        "x", "names", "parts", "one", "wait", "nothing", "y"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("\n", "has no fields"),
        ("# nothing\nint8 A=1\n", "has no fields"),
        ("Root again", "holds itself: p/Root in p/Root"),
        (with_types("A a", A="B[] b", B="A[] a"), "holds itself: p/A in p/B in p/A"),
        ("wstring text", "has a wstring in 'text'"),
        (with_types("A a", A="wstring<=5[] text"), "has a wstring in 'text'"),
        ("Other x", "does not define p/Other, the type of 'x'"),
        ("float64", "a line that is no field: 'float64'"),
        ("float64[0] x", "has an array of 0 elements"),
        ("float64[99999999999999] x", "has an array of"),
        ("float64 x\nfloat32 x", "names a field of p/Root twice"),
        (with_types("A a", A="int8 x") + f"\n{RULE}\nMSG: p/A\nint16 x", "defined twice"),
        (f"int8 x\n{RULE}\nsomething else\nint8 x", "defines no type"),
        ("int8 x\n" + "#" * LONGEST_TEXT, "characters long"),
        ("".join(f"int8 x{i}\n" for i in range(60_000)), "has 60004 fields; expected at most"),
        (with_types("int8 x", **{f"T{i}": "int8 x" for i in range(MOST_TYPES)}), "types; expected at most"),
        (with_types("A0 a", **{f"A{i}": f"A{i + 1} a" for i in range(40)}, A40="int8 x"), "holds itself"),
    ],
)
def test_what_cannot_be_decoded_by_is_refused_with_its_cause(text: str, says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("[", r"\[")):
        check_definition("p/msg/Root", text)


def test_types_that_use_the_next_one_twice_take_no_time() -> None:
    types = {f"A{i}": f"A{i + 1} a\nA{i + 1} b" for i in range(25)}
    began = time.monotonic()
    check_definition("p/msg/Root", with_types("A0 a", **types, A25="int8 x"))
    assert time.monotonic() - began < 1.0


@given(st.text("int8 A/[]<=\n#MSG:=xy12", max_size=200))
def test_any_text_is_accepted_or_refused(text: str) -> None:
    try:
        check_definition("p/msg/Root", text)
    except ValueError as error:
        assert str(error)


def test_a_known_type_laid_out_otherwise_is_refused() -> None:
    text = definition(JOINT_STATE)
    swapped = text.replace("string[] name\nfloat64[] position", "float64[] position\nstring[] name")
    with pytest.raises(ValueError, match=r"is not that of ROS 2: expected string\[\] name, got float64\[\] position"):
        check_layout(JOINT_STATE, swapped, text)
    with pytest.raises(ValueError, match="expected no more, got float64 more"):
        check_layout(JOINT_STATE, text.replace("float64[] effort\n", "float64[] effort\nfloat64 more\n"), text)
    ros1 = text.replace("builtin_interfaces/Time stamp", "uint32 seq\nbuiltin_interfaces/Time stamp")
    with pytest.raises(ValueError, match=r"got uint32 header\.seq"):
        check_layout(JOINT_STATE, ros1, text)


IDL = """// generated
#include "std_msgs/msg/Header.idl"
module sensor_msgs { module msg {
  @verbatim (language="comment", text="One; { joint } each" "and more;")
  struct JointState {
    @unit (value="s")
    std_msgs::msg::Header header;
    sequence<string> name; /* struct JointState { int x; } */
    sequence<double> position; sequence<double> velocity;
    sequence<double> effort;
  };
}; };
"""


def test_idl_of_a_known_type_is_compared_by_its_members() -> None:
    text = definition(JOINT_STATE)
    check_idl(JOINT_STATE, IDL, text)
    for wrong in (IDL.replace("sequence<string> name;", ""), "", "struct JointState {" + "/*" * 200_000):
        with pytest.raises(ValueError, match="expected the members"):
            check_idl(JOINT_STATE, wrong, text)
