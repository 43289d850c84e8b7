"""The cameras and the state of a policy, taken by a small node and a thread of their own.

rclpy's executor goes through everything a node has at every wake-up: subscriptions, timers, and a dozen services of
lifecycle and parameters. A node that has only the inputs wakes up in a tenth of that time, and a frame does not wait
for diagnostics. Its name begins with an underscore, which hides it in lists of nodes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.subscription import Subscription

from edgevlm_ros.qos import SENSOR, listen
from edgevlm_ros.senses import Senses
from edgevlm_ros.shell import ShellNode


class Inputs:
    """From activation to deactivation: `subscribe`, `start`, `stop`.

    Attributes:
        lock: whoever touches `senses` from another thread holds it.
    """

    def __init__(self, owner: ShellNode, senses: Senses) -> None:
        self._owner, self.senses = owner, senses
        self.lock = threading.Lock()
        self._node = rclpy.create_node(
            f"_{owner.get_name()}_inputs",
            namespace=owner.get_namespace(),
            context=owner.context,
            use_global_arguments=False,  # topic names are resolved by the owner
            enable_rosout=False,
            start_parameter_services=False,
            parameter_overrides=list(owner._parameter_overrides.values()),  # of the quality of service
        )
        self._timer = self._node.create_timer(1.0, self._wake, clock=owner.steady, autostart=False)
        self._executor = SingleThreadedExecutor(context=owner.context)
        self._executor.add_node(self._node)
        self._thread = threading.Thread(target=self._spin, name="edgevlm-inputs", daemon=True)
        self._started = False

    def camera(self, name: str, kind: Any, topic: str, type_name: str) -> Subscription:
        """Frames, as bytes: they are decoded without message objects."""

        def take(data: bytes) -> None:
            self._do(lambda: self.senses.camera(name, type_name, data))

        return self._listen(kind, topic, take, raw=True)

    def state(self, kind: Any, topic: str) -> Subscription:
        """Messages with fields of the state."""
        return self._listen(kind, topic, lambda message: self._do(lambda: self.senses.state(topic, message)), raw=False)

    def start(self) -> None:
        """Begin to take messages."""
        self._started = True
        self._thread.start()

    def stop(self) -> None:
        """Take none any more; the message under way is finished."""
        self._executor.shutdown()
        if self._started:
            self._thread.join()
        self._node.destroy_node()

    def _listen(self, kind: Any, topic: str, take: Callable[[Any], None], raw: bool) -> Subscription:
        return listen(self._node, kind, self._owner.resolve_topic_name(topic), take, SENSOR, raw=raw)

    def _spin(self) -> None:
        with suppress(ExternalShutdownException):
            self._executor.spin()

    def _do(self, work: Callable[[], None]) -> None:
        with self.lock:
            work()
            at_ns = self.senses.wake_steady_ns
        if at_ns is None:
            self._timer.cancel()
            return
        self._timer.timer_period_ns = max(1_000, at_ns - self._owner.steady_ns())
        self._timer.reset()

    def _wake(self) -> None:
        self._timer.cancel()
        self._do(self.senses.wake)
