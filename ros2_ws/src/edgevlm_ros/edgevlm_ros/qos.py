"""Quality of service of every endpoint, each overridable by parameters (qos_overrides.<topic>.<publisher>.<policy>)."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy
from typing import Any

from rclpy.node import Node
from rclpy.publisher import Publisher
from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy
from rclpy.qos_overriding_options import QoSOverridingOptions
from rclpy.subscription import Subscription

from edgevlm_ros.compat import PublisherEventCallbacks, SubscriptionEventCallbacks


def _profile(depth: int, reliability: ReliabilityPolicy, durability: DurabilityPolicy) -> QoSProfile:
    return QoSProfile(depth=depth, history=HistoryPolicy.KEEP_LAST, reliability=reliability, durability=durability)


# Images and states: a late one is of no use. A few deep, so that a busy moment loses none.
SENSOR = _profile(5, ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
# Chunks, heartbeats, commands, status: each one counts.
RELIABLE = _profile(10, ReliabilityPolicy.RELIABLE, DurabilityPolicy.VOLATILE)
# Instruction, contract, stop signal: whoever comes late gets the last one.
LATCHED = _profile(1, ReliabilityPolicy.RELIABLE, DurabilityPolicy.TRANSIENT_LOCAL)


def overridable() -> QoSOverridingOptions:
    """Lets parameters change reliability, depth and history of the endpoint."""
    return QoSOverridingOptions.with_default_policies()


def advertise(node: Node, kind: Any, topic: str, profile: QoSProfile) -> Publisher:
    """A publisher. Each of rclpy's default event callbacks costs time at every wake-up; nodes here do without."""
    return node.create_publisher(
        kind,
        topic,
        copy(profile),  # rclpy writes overrides into the profile that it is given
        event_callbacks=PublisherEventCallbacks(use_default_callbacks=False),
        qos_overriding_options=overridable(),
    )


def listen(  # noqa: PLR0913 - what rclpy needs, and how
    node: Node,
    kind: Any,
    topic: str,
    take: Callable[[Any], None],
    profile: QoSProfile,
    *,
    raw: bool = False,
    fixed: bool = False,
    events: SubscriptionEventCallbacks | None = None,
) -> Subscription:
    """A subscription; `raw` hands on serialized bytes, `fixed` takes no overrides of the quality of service."""
    return node.create_subscription(
        kind,
        topic,
        take,
        copy(profile),
        raw=raw,
        event_callbacks=events or SubscriptionEventCallbacks(use_default_callbacks=False),
        qos_overriding_options=None if fixed else overridable(),
    )
