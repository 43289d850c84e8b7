"""OWL-ViT: boxes for what is said in words. The picture is resized to a square, whatever its sides are."""

from __future__ import annotations

from pathlib import Path

from edgevlm.operations import ImageOp
from edgevlm_export.families.owl import build_owl, unknown
from edgevlm_export.families.picture_ops import picture_ops
from edgevlm_export.families.upstream import load_part
from edgevlm_export.stage_graph import DetectorGraph


def build(checkpoint: Path) -> DetectorGraph:
    """An OWL-ViT checkpoint directory, cut into vision and text.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    return build_owl(checkpoint, ("owlvit", "OwlViTForObjectDetection"), "picture", _pictures)


def _pictures(checkpoint: Path, image_size: int) -> tuple[ImageOp, ...]:
    processor = load_part(checkpoint, "OwlViTImageProcessorPil")
    if processor.do_center_crop:
        raise unknown(checkpoint, "do_center_crop", "false, because boxes are measured by the whole picture", True)
    return picture_ops(checkpoint, processor, image_size)
