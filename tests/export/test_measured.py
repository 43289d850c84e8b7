"""How far int8 may turn what a stage puts out: many numbers run by run, a few over all runs."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgevlm.errors import FidelityError
from edgevlm_export.fidelity.metrics import centred_cosine, check_alike, without_common
from edgevlm_export.quantization.cost import CENTRED, FEW, worst_cosine


def model(width: int, offset: float | list[float], share: float = 1.0) -> onnx.ModelProto:
    """x (1, width) -> share * x + offset."""
    graph = helper.make_graph(
        [helper.make_node("Mul", ["x", "share"], ["some"]), helper.make_node("Add", ["some", "offset"], ["y"])],
        "added",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, width])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, width])],
        [
            numpy_helper.from_array(np.float32([offset]), "offset"),
            numpy_helper.from_array(np.float32([share]), "share"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)


@pytest.mark.parametrize(("width", "turned"), [(2, False), (FEW - 1, False), (FEW, True), (64, True)])
def test_a_run_near_nothing_turns_a_long_output_and_not_a_yes_or_no(width: int, turned: bool) -> None:
    generator = np.random.default_rng(0)
    sizes = (1.0, 2.0, 0.001, 1.5)  # the third is nearly nothing: any error turns it around
    feeds = [{"x": (size * generator.standard_normal((1, width))).astype(np.float32)} for size in sizes]
    worst = worst_cosine(model(width, 0.0), model(width, 0.01), feeds)
    assert (worst["y"] < 0.9) == turned


def test_a_few_numbers_that_are_all_off_are_detected() -> None:
    generator = np.random.default_rng(0)
    feeds = [{"x": generator.standard_normal((1, 2)).astype(np.float32)} for _ in range(8)]
    assert worst_cosine(model(2, 0.0), model(2, 1.0), feeds)["y"] < 0.9


@pytest.mark.parametrize("kind", sorted(CENTRED))
@pytest.mark.parametrize("width", [2, FEW, 64])
def test_a_stage_that_ignores_its_input_is_detected_under_a_large_bias(width: int, kind: str) -> None:
    generator = np.random.default_rng(0)
    feeds = [{"x": 0.3 * generator.standard_normal((1, width)).astype(np.float32)} for _ in range(12)]
    bias = [[5.0, -5.0] * (width // 2)]
    complete, deaf, near = (model(width, bias, share) for share in (1.0, 0.0, 1.02))
    assert worst_cosine(complete, deaf, feeds)["y"] > 0.99
    assert worst_cosine(complete, deaf, feeds, {"y": kind})["y"] < 0.5  # type: ignore[dict-item]
    assert worst_cosine(complete, near, feeds, {"y": kind})["y"] > 0.999  # type: ignore[dict-item]


def test_of_scores_only_what_sets_the_columns_apart_counts() -> None:
    generator = np.random.default_rng(0)
    feeds = [{"x": generator.standard_normal((1, 2)).astype(np.float32)} for _ in range(8)]
    assert worst_cosine(model(2, 0.0), model(2, 9.0), feeds, {"y": "scores"})["y"] == pytest.approx(1.0)
    assert worst_cosine(model(2, 0.0), model(2, [[9.0, -9.0]]), feeds, {"y": "scores"})["y"] < 0.5
    no_yes = np.float32([[1, 4], [2, 2]])
    np.testing.assert_allclose(without_common(no_yes)[:, 1] * 2, [3, 0])


def test_what_never_varies_is_compared_as_it_is() -> None:
    same = np.full((4, 3), 2.0)
    assert centred_cosine(same * 1.5, same) == pytest.approx(1.0)
    assert centred_cosine(-same, same) == pytest.approx(-1.0)


def test_each_axis_has_its_own_mean() -> None:
    """Rows that differ by much hide columns that are mixed up, and the other way round."""
    columns = np.array([0.1, -0.2, 0.3, -0.2])
    want = np.array([[10.0], [-10.0], [4.0]]) + columns
    got = np.array([[10.0], [-10.0], [4.0]]) - columns
    assert centred_cosine(got, want, axis=0) > 0.99 and centred_cosine(got, want, axis=1) < -0.9


def test_answers_of_other_shapes_are_not_compared() -> None:
    check_alike("boxes", (3, 4), (3, 4))
    with pytest.raises(FidelityError, match=r"boxes: expected those of the judge, \(3, 4\), got \(2, 4\)"):
        check_alike("boxes", (2, 4), (3, 4))
