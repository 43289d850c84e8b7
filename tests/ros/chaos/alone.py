"""Runs one node in its process until SIGINT or SIGTERM, or until whoever started it is gone."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node


def spin(make: Callable[[], Node]) -> None:
    """Make the node and spin it; returns after the signal, with the context still there."""
    ended: list[int] = []
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda got, _: ended.append(got))
    rclpy.init(args=sys.argv, signal_handler_options=rclpy.SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    executor.add_node(make())
    parent = os.getppid()
    while not ended and os.getppid() == parent:
        executor.spin_once(timeout_sec=0.1)
