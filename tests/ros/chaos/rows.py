"""What goes wrong, row by row: how it is done, what a judge must find without the gate, and where it shows.

`unsafe`: at least one of these kinds of violation must be on the wire when the gate is off; none where it stops without
its limits, too. `key`: the diagnostics that
tell of it, as (end of a node's name, row, key). `wild`: the model puts out wild values meanwhile, because the fault
alone would not move the robot badly, gate or none.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from edgevlm_msgs.msg import ActionChunk
from geometry_msgs.msg import PoseStamped, TwistStamped
from ros.chaos.rig import INSTRUCTION, Rig
from std_msgs.msg import Bool, String

from edgevlm_ros.qos import RELIABLE, SENSOR
from edgevlm_ros.stamps import to_time

Act = Callable[[Rig], None]
Key = tuple[str, str, str]
OTHER = "lift the red puck"
FLOOD = 1000
SLOWER_S, SLOW_DEADLINE_MS = 0.06, 50.0  # a step is longer than the deadline, and shorter than the camera's period


def nothing(rig: Rig) -> None:
    """A fault that ends by itself."""


@dataclass(frozen=True)
class Row:
    """One case.

    Attributes:
        begin, end: make the fault and end it.
        prepare, restore: what must run otherwise for this row, before the fault and after all.
        seconds: how long it lasts.
        follows: the gate need not leave the mode `follow`: there is nothing that makes chunks unusable.
        foreign: commands that the gate did not send are on the wire by nature, and are not held against it.
        silent: the gate itself is gone: the robot notices by its last command's validity, people by missing rows.
        simulated: runs in the simulator's time.
        least: how many violations of those kinds there must be without the gate; one alone may be a busy machine's.
        rules: what the judge's rules say otherwise while the fault lasts.
        says: diagnostics that must come with the gate, as (end of a node's name, row, pattern of its message).
        followed: the least share of commands that follow chunks after the recovery.
    """

    name: str
    cause: str
    begin: Act
    end: Act
    seconds: float
    unsafe: tuple[str, ...]
    key: Key
    wild: bool = False
    follows: bool = False
    foreign: bool = False
    silent: bool = False
    simulated: bool = False
    least: int = 3
    note: str = ""
    prepare: Act = nothing
    restore: Act = nothing
    rules: Mapping[str, Any] = field(default_factory=dict)
    says: tuple[Key, ...] = ()
    followed: float = 0.0


def _relay(**what: Any) -> tuple[Act, Act]:
    return (lambda rig: rig.fault(**what)), (lambda rig: rig.fault())


def _model(mode: str) -> tuple[Act, Act]:
    return (lambda rig: rig.model(mode)), (lambda rig: rig.model("ok"))


def _killed(name: str) -> tuple[Act, Act]:
    return (lambda rig: rig.kill(name)), (lambda rig: getattr(rig, f"start_{name}")())


def _frozen(name: str) -> tuple[Act, Act]:
    return (lambda rig: rig.freeze(name)), (lambda rig: rig.thaw(name))


def _flood(rig: Rig) -> None:
    for number in range(FLOOD):
        rig.instruction.publish(String(data=OTHER if number % 2 else INSTRUCTION))
        time.sleep(1 / FLOOD)
    rig.instruction.publish(String(data=INSTRUCTION))


class _Rival:
    """Publishes on somebody else's topic, from a publisher of its own, until it is ended."""

    def __init__(self, topic: str, kind: Any, rate_hz: float, make: Callable[[Rig], Any], qos: Any) -> None:
        self._topic, self._kind, self._make, self._qos = topic, kind, make, qos
        self._period_s = 1 / rate_hz
        self._over = threading.Event()
        self._thread: threading.Thread | None = None

    def begin(self, rig: Rig) -> None:
        self._over.clear()
        self._thread = threading.Thread(target=self._publish, args=(rig,), daemon=True)
        self._thread.start()

    def end(self, rig: Rig) -> None:
        assert self._thread is not None
        self._over.set()
        self._thread.join()

    def _publish(self, rig: Rig) -> None:
        publisher = rig.node.create_publisher(self._kind, self._topic, self._qos)
        while not self._over.wait(self._period_s):
            publisher.publish(self._make(rig))
        rig.node.destroy_publisher(publisher)


def _now(rig: Rig) -> Any:
    return to_time(int(rig.node.get_clock().now().nanoseconds))


def _garbage(rig: Rig) -> ActionChunk:
    """A chunk that claims to be of the right bundle, and is new, and says NaN."""
    now_ns = int(rig.node.get_clock().now().nanoseconds)
    message = ActionChunk(schema_version=1, session=666, sequence=1, bundle_sha256=rig.sha256, step_s=0.025)
    message.header.stamp, message.valid_until = to_time(now_ns), to_time(now_ns + 200_000_000)
    message.names, message.units = ["dx", "dy", "dz", "gripper"], ["m", "m", "m", "1"]
    message.values = [math.nan, 0.008, -0.008, 1.0] * 8
    return message


def _elsewhere(rig: Rig) -> PoseStamped:
    message = PoseStamped()
    message.header.stamp = _now(rig)
    position = message.pose.position
    position.x, position.y, position.z = 0.3, 0.4, 0.4
    return message


def _wild_twist(rig: Rig) -> TwistStamped:
    message = TwistStamped()
    message.header.stamp = _now(rig)
    message.twist.linear.x = 0.05
    return message


def _copied(rig: Rig) -> ActionChunk:
    """A chunk that has all that the policy's have, its session too, and wild values."""
    message = _garbage(rig)
    message.session, message.sequence = rig.session, 1_000_000_000
    message.values = [0.03, 0.0, 0.0, 1.0] * 8
    return message


def _released_by_another(rig: Rig) -> None:
    rig.press(True)
    _RIVAL_RELEASE.begin(rig)


def _end_of_another(rig: Rig) -> None:
    if not (fault := rig.rearm()):
        raise RuntimeError("the gate re-arms while the emergency stop is pressed")
    if "2 publishers" not in fault:
        raise RuntimeError(f"the gate does not name the second publisher: {fault}")
    _RIVAL_RELEASE.end(rig)
    time.sleep(1.0)
    rig.release_and_rearm()


def _pressed_and_killed(rig: Rig) -> None:
    rig.press(True)
    time.sleep(0.3)
    rig.kill("gate")
    rig.start_gate()


def _slow_policy(rig: Rig) -> None:
    session, begin_s = rig.session, time.monotonic()
    for name in ("policy", "gate"):
        rig.kill(name)
    rig.start_policy(SLOWER_S, poll_s=0.02)
    rig.start_gate(deadline_ms=SLOW_DEADLINE_MS)
    rig.wait(lambda: rig.session != session and rig.chunks_come() and rig.status_s > begin_s, 30)


def _executed_chunks(rig: Rig) -> None:
    """The policy stays as slow as it is; the gate gets the other of the two values that both sides name."""
    rig.kill("gate")
    killed_s = time.monotonic()
    rig.start_gate(deadline_ms=SLOW_DEADLINE_MS, chunk_deadline="whole_chunk")
    rig.wait(lambda: rig.status_s > killed_s, 30)


def _usual_pace(rig: Rig) -> None:
    for name in ("policy", "gate"):
        rig.kill(name)
    rig.start_policy()
    rig.start_gate()
    rig.wait(rig.well, 30)


def _controllers(rig: Rig) -> None:
    rig.kill("sim")
    rig.start_controllers()
    rig.episode(0)


def _usual_robot(rig: Rig) -> None:
    rig.kill("sim")
    if rig.enabled:
        rig.kill("command_relay")
    rig.start_sim()


def _killed_while_moving(rig: Rig) -> None:
    rig.wait(rig.moves, 20)
    rig.kill("gate")


_RIVAL_RELEASE = _Rival("estop", Bool, 20, lambda rig: Bool(data=False), RELIABLE)
_RIVAL_COPY = _Rival("action_chunk", ActionChunk, 20, _copied, RELIABLE)
_RIVAL_CHUNKS = _Rival("action_chunk", ActionChunk, 10, _garbage, RELIABLE)
_RIVAL_STATE = _Rival("hand_pose", PoseStamped, 40, _elsewhere, SENSOR)
_RIVAL_TWIST = _Rival("command/twist", TwistStamped, 40, _wild_twist, RELIABLE)
_CAMERA, _STATE, _GATE = "camera front", "state_input", "command_gate"
_AGE = ("chunk_age", "camera_age", "heartbeat")

ROWS: tuple[Row, ...] = (
    Row("control", "none", nothing, nothing, 3.0, (), ("", "", ""), follows=True),
    Row(
        "camera_stops",
        "the camera stops for 5 s",
        *_relay(camera="stop"),
        5.0,
        _AGE,
        ("policy_node", _CAMERA, "went_missing"),
    ),
    Row(
        "camera_stalls",
        "the camera stalls for 2 s and comes back",
        *_relay(camera="stop"),
        2.0,
        _AGE,
        ("policy_node", _CAMERA, "went_missing"),
    ),
    Row(
        "frames_reversed",
        "frames come in reverse order, half a second at a time",
        *_relay(camera="reverse"),
        2.5,
        _AGE,
        ("policy_node", _CAMERA, "late"),
    ),
    Row(
        "camera_stamps_past",
        "frames are stamped 10 s in the past",
        *_relay(camera_shift=-10),
        1.5,
        _AGE,
        ("policy_node", _CAMERA, "old"),
    ),
    Row(
        "camera_stamps_future",
        "frames are stamped 10 s in the future",
        *_relay(camera_shift=10),
        1.5,
        _AGE,
        ("policy_node", _CAMERA, "future"),
    ),
    Row(
        "state_stamps_past",
        "states are stamped 10 s in the past",
        *_relay(state_shift=-10),
        1.5,
        ("state_age",),
        (_GATE, "refusals", "state.old"),
    ),
    Row(
        "state_stamps_future",
        "states are stamped 10 s in the future",
        *_relay(state_shift=10),
        1.5,
        ("state_age",),
        (_GATE, "refusals", "state.future"),
    ),
    Row(
        "encoding_readable",
        "the encoding changes to bgr8, with wild values",
        *_relay(encoding="bgr8"),
        1.5,
        ("velocity", "acceleration"),
        ("policy_node", _CAMERA, "encoding_changes"),
        wild=True,
        follows=True,
    ),
    Row(
        "encoding_unreadable",
        "the encoding changes to 16UC1",
        *_relay(encoding="16UC1"),
        1.5,
        _AGE,
        ("policy_node", _CAMERA, "refused_encoding"),
    ),
    Row(
        "state_nan",
        "the measured state is NaN",
        *_relay(state="nan"),
        1.5,
        ("state_not_finite",),
        (_GATE, "fallbacks", "state_not_finite"),
    ),
    Row(
        "instruction_flood",
        "1,000 instructions in a second, with wild values",
        _flood,
        nothing,
        0.0,
        ("velocity", "acceleration"),
        ("policy_node", "instruction", "topic_taken"),
        wild=True,
        follows=True,
    ),
    Row(
        "pushed",
        "the hand is pushed 0.6 m out of its workspace, with wild values",
        *_relay(push=0.6),
        1.5,
        ("position",),
        (_GATE, "limited", "dx"),
        wild=True,
        follows=True,
    ),
    Row("model_raises", "the model raises", *_model("raise"), 1.5, _AGE, ("policy_node", "inference", "failed")),
    Row(
        "model_slow",
        "inference takes ten times as long as it may",
        *_model("slow"),
        2.5,
        _AGE,
        (_GATE, "inputs", "heartbeat.missing"),
    ),
    Row(
        "model_wild",
        "the model puts out six times what it may",
        *_model("wild"),
        1.5,
        ("velocity", "acceleration"),
        (_GATE, "limited", "dx"),
        follows=True,
    ),
    Row(
        "model_nan",
        "the model puts out NaN",
        *_model("nan"),
        1.5,
        ("not_finite",),
        (_GATE, "refusals", "chunk.not_finite"),
    ),
    Row(
        "policy_killed",
        "policy_node is killed (-9) and restarted",
        *_killed("policy"),
        1.0,
        _AGE,
        (_GATE, "inputs", "heartbeat.missing"),
    ),
    Row(
        "gate_killed",
        "command_gate is killed (-9) and restarted",
        *_killed("gate"),
        1.0,
        ("acceleration",),
        ("command_gate", "state", "memory_mb"),
        silent=True,
        least=1,
        note="no command is on the wire while the gate is dead; the robot rests when the last one is no longer valid",
    ),
    Row(
        "gate_killed_relayed",
        "command_gate is killed (-9) while it moves a robot whose controllers never drop a command",
        _killed_while_moving,
        lambda rig: rig.start_gate(),
        1.0,
        ("uncommanded",),
        ("command_gate", "state", "memory_mb"),
        silent=True,
        note="command_relay brings the robot to rest within the command's validity; without it the robot moves on",
        prepare=_controllers,
        restore=_usual_robot,
        says=(("command_relay", "twist", "no valid command"),),
    ),
    Row(
        "policy_slow",
        "each step of the model takes longer than deadline_ms; then the gate is restarted with whole_chunk",
        nothing,
        _executed_chunks,
        3.0,
        ("slow_policy",),
        (_GATE, "fallbacks", "chunk_missing"),
        note="both sides name the values to set; with one of them the robot is moved by the same policy",
        prepare=_slow_policy,
        restore=_usual_pace,
        rules={"deadline_s": SLOW_DEADLINE_MS / 1e3},
        says=tuple(
            (node, row, r"deadline_ms to at least \d+") for node, row in (("policy_node", "pace"), (_GATE, "inputs"))
        ),
        followed=0.5,
    ),
    Row(
        "rival_chunks",
        "a second publisher of chunks, with NaN",
        _RIVAL_CHUNKS.begin,
        _RIVAL_CHUNKS.end,
        2.0,
        ("not_finite",),
        (_GATE, "rivals", "topics"),
    ),
    Row(
        "rival_state",
        "a second publisher of the state, with other positions",
        _RIVAL_STATE.begin,
        _RIVAL_STATE.end,
        6.0,
        ("publishers",),
        (_GATE, "rivals", "topics"),
    ),
    Row(
        "rival_commands",
        "a second publisher of commands",
        _RIVAL_TWIST.begin,
        _RIVAL_TWIST.end,
        6.0,
        ("publishers",),
        (_GATE, "rivals", "topics"),
        foreign=True,
        note="no gate can take a rival's commands back: it stops its own and says why",
    ),
    Row(
        "chunks_copied",
        "a second publisher of chunks, with the policy's own session and wild values",
        _RIVAL_COPY.begin,
        _RIVAL_COPY.end,
        3.0,
        ("velocity", "acceleration"),
        (_GATE, "rivals", "topics"),
    ),
    Row(
        "estop_pressed",
        "the emergency stop is pressed, and released and re-armed",
        lambda rig: rig.press(True),
        lambda rig: rig.release_and_rearm(),
        1.5,
        (),
        (_GATE, "estop", "latched"),
        note="without limits the emergency stop stops, too",
    ),
    Row(
        "estop_released_by_another",
        "the emergency stop is pressed, and a second publisher says that it is released",
        _released_by_another,
        _end_of_another,
        2.5,
        (),
        (_GATE, "estop", "latched"),
        note="the re-arm is refused with the second publisher's name",
    ),
    Row(
        "gate_killed_pressed",
        "command_gate is killed (-9) and restarted while the emergency stop is pressed",
        _pressed_and_killed,
        lambda rig: rig.release_and_rearm(),
        6.0,
        (),
        (_GATE, "estop", "latched"),
    ),
    Row(
        "clock_stops",
        "the simulator and its clock stand still for 1.5 s",
        *_frozen("sim"),
        1.5,
        ("clock",),
        (_GATE, "fallbacks", "clock_stopped"),
        simulated=True,
        least=1,
    ),
    Row(
        "clock_restarts",
        "the simulator is killed (-9) and restarted, its clock at zero",
        *_killed("sim"),
        1.0,
        ("chunk_age", "state_age", "acceleration"),
        (_GATE, "inputs", "state.missing"),
        simulated=True,
        least=1,
    ),
)
BY_NAME = {row.name: row for row in ROWS}
CI = (
    *("control", "chunks_copied", "camera_stalls", "state_nan", "pushed", "model_raises", "model_nan"),
    *("policy_killed", "gate_killed_relayed", "clock_stops"),
)
