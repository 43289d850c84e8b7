"""What policy_node publishes: chunks, plans, statistics and heartbeats, from the worker's thread.

Publishing from a thread other than the executor's is safe in rclpy: a publisher's handle is guarded by itself.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from edgevlm_msgs.msg import ActionChunk, Heartbeat, InferenceStats, Plan
from nav_msgs.msg import Path
from rclpy.node import Node
from std_msgs.msg import String

from edgevlm.loop.published import newest_frame_ns
from edgevlm.loop.worker import Acted, Clocks, Failed, Outcome
from edgevlm.manifest.contract import Contract
from edgevlm.manifest.contract import Plan as PlanValue
from edgevlm_ros.messages import (
    chunk_message,
    heartbeat_message,
    path_message,
    plan_message,
    stats_message,
)
from edgevlm_ros.qos import LATCHED, RELIABLE, advertise


@dataclass(frozen=True)
class Newest:
    """The last inference, for diagnostics and feedback.

    Attributes:
        latency_ms: ROS time from the stamp of the observation to the publication of its chunk.
        failures: failed steps in a row, up to now.
        error: of the last step; empty when it gave a chunk.
    """

    plan: PlanValue | None = None
    latency_ms: float = 0.0
    step_ms: float = 0.0
    failures: int = 0
    error: str = ""


class Outputs:
    """The publishers; they live as long as the node."""

    def __init__(self, node: Node) -> None:
        self._chunks = advertise(node, ActionChunk, "action_chunk", RELIABLE)
        self._plans = advertise(node, Plan, "plan", RELIABLE)
        self._paths = advertise(node, Path, "plan_path", RELIABLE)
        self._stats = advertise(node, InferenceStats, "inference_stats", RELIABLE)
        self._heartbeats = advertise(node, Heartbeat, "heartbeat", RELIABLE)
        self._contract = advertise(node, String, "~/contract", LATCHED)
        self._instruction = advertise(node, String, "~/instruction", LATCHED)

    def contract(self, contract: Contract, bundle_sha256: str) -> None:
        """Latched: the contract as JSON, with the hash of the bundle it belongs to."""
        fields = {"bundle_sha256": bundle_sha256, "contract": contract.model_dump(mode="json")}
        self._contract.publish(String(data=json.dumps(fields)))

    def instruction(self, text: str | None) -> None:
        """Latched: what is being followed; empty when nothing is."""
        self._instruction.publish(String(data=text or ""))

    def heartbeat(self, message: Heartbeat) -> None:
        """A sign of life of the worker."""
        self._heartbeats.publish(message)

    def chunk(self, message: ActionChunk) -> None:
        """What a policy says to do."""
        self._chunks.publish(message)

    def plan(self, plan: PlanValue, acted: Acted) -> None:
        """The plan, and its waypoints as a path where they are positions."""
        self._plans.publish(plan_message(plan, acted))
        path = path_message(plan, acted.chunk.observed_ns)
        if path is not None:
            self._paths.publish(path)

    def stats(self, message: InferenceStats) -> None:
        """Where the time went."""
        self._stats.publish(message)


class ActivePolicy:
    """One activation's hooks: publishes until it is closed, and remembers the newest outcome."""

    def __init__(self, outputs: Outputs, contract: Contract, bundle_sha256: str, clocks: Clocks) -> None:
        self._outputs, self._contract, self._sha256, self._clocks = outputs, contract, bundle_sha256, clocks
        self._session = secrets.randbits(64)  # tells this activation's messages from all others
        self.counts: Callable[[], Mapping[str, int]] = dict
        self.newest = Newest()
        self.beat_steady_ns = clocks.steady()
        self.last_error = ""  # of the last step that failed, also after good ones
        self.closed = False

    def publish(self, outcome: Outcome) -> None:
        """Hooks.publish."""
        if self.closed:
            return  # a step that outlived its activation
        step_ms = outcome.times.duration_ns / 1e6
        if isinstance(outcome, Failed):
            self.last_error = f"{type(outcome.error).__name__}: {outcome.error}"
            failures = self.newest.failures + 1
            self.newest = Newest(None, self.newest.latency_ms, step_ms, failures, self.last_error)
        else:
            plan = outcome.chunk.plan
            self._outputs.chunk(chunk_message(outcome, self._contract, self._sha256, self._session))
            latency_ms = (self._clocks.ros() - newest_frame_ns(outcome.observation)) / 1e6
            self.newest = Newest(plan, latency_ms, step_ms)
            if plan is not None:
                self._outputs.plan(plan, outcome)
        self._outputs.stats(stats_message(outcome, self.counts()))

    def beat(self, observing_ns: int | None) -> None:
        """Hooks.beat."""
        self.beat_steady_ns = self._clocks.steady()
        if not self.closed:
            self._outputs.heartbeat(heartbeat_message(self._clocks.ros(), observing_ns, self._session))
