"""How large each channel of a tensor gets: what the evening out of channels goes by."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from edgevlm_export.quantization.base import outputs_of


def channel_max(
    model: onnx.ModelProto, tensors: tuple[str, ...], feeds: Sequence[Mapping[str, NDArray[Any]]]
) -> dict[str, NDArray[Any]]:
    """tensor -> the largest magnitude of each channel (the last axis) over all feeds."""
    if not tensors:
        return {}
    opened = onnx.ModelProto()
    opened.CopyFrom(model)
    for name in tensors:
        opened.graph.output.append(onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, None))
    largest: dict[str, NDArray[Any]] = {}
    for values in outputs_of(opened, feeds, tensors):
        for name, value in zip(tensors, values, strict=True):
            peak = np.abs(value).reshape(-1, value.shape[-1]).max(axis=0)
            largest[name] = np.maximum(largest.get(name, peak), peak)
    return largest
