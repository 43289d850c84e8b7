"""What a manifest says of one stage: a pure tensor function, its ports and its files."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgevlm.manifest.contract import Spec

Precision = Literal["fp32", "fp16", "int8"]
Form = Literal["cpu", "tensorrt"]
OldPortKind = Literal["pixels", "ids", "mask", "features", "embedding", "state", "action", "waypoints", "scores"]
DecoderPortKind = Literal["embeds", "positions", "index", "past_key", "past_value", "new_key", "new_value", "logits"]
# Since 1.3: keys and values made once for a loop; regions of a picture; what a chunk is made of, step by step.
CrossPortKind = Literal["cross_key", "cross_value"]
RegionPortKind = Literal["regions", "boxes", "shift", "scale", "objectness"]
StepPortKind = Literal["sample", "time", "velocity"]
PortKind = OldPortKind | DecoderPortKind | CrossPortKind | RegionPortKind | StepPortKind  # of a decoder since 1.2
Dimension = Annotated[int, Field(gt=0, lt=1 << 31)] | Annotated[str, Field(min_length=1)]
MOST_AXES, MOST_PORTS, MOST_ELEMENTS = 8, 4096, 1 << 31  # of a tensor; on one side of a stage; of a tensor again


class Port(Spec):
    """One tensor of a stage; a dimension is a number or the name of a symbol in the stage's `dynamic`."""

    name: str = Field(min_length=1)
    dtype: Literal["float32", "int64"]
    shape: tuple[Dimension, ...] = Field(max_length=MOST_AXES)
    kind: PortKind


class StageSpec(Spec):
    """A pure tensor function: one file for each form an engine may want."""

    inputs: tuple[Port, ...] = Field(min_length=1, max_length=MOST_PORTS)
    outputs: tuple[Port, ...] = Field(min_length=1, max_length=MOST_PORTS)
    forms: Mapping[Form, str] = Field(min_length=1)
    data: tuple[str, ...] = ()  # files of weights beside the forms, which read them by name. Since 1.2
    opset: int
    precision: Precision
    reason: str = ""  # why this precision, where it is not the one asked for
    quantized_nodes: int = 0
    frame_cache: Literal["frame", "instruction", "none"] = "none"
    dynamic: Mapping[str, tuple[int, int, int]] = {}  # symbol -> (min, opt, max)

    @model_validator(mode="after")
    def _ports_agree(self) -> StageSpec:
        for side, ports in (("inputs", self.inputs), ("outputs", self.outputs)):
            names = [port.name for port in ports]
            if len(set(names)) != len(names):
                raise ValueError(f"{side} repeat a name: {names}")
            symbols = {d for port in ports for d in port.shape if isinstance(d, str)}
            if unknown := sorted(symbols - set(self.dynamic)):
                raise ValueError(f"{side} use dimensions that `dynamic` does not explain: {unknown}")
        for symbol, (low, usual, high) in self.dynamic.items():
            if not 0 < low <= usual <= high:
                raise ValueError(f"dynamic {symbol!r}: expected 0 < min <= opt <= max, got {(low, usual, high)}")
        for port in (*self.inputs, *self.outputs):
            size = math.prod(d if isinstance(d, int) else self.dynamic[d][2] for d in port.shape)
            if size > MOST_ELEMENTS:
                raise ValueError(f"port {port.name!r}: expected at most {MOST_ELEMENTS} numbers, got {size}")
        return self
