"""The denoise driver: reads an observation once, steps from noise to a chunk, and refuses wirings that cannot work."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from support import tiny
from support.functions import graph_of

from edgevlm.drivers import DenoiseDriver
from edgevlm.drivers.denoise import noise, times
from edgevlm.engines import Arrays
from edgevlm.errors import BundleError
from edgevlm.graph import Value
from edgevlm.manifest.schema import FORMAT, DenoiseArgs, FileEntry, Manifest

STEPS, WIDTH = 4, 6
Edit = Callable[[dict[str, Any]], Any]
KEYS = [tiny.port(f"cross_{kind}_0", f"cross_{kind}", 1, 7, 2, 4) for kind in ("key", "value")]
EMBEDDINGS = np.arange(40, dtype=np.float16).reshape(10, 4)


def described() -> dict[str, Any]:
    """The manifest of a made-up bundle."""
    contract = tiny.mono_contract(1).model_copy(update={"plan": None})
    mask = tiny.port("mask", "mask", 1, 6)
    features, chunk = tiny.port("front", "features", 1, 3, 4), (1, 5, 8)
    words = [tiny.port("embeds", "embeds", 1, 6, 4), mask, tiny.port("state", "state", 1, 3)]
    step = [tiny.port("sample", "sample", *chunk), tiny.port("time", "time", 1, WIDTH), mask, *KEYS]
    stages = {
        "vision": tiny.vision("vision", 12, 16, (1, 3, 4)),
        "prefix": tiny.stage("prefix", [features, *words], KEYS),
        "denoise": tiny.stage("denoise", step, [tiny.port("velocity", "velocity", *chunk)]),
    }
    args = {
        **{"vision": {"front": "vision"}, "embeddings": "embeddings.npy", "prefix": "prefix", "step": "denoise"},
        **{"steps": STEPS, "periods": [0.004, 4.0], "seed": 7},
    }
    paths = ["tokenizer.json", "embeddings.npy", *(f"stages/{name}.onnx" for name in stages)]
    return {
        **{"format": FORMAT, "family": "made_up", "task": "policy", "precision": "fp32", "source_sha256": "0" * 64},
        "driver": {"name": "denoise", "args": args},
        "stages": {name: stage.model_dump(mode="json") for name, stage in stages.items()},
        "preprocess": {"front": [tiny.NORMALIZE.model_dump(mode="json")]},
        "tokenizer": "tokenizer.json",
        "contract": contract.model_dump(mode="json"),
        "files": {path: FileEntry(sha256="0" * 64, bytes=1).model_dump() for path in paths},
    }


def velocity(inputs: Arrays) -> Arrays:
    """Depends on everything that a step is told."""
    reported = inputs["time"].sum() + inputs["mask"].sum() + inputs["cross_key_0"].sum()
    return {"velocity": (inputs["sample"] * 0.5 + reported).astype(np.float32)}


def prefix(inputs: Arrays) -> Arrays:
    total = sum(float(value.sum()) for value in inputs.values())
    return {port.name: np.full(port.shape, total / 100, np.float32) for port in KEYS}


def vision(inputs: Arrays) -> Arrays:
    return {"features": np.full((1, 3, 4), inputs["pixels"].mean(), np.float32)}


def driver(edit: Edit = lambda data: None, embeddings: NDArray[Any] = EMBEDDINGS) -> DenoiseDriver:
    data = described()
    edit(data)
    graph = graph_of({"vision": vision, "prefix": prefix, "denoise": velocity})
    manifest = Manifest.build(**data)
    return DenoiseDriver(manifest.driver.args, manifest, graph, embeddings)


def observed(version: int = 0) -> tuple[dict[str, list[Value | None]], tuple[Value, Value], Value]:
    ids, mask = np.array([[1, 2, 3, 0, 0, 0]]), np.array([[1, 1, 1, 0, 0, 0]], np.float32)
    pixels = Value(("front", 1), np.ones((1, 3, 12, 16), np.float32))
    state = Value(("state", version), np.full((1, 3), version, np.float32))
    return {"front": [pixels]}, (Value("ids", ids), Value("mask", mask)), state


def test_a_chunk_is_noise_moved_along_the_velocity_in_steps() -> None:
    opened = driver()
    memory = opened.memory()
    chunk = opened.run(*observed(), memory, 3)["chunk"].array
    rows = EMBEDDINGS[[1, 2, 3, 0, 0, 0]].astype(np.float32)
    total = (12.0 + rows.sum() + 3.0) / 100
    sample = np.random.RandomState([7, 3]).standard_normal((1, 5, 8)).astype(np.float32)
    for step in range(STEPS):
        time = np.float64(np.float32(1 - step / STEPS))
        angles = time * 2 * np.pi / (0.004 * 1000.0 ** np.array([0.0, 0.5, 1.0]))
        reported = np.concatenate([np.sin(angles), np.cos(angles)]).astype(np.float32).sum() + 3.0 + 56 * total
        sample = sample - (sample * 0.5 + reported) / STEPS
    assert chunk.shape == (1, 5, 3)
    np.testing.assert_allclose(chunk, sample[:, :, :3], rtol=1e-5, atol=1e-5)
    assert memory.runs == {"vision": 1, "prefix": 1, "denoise": STEPS}


def test_what_was_read_is_not_read_again() -> None:
    opened = driver()
    memory = opened.memory()
    first = opened.run(*observed(), memory, 0)["chunk"].array
    again = opened.run(*observed(), memory, 0)["chunk"].array
    other = opened.run(*observed(), memory, 1)["chunk"].array
    assert memory.runs == {"vision": 1, "prefix": 1, "denoise": 3 * STEPS}
    assert np.array_equal(first, again) and not np.allclose(first, other)
    opened.run(*observed(version=1), memory, 2)
    assert memory.runs["prefix"] == 2 and opened.encodes(memory) == 1


def test_noise_is_the_same_everywhere() -> None:
    """From NumPy's legacy generator, whose numbers are frozen."""
    result = noise(0, 0, (1, 2, 3)).ravel()
    np.testing.assert_array_equal(result, np.random.RandomState([0, 0]).standard_normal(6).astype(np.float32))
    assert not np.array_equal(result, noise(0, 1, (6,))) and not np.array_equal(result, noise(1, 0, (6,)))


def test_times_run_from_one_to_the_last_step() -> None:
    args = DenoiseArgs.model_validate(described()["driver"]["args"])
    reported = times(args, 4)
    angles = np.array([1.0, 0.75, 0.5, 0.25])[:, None] * 2 * np.pi / np.array([0.004, 4.0])
    np.testing.assert_allclose(reported[:, 0], np.concatenate([np.sin(angles), np.cos(angles)], 1), atol=1e-6)


def ports(data: dict[str, Any], stage: str, side: str = "inputs") -> list[dict[str, Any]]:
    result: list[dict[str, Any]] = data["stages"][stage][side]
    return result


def no_state(data: dict[str, Any]) -> None:
    data["contract"]["state"] = None


WRONG: dict[str, tuple[str, Edit]] = {
    "two inputs of vision": ("pixels as its one input", lambda d: ports(d, "vision").append(ports(d, "prefix")[1])),
    "no words": ("one input of the kind 'embeds'", lambda d: ports(d, "prefix").pop(1)),
    "no mask in the steps": ("one input of the kind 'mask'", lambda d: ports(d, "denoise").pop(2)),
    "no camera": ("features of every camera", lambda d: ports(d, "prefix").pop(0)),
    "features of another size": ("features of every camera", lambda d: ports(d, "prefix")[0].update(shape=[1, 2, 4])),
    "an input from nowhere": (
        "features of every camera",
        lambda d: ports(d, "prefix").append({**ports(d, "prefix")[2], "name": "x", "kind": "positions"}),
    ),
    "a key too few": ("outputs of prefix", lambda d: ports(d, "denoise").pop()),
    "keys of another shape": ("outputs of prefix", lambda d: ports(d, "denoise")[3].update(shape=[1, 7, 2, 2])),
    "another chunk": ("sample of the contract's chunk", lambda d: d["contract"]["action"].update(steps=4)),
    "fewer columns": ("sample of the contract's chunk", lambda d: ports(d, "denoise")[0].update(shape=[1, 5, 2])),
    "another velocity": (
        "velocity for the sample",
        lambda d: ports(d, "denoise", "outputs")[0].update(shape=[1, 5, 7]),
    ),
    "an odd time": ("time of even width", lambda d: ports(d, "denoise")[1].update(shape=[1, 5])),
    "a window": ("newest frame alone", lambda d: d["contract"]["window"].update(offsets_s=[-0.1, 0.0])),
    "masked frames": ("newest frame alone", lambda d: d["contract"]["window"].update(pad="mask")),
    "no state": ("expected a state", no_state),
}


@pytest.mark.parametrize("name", sorted(WRONG))
def test_refuses_a_wiring_that_cannot_work(name: str) -> None:
    message, edit = WRONG[name]
    with pytest.raises(BundleError, match=f"{message}.*export the bundle again"):
        driver(edit)


@pytest.mark.parametrize("rows", [np.zeros((10, 3), np.float32), np.zeros((10, 4)), np.zeros(40, np.float32)])
def test_refuses_rows_that_are_no_words_of_this_model(rows: NDArray[Any]) -> None:
    with pytest.raises(BundleError, match=r"embeddings\.npy: expected float32 or float16 \(V, 4\)"):
        driver(embeddings=rows)
