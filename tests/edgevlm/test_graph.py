"""Stages over versioned values: run once for each combination of versions, and never a stale result."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from support.functions import Functions, graph_of

from edgevlm.engines import Arrays, Host
from edgevlm.errors import EngineError, NonFiniteError, SessionError
from edgevlm.graph import Graph, Memory, Value, all_finite


class Adder:
    """A stage in NumPy: `sum` is a weighted sum of its inputs, each with a weight of its own."""

    def __init__(self, *inputs: str, weight: float = 1.0) -> None:
        self.inputs = inputs
        self.weight = weight
        self.runs = 0
        self.fails = False

    def __call__(self, inputs: Arrays) -> Arrays:
        if self.fails:
            raise EngineError("the engine failed")
        self.runs += 1
        total = sum(inputs[name] * (self.weight + place) for place, name in enumerate(self.inputs))
        return {"sum": np.asarray(total)}


class Clock:
    """Every look at it takes 10 ns."""

    def __init__(self) -> None:
        self.now_ns = 0

    def __call__(self) -> int:
        self.now_ns += 10
        return self.now_ns


def array(number: float) -> NDArray[np.float32]:
    return np.float32([number])


def test_a_value_is_computed_when_first_asked_for_and_once() -> None:
    created: list[int] = []

    def make() -> NDArray[np.float32]:
        created.append(1)
        return array(3.0)

    value = Value("v", make)
    assert created == []
    assert value.array is value.array
    assert created == [1]


def test_a_value_whose_maker_failed_can_be_asked_again() -> None:
    tries: list[int] = []

    def make() -> NDArray[np.float32]:
        tries.append(1)
        if len(tries) == 1:
            raise EngineError("not this time")
        return array(3.0)

    value = Value("v", make)
    with pytest.raises(EngineError):
        _ = value.array
    assert value.array.tolist() == [3.0]


@given(
    frames=st.lists(st.integers(0, 2), min_size=1, max_size=30),
    words=st.lists(st.integers(0, 1), min_size=30, max_size=30),
    capacity=st.integers(1, 4),
)
def test_memoised_results_equal_fresh_ones(frames: list[int], words: list[int], capacity: int) -> None:
    trunk, fusion = Adder("frame", weight=2.0), Adder("features", "word")
    graph = graph_of({"trunk": trunk, "fusion": fusion}, Clock())
    memory = Memory({"fusion": capacity})
    for frame, word in zip(frames, words, strict=False):
        features = graph.run("trunk", {"frame": Value(("frame", frame), array(frame))}, memory)["sum"]
        reported = Value(("word", word), array(word))
        result = graph.run("fusion", {"features": features, "word": reported}, memory)["sum"]
        assert result.array.tolist() == [2.0 * frame * 1.0 + word * 2.0]
    assert trunk.runs == memory.runs["trunk"] == len(set(frames))  # nothing is ever computed twice without a capacity
    pairs = list(zip(frames, words, strict=False))
    assert fusion.runs == memory.runs["fusion"] == misses(pairs, capacity)


def test_the_least_recently_used_result_goes_first() -> None:
    engine = Adder("x")
    graph, memory = graph_of({"a": engine}, Clock()), Memory({"a": 2})
    for version in (1, 2, 1, 3, 1):  # 3 takes the place of 2, since 1 was used after it
        graph.run("a", {"x": Value(version, array(1.0))}, memory)
    assert engine.runs == 3


def misses(keys: list[tuple[int, int]], capacity: int) -> int:
    """How often a cache that lets the least recently used key go has to compute."""
    retained: list[tuple[int, int]] = []
    count = 0
    for key in keys:
        if key in retained:
            retained.remove(key)
        else:
            count += 1
        retained = [*retained, key][-capacity:]
    return count


def test_inputs_are_not_prepared_for_a_result_that_is_known() -> None:
    graph, memory = graph_of({"trunk": Adder("frame")}, Clock()), Memory({})
    graph.run("trunk", {"frame": Value(1, array(1.0))}, memory)

    def never() -> NDArray[Any]:
        raise AssertionError("this frame was known")

    graph.run("trunk", {"frame": Value(1, never)}, memory)


def test_equal_versions_of_other_stages_or_outputs_are_no_mix_up() -> None:
    graph, memory = graph_of({"a": Adder("x"), "b": Adder("x", weight=5.0), "c": Adder("x")}, Clock()), Memory({})
    x = Value("x", array(1.0))
    a, b = graph.run("a", {"x": x}, memory)["sum"], graph.run("b", {"x": x}, memory)["sum"]
    assert a.version != b.version
    assert graph.run("c", {"x": a}, memory)["sum"].array.tolist() == [1.0]
    assert graph.run("c", {"x": b}, memory)["sum"].array.tolist() == [5.0]


def test_sessions_share_engines_and_no_results() -> None:
    engine = Adder("x")
    graph, one, other = graph_of({"a": engine}, Clock()), Memory({}), Memory({})
    assert graph.run("a", {"x": Value(1, array(1.0))}, one)["sum"].array.tolist() == [1.0]
    assert graph.run("a", {"x": Value(1, array(2.0))}, other)["sum"].array.tolist() == [2.0]
    assert engine.runs == 2


def test_a_failed_run_is_not_cached_and_not_counted() -> None:
    engine = Adder("x")
    graph, memory = graph_of({"a": engine}, Clock()), Memory({})
    engine.fails = True
    with pytest.raises(EngineError):
        graph.run("a", {"x": Value(1, array(1.0))}, memory)
    assert memory.runs == {}
    engine.fails = False
    assert graph.run("a", {"x": Value(1, array(1.0))}, memory)["sum"].array.tolist() == [1.0]
    assert memory.runs == {"a": 1}


def test_forgets_one_result_and_all_of_them() -> None:
    engine = Adder("x")
    graph, memory = graph_of({"a": engine}, Clock()), Memory({})
    for version in (1, 2, 1, 2):
        graph.run("a", {"x": Value(version, array(1.0))}, memory)
    assert engine.runs == 2
    memory.forget("a", (1,))
    memory.forget("a", (9,))
    memory.forget("none", (1,))
    for version in (1, 2):
        graph.run("a", {"x": Value(version, array(1.0))}, memory)
    assert engine.runs == 3
    memory.clear()
    graph.run("a", {"x": Value(2, array(1.0))}, memory)
    assert engine.runs == 4


def test_times_are_of_the_current_step_and_of_stages_that_ran() -> None:
    graph, memory = graph_of({"a": Adder("x"), "b": Adder("x")}, Clock()), Memory({})
    graph.run("a", {"x": Value(1, array(1.0))}, memory)
    graph.run("a", {"x": Value(2, array(1.0))}, memory)
    assert memory.times_ns == {"a": 20}
    memory.begin_step()
    graph.run("a", {"x": Value(2, array(1.0))}, memory)
    graph.run("b", {"x": Value(2, array(1.0))}, memory)
    assert memory.times_ns == {"b": 10}


def test_threads_take_turns_at_an_engine() -> None:
    inside, most, entered = 0, 0, threading.Barrier(2)

    class Watched(Adder):
        def __call__(self, inputs: Arrays) -> Arrays:
            nonlocal inside, most
            inside += 1
            most = max(most, inside)
            threading.Event().wait(0.02)  # lets the other thread in, if anything does
            inside -= 1
            return super().__call__(inputs)

    graph = graph_of({"a": Watched("x")}, Clock())

    def work(memory: Memory) -> None:
        entered.wait()
        graph.run("a", {"x": Value(1, array(1.0))}, memory)

    threads = [threading.Thread(target=work, args=(Memory({}),)) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1


def test_close_waits_for_the_runs_that_the_engine_is_at() -> None:
    inside, proceed = threading.Event(), threading.Event()
    open_at_the_end: list[bool] = []

    class Slow(Adder):
        def __call__(self, inputs: Arrays) -> Arrays:
            inside.set()
            proceed.wait(5.0)
            open_at_the_end.append(not engine.closed)
            return super().__call__(inputs)

    engine = Functions({"a": Adder("x"), "b": Slow("x")})
    graph = Graph(Host(engine), Clock())
    run = threading.Thread(target=lambda: graph.run("b", {"x": Value(1, array(1.0))}, Memory({})))
    run.start()
    inside.wait(5.0)
    close = threading.Thread(target=graph.close)
    close.start()
    close.join(0.05)
    proceed.set()
    run.join()
    close.join()
    assert open_at_the_end == [True] and engine.closed
    with pytest.raises(SessionError, match="closed"):
        graph.run("a", {"x": Value(1, array(1.0))}, Memory({}))


def test_a_stage_with_state_is_run_every_time_and_nothing_is_cached() -> None:
    adder = Adder("frame")
    graph, memory = graph_of({"step": adder}, Clock()), Memory({})
    for turn in (1, 2):
        assert graph.run_state("step", {"frame": array(3.0)}, memory)["sum"].tolist() == [3.0]
        assert (adder.runs, memory.runs, memory.times_ns) == (turn, {"step": turn}, {"step": 10 * turn})
    graph.run("step", {"frame": Value("a frame", array(3.0))}, memory)
    assert adder.runs == 3
    adder.fails = True
    with pytest.raises(EngineError):
        graph.run_state("step", {"frame": array(3.0)}, memory)
    assert memory.runs == {"step": 3}


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_a_run_that_was_not_finite_raises_there_and_is_not_cached(bad: float) -> None:
    adder = Adder("a")
    graph, memory, value = graph_of({"add": adder}, Clock()), Memory({"add": 4}), Value("v", array(3.0))
    adder.weight = bad
    with pytest.raises(NonFiniteError, match=r"stage 'add', output 'sum'.*NaN or infinity"):
        graph.run("add", {"a": value}, memory)
    with pytest.raises(NonFiniteError, match="stage 'add', output 'sum'"):
        graph.run_state("add", {"a": array(3.0)}, memory)
    adder.weight = 2.0
    for _ in range(2):
        assert graph.run("add", {"a": value}, memory)["sum"].array.tolist() == [6.0]
    assert adder.runs == memory.runs["add"] == 3


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_input_that_is_not_finite_is_refused_before_the_stage_runs(bad: float) -> None:
    adder = Adder("a")
    graph, memory = graph_of({"add": adder}, Clock()), Memory({"add": 4})
    with pytest.raises(NonFiniteError, match=r"stage 'add', input 'a'"):
        graph.run("add", {"a": Value("v", array(bad))}, memory)
    assert adder.runs == 0


@given(st.lists(st.tuples(st.sampled_from(["f2", "f4", "f8", "i8"]), st.integers(0, 40)), max_size=6), st.data())
def test_arrays_are_finite_exactly_where_every_number_is(shapes: list[tuple[str, int]], data: st.DataObject) -> None:
    arrays = []
    for kind, size in shapes:
        top = 3e38 if kind in ("f4", "f8") else 6e4
        values = np.full(size, data.draw(st.sampled_from([0.0, 1.0, top, -top])), kind)
        if size and kind != "i8" and data.draw(st.booleans()):
            values[data.draw(st.integers(0, size - 1))] = data.draw(st.sampled_from([np.nan, np.inf, -np.inf, 1.0]))
        arrays.append(values)
    assert all_finite(arrays) == all(np.isfinite(array).all() for array in arrays)
