"""ROS 2 message definitions as they stand in a recording's schemas (ros2msg: the type, then those it uses).

Source: common_interfaces and rcl_interfaces of ROS 2 Jazzy, and ros2_ws/src/edgevlm_msgs; comments left out.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

from edgevlm.errors import LogError
from edgevlm.rosmsg.type_names import COMPRESSED_IMAGE as COMPRESSED_IMAGE
from edgevlm.rosmsg.type_names import IMAGE as IMAGE
from edgevlm.rosmsg.type_names import JOINT_STATE as JOINT_STATE
from edgevlm.rosmsg.type_names import STRING as STRING

POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
PATH = "nav_msgs/msg/Path"
ACTION_CHUNK = "edgevlm_msgs/msg/ActionChunk"
PLAN = "edgevlm_msgs/msg/Plan"
INFERENCE_STATS = "edgevlm_msgs/msg/InferenceStats"
GATE_STATUS = "edgevlm_msgs/msg/GateStatus"
HEARTBEAT = "edgevlm_msgs/msg/Heartbeat"

SCHEMA_VERSION = 1  # of every message of edgevlm_msgs

_VERSION = "uint8 SCHEMA_VERSION = 1\nuint8 schema_version\n"

BODIES = {
    "builtin_interfaces/msg/Time": "int32 sec\nuint32 nanosec\n",
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
    ACTION_CHUNK: _VERSION
    + (
        "std_msgs/Header header\nuint64 session\nuint64 sequence\nstring bundle_sha256\nstring instruction\n"
        "string[] cameras\nbuiltin_interfaces/Time[] frame_stamps\nbuiltin_interfaces/Time state_stamp\n"
        "builtin_interfaces/Time inference_started\nbuiltin_interfaces/Time inference_ended\n"
        "builtin_interfaces/Time valid_until\n"
        "float64 step_s\nstring[] names\nstring[] units\nfloat32[] values\n"
    ),
    PLAN: _VERSION
    + (
        "std_msgs/Header header\nuint64 sequence\nstring instruction\n"
        "string step\nstring[] steps\nfloat32[] confidence\n"
        "builtin_interfaces/Time[] waypoint_stamps\nstring[] names\nstring[] units\nfloat32[] waypoints\n"
    ),
    INFERENCE_STATS: _VERSION
    + (
        "std_msgs/Header header\nuint64 sequence\nstring error\nbool warm_up\n"
        "float64 step_ms\nfloat64 latency_ms\nstring[] stages\nfloat64[] stage_ms\n"
        "uint64 frames_received\nuint64 frames_dropped\nuint64 observations_dropped\nuint64 acted\nuint64 failed\n"
    ),
    GATE_STATUS: _VERSION
    + (
        "string FOLLOW = follow\nstring HOLD = hold\nstring DECELERATE = decelerate\nstring STOP = stop\n"
        "std_msgs/Header header\nuint64 number\nstring mode\nstring cause\n"
        "builtin_interfaces/Time since\nbuiltin_interfaces/Time valid_until\n"
        "string[] names\nstring[] units\nfloat64[] values\nstring[] limited\n"
        "builtin_interfaces/Time observed\nuint64 sequence\nint32 row\n"
    ),
    HEARTBEAT: _VERSION
    + "uint64 session\nbuiltin_interfaces/Time stamp\nbool observing\nbuiltin_interfaces/Time observed\n",
}

_PLAIN = frozenset(
    ("bool", "byte", "char", "float32", "float64", "string", "wstring")
    + tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))
)
_FIELD = re.compile(r"^\s*([\w/]+)[^\s]*\s+\w+\s*(=?)")


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
    """
    found: dict[str, str] = {}

    def visit(name: str) -> None:
        if name not in found:
            found[name] = body_of(name)
            for used in _uses(name, found[name]):
                visit(used)

    visit(type_name)
    rule = "=" * 80
    parts = [f"{rule}\nMSG: {name.replace('/msg/', '/')}\n{_ended(text)}" for name, text in found.items()]
    return "".join([_ended(found[type_name]), *parts[1:]])


def _uses(type_name: str, text: str) -> Iterator[str]:
    """The message types among the fields."""
    for line in text.splitlines():
        field = _FIELD.match(line.partition("#")[0])
        if field is None or field.group(2) or field.group(1) in _PLAIN:
            continue  # no field, a constant, or nothing to define
        parts = field.group(1).split("/")
        package = type_name.split("/")[0] if len(parts) == 1 else parts[0]
        yield f"{package}/msg/{parts[-1]}"


def _ended(text: str) -> str:
    return text if text.endswith("\n") else f"{text}\n"
