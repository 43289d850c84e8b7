"""An upstream image processor's settings -> the primitive operations of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevlm.errors import FamilyError
from edgevlm.operations import CenterCrop, ImageOp, Normalize, Resize, ResizeShortest

FILTERS: dict[int, Any] = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def picture_ops(checkpoint: Path, processor: Any, image_size: int) -> tuple[ImageOp, ...]:
    """What `processor` (a Pillow-backed one) does to a picture, which must come out as `image_size` squared.

    Raises:
        FamilyError: it does something that the operations cannot say; with the field.
    """
    ops: list[ImageOp] = [_resize(checkpoint, processor)]
    if getattr(processor, "do_center_crop", None):
        crop = processor.crop_size
        ops.append(CenterCrop(height=int(crop.height), width=int(crop.width)))
    if getattr(processor, "do_pad", None):
        raise _unknown(checkpoint, "do_pad", "false", True)
    scale = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    ops.append(Normalize(scale=scale, mean=tuple(mean), std=tuple(std), rounding="each"))
    _check_size(checkpoint, ops, image_size)
    return tuple(ops)


def _resize(checkpoint: Path, processor: Any) -> ImageOp:
    if not processor.do_resize:
        raise _unknown(checkpoint, "do_resize", "true", processor.do_resize)
    number, size = int(processor.resample), processor.size
    if number not in FILTERS:
        raise _unknown(checkpoint, "resample", f"one of {FILTERS}", number)
    if size.height and size.width:
        return Resize(height=int(size.height), width=int(size.width), filter=FILTERS[number])
    if size.shortest_edge and not size.longest_edge:
        return ResizeShortest(size=int(size.shortest_edge), filter=FILTERS[number])
    raise _unknown(checkpoint, "size", "height and width, or shortest_edge", size)


def _check_size(checkpoint: Path, ops: list[ImageOp], wanted: int) -> None:
    first, last = ops[0], ops[-2]
    if isinstance(last, ResizeShortest):
        raise _unknown(checkpoint, "do_center_crop", "true after a resize to the shortest edge", False)
    assert isinstance(last, (Resize, CenterCrop))
    smallest = (first.size, first.size) if isinstance(first, ResizeShortest) else (last.height, last.width)
    if isinstance(first, Resize):
        smallest = (first.height, first.width)
    if last.height > smallest[0] or last.width > smallest[1]:
        raise _unknown(checkpoint, "crop_size", f"at most {smallest}", (last.height, last.width))
    if (last.height, last.width) != (wanted, wanted):
        raise _unknown(checkpoint, "crop_size/size", f"the model's 'image_size' {wanted}", (last.height, last.width))


def _unknown(checkpoint: Path, field: str, expected: str, got: object) -> FamilyError:
    return FamilyError(
        f"{checkpoint}: the image processor's {field!r}: expected {expected}, got {got!r:.80}; "
        "this variant is not supported"
    )
