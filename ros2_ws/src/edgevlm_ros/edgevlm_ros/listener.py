"""Subscriptions of a small node of their own, served by a thread of their own.

rclpy's executor makes a list of everything a node has at every wake-up: subscriptions, timers, and a dozen services of
lifecycle and parameters. Here the list is short and made once, and a message does not wait for diagnostics. The node's
name begins with an underscore, which hides it in lists of nodes.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import rclpy
from rclpy.impl.implementation_singleton import rclpy_implementation as _rclpy
from rclpy.qos import QoSProfile
from rclpy.subscription import Subscription

from edgevlm_ros.compat import overrides
from edgevlm_ros.lifecycle_node import ShellNode
from edgevlm_ros.qos import listen

_FOREVER_NS = -1
_SOON_NS = 1_000


class Listener:
    """`subscribe` as often as needed, then `start`, then `stop`; the callbacks run in the listener's thread.

    Args:
        wake: is called at the steady time that `wake_at_ns` gives; None: not before the next message.
        name: ends the names of its node and thread.
    """

    def __init__(
        self,
        owner: ShellNode,
        wake: Callable[[], None] = lambda: None,
        wake_at_ns: Callable[[], int | None] = lambda: None,
        *,
        name: str = "inputs",
    ) -> None:
        self._owner, self._wake, self._wake_at_ns = owner, wake, wake_at_ns
        self._node = rclpy.create_node(
            f"_{owner.get_name()}_{name}",
            namespace=owner.get_namespace(),
            context=owner.context,
            use_global_arguments=False,  # topic names are resolved by the owner
            enable_rosout=False,
            start_parameter_services=False,
            parameter_overrides=list(overrides(owner).values()),  # of the quality of service
        )
        self._subscriptions: list[Subscription] = []
        self._ending = False
        self._guard = self._node.create_guard_condition(lambda: None)
        self._thread = threading.Thread(target=self._run, name=f"edgevlm-{name}", daemon=True)

    def subscribe(
        self,
        kind: Any,
        topic: str,
        take: Callable[[Any], None],
        profile: QoSProfile,
        *,
        raw: bool = False,
        fixed: bool = False,
    ) -> Subscription:
        """A subscription under the owner's name; of messages that wait, those subscribed first are taken first."""
        subscription = listen(
            self._node, kind, self._owner.resolve_topic_name(topic), take, profile, raw=raw, fixed=fixed
        )
        self._subscriptions.append(subscription)
        return subscription

    def start(self) -> None:
        """Begin to take messages."""
        self._thread.start()

    @property
    def alive(self) -> bool:
        """Whether messages are taken."""
        return self._thread.is_alive()

    def stop(self) -> None:
        """Take none any more; the callback under way is finished."""
        self._ending = True
        self._guard.trigger()
        if self._thread.ident is not None:
            self._thread.join()
        self._node.destroy_node()

    def _run(self) -> None:
        context, guard = self._owner.context.handle, self._guard.handle
        items = [
            (subscription, subscription.handle, subscription.handle.pointer) for subscription in self._subscriptions
        ]
        waiting = _rclpy.WaitSet(len(items), 1, 0, 0, 0, 0, context)
        with ExitStack() as held:
            for used in (context, guard, waiting, *(handle for _, handle, _ in items)):
                held.enter_context(used)  # none of them is freed meanwhile
            while not self._ending:
                waiting.clear_entities()
                waiting.add_guard_condition(guard)
                for _, handle, _ in items:
                    waiting.add_subscription(handle)
                waiting.wait(self._patience_ns())
                self._turn(items, set(waiting.get_ready_entities("subscription")))

    def _turn(self, items: list[tuple[Subscription, Any, int]], ready: set[int]) -> None:
        for subscription, handle, pointer in items:
            if self._ending:
                return
            if pointer in ready and (taken := handle.take_message(subscription.msg_type, subscription.raw)) is not None:
                subscription.callback(taken[0])
        at_ns = self._wake_at_ns()
        if at_ns is not None and at_ns <= self._owner.steady_ns() and not self._ending:
            self._wake()

    def _patience_ns(self) -> int:
        at_ns = self._wake_at_ns()
        return _FOREVER_NS if at_ns is None else max(_SOON_NS, at_ns - self._owner.steady_ns())
