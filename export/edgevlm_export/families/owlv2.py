"""OWLv2: OWL-ViT with a logit for "this is a thing". The picture is padded to a square, and so not stretched."""

from __future__ import annotations

from typing import Any

from edgevlm.manifest.image_ops import ImageOp, SmoothToSquare
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.owl import prepare_owl, unknown
from edgevlm_export.families.common.picture_ops import normalize, rescale_factor
from edgevlm_export.prepared import Prepared

BYTE = 1 / 255
# What upstream's own way of resizing needs; `resample` is only looked at for being 0, which leaves the smoothing out.
NEEDED = {"do_resize": True, "do_rescale": True, "do_pad": True}


def prepare(checkpoint: Checkpoint) -> Prepared:
    """An OWLv2 checkpoint directory, to be cut into vision and text.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    return prepare_owl(checkpoint, ("owlv2", "Owlv2ForObjectDetection"), "square", _pictures)


def _pictures(checkpoint: Checkpoint, processor: Any, image_size: int) -> tuple[ImageOp, ...]:
    """What upstream's Owlv2ImageProcessorPil does to a picture."""
    if not type(processor).__name__.startswith("Owlv2ImageProcessor"):
        raise unknown(checkpoint, "image_processor_type", "Owlv2ImageProcessor", type(processor).__name__)
    for field, value in NEEDED.items():
        if bool(getattr(processor, field)) is not value:
            raise unknown(checkpoint, field, str(value).lower(), getattr(processor, field))
    if abs(rescale_factor(checkpoint, processor) - BYTE) > 1e-9:
        raise unknown(checkpoint, "rescale_factor", f"{BYTE}", processor.rescale_factor)
    if not processor.resample:
        raise unknown(checkpoint, "resample", "other than 0", processor.resample)
    size = processor.size
    if size is None or (size.height, size.width) != (image_size, image_size):
        raise unknown(checkpoint, "size", f"the model's 'image_size' {image_size}, twice", processor.size)
    return SmoothToSquare(size=image_size), normalize(checkpoint, processor).model_copy(update={"scale": 1.0})
