"""fp32 graph -> fp16 inside, fp32 at its ports."""

from __future__ import annotations

import warnings

import onnx

from edgevlm.errors import QuantizationError, require

# A root mean square squares its input, and the square of 256 is beyond fp16.
SQUARES = ("Pow", "ReduceMean", "Sqrt", "Reciprocal")


def fp16(stage: str, model: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """A copy whose floating-point constants are fp16, and how many of them became so.

    Weights beyond fp16's range are clipped to it by the converter, which then shows in the fidelity figures.

    Raises:
        DependencyError: onnxruntime is not installed.
        QuantizationError: nothing was there to convert.
    """
    converter = require("onnxruntime.transformers.float16", extra="export")
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # one warning for each tiny weight that underflows
        blocked = [*converter.DEFAULT_OP_BLOCK_LIST, *SQUARES]
        result: onnx.ModelProto = converter.convert_float_to_float16(copy, keep_io_types=True, op_block_list=blocked)
    converted = sum(item.data_type == onnx.TensorProto.FLOAT16 for item in result.graph.initializer)
    if not converted:
        raise QuantizationError(
            f"stage {stage!r}: expected floating-point constants to convert to fp16, found none; use --precision fp32"
        )
    del result.graph.value_info[:]
    return result, converted
