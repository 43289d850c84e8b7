"""What goes into a model, compared at every export with upstream's own processor and tokenizer of that checkpoint.

The processor's class is the one that the checkpoint's files name. Whatever it does to a picture that the manifest's
operations do not reproduce is refused here, with the class.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tokenizers import Tokenizer

from edgevlm.data.pictures import TEXTS
from edgevlm.errors import EdgevlmError, FamilyError
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.preprocess import PicturePreprocessor
from edgevlm_export.checkpoint import AGAIN, TOKENIZER, Checkpoint
from edgevlm_export.families.common.picture_ops import picture_ops
from edgevlm_export.families.common.upstream import tokenizer_content
from edgevlm_export.prepared import Room

TOLERANCE = 1e-5  # of the largest number of a picture: the rounding of float32; a step of one byte is 4e-3
# Texts that tokenizers differ on: capitals, accents in two forms, white space, numbers, other scripts, signs.
SAMPLES = (
    *("a", "A photo of TWO Cats, isn't it?", "  two  spaces,\ta tab\nand a line ", "12,345.67 metres (approx.)"),
    *(
        "Müller's café",
        "Mu\u0308ller's cafe\u0301",
        "東京の赤い箱",
        "🤖 picks up 🥄",
        "don't we'll I'm x_y-z",
        "ΣΑΣ İstanbul ß",
    ),
    *("the the  the", "<b>not a tag</b>", "https://example.org/a?b=c&d=1"),
)


def load_pictures(checkpoint: Checkpoint) -> Any:
    """Upstream's image processor of a checkpoint, of the class that its files name, over Pillow."""
    return checkpoint.part("AutoImageProcessor", engine="pil")


def read_pictures(checkpoint: Checkpoint, side: int) -> tuple[ImageOp, ...]:
    """What upstream's image processor does to a picture, as operations, compared with it.

    Raises:
        CheckpointError: there is none, or it cannot be read.
        FamilyError: it does something else than the operations; with its class.
    """
    processor = load_pictures(checkpoint)
    operations = picture_ops(checkpoint, processor, side)
    check_pictures(checkpoint, processor, operations, side)
    return operations


def text_room(tokenizer: str, most: int) -> Room:
    """Of a model that reads a text alone, at most `most` ids of it."""
    fast = _plain(tokenizer)
    return Room(lambda text, _: len(fast.encode(text).ids), most)


def check_pictures(checkpoint: Checkpoint, processor: Any, operations: Sequence[ImageOp], side: int) -> None:
    """Refuse operations that make other numbers of a picture than `processor` does.

    Raises:
        FamilyError: naming the processor's class, the size of the picture and how far they are apart.
    """
    prepare, kind = PicturePreprocessor(operations), type(processor).__name__
    for image in sample_pictures(side):
        with checkpoint.reading():
            found = processor(images=Image.fromarray(image), return_tensors="np")["pixel_values"]
        want = np.asarray(found, np.float32)
        try:
            off = _apart(prepare(image), want.reshape(-1, *want.shape[-3:]))
        except EdgevlmError as error:
            off = f"an error: {error}"
        if off:
            raise FamilyError(
                f"{checkpoint}: the image processor {kind}: expected the numbers that upstream makes of a picture of "
                f"{image.shape[0]} x {image.shape[1]}, got {off}; what this class does is not reproduced: this variant "
                "is not supported"
            )


def _apart(got: NDArray[np.float32], want: NDArray[np.float32]) -> str:
    """How far two pictures are apart; empty where they are not."""
    if got.shape != want.shape:
        return f"the shape {got.shape} for {want.shape}"
    error, largest = float(np.abs(got - want).max()), float(np.abs(want).max())
    return (
        "" if error <= TOLERANCE * max(1.0, largest) else f"a difference of {error:.3g} in numbers up to {largest:.3g}"
    )


def sample_pictures(side: int) -> list[NDArray[np.uint8]]:
    """Seeded pictures, smooth and noisy: landscape, portrait, tiny, of the exact size, large, grey."""
    sizes = ((96, 128), (131, 77), (5, 4), (side, side), (side + 37, 2 * side + 11), (90, 60))
    made = [_picture(height, width, seed) for seed, (height, width) in enumerate(sizes)]
    made[-1] = np.repeat(made[-1][..., :1], 3, axis=2)
    return made


def _picture(height: int, width: int, seed: int) -> NDArray[np.uint8]:
    generator = np.random.default_rng(seed)
    coarse = generator.integers(0, 256, (6, 7, 3), dtype=np.uint8)
    smooth = np.asarray(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)).astype(np.int16)
    noisy: NDArray[np.uint8] = np.clip(smooth + generator.integers(-20, 21, smooth.shape), 0, 255).astype(np.uint8)
    return noisy


def check_texts(checkpoint: Checkpoint, tokenizer: str, upstream: Any, *, rewritten: bool = False) -> None:
    """Refuse a tokenizer whose ids are not those of `upstream`, nor of the checkpoint's tokenizer.json if there is one.

    Args:
        tokenizer: the content of what goes into the bundle.
        rewritten: upstream's tokenizer does on purpose what the file does not say.

    Raises:
        FamilyError: naming the tokenizer's class and a text, with the ids.
    """
    kind, ours = type(upstream).__name__, _plain(tokenizer)
    reads_file = checkpoint.has(TOKENIZER) and hasattr(upstream, "backend_tokenizer")
    stored = _plain(tokenizer_content(checkpoint)) if reads_file and not rewritten else None
    for text in (*SAMPLES, *TEXTS):
        with checkpoint.reading():
            want = list(upstream(text)["input_ids"])
            bare = list(upstream(text, add_special_tokens=False)["input_ids"])
        if (got := ours.encode(text).ids) != want:
            raise FamilyError(
                f"{checkpoint}: the tokenizer {kind}: expected the ids {want[:12]} of upstream for {text!r}, got "
                f"{got[:12]}; what this class does is not reproduced: this variant is not supported"
            )
        if stored is not None and (said := stored.encode(text, add_special_tokens=False).ids) != bare:
            raise FamilyError(
                f"{checkpoint}: the tokenizer {kind}: expected the ids {said[:12]} of {TOKENIZER} for {text!r}, "
                f"transformers makes {bare[:12]}: which of them the model was trained with is not known; take a newer "
                f"version of transformers, correct 'tokenizer_class', or {AGAIN}"
            )


def _plain(content: str) -> Any:
    """Without padding and truncation, which the runtime does itself."""
    tokenizer = Tokenizer.from_str(content)
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer
