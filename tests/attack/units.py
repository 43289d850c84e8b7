"""Units of random contracts and topic maps: each number is right by a table of its own, or refused."""

from __future__ import annotations

import math
import random
from pathlib import Path
from typing import Any

import numpy as np
from support import tiny

from edgevlm.errors import EdgevlmError
from edgevlm.manifest.contract import CameraSpec, Contract, StateField, StateSpec, WindowSpec
from edgevlm.rosmsg.state import StateAssembler
from edgevlm.rosmsg.topic_map import StateSource, TopicMap

# Unit -> (what is measured, how many SI units a number of it is); spellings of old bundles among them, and no units.
_SIZES: dict[str, tuple[str, float]] = {
    "rad": ("angle", 1), "deg": ("angle", math.pi / 180), "radians": ("angle", 1), "°": ("angle", math.pi / 180),
    "m": ("length", 1), "cm": ("length", 0.01), "mm": ("length", 0.001), "metres": ("length", 1),
    "rad/s": ("turn", 1), "deg/s": ("turn", math.pi / 180), "rpm": ("turn", math.tau / 60),
    "degrees/sec": ("turn", math.pi / 180), "percent": ("number", 0.01),
    "m/s": ("speed", 1), "mm/s": ("speed", 0.001), "1": ("number", 1), "%": ("number", 0.01),
    "N": ("force", 1), "Nm": ("torque", 1), "A": ("current", 1), "m/s^2": ("push", 1), "m/s2": ("push", 1),
}  # fmt: skip
_NO_UNITS = ("?", "", "fill_in", "RAD", "rad/min", "furlong", "nm")
# A place of a real message -> what it measures by convention.
_PLACES = {"position": {"angle", "length"}, "velocity": {"turn", "speed"}, "effort": {"force", "torque"}}


def _joint_state(name: str, quantity: str, value: float) -> Any:
    """As a decoded JointState: a class of that name with its fields."""
    fields = {"name": [name], "position": [0.0], "velocity": [0.0], "effort": [0.0]} | {quantity: [value]}
    message = type("JointState", (), {"__slots__": list(fields)})()
    for field, content in fields.items():
        setattr(message, field, content)
    return message


class Units:
    """A state field of a contract in one unit, a JointState in another, with and without `unit` in the map."""

    name, unit, limit_s, memory_mb = "units", "topic maps", 10.0, 512

    def one(self, seed: int, directory: Path) -> str:
        rng = random.Random(seed)
        expected = rng.choice([*_SIZES, *_SIZES, *_NO_UNITS])
        wire = rng.choice(["", "", *_SIZES, *_NO_UNITS])
        quantity, value = rng.choice(list(_PLACES)), rng.uniform(-1000, 1000)
        try:
            state = StateSpec(fields=(StateField(name="a", unit=expected),))
            source = StateSource.model_validate({"topic": "/j", "joint": "j", "quantity": quantity, "unit": wire})
        except ValueError as error:
            assert expected in _NO_UNITS or wire in _NO_UNITS, f"{expected!r}, {wire!r}: {error}"
            return "refused: no unit"
        assert expected in _SIZES and (wire in _SIZES or wire == ""), f"{expected!r} or {wire!r} passed as a unit"
        contract = Contract(
            cameras=(CameraSpec(name="c", width=2, height=2, rate_hz=(1.0, 2.0)),),
            state=state,
            instruction=None,
            window=WindowSpec(offsets_s=(0.0,), tolerance_s=0.1),
            action=tiny.actions(),
        )
        topics = TopicMap(cameras={"c": "/c"}, state={"a": source}, instruction="/i")
        try:
            topics.check(contract)
            stamped = StateAssembler(state, topics).feed("/j", _joint_state("j", quantity, value), 1)
        except EdgevlmError as error:
            text = str(error)
            assert "unit" in text and len(text) < 2000, text
            return "refused: unit"
        assert stamped is not None
        self._judge(expected, wire, quantity, value, float(stamped.value[0]))
        return "converted" if wire else "as on the wire"

    def _judge(self, expected: str, wire: str, quantity: str, value: float, got: float) -> None:
        kind, size = _SIZES[expected]
        if wire:
            other, wire_size = _SIZES[wire]
            assert kind == other, f"{wire!r} was taken for {expected!r}"
            right = value * wire_size / size
        else:
            assert kind == "number" or kind in _PLACES[quantity], f"{quantity} was taken for {expected!r}"
            assert size == 1, f"{expected!r} was taken from a message in SI without a word: a factor of {size}"
            right = value
        assert math.isclose(got, float(np.float32(right)), rel_tol=1e-5), f"{value} {wire or 'SI'} -> {got} {expected}"
