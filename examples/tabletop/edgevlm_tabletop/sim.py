"""The simulated robot: one command step at a time, a camera at 10 Hz, every episode a pure function of its seed."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import mujoco
import numpy as np
from numpy.typing import NDArray

from edgevlm.manifest.contract import Observation, Stamped
from edgevlm_tabletop import scene
from edgevlm_tabletop.commands import BY_NAME, COMMANDS, phrase_for
from edgevlm_tabletop.experts import MAX_STEP_M, World, expert, succeeded

STEP_S = 0.025
STEPS_PER_FRAME = 4
MAX_STEPS = 200
VARIANTS = ("plain", "occluded")

_FINE_S, _COARSE_S = 0.0025, 0.005
_HAND_LOW = np.array([-0.45, 0.38, 0.045])
_HAND_HIGH = np.array([0.45, 0.95, 0.50])
_LEAD_M = 0.10
_START_NS = 1_000_000_000
_SNAPSHOT = mujoco.mjtState.mjSTATE_INTEGRATION
_PUCK_X, _PUCK_Y, _PUCK_GAP_M = (-0.12, 0.12), (0.48, 0.66), 0.10
_VISIBLE_FRAMES, _HIDDEN_FRAMES = 3, 5


class TabletopSimulator:
    """Three pucks, a drawer and a button under a Sawyer arm.

    Positions are metres in the arm's base frame (x to the right, y away from the arm, z up). Stamps are simulated time
    in nanoseconds and start at one second. Not thread-safe; `close` frees the renderer.
    """

    commands: tuple[str, ...] = tuple(command.name for command in COMMANDS)
    step_s: float = STEP_S

    def __init__(self) -> None:
        self._model = scene.build_model()
        self._data = mujoco.MjData(self._model)
        self._renderer: mujoco.Renderer | None = None
        self._addresses()
        self._seed = 0
        self._steps = 0
        self._grip = -1.0  # what the fingers were last told; open
        self._hidden_from, self._visible_frames = -1, 3
        self._done: set[str] = set()
        self._frame: NDArray[np.uint8] = np.zeros((scene.IMAGE_HEIGHT, scene.IMAGE_WIDTH, 3), np.uint8)
        self._frame_ns = _START_NS

    def _addresses(self) -> None:
        model = self._model
        self._hand = model.body("hand").id
        self._claws = (model.body("rightclaw").id, model.body("leftclaw").id)
        self._puck_qpos = {c: int(model.joint(f"puck_{c}").qposadr[0]) for c in scene.COLOURS}
        self._puck_geoms = [model.geom(f"puck_{c}").id for c in scene.COLOURS]
        self._drawer_qpos = int(model.joint("goal_slidey").qposadr[0])
        self._button_qpos = int(model.joint("btnbox_joint").qposadr[0])
        self._drawer_body, self._drawer_link = model.body("drawer").id, model.body("drawer_link").id
        self._box_body, self._button_body = model.body("box").id, model.body("button").id

    def reset(self, *, seed: int, command: str, variant: str = "plain") -> None:
        """Start episode `seed`. The scene depends on the seed alone, not on the command.

        Raises:
            ValueError: an unknown command or variant.
        """
        if command not in BY_NAME:
            raise ValueError(f"unknown command {command!r}; expected one of {', '.join(self.commands)}")
        if variant not in VARIANTS:
            raise ValueError(f"unknown variant {variant!r}; expected one of {', '.join(VARIANTS)}")
        self._seed, self._steps, self._grip = seed, 0, -1.0
        generator = np.random.default_rng([seed, 1])
        self._place(generator)
        phase = int(generator.integers(_VISIBLE_FRAMES, _VISIBLE_FRAMES + 4))
        self._visible_frames = int(generator.integers(2, 4))
        self._hidden_from = phase if variant == "occluded" else -1
        self._done = set()
        self._note_success()
        self._render()

    def _place(self, generator: np.random.Generator) -> None:
        model, data = self._model, self._data
        mujoco.mj_resetData(model, data)
        model.body_pos[self._drawer_body] = (
            0.36 + generator.uniform(-0.02, 0.02),
            0.9 + generator.uniform(-0.02, 0.02),
            0.0,
        )
        model.body_pos[self._box_body] = (
            -0.29 + generator.uniform(-0.02, 0.02),
            0.82 + generator.uniform(-0.015, 0.015),
            0.12,
        )
        data.qpos[self._drawer_qpos] = -0.08 + generator.uniform(-0.02, 0.02)
        for colour, (x, y) in zip(scene.COLOURS, _scatter(generator), strict=True):
            start = self._puck_qpos[colour]
            data.qpos[start : start + 7] = (x, y, 0.02, 1, 0, 0, 0)
        hand = generator.uniform((-0.06, 0.54, 0.18), (0.06, 0.66, 0.28))
        mujoco.mj_forward(model, data)
        data.mocap_quat[0] = (1, 0, 1, 0)
        data.ctrl[:] = (-1, 1)
        for _ in range(600):
            data.mocap_pos[0] = hand
            mujoco.mj_step(model, data)
        mujoco.mj_forward(model, data)

    def phrase(self, command: str) -> str:
        """The sentence for `command` in this episode."""
        return phrase_for(BY_NAME[command], self._seed)

    @property
    def stamp_ns(self) -> int:
        """Simulated time now."""
        return _START_NS + round(self._steps * STEP_S * 1e9)

    @property
    def finished(self) -> bool:
        """Whether the step limit is reached."""
        return self._steps >= MAX_STEPS

    @property
    def state(self) -> NDArray[np.float32]:
        """Hand x, y, z and the distance between the fingers, all in metres."""
        world = self.world()
        return np.append(world.hand, world.gripper_m).astype(np.float32)  # (4,)

    @property
    def frame(self) -> tuple[NDArray[np.uint8], int]:
        """The newest camera frame, rgb8 (240, 320, 3), and its stamp in nanoseconds."""
        return self._frame, self._frame_ns

    def observe(self, instruction: str) -> Observation:
        """The newest frame with its own stamp, and the state now."""
        frame, frame_ns = self.frame
        return Observation(
            frames={scene.CAMERA: Stamped(frame, frame_ns)},
            state=Stamped(self.state, self.stamp_ns),
            instruction=instruction,
        )

    def apply(self, values: NDArray[np.float32]) -> None:
        """One control step of 25 ms: dx, dy, dz in metres the gripper in [-1, 1] (-1 open), clipped to its limits.

        Raises:
            ValueError: not four finite numbers.
        """
        if values.shape != (4,) or not np.isfinite(values).all():
            raise ValueError(f"an action is 4 finite numbers (dx, dy, dz, gripper), got {values!r}")
        self.advance(values)
        self._steps += 1
        self._note_success()
        if self._steps % STEPS_PER_FRAME == 0:
            self._render()

    def rest(self) -> None:
        """One control step of 25 ms without a command: the hand is pulled no further, the fingers keep their effort."""
        self.apply(np.array([0, 0, 0, self._grip], np.float32))

    def advance(self, values: NDArray[np.float32]) -> None:
        """Physics of one control step, without time, camera or success."""
        self.command_hand(values)
        mujoco.mj_step(self._model, self._data, round(STEP_S / self._model.opt.timestep))
        mujoco.mj_kinematics(self._model, self._data)

    def command_hand(self, values: NDArray[np.float32]) -> None:
        """Set where the hand is pulled to and the fingers' effort; the target leads the hand by 10 cm at most."""
        data = self._data
        delta = np.clip(values[:3].astype(np.float64), -MAX_STEP_M, MAX_STEP_M)
        hand = data.xpos[self._hand]
        target = np.clip(data.mocap_pos[0] + delta, hand - _LEAD_M, hand + _LEAD_M)
        data.mocap_pos[0] = np.clip(target, _HAND_LOW, _HAND_HIGH)
        data.mocap_quat[0] = (1, 0, 1, 0)
        self._grip = grip = float(np.clip(values[3], -1.0, 1.0))
        data.ctrl[:] = (grip, -grip)

    def succeeded(self, command: str) -> bool:
        """Whether `command` has been fulfilled at any time in this episode."""
        return command in self._done

    def close(self) -> None:
        """Free the renderer. Safe to call twice."""
        if self._renderer is not None:
            self._renderer.close()
            self._renderer = None

    def world(self) -> World:
        """The privileged state now."""
        data = self._data
        right, left = (data.xpos[claw] for claw in self._claws)
        drawer_open = -float(data.qpos[self._drawer_qpos])
        return World(
            hand=data.xpos[self._hand].copy(),
            gripper_m=min(float(np.linalg.norm(right - left)), 0.1),
            pucks={c: data.qpos[a : a + 3].copy() for c, a in self._puck_qpos.items()},
            handle=data.xpos[self._drawer_link] + (0.0, -0.15, 0.0),
            drawer_open_m=drawer_open,
            button=data.xpos[self._button_body] + (0.0, 0.0, 0.194),
            button_pressed_m=-float(data.qpos[self._button_qpos]),
        )

    def hand_m(self) -> NDArray[np.float64]:
        """Position of the hand in metres, (3,)."""
        hand: NDArray[np.float64] = self._data.xpos[self._hand].copy()
        return hand

    def snapshot(self) -> NDArray[np.float64]:
        """The complete physical state, for `restore`."""
        state = np.empty(mujoco.mj_stateSize(self._model, _SNAPSHOT))
        mujoco.mj_getState(self._model, self._data, state, _SNAPSHOT)
        return state

    def restore(self, state: NDArray[np.float64]) -> None:
        """Back to a snapshot of the same episode; time, camera and success are left alone."""
        mujoco.mj_setState(self._model, self._data, state, _SNAPSHOT)
        mujoco.mj_kinematics(self._model, self._data)

    @contextmanager
    def coarse_physics(self) -> Iterator[None]:
        """Physics with half as many, twice as long steps, for cheap looks ahead (waypoints move by about 1.5 mm)."""
        self._model.opt.timestep = _COARSE_S
        try:
            yield
        finally:
            self._model.opt.timestep = _FINE_S

    def _note_success(self) -> None:
        world = self.world()
        self._done.update(c.name for c in COMMANDS if c.name not in self._done and succeeded(world, c))

    def _render(self) -> None:
        if self._renderer is None:
            self._renderer = mujoco.Renderer(self._model, scene.IMAGE_HEIGHT, scene.IMAGE_WIDTH)
        self._model.geom_rgba[self._puck_geoms, 3] = 0.0 if self._occluded() else 1.0
        self._renderer.update_scene(self._data, scene.CAMERA)
        self._frame = self._renderer.render()
        self._frame_ns = self.stamp_ns

    def _occluded(self) -> bool:
        since = self._steps // STEPS_PER_FRAME - self._hidden_from
        if self._hidden_from < 0 or since < 0:
            return False
        return since % (_HIDDEN_FRAMES + self._visible_frames) < _HIDDEN_FRAMES


def _scatter(generator: np.random.Generator) -> NDArray[np.float64]:
    while True:
        spots = np.stack([generator.uniform(*_PUCK_X, 3), generator.uniform(*_PUCK_Y, 3)], axis=1)  # (3, 2)
        gaps = [np.linalg.norm(spots[a] - spots[b]) for a, b in ((0, 1), (0, 2), (1, 2))]
        if min(gaps) >= _PUCK_GAP_M:
            return spots


def clean_rollout(
    sim: TabletopSimulator, command: str, steps: int
) -> tuple[NDArray[np.float32], NDArray[np.float32], str]:
    """What the clean expert would do from here, without leaving a trace in `sim`.

    Returns:
        The actions (steps, 4), the hand's positions after each of them (steps, 3) in metres, and the step done now.
    """
    start = sim.snapshot()
    task = BY_NAME[command]
    actions, hands = np.empty((steps, 4), np.float32), np.empty((steps, 3), np.float32)
    now = ""
    for index in range(steps):
        move = expert(sim.world(), task)
        now = now or move.step
        actions[index] = move.values()
        sim.advance(actions[index])
        hands[index] = sim.hand_m()
    sim.restore(start)
    return actions, hands, now
