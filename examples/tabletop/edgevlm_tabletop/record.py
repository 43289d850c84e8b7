"""Record the robot at work as a ROS 2 log (MCAP): every command several times, driven by the experts.

    python -m edgevlm_tabletop.record -o log.mcap

Camera 10 Hz as JPEG, the hand's pose and the gripper at 50 Hz, one instruction at the start of each episode. The same
versions of the simulator and of Pillow write the same bytes.
"""

from __future__ import annotations

import argparse
import io
import logging
from pathlib import Path

import mujoco
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgevlm.data import LogWriter
from edgevlm_tabletop.commands import BY_NAME, LOG_SEEDS
from edgevlm_tabletop.contract import FRAME_ID
from edgevlm_tabletop.demos import Disturbance
from edgevlm_tabletop.experts import expert
from edgevlm_tabletop.sim import STEP_S, STEPS_PER_FRAME, TabletopSimulator

IMAGE_TOPIC = "/front/image_raw/compressed"
POSE_TOPIC = "/hand_pose"
GRIPPER_TOPIC = "/joint_states"
INSTRUCTION_TOPIC = "/instruction"
CAMERA_FRAME_ID = "front_camera_optical_frame"

_START_NS = 1_700_000_000_000_000_000
_PAUSE_NS = 5_000_000_000
_STATE_PERIOD_NS = 20_000_000
_PHYSICS_NS = 2_500_000
_DONE_STEPS = 8
_JPEG_QUALITY = 85
_RETRY = 1000
_HAND_DOWN_XYZW = (0.70710678, 0.0, 0.70710678, 0.0)  # the hand never turns

log = logging.getLogger(__name__)


class RecordedSimulator(TabletopSimulator):
    """The simulator with its state read at 50 Hz: `states` holds (time since reset in ns, state (4,))."""

    def __init__(self) -> None:
        super().__init__()
        self._physics = 0
        self.states: list[tuple[int, NDArray[np.float32]]] = []

    def reset(self, *, seed: int, command: str, variant: str = "plain") -> None:
        """As the simulator's; the state at time 0 is the first of `states`."""
        super().reset(seed=seed, command=command, variant=variant)
        self._physics, self.states = 0, [(0, self.state)]

    def advance(self, values: NDArray[np.float32]) -> None:
        """As the simulator's, one physics step at a time."""
        self.command_hand(values)
        for _ in range(round(STEP_S * 1e9 / _PHYSICS_NS)):
            mujoco.mj_step(self._model, self._data)
            mujoco.mj_kinematics(self._model, self._data)
            self._physics += 1
            if self._physics * _PHYSICS_NS % _STATE_PERIOD_NS == 0:
                self.states.append((self._physics * _PHYSICS_NS, self.state))


def play(sim: RecordedSimulator, seed: int) -> list[tuple[int, NDArray[np.uint8]]]:
    """Drive episode `seed` with the expert, disturbed; frames and their times since the start, none if it failed."""
    command = BY_NAME[sim.commands[seed % len(sim.commands)]]
    sim.reset(seed=seed, command=command.name)
    disturb = Disturbance(np.random.default_rng([seed, 3]))
    frames = [(0, sim.frame[0])]
    steps, left = 0, _DONE_STEPS
    while not sim.finished and left > 0:
        sim.apply(disturb(expert(sim.world(), command)))
        steps += 1
        left -= int(sim.succeeded(command.name))
        if steps % STEPS_PER_FRAME == 0:
            frames.append((round(steps * STEP_S * 1e9), sim.frame[0]))
    return frames if sim.succeeded(command.name) else []


def record_episode(sim: RecordedSimulator, writer: LogWriter, seed: int, start_ns: int) -> int:
    """Write episode `seed`, or the next one of the same command that succeeds, from `start_ns` on; when it ended."""
    while not (frames := play(sim, seed)):
        seed += _RETRY * len(sim.commands)
    writer.string(INSTRUCTION_TOPIC, start_ns, sim.phrase(sim.commands[seed % len(sim.commands)]))
    states = iter(sim.states)
    state = next(states, None)
    for at_ns, image in frames:
        while state is not None and state[0] <= at_ns:
            _write_state(writer, start_ns + state[0], state[1])
            state = next(states, None)
        _write_frame(writer, start_ns + at_ns, image)
    return start_ns + frames[-1][0]


def _write_state(writer: LogWriter, stamp_ns: int, state: NDArray[np.float32]) -> None:
    x, y, z, gripper = (float(value) for value in state)
    writer.pose(POSE_TOPIC, stamp_ns, (x, y, z), _HAND_DOWN_XYZW, frame_id=FRAME_ID)
    writer.joints(GRIPPER_TOPIC, stamp_ns, {"gripper": gripper}, frame_id=FRAME_ID)


def _write_frame(writer: LogWriter, stamp_ns: int, image: NDArray[np.uint8]) -> None:
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "JPEG", quality=_JPEG_QUALITY)
    writer.compressed_image(IMAGE_TOPIC, stamp_ns, buffer.getvalue(), frame_id=CAMERA_FRAME_ID)


def topics_yaml() -> str:
    """The topic map that belongs beside the log."""
    lines = ["cameras:", f"  front: {IMAGE_TOPIC}", "state:"]
    lines += [f"  hand_{axis}: {{topic: {POSE_TOPIC}, path: pose.position.{axis}}}" for axis in "xyz"]
    lines += [f"  gripper: {{topic: {GRIPPER_TOPIC}, joint: gripper}}", f"instruction: {INSTRUCTION_TOPIC}"]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--out", type=Path, required=True)
    parser.add_argument("--episodes", type=int, default=45, help="three of each command by default")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    sim = RecordedSimulator()
    first = LOG_SEEDS.start - LOG_SEEDS.start % len(sim.commands) + len(sim.commands)
    now_ns = _START_NS
    with LogWriter(arguments.out) as writer:
        for seed in range(first, first + arguments.episodes):
            now_ns = record_episode(sim, writer, seed, now_ns) + _PAUSE_NS
    sim.close()
    arguments.out.with_suffix(".topics.yaml").write_text(topics_yaml(), encoding="utf-8")
    log.info("%s: %d episodes, %.1f MB", arguments.out, arguments.episodes, arguments.out.stat().st_size / 1e6)


if __name__ == "__main__":
    main()
