"""Instructions over ROS: a latched topic, a service and an action, by the rules of edgevlm.loop.instructions."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from edgevlm_msgs.action import ExecuteInstruction
from edgevlm_msgs.srv import SetInstruction
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.task import Future
from std_msgs.msg import Bool, String

from edgevlm.errors import InstructionError
from edgevlm.loop.instructions import Instructions
from edgevlm.manifest.contract import SECOND_NS
from edgevlm_ros.compat import SubscriptionEventCallbacks
from edgevlm_ros.lifecycle_node import Report, ShellNode
from edgevlm_ros.outputs import Newest
from edgevlm_ros.qos import LATCHED, RELIABLE, listen
from edgevlm_ros.stamps import to_duration, to_ns

Result = ExecuteInstruction.Result
_TICK_S = 0.05
_TICKS_PER_FEEDBACK = 4


@dataclass(frozen=True)
class Rules:
    """What an activation decides about goals."""

    instruction_topic: str
    success_topic: str
    goal_timeout_s: float
    failures_to_abort: int


@dataclass
class _Goal:
    handle: Any
    number: int
    accepted_ns: int
    timeout_ns: int
    done: Future = field(default_factory=Future)


class InstructionServer:
    """The service and the action are there as long as the node, and refuse until `start`.

    Args:
        changed: takes what is in force whenever that changes; None: nothing.
        newest: the last inference.
    """

    def __init__(self, node: ShellNode, changed: Callable[[str | None], None], newest: Callable[[], Newest]) -> None:
        self._node, self._changed, self._newest = node, changed, newest
        self._rules: Rules | None = None
        self._goal: _Goal | None = None
        self._accepted: dict[bytes, _Goal] = {}
        self._subscriptions: list[Any] = []
        self._last_refusal = self._bad_qos = ""
        self._announced: str | None = None
        self._ticks = 0
        self.instructions = Instructions(_nothing_is_known)
        self._timer = node.create_timer(_TICK_S, self._tick, clock=node.steady)
        self._timer.cancel()  # Humble has no timer that begins cancelled
        node.create_service(SetInstruction, "set_instruction", self._serve)
        self._action = ActionServer(
            node,
            ExecuteInstruction,
            "execute_instruction",
            execute_callback=self._execute,
            goal_callback=self._admit,
            handle_accepted_callback=self._begin,
            cancel_callback=self._cancel,
        )

    def start(self, check: Callable[[str], None], rules: Rules) -> None:
        """Take instructions; `check` raises InstructionError for what the model cannot follow."""
        self.instructions = Instructions(check)
        self._rules, self._last_refusal, self._bad_qos = rules, "", ""
        events = SubscriptionEventCallbacks(incompatible_qos=self._on_bad_qos, use_default_callbacks=False)
        self._subscriptions = [
            listen(self._node, String, rules.instruction_topic, self._hear, LATCHED, events=events),
            listen(self._node, Bool, rules.success_topic, self._succeed, RELIABLE),
        ]
        self._tell()

    def stop(self, reason: str) -> None:
        """Take none any more; a goal under way is aborted."""
        self.abort(reason)
        for subscription in self._subscriptions:
            self._node.destroy_subscription(subscription)
        self._subscriptions, self._rules = [], None
        self.instructions.clear()
        self._tell()

    def instruction(self) -> str | None:
        """What is in force; any thread may ask."""
        return self.instructions.text

    @property
    def waits(self) -> str:
        """Where an instruction may come from, by full names."""
        if self._rules is None:
            return ""
        node = self._node
        return (
            f"waits for an instruction: on the topic {node.resolve_topic_name(self._rules.instruction_topic)} "
            f"(std_msgs/msg/String, transient-local), by the service {node.resolve_service_name('set_instruction')} or "
            f"the action {node.resolve_topic_name('execute_instruction')}"
        )

    def abort(self, reason: str) -> None:
        """End the goal under way, if there is one."""
        if self._goal is not None:
            self._finish(self._goal, Result.ABORTED, reason)

    def report(self) -> Report:
        """The row `instruction`."""
        current = self.instructions
        figures: dict[str, object] = {"text": current.text or "", "source": current.source}
        for generator in ("topic", "service"):
            figures |= {
                f"{generator}_{what}": current.counts[f"{generator}.{what}"] for what in ("taken", "refused", "ignored")
            }
        figures |= {f"goal_{what}": current.counts[f"goal.{what}"] for what in ("taken", "refused", "preempted")}
        figures |= {"last_refusal": self._last_refusal, "incompatible_qos": self._bad_qos}
        waits = "" if current.text is not None else self.waits
        return "instruction", "warn" if self._bad_qos else "ok", self._bad_qos or waits or current.source, figures

    def _hear(self, message: String) -> None:
        reason = self.instructions.say("topic", message.data)
        if reason:
            self._refused(f"instruction topic: ignored: {reason}")
        self._tell()

    def _serve(self, request: SetInstruction.Request, response: SetInstruction.Response) -> SetInstruction.Response:
        if self._rules is None:
            response.message = "the node is not active; activate it first"
            return response
        response.message = self.instructions.say("service", request.instruction)
        response.accepted = not response.message
        if response.message:
            self._refused(f"set_instruction: refused: {response.message}")
        self._tell()
        return response

    def _admit(self, request: ExecuteInstruction.Goal) -> GoalResponse:
        if self._rules is None:
            self._refused("execute_instruction: rejected: the node is not active; activate it first")
            return GoalResponse.REJECT
        try:
            self.instructions.check(request.instruction)
        except InstructionError as error:
            self.instructions.counts["goal.refused"] += 1
            self._refused(f"execute_instruction: rejected: {error}")
            return GoalResponse.REJECT
        return GoalResponse.ACCEPT

    def _begin(self, handle: Any) -> None:
        assert self._rules is not None  # admitted a moment ago, by this thread
        older, now_ns = self._goal, self._node.now_ns()
        timeout_ns = to_ns(handle.request.timeout) or round(self._rules.goal_timeout_s * SECOND_NS)
        number = self.instructions.begin(handle.request.instruction)
        if older is not None:
            self._finish(older, Result.PREEMPTED, f"a newer goal: {handle.request.instruction!r:.80}")
        self._goal = _Goal(handle, number, now_ns, timeout_ns)
        self._accepted[bytes(handle.goal_id.uuid)] = self._goal
        self._ticks = 0
        self._timer.reset()
        self._tell()
        handle.execute()

    async def _execute(self, handle: Any) -> Any:
        goal = self._accepted.pop(bytes(handle.goal_id.uuid))
        result = await goal.done
        if result.outcome == Result.SUCCEEDED:
            handle.succeed()
        elif result.outcome == Result.CANCELED:
            handle.canceled()
        else:
            handle.abort()
        return result

    def _cancel(self, handle: Any) -> CancelResponse:
        goal = self._goal
        if goal is None or bytes(goal.handle.goal_id.uuid) != bytes(handle.goal_id.uuid):
            return CancelResponse.REJECT  # it is over
        self._finish(goal, Result.CANCELED, "canceled")
        return CancelResponse.ACCEPT

    def _succeed(self, message: Bool) -> None:
        if message.data and self._goal is not None:
            self._finish(self._goal, Result.SUCCEEDED, "the success topic said so")

    def _finish(self, goal: _Goal, outcome: int, reason: str) -> None:
        """The goal's coroutine, which runs after this callback, tells the client."""
        self.instructions.end(goal.number)
        lasted_ns = max(0, self._node.now_ns() - goal.accepted_ns)
        goal.done.set_result(Result(outcome=outcome, reason=reason, duration=to_duration(lasted_ns)))
        if self._goal is goal:
            self._goal = None
            self._timer.cancel()
            self._tell()

    def _tick(self) -> None:
        goal, rules, newest = self._goal, self._rules, self._newest()
        if goal is None or rules is None:
            self._timer.cancel()
            return
        elapsed_ns = self._node.now_ns() - goal.accepted_ns
        if elapsed_ns >= goal.timeout_ns:
            self._finish(goal, Result.TIMED_OUT, f"not done within {goal.timeout_ns / SECOND_NS:g} s")
        elif newest.failures >= rules.failures_to_abort:
            self._finish(goal, Result.ABORTED, f"the model failed {newest.failures} times in a row: {newest.error}")
        else:
            self._ticks += 1
            if self._ticks % _TICKS_PER_FEEDBACK == 1:
                goal.handle.publish_feedback(_feedback(newest, max(0, elapsed_ns)))

    def _refused(self, reason: str) -> None:
        self._last_refusal = reason
        self._node.get_logger().warning(reason, throttle_duration_sec=1.0)

    def _on_bad_qos(self, event: Any) -> None:
        topic = self._subscriptions[0].topic_name if self._subscriptions else "instruction"
        self._bad_qos = (
            f"somebody publishes {topic} with a QoS that cannot reach this node ({event.last_policy_kind!s}); publish "
            "it reliable and transient-local (ros2 topic pub --qos-durability transient_local ...), or call "
            "set_instruction"
        )
        self._node.get_logger().warning(self._bad_qos)

    def _tell(self) -> None:
        if self.instructions.text != self._announced:
            self._announced = self.instructions.text
            self._changed(self._announced)


def _feedback(newest: Newest, elapsed_ns: int) -> ExecuteInstruction.Feedback:
    feedback = ExecuteInstruction.Feedback(
        progress=math.nan,
        elapsed=to_duration(elapsed_ns),
        latency_ms=newest.latency_ms,
        step_ms=newest.step_ms,
    )
    if newest.plan is not None:
        place = int(np.argmax(newest.plan.confidence))
        feedback.step = newest.plan.steps[place]
        feedback.confidence = float(newest.plan.confidence[place])
        feedback.progress = place / max(1, len(newest.plan.steps) - 1)
    return feedback


def _nothing_is_known(text: str) -> None:
    raise InstructionError("no bundle is loaded; configure the node first")
