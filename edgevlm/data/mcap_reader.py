"""An MCAP file of ROS messages as a kind of recordings."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from edgevlm.bundle import file_sha256
from edgevlm.data.base import Data, Episode, EventStream, ReadOptions
from edgevlm.data.recording import read_log
from edgevlm.data.stream import open_stream
from edgevlm.manifest.contract import Contract
from edgevlm.rosmsg.topic_map import TopicMap, load_topics


class McapReader:
    """The last row: it takes what no other kind detects, and its errors say what is expected of a recording."""

    def detect(self, path: Path) -> bool:
        return True

    def episodes(self, path: Path, contract: Contract, options: ReadOptions) -> Data:
        recording = read_log(path, contract, _topics(options), stamps=options.stamps)
        episodes = tuple(
            Episode(each.index, each.instruction, each.start_ns, len(each), partial(recording.observations, each))
            for each in recording.episodes
        )
        return Data("log", file_sha256(path), (), episodes, recording.warnings, options.stamps)

    def events(self, path: Path, contract: Contract, options: ReadOptions) -> EventStream:
        return open_stream(path, contract, _topics(options), stamps=options.stamps)


def _topics(options: ReadOptions) -> TopicMap | None:
    return None if options.topics is None else load_topics(options.topics)
