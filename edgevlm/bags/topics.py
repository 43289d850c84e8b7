"""Which topic of a recording plays which part of a contract: one YAML file, or the convention.

The convention, for a contract with a camera `front` and state fields `a`, `b`:

    cameras: {front: /front/image_raw/compressed}      # /front/image_raw when only that one was recorded
    state: {a: {topic: /joint_states, joint: a}, b: {topic: /joint_states, joint: b}}
    instruction: /instruction

A file `<log>.topics.yaml` beside `<log>.mcap` is found by itself and takes its place.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from edgevlm.contract import Contract, Spec
from edgevlm.errors import LogError, OutputError, require
from edgevlm.rosmsg.selectors import Step, parse_path

# unit -> (the unit it is measured in, how many of those it is)
_UNITS: Mapping[str, tuple[str, float]] = {
    "rad": ("rad", 1.0),
    "deg": ("rad", 0.017453292519943295),
    "rad/s": ("rad/s", 1.0),
    "deg/s": ("rad/s", 0.017453292519943295),
    "rpm": ("rad/s", 0.10471975511965977),
    "m": ("m", 1.0),
    "cm": ("m", 0.01),
    "mm": ("m", 0.001),
    "m/s": ("m/s", 1.0),
    "mm/s": ("m/s", 0.001),
    "N": ("N", 1.0),
    "Nm": ("Nm", 1.0),
    "1": ("1", 1.0),
    "%": ("1", 0.01),
}


def unit_factor(recorded: str, wanted: str) -> float:
    """What a number in `recorded` is multiplied by to be in `wanted`; equal names need no table.

    Raises:
        LogError: the two do not measure the same thing, or one of them is unknown.
    """
    if recorded == wanted:
        return 1.0
    have, want = _UNITS.get(recorded), _UNITS.get(wanted)
    if have is None or want is None or have[0] != want[0]:
        raise LogError(
            f"topic map: cannot turn {recorded!r} into the contract's {wanted!r}; "
            f"known units: {', '.join(_UNITS)}; give the unit that the recording really uses"
        )
    return have[1] / want[1]


class StateSource(Spec):
    """Where one state field comes from: a joint of a JointState by its name, or a field of any message by its path."""

    topic: str = Field(min_length=1)
    joint: str = ""
    quantity: Literal["position", "velocity", "effort"] = "position"  # of the joint
    path: str = ""  # such as "pose.position.x", "position[name=gripper]" or "data[2]"
    unit: str = ""  # what the recording uses; empty: the contract's unit

    @model_validator(mode="after")
    def _one_of(self) -> StateSource:
        if bool(self.joint) == bool(self.path):
            raise ValueError("give either `joint` (of a JointState) or `path` (into a message), and not both")
        if self.path:
            parse_path(self.path)
        return self

    @property
    def steps(self) -> tuple[Step, ...]:
        """Where the number lies in a message."""
        return parse_path(self.path) if self.path else (Step(self.quantity, key="name", value=self.joint),)

    @property
    def place(self) -> str:
        """The joint or the path, as the map names it."""
        return self.joint or self.path


class TopicMap(Spec):
    """Topics for the cameras, the state fields and the instruction of a contract."""

    cameras: Mapping[str, str]
    state: Mapping[str, StateSource] = {}
    instruction: str = Field(min_length=1)

    @field_validator("cameras")
    @classmethod
    def _named(cls, cameras: Mapping[str, str]) -> Mapping[str, str]:
        if empty := [name for name, topic in cameras.items() if not topic]:
            raise ValueError(f"cameras {empty} have no topic")
        return cameras

    def check(self, contract: Contract) -> None:
        """Refuse a map that leaves out a part of the contract, or names one it does not have.

        Raises:
            LogError: which cameras or state fields are missing or unknown, or units that do not fit.
        """
        fields = {field.name: field.unit for field in contract.state.fields} if contract.state else {}
        for part, want, got in (
            ("cameras", {camera.name for camera in contract.cameras}, set(self.cameras)),
            ("state", set(fields), set(self.state)),
        ):
            if want != got:
                raise LogError(
                    f"topic map, {part}: expected exactly {sorted(want)}, got {sorted(got)} "
                    f"(missing {sorted(want - got)}, unknown {sorted(got - want)}); use the names of the contract"
                )
        for name, source in self.state.items():
            unit_factor(source.unit or fields[name], fields[name])


def load_topics(path: str | os.PathLike[str]) -> TopicMap:
    """A topic map from a YAML file.

    Raises:
        LogError: not there, not YAML, unknown keys or wrong values, each named.
        DependencyError: the extra `bags` is not installed.
    """
    yaml = require("yaml", extra="bags")
    try:
        data = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LogError(f"{path}: cannot be read ({error}); expected a topic map in YAML") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise LogError(f"{path}: expected YAML, got an error: {error}; correct the file") from error
    try:
        return TopicMap.model_validate(data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise LogError(
            f"{path} at {where!r}: {first['msg']} (got {str(first['input'])[:80]}; {error.error_count()} fault(s) "
            "in all); a topic map has the keys cameras, state and instruction"
        ) from error


def save_topics(topics: TopicMap, path: str | os.PathLike[str]) -> None:
    """Write a topic map as `load_topics` reads it.

    Raises:
        OutputError: the file cannot be written.
        DependencyError: the extra `bags` is not installed.
    """
    text = require("yaml", extra="bags").safe_dump(topics.model_dump(exclude_defaults=True), sort_keys=False)
    try:
        Path(path).write_text(text, encoding="utf-8")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); choose another place") from error


def topics_beside(log: str | os.PathLike[str]) -> Path:
    """Where the topic map of a recording lies when it has one: `run.mcap` -> `run.topics.yaml`."""
    return Path(log).with_suffix(".topics.yaml")


def default_topics(contract: Contract, found: Collection[str] = ()) -> TopicMap:
    """The convention's map for a contract; of a camera's two topics the one among `found`, compressed first."""
    cameras = {}
    for camera in contract.cameras:
        raw = f"/{camera.name}/image_raw"
        cameras[camera.name] = raw if raw in found and f"{raw}/compressed" not in found else f"{raw}/compressed"
    names = contract.state.names if contract.state else ()
    state = {name: StateSource(topic="/joint_states", joint=name) for name in names}
    return TopicMap(cameras=cameras, state=state, instruction="/instruction")
