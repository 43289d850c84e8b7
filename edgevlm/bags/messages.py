"""ROS 2 message definitions as they stand in a recording's schemas (ros2msg: the type, then those it uses).

Source: common_interfaces and rcl_interfaces of ROS 2 Jazzy, comments left out.
"""

from __future__ import annotations

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
JOINT_STATE = "sensor_msgs/msg/JointState"
POSE_STAMPED = "geometry_msgs/msg/PoseStamped"
STRING = "std_msgs/msg/String"

_PARTS = {
    "builtin_interfaces/Time": "int32 sec\nuint32 nanosec\n",
    "std_msgs/Header": "builtin_interfaces/Time stamp\nstring frame_id\n",
    "geometry_msgs/Point": "float64 x\nfloat64 y\nfloat64 z\n",
    "geometry_msgs/Quaternion": "float64 x 0\nfloat64 y 0\nfloat64 z 0\nfloat64 w 1\n",
    "geometry_msgs/Pose": "geometry_msgs/Point position\ngeometry_msgs/Quaternion orientation\n",
}
_HEADER = ("std_msgs/Header", "builtin_interfaces/Time")
_POSE = ("geometry_msgs/Pose", "geometry_msgs/Point", "geometry_msgs/Quaternion")


def _definition(body: str, *parts: str) -> str:
    rule = "=" * 80
    return body + "".join(f"{rule}\nMSG: {part}\n{_PARTS[part]}" for part in parts)


DEFINITIONS = {
    IMAGE: _definition(
        "std_msgs/Header header\nuint32 height\nuint32 width\nstring encoding\n"
        "uint8 is_bigendian\nuint32 step\nuint8[] data\n",
        *_HEADER,
    ),
    COMPRESSED_IMAGE: _definition("std_msgs/Header header\nstring format\nuint8[] data\n", *_HEADER),
    JOINT_STATE: _definition(
        "std_msgs/Header header\nstring[] name\nfloat64[] position\nfloat64[] velocity\nfloat64[] effort\n",
        *_HEADER,
    ),
    POSE_STAMPED: _definition("std_msgs/Header header\ngeometry_msgs/Pose pose\n", *_HEADER, *_POSE),
    STRING: _definition("string data\n"),
}
