"""A checkpoint is opened once: edgevlm reads each of its small files a single time, whatever asks for it."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support import captioners, chats, film, hub, owls, pairs
from support import lerobot_policies as policies

from edgevlm.errors import CheckpointError
from edgevlm_export.checkpoint import CONFIG, DESCRIBING, TOKENIZER, WEIGHTS, Checkpoint
from edgevlm_export.families import prepare

MAKERS: dict[str, Callable[[Path], Path]] = {
    "clip": hub.clip,
    "siglip": hub.siglip,
    "llava": chats.llava,
    "smolvlm": chats.smolvlm,
    "blip": captioners.blip,
    "owlvit": owls.owlvit,
    "visual_bert": pairs.visual_bert,
    "film_policy": film.write_checkpoint,
    "act": policies.write_policy,
    "smolvla": lambda path: policies.write_policy(path, "smolvla"),
}
SMALL = {*DESCRIBING, "policy_preprocessor.json", "policy_postprocessor.json"}
_watching: list[tuple[Path, Counter[str]]] = []


def watch(event: str, arguments: tuple[Any, ...]) -> None:
    """Count what a module of edgevlm opens in the watched directory; libraries read for themselves."""
    if event != "open" or not _watching or not isinstance(arguments[0], str | Path):
        return
    folder, opened = _watching[-1]
    path, frame = Path(arguments[0]), sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(("pathlib", "io")):
        frame = frame.f_back
    if path.is_relative_to(folder) and frame.f_globals.get("__name__", "").startswith("edgevlm"):
        opened[path.relative_to(folder).as_posix()] += 1


sys.addaudithook(watch)


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Counter[str]]:
    _watching.append((tmp_path / "checkpoint", Counter()))
    yield _watching[-1][1]
    _watching.pop()


@pytest.mark.parametrize("family", MAKERS)
def test_every_small_file_is_read_once(family: str, tmp_path: Path, opened: Counter[str]) -> None:
    folder = MAKERS[family](tmp_path / "checkpoint")
    robot = policies.write_robot(tmp_path / "robot.yaml", case=family) if family in ("act", "smolvla") else None
    opened.clear()
    prepare(Checkpoint(folder), robot=robot).load()
    counts = {name: count for name, count in opened.items() if Path(name).name in SMALL}
    assert counts[CONFIG] == 1
    assert set(counts.values()) == {1}, counts
    assert opened[WEIGHTS] == 2  # its header, before anything is loaded, and all of it for its hash


def test_what_was_read_is_what_is_hashed(tmp_path: Path) -> None:
    folder = film.write_checkpoint(tmp_path / "checkpoint")
    before, first = Checkpoint(folder).sha256((CONFIG, TOKENIZER)), Checkpoint(folder)
    assert first.config["model"]
    (folder / CONFIG).write_text("{}")
    assert first.sha256((CONFIG, TOKENIZER)) == before
    assert Checkpoint(folder).sha256((CONFIG, TOKENIZER)) != before


def test_only_the_weights_that_are_asked_for_are_read(tmp_path: Path) -> None:
    checkpoint = Checkpoint(policies.write_policy(tmp_path / "policy", "act", old=True))
    some = checkpoint.weights(lambda name: name.startswith("normalize_inputs"))
    assert some and all(name.startswith("normalize_inputs") for name in some)
    assert set(some) < set(checkpoint.weights()) == set(checkpoint.tensors)


@pytest.mark.parametrize("content", ["[]", "{", "[" * 100_000])
def test_a_file_that_is_no_object_is_refused_by_name(content: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(content)
    with pytest.raises(CheckpointError, match=CONFIG):
        assert Checkpoint(tmp_path).config
    assert Checkpoint(tmp_path).json("processor_config.json") == {}
