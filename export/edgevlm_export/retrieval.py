"""Does a retriever do what its source does? Embeddings, logits and scores through the runtime, beside a judge.

The judge is the original model in one native forward (with its own tokenizer), or another bundle. Negative controls
must move the embeddings by far more than the bundle is off; the two int8 forms must agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import MANIFEST, Bundle, open_bundle
from edgevlm.errors import FidelityError
from edgevlm.manifest import PICTURE, Form
from edgevlm.options import RuntimeOptions
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks import Retriever
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.sources import PictureData, make_up_pictures, open_pictures
from edgevlm_export.bits import FORMS, Latest, bit_options, differing_forms, keeping, same_bits
from edgevlm_export.controls import ControlFigures, control_figures
from edgevlm_export.families import build
from edgevlm_export.figures import StageMeter, cosine, judged_on, rows
from edgevlm_export.stage_graph import Answer, RetrieverGraph, stage_outputs
from edgevlm_export.tap import Arrays, tapped

PICTURES = 48  # compared at most
FP32_LIMIT = 1e-4  # largest error of an fp32 bundle's logits, relative to the largest logit, and of its unit vectors
COSINE_LIMIT = 0.98  # of the worst embedding of a bundle in another precision
GRID = 6  # a picture's patches are shuffled on this grid
OPTIONS = RuntimeOptions(engine="ort", intra_threads=1, spinning=False)

Images = Sequence[NDArray[np.uint8]]


class RetrieverJudge(Protocol):
    """Who says what the right answer is."""

    kind: str
    sha256: str

    def answer(self, images: Images, texts: Sequence[str]) -> Answer: ...

    def stage(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays | None: ...


class OriginalRetriever:
    """The PyTorch model in one native forward for each picture, with all texts; preprocess is the runtime's."""

    def __init__(self, graph: RetrieverGraph) -> None:
        self.kind, self.sha256 = "checkpoint", graph.source_sha256
        self._graph = graph
        self._prepare = PicturePreprocessor(graph.preprocess[PICTURE])

    def answer(self, images: Images, texts: Sequence[str]) -> Answer:
        """The original's answer."""
        each = [self._graph.reference(self._prepare(image), texts) for image in images]
        logits, seen = (np.concatenate([getattr(one, key) for one in each]) for key in ("logits", "images"))
        return Answer(logits, seen, each[0].texts)

    def stage(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays | None:
        """The stage's module in PyTorch on the same inputs."""
        return stage_outputs(self._graph.stage(name), inputs)


class BundleRetriever:
    """Another bundle, through the runtime."""

    def __init__(self, bundle: Bundle) -> None:
        self.kind, self.sha256 = "bundle", bundle.sha256
        self._retriever = Retriever(bundle, OPTIONS)

    def answer(self, images: Images, texts: Sequence[str]) -> Answer:
        """The other bundle's answer."""
        return ask(self._retriever, images, texts)

    def stage(self, name: str, inputs: Mapping[str, NDArray[Any]]) -> Arrays | None:
        """Not compared: the whole answer is."""
        return None


def ask(retriever: Retriever, images: Images, texts: Sequence[str]) -> Answer:
    """What a loaded bundle says."""
    return Answer(
        retriever.match(images, texts).logits,
        np.stack([retriever.embed_image(image) for image in images]),
        np.stack([retriever.embed_text(text) for text in texts]),
    )


def compare_retriever(
    bundle: Bundle, judge: RetrieverJudge, data: PictureData, progress: Progress = silent
) -> dict[str, Any]:
    """The figures of an opened bundle on the held-out pictures and texts.

    Raises:
        FidelityError: the bundle is off, a control did not move the embeddings, or the forms differ.
    """
    photos, texts = data.held_out[:PICTURES], data.held_out_texts
    images = [photo.load() for photo in photos]
    want = judge.answer(images, texts)
    forms = differing_forms(bundle)
    stages, compared, got = [], [], {}
    for done, form in enumerate(forms):
        progress("verify", done, len(forms))
        meter = StageMeter()
        options = OPTIONS.model_copy(update={"form": form})
        with Retriever(bundle, options, backends=tapped(meter, judge.stage)) as retriever:
            got[form] = ask(retriever, images, texts)
        stages += rows(meter.figures(form))
        compared.append({"form": form, **_figures(got[form], want)})
    progress("verify", len(forms), len(forms))
    controls = _controls(bundle, forms[0], images, texts, got[forms[0]], want)
    figures = {
        "against": {"kind": judge.kind, "sha256": judge.sha256},
        "data": judged_on(data, [photo.name for photo in photos], texts),
        "stages": stages,
        "retrieval": compared,
        "controls": [{**asdict(control), "passed": control.passed} for control in controls],
        "forms_bit_equal": _bits(bundle, images, texts) if len(forms) > 1 else None,
        "options": OPTIONS.model_dump(mode="json"),
    }
    _accept(bundle, judge, compared, controls)
    return figures


def verify_retriever(bundle: Bundle, against: Path, data: Path | None, progress: Progress) -> dict[str, Any]:
    """The figures of `bundle` against a checkpoint directory or another bundle; pictures are made up without `data`.

    Raises:
        BundleError, CheckpointError, FamilyError, CalibrationError, TaskError: something does not open.
        FidelityError: as `compare_retriever`.
    """
    judge: RetrieverJudge
    if (against / MANIFEST).is_file():
        judge = BundleRetriever(open_bundle(against))
    else:
        graph = build(against)
        if not isinstance(graph, RetrieverGraph):
            raise FidelityError(
                f"{against}: expected a retriever's checkpoint, got a {graph.task}; compare like with like"
            )
        judge = OriginalRetriever(graph)
    pictures = make_up_pictures() if data is None else open_pictures(data)
    return compare_retriever(bundle, judge, pictures, progress)


def _figures(got: Answer, want: Answer) -> dict[str, Any]:
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
        "same_best_text": float(np.mean(got.logits.argmax(1) == want.logits.argmax(1))),
        "same_best_picture": float(np.mean(got.logits.argmax(0) == want.logits.argmax(0))),
    }


def _controls(
    bundle: Bundle, form: Form, images: Images, texts: Sequence[str], got: Answer, want: Answer
) -> tuple[ControlFigures, ...]:
    """Wrong pictures and wrong texts, by how far they move the unit vectors."""
    long = [i for i, text in enumerate(texts) if len(set(text.split())) > 2]
    image_error, text_error = np.abs(got.images - want.images), np.abs(got.texts - want.texts)
    found = []
    with Retriever(bundle, OPTIONS.model_copy(update={"form": form})) as retriever:
        other = np.roll(want.images, 1, axis=0)
        found.append(control_figures("other-picture", np.abs(other - want.images), image_error))
        shuffled = np.stack([retriever.embed_image(shuffle_patches(image)) for image in images])
        found.append(control_figures("shuffled-patches", np.abs(shuffled - want.images), image_error))
        others = np.roll(want.texts, 1, axis=0)
        found.append(control_figures("other-text", np.abs(others - want.texts), text_error))
        if long:
            turned = np.stack([retriever.embed_text(" ".join(reversed(texts[i].split()))) for i in long])
            found.append(control_figures("reversed-words", np.abs(turned - want.texts[long]), text_error))
    return tuple(found)


def shuffle_patches(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The picture cut on a grid, its pieces in another order, always the same one."""
    height, width = (max(side // GRID, 1) for side in image.shape[:2])
    down, across = image.shape[0] // height, image.shape[1] // width
    cut = image[: down * height, : across * width].reshape(down, height, across, width, 3)
    pieces = cut.swapaxes(1, 2).reshape(-1, height, width, 3)
    mixed = pieces[np.random.default_rng(0).permutation(len(pieces))].reshape(down, across, height, width, 3)
    return np.ascontiguousarray(mixed.swapaxes(1, 2).reshape(down * height, across * width, 3))


def _bits(bundle: Bundle, images: Images, texts: Sequence[str]) -> dict[str, Any]:
    latest: dict[Form, Latest] = {form: {} for form in FORMS}
    loaded = [Retriever(bundle, bit_options(form), backends=keeping(latest[form])) for form in FORMS]
    outputs = 0
    for image, text in zip(images, texts, strict=False):
        for retriever in loaded:
            retriever.match([image], [text])
        outputs += same_bits(latest["tensorrt"], latest["cpu"])
    for retriever in loaded:
        retriever.close()
    return {"steps": min(len(images), len(texts)), "outputs": outputs, "stages": sorted(latest["cpu"])}


def _accept(
    bundle: Bundle, judge: RetrieverJudge, compared: Sequence[dict[str, Any]], controls: tuple[ControlFigures, ...]
) -> None:
    exact = bundle.manifest.precision == "fp32" and judge.kind == "checkpoint"
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
    for control in controls:
        if not control.passed:
            raise FidelityError(
                f"negative control {control.control!r}: expected it to move the embeddings at least {control.needed:g} "
                f"times the bundle's error {control.error:.3g}, it moved them {control.moved:.3g} "
                f"({control.factor:.2f} times); the model ignores this input or the precision lost it"
            )
