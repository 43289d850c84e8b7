"""A gate on a bench: one axis that does as it is told, a gripper, and two clocks moved by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
from support import gate_judge
from support.gate_judge import S

from edgevlm.gate.chunking import LatestChunk
from edgevlm.gate.gate import Gate, GateCommand
from edgevlm.gate.limits import GateLimits
from edgevlm.manifest.contract import ActionChunk, ActionGroup, Contract, Stamped, StateField

MS = 1_000_000
TICK_NS = 20 * MS
LIMITS: dict[str, Any] = {**gate_judge.limits(), "recover_after_s": 0.05, "deadline_s": 0.3}


def hand(kind: Any = "ee_delta", relative_to: Any = "previous", most: float = 0.05) -> Contract:
    """One axis x, measured by `at`, and a gripper."""
    move = ActionGroup(
        kind=kind,
        names=("x",),
        units=("m",),
        scale=(1.0,),
        offset=(0.0,),
        lower=(-most,),
        upper=(most,),
        relative_to=relative_to,
    )
    grip = ActionGroup(
        kind="gripper", names=("grip",), units=("1",), scale=(1.0,), offset=(0.0,), lower=(-1.0,), upper=(1.0,)
    )
    return gate_judge.contract((move, grip), (StateField(name="at", unit="m"),))


class Bench:
    """A gate, both clocks, and an axis that does as it is told; each `tick` is 20 ms."""

    def __init__(self, contract: Contract | None = None, **more: Any) -> None:
        self.contract = hand() if contract is None else contract
        axis = {"action": "x", "state": "at", "position": (-0.5, 0.5), "velocity": 0.4, "acceleration": 2.0}
        limits = {**LIMITS, "axes": ({**axis, "tracking": 0.1, **more.pop("axis", {})},), **more}
        self.gate = Gate(self.contract, GateLimits(**limits), LatestChunk())
        self.ros_ns, self.steady_ns, self.at, self.sequence = 1000 * S, 3 * S, 0.0, 0
        self.sees = self.beats = True
        self.sent: list[GateCommand] = []

    def chunk(self, x: float, grip: float = 0.0, rows: int = 8, **more: Any) -> str | None:
        """Feed equal rows observed now; the reason when they are refused."""
        self.sequence += 1
        chunk = gate_judge.chunk(np.tile([x, grip], (rows, 1)), self.ros_ns, self.sequence, self.contract.action.names)
        refusal = self.gate.feed(ActionChunk(**{**vars(chunk), **more}), self.ros_ns, self.steady_ns)
        return None if refusal is None else refusal.reason

    def state(self) -> None:
        self.gate.feed_state(Stamped(np.array([self.at], np.float32), self.ros_ns), self.ros_ns)

    def tick(self, x: float | None = None, ns: int = TICK_NS) -> GateCommand:
        """Time passes, state and heartbeat come unless they are switched off, maybe a chunk; then a command."""
        self.ros_ns += ns
        self.steady_ns += ns
        if self.sees:
            self.state()
        if self.beats:
            self.gate.heartbeat(self.ros_ns, self.steady_ns)
        if x is not None:
            assert self.chunk(x) is None
        command = self.gate.command(self.ros_ns, self.steady_ns)
        self.sent.append(command)
        if command.values is not None:
            moves = self.gate.columns[0].sent == "velocity"
            self.at = self.at + command.values[0] * ns / S if moves else command.values[0]
        return command

    def run(self, ticks: int, x: float | None = None) -> list[GateCommand]:
        return [self.tick(x) for _ in range(ticks)]


def bench_limits(bench: Bench, period_s: float) -> GateLimits:
    """The limits of a fast axis at one command for each row."""
    axis = {
        "action": "x",
        "state": "at",
        "position": (-0.5, 0.5),
        "velocity": 100.0,
        "acceleration": 1e6,
        "tracking": 2.0,
    }
    times = {"command_period_s": period_s, "command_valid_s": period_s, "deadline_s": 10.0, "time": "simulated"}
    return GateLimits(**{**LIMITS, "axes": (axis,), **times})
