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

from edgevlm.atomic import write_file
from edgevlm.errors import LogError, OutputError, require
from edgevlm.manifest.contract import Contract, Spec
from edgevlm.rosmsg.conventions import CONVENTIONS, check_carried, check_unit
from edgevlm.rosmsg.selectors import Step, parse_path
from edgevlm.units import parse_unit, unit_factor


class StateSource(Spec):
    """Where one state field comes from: a joint of a JointState by its name, or a field of any message by its path."""

    topic: str = Field(min_length=1)
    joint: str = ""
    quantity: Literal["position", "velocity", "effort"] = "position"  # of the joint
    path: str = ""  # such as "pose.position.x", "position[name=gripper]" or "data[2]"
    unit: str = ""  # what the message carries; empty: what messages carry by convention
    command_unit: str = ""  # what the joint or gripper it measures is commanded in, or its axis moves in; empty: SI

    @field_validator("unit", "command_unit")
    @classmethod
    def _of_the_list(cls, unit: str) -> str:
        return parse_unit(unit) if unit else ""

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

    def factor(self, unit: str) -> float:
        """What a number of the message is multiplied by to be in the contract's `unit`, checked before."""
        return unit_factor(self.unit or unit, unit)

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
            check_unit(name, fields[name], source.unit, source.place)
            if source.joint:
                carried = CONVENTIONS["JointState", source.quantity]
                check_carried(carried, fields[name], source.unit, f"topic map, state {name!r}: {source.quantity}")


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
    """Write a topic map as `load_topics` reads it; a reader has all of it, or what stood there.

    Raises:
        OutputError: the file cannot be written.
        DependencyError: the extra `bags` is not installed.
    """
    text = require("yaml", extra="bags").safe_dump(topics.model_dump(exclude_defaults=True), sort_keys=False)
    try:
        write_file(Path(path), text.encode())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error}); choose another place") from error


def topics_beside(log: str | os.PathLike[str]) -> Path:
    """Where the topic map of a recording lies when it has one: `run.mcap` -> `run.topics.yaml`."""
    return Path(log).with_suffix(".topics.yaml")


def default_topics(contract: Contract, present: Collection[str] = (), used: Collection[str] = ()) -> TopicMap:
    """The convention's map for a contract; of a camera's two topics one with messages, else one that is there.

    Args:
        present: the topics that are there; of two, the compressed one is taken.
        used: those of them that are known to have messages.
    """
    cameras = {}
    for camera in contract.cameras:
        raw = f"/{camera.name}/image_raw"
        pair = (f"{raw}/compressed", raw)
        known = [*(topic for topic in pair if topic in used), *(topic for topic in pair if topic in present)]
        cameras[camera.name] = [*known, pair[0]][0]
    names = contract.state.names if contract.state else ()
    state = {name: StateSource(topic="/joint_states", joint=name) for name in names}
    return TopicMap(cameras=cameras, state=state, instruction="/instruction")
