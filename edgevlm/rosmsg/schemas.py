"""ROS 2 message definitions as they stand in a recording's schemas (ros2msg: the type, then those it uses).

Source: common_interfaces and rcl_interfaces of ROS 2 Jazzy, comments left out; those of edgevlm_msgs are generated.
"""

from __future__ import annotations

from collections.abc import Callable

from edgevlm.errors import LogError
from edgevlm.rosmsg import own_schemas
from edgevlm.rosmsg.definitions import PLAIN, TIME, parse_fields, short_name
from edgevlm.rosmsg.type_names import COMPRESSED_IMAGE as COMPRESSED_IMAGE
from edgevlm.rosmsg.type_names import IMAGE as IMAGE
from edgevlm.rosmsg.type_names import JOINT_STATE as JOINT_STATE
from edgevlm.rosmsg.type_names import STRING as STRING

POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
PATH = "nav_msgs/msg/Path"

BODIES = {
    "builtin_interfaces/msg/Time": TIME,
    "std_msgs/msg/Header": "builtin_interfaces/Time stamp\nstring frame_id\n",
    "geometry_msgs/msg/Point": "float64 x\nfloat64 y\nfloat64 z\n",
    "geometry_msgs/msg/Quaternion": "float64 x 0\nfloat64 y 0\nfloat64 z 0\nfloat64 w 1\n",
    "geometry_msgs/msg/Pose": "geometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n",
    IMAGE: (
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n"
        "uint8 is_bigendian\nuint32 step\nuint8[] data\n"
    ),
    COMPRESSED_IMAGE: "std_msgs/Header header\nstring format\nuint8[] data\n",
    JOINT_STATE: "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n",
    POSE_STAMPED: "std_msgs/Header header\ngeometry_msgs/Pose pose\n",
    STRING: "string data\n",
    PATH: "std_msgs/Header header\ngeometry_msgs/PoseStamped[] poses\n",
    **own_schemas.BODIES,
}


def definition(type_name: str) -> str:
    """The whole schema text of a type of BODIES.

    Raises:
        LogError: another type.
    """
    return assemble(type_name, body)


def body(type_name: str) -> str:
    """The fields of a type of BODIES. Raises LogError: another type."""
    try:
        return BODIES[type_name]
    except KeyError:
        raise LogError(
            f"message type {type_name}: expected one of {', '.join(BODIES)}; give its definition along"
        ) from None


def assemble(type_name: str, body_of: Callable[[str], str]) -> str:
    """The schema text of a type: its fields, then each type it uses, once, in the order of first use.

    Args:
        body_of: the text of the .msg file of a type such as "std_msgs/msg/Header".

    Raises:
        LogError: a text that is no definition.
    """
    bodies: dict[str, str] = {}

    def visit(name: str) -> None:
        if name in bodies:
            return
        bodies[name] = body_of(name)
        try:
            fields = parse_fields(short_name(name), bodies[name])
        except ValueError as error:
            raise LogError(f"message type {name}: its definition {error}; correct the .msg file") from error
        for field in fields:
            if field.type_name not in PLAIN:
                visit(field.type_name.replace("/", "/msg/"))

    visit(type_name)
    rule = "=" * 80
    parts = [f"{rule}\nMSG: {short_name(name)}\n{_ended(text)}" for name, text in bodies.items()]
    return "".join([_ended(bodies[type_name]), *parts[1:]])


def _ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"
