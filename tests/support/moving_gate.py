"""A command gate as a process that follows a policy at full velocity, with the robot around it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from geometry_msgs.msg import TwistStamped
from sensor_msgs.msg import JointState
from support import tiny
from support.gate_rig import PERIOD_S, Rig, judge_velocities, wait_until

from edgevlm.bundle import open_bundle
from edgevlm.manifest.schema import PolicyManifest
from edgevlm_ros.processes import Processes, environment

VELOCITY, ACCELERATION, VALID_S = 0.2, 0.5, 0.1
FAST = [0.02, 0.0, 1.0]  # 0.2 m/s: 0.4 s to brake
PARAMETERS: dict[str, Any] = {
    "autostart": True,
    "autostart_period_s": 0.1,
    "command_period_s": PERIOD_S,
    "command_valid_s": VALID_S,
    "recover_after_s": 0.0,
    **{f"axes.{axis}.velocity": VELOCITY for axis in ("dx", "dy")},
    **{f"axes.{axis}.acceleration": ACCELERATION for axis in ("dx", "dy")},
}


class Moving:
    """A gate that follows at full velocity; in `child`, a program that is told which node to run."""

    def __init__(self, domain: int, directory: Path, child: Path | None = None, **parameters: Any) -> None:
        bundle = tiny.mono(directory / "mono")
        opened = open_bundle(bundle)
        self.processes = Processes(directory, environment(domain))
        self.process = self.processes.start(
            "gate",
            child or "edgevlm_ros.command_gate",
            parameters={**PARAMETERS, "bundle": str(bundle), **parameters},
            arguments=["edgevlm_ros.command_gate:CommandGate"] if child else [],
        )
        topics = {"command/twist": TwistStamped, "command/gripper": JointState}
        self.rig = Rig(domain, opened.manifest.require(PolicyManifest).contract, opened.sha256, topics)
        self.rig.joints, self.rig.row = {"x": 0.0, "y": 0.0, "grip": 0.0}, FAST
        try:
            wait_until(lambda: self.rates()[-1:] == [pytest.approx(VELOCITY)], 20)
        except AssertionError:
            self.close()
            raise

    def rates(self) -> list[float]:
        return [message.twist.linear.x for message in self.rig.of("command/twist")]

    def faults(self) -> int:
        """Commands that broke a limit so far; the first one that came has no past here."""
        return judge_velocities(self.rig.of("command/twist"), VELOCITY, ACCELERATION, VALID_S)

    def stops(self) -> list[bool]:
        return [message.data for message in self.rig.of("command/stop")]

    def last_topic(self) -> str:
        return next(topic for _, topic, _ in reversed(self.rig.received) if topic.startswith("command/"))

    def close(self) -> None:
        self.processes.close()
        self.rig.close()
