"""What can be refused without the weights is refused before they are loaded, and defaults hold what people ask."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from PIL import Image
from support import captioners, chats, film, hub, owls, pairs
from support import lerobot_policies as policies
from support.film_log import write_log

from edgevlm.errors import CalibrationError, EdgevlmError, FamilyError, LogError, OutputError
from edgevlm_export import exporter
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.exporter import export
from edgevlm_export.families import prepare

LONG = " ".join(f"word{i} and thing{i}" for i in range(60))
SHORT = "".join(f"a photo of thing {i}\n" for i in range(8))
LIMIT_S = 20.0  # steady; a refusal takes two seconds alone, most of them imports


class Loaded(AssertionError):
    """A model was made, or its weights were read."""


@pytest.fixture(autouse=True)
def nothing_is_loaded(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Checkpoints are written first; from then on no torch model may be made and no stage traced."""

    def refuse(*args: Any, **more: Any) -> Any:
        raise Loaded("the weights were loaded")

    request.getfixturevalue("sources")
    request.getfixturevalue("photos")
    monkeypatch.setattr(transformers.PreTrainedModel, "from_pretrained", refuse)
    monkeypatch.setattr(torch.nn.Module, "load_state_dict", refuse)
    monkeypatch.setattr(exporter, "trace", refuse)


@pytest.fixture(scope="module")
def sources(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("sources")
    created: dict[str, Callable[[Path], Path]] = {
        "clip": hub.clip,
        "siglip": hub.siglip,
        "owlvit": owls.owlvit,
        "visual_bert": pairs.visual_bert,
        "blip_matching": captioners.blip_matching,
        "llava": chats.llava,
        "smolvlm": chats.smolvlm,
        "paligemma": chats.paligemma,
        "film": film.write_checkpoint,
        "act": policies.write_policy,
    }
    result = {name: maker(root / name) for name, maker in created.items()}
    result["robot"] = policies.write_robot(root / "robot.yaml")
    result["log"] = write_log(root / "log.mcap", film.contract("front"))
    result["long"], result["short"] = root / "long.txt", root / "short.txt"
    result["long"].write_text(SHORT + LONG + "\n")
    result["short"].write_text(SHORT)
    return result


def refused(source: Path, work: Path, error: type[EdgevlmError], message: str, **more: Any) -> None:
    begin = time.monotonic()
    with pytest.raises(error, match=message):
        export(source, work / "bundle", **more)
    assert time.monotonic() - begin < LIMIT_S
    assert not [path.name for path in work.iterdir() if path.name.startswith("bundle")]


@pytest.mark.parametrize("family", ["clip", "siglip", "owlvit", "visual_bert"])
def test_a_text_that_is_too_long_is_named_with_its_tokens(
    family: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    refused(
        sources[family],
        tmp_path,
        CalibrationError,
        r"long\.txt: expected texts of at most \d+ tokens, got \d+ for 'word0",
        texts=sources["long"],
    )


@pytest.mark.parametrize("family", ["llava", "smolvlm", "paligemma"])
def test_a_picture_and_a_question_that_do_not_fit_are_named(
    family: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    refused(
        sources[family],
        tmp_path,
        FamilyError,
        "with the text 'word0.*or raise --context",
        texts=sources["long"],
        context=128,
    )


@pytest.mark.parametrize("family", ["clip", "owlvit", "llava", "blip_matching"])
def test_too_few_pictures_are_counted(family: str, sources: dict[str, Path], tmp_path: Path) -> None:
    folder = tmp_path / "pictures"
    folder.mkdir()
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "one.png")
    refused(
        sources[family],
        tmp_path,
        CalibrationError,
        "at least 6 pictures, found 1",
        calibration=folder,
        precision="int8",
    )


@pytest.mark.parametrize("family", ["clip", "llava"])
def test_too_small_samples_are_refused(family: str, sources: dict[str, Path], photos: Path, tmp_path: Path) -> None:
    refused(
        sources[family],
        tmp_path,
        CalibrationError,
        "--samples: expected at least 6, got 2",
        calibration=photos,
        samples=2,
    )


def test_a_policy_counts_its_samples(sources: dict[str, Path], tmp_path: Path) -> None:
    more = {"calibration": sources["log"], "precision": "int8"}
    refused(sources["film"], tmp_path, CalibrationError, "at least 16 steps.*3 asked for", samples=3, **more)


@pytest.mark.parametrize("family", ["film", "act"])
def test_a_recording_without_the_topics_is_refused(family: str, sources: dict[str, Path], tmp_path: Path) -> None:
    topics = tmp_path / "topics.yaml"
    topics.write_text("cameras: {front: /nowhere, top: /nowhere, wrist: /nowhere}\n")
    more = {"robot": sources["robot"]} if family == "act" else {}
    refused(sources[family], tmp_path, EdgevlmError, "nowhere|top", calibration=sources["log"], topics=topics, **more)


@pytest.mark.parametrize(
    ("family", "more", "message"),
    [
        ("clip", {"topics": "short"}, "--topics and --stamps belong to a robot's recording"),
        ("visual_bert", {"topics": "short"}, "--topics and --stamps belong to a robot's recording"),
        ("film", {"texts": "short"}, "--texts belongs to a model of pictures and texts"),
        ("film", {"topics": "short"}, "--topics maps the topics of a recording, got none"),
    ],
)
def test_options_of_another_task_are_refused(
    family: str, more: dict[str, str], message: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    refused(sources[family], tmp_path, CalibrationError, message, **{key: sources[name] for key, name in more.items()})


def test_a_recording_that_is_none_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    refused(sources["film"], tmp_path, LogError, "short", calibration=sources["short"])


def test_a_place_that_is_taken_is_refused(sources: dict[str, Path], tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(OutputError):
        export(sources["clip"], tmp_path / "taken")


@pytest.mark.parametrize("family", ["llava", "smolvlm"])
def test_a_context_without_room_for_a_picture_and_an_answer_is_refused(
    family: str, sources: dict[str, Path], tmp_path: Path
) -> None:
    refused(sources[family], tmp_path, FamilyError, "context|prompt|with the text", context=1)


def test_the_guard_sees_a_model(sources: dict[str, Path]) -> None:
    with pytest.raises(Loaded):
        prepare(Checkpoint(sources["clip"])).load()
