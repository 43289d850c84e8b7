"""A contract against facts about its topics: what does not fit, with what was expected, what came, what to do. Pure.

Live topics and recordings are held against the same rules; only who gathers the facts differs. What makes the model see
something else than it was trained on is a fault; what costs single frames, or may be meant, is a warning.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from edgevlm.errors import ContractError, LogError, ShapeError, StampError
from edgevlm.images.encodings import ENCODINGS
from edgevlm.manifest.contract import CameraSpec, Contract, StateSpec
from edgevlm.rosmsg.topic_facts import Facts, TopicFacts
from edgevlm.rosmsg.type_names import CAMERA_TYPES, JOINT_STATE, MANY_PUBLISHERS

Kind = Literal["topic", "publishers", "message", "encoding", "size", "frame_id", "rate", "stamps", "names", "values"]

_FAR_STDS = 50.0  # a state this many standard deviations away is in another unit or order
_FAR_SHARE = 0.1  # of a field's values; fewer are single bad readings
_STILL_SHARE = 0.5  # of a camera's frames with a stamp that had come already: the stamp stands still
_STILL_STATE_SHARE = 0.9  # of a state's messages, of which several may belong to one instant
_SPREAD_MESSAGES = 20  # so many ages tell a spread
_SHOWN = 12  # topics or joints listed in a message
_NS = 1e9


class Source(Protocol):
    """Where a state field comes from."""

    @property
    def topic(self) -> str: ...
    @property
    def joint(self) -> str: ...


class Topics(Protocol):
    """Which topic plays which part of a contract."""

    @property
    def cameras(self) -> Mapping[str, str]: ...
    @property
    def state(self) -> Mapping[str, Source]: ...


@dataclass(frozen=True)
class Limits:
    """How strict to be. Ages as in MatchSpec; the defaults are those of policy_node's parameters."""

    rate_tolerance: float = 2.0
    max_age_s: float = 0.5
    future_s: float = 0.1


@dataclass(frozen=True)
class Fault:
    """One thing that does not fit."""

    kind: Kind
    text: str


@dataclass
class Findings:
    """What does not fit, cameras first; and what only costs something."""

    faults: list[Fault] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)

    def add(self, kind: Kind, text: str) -> None:
        """Note a fault."""
        self.faults.append(Fault(kind, text))


def check_contract(contract: Contract, topics: Topics, facts: Facts, limits: Limits) -> Findings:
    """Everything that does not fit."""
    findings = Findings()
    for camera in contract.cameras:
        topic = facts.topics[topics.cameras[camera.name]]
        if _readable(f"camera {camera.name!r}", topic, CAMERA_TYPES, facts, findings):
            _camera(camera, topic, limits, findings)
    _camera_skew(contract, topics, facts, findings)
    if contract.state is not None:
        _state(contract.state, topics, facts, limits, findings)
    return findings


def refuse(where: str, findings: Findings) -> None:
    """Raise what was found, if anything.

    Raises:
        ShapeError: only pictures of another size.
        StampError: only stamps.
        LogError: only topics, messages or names that are not there.
        ContractError: anything else.
    """
    if not findings.faults:
        return
    kinds = {fault.kind for fault in findings.faults}
    error: type[ContractError | LogError] = ContractError
    if kinds == {"size"}:
        error = ShapeError
    elif kinds == {"stamps"}:
        error = StampError
    elif kinds <= {"topic", "message", "names"}:
        error = LogError
    if len(findings.faults) == 1:
        raise error(f"{where}: {findings.faults[0].text}")
    listed = "".join(f"\n  - {fault.text}" for fault in findings.faults)
    raise error(f"{where}: {len(findings.faults)} fault(s) against the contract:{listed}")


def _readable(what: str, topic: TopicFacts, types: Sequence[str], facts: Facts, findings: Findings) -> bool:
    """Whether there are messages to look at; `types` empty: any."""
    where = f"{what}, topic {topic.name}"
    before = len(findings.faults)
    if not topic.publishers:
        fitting = sorted(
            name for name, kinds in facts.names.items() if name != topic.name and (not types or set(types) & set(kinds))
        )
        listed = f"; topics that could be meant: {', '.join(fitting[:_SHOWN])}" if fitting else ""
        findings.add(
            "topic", f"{where}: nobody publishes it; start its publisher, remap it or correct the topic map{listed}"
        )
        return False
    if len(topic.publishers) > 1 and not set(topic.types) <= set(MANY_PUBLISHERS):
        nodes = ", ".join(sorted(node for node, _ in topic.publishers))
        findings.add(
            "publishers",
            f"{where}: expected one publisher, got {len(topic.publishers)} ({nodes}); stop or remap the others",
        )
    wrong = [name for name in topic.types if types and name not in types]
    if wrong:
        findings.add(
            "topic", f"{where}: expected {' or '.join(types)}, got {', '.join(wrong)}; remap it to the right topic"
        )
    elif topic.qos:
        findings.add(
            "message",
            f"{where}: {topic.qos}; set qos_overrides.{topic.name}.subscription.<policy> or the publisher's QoS",
        )
    elif topic.problem:
        findings.add("message", f"{where}: {topic.problem}")
    elif not topic.messages:
        findings.add("message", f"{where}: no message {facts.period}; check that its publisher sends")
    return len(findings.faults) == before


def _camera(camera: CameraSpec, topic: TopicFacts, limits: Limits, findings: Findings) -> None:
    where = f"camera {camera.name!r}, topic {topic.name}"
    odd = sorted(encoding for encoding in topic.encodings if encoding not in ENCODINGS)
    if odd:
        findings.add(
            "encoding",
            f"{where}: expected an encoding of {', '.join(ENCODINGS)}, got {', '.join(odd)}; convert in the driver",
        )
    wrong = sorted(topic.sizes - {(camera.width, camera.height)})
    if wrong:
        sizes = ", ".join(f"{width}x{height}" for width, height in wrong)
        findings.add(
            "size", f"{where}: expected {camera.width}x{camera.height}, got {sizes}; set the camera's resolution"
        )
    _frame_id(where, camera.frame_id, topic, findings)
    if not _stamps(where, topic, limits, _STILL_SHARE, findings):
        return  # a rate by wrong stamps tells nothing
    if topic.repeats:
        findings.warnings.append(
            f"{where}: {topic.repeats} of {len(topic.stamps_ns)} frames have a stamp that had come already; "
            "the first of each is used"
        )
    slowest, fastest = camera.rate_hz
    rate = topic.rate_hz
    if rate is not None and not slowest / limits.rate_tolerance <= rate <= fastest * limits.rate_tolerance:
        findings.add(
            "rate",
            f"{where}: expected {slowest:g} to {fastest:g} Hz, got {rate:.1f} Hz by its stamps; set the camera's rate",
        )


def _frame_id(where: str, expected: str, topic: TopicFacts, findings: Findings) -> None:
    other = sorted(topic.frame_ids - {expected})
    if expected and other:
        listed = ", ".join(map(repr, other[:_SHOWN]))
        findings.add("frame_id", f"{where}: expected frame_id {expected!r}, got {listed}; set it in the publisher")


def _stamps(where: str, topic: TopicFacts, limits: Limits, still: float, findings: Findings) -> bool:
    """Whether the stamps can be matched by; the median, for single ones are refused where they are matched."""
    stamps = len(topic.stamps_ns)
    if stamps >= 3 and topic.repeats > still * stamps:
        findings.add(
            "stamps",
            f"{where}: the stamp stands still: {stamps} messages have {stamps - topic.repeats} different stamp(s); "
            "set header.stamp in the driver, or read a recording with --stamps log",
        )
        return False
    if not len(topic.ages_ns):
        return True
    ages_s = np.asarray(topic.ages_ns, np.float64) / _NS
    age_s = float(np.median(ages_s))
    if not -limits.future_s <= age_s <= limits.max_age_s:
        findings.add(
            "stamps",
            f"{where}: expected stamps at most {limits.max_age_s:g} s old and {limits.future_s:g} s ahead, got "
            f"{age_s:+.3f} s (arrival minus stamp){_unit_hint(topic)}; synchronise the clocks, check use_sim_time on "
            "both sides, and that the driver sets header.stamp; a recording can be read with --stamps log",
        )
        return False
    low_s, high_s = np.percentile(ages_s, (10, 90))
    if len(ages_s) >= _SPREAD_MESSAGES and high_s - low_s > limits.max_age_s:
        findings.add(
            "stamps",
            f"{where}: expected stamps that run with their arrival, got ages from {low_s:+.3f} to {high_s:+.3f} s"
            f"{_unit_hint(topic)}; check the driver's clock, or read a recording with --stamps log",
        )
        return False
    far = int(((ages_s < -limits.future_s) | (ages_s > limits.max_age_s)).sum())
    if far:
        findings.warnings.append(
            f"{where}: {far} of {len(ages_s)} stamps are over {limits.future_s:g} s ahead of their arrival or over "
            f"{limits.max_age_s:g} s behind it (ages from {ages_s.min():+.3f} to {ages_s.max():+.3f} s)"
        )
    return True


def _unit_hint(topic: TopicFacts) -> str:
    """Says so when the stamps look like a number of another unit."""
    stamps = np.asarray(topic.stamps_ns, np.int64)
    parts = stamps % 1_000_000_000
    if len(stamps) >= _SPREAD_MESSAGES and parts.any():
        for unit, below in (("milliseconds", 1_000), ("microseconds", 1_000_000)):
            if int(parts.max()) < below:
                return f"; header.stamp.nanosec is always under {below}, as if it held {unit}"
    return ""


def _camera_skew(contract: Contract, topics: Topics, facts: Facts, findings: Findings) -> None:
    """Warn where cameras that are matched by their stamps arrive as if their clocks differed."""
    lead, *others = contract.cameras
    ages = {
        camera.name: float(np.median(np.asarray(ages_ns, np.float64))) / _NS
        for camera in contract.cameras
        if len(ages_ns := facts.topics[topics.cameras[camera.name]].ages_ns)
    }
    tolerance_s = contract.window.tolerance_s
    for camera in others:
        if lead.name not in ages or camera.name not in ages or len(findings.faults):
            continue
        skew_s = ages[camera.name] - ages[lead.name]
        if abs(skew_s) > tolerance_s:
            findings.warnings.append(
                f"camera {camera.name!r}: compared with their arrival its stamps are {abs(skew_s):.3f} s "
                f"{'older' if skew_s > 0 else 'newer'} than those of camera {lead.name!r}, and frames are matched "
                f"within {tolerance_s:g} s; check that their clocks are synchronised"
            )


def _state(spec: StateSpec, topics: Topics, facts: Facts, limits: Limits, findings: Findings) -> None:
    for name in dict.fromkeys(source.topic for source in topics.state.values()):
        sources = {field: source for field, source in topics.state.items() if source.topic == name}
        joints = [source.joint for source in sources.values() if source.joint]
        topic = facts.topics[name]
        if not _readable(f"state {', '.join(sources)}", topic, (JOINT_STATE,) if joints else (), facts, findings):
            continue
        where = f"state, topic {topic.name}"
        _stamps(where, topic, limits, _STILL_STATE_SHARE, findings)
        if topic.uneven:
            findings.add("names", f"{where}: {topic.uneven}")
        absent = sorted(set(joints) - topic.joints)
        if absent:
            have = ", ".join(sorted(topic.joints)[:_SHOWN]) or "none"
            findings.add(
                "names",
                f"{where}: joints {absent} are missing, it has {have}; name the robot's joints in the topic map",
            )
        if not joints:
            _frame_id(where, spec.frame_id, topic, findings)
        lost = [field for field, source in sources.items() if field in facts.missing and source.joint not in absent]
        if lost:
            reasons = sorted({facts.missing[field] for field in lost} - {""})
            because = f" ({'; '.join(reasons)})" if reasons else ""
            findings.add(
                "names", f"{where}: no number for {lost}{because}; correct their `path` or `quantity` in the topic map"
            )
    _far(spec, facts, findings)


def _far(spec: StateSpec, facts: Facts, findings: Findings) -> None:
    """Numbers that no unit of the contract explains."""
    for each in spec.fields:
        values = facts.values.get(each.name)
        if values is None or not len(values):
            continue
        with np.errstate(over="ignore"):
            apart = np.abs(values.astype(np.float64) - each.mean) / each.std
        far = ~(apart <= _FAR_STDS)  # NaN is
        if not far.any():
            continue
        worst = int(np.argmax(np.where(np.isnan(apart), np.inf, apart)))
        text = (
            f"state {each.name!r}: {values[worst]:g} {each.unit} is {apart[worst]:.0f} standard deviations from what "
            "the model was trained on"
        )
        if far.mean() > _FAR_SHARE:
            findings.add(
                "values",
                f"{text}; give the `unit` that the robot uses in the topic map, and check the joints' order",
            )
        else:
            findings.warnings.append(f"{text} ({int(far.sum())} of {len(values)} values are so far); check the sensor")
