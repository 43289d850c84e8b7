"""How far actions are from those of the reference: orientations as rotations, everything else as numbers."""

from __future__ import annotations

import numpy as np
import pytest
from support import gate_judge

from edgevlm_export.fidelity.metrics import ActionMeter
from edgevlm_export.fidelity.policy import Decision

POSE = ("x", "y", "z", "qx", "qy", "qz", "qw")
HALF = 0.5**0.5


def worst(got: tuple[float, ...], want: tuple[float, ...]) -> list[float]:
    contract = gate_judge.contract((gate_judge.group("ee_pose", POSE, "1", 7.0, rotation="quaternion_xyzw"),), ())
    meter = ActionMeter(contract)
    meter.add(*(Decision(np.array([row], np.float32), None) for row in (got, want)))
    assert [row.worst for row in meter.columns("cpu")] == meter.normalized().reshape(-1).tolist()
    return [row.worst for row in meter.columns("cpu")]


def test_the_other_sign_of_a_quaternion_is_no_error() -> None:
    assert worst((1, 2, 3, 0, 0, HALF, HALF), (1, 2, 3, 0, 0, -HALF, -HALF)) == [0.0] * 7


def test_the_sign_of_a_position_is_one_and_so_is_another_rotation() -> None:
    assert worst((-1, 2, 3, 0, 0, 0, 1), (1, 2, 3, 0, 0, 0, 1)) == [2.0, 0, 0, 0, 0, 0, 0]
    assert worst((1, 2, 3, 0, 0, 1, 0), (1, 2, 3, 0, 0, 0, -1)) == [0, 0, 0, 0, 0, 1.0, 1.0]


def test_a_quaternion_that_lost_its_length_is_off_with_either_sign() -> None:
    for sign in (1, -1):
        assert worst((1, 2, 3, 0, 0, 0, 0.5 * sign), (1, 2, 3, 0, 0, 0, 1))[-1] == pytest.approx(0.5)
