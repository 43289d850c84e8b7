"""Message types that a contract's topics may have."""

from __future__ import annotations

IMAGE = "sensor_msgs/msg/Image"
COMPRESSED_IMAGE = "sensor_msgs/msg/CompressedImage"
JOINT_STATE = "sensor_msgs/msg/JointState"
STRING = "std_msgs/msg/String"
TF = "tf2_msgs/msg/TFMessage"

CAMERA_TYPES = (IMAGE, COMPRESSED_IMAGE)
MANY_PUBLISHERS = (TF,)  # every message names what it is about, and each robot has several publishers
