"""Does a chat do what its source does? Logits and words through the runtime's driver, beside a judge.

The judge is the original model in its own greedy search, or another bundle.
Negative controls must move the logits by far more than the bundle is off; the two int8 forms must agree bit for bit.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.data.pictures import Photo, PictureData, make_up_pictures, open_pictures
from edgevlm.drivers import ImageToken
from edgevlm.engines import Arrays, hooked
from edgevlm.errors import FidelityError
from edgevlm.graph import Value
from edgevlm.manifest.schema import ChatManifest
from edgevlm.tasks.processor import open_processor
from edgevlm_calibration.chat import Question, Talk, words
from edgevlm_calibration.pictures import questions
from edgevlm_calibration.progress import Progress, silent
from edgevlm_calibration.runner import each
from edgevlm_export.fidelity.comparison import OPTIONS, OfBundle, OfCheckpoint, Reference, is_exact, open_source
from edgevlm_export.fidelity.controls import ControlFigures, check_controls, control_figures
from edgevlm_export.fidelity.form_equivalence import compare_forms, differing_forms
from edgevlm_export.fidelity.metrics import StageMeter, cosine, judged_on, rows
from edgevlm_export.fidelity.probe import Probe
from edgevlm_export.stage_graph import Logits, Said, TalkGraph

OTHER_PICTURE = "other-picture"
SHUFFLE_SEED = 0
SQUARES = 4  # along one side
GAP = 1  # how far the later half of the positions is moved: moving all of them changes nothing in many models

Inputs = dict[str, NDArray[Any]]  # of a decoder, by port
Ports = Mapping[str, Sequence[str]]  # kind -> names
Twist = Callable[[Inputs, Ports], Inputs]


@dataclass(frozen=True)
class Corruption:
    """One control: another question, or a decoder that gets other inputs."""

    question: Callable[[Sequence[Question], int], Question] = lambda asked, at: asked[at]
    inputs: Twist | None = None


def other_picture(asked: Sequence[Question], at: int) -> Question:
    """The question with the tiles of the next question's picture, as many as there are."""
    own, other = asked[at].prompt, asked[(at + 1) % len(asked)].prompt
    values = list(other.tiles.values())
    tiles = {name: values[i % len(values)] for i, name in enumerate(own.tiles)}
    return replace(asked[at], prompt=replace(own, tiles=tiles))


def shuffled_features(asked: Sequence[Question], at: int) -> Question:
    """The question with the features of each tile in another order.

    A decoder that looks at features through cross attention does not see their order: there it is the squares of the
    picture itself that are put into another order.
    """
    prompt = asked[at].prompt
    places = [one.place for one in prompt.cache_keys if isinstance(one, ImageToken)]
    if not places:
        tiles = {name: Value(("shuffled", name), _shuffled(value.array)) for name, value in prompt.tiles.items()}
        return replace(asked[at], prompt=replace(prompt, tiles=tiles))
    order = np.random.default_rng(SHUFFLE_SEED).permutation(max(places) + 1)
    symbols = tuple(
        ImageToken(one.tile, int(order[one.place])) if isinstance(one, ImageToken) else one for one in prompt.cache_keys
    )
    return replace(asked[at], prompt=replace(prompt, cache_keys=symbols))


def _shuffled(pixels: NDArray[Any]) -> NDArray[Any]:
    """pixels (1, 3, S, S) with its `SQUARES` x `SQUARES` squares in another order; what is left at the edges stays."""
    side, changed = pixels.shape[-1] // SQUARES, pixels.copy()
    corners = [(side * row, side * column) for row in range(SQUARES) for column in range(SQUARES)]
    for (top, left), other in zip(corners, np.random.default_rng(SHUFFLE_SEED).permutation(corners), strict=True):
        changed[..., top : top + side, left : left + side] = pixels[
            ..., other[0] : other[0] + side, other[1] : other[1] + side
        ]
    return changed


def shifted(arrays: Inputs, ports: Ports) -> Inputs:
    """The positions of the latter half of the prompt, and of all that follows, moved on."""
    (name,) = ports["positions"]
    positions = arrays[name]
    begin = positions[0, positions.shape[1] // 2] if positions.shape[1] > 1 else positions[0, 0]
    return {**arrays, name: np.where(positions >= begin, positions + GAP, positions)}


def masked(arrays: Inputs, ports: Ports) -> Inputs:
    """Every token of a run sees the whole run; where it should, none sees what comes after it.

    A decoder that looks at its picture has runs of one token from the beginning: there the later half of what was said
    is hidden from it.
    """
    changed = dict(arrays)
    for name in ports["mask"]:
        mask = arrays[name].copy()
        count = mask.shape[2]
        block = mask[..., -count:]  # what the new tokens see of each other
        hidden = float(mask.min())
        if count == 1 and "cross_key" in ports:
            (seen,) = np.nonzero(mask[0, 0, 0, :-1] == 0.0)
            mask[..., seen[len(seen) // 2 :]] = -30_000.0
        elif (block < 0).any():
            block[...] = 0.0
        elif count > 1:
            block[0, 0][np.triu_indices(count, 1)] = hidden if hidden < 0 else -30_000.0
        changed[name] = mask
    return changed


# Name in the record -> what is wrong.
CONTROLS: Mapping[str, Corruption] = {
    OTHER_PICTURE: Corruption(question=other_picture),
    "shuffled-features": Corruption(question=shuffled_features),
    "shifted-positions": Corruption(inputs=shifted),
    "wrong-mask": Corruption(inputs=masked),
}


PROMPTS = 4  # compared, each with a picture of its own
FEW_PROMPTS, LARGE_BYTES = 2, 200_000_000  # of a bundle so large that a picture takes seconds
FEW_SAID = 4  # tokens of each answer under a control, of so large a bundle
TILES = 4  # compared of one picture: the stages see no more in any other tile
COMPARED = 2  # of so many runs as an answer has words, the outputs of each stage are compared
SAID = 32  # tokens of each answer
BITS = 2  # prompts whose runs are compared bit by bit
FP32_LIMIT = 1e-4  # largest error of an fp32 bundle's logits, relative to the largest logit
COSINE_LIMIT = 0.95  # of the worst logits of a bundle in another precision

Asked = tuple[Photo, str]


class Talker(Reference, Protocol):
    """Who says what the right answer is."""

    def answer(self, question: Question, asked: Asked) -> tuple[Said, Logits]:
        """The greedy answer, and the logits (n, V) that each token of it was chosen from."""
        ...


class OriginalTalker(OfCheckpoint[TalkGraph]):
    """The PyTorch model in its own greedy search; pictures and ids are prepared by the runtime."""

    def answer(self, question: Question, asked: Asked) -> tuple[Said, Logits]:
        """Upstream's."""
        return self.graph.reference(question.ids, question.pixels, SAID)


class BundleTalker(OfBundle[Talk]):
    """Another bundle, through the runtime."""

    def __init__(self, bundle: Bundle) -> None:
        super().__init__(bundle, Talk(bundle, OPTIONS))

    def answer(self, question: Question, asked: Asked) -> tuple[Said, Logits]:
        """The other bundle's, with its own preparation."""
        return self.model.answer(self.model.question(*asked, TILES), SAID)


def compare_chat(bundle: Bundle, judge: Talker, data: PictureData, progress: Progress = silent) -> dict[str, Any]:
    """The figures of an opened bundle on the held-out pictures and texts.

    Raises:
        FidelityError: the bundle is off, a control did not move the logits, or the forms differ.
    """
    large = sum(entry.bytes for entry in bundle.manifest.files.values()) > LARGE_BYTES
    options = OPTIONS.model_copy(update={"intra_threads": 0}) if large else OPTIONS
    chosen = questions(data.held_out, data.held_out_texts, FEW_PROMPTS if large else PROMPTS)
    needs_text = open_processor(bundle).words.needs_text
    asked = [(photo, words(needs_text, place, text)) for place, (photo, text) in enumerate(chosen)]
    forms = differing_forms(bundle)
    stages, compared = [], []
    right: list[tuple[Said, Logits]] = []
    controls: tuple[ControlFigures, ...] = ()
    for form in forms:
        tap = Tap(bundle, judge)
        with Talk(bundle, options.model_copy(update={"form": form}), engines=hooked(tap)) as talk:
            asks = [talk.question(*one, TILES) for one in asked]
            for done, (question, one) in enumerate(zip(asks, asked, strict=True)):
                progress("verify", done, len(asked))
                if len(right) < len(asked):  # by the judge, once for all forms
                    right.append(judge.answer(question, one))
            answers = [talk.answer(question, SAID) for question in asks]
            tap.judge = None
            free = [said for said, _ in answers]
            # The logits of the right words: those of its own, where it says the same.
            got = [
                logits if said == want else talk.answer(question, len(want), want)[1]
                for question, (said, logits), (want, _) in zip(asks, answers, right, strict=True)
            ]
            if not controls:
                few = FEW_SAID if large else SAID
                shown = [(said[:few], logits[:few]) for said, logits in right]
                controls = _controls(talk, tap, asks, shown, [logits[:few] for logits in got])
        stages += rows(tap.meter.figures(form))
        compared.append({"form": form, **_figures(got, free, right)})
    progress("verify", len(asked), len(asked))
    begun = [(one, said) for one, (said, _) in zip(asked[:BITS], right, strict=False)]
    figures = {
        "against": {"kind": judge.kind, "sha256": judge.sha256},
        "data": judged_on(data, [photo.name for photo, _ in asked], [text for _, text in asked]),
        "stages": stages,
        "chat": compared,
        "controls": [{**asdict(control), "passed": control.passed} for control in controls],
        "forms_bit_equal": compare_forms(bundle, Talk, each(_begin), begun) if len(forms) > 1 else None,
        "options": options.model_dump(mode="json"),
    }
    _accept(bundle, judge, compared, controls)
    return figures


def verify_chat(bundle: Bundle, against: Path, data: Path | None, progress: Progress) -> dict[str, Any]:
    """The figures of `bundle` against a checkpoint directory or another bundle; pictures are made up without `data`.

    Raises:
        BundleError, CheckpointError, FamilyError, CalibrationError, TaskError: something does not open.
        FidelityError: as `compare_chat`.
    """
    source = open_source(against, TalkGraph, "chat")  # type: ignore[type-abstract]  # it is only asked about
    judge: Talker = BundleTalker(source) if isinstance(source, Bundle) else OriginalTalker(source)
    return compare_chat(bundle, judge, make_up_pictures() if data is None else open_pictures(data), progress)


def _figures(got: Sequence[Logits], free: Sequence[Said], right: Sequence[tuple[Said, Logits]]) -> dict[str, Any]:
    pairs = [(one, want) for one, (_, want) in zip(got, right, strict=True)]
    scale = max(float(np.abs(want).max()) for _, want in pairs)
    error = max(float(np.abs(one - want).max()) for one, want in pairs)
    top = [np.sort(want, axis=1)[:, -2:] for _, want in pairs]
    return {
        "logit_scale": scale,
        "logit_max_abs_error": error,
        "logit_relative_error": error / max(scale, float(np.finfo(np.float32).tiny)),
        "logit_cosine_min": min(cosine(a, b) for one, want in pairs for a, b in zip(one, want, strict=True)),
        "same_next_word": float(np.mean([np.mean(one.argmax(1) == want.argmax(1)) for one, want in pairs])),
        "same_answers": sum(one == said for one, (said, _) in zip(free, right, strict=True)),
        "answers": len(right),
        "tokens": sum(len(said) for said, _ in right),
        "distinct_tokens": len({token for said, _ in right for token in said}),
        "least_margin": min(float((pair[:, 1] - pair[:, 0]).min()) for pair in top),
    }


class Tap(Probe):
    """The runs of a chat, compared with a reference or given wrong inputs, as long as one is set."""

    def __init__(self, bundle: Bundle, judge: Talker | None = None) -> None:
        # A prompt's runs and a new word now and then: PyTorch is slow.
        super().__init__(StageMeter(), self._expected, lambda run: run % SAID < COMPARED)
        self.judge = judge
        self.twist: Twist | None = None
        self._decoder = bundle.manifest.require(ChatManifest).driver.args.decoder
        self._ports: dict[str, list[str]] = {}
        for port in bundle.manifest.stages[self._decoder].inputs:
            self._ports.setdefault(port.kind, []).append(port.name)

    def before(self, stage: str, inputs: Arrays) -> Arrays:
        """The inputs, twisted on their way to the decoder."""
        if self.twist is None or stage != self._decoder:
            return inputs
        return self.twist(dict(inputs), self._ports)

    def _expected(self, stage: str, inputs: Arrays) -> Arrays | None:
        return None if self.judge is None or self.twist is not None else self.judge.stage(stage, inputs)


def _controls(
    talk: Talk,
    tap: Tap,
    asks: Sequence[Question],
    right: Sequence[tuple[Said, Logits]],
    got: Sequence[Logits],
) -> tuple[ControlFigures, ...]:
    """Wrong pictures, places and masks, by how far they move the logits of the right answer."""
    error = np.concatenate([np.abs(one - want).ravel() for one, (_, want) in zip(got, right, strict=True)])
    found = []
    for name, wrong in CONTROLS.items():
        moved = []
        tap.twist = wrong.inputs
        for i, (said, want) in enumerate(right):
            moved.append(np.abs(talk.answer(wrong.question(asks, i), len(said), said)[1] - want).ravel())
        tap.twist = None
        found.append(control_figures(name, np.concatenate(moved).astype(np.float64), error.astype(np.float64)))
    return tuple(found)


def _begin(talk: Talk, sample: tuple[Asked, Said]) -> None:
    asked, said = sample
    talk.answer(talk.question(*asked, TILES), 2, said[:2])


def _accept(
    bundle: Bundle, judge: Talker, compared: Sequence[dict[str, Any]], controls: tuple[ControlFigures, ...]
) -> None:
    exact = is_exact(bundle, judge)
    for row in compared:
        if exact and row["logit_relative_error"] > FP32_LIMIT:
            raise FidelityError(
                f"expected fp32 logits within {FP32_LIMIT} of the original's, got {row['logit_relative_error']:.3g}; "
                "ids, positions, masks or the cut are wrong: compare each stage in the family's adapter"
            )
        if row["logit_cosine_min"] < COSINE_LIMIT:
            raise FidelityError(
                f"form {row['form']!r}: expected logits of cosine {COSINE_LIMIT} or more with the original's, got "
                f"{row['logit_cosine_min']:.4f}; give more calibration pictures, or try --precision fp16"
            )
    # Below fp32 the order of a picture's features may weigh less than the rounding: it is recorded, no more.
    check_controls([one for one in controls if exact or one.control == OTHER_PICTURE], "the logits")
