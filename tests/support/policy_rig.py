"""The robot's side of policy_node in tests: cameras, state and voice over DDS, and everything that comes back."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import rclpy
from action_msgs.msg import GoalStatus
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from edgevlm_msgs.action import ExecuteInstruction
from edgevlm_msgs.msg import ActionChunk, Heartbeat, InferenceStats, Plan
from edgevlm_msgs.srv import SetInstruction
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from nav_msgs.msg import Path
from numpy.typing import NDArray
from rclpy.action import ActionClient
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String

from edgevlm_ros.qos import LATCHED, RELIABLE, SENSOR
from edgevlm_ros.stamps import to_duration, to_ns, to_time

STATES = {"configure": 1, "cleanup": 2, "activate": 3, "deactivate": 4}


def wait_until(true: Callable[[], Any], timeout_s: float = 10.0, why: str = "waited in vain") -> None:
    deadline = time.monotonic() + timeout_s
    while not true():
        assert time.monotonic() < deadline, why
        time.sleep(0.005)


def image_message(pixels: NDArray[np.uint8], encoding: str, stamp_ns: int, padding: int = 0) -> Image:
    """A raw picture, with `padding` bytes behind each row."""
    rows = pixels.reshape(pixels.shape[0], -1)
    padded = np.pad(rows, ((0, 0), (0, padding)), constant_values=99)
    message = Image(height=pixels.shape[0], width=pixels.shape[1], encoding=encoding, step=padded.shape[1])
    message.data = padded.tobytes()
    message.header.stamp = to_time(stamp_ns)
    return message


def joints_message(joints: dict[str, float], stamp_ns: int) -> JointState:
    message = JointState(name=list(joints), position=[float(value) for value in joints.values()])
    message.header.stamp = to_time(stamp_ns)
    return message


@dataclass
class Goal:
    """A goal that was sent."""

    accepted: bool
    handle: Any = None
    result: Any = None
    feedback: list[Any] = field(default_factory=list)

    def outcome(self, timeout_s: float = 10.0) -> tuple[int, int, str]:
        """(status of the action, outcome, reason)."""
        wait_until(self.result.done, timeout_s)
        answer = self.result.result()
        return answer.status, answer.result.outcome, answer.result.reason


class PolicyRig:
    """A node in a context of its own; its executor runs in a thread."""

    def __init__(self, domain: int, namespace: str, node: str = "policy_node") -> None:
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("rig", context=self.context, namespace=namespace)
        self.full = f"/{namespace}/{node}"
        self.chunks: list[ActionChunk] = []
        self.plans: list[Plan] = []
        self.paths: list[Path] = []
        self.stats: list[InferenceStats] = []
        self.beats: list[Heartbeat] = []
        self.contracts: list[str] = []
        self.following: list[str] = []
        self.rows: dict[str, DiagnosticStatus] = {}
        self._keep(ActionChunk, "action_chunk", self.chunks)
        self._keep(Plan, "plan", self.plans)
        self._keep(Path, "plan_path", self.paths)
        self._keep(InferenceStats, "inference_stats", self.stats)
        self._keep(Heartbeat, "heartbeat", self.beats)
        for topic, received in (("contract", self.contracts), ("instruction", self.following)):
            self.node.create_subscription(
                String, f"{node}/{topic}", lambda message, received=received: received.append(message.data), LATCHED
            )
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._diagnose, 10)
        self.voice = self.node.create_publisher(String, "instruction", LATCHED)
        self.success = self.node.create_publisher(Bool, "success", RELIABLE)
        self._change = self.node.create_client(ChangeState, f"{node}/change_state")
        self._say = self.node.create_client(SetInstruction, "set_instruction")
        self._action = ActionClient(self.node, ExecuteInstruction, "execute_instruction")
        self._publishers: dict[tuple[str, type], Any] = {}
        self.executor = SingleThreadedExecutor(context=self.context)
        self.executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self.executor.spin()

    def _keep(self, kind: type, topic: str, received: list[Any]) -> None:
        self.node.create_subscription(kind, topic, received.append, RELIABLE)

    def _diagnose(self, message: DiagnosticArray) -> None:
        for status in message.status:
            if status.hardware_id == self.full:
                self.rows[status.name.removeprefix(f"{self.full}: ")] = status

    def row(self, section: str) -> dict[str, str]:
        """Figures of a row that is published from now on; "level" and "message" among them."""
        self.rows.pop(section, None)
        wait_until(lambda: section in self.rows, why=f"no diagnostics row {section!r}, there are {sorted(self.rows)}")
        status = self.rows[section]
        figures = {item.key: item.value for item in status.values}
        return {
            **figures,
            "level": {b"\0": "ok", b"\1": "warn", b"\2": "error"}[status.level],
            "message": status.message,
        }

    def publisher(self, kind: type, topic: str) -> Any:
        if (topic, kind) not in self._publishers:
            self._publishers[topic, kind] = self.node.create_publisher(kind, topic, SENSOR)
        return self._publishers[topic, kind]

    def send(self, topic: str, message: Any) -> None:
        self.publisher(type(message), topic).publish(message)

    def silence(self, topic: str) -> None:
        """Take this rig's publishers of a topic away."""
        for key in [key for key in self._publishers if key[0] == topic]:
            self.node.destroy_publisher(self._publishers.pop(key))

    def now_ns(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def change(self, transition: str, timeout_s: float = 20.0) -> bool:
        """A lifecycle transition; whether it succeeded."""
        assert self._change.wait_for_service(timeout_s)
        future = self._change.call_async(ChangeState.Request(transition=Transition(id=STATES[transition])))
        wait_until(future.done, timeout_s)
        return bool(future.result().success)

    def say(self, text: str) -> SetInstruction.Response:
        assert self._say.wait_for_service(10)
        future = self._say.call_async(SetInstruction.Request(instruction=text))
        wait_until(future.done)
        return future.result()

    def goal(self, text: str, timeout_s: float = 0.0) -> Goal:
        """Send a goal and wait until it is accepted or rejected."""
        assert self._action.wait_for_server(10)
        sent = Goal(False)
        request = ExecuteInstruction.Goal(instruction=text, timeout=to_duration(round(timeout_s * 1e9)))
        future = self._action.send_goal_async(
            request, feedback_callback=lambda message: sent.feedback.append(message.feedback)
        )
        wait_until(future.done)
        sent.handle = future.result()
        sent.accepted = sent.handle.accepted
        if sent.accepted:
            sent.result = sent.handle.get_result_async()
        return sent

    def cancel(self, goal: Goal) -> int:
        """How many goals are being canceled."""
        future = goal.handle.cancel_goal_async()
        wait_until(future.done)
        return len(future.result().goals_canceling)

    def chunk_of(self, stamp_ns: int, timeout_s: float = 10.0) -> ActionChunk:
        """The chunk of an observation."""
        results: list[ActionChunk] = []

        def there() -> bool:
            results[:] = [chunk for chunk in reversed(self.chunks) if to_ns(chunk.header.stamp) == stamp_ns]
            return bool(results)

        wait_until(there, timeout_s, f"no chunk of {stamp_ns}")
        return results[0]

    def close(self) -> None:
        self.executor.shutdown()
        self._action.destroy()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)
        self._thread.join()


class Camera:
    """Sends `send(stamp_ns)` at a rate from a thread, until it is stopped. A context manager."""

    def __init__(self, send: Callable[[int], None], now_ns: Callable[[], int], rate_hz: float = 30.0) -> None:
        self._send, self._now_ns, self._period_s = send, now_ns, 1 / rate_hz
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        next_s = time.monotonic()
        while not self._stopping.is_set():
            self._send(self._now_ns())
            next_s += self._period_s
            self._stopping.wait(max(0.0, next_s - time.monotonic()))

    def __enter__(self) -> Camera:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopping.set()
        self._thread.join()


STATUS = {
    "succeeded": GoalStatus.STATUS_SUCCEEDED,
    "aborted": GoalStatus.STATUS_ABORTED,
    "canceled": GoalStatus.STATUS_CANCELED,
}
