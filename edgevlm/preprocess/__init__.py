"""Camera frame to model input: a list of primitive operations, native with a NumPy twin."""

from edgevlm.preprocess.native import native_available
from edgevlm.preprocess.picture import PicturePreprocessor, check_picture
from edgevlm.preprocess.pipeline import Preprocessor
from edgevlm.preprocess.twin import resize_u8

__all__ = ["PicturePreprocessor", "Preprocessor", "check_picture", "native_available", "resize_u8"]
