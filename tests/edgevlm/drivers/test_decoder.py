"""The decoder driver on a real decoder: however a prompt is cut, reused or taken back, the next word is the same.

The judge is one run of the same stage over the whole row of tokens, with masks written from their definition.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import talker, tiny

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.drivers import DecoderDriver, ImageToken, KVCache, Prompt
from edgevlm.drivers.kv_cache import HIDDEN
from edgevlm.engines import Host
from edgevlm.errors import BundleError, EngineError, NonFiniteError
from edgevlm.graph import Graph, Memory, Value
from edgevlm.manifest.schema import DialogueManifest
from edgevlm.options import RuntimeOptions

OPTIONS = RuntimeOptions(intra_threads=1)
CLOSE = {"rtol": 0.0, "atol": 2e-4}  # of logits that spread over more than 10: sums in another order, nothing else
Symbols = Sequence[int | ImageToken]


@dataclass
class Rig:
    """A driver over counted engines, and one session's state."""

    bundle: Bundle
    driver: DecoderDriver
    engines: tiny.Counted
    graph: Graph
    cache: KVCache
    memory: Memory

    def read(self, symbols: Symbols) -> tuple[NDArray[np.float32], int]:
        return self.driver.read(prompt(symbols), self.cache, self.memory)

    def again(self) -> Rig:
        """The same driver with an empty state."""
        return Rig(self.bundle, self.driver, self.engines, self.graph, self.driver.cache(), self.driver.memory())

    def judge(self, symbols: Symbols, bidirectional: int = 0) -> NDArray[np.float32]:
        """Logits after `symbols`, from one run over all of them."""
        return alone(self.bundle, self.graph, symbols, bidirectional)


def pixels(seed: int) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, 1, (1, 3, 8, 8)).astype(np.float32)


def prompt(symbols: Symbols) -> Prompt:
    tiles = {
        symbol.tile: Value(symbol.tile, pixels(symbol.tile)) for symbol in symbols if isinstance(symbol, ImageToken)
    }
    return Prompt(tuple(symbols), tiles)


def image_tokens(seed: int) -> list[ImageToken]:
    """The symbols of one picture."""
    return [ImageToken(seed, place) for place in range(talker.FEATURES)]


def definition(count: int, window: int | None, bidirectional: int) -> NDArray[np.float32]:
    """The mask of `count` tokens without a past, token by token, behind a step of slots that nobody may see."""
    mask = np.full((1, 1, count, talker.STEP + count), HIDDEN, np.float32)
    for query in range(count):
        for key in range(count):
            near = window is None or query - key < window
            if (key <= query and near) or (key < bidirectional and query < bidirectional):
                mask[0, 0, query, talker.STEP + key] = 0.0
    return mask


def alone(bundle: Bundle, graph: Graph, symbols: Symbols, bidirectional: int = 0) -> NDArray[np.float32]:
    """The stages by hand: no driver, no cache, one run."""
    args = bundle.manifest.driver.args
    stages, unkept = bundle.manifest.stages, Memory({})
    table = np.load(bundle.path(args.embeddings))
    rows = []
    for symbol in symbols:
        if isinstance(symbol, ImageToken):
            features = graph.run_state("vision", {"pixels": pixels(symbol.tile)}, unkept)["features"]
            rows.append(features[0, symbol.place])
        else:
            rows.append(table[symbol])
    count = len(symbols)
    empty = np.zeros((1, talker.STEP, talker.HEADS, talker.SIZE), np.float32)
    feeds: dict[str, NDArray[Any]] = {
        "embeds": np.stack(rows)[None].astype(np.float32),
        "positions": args.first_position + np.arange(count)[None],
        "index": np.array([count - 1]),
    }
    feeds |= {port: definition(count, window, bidirectional) for port, window in args.masks.items()}
    feeds |= {port.name: empty for port in stages["decoder"].inputs if port.kind.startswith("past_")}
    logits: NDArray[np.float32] = graph.run_state("decoder", feeds, unkept)["logits"][0]
    return logits


@pytest.fixture(scope="module")
def open_rig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Rig]]:
    known: dict[str, Rig] = {}

    def opened(**args: Any) -> Rig:
        name = repr(sorted(args.items()))
        if name not in known:
            bundle = open_bundle(talker.chat(tmp_path_factory.mktemp("chat") / "bundle", **args))
            engines = tiny.Counted()
            graph = Graph(Host(engines(bundle, bundle.manifest.stages, OPTIONS)), lambda: 0)
            table = np.load(bundle.path("embeddings.npy"))
            driver = DecoderDriver(bundle.manifest.driver.args, bundle.manifest.stages, graph, table)
            known[name] = Rig(bundle, driver, engines, graph, driver.cache(), driver.memory())
        rig = known[name]
        rig.engines.before_run = lambda stage: None
        return rig.again()

    yield opened
    for rig in known.values():
        rig.graph.close()


WAYS: Mapping[str, dict[str, Any]] = {
    "usual": {},
    "no window": {"masks": {"far": None, "near": None}},
    "first position 2": {"first_position": 2},
    "tokens one by one": {"chunk": 1},
    "in one run": {"chunk": talker.SLOTS},
    "whole prompt": {"prefix": "bidirectional", "first_position": 1},
}
tokens = st.integers(0, 255)
rows = st.lists(
    st.one_of(tokens.map(lambda token: [token]), st.integers(1000, 1003).map(image_tokens)), min_size=1, max_size=24
).map(lambda parts: [symbol for part in parts for symbol in part])


def bidirectional_prefix(way: str, count: int) -> int:
    return count if way == "whole prompt" else 0


@pytest.mark.parametrize("way", WAYS)
@given(row=rows, answer=st.lists(tokens, max_size=12))
def test_a_prompt_in_chunks_and_then_words_one_by_one_are_one_run(
    open_rig: Callable[..., Rig], way: str, row: list[int | ImageToken], answer: list[int]
) -> None:
    rig = open_rig(**WAYS[way])
    logits, reused = rig.read(row)
    assert reused == 0
    bidirectional = bidirectional_prefix(way, len(row))
    np.testing.assert_allclose(logits, rig.judge(row, bidirectional), **CLOSE)
    for done, token in enumerate(answer, 1):
        logits = rig.driver.step(token, rig.cache, rig.memory)
        np.testing.assert_allclose(logits, rig.judge([*row, *answer[:done]], bidirectional), **CLOSE)
    assert rig.cache.length == len(row) + len(answer)


@pytest.mark.parametrize("way", WAYS)
@given(first=rows, prefix=st.integers(0, 96), then=rows, answer=st.lists(tokens, max_size=6))
def test_a_prompt_after_another_is_as_if_it_were_the_first(
    open_rig: Callable[..., Rig], way: str, first: list[Any], prefix: int, then: list[Any], answer: list[int]
) -> None:
    rig = open_rig(**WAYS[way])
    rig.read(first)
    for token in answer:
        rig.driver.step(token, rig.cache, rig.memory)
    row = [*first, *answer][:prefix] + then
    logits, reused = rig.read(row)
    np.testing.assert_allclose(logits, rig.judge(row, bidirectional_prefix(way, len(row))), **CLOSE)
    if way == "whole prompt":
        assert reused == (len(row) - 1 if row == first else 0)
    else:
        assert reused >= min(prefix, len(first) + len(answer), len(row) - 1)
    assert rig.cache.length == len(row)


@pytest.mark.parametrize("way", ["usual", "whole prompt"])
def test_the_same_prompt_again_runs_its_last_token_alone(open_rig: Callable[..., Rig], way: str) -> None:
    rig = open_rig(**WAYS[way])
    row = [*image_tokens(1000), *range(40)]
    logits, _ = rig.read(row)
    rig.driver.step(7, rig.cache, rig.memory)
    runs = dict(rig.engines.runs)
    again, reused = rig.read(row)
    assert reused == len(row) - 1
    np.testing.assert_allclose(again, logits, **CLOSE)
    assert rig.engines.runs["decoder"] == runs["decoder"] + 1
    assert rig.engines.runs["vision"] == runs["vision"]


def test_what_it_says_depends_on_every_place_the_window_and_the_picture(open_rig: Callable[..., Rig]) -> None:
    """The controls of the tests above: were one of these ignored, they could not fail."""
    rig = open_rig()
    row: list[int | ImageToken] = [*image_tokens(1000), *range(20)]
    usual = rig.judge(row)
    spread = float(usual.max() - usual.min())
    changed = {
        "the first word": [*image_tokens(1000), 99, *range(1, 20)],
        "another picture": [*image_tokens(1001), *range(20)],
        "features in another order": [*image_tokens(1000)[::-1], *range(20)],
        "two words swapped": [*image_tokens(1000), 1, 0, *range(2, 20)],
    }
    others = {name: rig.judge(symbols) for name, symbols in changed.items()}
    others["places shifted"] = open_rig(first_position=2).judge(row)
    others["no window"] = open_rig(masks={"far": None, "near": None}).judge(row)
    others["a wider window"] = open_rig(masks={"far": None, "near": 6}).judge(row)
    others["whole prompt"] = rig.judge(row, bidirectional=len(row))
    for name, logits in others.items():
        assert np.abs(logits - usual).max() > 100 * CLOSE["atol"], f"{name}: {np.abs(logits - usual).max()}"
    assert spread > 10


def test_masks_of_a_window_count_the_token_itself(open_rig: Callable[..., Rig]) -> None:
    """With a window of 1 layer 1 reads nothing but the token itself; a word before the last one cannot reach it."""
    cache = KVCache(open_rig().bundle.manifest.require(DialogueManifest).driver.args.cache)
    cache.append(range(3), [np.zeros((1, 3, talker.HEADS, talker.SIZE), np.float32)] * 4)
    mask = cache.mask(2, 1)
    assert mask.shape == (1, 1, 2, talker.STEP + 2)
    assert np.argwhere(mask[0, 0] == 0).tolist() == [[0, talker.STEP], [1, talker.STEP + 1]]
    assert np.argwhere(cache.mask(1, 3)[0, 0] == 0).tolist() == [[0, 1], [0, 2], [0, talker.STEP]]


def test_forgetting_leaves_no_trace_and_touches_nothing_else(open_rig: Callable[..., Rig]) -> None:
    cache = KVCache(open_rig().bundle.manifest.require(DialogueManifest).driver.args.cache)
    cache.append(range(20), [np.ones((1, 20, talker.HEADS, talker.SIZE), np.float32)] * 4)
    cache.cut(3)  # what was cut off is still there to be zeroed
    beyond = [buffer[:, 20:] for buffer in cache._buffers]
    for part in beyond:
        part.fill(7.0)  # stands for memory that was never written
    cache.clear()
    assert cache.length == 0 and not any(buffer[:, :20].any() for buffer in cache._buffers)
    assert all((part == 7.0).all() for part in beyond)


def test_engines_get_the_past_in_steps_and_without_a_copy(open_rig: Callable[..., Rig]) -> None:
    rig = open_rig(chunk=16)
    lengths = []
    for count in (1, 15, 16, 17, 32, 33):
        rig.read(list(range(count)))
        past = rig.cache.past()
        assert all(view.base is not None and view.flags["C_CONTIGUOUS"] for view in past)
        lengths.append(past[0].shape[1])
    assert lengths == [16, 16, 16, 32, 32, 48]


@pytest.mark.parametrize("way", ["usual", "whole prompt"])
def test_a_run_that_failed_leaves_what_was_read_before(open_rig: Callable[..., Rig], way: str) -> None:
    rig = open_rig(**WAYS[way])
    row = list(range(50))
    rig.read(row[:20])
    runs = 0

    def fail(stage: str) -> None:
        nonlocal runs
        runs += 1
        if way == "whole prompt" or runs == 3:
            raise EngineError("the engine is out of memory")

    rig.engines.before_run = fail
    with pytest.raises(EngineError, match="out of memory"):
        rig.read(row)
    rig.engines.before_run = lambda stage: None
    # Two chunks of 8 after the 20 (a prompt's last token is only ever new), or nothing of a prompt read whole.
    assert rig.cache.length == (36 if way == "usual" else 0)
    logits, reused = rig.read(row)
    assert reused == (36 if way == "usual" else 0)
    np.testing.assert_allclose(logits, rig.judge(row, bidirectional_prefix(way, 50)), **CLOSE)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_refused_and_not_cached(open_rig: Callable[..., Rig], bad: float) -> None:
    rig = open_rig()
    table = np.load(rig.bundle.path("embeddings.npy"))
    table[200] = bad
    driver = DecoderDriver(rig.bundle.manifest.driver.args, rig.bundle.manifest.stages, rig.graph, table)
    driver.read(prompt(range(10)), rig.cache, rig.memory)
    with pytest.raises(NonFiniteError, match=r"stage 'decoder'.*NaN or infinity"):
        driver.step(200, rig.cache, rig.memory)
    assert rig.cache.length == 10
    assert all(np.isfinite(buffer).all() for buffer in rig.cache.past())
    np.testing.assert_allclose(driver.step(11, rig.cache, rig.memory), rig.judge([*range(10), 11]), **CLOSE)


def test_a_picture_that_overflows_is_refused(open_rig: Callable[..., Rig]) -> None:
    rig = open_rig()
    symbols = (ImageToken("broken", 0), 1)
    broken = Prompt(symbols, {"broken": Value("broken", np.full((1, 3, 8, 8), np.nan, np.float32))})
    with pytest.raises(NonFiniteError, match=r"stage 'vision'.*'pixels'"):
        rig.driver.read(broken, rig.cache, rig.memory)
    assert rig.cache.length == 0


def test_embeddings_of_half_precision_and_on_disk_are_read_as_they_are(
    open_rig: Callable[..., Rig], tmp_path: Path
) -> None:
    rig = open_rig()
    half = np.load(rig.bundle.path("embeddings.npy")).astype(np.float16)
    np.save(tmp_path / "half.npy", half)
    answers = []
    for table in (half.astype(np.float32), np.load(tmp_path / "half.npy", mmap_mode="r")):
        driver = DecoderDriver(rig.bundle.manifest.driver.args, rig.bundle.manifest.stages, rig.graph, table)
        answers.append(driver.read(prompt(range(10)), driver.cache(), driver.memory())[0])
    np.testing.assert_array_equal(answers[0], answers[1])


@pytest.mark.parametrize(
    ("table", "message"),
    [
        (np.zeros((talker.WORDS, 7), np.float32), "(V, 8)"),
        (np.zeros((talker.WORDS, 8), np.float64), "float64"),
        (np.zeros(8, np.float32), "(8,)"),
        (np.zeros((talker.WORDS - 1, 8), np.float32), "a row for each of the 272 tokens"),
    ],
)
def test_embeddings_that_do_not_fit_are_refused(open_rig: Callable[..., Rig], table: Any, message: str) -> None:
    rig = open_rig()
    with pytest.raises(BundleError) as caught:
        DecoderDriver(rig.bundle.manifest.driver.args, rig.bundle.manifest.stages, rig.graph, table)
    assert message in str(caught.value)
