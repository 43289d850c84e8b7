"""Broken config.json and picture settings of every family: a typed error that names the field."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import captioners, hub, owls, pairs

from edgevlm.errors import CheckpointError, EdgevlmError, FamilyError
from edgevlm_export.families import build

MAKERS: dict[str, Callable[[Path], Path]] = {
    "clip": hub.clip,
    "siglip": hub.siglip,
    "owlvit": owls.owlvit,
    "owlv2": owls.owlv2,
    "blip_matching": captioners.blip_matching,
    "visual_bert": pairs.visual_bert,
}
CHATS = ("llava", "smolvlm", "paligemma", "blip", "blip_vqa", "blip2")
TOWERS = tuple(name for name in (*MAKERS, *CHATS) if name != "visual_bert")
IMAGES = ("preprocessor_config.json", "processor_config.json")
Copy = Callable[[str], Path]


@pytest.fixture(scope="module")
def source(chat_checkpoint: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Copy:
    created: dict[str, Path] = {}

    def get(name: str) -> Path:
        if name in CHATS:
            return chat_checkpoint(name)
        if name not in created:
            created[name] = MAKERS[name](tmp_path_factory.mktemp(name) / "checkpoint")
        return created[name]

    return get


@pytest.fixture
def copy(source: Copy, tmp_path: Path) -> Copy:
    return lambda name: Path(shutil.copytree(source(name), tmp_path / "copy"))


def edit(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    data = json.loads(path.read_text())
    change(data)
    path.write_text(json.dumps(data))


def refused(folder: Path, message: str, error: type[EdgevlmError] = EdgevlmError) -> None:
    with pytest.raises(error, match=message):
        build(folder)


@pytest.mark.parametrize("setting", [[["x"]], {"a": 1}, 3, "BlipModel", [None], []])
@pytest.mark.parametrize("family", [*MAKERS, *CHATS])
def test_architectures_that_are_no_list_of_names(family: str, setting: Any, copy: Copy) -> None:
    folder = copy(family)
    edit(folder / "config.json", lambda data: data.update(architectures=setting))
    if setting == [] and family not in ("blip", "blip_vqa", "blip_matching", "visual_bert"):
        assert build(folder).stages  # nothing stated is the whole model, where one name stands for one model
    else:
        refused(folder, "'architectures'")


@pytest.mark.parametrize("family", [*MAKERS, *CHATS])
def test_a_second_architecture(family: str, copy: Copy) -> None:
    folder = copy(family)
    edit(folder / "config.json", lambda data: data["architectures"].append("X"))
    refused(folder, "'architectures'", FamilyError)


@pytest.mark.parametrize("tower", ["vision_config", "text_config"])
@pytest.mark.parametrize("setting", ["tower", [1]])
@pytest.mark.parametrize("family", TOWERS)
def test_a_tower_that_is_no_object(family: str, setting: Any, tower: str, copy: Copy) -> None:
    folder = copy(family)
    edit(folder / "config.json", lambda data: data.update({tower: setting}))
    refused(folder, f"'{tower}': expected an object", CheckpointError)


@pytest.mark.parametrize("setting", [0, "8", [8, 8], True])
@pytest.mark.parametrize("field", ["patch_size", "image_size"])
@pytest.mark.parametrize("family", TOWERS)
def test_a_size_that_is_none(family: str, field: str, setting: Any, copy: Copy) -> None:
    folder = copy(family)
    edit(folder / "config.json", lambda data: data["vision_config"].update({field: setting}))
    refused(folder, rf"'vision_config\.{field}': expected a whole number above 0", FamilyError)


def test_a_width_of_a_model_of_one_part_that_is_none(copy: Copy) -> None:
    folder = copy("visual_bert")
    edit(folder / "config.json", lambda data: data.update(num_attention_heads=0))
    refused(folder, "'num_attention_heads': expected a whole number above 0", FamilyError)


@pytest.mark.parametrize(
    ("field", "setting"),
    [
        *(("rescale_factor", value) for value in (None, "1/255", [1.0], float("nan"))),
        *(("image_mean", value) for value in (0.5, [0.5, 0.5], ["a", "b", "c"], [0.5, 0.5, None])),
        *(("image_std", value) for value in (0.5, [0.5, 0.5], [0.5, 0.0, 0.5])),
    ],
)
@pytest.mark.parametrize("family", ["clip", "owlv2", "blip2"])
def test_a_picture_setting_that_is_none(family: str, field: str, setting: Any, copy: Copy) -> None:
    folder = copy(family)
    path = next(folder / name for name in IMAGES if (folder / name).is_file())
    edit(path, lambda data: data.get("image_processor", data).update({field: setting}))
    refused(folder, field)


@pytest.mark.parametrize(
    "setting", [None, [1], {"height": -1, "width": 32}, {"height": "x", "width": 32}, {"height": [1], "width": 32}]
)
@pytest.mark.parametrize(("family", "field"), [("clip", "crop_size"), ("owlv2", "size"), ("blip2", "size")])
def test_a_size_of_a_picture_that_is_none(family: str, field: str, setting: Any, copy: Copy) -> None:
    folder = copy(family)
    path = next(folder / name for name in IMAGES if (folder / name).is_file())
    edit(path, lambda data: data.get("image_processor", data).update({field: setting}))
    refused(folder, f"{field}|transformers cannot read it")


@pytest.mark.parametrize("setting", ["x", [1], 3])
def test_image_settings_that_are_no_object(setting: Any, copy: Copy) -> None:
    folder = copy("blip2")
    edit(folder / "processor_config.json", lambda data: data.update(image_processor=setting))
    refused(folder, "'image_processor'", CheckpointError)
