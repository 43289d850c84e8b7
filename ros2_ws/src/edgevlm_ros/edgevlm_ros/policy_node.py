"""A policy as a node: camera frames, state and instructions in, action chunks and plans out; never a robot command.

The callbacks of one thread convert messages and put what belongs together into a mailbox, from which a worker thread
feeds the model. Instructions: a goal of `execute_instruction` comes before `set_instruction` and the topic
`instruction`, of which the latest wins; a newer goal preempts an older one; after a goal nothing is in force.

Diagnostics, one row each:
    inference: rate_hz, step_ms_p50, _p95, _p99, _max, latency_ms, acted, failed, failures_in_row, idle, last_error
    camera <name>: received, taken, late, old, future, refused_damaged, _encoding, _size, _frame_id, unmatched,
        encoding_changes, missing_frames, skew_ms, health, went_missing, rate_hz, age_ms, lag_ms, silent_s,
        last_refusal, publishers
    state_input: received, taken, late, old, future, refused_not_finite, refused_fields, health, went_missing, rate_hz,
        age_ms, lag_ms, silent_s, last_refusal, publishers
    matching: matched, skipped, clock_restarts, observations, observations_dropped
    instruction: text, source, topic_taken, topic_refused, topic_ignored, service_*, goal_taken, goal_refused,
        goal_preempted, last_refusal, incompatible_qos
    worker: alive, silent_s
    pace: step_ms_p99, steps, interval_ms, horizon_ms, gate_deadline_ms, gate_chunk_deadline
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything that takes long to import
    from edgevlm_ros.shutdown import leave_at_once

    leave_at_once()

import threading
import time
from collections.abc import Callable
from functools import partial
from typing import Any

from rclpy.subscription import Subscription
from std_msgs.msg import String

from edgevlm.errors import ContractError
from edgevlm.load import load_policy
from edgevlm.loop.mailbox import Mailbox
from edgevlm.loop.matching import Matched, merge
from edgevlm.loop.worker import Clocks, Hooks, Worker
from edgevlm.manifest.contract import SECOND_NS, Contract
from edgevlm.options import RuntimeOptions
from edgevlm.rosmsg.contract_check import Limits, check_contract
from edgevlm.rosmsg.topic_facts import Facts
from edgevlm.rosmsg.topic_map import TopicMap
from edgevlm.rosmsg.type_names import CAMERA_TYPES
from edgevlm.tasks.policy import Policy
from edgevlm_ros.graph_discovery import Probe, mismatch
from edgevlm_ros.input_pipeline import InputPipeline
from edgevlm_ros.instruction_server import InstructionServer, Rules
from edgevlm_ros.lifecycle_node import STEP_END_S, Report, ShellNode, run
from edgevlm_ros.listener import Listener
from edgevlm_ros.outputs import ActivePolicy, Newest, Outputs
from edgevlm_ros.parameters import Parameters
from edgevlm_ros.policy_parameters import ITEMS, check, match_spec, runtime_options
from edgevlm_ros.policy_speed import PolicySpeed, read_gate
from edgevlm_ros.qos import LATCHED, SENSOR, listen
from edgevlm_ros.topics import live_topics, message_class, state_types

OpenPolicy = Callable[[str, RuntimeOptions], Policy]
_LOOK_S = 0.05


def check_live(
    contract: Contract, topics: TopicMap, facts: Facts, limits: Limits, warn: Callable[[str], None] = lambda _: None
) -> None:
    """Refuse to activate on topics that do not fit; what only costs single frames goes to `warn`.

    Raises:
        ContractError: every fault, a line each.
    """
    findings = check_contract(contract, topics, facts, limits)
    for warning in findings.warnings:
        warn(warning)
    if findings.faults:
        listed = "".join(f"\n  - {fault.text}" for fault in findings.faults)
        raise ContractError(f"{len(findings.faults)} fault(s) between the contract and the live topics:{listed}")


class Inputs:
    """Cameras and state into `InputPipeline`, of one activation: `camera` and `state`, then `start`, then `stop`.

    Attributes:
        lock: whoever touches `senses` from another thread holds it.
    """

    def __init__(self, owner: ShellNode, senses: InputPipeline) -> None:
        self.senses = senses
        self.lock = threading.Lock()
        self._listener = Listener(owner, lambda: self._do(senses.wake), lambda: senses.wake_steady_ns)

    def camera(self, name: str, kind: Any, topic: str, type_name: str) -> Subscription:
        """Frames, as bytes: they are decoded without message objects."""

        def take(data: bytes) -> None:
            self._do(lambda: self.senses.camera(name, type_name, data))

        return self._listener.subscribe(kind, topic, take, SENSOR, raw=True)

    def state(self, kind: Any, topic: str) -> Subscription:
        """Messages with fields of the state."""
        return self._listener.subscribe(
            kind, topic, lambda message: self._do(lambda: self.senses.state(topic, message)), SENSOR
        )

    def start(self) -> None:
        """Begin to take messages."""
        self._listener.start()

    def stop(self) -> None:
        """Take none any more; the message under way is finished."""
        self._listener.stop()

    def _do(self, work: Callable[[], None]) -> None:
        with self.lock:
            work()


class PolicyNode(ShellNode):
    """The shell around senses, worker and instructions."""

    def __init__(self, open_policy: OpenPolicy = load_policy) -> None:
        super().__init__("policy_node")
        self._open = open_policy
        self._settings = Parameters(self, ITEMS, check=check, frozen=lambda: self.active)
        self._outputs = Outputs(self)
        self._server = InstructionServer(self, self._outputs.instruction, self._newest)
        self._policy: Policy | None = None
        self._run: ActivePolicy | None = None
        self._inputs: Inputs | None = None
        self._worker: Worker | None = None
        self._stuck = False
        self._topics: TopicMap | None = None
        self._rate_from = (self.steady_ns(), 0)
        self._speed = PolicySpeed()
        listen(self, String, "gate_limits", self._on_gate, LATCHED)
        self.create_timer(self._settings["poll_s"], self._beat, clock=self.steady)
        self.begin(self._settings)

    def configure(self) -> None:
        values = self._settings.values()
        if not values["bundle"]:
            raise ContractError("bundle: expected the directory of a policy's bundle, got none; set the parameter")
        self._policy = loaded = self._open(values["bundle"], runtime_options(values))
        loaded.warm_up()
        self._speed.measured(loaded.step_times_ns(), loaded.contract.action)
        self._outputs.contract(loaded.contract, loaded.bundle.sha256)

    def activate(self) -> None:
        policy, values = self._loaded(), self._settings.values()
        if self._stuck:
            raise ContractError("the model has not ended a step of the activation before; restart the process")
        self._check_pace()
        contract = policy.contract
        spec = match_spec(values, contract)
        published = [] if values["topics"] else self._published_cameras(contract, values["check_s"] / 2)
        self._topics = topics = live_topics(contract, values["topics"], published)
        live = Probe(self, contract, topics).look(values["check_s"])
        mailbox: Mailbox[Matched] = Mailbox(merge)
        clocks = Clocks(self.now_ns, self.steady_ns)
        senses = InputPipeline(contract, topics, spec, mailbox, clocks, values["silence_s"])
        self._inputs = inputs = Inputs(self, senses)
        senses.warn = lambda text: self.get_logger().warning(text, throttle_duration_sec=1.0)
        senses.restarted = lambda: self._later(partial(self._server.abort, "the clock began anew"))
        self._subscribe(inputs, contract, topics, live)
        if values["check_contract"]:
            limits = Limits(values["rate_tolerance"], spec.max_age_s, spec.future_s)
            check_live(contract, topics, live, limits, self.get_logger().warning)
        self._speed.observed([live.topics[topics.cameras[camera.name]].rate_hz for camera in contract.cameras])
        self._start(policy, mailbox, clocks)
        rules = Rules(
            topics.instruction, values["success_topic"], values["goal_timeout_s"], values["failures_to_abort"]
        )
        self._server.start(policy.check_instruction, rules)
        self.get_logger().info(self._server.waits)
        self._tell_pace()

    def deactivate(self) -> None:
        self._server.stop("the node was deactivated")
        if self._inputs is not None:
            self._inputs.stop()
        if self._run is not None:
            self._run.closed = True
        if self._worker is not None and not self._worker.stop(STEP_END_S):
            self._stuck = True
            self.get_logger().error(f"the model has not ended its step within {STEP_END_S:g} s; restart the process")
        self._worker = self._inputs = self._run = None

    def cleanup(self) -> None:
        if self._policy is not None and not self._stuck:  # an engine must not be closed while it runs
            self._policy.close()
        self._policy = None

    def report(self) -> list[Report]:
        inputs, worker = self._inputs, self._worker
        if inputs is None or worker is None:
            return [self._server.report()]
        with inputs.lock:
            sensed = inputs.senses.report()
        rows = []
        for section, level, message, figures in sensed:
            counted = self._publisher_count(section)
            if counted is not None and counted > 1:
                level, message = "error", f"{counted} publishers on its topic, expected one; stop or remap the others"
            rows.append((section, level, message, figures if counted is None else {**figures, "publishers": counted}))
        return [self._inference(worker), *rows, self._server.report(), self._life(worker), self._tell_pace()]

    def _loaded(self) -> Policy:
        if self._policy is None:
            raise ContractError("no bundle is loaded; configure the node first")
        return self._policy

    def _check_pace(self) -> None:
        """Refuse a model that is never in time; simulated time may wait for it, so there it is a warning."""
        try:
            self._speed.check()
        except ContractError as error:
            if not self.get_parameter("use_sim_time").value:
                raise
            self.get_logger().warning(f"simulated time must run slower than this model: {error}")

    def _newest(self) -> Newest:
        return self._run.newest if self._run is not None else Newest()

    def _published_cameras(self, contract: Contract, for_s: float) -> list[str]:
        """Which of the cameras' topics by convention are live, after namespaces and remaps; waits for one of each."""
        ends, until_ns = ("", "/compressed"), self.steady_ns() + round(for_s * SECOND_NS)
        while True:
            names = [[f"{camera.name}/image_raw{end}" for end in ends] for camera in contract.cameras]
            published = [[f"/{name}" for name in pair if self.count_publishers(name)] for pair in names]
            if all(published) or self.steady_ns() >= until_ns or self.ending.asked:
                return [name for pair in published for name in pair]
            time.sleep(_LOOK_S)  # discovery goes on in a thread of its own

    def _subscribe(self, inputs: Inputs, contract: Contract, topics: TopicMap, live: Facts) -> None:
        """To every topic whose type is known."""
        cameras = {topics.cameras[camera.name]: camera.name for camera in contract.cameras}
        states = state_types(topics)
        for topic in (*cameras, *states):
            facts = live.topics[topic]
            allowed = CAMERA_TYPES if topic in cameras else (states[topic],) if states[topic] else ()
            if len(facts.types) != 1 or (allowed and facts.types[0] not in allowed):
                if not self._settings["check_contract"]:
                    raise ContractError(
                        f"topic {facts.name}: expected one publisher to learn its type from, got {facts.types}"
                    )
                continue  # the check tells
            kind = message_class(facts.types[0])
            if topic in cameras:
                subscription = inputs.camera(cameras[topic], kind, topic, facts.types[0])
            else:
                subscription = inputs.state(kind, topic)
            facts.qos = mismatch(self, facts.name, subscription.qos_profile)

    def _start(self, policy: Policy, mailbox: Mailbox[Matched], clocks: Clocks) -> None:
        self._run = now = ActivePolicy(self._outputs, policy.contract, policy.bundle.sha256, clocks)
        instruction = self._server.instruction
        hooks = Hooks(publish=now.publish, beat=now.beat, instruction=instruction)
        worker = Worker(policy.session(), mailbox, hooks, clocks, poll_s=self._settings["poll_s"])
        assert self._inputs is not None
        inputs, senses = self._inputs, self._inputs.senses
        now.counts = lambda: {
            "frames_received": senses.frames_received,
            "frames_dropped": senses.frames_dropped,
            "observations_dropped": mailbox.drops,
            "acted": worker.counts["acted"],
            "failed": worker.counts["act_failed"],
        }
        self._worker = worker
        self._rate_from = (self.steady_ns(), 0)
        worker.start()
        inputs.start()

    def _on_gate(self, message: String) -> None:
        try:
            self._speed.gate = read_gate(message.data)
        except ContractError as error:
            self.get_logger().warning(str(error))
        if self.active:
            self._tell_pace()

    def _tell_pace(self) -> Report:
        """Whether the policy is fast enough for its gate; in the log whenever that changes."""
        if self._worker is not None:
            self._speed.lately(self._worker.latency)
        row, news = self._speed.report()
        if news:
            (self.get_logger().error if row[1] == "error" else self.get_logger().warning)(news)
        return row

    def _beat(self) -> None:
        """A sign of life while a step is under way, for as long as steps take; the worker gives those between steps."""
        worker, run = self._worker, self._run
        since_ns = worker.busy_since_ns if worker is not None else None
        if run is not None and since_ns is not None and self.steady_ns() - since_ns < self._speed.allowed_ns:
            run.beat(None)

    def _later(self, work: Callable[[], None]) -> None:
        """Do something in the thread that runs this node's callbacks."""
        if self.executor is not None:
            self.executor.create_task(work)

    def _inference(self, worker: Worker) -> Report:
        newest, counts, latency = self._newest(), worker.counts, worker.latency
        (from_ns, before), now_ns = self._rate_from, self.steady_ns()
        self._rate_from = (now_ns, counts["acted"])
        figures: dict[str, object] = {
            "rate_hz": (counts["acted"] - before) * 1e9 / max(1, now_ns - from_ns),
            **{f"step_ms_{key}": latency[key] for key in ("p50", "p95", "p99", "max")},
            "latency_ms": newest.latency_ms,
            "acted": counts["acted"],
            "failed": counts["act_failed"],
            "failures_in_row": newest.failures,
            "idle": counts["idle"],
            "last_error": self._run.last_error if self._run is not None else "",
        }
        waits = "" if self._server.instruction() is not None else self._server.waits
        return "inference", "error" if newest.error else "ok", newest.error or waits or "ok", figures

    def _life(self, worker: Worker) -> Report:
        silent_s = (self.steady_ns() - self._run.beat_steady_ns) / 1e9 if self._run is not None else 0.0
        bad = not worker.alive or silent_s > self._settings["silence_s"] + self._settings["poll_s"]
        message = f"no sign of life for {silent_s:.1f} s" if bad else "ok"
        return "worker", "error" if bad else "ok", message, {"alive": worker.alive, "silent_s": silent_s}

    def _publisher_count(self, section: str) -> int | None:
        """The most publishers that any topic of a section has."""
        assert self._topics is not None
        if section == "state_input":
            topics = list(state_types(self._topics))
        elif section.startswith("camera "):
            topics = [self._topics.cameras[section.removeprefix("camera ")]]
        else:
            return None
        return max(int(self.count_publishers(topic)) for topic in topics)


def main() -> None:
    """Run the node."""
    run(PolicyNode)


if __name__ == "__main__":
    main()
