"""What is known about the topics of a contract: filled by a live graph, or by any reader of recordings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray


@dataclass
class TopicFacts:
    """One topic, as it was over some time.

    Attributes:
        name: with namespace and remaps.
        publishers: name and message type of each.
        qos: why our subscription and a publisher cannot match; empty when they can.
        messages: how many could be read.
        stamps_ns: of the headers, in order of arrival; without those of messages that have no header.
        ages_ns: arrival minus stamp, by the clock that the stamps are of.
        sizes: width, height.
        uneven: what is wrong with a JointState whose lists do not belong together.
        problem: why a message could not be read.
    """

    name: str
    publishers: tuple[tuple[str, str], ...] = ()
    qos: str = ""
    messages: int = 0
    stamps_ns: Sequence[int] | NDArray[np.int64] = field(default_factory=list)
    ages_ns: Sequence[int] | NDArray[np.int64] = field(default_factory=list)
    frame_ids: set[str] = field(default_factory=set)
    encodings: set[str] = field(default_factory=set)
    sizes: set[tuple[int, int]] = field(default_factory=set)
    joints: set[str] = field(default_factory=set)
    uneven: str = ""
    problem: str = ""

    @property
    def types(self) -> tuple[str, ...]:
        """Each type that is published, once."""
        return tuple(dict.fromkeys(type_name for _, type_name in self.publishers))

    @property
    def rate_hz(self) -> float | None:
        """By the median distance of stamps, which lost messages hardly change; None with too few."""
        gaps = np.diff(np.unique(np.asarray(self.stamps_ns, np.int64)))
        return 1e9 / float(np.median(gaps)) if len(gaps) >= 2 else None

    @property
    def repeats(self) -> int:
        """How many stamps had come already."""
        return len(self.stamps_ns) - len(np.unique(np.asarray(self.stamps_ns, np.int64)))


@dataclass(frozen=True)
class Facts:
    """All topics of a contract.

    Attributes:
        topics: by the topic map's names.
        names: all topics that are published, with their types.
        values: numbers of each state field in the contract's unit; a field that is not here is not compared.
        missing: state fields without a number, each with the reason as far as it is known.
        period: where messages were looked for, such as "within 2 s" or "in the recording".
    """

    topics: Mapping[str, TopicFacts]
    names: Mapping[str, Sequence[str]]
    values: Mapping[str, NDArray[np.float32]] = field(default_factory=dict)
    missing: Mapping[str, str] = field(default_factory=dict)
    period: str = "in the recording"


def uneven(message: Any) -> str:
    """What is wrong with a JointState whose lists do not belong together; a list may be left out."""
    sizes = {key: len(getattr(message, key)) for key in ("position", "velocity", "effort")}
    wrong = [f"{size} in {key}" for key, size in sizes.items() if size not in (0, len(message.name))]
    if wrong:
        return f"expected a number for each of {len(message.name)} names, got {', '.join(wrong)}; check the driver"
    if len(set(message.name)) == len(message.name):
        return ""
    twice = sorted({name for name in message.name if list(message.name).count(name) > 1})
    return f"joints {twice} are named twice; check the driver"
