"""ROS 2 recordings (MCAP) in and out: the one home of bag reading. Needs the extra `bags`."""

from edgevlm.bags.recording import Episode, Recording, read_log
from edgevlm.bags.series import Stamps
from edgevlm.bags.topics import StateSource, TopicMap, default_topics, load_topics, topics_beside
from edgevlm.bags.writer import LogWriter

__all__ = [
    "Episode",
    "LogWriter",
    "Recording",
    "Stamps",
    "StateSource",
    "TopicMap",
    "default_topics",
    "load_topics",
    "read_log",
    "topics_beside",
]
