"""The other side of a command gate's wires: a robot that moves as it is told, a policy made of rows, an observer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from edgevlm_msgs.msg import ActionChunk, GateStatus, Heartbeat
from lifecycle_msgs.srv import ChangeState
from rcl_interfaces.srv import SetParameters
from rclpy.executors import SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool
from std_srvs.srv import Trigger

from edgevlm.manifest.contract import SECOND_NS, Contract
from edgevlm_ros.qos import LATCHED
from edgevlm_ros.stamps import to_ns, to_time

PERIOD_S = 0.02
INSTANT_S = 0.001  # a gate reads its two clocks within this: limits hold in steady time, stamps are of the other clock


def wait_until(true: Callable[[], Any], timeout_s: float = 5.0) -> float:
    """Seconds until it was true."""
    begin = time.monotonic()
    while not true():
        assert time.monotonic() - begin < timeout_s, "waited in vain"
        time.sleep(0.002)
    return time.monotonic() - begin


class Rig:
    """State, heartbeat and e-stop each 20 ms, a chunk of equal rows each 100 ms; `row`, `beats`, `sees` change that.

    Attributes:
        joints: the measured state by its name on the robot.
        received: (arrival in steady seconds, topic, message) of everything the gate sent.
    """

    def __init__(self, domain: int, contract: Contract, sha256: str, topics: Mapping[str, type], **more: str) -> None:
        self.contract, self.sha256 = contract, sha256
        self.row: list[float] | None = None
        self.beats = self.sees = True
        self.pressed: bool | None = False  # what the button says; None: nothing
        self.joints: dict[str, float] = {}
        self.received: list[tuple[float, str, Any]] = []
        self.figures: dict[str, dict[str, str]] = {}
        self.messages: dict[str, str] = {}
        self._sequence = self._ticks = 0
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self._space = more.get("namespace", "")
        self.node = rclpy.create_node("rig", context=self.context, namespace=self._space)
        self._state = self.node.create_publisher(JointState, more.get("state_topic", "joint_states"), 5)
        self._heartbeat = self.node.create_publisher(Heartbeat, "heartbeat", 10)
        self._chunk = self.node.create_publisher(ActionChunk, "action_chunk", 10)
        self._estop = self.node.create_publisher(Bool, "estop", 10)
        for topic, kind in {**topics, "gate_status": GateStatus}.items():
            self.node.create_subscription(kind, topic, self._keep(topic), 100)
        self.node.create_subscription(Bool, "command/stop", self._keep("command/stop"), LATCHED)
        self.node.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, 10)
        self.node.create_timer(PERIOD_S, self._tick)
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def _spin(self) -> None:
        with suppress(rclpy.executors.ExternalShutdownException):
            self._executor.spin()

    def _keep(self, topic: str) -> Callable[[Any], None]:
        def keep(message: Any) -> None:
            self.received.append((time.monotonic(), topic, message))
            self.on_command(topic, message)

        return keep

    def on_command(self, topic: str, message: Any) -> None:
        """A robot that moves; replaced by tests."""

    def _on_diagnostics(self, array: DiagnosticArray) -> None:
        for status in array.status:
            name, _, row = status.name.partition(": ")
            if name == f"{self._space}/command_gate":
                self.figures[row] = {value.key: value.value for value in status.values}
                self.messages[row] = status.message

    def now_ns(self) -> int:
        return int(self.node.get_clock().now().nanoseconds)

    def _tick(self) -> None:
        now_ns = self.now_ns()
        if self.sees and self.joints:
            self.send_state(now_ns)
        if self.beats:
            self.beat(now_ns)
        if self.pressed is not None:
            self._estop.publish(Bool(data=self.pressed))
        if self._ticks % 5 == 0 and self.row is not None:
            self.send_chunk(self.row, now_ns)
        self._ticks += 1

    def send_chunk(self, row: list[float], observed_ns: int, **more: Any) -> None:
        """A full chunk of equal rows."""
        self._sequence += 1
        action = self.contract.action
        values = np.tile(np.array(row, np.float32), action.steps)
        fields = {
            "schema_version": 1,
            "sequence": self._sequence,
            "bundle_sha256": self.sha256,
            "step_s": action.step_s,
            "names": list(action.names),
            "units": list(action.units),
            "values": values,
            "valid_until": to_time(observed_ns + round(action.steps * action.step_s * SECOND_NS)),
        }
        message = ActionChunk(**{**fields, **more})
        message.header.stamp = to_time(observed_ns)
        self._chunk.publish(message)

    def send_state(self, stamp_ns: int) -> None:
        message = JointState(name=list(self.joints), position=list(self.joints.values()))
        message.header.stamp = to_time(stamp_ns)
        self._state.publish(message)

    def beat(self, now_ns: int) -> None:
        self._heartbeat.publish(Heartbeat(schema_version=1, stamp=to_time(now_ns)))

    def press(self, pressed: bool) -> None:
        self.pressed = pressed
        self._estop.publish(Bool(data=pressed))

    def of(self, topic: str, since: float = 0.0) -> list[Any]:
        """Messages of a topic that came after `since`."""
        return [message for at, name, message in list(self.received) if name == topic and at >= since]

    @property
    def matched(self) -> int:
        """How many of state, heartbeat and chunk somebody listens to."""
        return sum(publisher.get_subscription_count() > 0 for publisher in (self._state, self._heartbeat, self._chunk))

    @property
    def status(self) -> GateStatus | None:
        return next((message for _, name, message in reversed(self.received) if name == "gate_status"), None)

    def doing(self, mode: str, cause: str = "") -> bool:
        return self.status is not None and (self.status.mode, self.status.cause) == (mode, cause)

    def call(self, kind: Any, name: str, request: Any, timeout_s: float = 5.0) -> Any:
        """Ask one of the gate's services."""
        client = self.node.create_client(kind, f"{self._space}/command_gate/{name}")
        assert client.wait_for_service(timeout_s)
        future = client.call_async(request)
        wait_until(future.done, timeout_s)
        return future.result()

    def rearm(self) -> Trigger.Response:
        return self.call(Trigger, "rearm", Trigger.Request())

    def set(self, name: str, value: Any) -> str:
        """Set a parameter of the gate; the reason when it was refused, otherwise empty."""
        request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
        (result,) = self.call(SetParameters, "set_parameters", request).results
        return "" if result.successful else result.reason

    def change(self, transition: int) -> bool:
        """A lifecycle transition by its number."""
        request = ChangeState.Request()
        request.transition.id = transition
        return bool(self.call(ChangeState, "change_state", request).success)

    def close(self) -> None:
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()
        rclpy.shutdown(context=self.context)


def judge_velocities(messages: list[Any], most: float, hardest: float, valid_s: float) -> int:
    """Faults of TwistStamped commands along x, by their stamps: speed, its change, finiteness, time going back."""
    faults = 0
    before_ns, before = 0, 0.0
    for message in messages:
        stamp_ns, value = to_ns(message.header.stamp), message.twist.linear.x
        dt = (stamp_ns - before_ns) / SECOND_NS
        if dt > valid_s:  # the robot had come to rest
            before, dt = 0.0, PERIOD_S
        bad = not np.isfinite(value) or abs(value) > most * (1 + 1e-9) or dt <= 0
        faults += bad or abs(value - before) > hardest * (dt + INSTANT_S)
        before_ns, before = stamp_ns, value
    return faults
