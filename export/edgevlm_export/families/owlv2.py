"""OWLv2: OWL-ViT with a logit for "this is a thing". The picture is padded to a square, and so not stretched."""

from __future__ import annotations

from pathlib import Path

from edgevlm.operations import ImageOp, SmoothToSquare
from edgevlm_export.families.owl import build_owl, unknown
from edgevlm_export.families.picture_ops import normalize, rescale_factor
from edgevlm_export.families.upstream import load_part
from edgevlm_export.stage_graph import DetectorGraph

BYTE = 1 / 255
# What upstream's own way of resizing needs; `resample` is only looked at for being 0, which leaves the smoothing out.
NEEDED = {"do_resize": True, "do_rescale": True, "do_pad": True}


def build(checkpoint: Path) -> DetectorGraph:
    """An OWLv2 checkpoint directory, cut into vision and text.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    return build_owl(checkpoint, ("owlv2", "Owlv2ForObjectDetection"), "square", _pictures)


def _pictures(checkpoint: Path, image_size: int) -> tuple[ImageOp, ...]:
    """What upstream's Owlv2ImageProcessorPil does to a picture: the reference, as for every family."""
    processor = load_part(checkpoint, "Owlv2ImageProcessorPil")
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
