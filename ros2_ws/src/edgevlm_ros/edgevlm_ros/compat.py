"""What Humble's rclpy names otherwise than Jazzy's. tests/ros/test_rclpy_names.py holds every use against both."""

from __future__ import annotations

from rclpy.node import Node
from rclpy.parameter import Parameter

try:
    from rclpy.event_handler import PublisherEventCallbacks, SubscriptionEventCallbacks
except ImportError:  # Humble
    from rclpy.qos_event import PublisherEventCallbacks, SubscriptionEventCallbacks

__all__ = ["PublisherEventCallbacks", "SubscriptionEventCallbacks", "overrides"]


def overrides(node: Node) -> dict[str, Parameter]:
    """What the command line, files and launch set for this node, whether it declares it or not.

    The public way, `automatically_declare_parameters_from_overrides`, raises for an empty list on both branches. The
    attribute has had this name since Dashing.
    """
    return dict(node._parameter_overrides)
