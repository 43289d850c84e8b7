"""An upstream image processor's settings -> the primitive operations of a manifest."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from edgevlm.errors import FamilyError
from edgevlm.manifest.image_ops import (
    CenterCrop,
    ImageOp,
    Normalize,
    PadToSquare,
    Resize,
    ResizeLongest,
    ResizeShortest,
    ResizeToMultiple,
    Tiles,
)
from edgevlm_export.checkpoint import Checkpoint

FILTERS: dict[int, Any] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
LONGEST = 4096  # what upstream's processors that cut tiles never go beyond, whatever their settings


def picture_ops(checkpoint: Checkpoint, processor: Any, image_size: int) -> tuple[ImageOp, ...]:
    """What `processor` (a Pillow-backed one) does to a picture, which must come out as `image_size` squared.

    One that cuts pictures makes tiles of that size. Padding them to the largest of a batch is nothing to one picture.

    Raises:
        FamilyError: it does something that the operations cannot say; with its class and the field.
    """
    try:
        return _operations(checkpoint, processor, image_size)
    except FamilyError as error:
        raise FamilyError(f"{error} ({type(processor).__name__})") from error


def _operations(checkpoint: Checkpoint, processor: Any, image_size: int) -> tuple[ImageOp, ...]:
    if hasattr(processor, "max_image_size"):
        return (*_tiled(checkpoint, processor, image_size), normalize(checkpoint, processor))
    ops: list[ImageOp] = [_resize(checkpoint, processor)]
    if getattr(processor, "do_center_crop", None):
        crop = _told(checkpoint, processor, "crop_size")
        height, width = (_side(checkpoint, "crop_size", side) for side in (crop.height, crop.width))
        ops.append(CenterCrop(height=height, width=width))
    _check_size(checkpoint, ops, image_size)
    if getattr(processor, "do_pad", None):
        ops.insert(0, _pad(checkpoint, processor))
    return (*ops, normalize(checkpoint, processor))


def normalize(checkpoint: Checkpoint, processor: Any) -> Normalize:
    """What `processor` does to the numbers of a picture. Raises FamilyError where its settings are none."""
    scale = rescale_factor(checkpoint, processor) if processor.do_rescale else 1.0
    mean, std = (0.0,) * 3, (1.0,) * 3
    if processor.do_normalize:
        mean, std = (_colours(checkpoint, processor, name) for name in ("image_mean", "image_std"))
        if 0.0 in std:
            raise _unknown(checkpoint, "image_std", "three numbers other than 0", std)
    return Normalize(scale=scale, mean=mean, std=std, rounding="each")


def rescale_factor(checkpoint: Checkpoint, processor: Any) -> float:
    """What `processor` multiplies bytes with. Raises FamilyError where it is no number."""
    found = processor.rescale_factor
    if not _is_number(found):
        raise _unknown(checkpoint, "rescale_factor", "a number", found)
    return float(found)


def _colours(checkpoint: Checkpoint, processor: Any, name: str) -> tuple[float, float, float]:
    found = getattr(processor, name)
    if not isinstance(found, Sequence) or len(found) != 3 or not all(_is_number(part) for part in found):
        raise _unknown(checkpoint, name, "three numbers, of red, green and blue", found)
    red, green, blue = found
    return float(red), float(green), float(blue)


def _is_number(found: object) -> bool:
    return isinstance(found, (int, float)) and not isinstance(found, bool) and math.isfinite(found)


def _filter(checkpoint: Checkpoint, processor: Any) -> Any:
    if not processor.do_resize:
        raise _unknown(checkpoint, "do_resize", "true", processor.do_resize)
    if not isinstance(processor.resample, int) or processor.resample not in FILTERS:
        raise _unknown(checkpoint, "resample", f"one of {FILTERS}", processor.resample)
    return FILTERS[int(processor.resample)]


def _pad(checkpoint: Checkpoint, processor: Any) -> ImageOp:
    if not hasattr(processor, "pad_to_square"):  # others pad to the largest of a batch, after the crop
        raise _unknown(checkpoint, "do_pad", "false", True)
    mean = (0.0,) * 3 if processor.image_mean is None else _colours(checkpoint, processor, "image_mean")
    red, green, blue = (int(part * 255) for part in mean)
    return PadToSquare(fill=(red, green, blue))


def _tiled(checkpoint: Checkpoint, processor: Any, image_size: int) -> tuple[ImageOp, ...]:
    """The longer side to `size`, then to whole tiles, or all of it to one where pictures are not cut."""
    filter, size = _filter(checkpoint, processor), _told(checkpoint, processor, "size")
    tile = image_size
    if processor.max_image_size != {"longest_edge": tile}:
        raise _unknown(checkpoint, "max_image_size", f"the model's 'image_size' {tile}", processor.max_image_size)
    first: ImageOp
    if size.longest_edge:
        first = ResizeLongest(size=_side(checkpoint, "size", size.longest_edge), limit=LONGEST, filter=filter)
    elif size.height and size.width:
        first = _square(checkpoint, size, filter)
    else:
        raise _unknown(checkpoint, "size", "longest_edge, or height and width", size)
    if not processor.do_image_splitting:
        return first, Resize(height=tile, width=tile, filter=filter)
    return first, ResizeToMultiple(size=tile, filter=filter), Tiles(size=tile, filter=filter)


def _resize(checkpoint: Checkpoint, processor: Any) -> ImageOp:
    filter, size = _filter(checkpoint, processor), _told(checkpoint, processor, "size")
    if size.height and size.width:
        return _square(checkpoint, size, filter)
    if size.shortest_edge and not size.longest_edge:
        return ResizeShortest(size=_side(checkpoint, "size", size.shortest_edge), filter=filter)
    raise _unknown(checkpoint, "size", "height and width, or shortest_edge", size)


def _square(checkpoint: Checkpoint, size: Any, filter: Any) -> Resize:
    height, width = (_side(checkpoint, "size", side) for side in (size.height, size.width))
    return Resize(height=height, width=width, filter=filter)


def _told(checkpoint: Checkpoint, processor: Any, name: str) -> Any:
    """One of upstream's sizes, with height, width and edges."""
    found = getattr(processor, name)
    if found is None:
        raise _unknown(checkpoint, name, "a size", found)
    return found


def _side(checkpoint: Checkpoint, name: str, found: object) -> int:
    if not isinstance(found, int) or isinstance(found, bool) or found < 1:
        raise _unknown(checkpoint, name, "whole numbers above 0", found)
    return found


def _check_size(checkpoint: Checkpoint, ops: list[ImageOp], wanted: int) -> None:
    first, last = ops[0], ops[-1]
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


def _unknown(checkpoint: Checkpoint, field: str, expected: str, got: object) -> FamilyError:
    return FamilyError(
        f"{checkpoint}: the image processor's {field!r}: expected {expected}, got {got!r:.80}; "
        "this variant is not supported"
    )
