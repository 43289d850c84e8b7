"""Messages of cameras and state -> matched observations. What is bad is counted and refused; nothing here raises.

One thread calls it, the one that runs the node's callbacks. No rclpy.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from edgevlm.clock import DataClock
from edgevlm.errors import ContractError, EdgevlmError, NonFiniteError, ShapeError
from edgevlm.images.encodings import ENCODINGS
from edgevlm.loop.mailbox import Mailbox
from edgevlm.loop.matching import Matched, Matcher, MatchSpec
from edgevlm.loop.watchdog import Deadline, Row, Watchdog
from edgevlm.loop.worker import Clocks
from edgevlm.manifest.contract import SECOND_NS, CameraSpec, CheckedFrame, Contract, Stamped, check_state
from edgevlm.rosmsg.camera import CameraMessage, format_problem, read_message
from edgevlm.rosmsg.topic_map import TopicMap
from edgevlm_ros.lifecycle_node import Report
from edgevlm_ros.topics import StateAssembler, message_stamp_ns

_VERDICTS = ("taken", "late", "old", "future")
_REFUSED_FRAMES = ("damaged", "encoding", "size", "frame_id")
_REFUSED_STATES = ("not_finite", "fields")


class InputPipeline:
    """From messages to the worker's mailbox.

    Args:
        warn: takes what is wrong with the input, for the log.
        restarted: is called when the clock began anew.

    Attributes:
        wake_steady_ns: when `wake` is to be called; None: not before the next message.
    """

    def __init__(
        self,
        contract: Contract,
        topics: TopicMap,
        spec: MatchSpec,
        mailbox: Mailbox[Matched],
        clocks: Clocks,
        silence_s: float,
    ) -> None:
        self._cameras = {camera.name: camera for camera in contract.cameras}
        self._mailbox, self._clocks = mailbox, clocks
        self._state = contract.state
        self._assembler = StateAssembler(contract.state, topics) if contract.state else None
        self._matcher = Matcher(list(self._cameras), spec, needs_state=contract.state is not None)
        sources = [*self._cameras, *(["state"] if contract.state else [])]
        self._watchdog = Watchdog([Deadline(name=name, timeout_s=silence_s) for name in sources], clocks.steady())
        self._counts: Counter[str] = Counter()
        self._last_refusal: dict[str, str] = {}
        self._reported: Counter[str] = Counter()  # refusals of each source at the last report
        self._newest_ns: dict[str, int] = {}
        self._encodings: dict[str, str] = {}  # of each camera's last readable frame
        self._clock = DataClock(round(spec.reset_after_s * SECOND_NS))
        self.warn: Callable[[str], None] = lambda message: None
        self.restarted: Callable[[], None] = lambda: None

    @property
    def wake_steady_ns(self) -> int | None:
        return self._matcher.wake_steady_ns

    def camera(self, name: str, type_name: str, data: bytes) -> None:
        """A camera's message as it came from the wire."""
        self._counts[f"{name}.received"] += 1
        now_ns, camera = self._now_ns(), self._cameras[name]
        try:
            message = read_message(type_name, data)
            if (unfit := _unfit(message, camera)) is not None:
                self._refuse(name, *unfit)
                return
            image = _frame(message, camera)
            changed = message.encoding != self._encodings.setdefault(name, message.encoding)
            self._counts[f"{name}.encoding_changes"] += changed
            self._encodings[name] = message.encoding
        except ShapeError as error:
            self._refuse(name, "size", str(error))
            return
        except EdgevlmError as error:
            self._refuse(name, "damaged", str(error))
            return
        taken = self._matcher.add_frame(name, Stamped(image, message.stamp_ns), now_ns, self._clocks.steady())
        self._heard(name, taken, message.stamp_ns, now_ns)
        self._match(now_ns)

    def state(self, topic: str, message: Any) -> None:
        """A message of a topic of the state."""
        assert self._assembler is not None and self._state is not None
        self._counts["state.received"] += 1
        now_ns = self._now_ns()
        try:
            complete = self._assembler.feed(topic, message, message_stamp_ns(message, now_ns))
            if complete is None:
                return  # other joints, or another topic's fields are still to come
            if complete.stamp_ns == self._newest_ns.get("state"):
                return  # another topic's message of this stamp decides
            state = Stamped(check_state(self._state, complete.value), complete.stamp_ns)
        except NonFiniteError as error:
            self._refuse("state", "not_finite", str(error))
            return
        except (EdgevlmError, TypeError, ValueError, OverflowError) as error:  # fields that are no numbers
            self._refuse("state", "fields", str(error))
            return
        taken = self._matcher.add_state(state, now_ns)
        self._heard("state", taken, state.stamp_ns, now_ns)
        self._match(now_ns)

    def wake(self) -> None:
        """A frame has waited for its partners long enough."""
        self._match(self._now_ns())

    @property
    def frames_received(self) -> int:
        """Of all cameras."""
        return sum(self._counts[f"{name}.received"] for name in self._cameras)

    @property
    def frames_dropped(self) -> int:
        """Of all cameras: refused, by stamp too, or never matched."""
        matcher = self._matcher.counts
        by_stamp = sum(matcher[f"{name}.{why}"] for name in self._cameras for why in (*_VERDICTS[1:], "unmatched"))
        return by_stamp + sum(
            self._counts[f"{name}.refused_{why}"] for name in self._cameras for why in _REFUSED_FRAMES
        )

    def report(self) -> list[Report]:
        """A row for each camera, one for the state, one for the matching."""
        self._watchdog.check(self._clocks.steady())
        rows = [self._row(row) for row in self._watchdog.rows(self._clocks.steady())]
        counts = self._matcher.counts
        matching = {
            "matched": counts["matched"],
            "skipped": counts["skipped"],
            "clock_restarts": counts["restarts"],
            "observations": self._mailbox.puts,
            "observations_dropped": self._mailbox.drops,
        }
        return [*rows, ("matching", "ok", "ok", matching)]

    def _row(self, row: Row) -> Report:
        name = row.name
        reasons = _REFUSED_STATES if name == "state" else _REFUSED_FRAMES
        refused = {f"refused_{why}": self._counts[f"{name}.refused_{why}"] for why in reasons}
        verdicts = {why: self._matcher.counts[f"{name}.{why}"] for why in _VERDICTS}
        figures: dict[str, object] = {"received": self._counts[f"{name}.received"], **verdicts, **refused}
        if name != "state":
            figures["unmatched"] = self._matcher.counts[f"{name}.unmatched"]
            figures["encoding_changes"] = self._counts[f"{name}.encoding_changes"]
            figures["missing_frames"] = self._counts[f"{name}.missing_frames"]
            figures["skew_ms"] = _ms(self._matcher.skew_ns(name))
        figures |= {
            "health": row.health,
            "went_missing": row.missing,
            "rate_hz": row.rate_hz,
            "age_ms": row.age_ms,
            "lag_ms": _ms(self._matcher.lag_ns(name)),
            "silent_s": row.silent_s,
            "last_refusal": self._last_refusal.get(name, ""),
        }
        bad = sum(refused.values()) + sum(count for why, count in verdicts.items() if why != "taken")
        fresh, self._reported[name] = bad > self._reported[name], bad
        section = "state_input" if name == "state" else f"camera {name}"
        if row.health == "missing":
            return section, "error", f"nothing usable for {row.silent_s:.1f} s", figures
        if fresh:
            return section, "warn", f"some were refused; the last: {self._last_refusal.get(name, '')}", figures
        return section, "ok", row.health, figures

    def _refuse(self, source: str, why: str, detail: str) -> None:
        self._counts[f"{source}.refused_{why}"] += 1
        self._last_refusal[source] = detail
        self._watchdog.drop(source)
        self.warn(f"{source}: refused ({why}): {detail}")

    def _heard(self, source: str, taken: bool, stamp_ns: int, now_ns: int) -> None:
        if not taken:
            detail = f"stamp {stamp_ns} ns is late, old or in the future; the clock says {now_ns} ns"
            self._last_refusal[source] = detail
            self._watchdog.drop(source)
            self.warn(f"{source}: refused: {detail}")
            return
        last_ns = self._newest_ns.get(source)
        self._newest_ns[source] = stamp_ns
        self._watchdog.beat(source, self._clocks.steady(), now_ns - stamp_ns)
        if source in self._cameras and last_ns is not None:
            periods = round((stamp_ns - last_ns) / SECOND_NS * self._cameras[source].rate_hz[0])
            self._counts[f"{source}.missing_frames"] += max(0, periods - 1)

    def _match(self, now_ns: int) -> None:
        matched = self._matcher.match(now_ns, self._clocks.steady())
        if matched is not None:
            self._mailbox.put(matched)

    def _now_ns(self) -> int:
        """The clock; when it began anew, what was known of the state is of another time."""
        now_ns, before_ns = self._clocks.ros(), self._clock.now_ns
        if self._clock.read(now_ns):
            assert before_ns is not None
            self.warn(f"the clock went back by {(before_ns - now_ns) / 1e9:.3f} s: beginning anew")
            if self._assembler:
                self._assembler.reset()
            self._newest_ns.clear()
            self.restarted()
        return now_ns


def _unfit(message: CameraMessage, camera: CameraSpec) -> tuple[str, str] | None:
    """Why a picture need not be decoded, and what to tell.

    Raises:
        ContractError: a compressed one whose header is damaged.
    """
    if camera.frame_id and message.frame_id != camera.frame_id:
        return "frame_id", f"expected frame_id {camera.frame_id!r}, got {message.frame_id!r}; set it in the publisher"
    if not message.compressed:
        if message.encoding not in ENCODINGS:
            got = f"expected one of {', '.join(ENCODINGS)}, got {message.encoding!r}; convert in the driver"
            return "encoding", got
        size = message.width, message.height
    else:
        if (problem := format_problem(message.encoding, None, camera.encoding)) is not None:
            return "encoding", problem
        header = message.header()
        size = header.width, header.height
    if size != (camera.width, camera.height):
        got = f"{size[0]}x{size[1]}"
        return "size", f"expected {camera.width}x{camera.height}, got {got}; set the camera's resolution"
    if message.compressed and (problem := format_problem(message.encoding, header, camera.encoding)) is not None:
        return "encoding", problem
    return None


def _frame(message: CameraMessage, camera: CameraSpec) -> CheckedFrame:
    try:
        return message.frame(camera)
    except ShapeError as error:  # its size fits, so its bytes do not
        raise ContractError(str(error)) from error


def _ms(duration_ns: int | None) -> float | None:
    return None if duration_ns is None else duration_ns / 1e6
