"""A policy slower than its gate waits for: both say so with the value to set, and whole chunks make it useful."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from edgevlm_msgs.msg import GateStatus
from support import tiny
from support.policy_rig import Camera, PolicyRig, image_message, joints_message, wait_until

from edgevlm_ros.processes import Processes, environment

HERE = Path(__file__).parent
FRONT = tiny.mono_contract().cameras[0]
DEADLINE_MS, HORIZON_MS = 50.0, 250.0
CHUNKS = 10
POLICY = {"autostart": True, "autostart_period_s": 0.1, "diagnostics_period_s": 0.1, "check_s": 1.0, "poll_s": 0.01}
GATE = {
    **{"autostart": True, "autostart_period_s": 0.1, "diagnostics_period_s": 0.1, "deadline_ms": DEADLINE_MS},
    **{f"axes.{axis}.{limit}": 10.0 for axis in ("dx", "dy") for limit in ("velocity", "acceleration")},
    "recover_after_s": 0.0,
    "estop_topics": [],
}


class Scene:
    """A slow policy, a gate, and the robot around them, under a namespace."""

    def __init__(self, domain: int, directory: Path, name: str, slow_s: float, **gate: Any) -> None:
        simulated = {"use_sim_time": gate.get("use_sim_time", False)}
        bundle = str(tiny.mono(directory / "mono"))
        variables = environment(domain)
        variables["PYTHONPATH"] = os.pathsep.join([str(HERE.parent), variables.get("PYTHONPATH", "")])
        self.processes = Processes(directory, variables)
        self.processes.start(
            "policy",
            HERE / "slow_policy.py",
            parameters={**POLICY, **simulated, "bundle": bundle},
            namespace=name,
            arguments=[str(slow_s)],
        )
        gated = {**GATE, "bundle": bundle, **gate}
        self.processes.start("gate", "edgevlm_ros.command_gate", parameters=gated, namespace=name)
        self.rig = PolicyRig(domain, name)
        self.statuses: list[GateStatus] = []
        self.rig.node.create_subscription(GateStatus, "gate_status", self.statuses.append, 10)
        pixels = tiny.image(FRONT, 1)

        def send(stamp_ns: int) -> None:
            self.rig.send("joint_states", joints_message({"x": 0.1, "y": -0.2, "grip": 0.3}, stamp_ns))
            self.rig.send("front/image_raw", image_message(pixels, "rgb8", stamp_ns))

        self._camera = Camera(send, self.rig.now_ns)
        self._camera.__enter__()

    def log(self, name: str, text: str) -> str:
        """The line of a log that has `text`; waits for it."""
        wait_until(lambda: text in self.processes.log(name), 30, f"no {text!r} in the log of the {name}")
        return next(line for line in self.processes.log(name).splitlines() if text in line)

    def close(self) -> None:
        self._camera.__exit__(None, None, None)
        self.processes.close()
        self.rig.close()


@pytest.fixture
def scene(domain: int, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def begin(slow_s: float, **gate: Any) -> Scene:
        scenes.append(Scene(domain, tmp_path, "slow", slow_s, **gate))
        return scenes[-1]

    yield begin
    for each in scenes:
        each.close()


def test_both_sides_say_why_nothing_moves_and_what_to_set(scene: Callable[..., Scene]) -> None:
    slow = scene(0.08, recover_after_s=0.5)
    waits = slow.log("policy", "waits for an instruction")
    for name in ("/slow/instruction", "/slow/set_instruction", "/slow/execute_instruction"):
        assert name in waits
    line = slow.log("policy", "this policy is too slow for its gate")
    for part in (
        "a step takes",
        "no chunk comes for 50 ms",
        "deadline_ms to at least 1",
        "chunk_deadline to whole_chunk",
    ):
        assert part in line
    wait_until(lambda: slow.rig.row("pace")["level"] == "error")  # one may still be on its way
    row = slow.rig.row("pace")
    assert row["gate_deadline_ms"] == "50.000"
    assert float(row["step_ms_p99"]) > 80
    assert "waits for an instruction: on the topic /slow/instruction" in slow.rig.row("inference")["message"]
    assert slow.rig.say(tiny.COMMANDS[0]).accepted
    slow.log("gate", "this policy is too slow for its gate: a step takes")
    wait_until(lambda: len(slow.rig.chunks) >= CHUNKS)
    assert all(status.mode != "follow" for status in slow.statuses)
    assert slow.rig.row("inference")["message"] == "ok"


def test_a_gate_that_recovers_at_once_follows_it_for_a_moment_after_each_chunk(scene: Callable[..., Scene]) -> None:
    """What the text says is as true here: it falls back when no chunk comes for 50 ms."""
    slow = scene(0.08, recover_after_s=0.0)
    slow.log("policy", "waits for an instruction")
    assert slow.rig.say(tiny.COMMANDS[0]).accepted

    def begun() -> int:
        modes = [status.mode for status in list(slow.statuses)]
        return sum(before != "follow" == after for before, after in pairwise(modes))

    # How many chunks and heartbeats come in time is the machine's; it is followed anew again and again.
    wait_until(lambda: begun() > 2, 30, "it is not followed anew")
    slow.log("gate", "this policy is too slow for its gate: a step takes")


def test_full_chunks_make_it_useful_and_a_dead_policy_is_noticed_as_soon(scene: Callable[..., Scene]) -> None:
    slow = scene(0.08, chunk_deadline="whole_chunk", deadline_ms=60.0)
    slow.log("policy", "waits for an instruction")
    assert slow.rig.say(tiny.COMMANDS[0]).accepted
    wait_until(lambda: bool(slow.statuses) and slow.statuses[-1].mode == "follow", 20)
    assert slow.rig.row("pace")["level"] == "ok"
    before = len(slow.statuses)
    time.sleep(1.0)
    after = slow.statuses[before:]
    assert sum(status.mode == "follow" for status in after) > 0.9 * len(after)
    slow.processes.kill("policy")
    took_s = _since(lambda: slow.statuses[-1].mode == "hold")
    assert took_s < HORIZON_MS / 1e3 + 0.2
    assert slow.statuses[-1].cause == "heartbeat_missing"


def test_a_step_that_outlasts_its_chunk_is_refused_at_activation(scene: Callable[..., Scene]) -> None:
    line = scene(0.3).log("policy", "activate refused")
    assert "the model is too slow here: a step takes 3" in line
    assert "its chunks are over after 250 ms, 5 rows of 50 ms" in line


def test_in_simulated_time_it_is_a_warning(scene: Callable[..., Scene]) -> None:
    slow = scene(0.3, use_sim_time=True)
    line = slow.log("policy", "simulated time must run slower than this model")
    assert "a step takes 3" in line
    slow.log("policy", "waits for an instruction")
    assert "activate refused: the model" not in slow.processes.log("policy")


def _since(true: Callable[[], bool]) -> float:
    begin = time.monotonic()
    wait_until(true, 5)
    return time.monotonic() - begin
