"""Does a retriever do what its source does? Embeddings, logits and scores through the runtime, beside a judge.

The judge is the original model in one native forward (with its own tokenizer), or another bundle. Negative controls
must move the embeddings by far more than the bundle is off; the two int8 forms must agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import PictureData, make_up_pictures, open_pictures
from edgevlm.errors import FidelityError
from edgevlm.manifest.schema import PICTURE, CrossSpec
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks import Retriever
from edgevlm_calibration.pictures import RETRIEVER
from edgevlm_calibration.progress import Progress, silent
from edgevlm_export.fidelity.comparison import (
    OPTIONS,
    Comparison,
    OfBundle,
    OfCheckpoint,
    Reference,
    compare,
    is_exact,
    open_source,
)
from edgevlm_export.fidelity.controls import ControlFigures, check_controls, control_figures
from edgevlm_export.fidelity.metrics import centred_cosine, check_alike, cosine, judged_on
from edgevlm_export.stage_graph import Answer, RetrieverGraph

PICTURES = 48  # compared at most
FP32_LIMIT = 1e-4  # largest error of an fp32 bundle's logits, relative to the largest logit, and of its unit vectors
COSINE_LIMIT = 0.98  # of the worst embedding of a bundle in another precision
PAIR_LIMIT = 0.98  # of what varies in the logits of pairs, which no embedding tells
GRID = 6  # a picture's patches are shuffled on this grid

Images = Sequence[NDArray[np.uint8]]


class RetrieverReference(Reference, Protocol):
    """Who says what the right answer is."""

    def answer(self, images: Images, texts: Sequence[str]) -> Answer: ...


class OriginalRetriever(OfCheckpoint[RetrieverGraph]):
    """The PyTorch model in one native forward for each picture, with all texts; preprocess is the runtime's."""

    def answer(self, images: Images, texts: Sequence[str]) -> Answer:
        """The original's answer."""
        prepare = PicturePreprocessor(self.graph.preprocess[PICTURE])
        each = [self.graph.reference(prepare(image), texts) for image in images]
        logits, seen = (np.concatenate([getattr(one, key) for one in each]) for key in ("logits", "images"))
        return Answer(logits, seen, each[0].texts)


class BundleRetriever(OfBundle[Retriever]):
    """Another bundle, through the runtime."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, Retriever(bundle, OPTIONS))

    def answer(self, images: Images, texts: Sequence[str]) -> Answer:
        """The other bundle's answer."""
        return ask(self.model, images, texts)


def ask(retriever: Retriever, images: Images, texts: Sequence[str]) -> Answer:
    """What a loaded bundle says."""
    return Answer(
        retriever.match(images, texts).logits,
        np.stack([retriever.embed_image(image) for image in images]),
        np.stack([retriever.embed_text(text) for text in texts]),
    )


def compare_retriever(
    bundle: Bundle, judge: RetrieverReference, data: PictureData, progress: Progress = silent
) -> dict[str, Any]:
    """The figures of an opened bundle on the held-out pictures and texts.

    Raises:
        FidelityError: the bundle is off, a control did not move the embeddings, or the forms differ.
    """
    photos, texts = data.held_out[:PICTURES], data.held_out_texts
    images = [photo.load() for photo in photos]
    want = judge.answer(images, texts)
    comparison = Comparison(
        name="retrieval",
        open=RETRIEVER.open,
        ask=partial(ask, images=images, texts=texts),
        figures=partial(_figures, want=want),
        controls=lambda retriever, got: _controls(retriever, images, texts, got, want),
        visits=[partial(Retriever.match, images=[one], texts=[text]) for one, text in zip(images, texts, strict=False)],
    )
    told = judged_on(data, [photo.name for photo in photos], texts)
    figures, controls = compare(bundle, judge, comparison, told, progress)
    _accept(bundle, judge, figures["retrieval"], controls)
    return figures


def verify_retriever(bundle: Bundle, against: Path, data: Path | None, progress: Progress) -> dict[str, Any]:
    """The figures of `bundle` against a checkpoint directory or another bundle; pictures are made up without `data`.

    Raises:
        BundleError, CheckpointError, FamilyError, CalibrationError, TaskError: something does not open.
        FidelityError: as `compare_retriever`.
    """
    source = open_source(against, RetrieverGraph, "retriever")
    judge: RetrieverReference = BundleRetriever(source) if isinstance(source, Bundle) else OriginalRetriever(source)
    pictures = make_up_pictures() if data is None else open_pictures(data)
    return compare_retriever(bundle, judge, pictures, progress)


def _figures(got: Answer, want: Answer) -> dict[str, Any]:
    check_alike("retriever's logits and embeddings", *(_shapes(answer) for answer in (got, want)))
    scale = float(np.abs(want.logits).max())
    error = float(np.abs(got.logits - want.logits).max())
    return {
        "image_cosine_min": min(cosine(a, b) for a, b in zip(got.images, want.images, strict=True)),
        "text_cosine_min": min(cosine(a, b) for a, b in zip(got.texts, want.texts, strict=True)),
        "embedding_max_abs_error": max(
            float(np.abs(got.images - want.images).max()), float(np.abs(got.texts - want.texts).max())
        ),
        "logit_scale": scale,
        "logit_max_abs_error": error,
        "logit_relative_error": error / max(scale, float(np.finfo(np.float32).tiny)),
        "logit_centred_cosine": min(centred_cosine(got.logits, want.logits, axis) for axis in (0, 1)),
        "same_best_text": float(np.mean(got.logits.argmax(1) == want.logits.argmax(1))),
        "same_best_picture": float(np.mean(got.logits.argmax(0) == want.logits.argmax(0))),
    }


def _shapes(answer: Answer) -> list[tuple[int, ...]]:
    return [answer.logits.shape, answer.images.shape, answer.texts.shape]


def _controls(
    retriever: Retriever, images: Images, texts: Sequence[str], got: Answer, want: Answer
) -> tuple[ControlFigures, ...]:
    """Wrong pictures and wrong texts, by how far they move the unit vectors and, where pairs are read, the logits."""
    long = [i for i, text in enumerate(texts) if len(set(text.split())) > 2]
    image_error, text_error = np.abs(got.images - want.images), np.abs(got.texts - want.texts)
    other, others = np.roll(want.images, 1, axis=0), np.roll(want.texts, 1, axis=0)
    shuffled = np.stack([retriever.embed_image(shuffle_patches(image)) for image in images])
    found = [
        control_figures("other-picture", np.abs(other - want.images), image_error),
        control_figures("shuffled-patches", np.abs(shuffled - want.images), image_error),
        control_figures("other-text", np.abs(others - want.texts), text_error),
    ]
    if long:
        turned = np.stack([retriever.embed_text(" ".join(reversed(texts[i].split()))) for i in long])
        found.append(control_figures("reversed-words", np.abs(turned - want.texts[long]), text_error))
    if isinstance(retriever.bundle.manifest.driver, CrossSpec):
        found += _pair_controls(retriever, images, texts, got, want)
    return tuple(found)


def _pair_controls(
    retriever: Retriever, images: Images, texts: Sequence[str], got: Answer, want: Answer
) -> list[ControlFigures]:
    """The same of what is said of pairs, which no embedding tells."""
    error = np.abs(got.logits - want.logits)
    shuffled = retriever.match([shuffle_patches(image) for image in images], texts).logits
    reversed_words = retriever.match(images, [" ".join(reversed(text.split())) for text in texts]).logits
    long = [i for i, text in enumerate(texts) if len(set(text.split())) > 2]
    wrong = {
        "other-picture of a pair": np.roll(want.logits, 1, axis=0) - want.logits,
        "shuffled-patches of a pair": shuffled - want.logits,
        "other-text of a pair": np.roll(want.logits, 1, axis=1) - want.logits,
        "reversed-words of a pair": (reversed_words - want.logits)[:, long],
    }
    return [control_figures(name, np.abs(moved), error) for name, moved in wrong.items() if moved.size]


def shuffle_patches(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture cut on a grid, its pieces in another order, always the same one."""
    height, width = (max(side // GRID, 1) for side in image.shape[:2])
    down, across = image.shape[0] // height, image.shape[1] // width
    cut = image[: down * height, : across * width].reshape(down, height, across, width, 3)
    pieces = cut.swapaxes(1, 2).reshape(-1, height, width, 3)
    mixed = pieces[np.random.default_rng(0).permutation(len(pieces))].reshape(down, across, height, width, 3)
    return np.ascontiguousarray(mixed.swapaxes(1, 2).reshape(down * height, across * width, 3))


def _accept(
    bundle: Bundle, judge: RetrieverReference, compared: Sequence[dict[str, Any]], controls: tuple[ControlFigures, ...]
) -> None:
    exact = is_exact(bundle, judge)
    for row in compared:
        off = max(row["logit_relative_error"], row["embedding_max_abs_error"])
        if exact and off > FP32_LIMIT:
            raise FidelityError(
                f"expected fp32 logits and embeddings within {FP32_LIMIT} of the original's, got {off:.3g}; tokenizer, "
                "cut or scale is wrong: compare each stage in the family's adapter"
            )
        worst = min(row["image_cosine_min"], row["text_cosine_min"])
        if worst < COSINE_LIMIT:
            raise FidelityError(
                f"form {row['form']!r}: expected embeddings of cosine {COSINE_LIMIT} or more with the original's, "
                f"got {worst:.4f}; give more calibration pictures, or try --precision fp16"
            )
        pairs = row["logit_centred_cosine"]
        if isinstance(bundle.manifest.driver, CrossSpec) and pairs < PAIR_LIMIT:
            raise FidelityError(
                f"form {row['form']!r}: expected what varies in the logits of pairs to keep a cosine of {PAIR_LIMIT} "
                f"or more with the original's, got {pairs:.4f}; give more calibration pictures, or try --precision fp16"
            )
    check_controls(controls, "the embeddings or logits")
