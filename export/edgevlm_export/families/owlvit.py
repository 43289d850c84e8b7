"""OWL-ViT: boxes for what is said in words. The picture is resized to a square, whatever its sides are."""

from __future__ import annotations

from typing import Any

from edgevlm.manifest.image_ops import ImageOp
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.owl import prepare_owl, unknown
from edgevlm_export.families.common.picture_ops import picture_ops
from edgevlm_export.prepared import Prepared


def prepare(checkpoint: Checkpoint) -> Prepared:
    """An OWL-ViT checkpoint directory, to be cut into vision and text.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    return prepare_owl(checkpoint, ("owlvit", "OwlViTForObjectDetection"), "picture", _pictures)


def _pictures(checkpoint: Checkpoint, processor: Any, image_size: int) -> tuple[ImageOp, ...]:
    if getattr(processor, "do_center_crop", None):
        raise unknown(checkpoint, "do_center_crop", "false, because boxes are measured by the whole picture", True)
    return picture_ops(checkpoint, processor, image_size)
