"""One run of an engine whose numbers are not finite: refused, and the same question is answered once it is well."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import asker, paired, spotter, talker, tiny

from edgevlm.bundle import open_bundle
from edgevlm.engines import Arrays, Hook, hooked
from edgevlm.errors import NonFiniteError
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Chat, Detector, Retriever, Scorer

OPTIONS = RuntimeOptions(intra_threads=1)
WORDS = ("push the red cup", "open the drawer")


class Feverish(Hook):
    """The stages of `ill` give NaN."""

    def __init__(self) -> None:
        self.ill: set[str] = set()

    def after(self, stage: str, inputs: Arrays, outputs: Arrays) -> Arrays:
        if stage not in self.ill:
            return outputs
        return {name: np.full_like(array, np.nan) for name, array in outputs.items()}


def chat(root: Path, hook: Feverish) -> Callable[[], NDArray[Any]]:
    model = Chat(open_bundle(talker.chat(root)), OPTIONS, engines=hooked(hook))
    return lambda: np.array(model.ask(talker.picture(1), "what?", max_new_tokens=4).token_ids)


def captions(root: Path, hook: Feverish) -> Callable[[], NDArray[Any]]:
    model = Chat(open_bundle(asker.chat(root)), OPTIONS, engines=hooked(hook))
    return lambda: np.array(model.ask(talker.picture(1), max_new_tokens=4).token_ids)


def dual(root: Path, hook: Feverish) -> Callable[[], NDArray[Any]]:
    model = Retriever(open_bundle(tiny.dual(root)), OPTIONS, engines=hooked(hook))
    return lambda: model.match([talker.picture(1)], WORDS).logits


def cross(root: Path, hook: Feverish) -> Callable[[], NDArray[Any]]:
    model = Retriever(open_bundle(paired.cross(root)), OPTIONS, engines=hooked(hook))
    return lambda: model.match([talker.picture(1)], WORDS[:1]).logits


def apart(root: Path, hook: Feverish) -> Callable[[], NDArray[Any]]:
    model = Retriever(open_bundle(paired.cross(root)), OPTIONS, engines=hooked(hook))
    return lambda: np.concatenate([model.embed_image(talker.picture(1)), model.embed_text(WORDS[0])])


def scorer(root: Path, hook: Feverish) -> Callable[[], NDArray[Any]]:
    model = Scorer(open_bundle(paired.scorer(root)), OPTIONS, engines=hooked(hook))
    return lambda: model.score(paired.regions(), WORDS[0]).logits


def detector(root: Path, hook: Feverish) -> Callable[[], NDArray[Any]]:
    model = Detector(open_bundle(spotter.regions(root)), OPTIONS, engines=hooked(hook))
    return lambda: model.detect(talker.picture(1), WORDS, threshold=0.0).boxes


@pytest.mark.parametrize(
    ("make", "stage"),
    [
        *((chat, "vision"), (chat, "decoder"), (captions, "vision"), (captions, "decoder")),
        *((dual, "vision"), (dual, "text"), (cross, "vision"), (cross, "head"), (apart, "vision"), (apart, "text")),
        *((scorer, "head"), (detector, "vision"), (detector, "text")),
    ],
)
def test_the_same_question_is_answered_once_the_engine_is_well(make: Any, stage: str, tmp_path: Path) -> None:
    hook = Feverish()
    ask, want = make(tmp_path / "one", hook), make(tmp_path / "two", Feverish())()
    hook.ill = {stage}
    for _ in range(2):
        with pytest.raises(NonFiniteError):
            ask()
    hook.ill = set()
    np.testing.assert_array_equal(ask(), want)
    assert len(want)
