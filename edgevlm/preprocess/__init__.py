"""Camera frame to model input: a list of primitive operations, native with a NumPy twin."""

from edgevlm.preprocess.native import native_available
from edgevlm.preprocess.pipeline import Preprocessor
from edgevlm.preprocess.twin import resize_u8

__all__ = ["Preprocessor", "native_available", "resize_u8"]
