"""A policy: observations in, action chunks and plans out."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgevlm.clock import restarted
from edgevlm.drivers.ports import Words
from edgevlm.errors import ContractError, InstructionError, NonFiniteError, SessionError, ShapeError, StampError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.contract import (
    SECOND_NS,
    ActionChunk,
    CameraSpec,
    CheckedFrame,
    Contract,
    Observation,
    Plan,
    Stamped,
    check_frame,
    check_stamp,
    check_state,
)
from edgevlm.manifest.schema import PolicyManifest
from edgevlm.preprocess import Preprocessor
from edgevlm.tasks.action_decoder import ActionDecoder, PlanDecoder
from edgevlm.tasks.assembly import open_policy_driver
from edgevlm.tasks.base import Model, check_pixels
from edgevlm.temporal import FrameRing
from edgevlm.text import Tokenizer


class Policy(Model):
    """A loaded model: shared and immutable; its sessions hold what a robot has seen.

    Raises:
        TaskError, BundleError, DependencyError, EngineError: when opening.
    """

    def _read_manifest(self) -> None:
        manifest = self.bundle.manifest.require(PolicyManifest)
        self._manifest = manifest
        self.contract: Contract = manifest.contract
        self.preprocessors = {
            camera.name: Preprocessor(camera, manifest.preprocess[camera.name]) for camera in self.contract.cameras
        }
        for camera, stage in manifest.driver.args.vision.items():
            check_pixels(
                stage, manifest.stages, self.preprocessors[camera].shape, f"the preprocess of camera {camera!r}"
            )
        self._turns = {camera.name: threading.Lock() for camera in self.contract.cameras}
        instruction = self.contract.instruction
        self.tokenizer = None if instruction is None else Tokenizer(self.bundle.tokenizer(), instruction)
        self.decode_actions = ActionDecoder(self.contract.action)
        self.decode_plan = PlanDecoder(self.contract.plan, self.contract.state) if self.contract.plan else None
        fields = self.contract.state.fields if self.contract.state else ()
        self._mean = np.array([field.mean for field in fields], np.float32)
        self._std = np.array([field.std for field in fields], np.float32)

    def _open_driver(self, graph: Graph) -> None:
        self.driver = open_policy_driver(self.bundle, self._manifest, graph)
        self._default = self.session()

    def normalize_state(self, state: NDArray[np.float32]) -> NDArray[np.float32]:
        """(S,) in the contract's units -> (1, S) as the model was trained on. Raises NonFiniteError beyond float32."""
        with np.errstate(all="ignore"):
            normalized: NDArray[np.float32] = ((state - self._mean) / self._std)[None]
        if not np.isfinite(normalized).all():
            raise NonFiniteError(
                f"state: expected numbers near {self._mean.tolist()}, got {state.tolist()}; check the sensor"
            )
        return normalized

    def prepare(self, camera: str, image: CheckedFrame) -> tuple[NDArray[np.float32], int]:
        """The model's pixels (1, 3, H, W) of a frame, and the nanoseconds it took; sessions take turns."""
        with self._turns[camera]:
            started = self.clock()
            return self.preprocessors[camera].prepare(image), self.clock() - started

    def session(self) -> Session:
        """A fresh, cheap session; one robot, one session."""
        return Session(self)

    def check_instruction(self, text: str) -> None:
        """Refuse now what `act` would refuse. Raises InstructionError; any thread may ask.

        A model that takes no words takes any text, also an empty one: it only says that the robot may start.
        """
        _check_text(text)
        if self.tokenizer is not None:
            self.tokenizer.encode(text)

    def act(self, observation: Observation) -> ActionChunk:
        """`Session.act` of this policy's own session."""
        return self._default.act(observation)

    def reset(self) -> None:
        """`Session.reset` of this policy's own session."""
        self._default.reset()

    def warm_up(self, steps: int = 3) -> None:
        """Run every stage on made-up input in a session of its own, so that the first real step is not the slowest."""
        deque(self._synthetic_steps(steps), maxlen=0)

    def step_times_ns(self, steps: int = 20, within_s: float = 1.0) -> list[int]:
        """Steady time of steps on made-up input, each with a fresh frame, after a warm-up of two.

        As many of `steps` as fit in `within_s`, and at least three.
        """
        taken: list[int] = []
        begun = last = self.clock()
        for number, _ in enumerate(self._synthetic_steps(steps + 2)):
            now = self.clock()
            if number >= 2:
                taken.append(now - last)
            if len(taken) >= 3 and now - begun > within_s * SECOND_NS:
                break
            last = now
        return taken

    def _synthetic_steps(self, steps: int) -> Iterator[None]:
        session = self.session()
        frames = {camera.name: np.zeros(camera.shape, np.uint8) for camera in self.contract.cameras}
        state = self._mean if self.contract.state else None
        text = self._synthetic_text()
        past_ns = [round(offset * SECOND_NS) for offset in self.contract.window.offsets_s]
        for stamp_ns in [
            *past_ns,
            *range(1, steps),
        ]:  # a frame in every slot, then one fresh frame for each further step
            for name, image in frames.items():
                session.push(name, Stamped(image, stamp_ns))
            if stamp_ns >= 0:
                session.run_stages(stamp_ns, text, state)
                yield

    def _synthetic_text(self) -> Words | None:
        if self.contract.instruction is None:
            return None
        shape = (1, self.contract.instruction.max_tokens)
        return Value("ids", np.zeros(shape, np.int64)), Value("mask", np.ones(shape, np.float32))


def _check_text(text: object) -> None:
    if not isinstance(text, str):
        raise InstructionError(f"instruction: expected text, got {text!r:.80}; say what to do")


@dataclass(slots=True)
class _Frame:
    """One frame in a ring: its pixels are made when the window first asks for them."""

    stamp_ns: int
    pixels: Value
    sampled: bool = False


class Session:
    """What one robot has seen and been told. Not for two threads at once: the second one gets a SessionError.

    Attributes:
        last_times_ns: of the last `act`: "step", "preprocess" and the engine time of each stage that ran.
        late_frames: pushed frames that were dropped because a newer one had come before.
        resets: how often a jump back in time emptied the window.
    """

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._memory: Memory = policy.driver.memory()
        window = policy.contract.window
        self._rings: dict[str, FrameRing[_Frame]] = {
            camera.name: FrameRing(window) for camera in policy.contract.cameras
        }
        self._cameras = {camera.name: camera for camera in policy.contract.cameras}
        self._reset_after_ns = round(window.reset_after_s * SECOND_NS)
        self._texts: dict[str, Words] = {}
        self._lock = threading.Lock()
        self._frame_count = 0
        self._state_count = 0
        self._acts = 0  # since the last reset
        self._state_ns: int | None = None
        self._sequence = 0
        self.sampled_frames = 0
        self.late_frames = 0
        self.resets = 0
        self.last_times_ns: dict[str, int] = {}

    @property
    def encodes(self) -> int:
        """Image encodes since the session began, over all cameras."""
        return self._policy.driver.encodes(self._memory)

    @property
    def encodes_per_frame(self) -> float:
        """Image encodes for each sampled frame: 1.0 unless the model's frame features depend on the instruction."""
        return self.encodes / self.sampled_frames if self.sampled_frames else 0.0

    @property
    def stage_runs(self) -> MappingProxyType[str, int]:
        """Stage -> engine runs since the session began."""
        return MappingProxyType(self._memory.runs)

    def push(self, camera: str, frame: Stamped[NDArray[np.uint8]]) -> None:
        """Take a copy of a frame without acting, encoded once a window samples it; a late one is dropped and counted.

        Raises:
            ContractError, ShapeError: no such camera, or not its frame.
            SessionError: another thread uses this session.
        """
        with self._exclusive():
            spec = self._camera(camera)
            image, stamp_ns = validate_frame(spec, frame)
            newest_ns = self._rings[camera].newest_ns
            if restarted(stamp_ns, newest_ns, self._reset_after_ns):
                self._restart()
            elif newest_ns is not None and stamp_ns <= newest_ns:
                self.late_frames += 1
                return
            self._add(spec, CheckedFrame(image.copy()), stamp_ns)

    def act(self, observation: Observation) -> ActionChunk:
        """A chunk for this observation; with the same stamp as before a frame is not taken twice.

        Raises:
            ContractError, ShapeError, NonFiniteError, StampError, InstructionError: the observation does not fit the
                contract; the session is as it was before.
            WindowNotReadyError: the window's rule is `wait`; the frames were taken.
            NonFiniteError: also when the model's output is not finite.
            EngineError: an engine failed.
            SessionError: another thread uses this session.
        """
        with self._exclusive():
            started = self._policy.clock()
            self._memory.begin_step()
            chunk = self._act(observation)
            self.last_times_ns = {**self._memory.times_ns, "step": self._policy.clock() - started}
            return chunk

    def reset(self) -> None:
        """Forget what was seen: a new episode begins. Encoded instructions are kept."""
        with self._exclusive():
            self._forget_all()

    def run_stages(self, now_ns: int, text: Words | None, state: NDArray[np.float32] | None) -> dict[str, Value]:
        """The head's raw outputs for the window at `now_ns`; `state` (S,) in the contract's units. One thread only."""
        normalized = None if state is None else self._policy.normalize_state(state)
        return self._run(now_ns, text, normalized)

    def _run(self, now_ns: int, text: Words | None, normalized: NDArray[np.float32] | None) -> dict[str, Value]:
        window = {camera: self._pixels(ring, now_ns) for camera, ring in self._rings.items()}
        value = None
        if normalized is not None:
            self._state_count += 1
            value = Value(("state", self._state_count), normalized)
        outputs = self._policy.driver.run(window, text, value, self._memory, self._acts)
        self._acts += 1
        return outputs

    def _act(self, observation: Observation) -> ActionChunk:
        policy = self._policy
        validated = validate_observation(policy.contract, observation)
        normalized = None if validated.state is None else policy.normalize_state(validated.state)
        text = self._text(observation.instruction)
        if self._jumped_back(validated):  # the last check: nothing of the session has changed so far
            self._restart()
        for name, (image, stamp_ns) in validated.frames.items():
            if stamp_ns != self._rings[name].newest_ns:
                self._add(self._cameras[name], image, stamp_ns)
        self._state_ns = validated.state_ns
        now_ns = validated.newest_ns
        try:
            outputs = self._run(now_ns, text, normalized)
        finally:
            self._let_go_of_images()
        values = policy.decode_actions(outputs["chunk"].array)
        plan = self._plan(outputs, validated.state, now_ns)
        self._sequence += 1
        action = policy.contract.action
        return ActionChunk(
            values=values,
            names=action.names,
            units=action.units,
            step_s=action.step_s,
            observed_ns=now_ns,
            valid_until_ns=now_ns + round(action.steps * action.step_s * SECOND_NS),
            sequence=self._sequence,
            plan=plan,
        )

    def _plan(self, outputs: dict[str, Value], state: NDArray[np.float32] | None, now_ns: int) -> Plan | None:
        decode = self._policy.decode_plan
        if decode is None:
            return None
        return decode(outputs["waypoints"].array, outputs["step_logits"].array, state, now_ns)

    def _jumped_back(self, validated: ValidatedObservation) -> bool:
        """Whether time went back so far that this is a restart; a little is a late value, and refused."""
        stamps = [
            (f"camera {name!r}", stamp, self._rings[name].newest_ns) for name, (_, stamp) in validated.frames.items()
        ]
        if validated.state_ns is not None:
            stamps.append(("state", validated.state_ns, self._state_ns))
        if any(restarted(stamp, last, self._reset_after_ns) for _, stamp, last in stamps):
            return True
        back = [(what, last - stamp, last) for what, stamp, last in stamps if last is not None and stamp < last]
        if back:
            what, by, last = back[0]
            raise StampError(
                f"{what}: expected a stamp of at least {last} ns, got one {by / 1e6:.3f} ms before it; "
                f"drop late values (a jump back of over {self._reset_after_ns / 1e9:g} s counts as a restart)"
            )
        return False

    def _text(self, instruction: str) -> Words | None:
        _check_text(instruction)
        tokenizer = self._policy.tokenizer
        if tokenizer is None:
            return None
        known = self._texts.get(instruction)
        if known is None:
            ids, mask = tokenizer.encode(instruction)
            known = Value(("ids", instruction), ids), Value(("mask", instruction), mask)
            if len(self._texts) >= 64:
                self._texts.clear()
            self._texts[instruction] = known
        return known

    def _camera(self, name: str) -> CameraSpec:
        if name not in self._cameras:
            raise ContractError(
                f"camera {name!r}: the contract has {sorted(self._cameras)}; map your topic to one of them"
            )
        return self._cameras[name]

    def _add(self, camera: CameraSpec, image: CheckedFrame, stamp_ns: int) -> None:
        self._frame_count += 1
        version = (camera.name, self._frame_count)
        for dropped in self._rings[camera.name].add(_Frame(stamp_ns, Value(version, self._maker(camera.name, image)))):
            self._policy.driver.forget(camera.name, dropped.pixels, self._memory)

    def _maker(self, camera: str, image: CheckedFrame) -> Any:
        def make() -> NDArray[np.float32]:
            pixels, duration_ns = self._policy.prepare(camera, image)
            self._memory.add_time("preprocess", duration_ns)
            return pixels

        return make

    def _pixels(self, ring: FrameRing[_Frame], now_ns: int) -> list[Value | None]:
        slots = ring.window(now_ns)
        for frame in slots:
            if frame is not None and not frame.sampled:
                frame.sampled = True
                self.sampled_frames += 1
        return [None if frame is None else frame.pixels for frame in slots]

    def _let_go_of_images(self) -> None:
        """The caller may overwrite its images once `act` is over, also when it failed: keep pixels of our own."""
        for ring in self._rings.values():
            if ring.newest is not None:
                _ = ring.newest.pixels.array

    def _restart(self) -> None:
        self.resets += 1
        self._forget_all()

    def _forget_all(self) -> None:
        for camera, ring in self._rings.items():
            for frame in ring.clear():
                self._policy.driver.forget(camera, frame.pixels, self._memory)
        self._state_ns = None
        self._acts = 0

    @contextmanager
    def _exclusive(self) -> Iterator[None]:
        if not self._lock.acquire(blocking=False):
            raise SessionError(
                "this session is in use by another thread; give each thread a session of its own: policy.session()"
            )
        try:
            if self._policy.closed:
                raise SessionError("session: expected an open policy, it was closed; load the bundle again")
            yield
        finally:
            self._lock.release()


class ValidatedObservation(NamedTuple):
    """An observation that fits: the same images, stamps as plain ints."""

    frames: dict[str, tuple[CheckedFrame, int]]  # camera -> (image, stamp_ns)
    newest_ns: int  # of the frames
    state: NDArray[np.float32] | None  # (S,) in the contract's units
    state_ns: int | None


def validate_observation(contract: Contract, observation: Observation) -> ValidatedObservation:
    """What `observation` holds, if all of it fits `contract` and belongs to one instant.

    Frames may be apart by the window's tolerance, the state by its `reset_after_s`, on either side.

    Raises:
        ContractError, ShapeError, NonFiniteError, StampError: naming the part that does not fit.
    """
    cameras = {camera.name: camera for camera in contract.cameras}
    if set(observation.frames) != set(cameras):
        raise ContractError(
            f"observation: expected a frame of each camera {sorted(cameras)}, got {sorted(observation.frames)}; "
            "wait until every camera has sent one"
        )
    frames = {name: validate_frame(cameras[name], frame) for name, frame in observation.frames.items()}
    newest_ns = max(stamp_ns for _, stamp_ns in frames.values())
    limit_ns = round(contract.window.tolerance_s * SECOND_NS)
    for name, (_, stamp_ns) in frames.items():
        _check_together(f"camera {name!r}", stamp_ns, newest_ns, limit_ns)
    state, state_ns = _state_of(contract, observation)
    if state_ns is not None:
        _check_together("state", state_ns, newest_ns, round(contract.window.reset_after_s * SECOND_NS))
    return ValidatedObservation(frames, newest_ns, state, state_ns)


def validate_frame(camera: CameraSpec, frame: Any) -> tuple[CheckedFrame, int]:
    """One camera's image and stamp. Raises ContractError, ShapeError, StampError."""
    what = f"camera {camera.name!r}"
    return check_frame(camera, _check_stamped(what, frame).value), check_stamp(what, frame.stamp_ns)


def _state_of(contract: Contract, observation: Observation) -> tuple[NDArray[np.float32] | None, int | None]:
    spec, state = contract.state, observation.state
    if (spec is None) != (state is None):
        expected = f"the state {list(spec.names)}" if spec else "no state"
        raise ShapeError(f"observation: expected {expected}, got {state!r:.80}; see the bundle's contract")
    if spec is None:
        return None, None
    return check_state(spec, _check_stamped("state", state).value), check_stamp(
        "state", state.stamp_ns if state else None
    )


def _check_stamped(what: str, value: Any) -> Stamped[Any]:
    if not isinstance(value, Stamped):
        got = type(value).__name__
        raise ContractError(f"{what}: expected Stamped(value, stamp_ns), got {got}; every value carries its own stamp")
    return value


def _check_together(what: str, stamp_ns: int, newest_ns: int, limit_ns: int) -> None:
    apart_ns = stamp_ns - newest_ns
    if abs(apart_ns) > limit_ns:
        raise StampError(
            f"{what}: expected a stamp within {limit_ns / 1e6:g} ms of the newest frame ({newest_ns} ns), got "
            f"{stamp_ns} ns, {abs(apart_ns) / 1e6:.1f} ms {'before' if apart_ns < 0 else 'after'} it; "
            "check the sensors and their clocks"
        )
