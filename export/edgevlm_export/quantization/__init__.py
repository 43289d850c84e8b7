"""Precisions: a row for each, from the most exact on. A new one is a file, a row here and its name in `Precision`."""

from __future__ import annotations

from edgevlm.manifest.schema import Precision
from edgevlm_export.quantization.base import Quantizer
from edgevlm_export.quantization.floats import Float16, Float32
from edgevlm_export.quantization.int8 import Int8

QUANTIZERS: dict[Precision, Quantizer] = {"fp32": Float32(), "fp16": Float16(), "int8": Int8()}
