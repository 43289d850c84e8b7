"""What every engine promises (`edgevlm.engines.base.Engine`), run over every engine that is installed.

A new engine joins by its row in `edgevlm.engines.ENGINES`; it is judged by these claims and no others.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from support import talker, tiny

from edgevlm.bundle import Bundle, open_bundle
from edgevlm.engines import ENGINES, Host, HostTensors, open_engine, quantized_kernels
from edgevlm.errors import EngineError
from edgevlm.load import load_chat, load_policy
from edgevlm.manifest.drivers.kv_decoder import KEYS, PAST, QUERY
from edgevlm.options import RuntimeOptions

INSTALLED = [engine for engine, row in ENGINES.items() if find_spec(row.module) is not None]
Open = Callable[..., Host]


@pytest.fixture(params=INSTALLED)
def engine(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tiny.mono(tmp_path_factory.mktemp("contract") / "bundle")
    busy = tiny.stage(
        "busy", [tiny.port("features_in", "features", 1, 4)], [tiny.port("features_out", "features", 1, 4)]
    )
    parts = tiny.mono_parts(4, "head", tiny.mono_contract())
    parts["stages"]["busy"] = busy
    parts["stages"]["quantized"] = tiny.quantized_stage("quantized", 6)
    parts["stages"]["quantized_dynamic"] = tiny.quantized_stage("quantized_dynamic", "tokens")
    return tiny.write_bundle(place.parent / "with-busy", parts)


@pytest.fixture
def open_host(engine: str, root: Path) -> Iterator[Open]:
    opened: list[Host] = []

    def open_it(bundle: Bundle | None = None, **options: Any) -> Host:
        chosen = RuntimeOptions(**{"engine": engine, "intra_threads": 1, **options})
        bundle = bundle or open_bundle(root)
        opened.append(Host(open_engine(bundle, bundle.manifest.stages, chosen)))
        return opened[-1]

    yield open_it
    for host in opened:
        host.close()


def pixels(seed: int = 0) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0.0, 1.0, (1, 3, 8, 8)).astype(np.float32)


def pool_inputs(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    return {f"front_{slot}": random.normal(0.0, 1.0, tiny.MAP).astype(np.float32) for slot in range(4)}


def pooled(inputs: dict[str, NDArray[np.float32]]) -> NDArray[np.float32]:
    """What the pool stage computes, in NumPy: see tests/support/make_stages.py."""
    return np.asarray(sum(inputs[f"front_{slot}"] * np.float32((slot + 1) / 4) for slot in range(4)))


# --- quantized stages ---


def test_every_quantized_product_runs_in_integers_whether_shapes_are_static_or_not(engine: str, root: Path) -> None:
    kernels = quantized_kernels(open_bundle(root), RuntimeOptions(engine=engine, intra_threads=1))
    assert kernels == {"quantized": (2, 0), "quantized_dynamic": (2, 0)}


def test_a_quantized_stage_computes_what_its_graph_says(open_host: Open) -> None:
    host, plain = open_host(), open_host(engine="ort", optimize=False)
    tokens = np.random.default_rng(3).normal(0.0, 1.0, (1, 6, 16)).astype(np.float32)
    for stage in ("quantized", "quantized_dynamic"):
        mixed, want = (each.run(stage, {"tokens": tokens})["mixed"] for each in (host, plain))
        np.testing.assert_allclose(mixed, want, atol=2e-3)


# --- numbers ---


def test_opens_the_stages_that_are_named_in_their_order(engine: str, root: Path) -> None:
    bundle = open_bundle(root)
    for stages in (tuple(bundle.manifest.stages), ("pool", "vision")):
        opened = open_engine(bundle, stages, RuntimeOptions(engine=engine))
        assert opened.stages == stages
        opened.close()


def test_a_tensor_tells_shape_and_type_without_a_copy_to_the_host(engine: str, root: Path) -> None:
    opened = open_engine(open_bundle(root), ["pool"], RuntimeOptions(engine=engine))
    tensor = opened.run("pool", HostTensors(pool_inputs()))["front_pooled"]
    assert (tensor.shape, tensor.dtype) == (tiny.MAP, np.float32)
    np.testing.assert_allclose(tensor.numpy(), pooled(pool_inputs()), rtol=1e-5, atol=1e-6)
    opened.close()


def test_gives_each_output_under_its_name(open_host: Open) -> None:
    inputs = {
        "text": np.ones((1, 4), np.float32),
        "state": np.ones((1, 3), np.float32),
        "front_pooled": np.ones(tiny.MAP, np.float32),
    }
    outputs = open_host().run("head", inputs)
    assert {name: array.shape for name, array in outputs.items()} == {
        "chunk": (1, 5, 3),
        "waypoints": (1, 2, 2),
        "step_logits": (1, 3),
    }
    assert all(array.dtype == np.float32 for array in outputs.values())


def test_computes_what_the_graph_says(open_host: Open) -> None:
    host = open_host()

    @settings(max_examples=25)
    @given(seed=st.integers(0, 10**6), scale=st.sampled_from([1e-3, 1.0, 1e3]))
    def check(seed: int, scale: float) -> None:
        inputs = {name: array * np.float32(scale) for name, array in pool_inputs(seed).items()}
        got = host.run("pool", inputs)["front_pooled"]
        np.testing.assert_allclose(got, pooled(inputs), rtol=1e-5, atol=1e-6 * scale)

    check()


def test_takes_integers_where_the_port_says_so(open_host: Open) -> None:
    host = open_host()
    ids, mask = np.int64([[3, 5, 0, 0, 0, 0]]), np.float32([[1, 1, 0, 0, 0, 0]])
    first, second = (host.run("text", {"ids": np.int64([[word] * 6]), "mask": mask})["text"] for word in (3, 5))
    np.testing.assert_allclose(host.run("text", {"ids": ids, "mask": mask})["text"], (first + second) / 2, atol=1e-6)


def test_the_order_of_the_inputs_is_of_no_account(open_host: Open) -> None:
    host, inputs = open_host(), pool_inputs()
    backwards = dict(reversed(inputs.items()))
    np.testing.assert_array_equal(host.run("pool", inputs)["front_pooled"], host.run("pool", backwards)["front_pooled"])


def test_takes_arrays_whatever_their_strides(open_host: Open) -> None:
    host = open_host()
    want = host.run("vision", {"pixels": pixels()})["features"]
    wide = np.zeros((1, 3, 8, 16), np.float32)
    wide[..., ::2] = pixels()
    np.testing.assert_array_equal(host.run("vision", {"pixels": wide[..., ::2]})["features"], want)
    turned = np.ascontiguousarray(pixels().transpose(0, 2, 3, 1)).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(host.run("vision", {"pixels": turned})["features"], want)
    frozen = pixels()
    frozen.setflags(write=False)
    np.testing.assert_array_equal(host.run("vision", {"pixels": frozen})["features"], want)


@pytest.mark.parametrize(
    "options", [{"optimize": False}, {"form": "tensorrt"}, {"spinning": True}, {"intra_threads": 2}]
)
def test_no_option_changes_what_is_computed(engine: str, open_host: Open, options: dict[str, Any]) -> None:
    inputs = pool_inputs()
    try:
        other = open_host(**options)
    except EngineError as error:  # never ignored: an engine that cannot be told says so
        assert engine != "ort" and next(iter(options)) in str(error)
        return
    got = other.run("pool", inputs)["front_pooled"]
    np.testing.assert_allclose(got, open_host().run("pool", inputs)["front_pooled"], rtol=1e-5, atol=1e-6)


def test_equal_inputs_give_equal_bytes_every_time(open_host: Open) -> None:
    host = open_host()
    want = host.run("vision", {"pixels": pixels()})["features"].tobytes()
    for _ in range(20):
        host.run("vision", {"pixels": pixels(1)})
        assert host.run("vision", {"pixels": pixels()})["features"].tobytes() == want


# --- who owns what ---


def test_outputs_are_the_callers_and_never_written_again(open_host: Open) -> None:
    host = open_host()
    first = host.run("vision", {"pixels": pixels()})["features"]
    retained = first.copy()
    others = [host.run("vision", {"pixels": pixels(seed)})["features"] for seed in range(1, 30)]
    np.testing.assert_array_equal(first, retained)
    assert all(not np.shares_memory(first, other) for other in others)
    first[:] = 0.0
    np.testing.assert_array_equal(host.run("vision", {"pixels": pixels()})["features"], retained)


def head_inputs(seed: int = 0) -> dict[str, NDArray[np.float32]]:
    random = np.random.default_rng(seed)
    shapes = {"text": (1, 4), "state": (1, 3), "front_pooled": tiny.MAP}
    return {name: random.normal(0.0, 1.0, shape).astype(np.float32) for name, shape in shapes.items()}


@pytest.mark.parametrize("names", [("chunk",), ("step_logits", "waypoints"), ("chunk", "waypoints", "step_logits")])
def test_writes_to_the_outputs_that_are_named_and_returns_those(open_host: Open, names: tuple[str, ...]) -> None:
    host = open_host()
    expected = host.run("head", head_inputs())
    into = {name: np.full_like(expected[name], np.nan) for name in names}
    results = host.run("head", {name: np.asfortranarray(array) for name, array in head_inputs().items()}, into)
    assert list(results) == ["chunk", "waypoints", "step_logits"]
    for name, array in results.items():
        np.testing.assert_array_equal(array, expected[name])
        assert (array is into.get(name)) == (name in names)
    host.run("head", head_inputs(1))  # into memory of its own
    np.testing.assert_array_equal(results["chunk"], expected["chunk"])


def _backwards() -> NDArray[np.float32]:
    return np.zeros((3, 5, 1), np.float32).T


def _frozen() -> NDArray[np.float32]:
    array = np.zeros((1, 5, 3), np.float32)
    array.setflags(write=False)
    return array


@pytest.mark.parametrize(
    "into",
    [
        {"more": np.zeros((1, 5, 3), np.float32)},
        {"chunk": np.zeros((1, 5, 3), np.float64)},
        {"chunk": np.zeros((1, 5, 4), np.float32)},
        {"chunk": np.zeros((5, 3), np.float32)},
        {"chunk": np.zeros((), np.float32)},
        {"chunk": _backwards()},
        {"chunk": _frozen()},
    ],
    ids=["another name", "float64", "one column more", "rank", "scalar", "strides", "not writable"],
)
def test_refuses_outputs_that_do_not_fit_and_goes_on(open_host: Open, into: dict[str, Any]) -> None:
    host = open_host()
    with pytest.raises(EngineError, match=r"stage 'head'.*expected.*got"):
        host.run("head", head_inputs(), into)
    assert all(not array.any() for array in into.values())
    assert np.isfinite(host.run("head", head_inputs())["chunk"]).all()


@pytest.mark.parametrize("more", [0, -1, 1, 5])
def test_an_output_of_a_dynamic_size_has_that_of_the_run(open_host: Open, tmp_path: Path, more: int) -> None:
    bundle, sizes = open_bundle(talker.chat(tmp_path / "chat")), {QUERY: 2, PAST: talker.STEP, KEYS: talker.STEP + 2}
    types = {"float32": np.float32, "int64": np.int64}
    inputs = {
        port.name: np.zeros([sizes.get(size, size) for size in port.shape], types[port.dtype])
        for port in bundle.manifest.stages["decoder"].inputs
    }
    host, into = open_host(bundle), {"new_key_0": np.zeros((1, 2 + more, talker.HEADS, talker.SIZE), np.float32)}
    if more:
        with pytest.raises(EngineError, match="stage 'decoder'"):
            host.run("decoder", inputs, into)
    else:
        assert host.run("decoder", inputs, into)["new_key_0"] is into["new_key_0"]


def test_refuses_inputs_that_do_not_fit_where_outputs_are_named(open_host: Open) -> None:
    host, into = open_host(), {"chunk": np.zeros((1, 5, 3), np.float32)}
    for inputs in (
        {},
        {**head_inputs(), "more": pixels()},
        {**head_inputs(), "state": np.zeros((1, 3), np.float64)},
        {**head_inputs(), "state": np.zeros((1, 4), np.float32)},
        {**head_inputs(), "state": None},
    ):
        with pytest.raises(EngineError, match="stage 'head'"):
            host.run("head", inputs, into)


def test_outputs_outlive_the_engine(open_host: Open) -> None:
    host = open_host()
    output = host.run("vision", {"pixels": pixels()})["features"]
    retained = output.copy()
    host.close()
    np.testing.assert_array_equal(output, retained)


def test_inputs_are_read_during_the_call_only_and_never_written(open_host: Open) -> None:
    host, mine = open_host(), pixels()
    before = mine.copy()
    output = host.run("vision", {"pixels": mine})["features"]
    np.testing.assert_array_equal(mine, before)
    retained = output.copy()
    mine[:] = np.nan
    np.testing.assert_array_equal(output, retained)
    np.testing.assert_array_equal(host.run("vision", {"pixels": before})["features"], retained)


# --- what is refused ---


@pytest.mark.parametrize(
    "inputs",
    [
        {},
        {"image": pixels()},
        {"pixels": pixels(), "more": pixels()},
        {"pixels": pixels()[0]},
        {"pixels": pixels()[:, :2]},
        {"pixels": pixels()[:, :, :7]},
        {"pixels": np.zeros((1, 3, 8, 8), np.float64)},
        {"pixels": np.zeros((1, 3, 8, 8), np.uint8)},
        {"pixels": np.zeros((1, 3, 8, 8), object)},
        {"pixels": None},
    ],
    ids=["none", "another name", "one too many", "rank", "channels", "height", "float64", "uint8", "objects", "None"],
)
def test_refuses_inputs_that_do_not_fit_and_goes_on(open_host: Open, inputs: dict[str, Any]) -> None:
    host = open_host()
    with pytest.raises(EngineError, match="stage 'vision'"):
        host.run("vision", inputs)
    assert np.isfinite(host.run("vision", {"pixels": pixels()})["features"]).all()


def test_refuses_a_stage_that_it_has_not(open_host: Open) -> None:
    with pytest.raises(EngineError, match=r"expected one of the stages \[.*'vision'.*\], got 'sight'"):
        open_host().run("sight", {"pixels": pixels()})


@pytest.mark.parametrize(
    "content",
    [b"", b"no model at all", b"\0" * 1000, (tiny.STAGES / "vision.onnx").read_bytes()[:-40], b"\x08\x08\x12\x00"],
    ids=["empty", "text", "zeros", "truncated", "a model without a graph"],
)
def test_refuses_a_corrupt_file_naming_stage_and_file(open_host: Open, tmp_path: Path, content: bytes) -> None:
    bundle = open_bundle(tiny.mono(tmp_path / "bundle"))
    (bundle.root / "stages" / "vision.onnx").write_bytes(content)  # since it was opened, which refuses such files, too
    with pytest.raises(
        EngineError, match=r"stage 'vision' of .*vision\.onnx.*; (export the bundle again|do not use it)"
    ):
        open_host(bundle)


def test_refuses_a_file_that_vanished_after_the_bundle_was_opened(open_host: Open, tmp_path: Path) -> None:
    bundle = open_bundle(tiny.mono(tmp_path / "bundle"))
    (bundle.root / "stages" / "vision.onnx").unlink()
    with pytest.raises(EngineError, match="stage 'vision'"):
        open_host(bundle)


@pytest.mark.parametrize("side", ["inputs", "outputs"])
def test_refuses_a_file_with_other_ports_than_the_manifest(open_host: Open, tmp_path: Path, side: str) -> None:
    place = tiny.mono(tmp_path / "bundle")
    tiny.rewrite(place, lambda data: data["stages"]["vision"][side][0].update(name="other"))
    with pytest.raises(EngineError, match=rf"stage 'vision'.*expected {side} \['other'\].*the file has"):
        open_host(open_bundle(place))


def test_refuses_a_file_whose_ports_have_another_shape_or_type(open_host: Open, tmp_path: Path) -> None:
    place = tiny.mono(tmp_path / "bundle")
    tiny.rewrite(place, lambda data: data["stages"]["vision"]["outputs"][0].update(shape=[1, 4, 4, 5]))
    with pytest.raises(EngineError, match=r"stage 'vision'.*'features'.*\(1, 4, 4, 5\).*\(1, 4, 4, 4\)"):
        open_host(open_bundle(place))
    place = tiny.mono(tmp_path / "other")
    tiny.rewrite(place, lambda data: data["stages"]["text"]["inputs"][0].update(dtype="float32"))
    with pytest.raises(EngineError, match=r"stage 'text'.*'ids'.*float32.*int64"):
        open_host(open_bundle(place))


# --- threads and the end ---


def test_lets_other_threads_run_while_the_engine_works(open_host: Open) -> None:
    host = open_host()
    features = {"features_in": np.ones((1, 4), np.float32)}
    host.run("busy", features)

    def longest_stall() -> tuple[float, float]:
        """(how long the engine ran, the longest this thread stood still meanwhile), in seconds."""
        spans: list[float] = []
        started, done = threading.Event(), threading.Event()

        def work() -> None:
            started.set()
            begin = time.perf_counter()
            host.run("busy", features)
            spans.append(time.perf_counter() - begin)
            done.set()

        thread = threading.Thread(target=work)
        thread.start()
        started.wait()
        stall, last = 0.0, time.perf_counter()
        while not done.is_set():
            time.sleep(0.0005)
            now = time.perf_counter()
            stall, last = max(stall, now - last), now
        thread.join()
        return spans[0], stall

    # Another program may take the processor away for a moment; an engine that holds the GIL stalls us every time.
    tries = [longest_stall() for _ in range(5)]
    assert min(ran for ran, _ in tries) > 0.02
    assert min(stall / ran for ran, stall in tries) < 0.5


@pytest.mark.parametrize("engines", [1, 2])
def test_two_stages_or_two_engines_work_in_two_threads(open_host: Open, engines: int) -> None:
    hosts = [open_host() for _ in range(engines)]
    expected = {seed: hosts[0].run("head", head_inputs(seed))["chunk"] for seed in range(40)}
    wrong: list[tuple[str, int]] = []

    def pool() -> None:
        for seed in range(40):
            inputs = pool_inputs(seed)
            if not np.allclose(hosts[0].run("pool", inputs)["front_pooled"], pooled(inputs), rtol=1e-5, atol=1e-6):
                wrong.append(("pool", seed))

    def head() -> None:
        for seed in range(40):
            if not np.array_equal(hosts[-1].run("head", head_inputs(seed))["chunk"], expected[seed]):
                wrong.append(("head", seed))

    threads = [threading.Thread(target=work) for work in (pool, head)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_after_close_it_says_so_and_may_be_closed_again(open_host: Open) -> None:
    host = open_host()
    host.close()
    host.close()
    with pytest.raises(EngineError, match=r"stage 'vision'.*it was closed; load the bundle again"):
        host.run("vision", {"pixels": pixels()})


def test_affinity_needs_a_processor_for_every_thread(open_host: Open) -> None:
    with pytest.raises(EngineError, match="affinity"):
        open_host(affinity=(0, 1), intra_threads=1)
    pinned = open_host(affinity=(0,), intra_threads=1)
    assert np.isfinite(pinned.run("vision", {"pixels": pixels()})["features"]).all()


def test_every_engine_of_this_version_is_judged_here_or_not_installed() -> None:
    assert INSTALLED, f"none of {list(ENGINES)} is installed: pip install '.[cpu]'"


def test_a_run_that_takes_longer_than_it_may_is_ended_and_says_what_to_raise(open_host: Open) -> None:
    stage = open_host(run_limit_s=0.001)
    features = {"features_in": np.ones((1, 4), np.float32)}
    begin = time.monotonic()
    with pytest.raises(EngineError, match="raise run_limit_s"):
        for _ in range(1000):  # the thread that ends a run looks four times a second
            stage.run("busy", features)
            assert time.monotonic() - begin < 30
    assert open_host().run("busy", features)["features_out"].shape == (1, 4)


# --- whole models ---


def test_a_policy_acts_in_every_engine_as_in_onnx_runtime(engine: str, root: Path) -> None:
    place = tiny.mono(root.parent / f"policy-{engine}")

    def actions(name: str) -> list[NDArray[np.float32]]:
        with load_policy(place, RuntimeOptions(engine=name, intra_threads=1)) as policy:
            session = policy.session()
            return [session.act(tiny.observation(policy.contract, index)).values for index in range(6)]

    for ours, reference in zip(actions(engine), actions("ort"), strict=True):
        np.testing.assert_allclose(ours, reference, atol=1e-5)


def test_a_chat_answers_in_every_engine_as_in_onnx_runtime(engine: str, tmp_path: Path) -> None:
    root = talker.chat(tmp_path / "chat")

    def answers(name: str) -> list[str]:
        with load_chat(root, RuntimeOptions(engine=name, intra_threads=1)) as chat:
            return [chat.ask(talker.picture(seed), "what is it?", max_new_tokens=8).text for seed in (0, 1)]

    assert answers(engine) == answers("ort")
