"""Numbers that no model has are told from the file, wherever a file can hold them; and reading any bytes ends."""

from __future__ import annotations

import contextlib
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.protobuf import field, model, node, varint

import edgevlm
from edgevlm.errors import BundleError
from edgevlm.onnx_numbers import HIDDEN, LARGEST, check_numbers, check_rows

STAGES = sorted(tiny.STAGES.glob("*.onnx"))
FLOAT, HALF, DOUBLE, BFLOAT = 1, 10, 11, 16
BAD = [float("nan"), float("inf"), float("-inf"), 3e38, -2 * LARGEST]
RELU = node("Relu", ("w",), ("y",))


def tensor(values: Any, kind: int = FLOAT, name: str = "w", *more: bytes, number: int = 9) -> bytes:
    """A tensor whose bytes stand in raw_data, or in the field `number`."""
    dtype = {FLOAT: "<f4", HALF: "<f2", DOUBLE: "<f8"}.get(kind)
    array = np.asarray(values, dtype) if dtype else np.asarray(values, "<f4").view("<u4") >> 16
    content = array.astype("<u2").tobytes() if dtype is None else array.tobytes()
    dims = b"".join(field(1, size) for size in array.shape)
    return dims + field(2, kind) + field(8, name) + field(number, content) + b"".join(more)


def file(tmp_path: Path, content: bytes) -> Path:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    return path


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_takes_every_stage_that_the_tests_have(path: Path) -> None:
    check_numbers(path)


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("kind", [FLOAT, HALF, DOUBLE, BFLOAT])
@pytest.mark.parametrize("place", [0, 1, 399_999, 700_000])
def test_one_bad_number_among_many_is_detected_in_every_type(tmp_path: Path, bad: float, kind: int, place: int) -> None:
    values = np.linspace(-3, 3, 700_001, dtype=np.float64)
    check_numbers(file(tmp_path, model(RELU, initializers=(tensor(values, kind),))))
    values[place] = bad
    with np.errstate(over="ignore"):
        content = tensor(values, kind)
    with pytest.raises(BundleError, match=r"m\.onnx.*in 'w'.*sound checkpoint"):
        check_numbers(file(tmp_path, model(RELU, initializers=(content,))))


def _typed(bad: float) -> dict[str, bytes]:
    """A bad number at every place of a file that can hold one."""
    single = struct.pack("<f", bad)
    bits = int(np.float16(bad).view(np.uint16)) if abs(bad) < 6e4 or not np.isfinite(bad) else 0x7C00
    halves = b"".join(field(1, 1) for _ in (1,)) + field(2, HALF) + field(8, "w")
    value = field(1, "value")
    return {
        "float_data, packed": model(RELU, initializers=(tensor([1.0, bad], number=4),)),
        "float_data, one by one": model(
            RELU, initializers=(field(1, 1) + field(2, FLOAT) + field(8, "w") + varint(4 << 3 | 5) + single,)
        ),
        "double_data": model(RELU, initializers=(tensor([bad], DOUBLE, number=10),)),
        "int32_data": model(RELU, initializers=(halves + field(5, bits),)),
        "int32_data, packed": model(RELU, initializers=(halves + field(5, varint(bits)),)),
        "a constant": model(node("Constant", (), ("y",), value + field(5, tensor([bad])))),
        "a constant in a list": model(node("Constant", (), ("y",), value + field(10, tensor([bad])))),
        "a number of a node": model(
            node("Elu", ("x",), ("y",), field(1, "alpha") + varint(2 << 3 | 5) + single + field(20, 1))
        ),
        "numbers of a node": model(node("Constant", (), ("y",), field(1, "value_floats") + field(7, single))),
        "numbers of a node, one by one": model(
            node("Constant", (), ("y",), field(1, "value_floats") + varint(7 << 3 | 5) + single)
        ),
    }


@pytest.mark.parametrize("bad", BAD)
@pytest.mark.parametrize("place", _typed(0.0))
def test_a_bad_number_is_detected_wherever_a_file_can_hold_it(tmp_path: Path, bad: float, place: str) -> None:
    check_numbers(file(tmp_path, _typed(0.5)[place]))
    with pytest.raises(BundleError, match=r"NaN or infinity|numbers up to"):
        check_numbers(file(tmp_path, _typed(bad)[place]))


def test_external_weights_are_read_at_their_offset(tmp_path: Path) -> None:
    values = np.ones(600, np.float32)
    values[500] = np.nan  # of what lies before the weights, and not of these
    (tmp_path / "m.data").write_bytes(values.tobytes())
    place = {"location": "m.data", "offset": "2400", "length": "2400"}
    external = [field(13, field(1, key) + field(2, text)) for key, text in place.items()] + [field(14, 1)]
    content = model(RELU, initializers=(field(1, 600) + field(2, FLOAT) + field(8, "w") + b"".join(external),))
    (tmp_path / "m.data").write_bytes(values.tobytes() + np.ones(600, np.float32).tobytes())
    check_numbers(file(tmp_path, content))
    (tmp_path / "m.data").write_bytes(np.ones(600, np.float32).tobytes() + values.tobytes())
    with pytest.raises(BundleError, match="NaN or infinity in 'w'"):
        check_numbers(tmp_path / "m.onnx")
    (tmp_path / "m.data").write_bytes(values.tobytes())
    with pytest.raises(BundleError, match=r"weights at 2400 of 'm\.data'"):
        check_numbers(tmp_path / "m.onnx")


@pytest.mark.parametrize("operator", ["QuantizeLinear", "DequantizeLinear"])
@pytest.mark.parametrize("scale", [[0.0], [-0.5], [0.5, -0.5], [0.5, 0.0], [HIDDEN]])
def test_a_scale_is_over_0(tmp_path: Path, operator: str, scale: list[float]) -> None:
    quantize = node(operator, ("x", "w", "zero"), ("y",))
    check_numbers(file(tmp_path, model(quantize, initializers=(tensor([0.5, 0.25]),))))
    check_numbers(file(tmp_path, model(RELU, initializers=(tensor(scale[:1]),))))
    with pytest.raises(BundleError, match=r"'w'"):
        check_numbers(file(tmp_path, model(quantize, initializers=(tensor(scale),))))


def test_the_one_number_that_masks_add_is_allowed_alone(tmp_path: Path) -> None:
    check_numbers(file(tmp_path, model(RELU, initializers=(tensor(HIDDEN),))))
    for values in ([HIDDEN, HIDDEN], -HIDDEN):
        with pytest.raises(BundleError, match=r"up to 3\.4"):
            check_numbers(file(tmp_path, model(RELU, initializers=(tensor(values),))))


def test_a_type_that_no_stage_has_is_refused(tmp_path: Path) -> None:
    content = field(1, 1) + field(2, 17) + field(8, "w") + field(9, b"\x7f")  # float8
    with pytest.raises(BundleError, match="'w' of a type that no stage has"):
        check_numbers(file(tmp_path, model(RELU, initializers=(content,))))


@pytest.mark.parametrize("dtype", ["<f4", "<f2"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_rows_of_embeddings_are_looked_at(tmp_path: Path, dtype: str, bad: float) -> None:
    rows = np.ones((3000, 200), dtype)
    check_rows(tmp_path, rows)
    rows[2999, 199] = bad
    with pytest.raises(BundleError, match="NaN or infinity in the rows"):
        check_rows(tmp_path, rows)


def test_a_bundle_with_a_bad_weight_is_refused_under_hashes_that_fit(tmp_path: Path) -> None:
    root = tiny.mono(tmp_path / "bundle")
    content = (root / "stages" / "text.onnx").read_bytes()
    weights = content.rindex(b"table") + 48
    tiny.refile(root, "stages/text.onnx", content[:weights] + struct.pack("<f", np.nan) * 8 + content[weights + 32 :])
    with pytest.raises(BundleError, match=r"text\.onnx: expected numbers that a model can have.*'table'"):
        edgevlm.load(root)


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(STAGES), st.lists(st.tuples(st.integers(0, 4000), st.integers(0, 255)), max_size=8))
def test_changed_bytes_are_read_or_refused(tmp_path_factory: Any, path: Path, changes: list[tuple[int, int]]) -> None:
    content = bytearray(path.read_bytes())
    for place, byte in changes:
        content[place % len(content)] = byte
    changed = tmp_path_factory.mktemp("changed") / "m.onnx"
    changed.write_bytes(content)
    with contextlib.suppress(BundleError):
        check_numbers(changed)
