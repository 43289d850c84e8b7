"""Writes down what goes over the wire, one JSON line for each message, as it comes: see `judge` for who reads it.

python -m ros.chaos.observer FILE --ros-args ...
"""

from __future__ import annotations

import struct
import sys
import time
from collections.abc import Callable
from json import dumps
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from edgevlm_msgs.msg import ActionChunk, GateStatus, Heartbeat, InferenceStats
from geometry_msgs.msg import PoseStamped, TwistStamped
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from ros.chaos.alone import spin
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool
from trajectory_msgs.msg import JointTrajectory

S = 1_000_000_000
WATCHED = ("command/twist", "command/gripper", "action_chunk", "heartbeat", "hand_pose", "joint_states")
EVERY = QoSProfile(depth=1000, reliability=ReliabilityPolicy.RELIABLE)
SENSOR = QoSProfile(depth=20, reliability=ReliabilityPolicy.BEST_EFFORT)
LATCHED = QoSProfile(depth=10, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL)


def ns(stamp: Any) -> int:
    """A stamp as nanoseconds."""
    return int(stamp.sec) * S + int(stamp.nanosec)


def raw_stamp(data: bytes) -> int:
    """The stamp of a serialized message that begins with a header: after four bytes, seconds and nanoseconds."""
    sec, nanosec = struct.unpack_from("<iI", data, 4)
    return int(sec) * S + int(nanosec)


class Observer(Node):
    """Publishes nothing and asks for nothing: nodes cannot tell that it is there."""

    def __init__(self, path: Path) -> None:
        super().__init__("observer")
        self._file = path.open("w", buffering=1 << 16)
        self._watched = {topic: self.resolve_topic_name(topic) for topic in WATCHED}
        self._commands()
        for kind, topic, message_type, read, qos in (
            ("status", "gate_status", GateStatus, _status, EVERY),
            ("chunk", "action_chunk", ActionChunk, _chunk, EVERY),
            ("beat", "heartbeat", Heartbeat, _beat, EVERY),
            ("stats", "inference_stats", InferenceStats, _stats, EVERY),
            ("estop", "estop", Bool, lambda m: {"pressed": m.data}, EVERY),
            ("rearm", "chaos/rearm", Bool, lambda m: {}, EVERY),
            ("stop", "command/stop", Bool, lambda m: {"up": m.data}, LATCHED),
            ("clock", "/clock", Clock, lambda m: {"stamp": ns(m.clock)}, SENSOR),
            ("state", "hand_pose", PoseStamped, _pose, SENSOR),
            ("state", "joint_states", JointState, lambda m: _joints("joint_states", m), SENSOR),
        ):
            self._listen(kind, message_type, topic, read, qos)
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, EVERY)
        self.declare_parameter("camera", "front/image_raw")
        self.create_subscription(Image, self.get_parameter("camera").value, self._on_camera, SENSOR, raw=True)
        self.create_timer(0.2, self._look)

    def _commands(self) -> None:
        for topic, message_type, values in (
            ("command/twist", TwistStamped, _twist),
            ("command/pose", PoseStamped, lambda m: _pose(m)["values"]),
            ("command/gripper", JointState, lambda m: list(m.position)),
            ("command/joint_velocity", JointState, lambda m: list(m.velocity)),
            ("command/joint_position", JointState, lambda m: list(m.position)),
            ("command/joint_trajectory", JointTrajectory, lambda m: list(m.points[0].positions)),
        ):

            def read(message: Any, topic: str = topic, values: Callable[[Any], list[float]] = values) -> dict[str, Any]:
                return {"topic": topic, "stamp": ns(message.header.stamp), "values": values(message)}

            self._listen("command", message_type, topic, read, EVERY)

    def _listen(
        self, kind: str, message_type: type, topic: str, read: Callable[[Any], dict[str, Any]], qos: QoSProfile
    ) -> None:
        def take(message: Any, info: Any) -> None:
            self._write(kind, read(message), info)

        self.create_subscription(message_type, topic, take, qos)

    def _on_camera(self, data: bytes, info: Any) -> None:
        self._write("camera", {"stamp": raw_stamp(data)}, info)

    def _on_diagnostics(self, message: DiagnosticArray, info: Any) -> None:
        for status in message.status:
            level = status.level[0] if isinstance(status.level, bytes) else status.level
            values = {value.key: value.value for value in status.values}
            content = {"name": status.name, "level": level, "message": status.message, "values": values}
            self._write("diagnostics", content, info)

    def _look(self) -> None:
        counts = {topic: self.count_publishers(name) for topic, name in self._watched.items()}
        self._write("graph", {"publishers": counts}, None)
        self._file.flush()

    def _write(self, kind: str, content: dict[str, Any], info: Any) -> None:
        received_ns = info["received_timestamp"] if info else 0
        sent_ns = info["source_timestamp"] if info else 0
        line = {"k": kind, "t": time.monotonic_ns(), "r": received_ns or time.time_ns(), "s": sent_ns, **content}
        self._file.write(dumps(line) + "\n")

    def close(self) -> None:
        """Write out what is still in memory."""
        self._file.close()


def _twist(message: TwistStamped) -> list[float]:
    linear, angular = message.twist.linear, message.twist.angular
    return [linear.x, linear.y, linear.z, angular.x, angular.y, angular.z]


def _pose(message: PoseStamped) -> dict[str, Any]:
    position = message.pose.position
    return {"topic": "hand_pose", "stamp": ns(message.header.stamp), "values": [position.x, position.y, position.z]}


def _joints(topic: str, message: JointState) -> dict[str, Any]:
    return {"topic": topic, "stamp": ns(message.header.stamp), "values": list(message.position)}


def _status(message: GateStatus) -> dict[str, Any]:
    return {
        "stamp": ns(message.header.stamp),
        "number": message.number,
        "mode": message.mode,
        "cause": message.cause,
        "valid_until": ns(message.valid_until),
        "values": list(message.values),
        "limited": list(message.limited),
        "observed": ns(message.observed),
        "sequence": message.sequence,
        "row": message.row,
    }


def _chunk(message: ActionChunk) -> dict[str, Any]:
    values = np.asarray(message.values, np.float32)
    return {
        "stamp": ns(message.header.stamp),
        "session": message.session,
        "sequence": message.sequence,
        "started": ns(message.inference_started),
        "ended": ns(message.inference_ended),
        "valid_until": ns(message.valid_until),
        "step_s": message.step_s,
        "rows": len(values) // max(1, len(message.names)),
        "finite": bool(np.isfinite(values).all()),
        "instruction": message.instruction,
    }


def _beat(message: Heartbeat) -> dict[str, Any]:
    return {"stamp": ns(message.stamp), "session": message.session, "observing": message.observing}


def _stats(message: InferenceStats) -> dict[str, Any]:
    content = {name: getattr(message, name) for name in ("sequence", "error", "step_ms", "latency_ms", "warm_up")}
    return {"stamp": ns(message.header.stamp), "frames_received": message.frames_received, **content}


def main() -> None:
    """Observe until SIGINT or SIGTERM."""
    observers: list[Observer] = []

    def make() -> Observer:
        observers.append(Observer(Path(sys.argv[1])))
        return observers[0]

    spin(make)
    observers[0].close()


if __name__ == "__main__":
    main()
