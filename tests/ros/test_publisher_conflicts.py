"""Two publishers where one may be: told from a restart by sessions, and from a ghost in the graph by time."""

from __future__ import annotations

import pytest

pytest.importorskip("edgevlm_ros", reason="needs the built workspace: make ros-build")

from edgevlm.manifest.contract import SECOND_NS
from edgevlm_ros.publisher_conflicts import PublisherConflicts

TENTH = SECOND_NS // 10
POLICY, EVIL, AGAIN = {"1": "/policy_node"}, {"2": "/evil"}, {"3": "/policy_node"}


def test_two_sessions_that_alternate_are_a_conflict_at_once_and_until_one_is_silent() -> None:
    rivals = PublisherConflicts(quiet_s=1.0)
    for i, session in enumerate((7, 7, 9)):
        rivals.heard("action_chunk", session, i * TENTH)
        assert rivals.conflicts(i * TENTH) == {}, "the second session may be a restart"
    rivals.heard("action_chunk", 7, SECOND_NS)
    assert rivals.conflicts(SECOND_NS) == {"action_chunk": "action_chunk comes from two publishers"}
    for tenth in range(11, 25):
        rivals.heard("action_chunk", 7, tenth * TENTH)
    assert list(rivals.conflicts(2 * SECOND_NS)) == ["action_chunk"]
    assert rivals.conflicts(2 * SECOND_NS + 1) == {}


def test_restarts_are_no_conflict_however_often() -> None:
    rivals = PublisherConflicts()
    for session in range(50):
        for _ in range(3):
            rivals.heard("heartbeat", session, session * SECOND_NS)
            assert rivals.conflicts(session * SECOND_NS) == {}


def test_a_policy_that_was_killed_and_restarted_is_no_conflict_while_it_stays_in_the_graph() -> None:
    rivals = PublisherConflicts(settle_s=2.5)
    now_ns = 0
    for session in range(20):
        here, ghost = {f"p{session}": "/policy_node"}, {f"p{session - 1}": "/policy_node"}
        for tenth in range(50):
            now_ns += TENTH
            if tenth % 5 == 0:
                rivals.counted({"action_chunk": here if tenth > 20 or not session else here | ghost}, now_ns)
            rivals.heard("action_chunk", session, now_ns)
            assert rivals.conflicts(now_ns) == {}, (session, tenth)


def test_the_graph_counts_only_when_it_has_settled() -> None:
    rivals = PublisherConflicts(settle_s=2.5)
    expected = {"hand": "hand has 2 publishers (/evil, /policy_node)"}
    for tenth in range(0, 30):
        rivals.counted({"hand": POLICY | EVIL, "clock": POLICY}, tenth * TENTH)
        assert rivals.conflicts(tenth * TENTH) == (expected if tenth >= 25 else {})
    rivals.counted({"hand": POLICY}, 3 * SECOND_NS)
    assert rivals.conflicts(3 * SECOND_NS) == {}
    rivals.counted({"hand": POLICY | EVIL | AGAIN}, 4 * SECOND_NS)
    assert rivals.conflicts(4 * SECOND_NS) == {}, "a new count has to settle anew"


def test_a_copied_session_is_noticed_as_soon_as_the_graph_shows_its_publisher() -> None:
    rivals = PublisherConflicts()
    rivals.counted({"action_chunk": POLICY}, 0)
    rivals.heard("action_chunk", 7, 0)
    rivals.counted({"action_chunk": POLICY | EVIL}, TENTH)
    assert rivals.conflicts(TENTH) == {}
    rivals.heard("action_chunk", 7, 2 * TENTH)
    assert "/evil" in rivals.conflicts(2 * TENTH)["action_chunk"]


def test_a_session_whose_publisher_has_gone_is_a_copy_until_another_one_begins() -> None:
    rivals = PublisherConflicts(quiet_s=1.0)
    rivals.counted({"heartbeat": POLICY}, 0)
    rivals.heard("heartbeat", 7, 0)
    rivals.counted({"heartbeat": EVIL}, SECOND_NS)
    for second in range(1, 5):
        rivals.heard("heartbeat", 7, second * SECOND_NS)
        assert "/evil uses the session" in rivals.conflicts(second * SECOND_NS)["heartbeat"]
    rivals.counted({"heartbeat": AGAIN}, 6 * SECOND_NS)
    rivals.heard("heartbeat", 8, 7 * SECOND_NS)
    assert rivals.conflicts(7 * SECOND_NS) == {}
