"""Who else publishes what only one may publish: by the sender's session where messages carry one, and by the graph.

A publisher that was killed stays in ROS's graph until its lease is over (2 s with the DDS profile that ships, 20 s
without it): two in the graph must last longer than `settle_s` to mean a rival. A session tells sooner. A new one that
takes the place of an old one is a restart; two that alternate are two publishers. One that goes on after a second
publisher has appeared is alive, so the second one is no restart: it is idle, or it copies the session. And a session
whose publisher has gone from the graph is copied by the one that is left.
"""

from __future__ import annotations

from collections.abc import Mapping

from edgevlm.manifest.contract import SECOND_NS

Publishers = Mapping[str, str]  # id in the graph -> name of its node


class PublisherConflicts:
    """No clock and no ROS; time is steady time.

    Args:
        settle_s: how long two publishers must be in the graph.
        quiet_s: how long a conflict that messages have shown lasts after the last of them.
    """

    def __init__(self, settle_s: float = 2.5, quiet_s: float = 1.0) -> None:
        self._settle_ns, self._quiet_ns = round(settle_s * SECOND_NS), round(quiet_s * SECOND_NS)
        self._session: dict[str, int] = {}
        self._retired: dict[str, set[int]] = {}
        self._owner: dict[str, tuple[int, str]] = {}  # a session, and its publisher from when it was the only one
        self._reported: dict[str, tuple[int, str]] = {}  # what messages have shown: until when, and what
        self._since_ns: dict[str, int] = {}  # when the graph began to show more than one publisher
        self._graph: dict[str, Publishers] = {}

    def heard(self, topic: str, session: int, now_ns: int) -> None:
        """A message of a topic whose messages carry their sender's session."""
        if fault := self._copied(topic, session) or self._alternating(topic, session):
            self._reported[topic] = (now_ns + self._quiet_ns, fault)

    def counted(self, graph: Mapping[str, Publishers], now_ns: int) -> None:
        """Whom the graph shows for each topic."""
        self._graph = dict(graph)
        several = [topic for topic, publishers in graph.items() if len(publishers) > 1]
        self._since_ns = {topic: self._since_ns.get(topic, now_ns) for topic in several}

    def conflicts(self, now_ns: int) -> dict[str, str]:
        """Topics with more than one publisher now, and what is known of them."""
        reported = {topic: fault for topic, (until_ns, fault) in self._reported.items() if now_ns <= until_ns}
        settled = {
            topic: f"{topic} has {len(self._graph[topic])} publishers ({self._names(topic)})"
            for topic, since_ns in self._since_ns.items()
            if now_ns - since_ns >= self._settle_ns
        }
        return {**reported, **settled}

    def _copied(self, topic: str, session: int) -> str:
        publishers = self._graph.get(topic, {})
        owned, owner = self._owner.get(topic, (None, ""))
        if owned != session:
            if len(publishers) == 1:
                self._owner[topic] = (session, next(iter(publishers)))
            return ""
        if len(publishers) == 1 and owner not in publishers:
            return f"{topic}: {self._names(topic)} uses the session of a publisher that has gone"
        if len(publishers) > 1:
            return f"{topic} has {len(publishers)} publishers ({self._names(topic)})"
        return ""

    def _alternating(self, topic: str, session: int) -> str:
        current = self._session.setdefault(topic, session)
        if session == current:
            return ""
        retired = self._retired.setdefault(topic, set())
        back = session in retired  # it was replaced and is still there
        retired.add(current)
        self._session[topic] = session
        names = self._names(topic)
        return f"{topic} comes from two publishers{f' ({names})' if names else ''}" if back else ""

    def _names(self, topic: str) -> str:
        return ", ".join(sorted(self._graph.get(topic, {}).values()))
