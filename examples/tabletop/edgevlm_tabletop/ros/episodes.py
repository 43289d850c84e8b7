"""The director: says what to do, resets the simulated robot, waits for the end, and collects what came of it.

The robot, the policy and the gate run in processes of their own; see demo.py and gate.py.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any

import rclpy
from edgevlm_msgs.action import ExecuteInstruction
from edgevlm_msgs.msg import GateStatus, InferenceStats
from lifecycle_msgs.srv import GetState
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue
from rcl_interfaces.srv import SetParameters
from rclpy.action import ActionClient
from rclpy.executors import SingleThreadedExecutor
from rclpy.qos import QoSProfile
from std_msgs.msg import String
from std_srvs.srv import Trigger
from typing_extensions import Self

from edgevlm.errors import SimulatorError
from edgevlm.manifest.contract import SECOND_NS
from edgevlm.sim.episode import EpisodeSpec
from edgevlm_ros.processes import Processes
from edgevlm_ros.qos import LATCHED
from edgevlm_ros.stamps import to_duration, to_ns
from edgevlm_tabletop.commands import BY_NAME, phrase_for
from edgevlm_tabletop.ros.journal import Record
from edgevlm_tabletop.ros.metrics import Followed, Inferred, Metrics

SIM, POLICY, GATE = "tabletop_sim", "policy_node", "command_gate"
CONFIG = Path(__file__).parents[2] / "ros"
_REPLY_S = 20.0
_GOAL_S = 3600.0  # no episode lasts that long: the simulator's step limit ends it
_SILENT_S = 60.0
_OUTCOMES = {
    getattr(ExecuteInstruction.Result, name): name.lower()
    for name in ("SUCCEEDED", "TIMED_OUT", "CANCELED", "PREEMPTED", "ABORTED")
}


@dataclass(frozen=True)
class Episode:
    """What the simulator said of an episode, and how the policy's goal ended."""

    record: Record
    outcome: str
    reason: str


@dataclass
class _Heard:
    """What was said since the last episode began."""

    record: Record | None = None
    followed: list[Followed] = field(default_factory=list)
    inferred: list[Inferred] = field(default_factory=list)


def start(processes: Processes, bundle: Path, config: Path, changes: Mapping[str, Mapping[str, Any]]) -> None:
    """Start the robot, the policy and the gate.

    Args:
        config: parameters of all three.
        changes: more of them, by node, that win over the file's.
    """
    shared = {"bundle": str(bundle), "topics": str(CONFIG / "topics.yaml")}
    for name, module, own in (
        (SIM, "edgevlm_tabletop.ros.sim_node", {}),
        (POLICY, "edgevlm_ros.policy_node", shared),
        (GATE, "edgevlm_ros.command_gate", shared),
    ):
        processes.start(name, module, parameters={**own, **changes.get(name, {})}, files=[config])


class Director:
    """A node that runs episodes one after the other. A context manager; one thread.

    Args:
        check: raises when something is wrong with the processes; called all the time while waiting.
        domain: ROS_DOMAIN_ID.
    """

    def __init__(self, check: Callable[[], None], domain: int) -> None:
        self._check = check
        self._context = rclpy.Context()
        rclpy.init(context=self._context, domain_id=domain)
        self._node = node = rclpy.create_node("director", context=self._context)
        self._executor = SingleThreadedExecutor(context=self._context)
        self._executor.add_node(node)
        self._goals = ActionClient(node, ExecuteInstruction, "execute_instruction")
        self._reset = node.create_client(Trigger, f"{SIM}/reset")
        self._set = node.create_client(SetParameters, f"{SIM}/set_parameters")
        self._states = {name: node.create_client(GetState, f"{name}/get_state") for name in (POLICY, GATE)}
        deep = QoSProfile(depth=1000)
        node.create_subscription(String, f"{SIM}/record", self._on_record, LATCHED)
        node.create_subscription(GateStatus, "gate_status", self._on_status, deep)
        node.create_subscription(InferenceStats, "inference_stats", self._on_stats, deep)
        self._heard = _Heard()
        self.metrics = Metrics()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._executor.remove_node(self._node)
        self._goals.destroy()
        self._node.destroy_node()
        rclpy.try_shutdown(context=self._context)

    def wait_ready(self, timeout_s: float) -> None:
        """Until policy and gate are active, and the simulator serves.

        Raises:
            SimulatorError: they are not in time; the message says in which state they are.
        """
        end = time.monotonic() + timeout_s
        labels = dict.fromkeys(self._states, "not there")
        while set(labels.values()) != {"active"} or not (
            self._set.service_is_ready() and self._reset.service_is_ready()
        ):
            if time.monotonic() > end:
                raise SimulatorError(
                    f"expected {', '.join(labels)} to be active and {SIM} to serve within {timeout_s} s, "
                    f"got {labels}; see their logs"
                )
            for name, client in self._states.items():
                if client.service_is_ready():
                    labels[name] = self._call(client, GetState.Request(), name).current_state.label
            self._spin(0.2)

    def run(self, spec: EpisodeSpec) -> Episode:
        """One episode: goal, reset, end.

        Raises:
            SimulatorError: a goal or a reset is refused, or nothing comes any more.
        """
        self._configure(seed=spec.seed, command=spec.command, variant=spec.variant)
        goal = ExecuteInstruction.Goal(
            instruction=phrase_for(BY_NAME[spec.command], spec.seed), timeout=to_duration(round(_GOAL_S * SECOND_NS))
        )
        handle = self._wait(self._goals.send_goal_async(goal), "the policy takes the goal")
        if not handle.accepted:
            raise SimulatorError(f"episode {spec.seed}: the policy refused {goal.instruction!r}; see its log")
        result = handle.get_result_async()
        self._heard = _Heard()
        self._call(self._reset, Trigger.Request(), "reset")
        self._until(lambda: self._heard.record is not None, _SILENT_S, f"the end of episode {spec.seed}")
        record = self._heard.record
        assert record is not None
        if (record.seed, record.command, record.variant) != (spec.seed, spec.command, spec.variant):
            raise SimulatorError(f"expected the record of {spec}, got {record}")
        if not record.success:
            self._wait(handle.cancel_goal_async(), "the policy cancels the goal")
        ended = self._wait(result, "the goal ends").result
        self._spin(0.05)  # what is still under way belongs to this episode
        self.metrics.add(record.frame_stamps_ns, self._heard.followed, self._heard.inferred)
        return Episode(record, _OUTCOMES[ended.outcome], ended.reason)

    def run_all(self, specs: Iterable[EpisodeSpec], progress: Callable[[Episode], None]) -> list[Episode]:
        """All episodes in turn, each told to `progress`."""
        episodes = []
        for spec in specs:
            episodes.append(self.run(spec))
            progress(episodes[-1])
        return episodes

    def _configure(self, *, seed: int, command: str, variant: str) -> None:
        parameters = [
            Parameter(name="seed", value=ParameterValue(type=ParameterType.PARAMETER_INTEGER, integer_value=seed)),
            *(
                Parameter(name=name, value=ParameterValue(type=ParameterType.PARAMETER_STRING, string_value=text))
                for name, text in (("command", command), ("variant", variant))
            ),
        ]
        reply = self._call(self._set, SetParameters.Request(parameters=parameters), "set_parameters")
        if refused := [result.reason for result in reply.results if not result.successful]:
            raise SimulatorError(f"{SIM} refuses parameters: {'; '.join(refused)}")

    def _call(self, client: Any, request: Any, what: str) -> Any:
        return self._wait(client.call_async(request), f"an answer of {what}")

    def _wait(self, future: Any, what: str) -> Any:
        self._until(future.done, _REPLY_S, what)
        return future.result()

    def _until(self, done: Callable[[], bool], timeout_s: float, what: str) -> None:
        end = time.monotonic() + timeout_s
        while not done():
            self._check()
            if time.monotonic() > end:
                raise SimulatorError(f"{what}: nothing came within {timeout_s} s; see the logs of the nodes")
            self._executor.spin_once(timeout_sec=0.2)

    def _spin(self, duration_s: float) -> None:
        end = time.monotonic() + duration_s
        while (left_s := end - time.monotonic()) > 0:
            self._check()
            self._executor.spin_once(timeout_sec=left_s)

    def _on_record(self, message: String) -> None:
        self._heard.record = Record.model_validate_json(message.data)

    def _on_status(self, message: GateStatus) -> None:
        if message.mode == GateStatus.FOLLOW:
            self._heard.followed.append(Followed(to_ns(message.header.stamp), to_ns(message.observed)))

    def _on_stats(self, message: InferenceStats) -> None:
        if not message.error:
            self._heard.inferred.append(
                Inferred(to_ns(message.header.stamp), message.latency_ms, message.step_ms, message.frames_received)
            )
