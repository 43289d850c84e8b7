"""Two publishers where one may be: told from a restart by sessions, and from a ghost in the graph by time."""

from __future__ import annotations

import pytest

pytest.importorskip("edgevlm_ros", reason="needs the built workspace: make ros-build")

from edgevlm.contract import SECOND_NS
from edgevlm_ros.rivals import Rivals


def test_two_sessions_that_alternate_are_a_conflict_at_once_and_until_one_is_silent() -> None:
    rivals = Rivals(quiet_s=1.0)
    for i, session in enumerate((7, 7, 9)):
        rivals.heard("action_chunk", session, i * SECOND_NS // 10)
        assert rivals.conflicts(i * SECOND_NS // 10) == {}, "the second session may be a restart"
    rivals.heard("action_chunk", 7, SECOND_NS)
    assert rivals.conflicts(SECOND_NS) == {"action_chunk": 2}
    for tenth in range(11, 25):
        rivals.heard("action_chunk", 7, tenth * SECOND_NS // 10)
    assert rivals.conflicts(2 * SECOND_NS) == {"action_chunk": 2}
    assert rivals.conflicts(2 * SECOND_NS + 1) == {}


def test_restarts_are_no_conflict_however_often() -> None:
    rivals = Rivals()
    for session in range(50):
        for _ in range(3):
            rivals.heard("heartbeat", session, session * SECOND_NS)
            assert rivals.conflicts(session * SECOND_NS) == {}


def test_the_graph_counts_only_when_it_has_settled() -> None:
    rivals = Rivals(settle_s=2.5)
    for tenth in range(0, 30):
        rivals.counted({"hand": 2, "clock": 1}, tenth * SECOND_NS // 10)
        expected = {"hand": 2} if tenth >= 25 else {}
        assert rivals.conflicts(tenth * SECOND_NS // 10) == expected
    rivals.counted({"hand": 1}, 3 * SECOND_NS)
    assert rivals.conflicts(3 * SECOND_NS) == {}
    rivals.counted({"hand": 3}, 4 * SECOND_NS)
    assert rivals.conflicts(4 * SECOND_NS) == {}, "a new count has to settle anew"
