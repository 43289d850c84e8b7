"""Nothing but a released button AND a re-arm ends an emergency stop, whoever publishes, falls silent or restarts."""

from __future__ import annotations

from pathlib import Path

import pytest

from edgevlm.errors import LatchError
from edgevlm.gate.estop import GRACE_NS, Estops, LatchStore
from edgevlm.manifest.contract import SECOND_NS

S = SECOND_NS
A, B = {"a": "/robot/button"}, {"b": "/robot/pendant"}


class Bench:
    """Estops over a real file, with the graph and the time of the test."""

    def __init__(self, directory: Path, *topics: str, deadline_s: float = 0.0) -> None:
        self._directory, self._topics, self._deadline_ns = directory, topics or ("estop",), round(deadline_s * S)
        self.graph = {topic: dict(A) for topic in self._topics}
        self.now_ns = S
        self.store = LatchStore(directory, "/robot/command_gate")
        self.start()

    def start(self) -> None:
        self.estops = Estops(self._topics, self.store, self._deadline_ns)
        self.estops.start(self.now_ns)

    def restart(self) -> None:
        self.store.close()
        self.store = LatchStore(self._directory, "/robot/command_gate")
        self.start()

    def say(self, pressed: bool, topic: str = "estop", subscription: str = "volatile") -> None:
        self.estops.heard(topic, subscription, pressed, lambda: self.graph[topic], self.now_ns)

    def look(self) -> None:
        self.estops.published(self.graph, self.now_ns)

    def rearm(self) -> str:
        return self.estops.rearm(self.graph, self.now_ns)

    def wait(self, seconds: float) -> None:
        self.now_ns += round(seconds * S)
        self.estops.check(self.now_ns)


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def test_on_the_first_start_a_button_that_says_released_is_enough(bench: Bench) -> None:
    assert bench.estops.stopping
    bench.say(False)
    assert not bench.estops.stopping
    assert not bench.estops.latched


def test_a_press_stops_until_it_is_released_and_re_armed(bench: Bench) -> None:
    bench.say(False)
    bench.say(True)
    assert "estop is pressed" in bench.rearm()
    bench.say(False)
    assert bench.estops.stopping
    assert bench.estops.reasons() == ["every button is released: call ~/rearm"]
    assert bench.rearm() == ""
    assert not bench.estops.stopping


@pytest.mark.parametrize("released", [False, True])
def test_a_restart_changes_nothing(bench: Bench, released: bool) -> None:
    bench.say(False)
    bench.say(True)
    if released:
        bench.say(False)
    bench.restart()
    assert bench.estops.latched
    bench.say(False)
    assert bench.estops.stopping
    assert bench.rearm() == ""
    bench.restart()
    bench.say(False)
    assert not bench.estops.stopping


def test_the_latch_is_on_the_disk_before_the_stop_can_be_sent(bench: Bench, tmp_path: Path) -> None:
    other = bench.store
    bench.say(False)
    assert not other.read()
    bench.say(True)
    assert other.read()


def test_silence_counts_as_pressed_and_a_late_first_word_needs_a_re_arm(bench: Bench) -> None:
    bench.wait(GRACE_NS / S + 0.1)
    assert bench.estops.latched
    bench.say(False)
    assert bench.estops.stopping
    assert bench.rearm() == ""


def test_a_released_button_that_misses_its_deadline_counts_as_pressed(tmp_path: Path) -> None:
    bench = Bench(tmp_path, deadline_s=0.5)
    bench.say(False)
    bench.wait(0.5)
    assert not bench.estops.stopping
    bench.wait(0.01)
    assert bench.estops.latched
    bench.say(False)
    assert bench.estops.stopping


def test_without_a_deadline_a_released_button_may_be_silent_while_its_publisher_is_there(bench: Bench) -> None:
    bench.say(False)
    for _ in range(100):
        bench.wait(60)
        bench.look()
    assert not bench.estops.stopping


def test_a_publisher_that_vanishes_counts_as_pressed(bench: Bench) -> None:
    bench.say(False)
    bench.graph["estop"] = {}
    bench.look()
    assert bench.estops.latched
    assert "nobody publishes it" in bench.rearm()


def test_another_publisher_in_its_place_must_say_released_and_a_re_arm_is_needed(bench: Bench) -> None:
    bench.say(False)
    bench.graph["estop"] = dict(B)
    bench.look()
    assert "/robot/pendant must say that it is released" in bench.rearm()
    bench.say(False)
    assert bench.estops.stopping
    assert bench.rearm() == ""


def test_all_buttons_must_be_released(tmp_path: Path) -> None:
    bench = Bench(tmp_path, "front", "rear", "pendant")
    bench.say(False, "front")
    bench.say(True, "rear")
    why = bench.rearm()
    assert "rear is pressed" in why
    assert "pendant is silent" in why
    assert "front" not in why
    bench.say(False, "rear")
    assert "rear" not in bench.rearm()
    bench.say(False, "pendant")
    assert bench.rearm() == ""


def test_no_release_counts_while_two_publish(bench: Bench) -> None:
    bench.say(False)
    bench.say(True)
    bench.graph["estop"] = A | B
    bench.say(False)
    why = bench.rearm()
    assert "2 publishers (/robot/button, /robot/pendant)" in why
    bench.graph["estop"] = dict(A)
    assert bench.rearm() != "", "what was said meanwhile does not count afterwards"
    bench.say(False)
    assert bench.rearm() == ""


def test_a_release_by_someone_whom_the_graph_shows_a_moment_later_does_not_count(bench: Bench) -> None:
    bench.say(True)
    bench.look()
    bench.say(False)  # the other one; it has not been discovered
    bench.now_ns += S // 10
    bench.graph["estop"] = A | B
    bench.look()
    bench.graph["estop"] = dict(A)
    assert bench.rearm() != ""


def test_anyone_may_press(bench: Bench) -> None:
    bench.say(False)
    bench.graph["estop"] = A | B
    bench.look()
    assert not bench.estops.stopping, "the conflict itself is the gate's `publisher_conflict`"
    bench.say(True)
    assert bench.estops.latched


def test_a_release_before_discovery_counts_once_the_one_publisher_is_discovered(bench: Bench) -> None:
    bench.graph["estop"] = {}
    bench.say(False)
    assert bench.estops.stopping
    bench.graph["estop"] = dict(A)
    bench.look()
    assert not bench.estops.stopping


def test_both_subscriptions_must_have_heard_the_release(bench: Bench) -> None:
    bench.say(True)
    bench.say(False, subscription="transient_local")  # what was latched before: older, and later here
    assert "pressed" in bench.rearm()
    bench.say(True, subscription="transient_local")
    bench.say(False)
    assert "pressed" in bench.rearm()
    bench.say(False, subscription="transient_local")
    assert bench.rearm() == ""


def test_a_latched_word_of_a_publisher_that_has_gone_blocks_nobody(bench: Bench) -> None:
    bench.say(True, subscription="transient_local")
    bench.say(True)
    bench.look()
    bench.graph["estop"] = dict(B)
    bench.say(False)
    assert bench.rearm() == ""


def test_no_buttons_at_all_stop_only_what_was_latched_before(tmp_path: Path) -> None:
    store = LatchStore(tmp_path, "/robot/command_gate")
    assert not Estops((), store).stopping
    store.write(True)
    estops = Estops((), store)
    assert estops.stopping
    assert estops.rearm({}, 0) == ""
    assert not estops.stopping


class _Full:
    """A disk that is full from some moment on."""

    def __init__(self) -> None:
        self.full = self.latched = False

    def read(self) -> bool:
        return self.latched

    def write(self, latched: bool) -> None:
        if self.full:
            raise LatchError("no space left")
        self.latched = latched


def test_a_stop_that_cannot_be_written_stops_all_the_same_and_is_written_as_soon_as_possible() -> None:
    disk = _Full()
    estops = Estops(("estop",), disk)
    estops.start(0)
    estops.heard("estop", "volatile", False, lambda: A, 0)
    disk.full = True
    estops.heard("estop", "volatile", True, lambda: A, 0)
    assert estops.stopping
    assert "no space" in estops.fault
    disk.full = False
    estops.published({"estop": A}, 0)
    assert disk.latched
    assert estops.fault == ""


def test_a_re_arm_that_cannot_be_written_ends_nothing() -> None:
    disk = _Full()
    estops = Estops(("estop",), disk)
    estops.heard("estop", "volatile", True, lambda: A, 0)
    estops.heard("estop", "volatile", False, lambda: A, 0)
    disk.full = True
    assert "no space" in estops.rearm({"estop": A}, 0)
    assert estops.stopping


def test_a_gate_whose_latch_cannot_be_written_does_not_start() -> None:
    disk = _Full()
    disk.full = True
    with pytest.raises(LatchError):
        Estops(("estop",), disk).start(0)
