"""Camera frame to model input: a list of primitive operations, native with a reference in NumPy."""

from edgevlm.preprocess.native import native_available
from edgevlm.preprocess.numpy_reference import resize_u8
from edgevlm.preprocess.picture import PicturePreprocessor, check_picture
from edgevlm.preprocess.pipeline import Preprocessor

__all__ = ["PicturePreprocessor", "Preprocessor", "check_picture", "native_available", "resize_u8"]
