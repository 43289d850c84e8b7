"""The simulated tabletop robot as a ROS 2 node, driven only by what the command gate publishes.

    python -m edgevlm_tabletop.ros.sim_node --ros-args -p mode:=real_time

Publishes `front/image_raw` (rgb8, 10 Hz), `hand_pose` and `joint_states` (40 Hz), `success` (True, once an episode's
command is fulfilled), `~/record` (latched: what came of the last episode, see journal.Record), and `/clock` unless the
mode is real_time. Takes `command/twist` (m/s) and `command/gripper` (position in [-1, 1]). Idles until `~/reset`, which
begins the episode that the parameters seed, command and variant say; silent between episodes.
Diagnostics: `sim` with the keys phase, episodes, and `twist.<verdict>` and `gripper.<verdict>` as in `pace.Verdict`.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything that takes long to import
    from edgevlm_ros.shutdown import leave_at_once

    leave_at_once()

import array
import threading
import time
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus, KeyValue
from geometry_msgs.msg import PoseStamped, TwistStamped
from numpy.typing import NDArray
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rosgraph_msgs.msg import Clock as ClockMessage
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from edgevlm.errors import ContractError, SimulatorError
from edgevlm.manifest.contract import SECOND_NS
from edgevlm_ros.lifecycle_node import Asked, run
from edgevlm_ros.parameters import Item, Parameters
from edgevlm_ros.qos import LATCHED, RELIABLE, SENSOR, advertise, listen
from edgevlm_ros.stamps import to_ns, to_time
from edgevlm_tabletop import scene
from edgevlm_tabletop.commands import BY_NAME, COMMANDS
from edgevlm_tabletop.contract import FRAME_ID
from edgevlm_tabletop.ros.journal import Record, WitnessedSimulator
from edgevlm_tabletop.ros.pace import MODES, Commands
from edgevlm_tabletop.ros.robot import Reset, Robot, Sensed, Settings
from edgevlm_tabletop.sim import STEP_S, VARIANTS

ITEMS = (
    Item("mode", "real_time", f"how time passes: {', '.join(MODES)}"),
    Item("speed", 1.0, "how much faster than real time, in the mode scaled", 0.01, 100.0),
    Item("command_valid_s", 0.1, "how long after its stamp a command may be executed", 0.001, 10.0),
    Item("pause_s", 0.8, "silence before an episode, steady time", 0.0, 60.0),
    Item("gap_s", 5.0, "by how much counted data time jumps then", 0.0, 3600.0),
    Item("timeout_s", 10.0, "how long a command may take in the mode lock_step, steady time", 0.1, 600.0),
    Item("start_s", 1.0, "where counted data time begins", 0.0, 1e9),
    Item("journal", "", "file that a JSON line is added to for each episode"),
    Item("repeat", False, "begin with the next seed by itself when an episode is over", always=True),
    Item("seed", 0, "of the next episode", 0, 2**31 - 1, always=True),
    Item("command", COMMANDS[0].name, "that the next episode is judged by", always=True),
    Item("variant", VARIANTS[0], f"of the next episode's scene: {', '.join(VARIANTS)}", always=True),
)
_SETTINGS = ("mode", "speed", "pause_s", "gap_s", "timeout_s", "start_s")


def check(values: Mapping[str, Any]) -> None:
    """Refuse what no episode can be made of.

    Raises:
        ContractError: which parameter, and what it may be.
    """
    for name, known in (("mode", MODES), ("command", tuple(BY_NAME)), ("variant", VARIANTS)):
        if values[name] not in known:
            raise ContractError(f"{name}: expected one of {', '.join(known)}, got {values[name]!r}")


class SimNode(Node):
    """The ROS side of the robot: callbacks in the executor's thread, the robot's life in another. Is its `Wire`."""

    ending: Asked

    def __init__(self) -> None:
        super().__init__("tabletop_sim")
        self.parameters = Parameters(self, ITEMS, check, frozen=lambda: True)
        self.parameters.refuse_undeclared()
        check(self.parameters.values())
        self.settings = Settings(**{name: self.parameters[name] for name in _SETTINGS})
        self._commands = Commands(STEP_S, self.parameters["command_valid_s"])
        self._changed = threading.Condition()  # guards all below, and `_commands`
        self._reset: Reset | None = None
        self._closing = False
        self._now_ns: int | None = None  # counted data time; None in real time
        self._phase, self._episodes, self._total = "idle", 0, Counter[str]()
        self._failure: SimulatorError | None = None
        self._connect()
        self._life = threading.Thread(target=self._live, name="tabletop-robot")
        self._life.start()

    def _connect(self) -> None:
        self._clock_out = (
            advertise(self, ClockMessage, "/clock", RELIABLE) if self.settings.mode != "real_time" else None
        )
        self._image = advertise(self, Image, f"{scene.CAMERA}/image_raw", SENSOR)
        self._pose = advertise(self, PoseStamped, "hand_pose", SENSOR)
        self._joints = advertise(self, JointState, "joint_states", SENSOR)
        self._success = advertise(self, Bool, "success", RELIABLE)
        self._record = advertise(self, String, "~/record", LATCHED)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", 10)
        for kind, topic, take in (
            (TwistStamped, "command/twist", self._on_twist),
            (JointState, "command/gripper", self._on_gripper),
        ):
            listen(self, kind, topic, take, RELIABLE)
        self.create_service(Trigger, "~/reset", self._on_reset)
        steady = Clock(clock_type=ClockType.STEADY_TIME)
        self.create_timer(1.0, self._publish_diagnostics, clock=steady)
        self.create_timer(0.1, self._raise_failure, clock=steady)

    def close(self) -> None:
        """End the robot's life."""
        with self._changed:
            self._closing = True
            self._changed.notify_all()
        self._life.join()

    def _live(self) -> None:
        simulator = WitnessedSimulator()
        try:
            Robot(simulator, self, self.settings).run()
        except SimulatorError as error:
            self._failure = error
        finally:
            simulator.close()

    def _raise_failure(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _on_twist(self, message: TwistStamped) -> None:
        linear = message.twist.linear
        with self._changed:
            self._commands.twist((linear.x, linear.y, linear.z), to_ns(message.header.stamp), self._data_ns())
            self._changed.notify_all()

    def _on_gripper(self, message: JointState) -> None:
        with self._changed:
            self._commands.gripper(message.position, to_ns(message.header.stamp), self._data_ns())
            self._changed.notify_all()

    def _data_ns(self) -> int:
        return self.ros_ns() if self._now_ns is None else self._now_ns

    def _on_reset(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        values = self.parameters
        with self._changed:
            self._reset = Reset(values["seed"], values["command"], values["variant"])
            self._changed.notify_all()
        response.success, response.message = True, f"episode {self._reset.seed}: {self._reset.command}"
        return response

    def _publish_diagnostics(self) -> None:
        with self._changed:
            counts = self._total + self._commands.counts
            values = {"phase": self._phase, "episodes": self._episodes, **counts}
        name = self.get_fully_qualified_name()
        status = DiagnosticStatus(level=DiagnosticStatus.OK, name=f"{name}: sim", message=self._phase, hardware_id=name)
        status.values = [KeyValue(key=key, value=str(value)) for key, value in values.items()]
        array = DiagnosticArray(status=[status])
        array.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(array)

    # The robot's side: see `robot.Wire`.

    def ros_ns(self) -> int:
        return int(self.get_clock().now().nanoseconds)

    def steady_ns(self) -> int:
        return time.monotonic_ns()

    def wait_until(self, steady_ns: int) -> bool:
        with self._changed:
            while not (self._closing or self._reset):
                left_ns = steady_ns - time.monotonic_ns()
                if left_ns <= 0:
                    return True
                self._changed.wait(left_ns / SECOND_NS)
        return False

    def take_reset(self) -> Reset | None:
        with self._changed:
            self._changed.wait_for(lambda: self._closing or self._reset)
            taken, self._reset = self._reset, None
            self._phase = "pausing"
            return None if self._closing else taken

    def begin(self, stamp_ns: int) -> None:
        with self._changed:
            self._total += self._commands.counts
            self._commands.begin(stamp_ns)
            self._phase = "running"

    def end(self, record: Record, final_ns: int) -> None:
        with self._changed:
            self._commands.end()
            self._phase = "over"
            self._episodes += 1
            if self.parameters["repeat"] and self._reset is None:
                self._reset = Reset(record.seed + 1, record.command, record.variant)
        line = record.model_dump_json()
        if self.parameters["journal"]:
            with Path(self.parameters["journal"]).open("a") as journal:
                journal.write(line + "\n")
        if self._clock_out is not None:
            self.clock(final_ns)
        if record.success:
            self._success.publish(Bool(data=True))
        self._record.publish(String(data=line))

    def clock(self, stamp_ns: int) -> None:
        assert self._clock_out is not None
        with self._changed:
            self._now_ns = stamp_ns
        self._clock_out.publish(ClockMessage(clock=to_time(stamp_ns)))

    def send(self, sensed: Sensed) -> None:
        stamp = to_time(sensed.stamp_ns)
        x, y, z, gripper = (float(value) for value in sensed.state)
        pose = PoseStamped()
        pose.header.stamp, pose.header.frame_id = stamp, FRAME_ID
        position = pose.pose.position
        position.x, position.y, position.z = x, y, z
        # The hand always points down, as the simulator holds it: quarter of a turn about y.
        pose.pose.orientation.w = pose.pose.orientation.y = 0.5**0.5
        joints = JointState(name=["gripper"], position=[gripper])
        joints.header.stamp = stamp
        self._pose.publish(pose)
        self._joints.publish(joints)
        if sensed.frame is not None:
            self._image.publish(_image(sensed.frame, stamp))

    def due(self, now_ns: int) -> NDArray[np.float32] | None:
        with self._changed:
            return self._commands.due(now_ns)

    def wait_action(self, stamp_ns: int, timeout_s: float) -> NDArray[np.float32] | None:
        actions: list[NDArray[np.float32]] = []

        def ready() -> bool:
            action = self._commands.at(stamp_ns)
            if action is not None:
                actions.append(action)
            return bool(actions or self._closing or self._reset)

        with self._changed:
            self._changed.wait_for(ready, timeout_s)
        return actions[0] if actions else None

    @property
    def dropped(self) -> dict[str, int]:
        with self._changed:
            return {key: count for key, count in self._commands.counts.items() if not key.endswith(".taken")}


def _image(frame: NDArray[np.uint8], stamp: Any) -> Image:
    height, width, channels = frame.shape
    message = Image(height=height, width=width, encoding="rgb8", step=width * channels)
    message.header.stamp, message.header.frame_id = stamp, scene.CAMERA
    message.data = array.array("B", frame.tobytes())  # the one form that the setter takes without looking at each byte
    return message


def main() -> None:
    """Run the node until it is told to end; exits with the error's code when the robot cannot go on."""
    run(SimNode)


if __name__ == "__main__":
    main()
