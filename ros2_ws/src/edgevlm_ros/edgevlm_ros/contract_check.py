"""A contract against what is live: a list of faults, each with what was expected, what came, and what to do. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from statistics import median

import numpy as np
from numpy.typing import NDArray

from edgevlm.bags.messages import COMPRESSED_IMAGE, IMAGE
from edgevlm.bags.topics import TopicMap
from edgevlm.contract import CameraSpec, Contract, StateSpec
from edgevlm.images import ENCODINGS
from edgevlm_ros.topics import JOINT_STATE

CAMERA_TYPES = (IMAGE, COMPRESSED_IMAGE)
_FAR_STDS = 50.0  # a state this many standard deviations away is in another unit or order
_SHOWN = 12  # topics or joints listed in a message


@dataclass
class Seen:
    """One topic as it was for a while.

    Attributes:
        name: with namespace and remaps.
        publishers: node and type of each.
        qos: why our subscription and a publisher cannot match; empty when they can.
        stamps_ns: of the headers, in order of arrival; without those of messages that have no header.
        ages_ns: clock minus stamp on arrival.
        problem: why a message could not be read.
    """

    name: str
    publishers: tuple[tuple[str, str], ...] = ()
    qos: str = ""
    messages: int = 0
    stamps_ns: list[int] = field(default_factory=list)
    ages_ns: list[int] = field(default_factory=list)
    frame_ids: set[str] = field(default_factory=set)
    encodings: set[str] = field(default_factory=set)
    sizes: set[tuple[int, int]] = field(default_factory=set)  # width, height
    joints: set[str] = field(default_factory=set)
    uneven: str = ""  # a JointState whose lists have different lengths
    problem: str = ""

    @property
    def types(self) -> tuple[str, ...]:
        """Each type that is published, once."""
        return tuple(dict.fromkeys(type_name for _, type_name in self.publishers))

    @property
    def rate_hz(self) -> float | None:
        """By the median distance of stamps, which lost messages hardly change; None with too few."""
        stamps = sorted(set(self.stamps_ns))
        gaps = [late - early for early, late in pairwise(stamps)]
        return 1e9 / median(gaps) if len(gaps) >= 2 else None


@dataclass(frozen=True)
class Live:
    """What was found: `topics` by the map's names, `names` all topics that are published with their types.

    Attributes:
        state: the newest complete state; None while fields are `missing`.
    """

    topics: Mapping[str, Seen]
    names: Mapping[str, Sequence[str]]
    state: NDArray[np.float32] | None = None
    missing: tuple[str, ...] = ()


@dataclass(frozen=True)
class Limits:
    """How strict to be; ages as in MatchSpec."""

    check_s: float
    rate_tolerance: float
    max_age_s: float
    future_s: float


def faults(contract: Contract, topics: TopicMap, live: Live, limits: Limits) -> list[str]:
    """Everything that does not fit, cameras first."""
    found: list[str] = []
    for camera in contract.cameras:
        seen = live.topics[topics.cameras[camera.name]]
        common = _publishers(f"camera {camera.name!r}", seen, CAMERA_TYPES, live, limits)
        found += common or _camera(camera, seen, limits)
    if contract.state is not None:
        found += _state(contract.state, topics, live, limits)
    return found


def _publishers(what: str, seen: Seen, types: Sequence[str], live: Live, limits: Limits) -> list[str]:
    """What is wrong before a message can be looked at; `types` empty: any."""
    where = f"{what}, topic {seen.name}"
    if not seen.publishers:
        fitting = sorted(
            name for name, kinds in live.names.items() if name != seen.name and (not types or set(types) & set(kinds))
        )
        listed = f"; live topics that could be meant: {', '.join(fitting[:_SHOWN])}" if fitting else ""
        return [f"{where}: nobody publishes it; start its publisher, remap it or correct the topic map{listed}"]
    found = []
    if len(seen.publishers) > 1:
        nodes = ", ".join(sorted(node for node, _ in seen.publishers))
        found.append(f"{where}: expected one publisher, got {len(seen.publishers)} ({nodes}); stop or remap the others")
    wrong = [name for name in seen.types if types and name not in types]
    if wrong:
        return [*found, f"{where}: expected {' or '.join(types)}, got {', '.join(wrong)}; remap it to the right topic"]
    if seen.qos:
        found.append(f"{where}: {seen.qos}; set qos_overrides.{seen.name}.subscription.<policy> or the publisher's QoS")
    elif not seen.messages:
        found.append(f"{where}: no message within {limits.check_s:g} s; check that its publisher sends")
    elif seen.problem:
        found.append(f"{where}: {seen.problem}")
    return found


def _camera(camera: CameraSpec, seen: Seen, limits: Limits) -> list[str]:
    where = f"camera {camera.name!r}, topic {seen.name}"
    found = []
    odd = sorted(encoding for encoding in seen.encodings if encoding not in ENCODINGS)
    if odd:
        found.append(
            f"{where}: expected an encoding of {', '.join(ENCODINGS)}, got {', '.join(odd)}; convert in the driver"
        )
    wrong = sorted(seen.sizes - {(camera.width, camera.height)})
    if wrong:
        sizes = ", ".join(f"{width}x{height}" for width, height in wrong)
        found.append(f"{where}: expected {camera.width}x{camera.height}, got {sizes}; set the camera's resolution")
    found += _frame_id(where, camera.frame_id, seen)
    found += _stamps(where, seen, limits)
    slowest, fastest = camera.rate_hz
    rate = seen.rate_hz
    if rate is not None and not slowest / limits.rate_tolerance <= rate <= fastest * limits.rate_tolerance:
        found.append(
            f"{where}: expected {slowest:g} to {fastest:g} Hz, got {rate:.1f} Hz by its stamps; set the camera's rate"
        )
    return found


def _frame_id(where: str, wanted: str, seen: Seen) -> list[str]:
    other = sorted(seen.frame_ids - {wanted})
    if not wanted or not other:
        return []
    return [f"{where}: expected frame_id {wanted!r}, got {', '.join(map(repr, other))}; set it in the publisher"]


def _stamps(where: str, seen: Seen, limits: Limits) -> list[str]:
    if not seen.ages_ns:
        return []
    age_s = median(seen.ages_ns) / 1e9
    if -limits.future_s <= age_s <= limits.max_age_s:
        return []
    return [
        f"{where}: expected stamps at most {limits.max_age_s:g} s old, got {age_s:+.3f} s (clock minus stamp); "
        "synchronise the clocks, check use_sim_time on both sides, and that the driver sets header.stamp"
    ]


def _state(spec: StateSpec, topics: TopicMap, live: Live, limits: Limits) -> list[str]:
    found: list[str] = []
    for topic in dict.fromkeys(source.topic for source in topics.state.values()):
        wanted = {name: source for name, source in topics.state.items() if source.topic == topic}
        joints = [source.joint for source in wanted.values() if source.joint]
        seen = live.topics[topic]
        common = _publishers(f"state {', '.join(wanted)}", seen, (JOINT_STATE,) if joints else (), live, limits)
        found += common
        if common:
            continue
        where = f"state, topic {seen.name}"
        found += _stamps(where, seen, limits)
        if seen.uneven:
            found.append(f"{where}: {seen.uneven}")
        absent = sorted(set(joints) - seen.joints)
        if absent:
            have = ", ".join(sorted(seen.joints)[:_SHOWN])
            found.append(
                f"{where}: joints {absent} are missing, it has {have}; name the robot's joints in the topic map"
            )
        if not joints:
            found += _frame_id(where, spec.frame_id, seen)
        lost = [name for name, source in wanted.items() if name in live.missing and source.joint not in absent]
        if lost:
            found.append(f"{where}: no number for {lost}; correct their `path` or `quantity` in the topic map")
    return found + _far(spec, live.state)


def _far(spec: StateSpec, state: NDArray[np.float32] | None) -> list[str]:
    """Numbers that no unit of the contract explains."""
    if state is None:
        return []
    found = []
    for each, value in zip(spec.fields, state.tolist(), strict=True):
        apart = abs(value - each.mean) / each.std
        if not apart <= _FAR_STDS:  # NaN is not
            found.append(
                f"state {each.name!r}: {value:g} {each.unit} is {apart:.0f} standard deviations from what the model "
                "was trained on; give the `unit` that the robot uses in the topic map, and check the joints' order"
            )
    return found
