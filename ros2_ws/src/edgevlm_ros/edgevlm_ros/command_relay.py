"""The command relay: stands between the gate and controllers that would use a command for ever.

It passes on each command whose validity (`command_valid_s` from its stamp) is not over. When the newest one is over and
none follows, because the gate was killed, hangs or cannot be heard, it sends what rests, again and again; what that is
goes by its row in `command_kinds`. The same while `command/stop` is up. A relay that is ended waits until no
command is valid any more, so that a gate that ends with it can brake. It runs beside the controllers: a broken network
must not lie between.

Diagnostics, one row for each kind that is relayed: in_force, passed, rested, and refused_<reason> for each of
late, old, future, stopped, not_finite, joints.
"""

from __future__ import annotations

if __name__ == "__main__":  # before anything that takes long to import
    from edgevlm_ros.shutdown import leave_at_once

    leave_at_once()

import time
from collections import Counter
from copy import deepcopy
from typing import Any, Literal

from rclpy.duration import Duration
from sensor_msgs.msg import JointState
from std_msgs.msg import Bool

from edgevlm.errors import ContractError
from edgevlm.manifest.contract import SECOND_NS
from edgevlm_ros.command_kinds import ROWS, finite, outgoing
from edgevlm_ros.lifecycle_node import Report, ShellNode, run
from edgevlm_ros.parameters import Parameters
from edgevlm_ros.qos import LATCHED, RELIABLE, SENSOR, advertise, listen
from edgevlm_ros.relay_parameters import ITEMS, KINDS
from edgevlm_ros.stamps import to_ns, to_time

_REFUSALS = ("late", "old", "future", "stopped", "not_finite", "joints")
_DELIVERY_NS = 100_000_000
_LONGEST_END_NS = 4_500_000_000  # a gate brakes for up to 4 s; ros2 launch waits 5 s
_TAKE_EVERY_S, _QUEUE = 0.002, 10
NOTHING = object()

Reason = Literal["late", "old", "future", "stopped"]


class Validity:
    """Of the commands of one topic: which are taken, and whether the newest may still be used, by its own stamp.

    A stamp is of data time. What remains of its validity when it comes is counted in steady time, so that a clock that
    stops, or is set, does not keep a command alive.
    """

    def __init__(self, valid_s: float, future_s: float) -> None:
        self._valid_ns, self._future_ns = round(valid_s * SECOND_NS), round(future_s * SECOND_NS)
        self._newest_ns: int | None = None
        self._until_steady_ns: int | None = None
        self._stopped = False

    def take(self, stamp_ns: int, now_ns: int, now_steady_ns: int) -> Reason | None:
        """Why a command is not to be passed on; None: pass it on."""
        if self._stopped:
            return "stopped"
        remaining_ns = stamp_ns + self._valid_ns - now_ns
        if remaining_ns <= 0:
            return "late"
        if stamp_ns > now_ns + self._future_ns:
            return "future"
        # After silence an older stamp is a clock that began anew; before, it was overtaken.
        if self.in_force(now_steady_ns) and self._newest_ns is not None and stamp_ns < self._newest_ns:
            return "old"
        self._newest_ns = stamp_ns
        self._until_steady_ns = now_steady_ns + min(remaining_ns, self._valid_ns)
        return None

    def stop(self, up: bool) -> None:
        """The stop signal: while it is up nothing is in force, and nothing is taken."""
        self._stopped = up
        if up and self._until_steady_ns is not None:
            self._until_steady_ns = 0

    @property
    def begun(self) -> bool:
        """Whether any command was ever taken."""
        return self._until_steady_ns is not None

    def in_force(self, now_steady_ns: int) -> bool:
        """Whether the newest command may still be used."""
        return self._until_steady_ns is not None and now_steady_ns < self._until_steady_ns


class Route:
    """One kind of command on its way to a controller."""

    def __init__(self, kind: str, node: CommandRelay) -> None:
        settings = node.settings
        self.kind = kind
        self._node = node
        joints = [name for name in settings.values().get(f"{kind}.joints", ()) if name]
        message_type, self._make = outgoing(kind, joints, settings["twist.stamped"])
        self.publisher = advertise(node, message_type, settings[f"{kind}.to"], RELIABLE)
        self.validity = Validity(settings["command_valid_s"], settings["future_s"])
        self.counts: Counter[str] = Counter()
        self._last: Any = None  # the newest command, and what rests once it is over
        self._rest: Any = None
        self.subscription = listen(node, ROWS[kind].message_type, f"command/{kind}", self._take, RELIABLE)

    def _take(self, message: Any) -> None:
        now_ns, steady_ns = self._node.now_ns(), self._node.steady_ns()
        reason = "not_finite" if not finite(self.kind, message) else None
        reason = reason or self.validity.take(to_ns(message.header.stamp), now_ns, steady_ns)
        if reason is not None:
            self._refuse(reason, f"a command stamped {(now_ns - to_ns(message.header.stamp)) / 1e9:.3f} s ago")
        elif self._send(message, now_ns):
            self.counts["passed"] += 1
            self._last, self._rest = message, None

    def rest(self) -> None:
        """Once the newest command is over: what rests, each time it is called."""
        if self._last is None or self.validity.in_force(self._node.steady_ns()):
            return
        if self._rest is None:
            self._rest = ROWS[self.kind].rest(deepcopy(self._last), self._node.measured()) or NOTHING
            self._node.get_logger().warning(f"command/{self.kind}: none is valid any more")
        if self._rest is not NOTHING:
            now_ns = self._node.now_ns()
            self.counts["rested"] += self._send(_stamped(self._rest, now_ns), now_ns)

    def _send(self, message: Any, now_ns: int) -> bool:
        try:
            self.publisher.publish(self._make(message, now_ns))
        except ContractError as error:
            self._refuse("joints", str(error))
            return False
        return True

    def _refuse(self, reason: str, detail: str) -> None:
        self.counts[f"refused_{reason}"] += 1
        self._node.get_logger().warning(f"command/{self.kind}: {reason}: {detail}", throttle_duration_sec=1.0)

    def report(self) -> Report:
        """The route's row."""
        in_force = self.validity.in_force(self._node.steady_ns())
        figures: dict[str, object] = {"in_force": in_force}
        figures |= {key: self.counts[key] for key in ("passed", "rested", *(f"refused_{why}" for why in _REFUSALS))}
        if in_force or self._last is None:
            return (self.kind, "ok", "passes commands on" if in_force else "no command yet", figures)
        return (self.kind, "warn", "no valid command", figures)


class CommandRelay(ShellNode):
    """See the module."""

    def __init__(self) -> None:
        super().__init__("command_relay")
        self.settings = Parameters(self, ITEMS, frozen=lambda: self.active)
        self._routes: list[Route] = []
        self._others: list[Any] = []
        self._timer: Any = None
        self._state: dict[str, tuple[float, int]] = {}  # joint -> position, steady time of its arrival
        self.begin(self.settings)

    def configure(self) -> None:
        chosen = {kind: self.settings[f"{kind}.to"] for kind in KINDS if self.settings[f"{kind}.to"]}
        if not chosen:
            raise ContractError(f"expected a controller's topic for one of {', '.join(KINDS)}, got none; set <kind>.to")
        for kind, topic in chosen.items():
            if self.resolve_topic_name(topic) == self.resolve_topic_name(f"command/{kind}"):
                raise ContractError(
                    f"{kind}.to: expected the controller's topic, got {topic!r}, which the gate publishes"
                )

    def activate(self) -> None:
        self._routes = [Route(kind, self) for kind in KINDS if self.settings[f"{kind}.to"]]
        self._others = [
            listen(self, JointState, self.settings["state_topic"], self._on_state, SENSOR),
            listen(self, Bool, "command/stop", self._on_stop, LATCHED),
        ]
        self._timer = self.create_timer(self.settings["period_s"], self._on_timer, clock=self.steady)

    def deactivate(self) -> None:
        """Pass on what a gate brakes with until nothing is in force; then every route rests."""
        if self._timer is not None:
            self.destroy_timer(self._timer)
        self._outlast()
        for route in self._routes:
            self.destroy_subscription(route.subscription)
            route.validity.stop(True)
            route.rest()
            route.publisher.wait_for_all_acked(Duration(nanoseconds=_DELIVERY_NS))
            self.destroy_publisher(route.publisher)
        for subscription in self._others:
            self.destroy_subscription(subscription)
        self._timer, self._routes, self._others = None, [], []

    def _outlast(self) -> None:
        """Messages are taken here: the executor waits for this call."""
        subscriptions = [*self._others, *(route.subscription for route in self._routes)]
        until_ns, rest_ns = self.steady_ns() + _LONGEST_END_NS, 0
        while (now_ns := self.steady_ns()) < until_ns and any(r.validity.in_force(now_ns) for r in self._routes):
            for subscription in subscriptions:
                _take_waiting(subscription)
            if now_ns >= rest_ns:
                self._on_timer()
                rest_ns = now_ns + round(self.settings["period_s"] * SECOND_NS)
            time.sleep(_TAKE_EVERY_S)

    def report(self) -> list[Report]:
        return [route.report() for route in self._routes]

    def measured(self) -> dict[str, float]:
        """Positions of the joints that were measured a moment ago."""
        oldest_ns = self.steady_ns() - round(self.settings["state_max_age_s"] * SECOND_NS)
        return {name: position for name, (position, at_ns) in self._state.items() if at_ns >= oldest_ns}

    def _on_state(self, message: JointState) -> None:
        steady_ns = self.steady_ns()
        for name, position in zip(message.name, message.position, strict=False):
            if position == position:  # not NaN
                self._state[name] = (position, steady_ns)

    def _on_stop(self, message: Bool) -> None:
        for route in self._routes:
            route.validity.stop(message.data)
            route.rest()

    def _on_timer(self) -> None:
        for route in self._routes:
            route.rest()


def _stamped(message: Any, now_ns: int) -> Any:
    """The message as of now."""
    message.header.stamp = to_time(now_ns)
    return message


def _take_waiting(subscription: Any) -> None:
    """No more than a queue holds: a publisher that never rests must not keep the others waiting."""
    for _ in range(_QUEUE):
        with subscription.handle:
            taken = subscription.handle.take_message(subscription.msg_type, subscription.raw)
        if taken is None:
            return
        subscription.callback(taken[0])


def main() -> None:
    """Run the node."""
    run(CommandRelay)


if __name__ == "__main__":
    main()
