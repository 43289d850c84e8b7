"""Bundles as an enemy or a broken disk would make them: changed files under hashes that fit, links, pipes, lies."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from support import tiny
from support.protobuf import field, model, node, tensor

import edgevlm
from edgevlm.errors import EdgevlmError
from edgevlm.options import RuntimeOptions

_OPTIONS = RuntimeOptions(intra_threads=1, run_limit_s=5.0)
_OBSERVATION = tiny.observation(tiny.mono_contract(), 0)
_STRANGE: tuple[Any, ...] = (
    *(None, True, -1, 0, 1 << 20, 1 << 40, 1 << 80, 1e308, -0.0, "", "x", "\x1b[2J", "../x", "a" * 5000),
    *([], {}, [[]], {"": 0}, ["x"] * 300),
)


class Bundles:
    """Changes a small policy's bundle in one to three ways, makes its hashes right again, and opens and asks it.

    What opens must act as the file lists it: another file beside it, or one that is changed afterwards, changes nothing
    that bears the same sha256.
    """

    name, unit, limit_s, memory_mb = "bundles", "bundles", 30.0, 3072

    def one(self, seed: int, directory: Path) -> str:
        rng = random.Random(seed)
        root = tiny.mono(directory / "bundle")
        plain = _act(root)
        sha256 = (root / "manifest.sha256").read_text()
        for change in sorted(rng.choices(_CHANGES, k=rng.randint(1, 3)), key=_CHANGES.index):
            change(rng, root, directory)
        try:
            changed = _act(root)
        except EdgevlmError as error:
            text = str(error)
            assert "\x1b" not in text, f"a control character reaches the terminal: {text!r}"
            assert len(text) < 5000, f"a refusal of {len(text)} characters"
            return f"refused {type(error).__name__}"
        if (root / "manifest.sha256").read_text() == sha256:
            assert np.array_equal(plain, changed), f"one sha256, two models: {plain} and {changed}"
            return "unchanged"
        return "acted"


def _act(root: Path) -> Any:
    with edgevlm.load_policy(root, _OPTIONS) as policy:
        policy.bundle.records()
        return policy.session().act(_OBSERVATION).values


def _manifest(rng: random.Random, root: Path, directory: Path) -> None:
    """Another value at a random place of the manifest."""
    text = (root / "manifest.json").read_text()
    data = json.loads(text)
    at, key = data, rng.choice(list(data))
    while isinstance(at[key], dict | list) and at[key] and rng.random() < 0.8:
        at = at[key]
        key = rng.choice(list(at)) if isinstance(at, dict) else rng.randrange(len(at))
    old = at[key]
    at[key] = rng.choice([*_STRANGE, old * rng.choice([-1, 2, 1000]) if isinstance(old, int | float) else old])
    tiny.rewrite(root, lambda fresh: (fresh.clear(), fresh.update(data)))


def _bytes(rng: random.Random, root: Path, directory: Path) -> None:
    """Random bytes of a listed file change, under a hash that fits or not."""
    relative = rng.choice(_files(root))
    content = bytearray((root / relative).read_bytes())
    for _ in range(rng.randint(1, 8)):
        content[rng.randrange(len(content))] = rng.randrange(256)
    if rng.random() < 0.3:
        content = content[: rng.randrange(len(content))]
    if rng.random() < 0.8:
        tiny.refile(root, relative, bytes(content))
    else:
        (root / relative).write_bytes(content)


def _foreign(rng: random.Random, root: Path, directory: Path) -> None:
    """Something that no manifest lists: a file, a folder, a pipe, a link, a socket's worth of nothing."""
    place = root / rng.choice(["", "stages", "records", "deep/er"]) / rng.choice(["w.bin", ".x", "x.json", "a\x1bb"])
    place.parent.mkdir(parents=True, exist_ok=True)
    kind = rng.randrange(5)
    if place.exists() or place.is_symlink():
        return
    if kind == 0:
        place.write_bytes(rng.randbytes(rng.randrange(100)))
    elif kind == 1:
        place.mkdir()
    elif kind == 2:
        os.mkfifo(place)
    elif kind == 3:
        place.symlink_to(rng.choice(["/dev/zero", "/proc/self/environ", "..", "loop", "tokenizer.json"]))
    else:
        with place.open("wb") as stream:
            stream.truncate(1 << 40)


def _replaced(rng: random.Random, root: Path, directory: Path) -> None:
    """A listed file becomes a link, a pipe, a folder or a hole of many terabytes."""
    relative = rng.choice([*_files(root), "manifest.json", "manifest.sha256"])
    path = root / relative
    if not path.is_file():
        return
    outside = directory / "outside"
    outside.mkdir(exist_ok=True)
    kind = rng.randrange(4)
    if kind == 3:
        with path.open("r+b") as stream:
            stream.truncate(1 << 40)
        return
    moved = path.rename(outside / str(rng.random()))
    if kind == 0:
        path.symlink_to(moved)
    elif kind == 1:
        os.mkfifo(path)
    else:
        path.mkdir()


def _graph(rng: random.Random, root: Path, directory: Path) -> None:
    """A stage written anew: control flow, weights elsewhere, constants that grow, operators that nobody has."""
    grow = [node("Concat", ("c0", "c0"), ("c1",), field(1, "axis") + field(3, 0) + field(20, 2))]
    grow += [
        node("Concat", (f"c{i}",) * 2, (f"c{i + 1}",), field(1, "axis") + field(3, 0) + field(20, 2))
        for i in range(1, 40)
    ]
    choices = [
        model(node(rng.choice(["Loop", "If", "Scan", "SequenceMap"]), ("pixels",), ("features",))),
        model(
            node("Relu", ("pixels",), ("features",)), initializers=(tensor("w", (9,), external=rng.choice(_PLACES)),)
        ),
        model(*grow, initializers=(tensor("c0", (1024,), raw=bytes(4096)),)),
        model(node("ConstantOfShape", ("s",), ("features",)), initializers=(tensor("s", (1 << 40,)),)),
        model(node("Foo", ("pixels",), ("features",), domain=rng.choice(["", "com.microsoft", "x"]))),
        model(node("Relu", ("pixels",), ("features",)), more=field(25, field(1, "f"))),
        rng.randbytes(rng.randrange(200)),
    ]
    tiny.refile(root, rng.choice([path for path in _files(root) if path.endswith(".onnx")]), rng.choice(choices))


def _tokenizer(rng: random.Random, root: Path, directory: Path) -> None:
    """A tokenizer whose parts grow, search without an end or are none."""
    path = root / "tokenizer.json"
    if not path.is_file():
        return
    try:
        described = json.loads(path.read_text())
    except ValueError:
        return
    if not isinstance(described, dict):
        return
    replace = {
        "type": "Replace",
        "pattern": rng.choice([{"String": "a"}, {"Regex": "(a|a)*$"}, {"Regex": "a?" * 20 + "a" * 20}, {"String": ""}]),
        "content": rng.choice(["", "aa", "a" * 10_000]),
    }
    kind = rng.choice(["normalizer", "pre_tokenizer", "decoder", "post_processor", "model", "added_tokens", "padding"])
    sequence = {"type": "Sequence", "normalizers": [replace] * rng.randint(1, 70), "pretokenizers": [replace]}
    described[kind] = rng.choice([replace, sequence, None, [], 7, {"type": "Nmt"}, {"type": "Sequence"}])
    tiny.refile(root, "tokenizer.json", json.dumps(described).encode())


def _files(root: Path) -> list[str]:
    return sorted(
        path.relative_to(root).as_posix()
        for path in root.rglob("*")
        if path.is_file()
        and path.suffix in (".onnx", ".json")
        and "records" not in path.parts
        and path.name != "manifest.json"
        and path.stat().st_size in range(1, 1 << 20)
    )


_PLACES = ("w.bin", "../tokenizer.json", "/etc/passwd", "*/_ORT_MEM_ADDR_/*", "stages/head.onnx", "", "head.onnx")
_CHANGES: tuple[Callable[[random.Random, Path, Path], None], ...] = (
    # The last ones leave what the others could not read.
    *(_tokenizer, _graph, _bytes, _manifest, _foreign, _replaced),
)
