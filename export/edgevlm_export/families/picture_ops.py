"""An upstream image processor's settings -> the primitive operations of a manifest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from edgevlm.errors import FamilyError
from edgevlm.operations import (
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

FILTERS: dict[int, Any] = {1: "lanczos", 2: "bilinear", 3: "bicubic"}  # Pillow's numbers
LONGEST = 4096  # what upstream's processors that cut tiles never go beyond, whatever their settings


def picture_ops(checkpoint: Path, processor: Any, image_size: int) -> tuple[ImageOp, ...]:
    """What `processor` (a Pillow-backed one) does to a picture, which must come out as `image_size` squared.

    One that cuts pictures makes tiles of that size. Padding them to the largest of a batch is nothing to one picture.

    Raises:
        FamilyError: it does something that the operations cannot say; with the field.
    """
    if hasattr(processor, "max_image_size"):
        return (*_tiled(checkpoint, processor, image_size), _normalize(processor))
    ops: list[ImageOp] = [_resize(checkpoint, processor)]
    if getattr(processor, "do_center_crop", None):
        crop = processor.crop_size
        ops.append(CenterCrop(height=int(crop.height), width=int(crop.width)))
    _check_size(checkpoint, ops, image_size)
    if getattr(processor, "do_pad", None):
        ops.insert(0, _pad(checkpoint, processor))
    return (*ops, _normalize(processor))


def _normalize(processor: Any) -> Normalize:
    scale = float(processor.rescale_factor) if processor.do_rescale else 1.0
    mean, std = (processor.image_mean, processor.image_std) if processor.do_normalize else ((0.0,) * 3, (1.0,) * 3)
    return Normalize(scale=scale, mean=tuple(mean), std=tuple(std), rounding="each")


def _filter(checkpoint: Path, processor: Any) -> Any:
    if not processor.do_resize:
        raise _unknown(checkpoint, "do_resize", "true", processor.do_resize)
    number = int(processor.resample)
    if number not in FILTERS:
        raise _unknown(checkpoint, "resample", f"one of {FILTERS}", number)
    return FILTERS[number]


def _pad(checkpoint: Path, processor: Any) -> ImageOp:
    if not hasattr(processor, "pad_to_square"):  # others pad to the largest of a batch, after the crop
        raise _unknown(checkpoint, "do_pad", "false", True)
    fill = tuple(int(part * 255) for part in processor.image_mean or (0.0,) * 3)
    return PadToSquare(fill=fill)  # type: ignore[arg-type]


def _tiled(checkpoint: Path, processor: Any, image_size: int) -> tuple[ImageOp, ...]:
    """The longer side to `size`, then to whole tiles, or all of it to one where pictures are not cut."""
    filter, size = _filter(checkpoint, processor), processor.size
    tile = processor.max_image_size["longest_edge"]
    if tile != image_size:
        raise _unknown(checkpoint, "max_image_size", f"the model's 'image_size' {image_size}", tile)
    first: ImageOp
    if size.longest_edge:
        first = ResizeLongest(size=int(size.longest_edge), limit=LONGEST, filter=filter)
    elif size.height and size.width:
        first = Resize(height=int(size.height), width=int(size.width), filter=filter)
    else:
        raise _unknown(checkpoint, "size", "longest_edge, or height and width", size)
    if not processor.do_image_splitting:
        return first, Resize(height=tile, width=tile, filter=filter)
    return first, ResizeToMultiple(size=tile, filter=filter), Tiles(size=tile, filter=filter)


def _resize(checkpoint: Path, processor: Any) -> ImageOp:
    filter, size = _filter(checkpoint, processor), processor.size
    if size.height and size.width:
        return Resize(height=int(size.height), width=int(size.width), filter=filter)
    if size.shortest_edge and not size.longest_edge:
        return ResizeShortest(size=int(size.shortest_edge), filter=filter)
    raise _unknown(checkpoint, "size", "height and width, or shortest_edge", size)


def _check_size(checkpoint: Path, ops: list[ImageOp], wanted: int) -> None:
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


def _unknown(checkpoint: Path, field: str, expected: str, got: object) -> FamilyError:
    return FamilyError(
        f"{checkpoint}: the image processor's {field!r}: expected {expected}, got {got!r:.80}; "
        "this variant is not supported"
    )
