"""Who else publishes what only one may publish: by the sender's session where messages carry one, else by the graph.

A publisher that was killed stays in ROS's graph until its lease is over (2 s with the DDS profile that ships, 20 s
without it): a count must last longer than `settle_s` to mean a rival. A session tells at once: a new one that takes the
place of an old one is a restart, two that alternate are two publishers.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgevlm.contract import SECOND_NS


class Rivals:
    """No clock and no ROS; time is steady time.

    Args:
        settle_s: how long two publishers must be in the graph.
        quiet_s: how long only one session must be heard for a conflict to be over.
    """

    def __init__(self, settle_s: float = 2.5, quiet_s: float = 1.0) -> None:
        self._settle_ns, self._quiet_ns = round(settle_s * SECOND_NS), round(quiet_s * SECOND_NS)
        self._session: dict[str, int] = {}
        self._retired: dict[str, set[int]] = {}
        self._until_ns: dict[str, int] = {}  # of conflicts between sessions
        self._since_ns: dict[str, int] = {}  # when the graph began to show more than one publisher
        self._counts: dict[str, int] = {}

    def heard(self, topic: str, session: int, now_ns: int) -> None:
        """A message of a topic whose messages carry their sender's session."""
        current = self._session.setdefault(topic, session)
        if session == current:
            return
        retired = self._retired.setdefault(topic, set())
        if session in retired:  # it was replaced and is still there
            self._until_ns[topic] = now_ns + self._quiet_ns
        retired.add(current)
        self._session[topic] = session

    def counted(self, counts: Mapping[str, int], now_ns: int) -> None:
        """How many publishers the graph shows for each topic."""
        self._counts = {topic: count for topic, count in counts.items() if count > 1}
        self._since_ns = {topic: self._since_ns.get(topic, now_ns) for topic in self._counts}

    def conflicts(self, now_ns: int) -> dict[str, int]:
        """Topics with more than one publisher now, and how many."""
        by_session = {topic: 2 for topic, until_ns in self._until_ns.items() if now_ns <= until_ns}
        settled = {
            topic: count for topic, count in self._counts.items() if now_ns - self._since_ns[topic] >= self._settle_ns
        }
        return {**by_session, **settled}
