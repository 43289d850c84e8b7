"""The robot file: what a policy's directory does not say of the robot, and a robot cannot do without.

YAML or JSON. Units are those of the training data, of the list in edgevlm.units: nothing is converted.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, ValidationError

from edgevlm.errors import CheckpointError, ContractError, require
from edgevlm.manifest.action_kinds import ACTION_KINDS, ActionKind, RelativeTo
from edgevlm.manifest.contract import (
    ActionGroup,
    ActionSpec,
    CameraSpec,
    Contract,
    Duration,
    Encoding,
    InstructionSpec,
    Spec,
    StateField,
    StateSpec,
    WindowSpec,
)
from edgevlm.units import Unit
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.lerobot import ACTION, STATE, Features, Shift

FILL = "?"  # stands for what only somebody who knows the robot can say
UNFILLED = (FILL, "fill_in")  # the second in templates of earlier versions
EXAMPLES = ("rad", "deg", "m", "mm", "rad/s", "m/s", "N", "Nm", "1", "'%'")
INFO = "meta/info.json"  # of the data set, where somebody put it beside the policy


class RobotCamera(Spec):
    """A camera of the robot, and the feature it is to the model; the size is the feature's own unless said."""

    feature: str
    rate_hz: tuple[float, float]
    encoding: Encoding = "rgb8"
    frame_id: str = ""
    width: int | None = None
    height: int | None = None


class RobotState(Spec):
    """Names and units of the state, in the order of the training data."""

    names: tuple[str, ...]
    units: tuple[Unit, ...]
    frame_id: str = ""


class RobotGroup(Spec):
    """As `ActionGroup`, without what the statistics say."""

    kind: ActionKind
    names: tuple[str, ...]
    units: tuple[Unit, ...]
    lower: tuple[float, ...]
    upper: tuple[float, ...]
    frame_id: str = ""
    rotation: Literal["none", "quaternion_xyzw", "rotation_vector", "rpy"] = "none"
    relative_to: RelativeTo = "none"
    topic_type: str = ""


class RobotAction(Spec):
    """Groups in the order of the model's columns; `execute_steps` is the policy's own `n_action_steps` unless said."""

    groups: tuple[RobotGroup, ...] = Field(min_length=1)
    step_s: Duration
    execute_steps: int | None = Field(default=None, gt=0)


class RobotFile(Spec):
    """The whole file.

    Attributes:
        cameras: name in the contract -> camera.
        instructions: some that the policy was trained on, for a first try; of a policy that takes words.
        tolerance_s: how far apart frames of one observation may be; half a period of the slowest camera unless said.
    """

    cameras: Mapping[str, RobotCamera] = Field(min_length=1)
    state: RobotState | None = None
    action: RobotAction
    instructions: tuple[str, ...] = ()
    tolerance_s: Duration | None = None
    reset_after_s: Duration = 1.0


def read_robot(path: Path) -> RobotFile:
    """A robot file.

    Raises:
        ContractError: it cannot be read, was not filled in, or has unknown or missing keys; the message names the keys.
    """
    yaml = require("yaml", extra="bags")
    try:
        text = path.read_text(encoding="utf-8")
        data = yaml.safe_load(text)
        if unfilled := list(_unfilled(data)):
            raise ContractError(
                f"robot file {path}: expected your robot's own values, got {FILL!r} at {', '.join(unfilled)}; fill "
                "them in"
            )
        return RobotFile.model_validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise ContractError(
            f"robot file {path} at {'.'.join(map(str, first['loc']))!r}: {first['msg']} (got {first['input']!r:.80}; "
            f"{error.error_count()} fault(s) in all); `edgevlm robot CHECKPOINT` shows what belongs there"
        ) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError, ValueError, TypeError, RecursionError) as error:
        raise ContractError(f"robot file {path}: expected YAML or JSON, got an error: {error}") from error


def _unfilled(data: Any, where: str = "") -> Iterator[str]:
    """Where the template was left as it is."""
    if data in UNFILLED:
        yield where
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    for key, value in items:
        yield from _unfilled(value, f"{where}.{key}".lstrip("."))


def missing(checkpoint: Checkpoint) -> ContractError:
    """The error of an export without a robot file."""
    return ContractError(
        f"{checkpoint}: a LeRobot policy does not say how fast the robot's cameras are, what its columns are and "
        f"how far they may go; `edgevlm robot {shlex.quote(str(checkpoint))} > robot.yaml` writes a file to fill in, "
        "give it with --robot robot.yaml"
    )


def template(checkpoint: Checkpoint, features: Features, execute_steps: int) -> str:
    """A robot file for these features, with FILL wherever only somebody who knows the robot can say."""
    info = _info(checkpoint)
    state, action = _names(info, STATE, features.state), _names(info, ACTION, features.action)
    fps = info.get("fps")
    unknown = json.dumps(FILL)  # in quotes: a bare ? is a key to YAML
    step = f"{1 / fps:.6g}" if isinstance(fps, int | float) and fps > 0 else unknown
    lines = ["cameras:"]
    for feature, (height, width) in features.cameras.items():
        lines += [
            f"  {json.dumps(feature.rpartition('.')[2])}:  # the name that the robot's camera has",
            f"    feature: {json.dumps(feature)}  # {width}x{height}",
            f"    rate_hz: [{unknown}, {unknown}]  # slowest and fastest",
            "    encoding: rgb8  # what the camera sends",
            '    frame_id: ""  # of its pictures',
        ]
    if features.state:
        lines += [
            "state:",
            f"  names: {_row(state)}",
            f"  units: {_row([FILL] * features.state)}  # {', '.join(EXAMPLES)}",
        ]
    marks = _row([FILL] * features.action)
    lines += [
        "action:",
        f"  step_s: {step}  # seconds from one row of a chunk to the next: one over the data set's fps",
        f"  execute_steps: {execute_steps}",
        f"  groups:  # one for each controller, in the order of the {features.action} columns",
        f"    - kind: {unknown}  # {', '.join(ACTION_KINDS)}",
        f"      names: {_row(action)}",
        f"      units: {marks}  # {', '.join(EXAMPLES)}",
        f"      lower: {marks}",
        f"      upper: {marks}",
    ]
    return "\n".join(lines) + "\n"


def contract_of(
    where: Path,
    robot: RobotFile,
    features: Features,
    state: Shift | None,
    action: tuple[Shift, int, int],
    instruction: InstructionSpec | None = None,
) -> Contract:
    """The contract that the file and the policy make together.

    Args:
        action: normalisation of the action, steps of the chunk, how many of them the policy uses.
        instruction: null for a policy that takes no words.

    Raises:
        ContractError: the two do not fit; the message names both sides.
    """
    _fits(where, robot, features)
    slowest = min(camera.rate_hz[0] for camera in robot.cameras.values())
    named = {camera.feature: (name, camera) for name, camera in robot.cameras.items()}
    try:
        return Contract(
            cameras=tuple(_camera(*named[feature], size) for feature, size in features.cameras.items()),
            state=_state(robot.state, state),
            instruction=_instruction(where, robot, instruction),
            window=WindowSpec(
                offsets_s=(0.0,),
                tolerance_s=robot.tolerance_s or 0.5 / slowest,
                reset_after_s=robot.reset_after_s,
            ),
            action=_action(robot.action, *action),
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise ContractError(f"robot file {where}: {first['msg'].removeprefix('Value error, ')}") from error
    except ZeroDivisionError as error:
        raise ContractError(f"robot file {where}: rate_hz: expected rates over 0, got 0") from error


def _instruction(where: Path, robot: RobotFile, instruction: InstructionSpec | None) -> InstructionSpec | None:
    if instruction is None:
        if robot.instructions:
            raise ContractError(f"robot file {where}: instructions: this policy takes no words; leave them out")
        return None
    return instruction.model_copy(update={"examples": robot.instructions})


def _camera(name: str, camera: RobotCamera, size: tuple[int, int]) -> CameraSpec:
    return CameraSpec(
        name=name,
        width=size[1],
        height=size[0],
        encoding=camera.encoding,
        rate_hz=camera.rate_hz,
        frame_id=camera.frame_id,
    )


def _state(robot: RobotState | None, shift: Shift | None) -> StateSpec | None:
    if robot is None or shift is None:
        return None
    rows = zip(robot.names, robot.units, shift.offset, shift.scale, strict=True)
    fields = (StateField(name=name, unit=unit, mean=float(mean), std=float(std)) for name, unit, mean, std in rows)
    return StateSpec(fields=tuple(fields), frame_id=robot.frame_id)


def _action(robot: RobotAction, shift: Shift, steps: int, used: int) -> ActionSpec:
    groups, start = [], 0
    for group in robot.groups:
        columns = slice(start, start + len(group.names))
        scale, offset = (tuple(map(float, np.asarray(row)[columns])) for row in (shift.scale, shift.offset))
        groups.append(ActionGroup(**group.model_dump(), scale=scale, offset=offset))
        start += len(group.names)
    return ActionSpec(groups=tuple(groups), steps=steps, step_s=robot.step_s, execute_steps=robot.execute_steps or used)


def _fits(where: Path, robot: RobotFile, features: Features) -> None:
    given = [camera.feature for camera in robot.cameras.values()]
    if sorted(given) != sorted(features.cameras):
        raise ContractError(
            f"robot file {where}: cameras: the policy sees {sorted(features.cameras)}, the robot gives "
            f"{sorted(given)}; name each feature once"
        )
    for name, camera in robot.cameras.items():
        height, width = features.cameras[camera.feature]
        if (camera.width or width, camera.height or height) != (width, height):
            raise ContractError(
                f"robot file {where}: camera {name!r}: the policy was trained on {width}x{height}, the robot gives "
                f"{camera.width or width}x{camera.height or height}; set its driver to the size of the training"
            )
    state = robot.state
    _same(where, "state.names", features.state, len(state.names) if state else 0)
    _same(where, "state.units", features.state, len(state.units) if state else 0)
    _one_unit(where, robot)
    _same(where, "action.groups: names in all", features.action, sum(len(one.names) for one in robot.action.groups))


def _one_unit(where: Path, robot: RobotFile) -> None:
    """A position that is commanded and one that is measured under the same name are in one unit."""
    measured = dict(zip(robot.state.names, robot.state.units, strict=False)) if robot.state else {}
    for group in robot.action.groups:
        if not ACTION_KINDS[group.kind].measured_alike:
            continue
        for name, unit in zip(group.names, group.units, strict=False):
            if measured.get(name, unit) != unit and "1" not in (measured[name], unit):
                raise ContractError(
                    f"robot file {where}: {name!r}: its state is in {measured[name]!r} and its action in {unit!r}; "
                    "give the unit that the training data really has for both"
                )


def _same(where: Path, what: str, policy: int, robot: int) -> None:
    if policy != robot:
        raise ContractError(
            f"robot file {where}: {what}: the policy has {policy}, the robot file {robot}; give one for each, in the "
            "order of the training data"
        )


def _info(checkpoint: Checkpoint) -> Mapping[str, Any]:
    """What the data set says of itself, if its meta/info.json lies in the directory; it only fills a template in."""
    try:
        return checkpoint.json(INFO)
    except CheckpointError:
        return {}


def _names(info: Mapping[str, Any], feature: str, size: int) -> list[str]:
    """Names of a feature's numbers as the data set has them: a list, or one list under some key; else marks."""
    features = info.get("features")
    one = features.get(feature) if isinstance(features, dict) else None
    names = one.get("names") if isinstance(one, dict) else None
    if isinstance(names, dict) and len(names) == 1:
        names = next(iter(names.values()))
    if isinstance(names, list) and len(names) == size and all(isinstance(name, str) for name in names):
        return names
    return [FILL] * size


def _row(items: Sequence[str]) -> str:
    """A list as YAML writes it, every name in quotes: `yes` and `1e3` are names to a data set."""
    return json.dumps(list(items))
