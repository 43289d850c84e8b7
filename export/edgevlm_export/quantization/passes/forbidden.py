"""The gate for TensorRT: graphs its parser is known to refuse never reach a bundle.

Source: parsing 144 graphs of 15 model families with tensorrt_rtx 1.7.1 (docs/decisions).
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
from onnx import numpy_helper

from edgevlm.errors import QuantizationError

OPS = {"NonZero", "MatMulNBits", "DynamicQuantizeLinear", "MatMulInteger", "ConvInteger", "Attention"}


def check_tensorrt(stage: str, model: onnx.ModelProto) -> None:
    """Pass, or say everything TensorRT would refuse.

    Raises:
        QuantizationError: forbidden operators, int32 DequantizeLinear, zero points other than int8 0.
    """
    if faults := sorted(set(_faults(model))):
        raise QuantizationError(
            f"stage {stage!r}: TensorRT refuses {len(faults)} thing(s) of this graph: {'; '.join(faults[:5])}; "
            "rewrite the stage's module in the family's adapter, or export with another precision"
        )


def _faults(model: onnx.ModelProto) -> Iterator[str]:
    constants = {item.name: item for item in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type in OPS or node.domain not in ("", "ai.onnx"):
            yield f"operator {node.domain or 'ai.onnx'}::{node.op_type} ({node.name})"
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        first = constants.get(node.input[0])
        if first is not None and first.data_type == onnx.TensorProto.INT32:
            yield f"int32 DequantizeLinear ({node.name})"
        zero = constants.get(node.input[2]) if len(node.input) > 2 else None
        if zero is None:
            yield f"{node.op_type} without a constant int8 zero point ({node.name})"
        elif zero.data_type != onnx.TensorProto.INT8 or np.any(numpy_helper.to_array(zero)):
            yield f"zero point that is not int8 0 ({node.name})"
