"""The processes of one graph, and the hands that break them: simulator, relay, policy, gate and observer."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from edgevlm_msgs.msg import ActionChunk, GateStatus
from rcl_interfaces.srv import SetParameters
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from edgevlm_ros.processes import Processes, environment
from edgevlm_ros.qos import LATCHED, RELIABLE

HERE = Path(__file__).parent
TOPICS = HERE.parents[2] / "examples" / "tabletop" / "ros" / "topics.yaml"
INSTRUCTION = "lift the blue puck"
JUDGED = "close the drawer"  # what nobody asks for: episodes last as long as they can
AXES = {"dx": ("hand_x", [-0.45, 0.45]), "dy": ("hand_y", [0.38, 0.95]), "dz": ("hand_z", [0.04, 0.5])}
VELOCITY, ACCELERATION, VALID_S = 0.32, 8.0, 0.1
_ANSWER_S = 2.0
NO_VALIDITY_S = 10.0  # the most that the simulated robot takes; longer than any row
GATE: dict[str, Any] = {
    "autostart": True,
    "autostart_period_s": 0.1,
    "command_period_s": 0.025,
    "command_valid_s": VALID_S,
    "deadline_ms": 300.0,
    "state_max_age_s": 0.2,
    "recover_after_s": 0.2,
    **{f"axes.{name}.state": state for name, (state, _) in AXES.items()},
    **{f"axes.{name}.position": reach for name, (_, reach) in AXES.items()},
    **{f"axes.{name}.velocity": VELOCITY for name in AXES},
    **{f"axes.{name}.acceleration": ACCELERATION for name in AXES},
}
RAW = {topic: f"raw/{topic}" for topic in ("front/image_raw", "hand_pose", "joint_states")}


class Rig:
    """A running graph. A context manager.

    Args:
        enabled: whether the gate's limits are on, and a relay stands before controllers that need one.
        simulated: whether time is the simulator's own.

    Attributes:
        record: what the observer writes.
    """

    def __init__(self, work: Path, bundle: Path, domain: int, *, enabled: bool, simulated: bool) -> None:
        self.domain, self._bundle, self.enabled, self._simulated = domain, bundle, enabled, simulated
        self.record, self._mode = work / "record.jsonl", work / "mode.json"
        work.mkdir(parents=True, exist_ok=True)
        paths = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
        more = {"PYTHONPATH": paths, "MUJOCO_GL": os.environ.get("MUJOCO_GL", "osmesa"), "LP_NUM_THREADS": "1"}
        self.processes = Processes(work, {**environment(domain), **more})
        self.chunk_s = self.status_s = 0.0
        self.status: GateStatus | None = None
        self.sha256, self.session = "", 0
        self.context = rclpy.Context()
        rclpy.init(context=self.context, domain_id=domain)
        self.node = rclpy.create_node("driver", context=self.context)
        self.node.create_subscription(ActionChunk, "action_chunk", self._on_chunk, RELIABLE)
        self.node.create_subscription(GateStatus, "gate_status", self._on_status, RELIABLE)
        self._fault = self.node.create_publisher(String, "chaos/fault", LATCHED)
        self.instruction = self.node.create_publisher(String, "instruction", LATCHED)
        self._button = self.node.create_publisher(Bool, "estop", LATCHED)
        self._rearmed = self.node.create_publisher(Bool, "chaos/rearm", RELIABLE)
        self._rearm = self.node.create_client(Trigger, "command_gate/rearm")
        self._reset = self.node.create_client(Trigger, "tabletop_sim/reset")
        self._set = self.node.create_client(SetParameters, "tabletop_sim/set_parameters")
        self._executor = SingleThreadedExecutor(context=self.context)
        self._executor.add_node(self.node)
        self._thread = threading.Thread(target=self._spin, daemon=True)
        self._thread.start()

    def start(self) -> None:
        """Start everything, and wait until chunks come."""
        self.model("ok")
        self.fault()
        self.press(False)
        self.instruction.publish(String(data=INSTRUCTION))
        self.processes.start("observer", "ros.chaos.observer", arguments=[str(self.record)])
        self.processes.start("relay", "ros.chaos.relay")
        self.start_sim()
        self.start_gate()
        self.start_policy()
        self.wait(self.well, 60)

    def start_sim(self, valid_s: float = VALID_S, **remaps: str) -> None:
        """The simulated robot, which begins episodes anew as soon as one is over."""
        parameters = {"pause_s": 0.0, "repeat": True, "command": JUDGED, "command_valid_s": valid_s}
        if self._simulated:
            parameters |= {"mode": "scaled", "gap_s": 0.025, "start_s": 0.1}
        self.processes.start("sim", "edgevlm_tabletop.ros.sim_node", parameters=parameters, remaps={**RAW, **remaps})

    def start_controllers(self) -> None:
        """The robot behind controllers that never drop a command; the relay before them, unless all guards are off."""
        to = {f"command/{kind}": f"controller/{kind}" for kind in ("twist", "gripper")} if self.enabled else {}
        self.start_sim(NO_VALIDITY_S, **to)
        if self.enabled:
            own = {"command_valid_s": VALID_S, "twist.to": "controller/twist", "gripper.to": "controller/gripper"}
            self.processes.start("command_relay", "edgevlm_ros.command_relay", parameters={**own, **self._clock})

    def start_gate(self, **more: Any) -> None:
        """The command gate, or the one without limits."""
        own = {"bundle": str(self._bundle), "topics": str(TOPICS), **self._clock}
        program = "edgevlm_ros.command_gate" if self.enabled else HERE.parent / "unlimited_gate.py"
        self.processes.start("gate", program, parameters={**GATE, **own, **more})

    def start_policy(self, slower_s: float = 0.0, **more: Any) -> None:
        """The policy, with a model that can be told to fail; each of its steps takes `slower_s` more."""
        own = {"bundle": str(self._bundle), "topics": str(TOPICS), "autostart": True, "autostart_period_s": 0.1}
        parameters = {**own, "check_s": 1.0, **self._clock, **more}
        arguments = [str(self._mode), str(slower_s)]
        self.processes.start("policy", "ros.chaos.faulty_policy", parameters=parameters, arguments=arguments)

    @property
    def _clock(self) -> dict[str, Any]:
        return {"use_sim_time": True} if self._simulated else {}

    def well(self) -> bool:
        """Chunks come, and the gate sends what they say."""
        follows = self.status is not None and self.status.mode == "follow" and not self.status.limited
        return follows and self.chunks_come() and time.monotonic() - self.status_s < 0.1

    def chunks_come(self) -> bool:
        """Whether the policy works."""
        return time.monotonic() - self.chunk_s < 0.2

    def moves(self) -> bool:
        """Whether the gate's last command moves the hand along."""
        return self.status is not None and any(abs(value) > VELOCITY / 4 for value in self.status.values[: len(AXES)])

    def wait(self, true: Callable[[], bool], timeout_s: float) -> None:
        """Raises RuntimeError when it does not become true, or a process ends."""
        end = time.monotonic() + timeout_s
        while not true():
            self.processes.check()
            if time.monotonic() > end:
                logs = "\n".join(f"{name}: {self.processes.log(name)[-800:]}" for name in ("policy", "gate", "sim"))
                raise RuntimeError(f"waited {timeout_s:g} s in vain: {true}\n{logs}")
            time.sleep(0.005)

    def episode(self, seed: int) -> None:
        """Begin an episode, and wait until the robot is on its way."""
        self.wait(self._reset.service_is_ready, 20)
        parameters = [Parameter("seed", value=seed).to_parameter_msg()]
        for client, request in (
            (self._set, SetParameters.Request(parameters=parameters)),
            (self._reset, Trigger.Request()),
        ):
            self._ask(client, request)
        time.sleep(0.3)
        self.wait(self.well, 20)
        time.sleep(0.2)

    def _ask(self, client: Any, request: Any) -> None:
        """Until there is an answer: a server that was killed stays in the graph for a while, and gives none."""
        asked: list[tuple[float, Any]] = []

        def answered() -> bool:
            if client.service_is_ready() and (not asked or time.monotonic() - asked[-1][0] > _ANSWER_S):
                asked.append((time.monotonic(), client.call_async(request)))
            return any(future.done() for _, future in asked)

        self.wait(answered, 20)

    def fault(self, **what: Any) -> None:
        """What the relay does wrong from now on; nothing without arguments."""
        self._fault.publish(String(data=json.dumps(what)))

    def model(self, mode: str) -> None:
        """How the model behaves from now on."""
        self._mode.with_suffix(".new").write_text(json.dumps({"mode": mode}))
        self._mode.with_suffix(".new").replace(self._mode)

    def press(self, pressed: bool) -> None:
        """The robot's emergency stop."""
        self._button.publish(Bool(data=pressed))

    def release_and_rearm(self) -> None:
        """Release the emergency stop; a while later, re-arm."""
        self.press(False)
        time.sleep(0.5)
        self._rearmed.publish(Bool(data=True))  # for the judge, before anything can move
        time.sleep(0.2)
        if fault := self.rearm():
            raise RuntimeError(f"the gate does not re-arm: {fault}")

    def rearm(self) -> str:
        """Why the gate does not; empty when it does."""
        self.wait(self._rearm.service_is_ready, 20)
        future = self._rearm.call_async(Trigger.Request())
        self.wait(future.done, 10)
        return "" if future.result().success else str(future.result().message)

    def kill(self, name: str) -> None:
        """kill -9."""
        self.processes.kill(name, signal.SIGKILL)

    def freeze(self, name: str) -> None:
        """SIGSTOP: it is there, and does nothing."""
        self.processes[name].send_signal(signal.SIGSTOP)

    def thaw(self, name: str) -> None:
        """SIGCONT."""
        self.processes[name].send_signal(signal.SIGCONT)

    def _on_chunk(self, message: ActionChunk) -> None:
        self.chunk_s, self.sha256, self.session = time.monotonic(), message.bundle_sha256, message.session

    def _on_status(self, message: GateStatus) -> None:
        self.status, self.status_s = message, time.monotonic()

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.processes.close()
        self._executor.shutdown()
        self._thread.join()
        self.node.destroy_node()  # a shut-down context alone leaves its publishers in the graph
        rclpy.shutdown(context=self.context)


def read_record(path: Path) -> list[Mapping[str, Any]]:
    """The observer's lines; the last one may be incomplete."""
    lines = []
    for text in path.read_text().splitlines():
        try:
            lines.append(json.loads(text))
        except ValueError:
            break
    return lines
