"""The cameras and the state of a policy, on their way into `InputPipeline`."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from rclpy.subscription import Subscription

from edgevlm_ros.input_pipeline import InputPipeline
from edgevlm_ros.lifecycle_node import ShellNode
from edgevlm_ros.listener import Listener
from edgevlm_ros.qos import SENSOR


class Inputs:
    """From activation to deactivation: `camera` and `state`, then `start`, then `stop`.

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
