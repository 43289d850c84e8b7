"""What every LeRobot policy directory has: features, and how numbers are normalised on their way in and out.

Statistics lie in policy_preprocessor.json and policy_postprocessor.json with the files they name, or, in directories
written before those existed, as buffers among the weights. Nothing pickled is read.

LeRobot normalises `(x - mean) / (std + eps)` or `2 * (x - min) / (max - min) - 1` (in two modes quantiles stand for min
and max), and turns the model's numbers back by `x * std + mean` or `(x + 1) / 2 * (max - min) + min`. On the way in it
normalises what the step's `features` list, and of these what `normalize_observation_keys` names, if that is there; an
action is always turned back. Source: src/lerobot/processor/normalize_processor.py of LeRobot 0.6.1.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from edgevlm.errors import CheckpointError, FamilyError, require
from edgevlm_export.checkpoint import AGAIN, CONFIG, WEIGHTS, Checkpoint

STATE, ACTION = "observation.state", "action"
BEFORE, AFTER = "policy_preprocessor.json", "policy_postprocessor.json"
EPS = 1e-8
# Steps that leave a robot's numbers as they are. A renaming is for data sets: the model's own names are in config.json.
HARMLESS = {"rename_observations_processor", "to_batch_processor", "device_processor"}
# Where directories without the two files keep their statistics among the weights.
OLD = ("normalize_inputs.buffer_", "unnormalize_outputs.buffer_", "normalize_targets.buffer_")
# Some were trained on the data of several robots, and say in a name whose statistics these are.
ROBOTS = re.compile(r"\.so\d+(?:-\w+)?_buffer_")

# Mode -> the statistics of its lower and upper end, which become -1 and 1.
ENDS: Mapping[str, tuple[str, str]] = {
    "MIN_MAX": ("min", "max"),
    "QUANTILES": ("q01", "q99"),
    "QUANTILE10": ("q10", "q90"),
}

Numbers = NDArray[np.float32]


@dataclass(frozen=True)
class Shift:
    """`normalised = (value - offset) / scale` on the way in, `value = normalised * scale + offset` on the way out."""

    offset: Numbers
    scale: Numbers


@dataclass(frozen=True)
class Features:
    """What goes in and out, in the order of config.json.

    Attributes:
        cameras: feature -> (height, width) of its pictures.
        state: numbers in the state; 0 where the model takes none.
        action: numbers in an action.
    """

    cameras: Mapping[str, tuple[int, int]]
    state: int
    action: int


@dataclass(frozen=True)
class _Way:
    """One direction: statistics and mode of each feature.

    Attributes:
        listed: feature -> kind, of those observations that are normalised; None for all, by the kind that they have.
    """

    where: str
    modes: Mapping[str, str]  # kind of feature -> mode
    statistics: Mapping[str, Mapping[str, Numbers]]  # feature -> name -> numbers
    eps: float
    listed: Mapping[str, str] | None = None

    def mode(self, feature: str, kind: str) -> str:
        """How numbers of a feature are normalised."""
        if self.listed is not None and feature != ACTION:
            kind = self.listed.get(feature, "")
        return self.modes.get(kind, "IDENTITY")


@dataclass(frozen=True)
class Normalization:
    """How this directory normalises."""

    way_in: _Way
    way_out: _Way
    files: tuple[str, ...]  # of the directory, beside config and weights

    def mode(self, feature: str, kind: str) -> str:
        """How numbers of an observation are normalised on the way in."""
        return self.way_in.mode(feature, kind)

    def observed(self, feature: str, kind: str, size: int) -> Shift:
        """Of a state or a camera, for the way in. Raises CheckpointError and FamilyError."""
        shift = _shift(self.way_in, feature, kind, size)
        plus = np.float32(self.way_in.eps) if self.mode(feature, kind) == "MEAN_STD" else np.float32(0)
        scale = shift.scale + plus
        if not (scale > 0).all():
            raise CheckpointError(
                f"{self.way_in.where}: {feature}[{int(np.argmin(scale))}]: expected numbers that moved in training, "
                f"got a spread of {float(scale.min()):g}, which nothing can be divided by; train without it"
            )
        return Shift(shift.offset, scale)

    def acted(self, size: int) -> Shift:
        """Of the action, for the way out. Raises CheckpointError and FamilyError."""
        return _shift(self.way_out, ACTION, "ACTION", size)


def is_statistic(name: str) -> bool:
    """Whether a tensor among the weights is no weight."""
    return ROBOTS.sub(".buffer_", name).startswith(OLD)


def read_features(where: Path, config: Mapping[str, Any], without: Collection[str] = ()) -> Features:
    """From config.json; features of the names `without` are passed over.

    Raises:
        CheckpointError: it is not complete.
        FamilyError: a feature that no robot's contract has.
    """
    cameras: dict[str, tuple[int, int]] = {}
    state = 0
    for name, kind, shape in _listed(where, config, "input_features"):
        if name in without:
            continue
        if kind == "VISUAL" and len(shape) == 3 and shape[0] == 3:
            cameras[name] = (shape[1], shape[2])
        elif kind == "STATE" and name == STATE and len(shape) == 1:
            state = shape[0]
        else:
            raise FamilyError(
                f"{where}: input_features: expected pictures of shape (3, H, W) and {STATE!r}, got {name!r} of type "
                f"{kind} and shape {list(shape)}; a robot senses no such thing: train without it"
            )
    outputs = _listed(where, config, "output_features")
    if [(name, kind, len(shape)) for name, kind, shape in outputs] != [(ACTION, "ACTION", 1)]:
        raise FamilyError(f"{where}: output_features: expected {ACTION!r} alone, as one row, got {outputs}")
    if not cameras:
        raise FamilyError(f"{where}: input_features: expected at least one camera, got none; train with pictures")
    return Features(cameras, state, outputs[0][2][0])


def _listed(where: Path, config: Mapping[str, Any], key: str) -> list[tuple[str, str, tuple[int, ...]]]:
    found = config.get(key)
    try:
        return [(name, str(one["type"]), _shape(one["shape"])) for name, one in dict(found or {}).items()]
    except (TypeError, KeyError, ValueError) as error:
        raise CheckpointError(
            f"{where}: {key}: expected name -> type and shape, got {found!r:.200}; {AGAIN}"
        ) from error


def _shape(given: Any) -> tuple[int, ...]:
    shape = tuple(given)
    if not all(isinstance(size, int) and not isinstance(size, bool) and 0 < size < 1 << 20 for size in shape):
        raise ValueError(f"no shape: {given!r}")
    return shape


def read_normalization(checkpoint: Checkpoint, config: Mapping[str, Any], also: Collection[str] = ()) -> Normalization:
    """From the two processor files, or from the weights where there are none.

    Args:
        also: steps on the way in that somebody else reads.

    Raises:
        CheckpointError: a file is missing or damaged.
        FamilyError: a step that this version does not know.
    """
    if checkpoint.has(BEFORE) or checkpoint.has(AFTER):
        way_in, first = _processor(checkpoint, BEFORE, {"normalizer_processor", *also})
        way_out, second = _processor(checkpoint, AFTER, {"unnormalizer_processor"})
        return Normalization(way_in, way_out, (BEFORE, first, AFTER, second))
    statistics: dict[str, dict[str, Numbers]] = {}
    weights = checkpoint.weights(is_statistic)
    names = {name.replace(".", "_"): name for key in ("input_features", "output_features") for name in config[key]}
    for full, value in weights.items():
        plain = ROBOTS.sub(".buffer_", full)
        prefix = next(prefix for prefix in OLD if plain.startswith(prefix))
        if plain != full and sum(ROBOTS.sub(".buffer_", other) == plain for other in weights) > 1:
            raise CheckpointError(
                f"{checkpoint / WEIGHTS}: expected the statistics of one robot, got several of {plain!r}; train the "
                "policy on the data of yours"
            )
        flat, _, which = plain.removeprefix(prefix).rpartition(".")
        statistics.setdefault(names.get(flat, flat), {})[which] = value.float().numpy()
    if not statistics:
        raise CheckpointError(
            f"{checkpoint}: expected statistics of the training data in {BEFORE} and {AFTER}, or in {WEIGHTS} as "
            "`normalize_inputs.*`, found neither; copy all files of the policy"
        )
    modes = _modes(checkpoint / CONFIG, config.get("normalization_mapping"))
    way = _Way(str(checkpoint / WEIGHTS), modes, statistics, EPS)
    return Normalization(way, way, ())


def _processor(checkpoint: Checkpoint, name: str, known: Collection[str]) -> tuple[_Way, str]:
    """(the normalising step of one file, the file of its statistics); other steps of `known` are let pass."""
    wanted = next(step for step in known if step.endswith("normalizer_processor"))
    where = checkpoint.file(name)
    try:
        steps = [(str(one.get("registry_name") or one.get("class")), one) for one in checkpoint.json(name)["steps"]]
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{where}: expected a list of steps, got none that can be read; {AGAIN}") from error
    if unknown := [kind for kind, _ in steps if kind not in {*HARMLESS, *known}]:
        raise FamilyError(
            f"{where}: expected no steps but {sorted({*HARMLESS, *known})}, got {unknown}; this version does not know "
            "what they do to a robot's numbers"
        )
    found = [one for kind, one in steps if kind == wanted]
    if len(found) != 1:
        raise CheckpointError(f"{where}: expected one step {wanted!r}, got {len(found)}; {AGAIN}")
    settings, file = found[0].get("config", {}), found[0].get("state_file")
    if not isinstance(file, str) or Path(file).name != file:
        raise CheckpointError(f"{where}: state_file: expected the name of a file beside it, got {file!r:.100}; {AGAIN}")
    eps = settings.get("eps", EPS)
    if not isinstance(eps, float | int) or not 0 <= eps < 1:
        raise CheckpointError(f"{where}: eps: expected a small number, got {eps!r:.40}; {AGAIN}")
    modes = _modes(where, settings.get("norm_map"))
    statistics = _statistics(checkpoint / file)
    return _Way(str(checkpoint / file), modes, statistics, float(eps), _listed_features(where, settings)), file


def _listed_features(where: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Feature -> kind, of the observations that a step normalises."""
    found, chosen = settings.get("features"), settings.get("normalize_observation_keys")
    if not isinstance(found, dict) or not all(isinstance(one, dict) and "type" in one for one in found.values()):
        raise CheckpointError(f"{where}: features: expected name -> type and shape, got {found!r:.100}; {AGAIN}")
    if chosen is not None and not (isinstance(chosen, list) and all(isinstance(name, str) for name in chosen)):
        raise CheckpointError(f"{where}: normalize_observation_keys: expected names, got {chosen!r:.100}; {AGAIN}")
    return {name: str(one["type"]) for name, one in found.items() if chosen is None or name in chosen}


def _statistics(path: Path) -> dict[str, dict[str, Numbers]]:
    safetensors = require("safetensors.numpy", extra="export")
    failure = require("safetensors", extra="export").SafetensorError
    try:
        loaded = safetensors.load_file(path)
    except (failure, OSError, ValueError) as error:
        raise CheckpointError(f"{path}: expected whole safetensors, got an error: {error}; {AGAIN}") from error
    statistics: dict[str, dict[str, Numbers]] = {}
    for full, value in loaded.items():
        feature, _, which = full.rpartition(".")
        statistics.setdefault(feature, {})[which] = value.astype(np.float32)
    return statistics


def _modes(where: Path, given: Any) -> dict[str, str]:
    if not isinstance(given, dict) or not all(isinstance(mode, str) for mode in given.values()):
        raise CheckpointError(f"{where}: expected a mode for each kind of feature, got {given!r:.100}; {AGAIN}")
    return given


def _shift(way: _Way, feature: str, kind: str, size: int) -> Shift:
    mode = way.mode(feature, kind)
    if mode == "IDENTITY":
        return Shift(np.zeros(size, np.float32), np.ones(size, np.float32))
    if mode == "MEAN_STD":
        return Shift(_numbers(way, feature, "mean", size), _numbers(way, feature, "std", size))
    if mode not in ENDS:
        raise FamilyError(
            f"{way.where}: normalization of {kind}: expected IDENTITY, MEAN_STD or one of {sorted(ENDS)}, got "
            f"{mode!r}; train with one of these"
        )
    first, second = (_numbers(way, feature, which, size) for which in ENDS[mode])
    two = np.float32(2)
    return Shift((first + second) / two, (second - first) / two)


def _numbers(way: _Way, feature: str, which: str, size: int) -> Numbers:
    """One statistic, flat: those of a camera are kept as (3, 1, 1)."""
    value = way.statistics.get(feature, {}).get(which)
    if value is None or value.size != size or not np.isfinite(value).all():
        got = "nothing" if value is None else f"{value.ravel()[:8].tolist()} of shape {value.shape}"
        raise CheckpointError(
            f"{way.where}: {which} of {feature!r}: expected {size} finite numbers, got {got}; {AGAIN}"
        )
    return value.reshape(size)
