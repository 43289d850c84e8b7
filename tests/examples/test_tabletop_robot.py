"""The simulated robot's life on a wire without ROS: idle, reset, episode, silence."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
from numpy.typing import NDArray

pytest.importorskip("metaworld", reason="needs the extra sim")

from edgevlm.errors import SimulatorError
from edgevlm.manifest.contract import SECOND_NS
from edgevlm_tabletop.commands import BY_NAME
from edgevlm_tabletop.experts import expert
from edgevlm_tabletop.ros.journal import Record, WitnessedSimulator
from edgevlm_tabletop.ros.robot import Reset, Robot, Sensed, Settings
from edgevlm_tabletop.sim import MAX_STEPS, STEPS_PER_FRAME

COMMAND = "reach the red puck"
STEP_NS = 25_000_000
Act = Callable[[], NDArray[np.float32] | None]


class FakeWire:
    """Time that goes on when someone waits; idles for some steps, then hands out its resets, then ends."""

    def __init__(self, resets: list[Reset], act: Act, idle_steps: int = 6) -> None:
        self._resets, self._act, self._idle_left = resets, act, idle_steps
        self.now_ns = 100 * SECOND_NS
        self.sent: list[tuple[int, Sensed]] = []
        self.clocks: list[int] = []
        self.began: list[int] = []
        self.records: list[Record] = []
        self.dropped: dict[str, int] = {}

    def ros_ns(self) -> int:
        return self.now_ns

    def steady_ns(self) -> int:
        return self.now_ns

    def wait_until(self, steady_ns: int) -> bool:
        self.now_ns = max(self.now_ns, steady_ns)
        self._idle_left -= 1
        return bool(self._idle_left >= 0 or self.began or not self._resets)

    def take_reset(self) -> Reset | None:
        self._idle_left = 1_000_000
        return self._resets.pop(0) if self._resets else None

    def begin(self, stamp_ns: int) -> None:
        self.began.append(stamp_ns)

    def end(self, record: Record, final_ns: int) -> None:
        self.records.append(record)

    def clock(self, stamp_ns: int) -> None:
        self.clocks.append(stamp_ns)

    def send(self, sensed: Sensed) -> None:
        self.sent.append((self.now_ns, sensed))

    def due(self, now_ns: int) -> NDArray[np.float32] | None:
        return self._act()

    def wait_action(self, stamp_ns: int, timeout_s: float) -> NDArray[np.float32] | None:
        return self._act()


@pytest.fixture
def simulator() -> WitnessedSimulator:
    return WitnessedSimulator()


def driver(simulator: WitnessedSimulator) -> Act:
    return lambda: expert(simulator.world(), BY_NAME[COMMAND]).values()


def in_one_process(seed: int) -> tuple[int, str]:
    simulator = WitnessedSimulator()
    simulator.reset(seed=seed, command=COMMAND)
    act = driver(simulator)
    while not simulator.finished and not simulator.succeeded(COMMAND):
        values = act()
        assert values is not None
        simulator.apply(values)
    return simulator.applied, simulator.digest()


@pytest.mark.parametrize("mode", ["real_time", "scaled", "lock_step"])
def test_an_episode_on_the_wire_is_the_episode_in_one_process(simulator: WitnessedSimulator, mode: str) -> None:
    wire = FakeWire([Reset(7, COMMAND, "plain"), Reset(8, COMMAND, "plain")], driver(simulator))
    Robot(simulator, wire, Settings(mode=mode, speed=2.0)).run()  # type: ignore[arg-type]
    assert [(record.steps, record.sha256) for record in wire.records] == [in_one_process(7), in_one_process(8)]
    assert all(record.success and record.rested == 0 for record in wire.records)


@pytest.mark.parametrize("mode", ["real_time", "lock_step"])
def test_a_frame_comes_every_fourth_step_and_data_time_leaps_between_episodes(
    simulator: WitnessedSimulator, mode: str
) -> None:
    wire = FakeWire([Reset(7, COMMAND, "plain"), Reset(8, COMMAND, "plain")], driver(simulator))
    Robot(simulator, wire, Settings(mode=mode)).run()  # type: ignore[arg-type]
    stamps = [sensed.stamp_ns for _, sensed in wire.sent]
    assert stamps == sorted(set(stamps)), "stamps go up"
    gaps = [b - a for a, b in pairwise(stamps)]
    assert len([gap for gap in gaps if gap > 2 * STEP_NS]) == 2
    least = 5 * SECOND_NS if mode == "lock_step" else round(0.8 * SECOND_NS)
    assert min(gap for gap in gaps if gap > 2 * STEP_NS) >= least
    for begin_ns, record in zip(wire.began, wire.records, strict=True):
        mine = [s for _, s in wire.sent if begin_ns <= s.stamp_ns < begin_ns + (record.steps + 1) * STEP_NS]
        frames = [index for index, sensed in enumerate(mine) if sensed.frame is not None]
        assert frames == list(range(0, len(mine), STEPS_PER_FRAME))
        assert len(record.frame_stamps_ns) == len(frames)
    assert bool(wire.clocks) == (mode == "lock_step")
    if mode == "lock_step":
        assert set(stamps) <= set(wire.clocks)


def test_without_commands_the_robot_rests_until_the_step_limit(simulator: WitnessedSimulator) -> None:
    wire = FakeWire([Reset(7, COMMAND, "plain")], lambda: None)
    Robot(simulator, wire, Settings(mode="real_time")).run()
    (record,) = wire.records
    assert (record.success, record.steps, record.rested) == (False, MAX_STEPS, MAX_STEPS)


def test_in_lock_step_a_missing_command_ends_it_with_what_to_look_at(simulator: WitnessedSimulator) -> None:
    wire = FakeWire([Reset(7, COMMAND, "plain")], lambda: None)
    with pytest.raises(SimulatorError, match=r"episode 7, step 0: no twist and gripper .* command gate"):
        Robot(simulator, wire, Settings(mode="lock_step")).run()


def test_one_action_changed_in_its_last_bit_is_another_hash(simulator: WitnessedSimulator) -> None:
    act, calls = driver(simulator), [0]

    def nudged() -> NDArray[np.float32]:
        values = act()
        assert values is not None
        calls[0] += 1
        if calls[0] == 3:
            values = values.copy()
            values[3] = np.nextafter(values[3], np.float32(0))
        return values

    wire = FakeWire([Reset(7, COMMAND, "plain")], nudged)
    Robot(simulator, wire, Settings(mode="lock_step")).run()
    assert wire.records[0].sha256 != in_one_process(7)[1]
