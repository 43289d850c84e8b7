"""The contract of a policy: what goes in, what comes out, in which units, frames and rates.

Specifications are frozen pydantic models that refuse unknown keys; they are part of the manifest.
Values (`Stamped`, `Observation`, `ActionChunk`, `Plan`) are frozen dataclasses around numpy arrays.
Stamps are nanoseconds of the data's own clock (ROS time on a robot); durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, Generic, Literal, NewType, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, model_validator

from edgevlm.errors import ContractError, NonFiniteError, ShapeError, StampError
from edgevlm.manifest.action_kinds import ACTION_KINDS, ActionKind, ActionRow, RelativeTo
from edgevlm.units import Unit

T = TypeVar("T")

SECOND_NS = 1_000_000_000

Encoding = Literal["rgb8", "bgr8", "rgba8", "bgra8", "mono8"]
CHANNELS: Mapping[str, int] = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "bgra8": 4, "mono8": 1}

SHORTEST_S = 1e-9  # a stamp counts nanoseconds: nothing shorter can be told from 0
LONGEST_S = 1e6  # no duration of a contract is longer: all of them fit an int64 of nanoseconds
Duration = Annotated[float, Field(ge=SHORTEST_S, le=LONGEST_S)]
MOST_NAMES = 4096  # of a state, of a chunk, of a plan, of a window's frames
MOST_TOKENS = 1 << 20  # of a text, a prompt or a dialogue
Side = Annotated[int, Field(gt=0, le=1 << 14)]  # of a picture, in pixels
Offset = Annotated[float, Field(ge=-LONGEST_S, le=LONGEST_S)]


class Spec(BaseModel):
    """A frozen part of a manifest: unknown keys are errors, and so are NaN and infinity."""

    # Validators are built when a class is first used: an import needs none of them.
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False, defer_build=True)


class CameraSpec(Spec):
    """One camera as the robot delivers it: uint8 (height, width, channels) in `encoding`, rows may be padded."""

    name: str = Field(min_length=1)
    width: Side
    height: Side
    encoding: Encoding = "rgb8"
    rate_hz: tuple[float, float]  # slowest and fastest rate the model was trained for
    frame_id: str = ""

    @model_validator(mode="after")
    def _rates(self) -> CameraSpec:
        slowest, fastest = self.rate_hz
        if not 0 < slowest <= fastest:
            raise ValueError(
                f"camera {self.name!r}: rate_hz must be (slowest, fastest), both over 0, got {self.rate_hz}"
            )
        return self

    @property
    def shape(self) -> tuple[int, ...]:
        """(height, width, channels); mono8 has no channel axis."""
        channels = CHANNELS[self.encoding]
        return (self.height, self.width) if channels == 1 else (self.height, self.width, channels)


class StateField(Spec):
    """One number of the robot's state; the model sees `(value - mean) / std`."""

    name: str = Field(min_length=1)
    unit: Unit  # "m", "rad", "m/s", "1" (no unit), ..; see edgevlm.units
    mean: float = 0.0
    std: float = Field(default=1.0, gt=0)


class StateSpec(Spec):
    """The robot's state as one float vector, in this order and these units."""

    fields: tuple[StateField, ...] = Field(min_length=1, max_length=MOST_NAMES)
    frame_id: str = ""

    @model_validator(mode="after")
    def _distinct(self) -> StateSpec:
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"state names repeat: {self.names}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """The order of the vector."""
        return tuple(field.name for field in self.fields)

    def select(self, names: Sequence[str], values: Sequence[float]) -> NDArray[np.float32]:
        """Pick this state out of named values in any order, extra ones ignored: float32 (len(fields),).

        Raises:
            ContractError: a name is missing or twice in `names`.
            ShapeError: not as many values as names.
        """
        index = {name: i for i, name in enumerate(names)}
        missing = [name for name in self.names if name not in index]
        if missing or len(index) != len(names):
            raise ContractError(
                f"state: expected each of {list(self.names)} once, got {list(names)} (missing {missing}); "
                "map the names of your robot to those of the contract"
            )
        if len(values) != len(names):
            raise ShapeError(
                f"state: expected a value for each of {len(names)} names, got {len(values)}; check the publisher"
            )
        return np.array([values[index[name]] for name in self.names], np.float32)


class WindowSpec(Spec):
    """Which past frames the model sees: one slot per offset, oldest first, the last is 0 (now)."""

    offsets_s: tuple[Offset, ...] = Field(min_length=1, max_length=MOST_NAMES)
    tolerance_s: Duration
    pad: Literal["repeat", "mask", "wait"] = "repeat"
    reset_after_s: Duration = 1.0

    @model_validator(mode="after")
    def _ordered(self) -> WindowSpec:
        if list(self.offsets_s) != sorted(set(self.offsets_s)) or self.offsets_s[-1] != 0.0:
            raise ValueError("window.offsets_s must rise strictly and end with 0.0, such as [-0.2, -0.1, 0.0]")
        return self


# Form of a rotation -> how many columns it has, and their unit.
_ROTATIONS: Mapping[str, tuple[int, str]] = {
    "quaternion_xyzw": (4, "1"),
    "rotation_vector": (3, "rad"),
    "rpy": (3, "rad"),
}


class ActionGroup(Spec):
    """Some columns of a chunk that go to one controller; physical value = normalised * scale + offset."""

    kind: ActionKind
    names: tuple[str, ...] = Field(min_length=1, max_length=MOST_NAMES)
    units: tuple[Unit, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    frame_id: str = ""
    rotation: Literal["none", "quaternion_xyzw", "rotation_vector", "rpy"] = "none"
    relative_to: RelativeTo = "none"
    topic_type: str = ""

    @model_validator(mode="after")
    def _of_rotations(self) -> ActionGroup:
        """Bundles of formats up to 1.3 may have one SI unit all along an `ee_pose`."""
        count, unit = _ROTATIONS.get(self.rotation, (0, ""))
        if self.row.rotation == "orientation" and 0 < count < len(self.units):
            parts = (unit if each in ("m", "rad") else each for each in self.units[-count:])
            # Before anybody has the frozen model; a validator before parsing would lose what JSON means strictly.
            object.__setattr__(self, "units", (*self.units[:-count], *parts))
        return self

    @property
    def row(self) -> ActionRow:
        """What is known of its kind."""
        return ACTION_KINDS[self.kind]

    @property
    def turning(self) -> tuple[str, ...]:
        """The columns that are one orientation together: the last ones of an `ee_pose` with a rotation."""
        count, _ = _ROTATIONS.get(self.rotation, (0, ""))
        return self.names[-count:] if count and self.row.rotation == "orientation" else ()

    @model_validator(mode="after")
    def _same_length(self) -> ActionGroup:
        for key in ("units", "scale", "offset", "lower", "upper"):
            if len(getattr(self, key)) != len(self.names):
                raise ValueError(f"action group {self.names}: {key} must have {len(self.names)} entries")
        if any(low >= high for low, high in zip(self.lower, self.upper, strict=True)):
            raise ValueError(f"action group {self.names}: every lower limit must be below its upper limit")
        return self


class ActionSpec(Spec):
    """A chunk: `steps` rows, `step_s` apart, the first row meant for the instant of the observation."""

    groups: tuple[ActionGroup, ...] = Field(min_length=1, max_length=256)
    steps: int = Field(gt=0, le=1 << 16)
    step_s: Duration
    execute_steps: int = Field(gt=0)  # rows to use before a fresh chunk is expected

    @model_validator(mode="after")
    def _executable(self) -> ActionSpec:
        if self.execute_steps > self.steps:
            raise ValueError(f"action.execute_steps {self.execute_steps} is over the chunk's {self.steps} steps")
        if len(set(self.names)) != len(self.names):
            raise ValueError(f"action names repeat: {self.names}")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the chunk's columns."""
        return tuple(name for group in self.groups for name in group.names)

    @property
    def units(self) -> tuple[str, ...]:
        """Units of the chunk's columns."""
        return tuple(unit for group in self.groups for unit in group.units)

    def column(self, key: Literal["scale", "offset", "lower", "upper"]) -> NDArray[np.float32]:
        """One number for each column of the chunk: float32 (A,)."""
        return np.array([value for group in self.groups for value in getattr(group, key)], np.float32)


class PlanSpec(Spec):
    """What the model says it will do: waypoints in `frame_id`, and the step of the task being done.

    A waypoint is `state[relative_to] + normalised * scale + offset`; without `relative_to` the first term is 0.
    """

    steps: tuple[str, ...] = Field(min_length=1)
    waypoint_offsets_s: tuple[Offset, ...] = Field(min_length=1, max_length=MOST_NAMES)
    names: tuple[str, ...] = Field(min_length=1, max_length=MOST_NAMES)
    units: tuple[Unit, ...]
    scale: tuple[float, ...]
    offset: tuple[float, ...]
    frame_id: str = ""
    relative_to: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _same_length(self) -> PlanSpec:
        for key in ("units", "scale", "offset", *(["relative_to"] if self.relative_to else [])):
            if len(getattr(self, key)) != len(self.names):
                raise ValueError(f"plan of {self.names}: {key} must have {len(self.names)} entries")
        return self


class InstructionSpec(Spec):
    """What may be said: at most `max_tokens`; `unknown` words are refused or let through to the model.

    Attributes:
        ending: what is put behind every instruction that does not end with it. Since 1.3.
    """

    max_tokens: int = Field(gt=0, le=MOST_TOKENS)
    unknown: Literal["refuse", "allow"] = "refuse"
    examples: tuple[str, ...] = ()  # sentences the model was trained on, for a first try
    ending: str = ""


class Contract(Spec):
    """Everything a robot must provide and will get, without a word about the model's inside.

    Attributes:
        instruction: null for a model that takes no words: any text is then a start signal, and none of it is read.
            Null since 1.2.
    """

    cameras: tuple[CameraSpec, ...] = Field(min_length=1, max_length=64)
    state: StateSpec | None
    instruction: InstructionSpec | None
    window: WindowSpec
    action: ActionSpec
    plan: PlanSpec | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Contract:
        names = [camera.name for camera in self.cameras]
        if len(set(names)) != len(names):
            raise ValueError(f"camera names repeat: {names}")
        known = self.state.names if self.state else ()
        references = self.plan.relative_to if self.plan else ()
        if unknown := [name for name in references if name not in known]:
            raise ValueError(f"plan.relative_to names no state field: {unknown}; the state has {known}")
        return self


@dataclass(frozen=True)
class Stamped(Generic[T]):
    """A value and when it was sensed, in nanoseconds of the data's clock."""

    value: T
    stamp_ns: int


@dataclass(frozen=True)
class Observation:
    """What the robot sees, feels and was told: each frame and the state carry a stamp of their own."""

    frames: Mapping[str, Stamped[NDArray[np.uint8]]]
    state: Stamped[NDArray[np.float32]] | None
    instruction: str


@dataclass(frozen=True)
class Plan:
    """Waypoints (P, len(names)) at `stamps_ns`, and a probability for each step of the task."""

    waypoints: NDArray[np.float32]  # (P, D) in the contract's units and frame
    stamps_ns: tuple[int, ...]
    names: tuple[str, ...]
    units: tuple[str, ...]
    frame_id: str
    steps: tuple[str, ...]
    confidence: NDArray[np.float32]  # (len(steps),), sums to 1

    @property
    def step(self) -> str:
        """The likeliest step."""
        return self.steps[int(np.argmax(self.confidence))]


@dataclass(frozen=True)
class ActionChunk:
    """`values[i]` is meant for `observed_ns + i * step_s`; nothing of it may be used after `valid_until_ns`."""

    values: NDArray[np.float32]  # (K, A) in physical units
    names: tuple[str, ...]
    units: tuple[str, ...]
    step_s: float
    observed_ns: int
    valid_until_ns: int
    sequence: int
    plan: Plan | None = None


CheckedFrame = NewType("CheckedFrame", NDArray[np.uint8])  # fits its camera's contract; made where frames enter


def check_frame(camera: CameraSpec, image: Any) -> CheckedFrame:
    """The frame itself if it fits the camera's contract; rows may be padded, pixels must lie side by side.

    Raises:
        ShapeError: not an ndarray, another shape or dtype, or pixels that are not contiguous in a row.
    """
    if not isinstance(image, np.ndarray) or image.dtype != np.uint8 or image.shape != camera.shape:
        got = f"{image.dtype} {image.shape}" if isinstance(image, np.ndarray) else type(image).__name__
        raise ShapeError(
            f"{_expected_image(camera)}, got {got}; resize or convert the frame, or export for this camera"
        )
    strides = image.strides
    if strides[1] != CHANNELS[camera.encoding] or (image.ndim == 3 and strides[2] != 1) or strides[0] < 0:
        raise ShapeError(
            f"{_expected_image(camera)} with its pixels side by side, got strides {strides}; pass a contiguous copy"
        )
    return CheckedFrame(image)


def _expected_image(camera: CameraSpec) -> str:
    return f"camera {camera.name!r}: expected uint8 {camera.shape} in {camera.encoding}"


def check_state(spec: StateSpec, value: Any) -> NDArray[np.float32]:
    """The state as float32 (S,), a copy.

    Raises:
        ShapeError: another shape, or not numbers.
        NonFiniteError: NaN or infinity, naming the fields.
    """
    try:
        array = np.asarray(value)
    except ValueError as error:  # rows of different lengths
        raise ShapeError(
            f"state: expected {len(spec.fields)} numbers {list(spec.names)}, got {value!r:.80}; check the publisher"
        ) from error
    if array.shape != (len(spec.fields),) or array.dtype.kind not in "fiu":
        raise ShapeError(
            f"state: expected float32 ({len(spec.fields)},) = {list(spec.names)}, got {array.dtype} {array.shape}; "
            "StateSpec.select picks and orders named values"
        )
    with np.errstate(over="ignore"):  # a float64 beyond float32 becomes infinity, and is refused below
        state = array.astype(np.float32)
    if not np.isfinite(state).all():
        bad = [name for name, number in zip(spec.names, state, strict=True) if not np.isfinite(number)]
        raise NonFiniteError(
            f"state: expected finite numbers, got {state.tolist()} (not finite: {bad}); check the sensor"
        )
    return state


def check_stamp(what: str, stamp_ns: Any) -> int:
    """The stamp as a plain int; `what` names it in the message.

    Raises:
        StampError: not a whole number of nanoseconds.
    """
    if isinstance(stamp_ns, (int, np.integer)) and not isinstance(stamp_ns, bool):
        return int(stamp_ns)
    raise StampError(
        f"{what}: expected a stamp in whole nanoseconds, got {stamp_ns!r:.80}; "
        "a ROS stamp is sec * 1_000_000_000 + nanosec"
    )
