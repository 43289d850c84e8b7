"""The command gate's emergency stops: who presses, who publishes, and the latch on the disk. See edgevlm.gate.estop.

Each topic has two subscriptions: a volatile one hears every reliable publisher from now on, a transient-local one hears
what such a publisher has said before. They live from configure to cleanup in a thread of their own, so that a button is
heard while the gate is activated, brakes or reports.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping, Sequence
from functools import partial

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from std_msgs.msg import Bool

from edgevlm.errors import ContractError
from edgevlm.gate.estop import Estops, LatchStore, latch_directory
from edgevlm_ros.lifecycle_node import Report, ShellNode
from edgevlm_ros.listener import Listener

# Deep, so that no press is overwritten by what comes after it while this process is held up.
_DEPTH = 1000
_SUBSCRIPTIONS: Mapping[str, QoSProfile] = {
    durability.name.lower(): QoSProfile(
        depth=_DEPTH,
        history=HistoryPolicy.KEEP_LAST,
        reliability=ReliabilityPolicy.RELIABLE,
        durability=durability,
    )
    for durability in (DurabilityPolicy.VOLATILE, DurabilityPolicy.TRANSIENT_LOCAL)
}


def publishers(node: ShellNode, topic: str) -> dict[str, str]:
    """Who publishes a topic (its full name), by the graph: id -> name of the node."""
    names = {}
    for info in node.get_publishers_info_by_topic(topic):
        name = f"{info.node_namespace.rstrip('/')}/{info.node_name}"
        known = "_UNKNOWN_" not in name  # the graph hears of a node's name later than of its endpoints
        names[bytes(info.endpoint_gid).hex()] = name if known else "a node without a name yet"
    return names


class EstopInputs:
    """From configure to cleanup.

    Attributes:
        lock: is held while the latch is written; commands are made under it, so that none is sent meanwhile.

    Raises:
        ContractError: a topic is empty or named twice.
        LatchError: the latch can be kept nowhere.
    """

    def __init__(self, node: ShellNode, topics: Sequence[str], deadline_ms: float) -> None:
        self._node = node
        self._names = _resolved(node, topics)
        self.lock = threading.RLock()
        self._store = LatchStore(latch_directory(os.environ), node.get_fully_qualified_name())
        self._estops = Estops(tuple(self._names), self._store, round(deadline_ms * 1e6))
        if self._estops.latched:
            node.get_logger().warning(f"an emergency stop is in force since before ({self._store.path}): call ~/rearm")
        self._listener: Listener | None = None

    def listen(self) -> None:
        """Begin to hear the buttons."""
        if not self._names:
            self._node.get_logger().warning("estop_topics is empty: no button stops this gate")
            return
        self._listener = Listener(self._node, name="estops")
        for topic in self._names:
            for subscription, profile in _SUBSCRIPTIONS.items():
                take = partial(self._heard, topic, subscription)
                self._listener.subscribe(Bool, topic, take, profile, fixed=True)
        self._listener.start()

    def close(self) -> None:
        """Hear nothing any more; the latch stays on the disk."""
        if self._listener is not None:
            self._listener.stop()
            self._listener = None
        self._store.close()

    @property
    def watched(self) -> dict[str, str]:
        """Each topic with its full name."""
        return dict(self._names)

    def activate(self) -> None:
        """Raises LatchError where the latch cannot be written."""
        self.look()
        with self.lock:
            self._estops.start(self._node.steady_ns())

    def deactivate(self) -> None:
        """Buttons still count."""
        with self.lock:
            self._estops.stop()

    def stopping(self, steady_ns: int) -> bool:
        """Whether nothing may be commanded now."""
        with self.lock:
            self._estops.check(steady_ns)
            return self._estops.stopping or self._deaf

    def look(self) -> None:
        """Who publishes now; regularly."""
        graph = self._graph()
        with self.lock:
            self._estops.published(graph, self._node.steady_ns())

    def rearm(self) -> str:
        """End the stop; otherwise why it stays."""
        graph = self._graph()
        with self.lock:
            return self._estops.rearm(graph, self._node.steady_ns())

    def reasons(self) -> str:
        """Why nothing may be commanded, and what else is wrong; empty when all is well."""
        with self.lock:
            reasons = [*self._estops.reasons(), *([self._estops.fault] if self._estops.fault else [])]
        if self._deaf:
            reasons.append("buttons are no longer heard: restart the gate")
        return "; ".join(reasons)

    def report(self) -> Report:
        """A row of diagnostics."""
        with self.lock:
            estops = self._estops
            figures: dict[str, object] = {"latched": estops.latched, "stops": estops.stopping, **estops.statuses()}
        if reasons := self.reasons():
            return ("estop", "error", reasons, figures)
        return ("estop", "ok", "released" if self._names else "no estop_topics", figures)

    @property
    def _deaf(self) -> bool:
        """Whether what hears the buttons has ended: a defect, and no reason to go on."""
        return self._listener is not None and not self._listener.alive

    def _graph(self) -> dict[str, dict[str, str]]:
        return {topic: publishers(self._node, name) for topic, name in self._names.items()}

    def _heard(self, topic: str, subscription: str, message: Bool) -> None:
        look = partial(publishers, self._node, self._names[topic])
        with self.lock:
            self._estops.heard(topic, subscription, message.data, look, self._node.steady_ns())


def _resolved(node: ShellNode, topics: Sequence[str]) -> dict[str, str]:
    if not all(topics):
        raise ContractError(f"estop_topics: expected names of topics, got {list(topics)}; remove the empty one")
    names = {topic: node.resolve_topic_name(topic) for topic in topics}
    if len(set(names.values())) != len(topics):
        raise ContractError(f"estop_topics: expected each topic once, got {list(topics)}")
    return names
