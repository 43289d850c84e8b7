"""One pass over a recording before it is used: its frames and states, and the facts that the contract is held to.

Whoever reads a recording goes through here, so export, calibrate, verify and replay refuse and warn alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from edgevlm.data.arrival import Ages, Arrival, ages
from edgevlm.data.container import Container, MessageRef
from edgevlm.data.decoding import channels_of, check_wire
from edgevlm.data.series import Series, States, read_states
from edgevlm.errors import ContractError, EdgevlmError, LogError
from edgevlm.manifest.contract import SECOND_NS, Contract
from edgevlm.rosmsg.camera import read_message
from edgevlm.rosmsg.contract_check import Limits, check_contract, refuse
from edgevlm.rosmsg.state import Stamps
from edgevlm.rosmsg.topic_facts import Facts, TopicFacts
from edgevlm.rosmsg.topic_map import TopicMap

Frames = list[tuple[int, int, MessageRef]]  # (log time, stamp, where)

_DECODED = 8  # compressed pictures of each camera that are tried until one tells the size
_OTHER_CLOCK_NS = 3600 * SECOND_NS
_LATEST_NS = 1 << 62  # so that differences fit an int64


@dataclass(frozen=True)
class Survey:
    """What a recording has for a contract.

    Attributes:
        frames: camera -> its frames by log time.
        state: one series for each field, in the contract's order.
        unstamped: topics of cameras whose header stamps are all 0; log times stand for them.
        stamps_are_time: header stamps are of another clock than log times (a simulation's), so they are the data time.
    """

    frames: Mapping[str, Frames]
    state: tuple[Series, ...]
    unstamped: frozenset[str]
    stamps_are_time: bool


def survey(container: Container, contract: Contract, topics: TopicMap, stamps: Stamps = "header") -> Survey:
    """Look at every message of the contract's topics; what costs single ones is added to the container's warnings.

    Args:
        stamps: `log` takes the log times in place of the headers' stamps.

    Raises:
        LogError, ContractError: the recording does not fit the contract, in one message for all that is wrong.
    """
    if stamps not in ("header", "log"):
        raise ContractError(f"stamps: expected header or log, got {stamps!r}")
    _check_log_times(container, topics)
    if not container.select(topics.instruction):
        raise LogError(
            f"{container.path}: topic {topics.instruction} has no message; each episode starts with one that says what "
            "to do"
        )
    sensors = dict.fromkeys((*topics.cameras.values(), *(source.topic for source in topics.state.values())))
    facts = {topic: _published(container, topic) for topic in sensors}
    by_topic = {topic: _frames(container, facts[topic], stamps) for topic in dict.fromkeys(topics.cameras.values())}
    read = read_states(container, topics, contract.state, facts, stamps) if contract.state else States((), {}, {})
    arrivals = {topic: _arrival(frames) for topic, frames in by_topic.items() if frames} | dict(read.arrivals)
    limits = Limits()
    aged = ages(arrivals, limits)
    for topic, ages_ns in aged.ages_ns.items():
        facts[topic].ages_ns = ages_ns
    names = {name: (kind,) for name, kind in container.found.items()}
    fields = contract.state.names if contract.state else ()
    values = {name: series.values for name, series in zip(fields, read.series, strict=True)}
    findings = check_contract(contract, topics, Facts(facts, names, values, read.missing), limits)
    refuse(str(container.path), findings)
    container.warnings += [f"{container.path}: {warning}" for warning in findings.warnings]
    if aged.reference:
        container.warnings.append(
            f"{container.path}: topic {aged.reference}: its stamps are of another clock than the log times "
            f"({abs(aged.apart_ns) / SECOND_NS:.3f} s apart); they are taken as the time{_latest(aged)}"
        )
    frames = {camera.name: by_topic[topics.cameras[camera.name]] for camera in contract.cameras}
    unstamped = frozenset(topic for topic, items in by_topic.items() if items and not len(facts[topic].stamps_ns))
    return Survey(frames, read.series, unstamped, bool(aged.reference) and abs(aged.apart_ns) >= _OTHER_CLOCK_NS)


def _latest(aged: Ages) -> str:
    """How much older the other topics' stamps are by that clock."""
    others = {
        topic: float(np.median(each)) / SECOND_NS for topic, each in aged.ages_ns.items() if topic != aged.reference
    }
    return "".join(f"; {topic} is {age_s:+.3f} s behind it on arrival" for topic, age_s in others.items())


def _published(container: Container, topic: str) -> TopicFacts:
    """The topic with its publishers: channels whose messages are mixed; a channel after another is the same one."""
    numbers = sorted(n for n, channel in container.channels.items() if channel.topic == topic)
    logged: dict[int, tuple[int, int]] = {}  # channel -> its first and last log time
    wanted = set(numbers)
    for ref in container.refs:  # by log time
        if ref.channel in wanted:
            logged[ref.channel] = (logged.get(ref.channel, (ref.log_ns, 0))[0], ref.log_ns)
    spans = sorted(logged.values())
    mixed = any(later[0] < earlier[1] for earlier, later in pairwise(spans))
    kind = channels_of(container, topic)[0].type_name
    publishers = [(f"channel {number}", kind) for number in numbers] if mixed else [(f"channel {numbers[0]}", kind)]
    return TopicFacts(topic, tuple(publishers))


def _frames(container: Container, facts: TopicFacts, stamps: Stamps) -> Frames:
    """A camera's frames by log time; a topic whose stamps are all 0 takes the log times, with a warning."""
    where = f"{container.path}: topic {facts.name}"
    frames: Frames = []
    damaged, undecoded, decoded = 0, "", 0
    for ref in container.select(facts.name):
        data = container.read(ref)
        check_wire(data, where)
        try:
            message = read_message(facts.types[0], data)
        except LogError as error:
            damaged, undecoded = damaged + 1, undecoded or str(error)
            continue
        frames.append((ref.log_ns, message.stamp_ns, ref))
        facts.frame_ids.add(message.frame_id)
        if not message.compressed:
            facts.encodings.add(message.encoding)
            facts.sizes.add((message.width, message.height))
        elif not decoded and len(frames) <= _DECODED:
            try:
                header = message.header()
            except EdgevlmError as error:
                undecoded = undecoded or str(error)
                continue
            decoded += 1
            facts.sizes.add((header.width, header.height))
    if damaged:
        container.warnings.append(f"{where}: {damaged} damaged message(s) left out")
    facts.messages = len(frames)
    if undecoded and not decoded and not facts.encodings:
        facts.problem = f"none of the first {min(_DECODED, damaged + len(frames))} pictures can be read: {undecoded}"
    return _stamped(container, facts, frames, stamps)


def _stamped(container: Container, facts: TopicFacts, frames: Frames, stamps: Stamps) -> Frames:
    """The frames with the stamps that are in force."""
    where = f"{container.path}: topic {facts.name}"
    if stamps == "header":
        known = [frame for frame in frames if frame[1]]
        if known:
            if len(known) < len(frames):
                container.warnings.append(f"{where}: {len(frames) - len(known)} frame(s) with a stamp of 0 left out")
            facts.stamps_ns = np.array([stamp_ns for _, stamp_ns, _ in known], np.int64)
            return known
        if frames:
            container.warnings.append(f"{where}: every header stamp is 0, used the log times")
    else:
        facts.stamps_ns = np.array([log_ns for log_ns, _, _ in frames], np.int64)
    return [(log_ns, log_ns, ref) for log_ns, _, ref in frames]


def _arrival(frames: Frames) -> Arrival:
    pairs = np.array([(log_ns, stamp_ns) for log_ns, stamp_ns, _ in frames], np.int64)
    return Arrival(pairs[:, 0], pairs[:, 1])


def _check_log_times(container: Container, topics: TopicMap) -> None:
    """Refuse log times that do not tell which instruction a frame belongs to."""
    roles = {topics.instruction, *topics.cameras.values(), *(source.topic for source in topics.state.values())}
    numbers = {number: channel.topic for number, channel in container.channels.items() if channel.topic in roles}
    times: dict[str, list[int]] = {topic: [] for topic in roles}
    for ref in container.refs:
        if ref.channel in numbers:
            times[numbers[ref.channel]].append(ref.log_ns)
    fix = "episodes are told apart by log times; record again, or write them anew from the header stamps"
    known = [log_ns for each in times.values() for log_ns in each]
    if known and max(known) > _LATEST_NS:
        raise LogError(f"{container.path}: a log time of {max(known)} ns is no time; {fix}")
    if any(len(each) > 1 for each in times.values()) and min(known) == max(known):
        raise LogError(f"{container.path}: all {len(known)} messages have the log time {known[0]} ns; {fix}")
    for topic, each in sorted(times.items()):
        others = [min(times[other]) for other in roles if other != topic and times[other]]
        if each and others and min(others) - min(each) > _OTHER_CLOCK_NS:
            raise LogError(
                f"{container.path}: topic {topic}: its log times begin {(min(others) - min(each)) / SECOND_NS:.0f} s "
                f"before those of every other topic; {fix}"
            )
