"""The command gate: chunks, heartbeats and measured states in, safe commands out. No model runs in this process.

It is the only publisher of commands; edgevlm.gate.gate decides them. Nothing is sent in fallbacks that send nothing;
`gate_status` tells of every command, `command/stop` (latched) of the stop signal. Parameters are in gate_parameters.

Diagnostics, as `<node>: <row>` with these keys, always all of them while the node is active:
    gate       mode cause since number command.{follow,hold,decelerate,stop} clock.restarts
    inputs     {chunk,heartbeat,state}.{health,rate_hz,silent_s,age_ms,count,missing}
    refusals   chunk.<reason> state.<reason> heartbeat.schema command.late chunk.accepted state.accepted
               reasons: schema bundle path, and those of edgevlm.gate.admission.Reason
    fallbacks  <cause>, every one of edgevlm.gate.limits.Cause
    limited    <column>
    period     n target_ms p50_ms p99_ms max_ms
    rivals     count topics
    estop      latched stops, and each topic of `estop_topics`: released, pressed, silent or conflict
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything that takes long to import
    from edgevlm_ros.shutdown import leave_at_once

    leave_at_once()

import gc
import os
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from edgevlm_msgs.msg import ActionChunk as ChunkMessage
from edgevlm_msgs.msg import GateStatus
from edgevlm_msgs.msg import Heartbeat as HeartbeatMessage
from rclpy.duration import Duration
from rclpy.publisher import Publisher
from rclpy.service import Service
from rclpy.subscription import Subscription
from rclpy.timer import Timer
from std_msgs.msg import Bool, String
from std_srvs.srv import Trigger

from edgevlm.bundle import SealedManifest, read_manifest
from edgevlm.errors import ContractError, EdgevlmError
from edgevlm.gate.gate import Gate
from edgevlm.gate.limits import GateLimits
from edgevlm.manifest.schema import PolicyManifest
from edgevlm.rosmsg.topic_map import TopicMap
from edgevlm_ros.active_gate import ActiveGate
from edgevlm_ros.command_messages import Setpoint, setpoints
from edgevlm_ros.estop_inputs import EstopInputs
from edgevlm_ros.gate_parameters import ITEMS, check, contract_items, gate_limits, make_executor
from edgevlm_ros.lifecycle_node import Report, ShellNode, run
from edgevlm_ros.listener import Listener
from edgevlm_ros.messages import STATUS_NUMBERS, status_message
from edgevlm_ros.parameters import Parameters
from edgevlm_ros.qos import LATCHED, RELIABLE, SENSOR, advertise
from edgevlm_ros.serialized_cache import STAMP, SerializedCache
from edgevlm_ros.topics import StateAssembler, live_topics, message_class, state_types, wrong_types

_LOOK_EVERY_S = 0.5
_FROM_POLICY = ("action_chunk", "heartbeat")
_DELIVERY_NS = 100_000_000


class PeriodicThread:
    """One thread from `start` to `stop`. Periods that were missed are left out, not made up for.

    Args:
        call: must not raise.
    """

    def __init__(self, period_s: float, call: Callable[[], None]) -> None:
        self._period_ns, self._call = round(period_s * 1e9), call
        self._running = threading.Lock()  # held from outside: to wait for it costs much less than for an Event
        self._running.acquire()
        self._thread = threading.Thread(target=self._run, name="edgevlm-periodic", daemon=True)

    def start(self) -> None:
        """Begin; the first call comes at once."""
        self._thread.start()

    def stop(self) -> None:
        """End after the call under way."""
        self._running.release()
        self._thread.join()

    def _run(self) -> None:
        next_ns = time.monotonic_ns()
        wait_s = 0.0
        while not self._running.acquire(timeout=wait_s):
            self._call()
            now_ns = time.monotonic_ns()
            next_ns += self._period_ns * max(1, -(-(now_ns - next_ns) // self._period_ns))
            wait_s = max(0, next_ns - now_ns) / 1e9


class CommandGate(ShellNode):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("command_gate")
        self._bundle: SealedManifest | None = None
        self._estops: EstopInputs | None = None
        self._endpoints: list[Publisher | Subscription | Service | Timer] = []  # from configure to cleanup
        self._running: list[Publisher | Subscription | Service | Timer] = []  # from activate to deactivate
        self._work: ActiveGate | None = None
        self._periodic: PeriodicThread | None = None
        self._listener: Listener | None = None
        self.settings = Parameters(self, ITEMS, self._check, lambda: self.active)
        check(self.settings.values(), None)
        self.begin(self.settings)

    def configure(self) -> None:
        """Read the contract; nothing is sent yet."""
        try:
            bundle = read_manifest(self.settings["bundle"])
        except EdgevlmError:
            super().refuse_undeclared()  # it may be the name of this parameter
            raise
        contract = bundle.manifest.require(PolicyManifest).contract
        items = contract_items(contract)
        self.settings.refuse_undeclared([item.name for item in items])
        self.settings.declare(items)
        gate_limits(self.settings.values(), contract)
        live_topics(contract, self.settings["topics"])
        self._bundle = bundle
        # Pressed before activation counts, too.
        self._estops = estops = EstopInputs(self, self.settings["estop_topics"], self.settings["estop_deadline_ms"])
        estops.listen()
        look = self.create_timer(_LOOK_EVERY_S, estops.look, clock=self.steady)
        rearm = self.create_service(Trigger, "~/rearm", self._on_rearm)
        self._stop = advertise(self, Bool, "command/stop", LATCHED)
        self._endpoints = [look, rearm, self._stop]

    def refuse_undeclared(self) -> None:
        """In `configure`, where the contract's names are known."""

    def activate(self) -> None:
        """Check the state's topics, and begin to command."""
        assert self._bundle is not None
        assert self._estops is not None
        contract, settings = self._bundle.manifest.require(PolicyManifest).contract, self.settings
        simulated = self.get_parameter("use_sim_time").value or settings["lock_step"]
        limits = gate_limits(settings.values(), contract, "simulated" if simulated else "system")
        topics = live_topics(contract, settings["topics"])
        types = self._live_types(topics)
        rows = make_executor(settings["executor"], contract.action.execute_steps)
        gate = Gate(contract, limits, rows)
        sent = setpoints(contract, gate.columns, topics, settings["command_topics"], limits.command_period_s)
        self._estops.activate()
        horizon_s = contract.action.steps * contract.action.step_s
        self._work = work = ActiveGate(self, self._bundle.sha256, gate, limits, self._estops, horizon_s)
        work.state = StateAssembler(contract.state, topics) if contract.state else None
        work.wants_chunk = rows.wants_chunk if settings["lock_step"] else None
        self._advertise(work, sent)
        self._listener = listener = Listener(self)
        # Heartbeats first: one that announces an observation is taken before the chunk of it.
        listener.subscribe(HeartbeatMessage, "heartbeat", work.on_heartbeat, RELIABLE)
        # In lock-step each state is a step: none may be lost, and its publisher must be reliable, too.
        quality = RELIABLE if settings["lock_step"] else SENSOR
        for topic, type_name in types.items():
            listener.subscribe(message_class(type_name), topic, work.state_callback(topic), quality)
        listener.subscribe(ChunkMessage, "action_chunk", work.on_chunk, RELIABLE)
        work.watched = {topic: self.resolve_topic_name(topic) for topic in (*work.watched, *types, *_FROM_POLICY)}
        work.watched |= self._estops.watched
        work.report()  # once before commands count on it: the first one imports and is slow
        self._prefer(settings["realtime_priority"])
        # What exists now stays: collections only look at what commands leave behind, and are short.
        gc.collect()
        gc.freeze()
        self._start_timers(work, limits)
        listener.start()

    def deactivate(self) -> None:
        """Bring the robot to rest, and send nothing any more."""
        if self._work is not None:
            self._work.finish(paced=self._periodic is not None)
        if self._listener is not None:
            self._listener.stop()
        if self._periodic is not None:
            self._periodic.stop()
        _deliver([*self._running, *self._endpoints])
        self._destroy(self._running)
        if self._estops is not None:
            self._estops.deactivate()
        self._periodic = self._work = self._listener = None

    def cleanup(self) -> None:
        """Forget the contract."""
        if self._estops is not None:
            self._estops.close()
        self._destroy(self._endpoints)
        self._bundle = self._estops = None

    def report(self) -> list[Report]:
        """See the module."""
        stops = [self._estops.report()] if self._estops else []
        return [*stops, *(self._work.report() if self._work else [])]

    def _check(self, values: Any) -> None:
        check(values, self._bundle.manifest.require(PolicyManifest).contract if self._bundle else None)

    def _live_types(self, topics: TopicMap) -> dict[str, str]:
        """Each state topic with the type it has.

        Raises:
            ContractError: nobody publishes one, or it has the wrong type.
        """
        expected = state_types(topics)
        live = {topic: {info.topic_type for info in self.get_publishers_info_by_topic(topic)} for topic in expected}
        if faults := wrong_types(expected, live):
            raise ContractError("; ".join(faults))
        return {topic: next(iter(types)) for topic, types in live.items()}

    def _advertise(self, work: ActiveGate, sent: tuple[Setpoint, ...]) -> None:
        for setpoint in sent:
            publisher = advertise(self, setpoint.message_type, setpoint.topic, RELIABLE)
            work.senders.append((setpoint, SerializedCache(publisher, STAMP, setpoint.message)))
            self._running.append(publisher)
        status = advertise(self, GateStatus, "gate_status", RELIABLE)
        work.status = SerializedCache(
            status, STATUS_NUMBERS, lambda command: status_message(command, work.gate.columns)
        )
        gate_limits = advertise(self, String, "gate_limits", LATCHED)
        gate_limits.publish(String(data=work.pace.gate.text()))
        self._running += [status, gate_limits]
        work.stop = self._stop
        work.watched = {setpoint.topic: "" for setpoint in sent} | {"command/stop": ""}

    def _prefer(self, priority: int) -> None:
        """Run this thread, and the periodic one that inherits it, before others that are busy: they share one lock."""
        policy = os.SCHED_FIFO if priority else os.SCHED_OTHER
        try:
            os.sched_setscheduler(0, policy, os.sched_param(priority))
        except PermissionError:
            self.get_logger().info(
                f"realtime_priority {priority}: not permitted, commands may be uneven beside busy processes; "
                "give the user an rtprio limit of as much, or set it to 0"
            )

    def _start_timers(self, work: ActiveGate, limits: GateLimits) -> None:
        self._running.append(self.create_timer(_LOOK_EVERY_S, work.look_around, clock=self.steady))
        if work.wants_chunk is not None:
            return
        if self.get_parameter("use_sim_time").value:
            self._running.append(self.create_timer(limits.command_period_s, work.on_timer))
            # A timer of /clock does not fire when /clock stops: this one does.
            self._running.append(self.create_timer(limits.command_period_s, work.watch_clock, clock=self.steady))
            return
        self._periodic = PeriodicThread(limits.command_period_s, work.on_timer)
        self._periodic.start()

    def _destroy(self, endpoints: list[Publisher | Subscription | Service | Timer]) -> None:
        for endpoint in endpoints:
            if isinstance(endpoint, Timer):
                self.destroy_timer(endpoint)
            elif isinstance(endpoint, Subscription):
                self.destroy_subscription(endpoint)
            elif isinstance(endpoint, Service):
                self.destroy_service(endpoint)
            else:
                self.destroy_publisher(endpoint)
        endpoints.clear()

    def _on_rearm(self, request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        response.message = "the gate is not active" if self._work is None else self._work.rearm()
        response.success = not response.message
        return response


def _deliver(endpoints: Sequence[object]) -> None:
    """Wait until what was sent has arrived: a publisher takes what is under way with it."""
    for endpoint in endpoints:
        if isinstance(endpoint, Publisher):
            endpoint.wait_for_all_acked(Duration(nanoseconds=_DELIVERY_NS))


def main() -> None:
    """Run the node."""
    run(CommandGate)


if __name__ == "__main__":
    main()
