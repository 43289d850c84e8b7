"""A recording as what happened, one thing after the other in the order of log times: for feeding a loop with it.

`read_log` puts observations together with all of a recording in view; here nothing is known before its time.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.data.base import Event, FrameEvent, InstructionEvent, StateEvent
from edgevlm.data.container import Container, MessageRef
from edgevlm.data.damage import Damaged
from edgevlm.data.decoding import DAMAGE, decoder, topic_type
from edgevlm.data.recording import open_log
from edgevlm.data.survey import Survey, survey
from edgevlm.errors import ContractError, DependencyError, LogError, NonFiniteError
from edgevlm.manifest.contract import CameraSpec, Contract, Stamped, check_state
from edgevlm.rosmsg.camera import header_stamp_ns, read_frame
from edgevlm.rosmsg.state import Stamps, StateAssembler, header_ns
from edgevlm.rosmsg.topic_map import TopicMap


class Stream:
    """The events of an MCAP file, as `EventStream` says. Not for several threads at once."""

    def __init__(
        self, container: Container, contract: Contract, topics: TopicMap, known: Survey, stamps: Stamps = "header"
    ) -> None:
        self._container, self._contract, self._topics = container, contract, topics
        self._stamps: Stamps = stamps
        self._cameras: dict[str, list[CameraSpec]] = {}
        for camera in contract.cameras:
            self._cameras.setdefault(topics.cameras[camera.name], []).append(camera)
        states = {source.topic for source in topics.state.values()}
        self._decoders = {topic: decoder(container, topic) for topic in sorted({topics.instruction, *states})}
        wanted = {*self._cameras, *self._decoders}
        self._topic = {number: channel.topic for number, channel in container.channels.items()}
        self._refs = [ref for ref in container.refs if self._topic.get(ref.channel) in wanted]
        self.first_ns = self._refs[0].log_ns if self._refs else 0
        self.last_ns = self._refs[-1].log_ns if self._refs else 0
        self._types = {topic: topic_type(container, topic) for topic in self._cameras}
        self._counts: Counter[str] = Counter()
        self._damaged: dict[str, Damaged] = {}
        self._unstamped = known.unstamped
        self.stamps_are_time = known.stamps_are_time

    def __len__(self) -> int:
        """How many messages there are; some of them are no event."""
        return len(self._refs)

    @property
    def warnings(self) -> tuple[str, ...]:
        counted = [f"{self._container.path}: {what}: {count} left out" for what, count in self._counts.items()]
        damaged = [each.warning for each in self._damaged.values() if each.warning]
        return (*self._container.warnings, *counted, *damaged)

    def __iter__(self) -> Iterator[Event]:
        """The events, oldest log time first; equal times in the file's order.

        Raises:
            LogError, ContractError: too many pictures that cannot be used.
            LogError: a state message without the path that the topic map names.
        """
        self._counts.clear()
        totals = Counter(self._topic[ref.channel] for ref in self._refs)
        self._damaged = {
            camera.name: Damaged(f"{self._container.path}: topic {topic}", totals[topic])
            for topic, cameras in self._cameras.items()
            for camera in cameras
        }
        spec = self._contract.state
        assembler = StateAssembler(spec, self._topics, str(self._container.path), self._stamps) if spec else None
        losses = sorted(self._container.lost)
        lost_until_ns, newest_state_ns = -1, None
        for ref in self._refs:
            while losses and losses[0][0] <= ref.log_ns:
                first_ns, last_ns = losses.pop(0)
                lost_until_ns = max(lost_until_ns, last_ns)
                yield InstructionEvent(first_ns if first_ns >= self.first_ns else ref.log_ns, None)
            topic = self._topic[ref.channel]
            if topic in self._cameras:
                yield from self._frames(topic, ref)
                continue
            message = self._decoded(topic, ref)
            if message is None:
                if topic == self._topics.instruction:  # it may have been another one
                    yield InstructionEvent(ref.log_ns, None)
                continue
            if topic == self._topics.instruction:
                if ref.log_ns > lost_until_ns:  # otherwise a later one may be among what was lost
                    yield InstructionEvent(ref.log_ns, str(message.data))
                continue
            assert assembler is not None
            state = self._state(assembler, topic, message, ref)
            if state is not None and state.stamp_ns != newest_state_ns:  # equal: another topic's message decides
                newest_state_ns = state.stamp_ns
                yield StateEvent(ref.log_ns, state)

    def _frames(self, topic: str, ref: MessageRef) -> Iterator[FrameEvent]:
        data = self._container.read(ref)
        for camera in self._cameras[topic]:
            try:
                by_log = self._stamps == "log" or topic in self._unstamped
                stamp_ns = ref.log_ns if by_log else header_stamp_ns(data)
                picture = read_frame(self._types[topic], data, camera)
            except DependencyError:
                raise
            except (LogError, ContractError) as error:
                self._damaged[camera.name].add(f"{ref.log_ns} ns", error)
                continue
            except ValueError:
                self._counts[f"topic {topic}: damaged message(s)"] += 1
                continue
            if stamp_ns:  # a driver that has not set it yet
                yield FrameEvent(ref.log_ns, camera.name, Stamped(picture, stamp_ns))

    def _decoded(self, topic: str, ref: MessageRef) -> Any:
        try:
            return self._decoders[topic](self._container.read(ref))
        except DAMAGE:
            self._counts[f"topic {topic}: damaged message(s)"] += 1
            return None

    def _state(
        self, assembler: StateAssembler, topic: str, message: Any, ref: MessageRef
    ) -> Stamped[NDArray[np.float32]] | None:
        assert self._contract.state is not None
        own_ns = header_ns(getattr(message, "header", None)) if self._stamps == "header" else 0
        whole = assembler.feed(topic, message, own_ns or ref.log_ns)
        if whole is None:
            return None
        try:
            return Stamped(check_state(self._contract.state, whole.value), whole.stamp_ns)
        except NonFiniteError:
            self._counts["state(s) with NaN or infinite values"] += 1
            return None


def open_stream(
    path: str | os.PathLike[str], contract: Contract, topics: TopicMap | None = None, *, stamps: Stamps = "header"
) -> Stream:
    """The events of a recording; what it has is looked at first, as `read_log` does.

    Raises:
        LogError, ContractError, DependencyError: as `read_log`; there must be an instruction, but no usable episode.
    """
    container, topics = open_log(path, contract, topics)
    return Stream(container, contract, topics, survey(container, contract, topics, stamps), stamps)
