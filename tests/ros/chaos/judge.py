"""Judges what an observer saw on the wire. Its rules are its own: nothing here comes from edgevlm or from ROS.

A line is a dict with `k` (its kind), `r` (system time of its arrival, ns), `s` (of its sending) and what `observer`
notes of that kind.
Stamps are data time. Where the clock of a simulation began anew (`clock` lines), a new epoch begins, and nothing of an
older epoch is good for anything.

A command that moves the robot needs, at its own stamp: a finite chunk that is not used up or over, chunks that come
within the deadline, a measured state and a camera frame that are fresh, heartbeats, no emergency stop since the last
re-arm, and one sender of chunks. Without one of them it may only brake. And a robot without a valid command is at rest,
as it is measured, whatever its controllers are sent.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any

Line = Mapping[str, Any]
S = 1_000_000_000
_PACE_CHUNKS = 4
_MOVING_STATES = 5

KINDS = (
    "not_finite",
    "velocity",
    "acceleration",
    "position",
    "jump",
    "tracking",
    "clock",
    "gripper",
    "chunk_age",
    "slow_policy",
    "state_age",
    "state_not_finite",
    "camera_age",
    "heartbeat",
    "estop",
    "sessions",
    "late",
    "publishers",
    "rival",
    "uncommanded",
)


@dataclass(frozen=True)
class Placed:
    """A column that is sent as a position: its topic and index, the measured one's, and the limits."""

    topic: str
    column: int
    state: str
    index: int
    low: float
    high: float
    velocity: float
    tracking: float


@dataclass(frozen=True)
class Rules:
    """The robot's limits, written down a second time. Seconds, and m or rad of the columns of `topic`.

    Attributes:
        axes: of the messages on `topic`: (column, velocity, acceleration).
        ranges: (column, state topic, index in that topic's values, lowest, highest).
        placed: columns that are sent as positions.
        jitter_s: how much the way of two messages may differ.
        slack_s: how long a message may take, or a node may need to act on it.
        brake_s: how long braking may last.
        simulated: whether stamps are of a simulator's clock, at whatever pace.
        rivals_s: how long a second publisher may be there unnoticed: a killed one still counts for two seconds.
        hand, rest_speed: the topic that measures where the robot is, and how fast, in m/s, it still counts as at rest.
    """

    topic: str = "command/twist"
    axes: tuple[tuple[int, float, float], ...] = ()
    ranges: tuple[tuple[int, str, int, float, float], ...] = ()
    placed: tuple[Placed, ...] = ()
    margin: float = 0.01
    gripper: tuple[float, float] = (-1.0, 1.0)
    states: tuple[str, ...] = ()
    period_s: float = 0.025
    valid_s: float = 0.1
    deadline_s: float = 0.3
    state_max_age_s: float = 0.2
    camera_max_age_s: float = 0.8
    future_s: float = 0.1
    slack_s: float = 0.15
    jitter_s: float = 0.03
    brake_s: float = 0.3
    rivals_s: float = 3.2
    hand: str = "hand_pose"
    rest_speed: float = 0.05
    simulated: bool = False


@dataclass(frozen=True)
class Violation:
    """One broken rule: when (arrival, system time in ns), which, and by what."""

    kind: str
    at_ns: int
    detail: str


@dataclass
class _Epoch:
    """Everything of one run of the clock, in the order of arrival."""

    lines: dict[str, list[Line]] = field(default_factory=dict)

    def of(self, kind: str) -> list[Line]:
        return self.lines.get(kind, [])


def judge(lines: Iterable[Line], rules: Rules) -> list[Violation]:
    """Every violation, in the order of arrival."""
    violations: list[Violation] = []
    last: Line | None = None
    ordered = sorted(lines, key=lambda line: line["r"])
    sessions = _alternating(line for line in ordered if line["k"] == "chunk")
    for epoch in _epochs(ordered):
        commands = [line for line in epoch.of("command") if line["topic"] == rules.topic]
        case = _Case(epoch, rules, sessions)
        for command in commands:
            violations += _shape(command, last, rules)
            violations += case.justified(command, last)
            last = command
        for placed in rules.placed:
            violations += _places(epoch, placed, rules)
        violations += _grippers(epoch, rules)
        violations += _punctual(epoch, rules)
        violations += _signed(epoch, rules)
        violations += _uncommanded(epoch, rules)
    violations += _standing(ordered, rules)
    return sorted(violations, key=lambda violation: violation.at_ns)


def count(violations: Iterable[Violation]) -> dict[str, int]:
    """How many of each kind."""
    return dict(Counter(violation.kind for violation in violations))


def _epochs(ordered: Sequence[Line]) -> list[_Epoch]:
    epochs, clock_ns = [_Epoch()], None
    for line in ordered:
        if line["k"] == "clock":
            if clock_ns is not None and line["stamp"] < clock_ns - S:
                epochs.append(_Epoch())
            clock_ns = line["stamp"]
        epochs[-1].lines.setdefault(line["k"], []).append(line)
    return epochs


def _alternating(chunks: Iterable[Line]) -> list[int]:
    """Arrivals of chunks whose sender was silent for another sender since, and is back within a second."""
    alternations: list[int] = []
    heard: dict[int, int] = {}
    current = None
    for chunk in chunks:
        sender, at_ns = chunk["session"], chunk["r"]
        if current is not None and sender != current and at_ns - heard.get(sender, -S) < S:
            alternations.append(at_ns)
        heard[sender], current = at_ns, sender
    return alternations


def _shape(command: Line, last: Line | None, rules: Rules) -> list[Violation]:
    """Finite, no faster than allowed, and no faster changing."""
    at_ns, values = command["r"], command["values"]
    if not all(map(math.isfinite, values)):
        return [Violation("not_finite", at_ns, f"{command['topic']} {values}")]
    before, dt = _before(command, last, rules)
    violations = []
    for column, velocity, acceleration in rules.axes:
        value = values[column]
        if abs(value) > velocity * (1 + 1e-6) + 1e-9:
            violations.append(Violation("velocity", at_ns, f"column {column}: {value:.4f}, at most {velocity}"))
        change = abs(value - before[column])
        if dt and change > acceleration * dt * (1 + 1e-3) + 1e-6:
            text = f"column {column}: {before[column]:.4f} to {value:.4f} in {dt:.4f} s, at most {acceleration}"
            violations.append(Violation("acceleration", at_ns, text))
    return violations


def _before(command: Line, last: Line | None, rules: Rules) -> tuple[Sequence[float], float]:
    """What was in force before, and since how long; after a gap longer than its validity the robot is at rest."""
    rest = ([0.0] * len(command["values"]), rules.period_s)
    if last is None or not all(map(math.isfinite, last["values"])):
        return rest
    gap_ns = _gap_ns(command, last, rules)
    return rest if gap_ns > rules.valid_s * S else (last["values"], gap_ns / S)


def _gap_ns(command: Line, last: Line, rules: Rules) -> float:
    """Time between two commands by their stamps, where these are plausible and the wire does not contradict them.

    On the system's clock a step of the sender's clock makes no robot faster: the observer's own time bounds it.
    """
    gap_ns, arrived_ns = command["stamp"] - last["stamp"], command["r"] - last["r"]
    if not 0 <= gap_ns <= rules.valid_s * S:
        return float(arrived_ns)
    return float(gap_ns) if rules.simulated else min(float(gap_ns), arrived_ns + rules.jitter_s * S)


class _Case:
    """Whether what moves the robot had good reasons. Lines of each kind are in the order of arrival."""

    def __init__(self, epoch: _Epoch, rules: Rules, sessions: Sequence[int]) -> None:
        self._rules, self._sessions = rules, sessions
        self._chunks, self._beats = epoch.of("chunk"), epoch.of("beat")
        self._cameras, self._estops = epoch.of("camera"), epoch.of("estop")
        self._estops = [line for line in self._estops if line["pressed"]]
        self._rearms = epoch.of("rearm")
        self._states = {topic: [s for s in epoch.of("state") if s["topic"] == topic] for topic in rules.states}
        self._crowds = _crowds(epoch.of("graph"))
        listed = [self._chunks, self._beats, self._cameras, self._estops, *self._states.values()]
        self._arrivals = {id(part): [line["r"] for line in part] for part in listed}
        self._braking_since_ns: int | None = None

    def justified(self, command: Line, last: Line | None) -> list[Violation]:
        """What a moving command lacks."""
        values = command["values"]
        if not all(map(math.isfinite, values)):
            return []
        if not any(values):
            self._braking_since_ns = None
            return []
        lacking = self._lacking(command)
        outward = self._outward(command, last)
        if not lacking:
            self._braking_since_ns = None
            return outward
        if self._brakes(command, last):
            return outward
        return [Violation(kind, command["r"], detail) for kind, detail in lacking] + outward

    def _brakes(self, command: Line, last: Line | None) -> bool:
        """Every column slower than before, and not for longer than braking may last."""
        if last is None:
            return False
        if self._braking_since_ns is None:
            self._braking_since_ns = command["r"]
        slower = all(
            abs(now) < abs(before) or not now for now, before in zip(command["values"], last["values"], strict=True)
        )
        return slower and command["r"] - self._braking_since_ns <= self._rules.brake_s * S

    def _lacking(self, command: Line) -> list[tuple[str, str]]:
        faults = [self._chunk(command), self._pace(command), self._beat(command), self._camera(command)]
        faults.append(self._stopped(command))
        faults += [self._state(topic, command) for topic in self._states]
        faults.append(self._rivalry(command))
        return [fault for fault in faults if fault]

    def _until(self, part: list[Line], at_ns: float) -> list[Line]:
        """The last lines of a kind that had arrived by then, newest last."""
        end = bisect_right(self._arrivals[id(part)], at_ns)
        return part[max(0, end - 128) : end]

    def _chunk(self, command: Line) -> tuple[str, str] | None:
        rules, stamp = self._rules, command["stamp"]
        known = self._until(self._chunks, command["r"] + 0.05 * S)
        if known and command["r"] - known[-1]["r"] > (rules.deadline_s + rules.slack_s) * S:
            return "chunk_age", f"no chunk for {(command['r'] - known[-1]['r']) / S:.3f} s"
        for chunk in reversed(known):
            until = min(chunk["valid_until"], chunk["stamp"] + round(chunk["rows"] * chunk["step_s"] * S))
            if chunk["finite"] and chunk["stamp"] <= stamp + rules.future_s * S and stamp <= until + 1_000_000:
                return None
        good = [c["stamp"] for c in known if c["finite"] and c["stamp"] <= stamp + rules.future_s * S]
        age = f"{(stamp - max(good)) / S:.3f} s old" if good else "none of this time"
        return "chunk_age", f"no chunk is valid; the newest is {age}"

    def _pace(self, command: Line) -> tuple[str, str] | None:
        """Chunks of which every one comes too late: none is a reason to move."""
        known = self._until(self._chunks, command["r"])[-_PACE_CHUNKS:]
        if len(known) < _PACE_CHUNKS:
            return None
        least_s = min(b["r"] - a["r"] for a, b in pairwise(known)) / S
        slow = least_s > self._rules.deadline_s
        return ("slow_policy", f"the last chunks came {least_s:.3f} s apart or more") if slow else None

    def _beat(self, command: Line) -> tuple[str, str] | None:
        known = self._until(self._beats, command["r"] + 0.05 * S)
        silent_s = (command["r"] - known[-1]["r"]) / S if known else math.inf
        late = silent_s > self._rules.deadline_s + self._rules.slack_s
        return ("heartbeat", f"none for {silent_s:.3f} s") if late else None

    def _camera(self, command: Line) -> tuple[str, str] | None:
        low, high = command["stamp"] - self._rules.camera_max_age_s * S, command["stamp"] + self._rules.future_s * S
        known = self._until(self._cameras, command["r"] + 0.05 * S)
        if any(low <= frame["stamp"] <= high for frame in known):
            return None
        return "camera_age", f"no frame stamped in the last {self._rules.camera_max_age_s} s"

    def _state(self, topic: str, command: Line) -> tuple[str, str] | None:
        rules, stamp = self._rules, command["stamp"]
        known = self._until(self._states[topic], command["r"] + 0.05 * S)
        settled = [line for line in known if line["r"] <= command["r"] - rules.slack_s * S]
        if settled and not all(map(math.isfinite, settled[-1]["values"])) and known[-1] is settled[-1]:
            return "state_not_finite", f"{topic}: {settled[-1]['values']}"
        usable = [s["stamp"] for s in known if s["stamp"] <= stamp + rules.future_s * S and _finite(s)]
        age_s = (stamp - max(usable)) / S if usable else math.inf
        late = age_s > rules.state_max_age_s + rules.period_s
        broken = any(not _finite(s) for s in known[-8:])
        return ("state_not_finite" if broken else "state_age", f"{topic}: {age_s:.3f} s old") if late else None

    def _stopped(self, command: Line) -> tuple[str, str] | None:
        pressed = [line["r"] for line in self._until(self._estops, command["r"] - self._rules.slack_s * S)]
        if not pressed or any(pressed[-1] < line["r"] <= command["r"] for line in self._rearms):
            return None
        return "estop", "the emergency stop was pressed, and not re-armed since"

    def _rivalry(self, command: Line) -> tuple[str, str] | None:
        now_ns, patience_ns = command["r"], (self._rules.deadline_s + self._rules.slack_s) * S
        first = bisect_right(self._sessions, now_ns - S)
        last = bisect_right(self._sessions, now_ns) - 1
        going_on = first <= last and now_ns - self._sessions[last] <= self._rules.slack_s * S
        if going_on and self._sessions[first] <= now_ns - patience_ns:
            return "sessions", "two senders of chunks take turns"
        for begin_ns, end_ns, topics in self._crowds:
            if begin_ns + self._rules.rivals_s * S < command["r"] <= end_ns:
                return "publishers", f"more than one publisher of {topics}"
        return None

    def _outward(self, command: Line, last: Line | None) -> list[Violation]:
        """Towards the outside of the workspace, where the robot is measured at its edge or beyond; braking is right."""
        rules, violations = self._rules, []
        for column, topic, index, low, high in rules.ranges:
            known = [s for s in self._until(self._states[topic], command["r"]) if _finite(s)]
            if not known:
                continue
            here, rate = known[-1]["values"][index], command["values"][column]
            beyond = here - high if rate > 0 else low - here
            if rate and beyond > rules.margin and not self._slows(column, command, last):
                text = f"column {column}: {rate:.4f} at {here:.4f}, outside {low} to {high}"
                violations.append(Violation("position", command["r"], text))
        return violations

    def _slows(self, column: int, command: Line, last: Line | None) -> bool:
        """Whether this column is braked about as hard as it may be."""
        limit = next((acceleration for at, _, acceleration in self._rules.axes if at == column), None)
        if last is None or limit is None:
            return False
        rate, before = command["values"][column], last["values"][column]
        hard_s = max(0.0, _gap_ns(command, last, self._rules) / S - self._rules.jitter_s / 2)
        return rate * before > 0 and abs(before) - abs(rate) >= min(0.8 * limit * hard_s, abs(before)) > 0


def _places(epoch: _Epoch, placed: Placed, rules: Rules) -> list[Violation]:
    """Each position is within reach of the one in force, or of the measured one where none is; and near that one."""
    violations: list[Violation] = []
    last: Line | None = None
    states = [line for line in epoch.of("state") if line["topic"] == placed.state and _finite(line)]
    arrivals = [line["r"] for line in states]
    for command in epoch.of("command"):
        if command["topic"] != placed.topic:
            continue
        here, at_ns = command["values"][placed.column], command["r"]
        if not math.isfinite(here):
            violations.append(Violation("not_finite", at_ns, f"{placed.topic} {here}"))
            continue
        end = bisect_right(arrivals, at_ns)
        recent = [line["values"][placed.index] for line in states[max(0, end - 32) : end + 1]]
        known = [line for line in states[max(0, end - 32) : end + 1] if line["r"] >= at_ns - rules.slack_s * S]
        nearest = min((abs(here - line["values"][placed.index]) for line in known), default=0.0)
        if nearest > placed.tracking + rules.margin / 10:
            violations.append(Violation("tracking", at_ns, f"{placed.topic}: {here:.4f}, {nearest:.4f} from the robot"))
        gap_ns = math.inf if last is None else _gap_ns(command, last, rules)
        if last is not None and gap_ns <= rules.valid_s * S:
            starts, dt = [last["values"][placed.column]], gap_ns / S
        else:
            starts, dt = recent, rules.period_s
        if starts and min(abs(here - start) for start in starts) > placed.velocity * dt * (1 + 1e-6) + 1e-6:
            violations.append(Violation("jump", at_ns, f"{placed.topic}: {starts[-1]:.4f} to {here:.4f} in {dt:.4f} s"))
        low, high = min([placed.low, *starts]), max([placed.high, *starts])
        if not low - 1e-6 <= here <= high + 1e-6:
            text = f"{placed.topic}: {here:.4f}, outside {low:.4f} to {high:.4f}"
            violations.append(Violation("position", at_ns, text))
        last = command
    return violations


def _standing(ordered: Sequence[Line], rules: Rules) -> list[Violation]:
    """A clock that stopped: by then the last velocities must be nothing, because no validity ends by that clock."""
    patience_ns = (rules.deadline_s + rules.slack_s + rules.brake_s) * S
    violations: list[Violation] = []
    clock: Line | None = None
    moving: Line | None = None
    for line in ordered:
        if line["k"] == "clock":
            clock = line if clock is None or line["stamp"] != clock["stamp"] else clock
        elif line["k"] == "command" and line["topic"] == rules.topic:
            moving = line if any(line["values"]) else None
        late = clock is not None and line["r"] - clock["r"] > patience_ns
        if clock is not None and late and moving is not None:
            text = f"{rules.topic} {moving['values']} in force, /clock stands for {(line['r'] - clock['r']) / S:.3f} s"
            violations.append(Violation("clock", line["r"], text))
            moving = None  # once for each command
    return violations


def _uncommanded(epoch: _Epoch, rules: Rules) -> list[Violation]:
    """The robot moves on although the last command is over. A leap is no motion: an episode began elsewhere."""
    violations: list[Violation] = []
    sent = [line["r"] for line in epoch.of("command") if line["topic"] == rules.topic]
    states = [line for line in epoch.of("state") if line["topic"] == rules.hand and _finite(line)]
    for window in zip(*(states[start:] for start in range(_MOVING_STATES)), strict=False):
        commanded = bisect_right(sent, window[-1]["r"])
        if not commanded or window[0]["r"] <= sent[commanded - 1] + (rules.valid_s + rules.slack_s) * S:
            continue
        least = min(_speed(a, b) for a, b in pairwise(window))
        if least > rules.rest_speed:
            silent_s = (window[-1]["r"] - sent[commanded - 1]) / S
            text = f"{least:.3f} m/s, {silent_s:.3f} s after the last command"
            violations.append(Violation("uncommanded", window[-1]["r"], text))
    return violations


def _speed(before: Line, after: Line) -> float:
    dt = (after["stamp"] - before["stamp"]) / S
    return math.dist(before["values"], after["values"]) / dt if dt > 0 else 0.0


def _crowds(graph: Iterable[Line]) -> list[tuple[int, int, str]]:
    """From when to when a topic had more than one publisher, and which topics."""
    crowds: list[tuple[int, int, str]] = []
    since_ns: int | None = None
    for line in graph:
        topics = [topic for topic, number in line["publishers"].items() if number > 1]
        if not topics:
            since_ns = None
        elif since_ns is None:
            since_ns = line["r"]
            crowds.append((since_ns, line["r"], ", ".join(topics)))
        else:
            crowds[-1] = (since_ns, line["r"], crowds[-1][2])
    return crowds


def _finite(line: Line) -> bool:
    return all(map(math.isfinite, line["values"]))


def _grippers(epoch: _Epoch, rules: Rules) -> list[Violation]:
    violations = []
    low, high = rules.gripper
    for command in epoch.of("command"):
        if command["topic"] != "command/gripper":
            continue
        if not _finite(command):
            violations.append(Violation("not_finite", command["r"], f"gripper {command['values']}"))
        elif not all(low - 1e-6 <= value <= high + 1e-6 for value in command["values"]):
            violations.append(Violation("gripper", command["r"], f"{command['values']}, expected {low} to {high}"))
    return violations


def _punctual(epoch: _Epoch, rules: Rules) -> list[Violation]:
    """No command is put on the wire after its validity. Only where stamps are system time.

    `s` is when it was sent. That one may also arrive late is the wire's doing, and for the robot to see: it drops it.
    """
    if epoch.of("clock"):
        return []
    violations = []
    for command in epoch.of("command"):
        late_s = (command["s"] - command["stamp"]) / S
        if not -rules.future_s <= late_s <= rules.valid_s:
            violations.append(Violation("late", command["r"], f"{command['topic']}: {late_s:.3f} s after its stamp"))
    return violations


def unsigned(lines: Sequence[Line]) -> list[Line]:
    """Commands that no status of a gate tells of: somebody else sent them."""
    statuses: dict[int, list[Sequence[float]]] = {}
    for status in lines:
        if status["k"] == "status":
            statuses.setdefault(status["stamp"], []).append(status["values"])
    return [line for line in lines if line["k"] == "command" and not _announced(line, statuses.get(line["stamp"], []))]


def _announced(command: Line, statuses: Sequence[Sequence[float]]) -> bool:
    moves = [value for value in command["values"] if value]
    return any(all(any(_same(value, known) for known in values) for value in moves) for values in statuses)


def _signed(epoch: _Epoch, rules: Rules) -> list[Violation]:
    """Every command is one that a gate tells of. A gate that is killed may be unable to tell of its last one.

    Of a gate that begins, the commands may be heard before its statuses: two topics are discovered one after the other.
    Then its first status here has a number, and so many commands before it are its own.
    """
    statuses = epoch.of("status")
    if not statuses:
        return []
    strange = [c for c in unsigned([*epoch.of("command"), *statuses]) if c["r"] < statuses[-1]["r"]]
    early = set(_early(strange, statuses))
    strange = [command for command in strange if command["stamp"] not in early]
    stamps = Counter(command["stamp"] for command in strange)
    if len(stamps) < 3:
        return []
    return [Violation("rival", c["r"], f"{c['topic']}: the gate tells of no such command") for c in strange]


def _early(strange: Sequence[Line], statuses: Sequence[Line]) -> Iterator[int]:
    """Stamps of commands of a gate whose statuses were not heard yet."""
    for before, first in pairwise([{"r": 0, "number": statuses[0]["number"]}, *statuses]):
        if first["number"] <= before["number"] and first["number"] > 1:
            own = sorted({c["stamp"] for c in strange if before["r"] < c["r"] < first["r"]})
            yield from own[-(first["number"] - 1) :]


def _same(a: float, b: float) -> bool:
    return a == b or (math.isnan(a) and math.isnan(b))
