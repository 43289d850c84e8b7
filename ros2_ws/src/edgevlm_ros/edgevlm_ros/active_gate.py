"""What runs while the command gate is active: one gate, fed by callbacks, asked by a timer or by stamps."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from typing import Any

from edgevlm_msgs.msg import ActionChunk as ChunkMessage
from edgevlm_msgs.msg import Heartbeat as HeartbeatMessage
from rclpy.publisher import Publisher
from std_msgs.msg import Bool

from edgevlm.errors import ContractError, LogError, ShapeError
from edgevlm.gate.gate import Gate, GateCommand
from edgevlm.gate.limits import GateLimits
from edgevlm.loop.watchdog import Deadline, Watchdog
from edgevlm.manifest.contract import SECOND_NS, ActionChunk
from edgevlm_ros.command_messages import Setpoint
from edgevlm_ros.estop_inputs import EstopInputs, publishers
from edgevlm_ros.gate_report import ChunkPace, Periods, Seldom, count_rows, gate_row, input_row, rival_row
from edgevlm_ros.lifecycle_node import Report, ShellNode
from edgevlm_ros.messages import read_chunk, read_heartbeat, status_numbers, status_says
from edgevlm_ros.publisher_conflicts import PublisherConflicts
from edgevlm_ros.serialized_cache import SerializedCache
from edgevlm_ros.stamps import seconds, to_ns
from edgevlm_ros.topics import StateAssembler, message_stamp_ns

_MOST_EARLY = 64
_LONGEST_REST_S = 4.0  # ros2 launch waits 5 s before it goes on to harder signals
_MORE_COMMANDS, _MORE_S = 10, 0.2
_ONE_INSTANT_NS = SECOND_NS // 1000
_TELL_EVERY_NS = SECOND_NS // 5  # while nothing is sent and nothing changes


def _rest_s(limits: GateLimits) -> float:
    """How long the robot may take to come to rest: from its highest velocity, and some commands more."""
    braking = [axis.velocity / axis.acceleration for axis in limits.axes]
    braking += [turning.velocity / turning.acceleration for turning in limits.orientations]
    return min(_LONGEST_REST_S, max(braking, default=0.0) + _MORE_COMMANDS * limits.command_period_s + _MORE_S)


class ActiveGate:
    """What runs while the node is active: one gate, fed by callbacks, asked by a timer or by stamps."""

    def __init__(
        self,
        node: ShellNode,
        bundle_sha256: str,
        gate: Gate,
        limits: GateLimits,
        estops: EstopInputs,
        horizon_s: float = 0.0,
    ) -> None:
        self._node, self.gate, self._limits, self._estops = node, gate, limits, estops
        self._sha256 = bundle_sha256
        self.lock = estops.lock  # commands are paced by a thread of their own, buttons are heard by another
        self.state: StateAssembler | None = None
        self.wants_chunk: Callable[[int], bool] | None = None  # of the executor, in lock-step only
        self.senders: list[tuple[Setpoint, SerializedCache[GateCommand]]] = []
        self.status: SerializedCache[GateCommand]
        self.stop: Publisher
        self.watched: dict[str, str] = {}  # topic -> its full name, with remaps applied
        to_its_end = limits.chunk_deadline == "whole_chunk"
        chunk_s = max(limits.deadline_s, horizon_s) if to_its_end else limits.deadline_s
        deadlines = [Deadline(name="chunk", timeout_s=chunk_s), Deadline(name="heartbeat", timeout_s=limits.deadline_s)]
        deadlines.append(Deadline(name="state", timeout_s=limits.state_max_age_s))
        self.watchdog = Watchdog(deadlines, node.steady_ns())
        self._log, self._periods = Seldom(), Periods()
        self.pace = ChunkPace(limits)
        self._refused_here: Counter[str] = Counter()
        self._rivals, self._conflicts = PublisherConflicts(), dict[str, str]()
        self._early: list[tuple[int, Callable[[int], None]]] = []  # lock-step: what came before the state of its stamp
        self._last: GateCommand | None = None
        self._commanded_steady_ns, self._reported_steady_ns = node.steady_ns(), 0
        self._stopped: bool | None = None
        self._ended = False  # the stop signal was the last message
        self._state_ns: int | None = None  # stamp of the last whole state
        self._pending_ns: int | None = None  # lock-step: the stamp to command for
        self._accepted_ns: int | None = None  # lock-step: the observation of the last accepted chunk
        self._heard = self._estopped = False

    def finish(self, paced: bool) -> None:
        """Bring the robot to rest; the last message is a resting command, or the stop signal where it is not in time.

        Args:
            paced: commands go on by themselves; otherwise they are made here.
        """
        with self.lock:
            self.gate.finish()
            before = self._last
        if before is None:
            return  # nothing was ever sent
        until_ns = self._node.steady_ns() + round(_rest_s(self._limits) * SECOND_NS)
        while not self._rested(before) and self._node.steady_ns() < until_ns and self.wants_chunk is None:
            if not paced:
                self.on_timer()
            time.sleep(self._limits.command_period_s)
        with self.lock:
            if not self._rested(before):
                self._stopped = self._ended = True
                self.stop.publish(Bool(data=True))
                self._node.get_logger().error("not at rest in time: command/stop is the last message")

    def _rested(self, before: GateCommand) -> bool:
        with self.lock:
            later = self._last is not None and self._last.number > before.number
            return later and self.gate.at_rest

    def on_timer(self) -> None:
        """One command for each period, from the periodic thread or a timer."""
        with self.lock:
            self._command(*self._both_clocks())

    def _both_clocks(self) -> tuple[int, int]:
        """ROS time and steady time of one instant: a process that was held up between the two would see a jump."""
        for _ in range(3):
            before_ns = self._node.steady_ns()
            now_ns = self._node.now_ns()
            steady_ns = self._node.steady_ns()
            if steady_ns - before_ns < _ONE_INSTANT_NS:
                break
        return now_ns, steady_ns

    def on_heartbeat(self, message: HeartbeatMessage) -> None:
        """A sign of life."""
        with self.lock:
            self._on_heartbeat(message)

    def _on_heartbeat(self, message: HeartbeatMessage) -> None:
        now_ns, steady_ns = self._node.now_ns(), self._node.steady_ns()
        try:
            observing_ns = read_heartbeat(message)
        except ContractError as error:
            self._refused("heartbeat.schema", str(error))
            return
        self._hear("heartbeat", message.session, steady_ns)
        self.watchdog.beat("heartbeat", steady_ns)

        def take(now_ns: int) -> None:
            self.gate.heartbeat(now_ns, self._node.steady_ns(), observing_ns)
            self._heard = True

        self._in_order(observing_ns, now_ns, take)

    def on_chunk(self, message: ChunkMessage) -> None:
        """A chunk of the policy, if it is one of the same bundle."""
        with self.lock:
            self._on_chunk(message)

    def _on_chunk(self, message: ChunkMessage) -> None:
        now_ns, steady_ns = self._node.now_ns(), self._node.steady_ns()
        try:
            chunk = read_chunk(message)
        except ContractError as error:
            self._refused("chunk.shape" if isinstance(error, ShapeError) else "chunk.schema", str(error))
            return
        if message.bundle_sha256 != self._sha256:
            got = message.bundle_sha256[:12]
            self._refused("chunk.bundle", f"chunk: expected bundle {self._sha256[:12]}, got {got}; give both the same")
            return
        self._hear("action_chunk", message.session, steady_ns)
        self.watchdog.beat("chunk", steady_ns, now_ns - chunk.observed_ns)
        if news := self.pace.took(to_ns(message.inference_ended) - to_ns(message.inference_started), chunk):
            self._node.get_logger().error(news)
        self._in_order(chunk.observed_ns, now_ns, lambda now_ns: self._feed(chunk, now_ns))

    def _feed(self, chunk: ActionChunk, now_ns: int) -> None:
        steady_ns = self._node.steady_ns()
        refusal = self.gate.feed(chunk, now_ns, steady_ns)
        if refusal and refusal.reason == "unannounced":
            # Topics have no order among each other: the heartbeat that tells of this observation is still on its way.
            self.gate.heartbeat(now_ns, steady_ns, chunk.observed_ns)
            refusal = self.gate.feed(chunk, now_ns, steady_ns)
        if refusal:
            self._refused(f"chunk.{refusal.reason}", refusal.detail, counted=True)
        else:
            self._accepted_ns = chunk.observed_ns

    def state_callback(self, topic: str) -> Callable[[Any], None]:
        """What takes this topic's messages."""

        def on_state(message: Any) -> None:
            with self.lock:
                self._on_state(topic, message)

        return on_state

    def _on_state(self, topic: str, message: Any) -> None:
        assert self.state is not None
        now_ns, steady_ns = self._node.now_ns(), self._node.steady_ns()
        try:
            state = self.state.feed(topic, message, message_stamp_ns(message, now_ns))
        except LogError as error:
            self._refused("state.path", str(error))
            return
        # Of several topics with one stamp only the last one completes it.
        if state is None or (len(self.state.topics) > 1 and state.stamp_ns == self._state_ns):
            return
        if self._state_ns is not None and state.stamp_ns < self._state_ns:
            self._early.clear()  # the clock began anew
        self._state_ns = state.stamp_ns
        if self.wants_chunk:
            now_ns = state.stamp_ns
        self.watchdog.beat("state", steady_ns, now_ns - state.stamp_ns)
        refusal = self.gate.feed_state(state, now_ns, steady_ns)
        if refusal:
            self._refused(f"state.{refusal.reason}", refusal.detail, counted=True)
        elif self.wants_chunk:
            self._pending_ns = state.stamp_ns
            due = [take for stamp_ns, take in self._early if stamp_ns <= state.stamp_ns]
            self._early = [item for item in self._early if item[0] > state.stamp_ns]
            for take in due:
                take(state.stamp_ns)
            self._step()

    def _in_order(self, stamp_ns: int | None, now_ns: int, take: Callable[[int], None]) -> None:
        """Take something now. In lock-step time is the newest state's stamp: what is later waits for its state."""
        if self.wants_chunk is None:
            take(now_ns)
            return
        if self._state_ns is None or (stamp_ns is not None and stamp_ns > self._state_ns):
            self._early = [*self._early[-_MOST_EARLY:], (stamp_ns or 0, take)]
            return
        take(self._state_ns)
        self._step()

    def _hear(self, topic: str, session: int, steady_ns: int) -> None:
        self._rivals.heard(topic, session, steady_ns)
        self._tell_conflicts(steady_ns)

    def _tell_conflicts(self, steady_ns: int) -> None:
        conflicts = self._rivals.conflicts(steady_ns)
        if conflicts and conflicts != self._conflicts:
            self._node.get_logger().error(rival_row(conflicts)[2])
        self._conflicts = conflicts
        self.gate.conflict(conflicts)

    def _step(self) -> None:
        """Lock-step: command for the pending state, unless it needs a chunk that has not come."""
        if self._pending_ns is None or self.wants_chunk is None or not self._heard:
            return
        stamp_ns = self._pending_ns
        if self.wants_chunk(stamp_ns) and self._accepted_ns != stamp_ns:
            return
        self._pending_ns = None
        self._command(stamp_ns, self._node.steady_ns())

    def _command(self, now_ns: int, steady_ns: int) -> None:
        if self._ended:
            return
        self._commanded_steady_ns = steady_ns
        self._take_estops(steady_ns)
        command = self.gate.command(now_ns, steady_ns)
        if self._last is not None and command.number == self._last.number:
            return
        self._periods.tick(steady_ns)
        if command.values is not None:
            self._send(command)
        if command.stop != self._stopped:
            self._stopped = command.stop
            self.stop.publish(Bool(data=command.stop))
        changed = self._last is None or (command.mode, command.cause) != (self._last.mode, self._last.cause)
        if command.values is not None or changed or steady_ns - self._reported_steady_ns >= _TELL_EVERY_NS:
            self._reported_steady_ns = steady_ns
            self.status.publish(command, status_says(command), status_numbers(command))
        if self._last is None or command.cause != self._last.cause:
            why = f" ({self._estops.reasons()})" if command.cause == "estop" else ""
            news = f"{command.mode}: {command.cause}{why}" if command.cause else "follows the chunks"
            self._node.get_logger().info(news)
        self._last = command
        # Now that all is sent. One at a time: each takes about a millisecond, once while a robot rests.
        turn = command.number % (len(self.senders) + 1)
        (self.senders[turn][1] if turn < len(self.senders) else self.status).prepare()

    def _take_estops(self, steady_ns: int) -> None:
        """The stop is in force for the gate as long as it is for the latch, which is on the disk by now."""
        stopping = self._estops.stopping(steady_ns)
        self.gate.estop(stopping)
        if self._estopped and not stopping:
            self.gate.rearm()
        self._estopped = stopping

    def rearm(self) -> str:
        """End latched causes that are over; otherwise why they stay."""
        if fault := self._estops.rearm():
            return fault
        with self.lock:
            self._take_estops(self._node.steady_ns())
            if not self.gate.rearm():  # pressed again since
                return "the emergency stop is pressed"
            self.watchdog.rearm()
        return ""

    def _send(self, command: GateCommand) -> None:
        """A process that was held up must not send what is over by now; in lock-step nothing ages."""
        assert command.values is not None
        stamp = seconds(command.stamp_ns)
        for setpoint, sender in self.senders:
            if self.wants_chunk is None and self._node.now_ns() > command.valid_until_ns:
                self._refused("command.late", f"command {command.number}: this process was held up until it was over")
                return
            sender.publish(command, command.values[setpoint.columns], stamp)

    def watch_clock(self) -> None:
        """By steady time: commands go on when the clock that they go by has stopped, and say so."""
        with self.lock:
            stopped = self._last is not None and self._last.cause == "clock_stopped"
            silent_ns = self._node.steady_ns() - self._commanded_steady_ns
            if stopped or silent_ns > self._limits.deadline_s * SECOND_NS:
                self._command(*self._both_clocks())

    def look_around(self) -> None:
        """Who else publishes what only one may publish; in lock-step, whether states have stopped coming."""
        graph = {topic: publishers(self._node, name) for topic, name in self.watched.items()}
        with self.lock:
            self._look_around(graph)

    def _look_around(self, graph: dict[str, dict[str, str]]) -> None:
        steady_ns = self._node.steady_ns()
        self._rivals.counted(graph, steady_ns)
        self._tell_conflicts(steady_ns)
        self.watchdog.check(steady_ns)
        silent_ns = steady_ns - self._commanded_steady_ns
        if self._last and self.wants_chunk and self._state_ns and silent_ns > self._limits.deadline_s * SECOND_NS:
            self._command(self._state_ns, steady_ns)

    def _refused(self, key: str, detail: str, counted: bool = False) -> None:
        """`counted`: the gate has counted it already."""
        if not counted:
            self._refused_here[key] += 1
        if self._log.may(key, self._node.steady_ns()):
            self._node.get_logger().warning(f"refused ({key}): {detail}")

    def report(self) -> list[Report]:
        """See command_gate."""
        with self.lock:
            counts = self.gate.counts
            return [
                gate_row(self._last, counts),
                input_row(self.watchdog.rows(self._node.steady_ns()), self.pace.advice),
                *count_rows(counts, self._refused_here, self.gate.columns),
                self._periods.report(self._limits.command_period_s),
                rival_row(self._conflicts),
            ]
