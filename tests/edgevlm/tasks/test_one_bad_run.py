"""One run of an engine whose numbers are not finite: refused, and the same question is answered once it is well."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import asker, paired, spotter, talker, tiny

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.engines import Engine, open_engine
from edgevlm.errors import NonFiniteError
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Chat, Detector, Retriever, Scorer

OPTIONS = RuntimeOptions(intra_threads=1)
WORDS = ("push the red cup", "open the drawer")


class Feverish:
    """A `EngineFactory` of real engines; those of `ill` give NaN."""

    def __init__(self) -> None:
        self.ill: set[str] = set()

    def __call__(self, bundle: Bundle, stage: str, options: RuntimeOptions) -> Engine:
        return _Engine(self, stage, open_engine(bundle, stage, options))


class _Engine:
    def __init__(self, owner: Feverish, stage: str, inner: Engine) -> None:
        self._owner, self._stage, self._inner = owner, stage, inner
        self.inputs, self.outputs = inner.inputs, inner.outputs

    def run(self, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        made = self._inner.run(inputs)
        if self._stage not in self._owner.ill:
            return made
        return {name: np.full_like(array, np.nan) for name, array in made.items()}

    def close(self) -> None:
        self._inner.close()


def chat(root: Path, engines: Feverish) -> Callable[[], NDArray[Any]]:
    model = Chat(open_bundle(talker.chat(root)), OPTIONS, engines=engines)
    return lambda: np.array(model.ask(talker.picture(1), "what?", max_new_tokens=4).token_ids)


def captions(root: Path, engines: Feverish) -> Callable[[], NDArray[Any]]:
    model = Chat(open_bundle(asker.chat(root)), OPTIONS, engines=engines)
    return lambda: np.array(model.ask(talker.picture(1), max_new_tokens=4).token_ids)


def dual(root: Path, engines: Feverish) -> Callable[[], NDArray[Any]]:
    model = Retriever(open_bundle(tiny.dual(root)), OPTIONS, engines=engines)
    return lambda: model.match([talker.picture(1)], WORDS).logits


def cross(root: Path, engines: Feverish) -> Callable[[], NDArray[Any]]:
    model = Retriever(open_bundle(paired.cross(root)), OPTIONS, engines=engines)
    return lambda: model.match([talker.picture(1)], WORDS[:1]).logits


def apart(root: Path, engines: Feverish) -> Callable[[], NDArray[Any]]:
    model = Retriever(open_bundle(paired.cross(root)), OPTIONS, engines=engines)
    return lambda: np.concatenate([model.embed_image(talker.picture(1)), model.embed_text(WORDS[0])])


def scorer(root: Path, engines: Feverish) -> Callable[[], NDArray[Any]]:
    model = Scorer(open_bundle(paired.scorer(root)), OPTIONS, engines=engines)
    return lambda: model.score(paired.regions(), WORDS[0]).logits


def detector(root: Path, engines: Feverish) -> Callable[[], NDArray[Any]]:
    model = Detector(open_bundle(spotter.regions(root)), OPTIONS, engines=engines)
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
    engines = Feverish()
    ask, want = make(tmp_path / "one", engines), make(tmp_path / "two", Feverish())()
    engines.ill = {stage}
    for _ in range(2):
        with pytest.raises(NonFiniteError):
            ask()
    engines.ill = set()
    np.testing.assert_array_equal(ask(), want)
    assert len(want)
