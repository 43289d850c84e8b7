"""Two models that say the same rotation in other numbers are not apart."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import pytest
from support import gate_judge
from support.rotations import FORMS, Form, wire_quaternion

from edgevlm.gate.rotation import numbers
from edgevlm.loop.worker import Acted, Times
from edgevlm.manifest.contract import Observation
from edgevlm.replay.comparison import Apart, Comparison
from edgevlm.replay.replay import Turn


def compare(form: Form, a: Sequence[float], b: Sequence[float]) -> Apart:
    names = tuple("xyzw"[: len(a)])
    contract = gate_judge.contract((gate_judge.group("ee_pose", names, "1", 7.0, rotation=form),), ())
    comparison = Comparison(contract)
    apart = None
    for lane, row in (("a", a), ("b", b)):
        chunk = gate_judge.chunk(np.tile(np.array(row), (8, 1)), 5, 1, names)
        outcome = Acted(chunk, Observation({}, None, "go"), Times(0, 0, 0, 0, warm_up=False), {})
        apart = comparison.add(Turn(lane, outcome, {}))
    assert apart is not None
    return apart


@pytest.mark.parametrize("form", FORMS)
def test_the_other_sign_of_a_rotation_is_no_difference(form: Form) -> None:
    x, y, z, w = wire_quaternion("rotation_vector", (0.5, -1.0, 0.3)).tolist()
    plain, other = numbers(form, (x, y, z, w), (x, y, z, w)), numbers(form, (x, y, z, w), (-x, -y, -z, -w))
    assert math.dist(plain, other) > 1.0
    assert compare(form, plain, other).errors == pytest.approx(np.zeros(len(plain)), abs=1e-6)


def test_another_rotation_is_one() -> None:
    assert compare("quaternion_xyzw", (0, 0, 0, 1), (0, 0, 1, 0)).errors.tolist() == [0, 0, 1, 1]


def test_what_is_no_rotation_is_compared_as_numbers() -> None:
    assert compare("quaternion_xyzw", (0, 0, 0, 0), (0, 0, 0, -1)).errors.tolist() == [0, 0, 0, 1]


def test_angles_on_both_sides_of_a_half_turn_are_near() -> None:
    errors = compare("rpy", (0.1, 0.2, 3.1), (0.1, 0.2, -3.1)).errors
    assert errors.tolist() == pytest.approx([0, 0, 2 * math.pi - 6.2], abs=1e-6)
    other = compare("rpy", (0.1, 0.2, 0.3), (0.1 + math.pi, math.pi - 0.2, 0.3 - math.pi)).errors
    assert other.tolist() == pytest.approx([0, 0, 0], abs=1e-6)
