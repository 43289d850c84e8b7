"""Reads a recording as episodes of observations that fit a contract.

An episode starts where the instruction changes and ends at the next change (an empty one, or one that cannot be
decoded, only ends it), in the order of log times, so a simulated clock that starts again does no harm. Inside an
episode only header stamps count: one observation for each frame of the lead camera (the contract's first), with the
newest state at or before its stamp, and of every other camera the nearest frame within the window's tolerance. Each
picture is decoded once when the recording is opened, to leave out damaged ones, and again when it is asked for.
"""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgevlm.data.container import Container, MessageRef
from edgevlm.data.damage import sound
from edgevlm.data.decoding import DAMAGE, decoder, topic_type
from edgevlm.data.series import Series
from edgevlm.data.survey import Frames, survey
from edgevlm.errors import DependencyError, EdgevlmError, LogError
from edgevlm.manifest.contract import CameraSpec, Contract, Observation, Stamped
from edgevlm.rosmsg.camera import read_frame
from edgevlm.rosmsg.schemas import COMPRESSED_IMAGE, IMAGE, JOINT_STATE, STRING
from edgevlm.rosmsg.state import Stamps
from edgevlm.rosmsg.topic_map import TopicMap, default_topics, load_topics, topics_beside
from edgevlm.temporal import nearest_within, newest_until

_Field = tuple[list[int], NDArray[np.float32]]  # of the state: stamps, values


@dataclass(frozen=True)
class Moment:
    """One observation before its pictures are read."""

    frames: Mapping[str, tuple[int, MessageRef]]  # camera -> (stamp_ns, where)
    state: Stamped[NDArray[np.float32]] | None


@dataclass(frozen=True)
class Episode:
    """What happened under one instruction; `start_ns` is the log time of the instruction."""

    index: int
    instruction: str
    start_ns: int
    moments: tuple[Moment, ...]

    def __len__(self) -> int:
        return len(self.moments)


@dataclass
class Recording:
    """An opened recording: its usable episodes, and what had to be left out.

    Not for several threads at once: it keeps the last chunks it read.
    """

    path: Path
    contract: Contract
    topics: TopicMap
    episodes: tuple[Episode, ...]
    warnings: tuple[str, ...]
    _container: Container = field(repr=False)
    stamps: Stamps = "header"

    def __post_init__(self) -> None:
        self._types = {topic: topic_type(self._container, topic) for topic in self.topics.cameras.values()}

    def observations(self, episode: Episode) -> Iterator[Observation]:
        """Every observation of the episode, oldest first; a frame that repeats is the same object.

        Raises:
            LogError: a picture that cannot be decoded, with its topic and stamp.
            ShapeError: a picture of another size than the contract's.
        """
        last: dict[str, Stamped[NDArray[np.uint8]]] = {}
        for moment in episode.moments:
            for camera in self.contract.cameras:
                stamp_ns, ref = moment.frames[camera.name]
                if camera.name not in last or last[camera.name].stamp_ns != stamp_ns:
                    last[camera.name] = Stamped(self._picture(camera, stamp_ns, ref), stamp_ns)
            yield Observation(frames=dict(last), state=moment.state, instruction=episode.instruction)

    def observation(self, episode: Episode, index: int) -> Observation:
        """One observation of the episode; raises as `observations` does."""
        one = Episode(episode.index, episode.instruction, episode.start_ns, (episode.moments[index],))
        return next(self.observations(one))

    def _picture(self, camera: CameraSpec, stamp_ns: int, ref: MessageRef) -> NDArray[np.uint8]:
        topic = self.topics.cameras[camera.name]
        try:
            return read_frame(self._types[topic], self._container.read(ref), camera)
        except DependencyError:
            raise
        except EdgevlmError as error:
            raise type(error)(f"{self.path}: topic {topic} at stamp {stamp_ns} ns: {error}") from error


def read_log(
    path: str | os.PathLike[str], contract: Contract, topics: TopicMap | None = None, *, stamps: Stamps = "header"
) -> Recording:
    """Index a recording and pick out the episodes that fit the contract.

    Without `topics`, `<log>.topics.yaml` beside the recording is used, and without that the convention.

    Args:
        stamps: `log` takes the log times in place of the headers' stamps.

    Raises:
        LogError: no MCAP; topics missing (the message lists those found) or of the wrong type; no instruction;
            no usable episode.
        ContractError: the recording does not fit the contract, by the rules that live topics are held to.
        ShapeError: a camera recorded pictures of another size than the contract's.
        StampError: stamps by which other frames and states would be matched than belong together.
        DependencyError: the extra `bags` is not installed.
    """
    path = Path(path)
    container, topics = open_log(path, contract, topics)
    known = survey(container, contract, topics, stamps)
    instructions = _instructions(container, topics.instruction)
    frames = {
        camera.name: sound(container, topic, topic_type(container, topic), camera, known.frames[camera.name])
        for camera in contract.cameras
        for topic in (topics.cameras[camera.name],)
    }
    episodes = _episodes(container, contract, instructions, frames, known.state)
    recording = Recording(path, contract, topics, episodes, tuple(container.warnings), container, stamps)
    if not episodes:
        reasons = "; ".join(container.warnings) or "no frame follows an instruction"
        raise LogError(
            f"{path}: expected an episode with frames of every camera and a state, "
            f"found none under {len(instructions)} instruction(s): {reasons}"
        )
    return recording


def open_log(
    path: str | os.PathLike[str], contract: Contract, topics: TopicMap | None = None
) -> tuple[Container, TopicMap]:
    """An indexed recording that has all topics of the contract, and the map in force. Raises as `read_log`."""
    path = Path(path)
    container = Container(path)
    if topics is None:
        beside = topics_beside(path)
        topics = load_topics(beside) if beside.is_file() else default_topics(contract, container.found, container.used)
    topics.check(contract)
    _check_roles(container, topics)
    return container, topics


def _check_roles(container: Container, topics: TopicMap) -> None:
    roles: list[tuple[str, str, tuple[str, ...]]] = [
        (f"camera {name!r}", topic, (IMAGE, COMPRESSED_IMAGE)) for name, topic in topics.cameras.items()
    ]
    roles += [
        (f"state {name!r}", source.topic, (JOINT_STATE,) if source.joint else ())
        for name, source in topics.state.items()
    ]
    roles.append(("instruction", topics.instruction, (STRING,)))
    found = container.found
    listed = ", ".join(f"{topic} ({kind})" for topic, kind in sorted(found.items())) or "none"
    if missing := [f"{topic} for {role}" for role, topic, _ in roles if topic not in found]:
        raise LogError(
            f"{container.path}: expected the topics {missing}, found: {listed}; "
            f"map them in a file such as {topics_beside(container.path).name}"
        )
    for role, topic, kinds in roles:
        kind = topic_type(container, topic)
        if kinds and kind not in kinds:
            raise LogError(
                f"{container.path}: {role}: expected {' or '.join(kinds)} on topic {topic}, got {kind}; "
                f"found: {listed}; correct the topic map"
            )
        decoder(container, topic)


def _instructions(container: Container, topic: str) -> list[tuple[int, str]]:
    """(log time, text) of each change; empty where nothing is in force.

    The same text again changes nothing, but where messages were lost in between: another one may be among them. One
    that cannot be decoded ends what was in force.
    """
    decode = decoder(container, topic)
    changes: list[tuple[int, str]] = []
    damaged, last_ns = 0, 0
    for ref in container.select(topic):
        try:
            text = str(decode(container.read(ref)).data)
        except DAMAGE:
            damaged, text = damaged + 1, ""
        lost = any(last_ns <= last and first <= ref.log_ns for first, last in container.lost)
        if not changes or lost or text.strip() != changes[-1][1].strip():
            changes.append((ref.log_ns, text))
        last_ns = ref.log_ns
    if damaged:
        container.warnings.append(
            f"{container.path}: topic {topic}: {damaged} damaged message(s); each ends the instruction before it"
        )
    return changes


def _episodes(
    container: Container,
    contract: Contract,
    instructions: list[tuple[int, str]],
    frames: Mapping[str, Frames],
    state: tuple[Series, ...],
) -> tuple[Episode, ...]:
    starts = [log_ns for log_ns, _ in instructions]
    episodes: list[Episode] = []
    empty = dropped = 0
    for number, (start_ns, text) in enumerate(instructions):
        if not text.strip():  # the robot is to idle
            continue
        end_ns = starts[number + 1] if number + 1 < len(starts) else None
        end_ns = _until_loss(container.lost, start_ns, end_ns)
        inside = {name: _between(items, start_ns, end_ns) for name, items in frames.items()}
        moments, left_out = _moments(contract, inside, [_upto(series, end_ns) for series in state])
        dropped += left_out
        if moments:
            episodes.append(Episode(len(episodes), text, start_ns, tuple(moments)))
        else:
            empty += 1
    if empty:
        container.warnings.append(f"{container.path}: {empty} of {len(starts)} episodes have no usable observation")
    if dropped:
        container.warnings.append(
            f"{container.path}: {dropped} frame(s) left out: no state or no frame of another camera in time"
        )
    return tuple(episodes)


def _until_loss(lost: list[tuple[int, int]], start_ns: int, end_ns: int | None) -> int | None:
    """An episode ends where messages were lost: one of them may have been the next instruction."""
    cuts = [first for first, last in lost if last >= start_ns and (end_ns is None or first < end_ns)]
    return max(start_ns, min(cuts)) if cuts else end_ns


def _between(frames: Frames, start_ns: int, end_ns: int | None) -> list[tuple[int, MessageRef]]:
    """(stamp, where) of the frames logged in [start, end), by stamp, each stamp once."""
    first = bisect_left(frames, start_ns, key=_log_ns)
    last = len(frames) if end_ns is None else bisect_left(frames, end_ns, key=_log_ns)
    inside: dict[int, MessageRef] = {}
    for _, stamp_ns, ref in frames[first:last]:
        inside.setdefault(stamp_ns, ref)  # of frames with one stamp the first, as a node takes them
    return sorted(inside.items(), key=lambda item: item[0])


def _log_ns(frame: tuple[int, int, MessageRef]) -> int:
    return frame[0]


def _upto(series: Series, end_ns: int | None) -> Series:
    """The series without what was logged from `end_ns` on, by stamp."""
    keep = len(series.log_ns) if end_ns is None else int(np.searchsorted(series.log_ns, end_ns))
    order = np.argsort(series.stamps_ns[:keep], kind="stable")
    return Series(series.log_ns[:keep][order], series.stamps_ns[:keep][order], series.values[:keep][order])


def _moments(
    contract: Contract, frames: Mapping[str, list[tuple[int, MessageRef]]], state: list[Series]
) -> tuple[list[Moment], int]:
    """The observations of one episode, and how many lead frames had to be left out."""
    lead, *others = (camera.name for camera in contract.cameras)
    tolerance_ns = round(contract.window.tolerance_s * 1e9)
    max_age_ns = round(contract.window.reset_after_s * 1e9)
    stamps_ns = {name: [stamp for stamp, _ in frames[name]] for name in others}
    fields = [(series.stamps_ns.tolist(), series.values) for series in state]
    moments: list[Moment] = []
    for stamp_ns, ref in frames[lead]:
        chosen = {lead: (stamp_ns, ref)}
        for name in others:
            if (index := nearest_within(stamps_ns[name], stamp_ns, tolerance_ns)) is not None:
                chosen[name] = frames[name][index]
        times = [stamp for stamp, _ in chosen.values()]
        if len(chosen) < len(contract.cameras) or max(times) - min(times) > tolerance_ns:
            continue
        values = _state_at(fields, stamp_ns, stamp_ns - max(times) + max_age_ns) if contract.state else None
        if values is not None or contract.state is None:
            moments.append(Moment(chosen, values))
    return moments, len(frames[lead]) - len(moments)


def _state_at(fields: Sequence[_Field], stamp_ns: int, max_age_ns: int) -> Stamped[NDArray[np.float32]] | None:
    """Each field's newest value at or before the stamp, stamped as the oldest; None: one is older than `max_age_ns`."""
    values = np.empty(len(fields), np.float32)
    whole_ns = stamp_ns
    for i, (stamps_ns, series) in enumerate(fields):
        index = newest_until(stamps_ns, stamp_ns, max_age_ns)
        if index is None:
            return None
        values[i] = series[index]
        whole_ns = min(whole_ns, stamps_ns[index])
    return Stamped(values, whole_ns)
