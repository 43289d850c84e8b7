"""Between the simulated robot and the nodes: hands cameras and states on, with the faults that it is told of.

Takes `raw/<topic>` and publishes `<topic>`. `chaos/fault` (std_msgs/String, JSON) says what is wrong from now on:
    camera        pass | stop | reverse (the frames of half a second come in reverse order)
    camera_shift  seconds that are added to the stamps of frames
    encoding      "" | bgr8 (readable) | 16UC1 (not readable as a colour picture)
    state         pass | stop | nan
    state_shift   seconds that are added to the stamps of states
    push          metres that are added to the hand's measured position: somebody pushed the robot
"""

from __future__ import annotations

import json
import math
import struct
from array import array
from typing import Any

import numpy as np
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.serialization import deserialize_message, serialize_message
from ros.chaos.alone import spin
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String

S = 1_000_000_000
SENSOR = QoSProfile(depth=10, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=1, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)
HEALTHY: dict[str, Any] = {"camera": "pass", "camera_shift": 0, "encoding": "", "state": "pass", "state_shift": 0}
HEALTHY["push"] = 0.0
_BLOCK = 5  # frames: half a second; more at once would not fit the depth of the nodes' queues


def shifted(data: bytes, shift_s: float) -> bytes:
    """A serialized message that begins with a header, with another stamp."""
    if not shift_s:
        return data
    sec, nanosec = struct.unpack_from("<iI", data, 4)
    sec, nanosec = divmod(sec * S + nanosec + round(shift_s * S), S)
    return data[:4] + struct.pack("<iI", sec, nanosec) + data[12:]


def recoded(data: bytes, encoding: str) -> bytes:
    """A serialized rgb8 picture in another encoding."""
    if not encoding:
        return data
    picture = deserialize_message(data, Image)
    rgb = np.frombuffer(picture.data, np.uint8).reshape(picture.height, picture.width, 3)
    bytes_ = rgb[:, :, ::-1] if encoding == "bgr8" else rgb[:, :, :2]
    picture.encoding, picture.step = encoding, picture.width * bytes_.shape[2]
    picture.data = array("B", np.ascontiguousarray(bytes_).tobytes())
    return serialize_message(picture)


class Relay(Node):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("relay")
        self._fault = dict(HEALTHY)
        self._block: list[bytes] = []
        camera = "front/image_raw"
        self._camera = self.create_publisher(Image, camera, SENSOR)
        self.create_subscription(Image, f"raw/{camera}", self._on_camera, SENSOR, raw=True)
        for topic, kind in (("hand_pose", PoseStamped), ("joint_states", JointState)):
            self._state(topic, kind)
        self.create_subscription(String, "chaos/fault", self._on_fault, LATCHED)

    def _state(self, topic: str, kind: Any) -> None:
        publisher = self.create_publisher(kind, topic, SENSOR)

        def hand_on(data: bytes) -> None:
            if self._fault["state"] == "nan":
                data = serialize_message(_broken(deserialize_message(data, kind)))
            if self._fault["push"]:
                data = serialize_message(_moved(deserialize_message(data, kind), self._fault["push"]))
            if self._fault["state"] != "stop":
                publisher.publish(shifted(data, self._fault["state_shift"]))

        self.create_subscription(kind, f"raw/{topic}", hand_on, SENSOR, raw=True)

    def _on_camera(self, data: bytes) -> None:
        fault = self._fault
        if fault["camera"] == "stop":
            return
        frame = shifted(recoded(data, fault["encoding"]), fault["camera_shift"])
        if fault["camera"] == "pass":
            self._camera.publish(frame)
            return
        self._block.append(frame)
        if len(self._block) == _BLOCK:
            for held in reversed(self._block):
                self._camera.publish(held)
            self._block.clear()

    def _on_fault(self, message: String) -> None:
        self._fault = {**HEALTHY, **json.loads(message.data)}
        self._block.clear()


def _broken(message: Any) -> Any:
    if isinstance(message, PoseStamped):
        message.pose.position.y = math.nan
    return message


def _moved(message: Any, push_m: float) -> Any:
    if isinstance(message, PoseStamped):
        position = message.pose.position
        position.x, position.y, position.z = position.x + push_m, position.y + push_m, position.z + push_m
    return message


if __name__ == "__main__":
    spin(Relay)
