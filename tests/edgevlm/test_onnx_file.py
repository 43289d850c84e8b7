"""What an ONNX file would make an engine do is read from its bytes alone, and whatever the bytes are, reading ends."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import tiny
from support.protobuf import field, model, node, tensor, varint

from edgevlm.errors import BundleError
from edgevlm.onnx_file import OnnxFacts, read_onnx
from edgevlm.onnx_numbers import check_numbers

RELU = node("Relu", ("x",), ("y",))
STAGES = sorted(tiny.STAGES.glob("*.onnx"))


def facts(tmp_path: Path, content: bytes) -> OnnxFacts:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    return read_onnx(path)


@pytest.mark.parametrize("path", STAGES, ids=lambda path: path.stem)
def test_reads_every_stage_that_the_tests_have(path: Path) -> None:
    known = read_onnx(path)
    assert known.operators and not known.external and not known.computes_alone


def test_names_weights_outside_the_file_wherever_they_stand(tmp_path: Path) -> None:
    in_attribute = node(
        "Constant", (), ("c",), field(1, "value") + field(5, tensor("", external="b.bin")) + field(20, 4)
    )
    in_list = node("Foo", (), ("d",), field(1, "value") + field(10, tensor("", external="c.bin")) + field(20, 9))
    content = model(RELU, in_attribute, in_list, initializers=(tensor("w", external="../a.bin"),))
    assert facts(tmp_path, content).external == {"../a.bin", "b.bin", "c.bin"}


@pytest.mark.parametrize(
    ("content", "what"),
    [
        (model(node("Loop", ("x",), ("y",))), "control flow operator Loop"),
        (
            model(node("If", ("x",), ("y",), field(1, "then_branch") + field(6, field(1, RELU)))),
            "a graph inside a node",
        ),
        (model(node("Foo", ("x",), ("y",), field(11, field(1, RELU)))), "a graph inside a node"),
        (model(RELU, more=field(25, field(1, "f"))), "functions"),
        (model(RELU, more=field(20, b"")), "training information"),
        (model(node("EPContext", ("x",), ("y",), domain="com.microsoft")), "domain 'com.microsoft'"),
        (model(RELU, more=field(8, field(1, "evil") + field(2, 1))), "domain 'evil'"),
        (model(RELU, more_graph=field(15, b"")), "sparse weights"),
        (model(RELU, initializers=(tensor("w") + field(14, 1),)), "0 locations"),
        (model(RELU) + model(RELU), "2 graphs"),
        (field(1, 8), "0 graphs"),
        (model(RELU)[:-3], "longer than the file"),
        (varint(7 << 3 | 3), "wire type 3"),
        (b"\xff" * 12, "without an end"),
        (b"ORTM" * 8, "wire type"),
    ],
)
def test_refuses_what_no_stage_may_have_and_says_what(tmp_path: Path, content: bytes, what: str) -> None:
    with pytest.raises(BundleError, match=what):
        facts(tmp_path, content)


def test_refuses_an_empty_file_a_folder_and_a_missing_one(tmp_path: Path) -> None:
    (tmp_path / "empty.onnx").write_bytes(b"")
    (tmp_path / "folder.onnx").mkdir()
    for name in ("empty", "folder", "missing"):
        with pytest.raises(BundleError, match=rf"{name}\.onnx: cannot be read"):
            read_onnx(tmp_path / f"{name}.onnx")


@pytest.mark.parametrize(
    "nodes",
    [
        (node("ConstantOfShape", ("w",), ("y",)),),
        (node("Transpose", ("w",), ("t",)), node("MatMul", ("w", "t"), ("y",))),
        (node("Range", ("w", "w", "w"), ("y",)),),
        (node("RandomNormal", (), ("y",)),),
        (node("Constant", (), ("c",), field(1, "value") + field(20, 4)), node("Add", ("c", "w"), ("y",))),
    ],
)
def test_notices_what_an_engine_would_compute_before_any_input_came(tmp_path: Path, nodes: tuple[bytes, ...]) -> None:
    assert facts(tmp_path, model(*nodes, initializers=(tensor("w", (4096, 4096)),))).computes_alone


def test_weights_that_are_only_dequantized_or_turned_are_no_such_thing(tmp_path: Path) -> None:
    nodes = (node("DequantizeLinear", ("w", "s", ""), ("d",)), node("Transpose", ("d",), ("t",)))
    weights = (tensor("w", (4096, 4096)), tensor("s", (4096,)))
    assert not facts(tmp_path, model(*nodes, node("MatMul", ("x", "t"), ("y",)), initializers=weights)).computes_alone
    small = (node("Mul", ("s", "s"), ("y",)),)
    assert not facts(tmp_path, model(*small, initializers=(tensor("s", (64,)),))).computes_alone


@settings(max_examples=300)
@given(content=st.binary(max_size=400))
def test_any_bytes_are_read_or_refused(tmp_path_factory: pytest.TempPathFactory, content: bytes) -> None:
    path = tmp_path_factory.getbasetemp() / "fuzz.onnx"
    path.write_bytes(content)
    with contextlib.suppress(BundleError):
        read_onnx(path)


@settings(max_examples=300)
@given(data=st.data())
def test_a_stage_with_changed_bytes_is_read_or_refused(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(data.draw(st.sampled_from(STAGES)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "fuzz.onnx"
    path.write_bytes(content)
    with contextlib.suppress(BundleError):
        read_onnx(path)


def test_large_weights_are_stepped_over(tmp_path: Path) -> None:
    path = tmp_path / "large.onnx"
    path.write_bytes(model(RELU, initializers=(tensor("w", (1 << 24,), raw=bytes(64 << 20)),)))
    begin = time.process_time()
    read_onnx(path)
    assert time.process_time() - begin < 0.1


@pytest.mark.parametrize(
    "content",
    [
        model(RELU, more=varint(99 << 3) * 1 + b"\x00" + (varint(15 << 3) + b"\x00") * 2_000_000),
        model(RELU, initializers=(field(1, b"\x02" * 300_000) + field(8, "w"),)),
        model(node("Concat", ("w",) * 50_000, ("y",)), initializers=(tensor("w", (1 << 30, 1 << 30)),)),
    ],
    ids=["tiny fields", "dimensions without end", "a product without end"],
)
def test_a_file_built_to_be_slow_is_read_or_refused_soon(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(content)
    begin = time.process_time()
    for read in (read_onnx, check_numbers):
        with contextlib.suppress(BundleError):
            read(path)
    assert time.process_time() - begin < 15.0
