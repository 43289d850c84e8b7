"""The blocks of README and docs/families.md run as they stand there, on small checkpoints under the same names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support import captioners, chats, hub, owls, pairs
from support.blocks import blocks
from support.blocks import commands as fenced
from typer.testing import CliRunner

import edgevlm
from edgevlm.cli.app import app

CHECKPOINTS = {
    "clip-vit-base-patch32": hub.clip,
    "SmolVLM-256M-Instruct": chats.smolvlm,
    "owlv2-base-patch16": owls.owlv2,
    "owlv2-base": owls.owlv2,
    "blip-itm-base-coco": captioners.blip_matching,
    "visualbert-vqa": pairs.visual_bert,
}
QUESTIONS = (
    *(
        "is the cup on the table?",
        "what is red?",
        "where does the blue ball lie",
        "how many drawers are open",
        "push it",
    ),
    *(
        "which of the two blocks is larger?",
        "a metal surface",
        "does anybody stand near the robot?",
        "who",
        "left or right",
    ),
)
PAGES = ("README.md", "docs/families.md")
FAMILIES = re.compile(r"clip|smolvlm|owl|blip|vqa", re.IGNORECASE)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory, photos: Path) -> Path:
    """A folder in which the names of the pages mean something."""
    place = tmp_path_factory.mktemp("readme")
    for name, make in CHECKPOINTS.items():
        make(place / name)
    config = (
        place / "SmolVLM-256M-Instruct" / "config.json"
    )  # positions are computed, not weights: more of them is no more
    config.write_text(config.read_text().replace('"max_position_embeddings": 512', '"max_position_embeddings": 8192'))
    shutil.copytree(photos, place / "photos")
    for name in ("kitchen.jpg", "kitchen.png", "hall.jpg"):
        Image.open(hub.photographs()[0]).convert("RGB").resize((320, 240)).save(place / name)
    pairs.regions_folder(place / "regions")
    np.save(place / "kitchen.npy", pairs.regions())
    (place / "questions.txt").write_text("\n".join(QUESTIONS))
    return place


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_the_commands_of_a_page_run_in_their_order(place: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.chdir(place)
    ran = [
        command.words[1:]
        for command in fenced()
        if command.block.page == page and command.words[0] == "edgevlm" and FAMILIES.search(" ".join(command.words))
    ]
    assert {words[0] for words in ran} == {"export", "run"} and len(ran) >= 6
    for words in ran:
        done = CliRunner().invoke(app, list(words), input="what is this?\n" if "--chat" in words else None)
        assert done.exit_code == 0, f"edgevlm {' '.join(words)}: {done.output} {done.exception}"
        assert done.output.strip()


@pytest.mark.slow
@pytest.mark.parametrize("page", PAGES)
def test_its_python_runs_on_their_output(place: Path, monkeypatch: pytest.MonkeyPatch, page: str) -> None:
    monkeypatch.chdir(place)
    picture = np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)
    python = [block for block in blocks("python") if block.page == page]
    assert python
    names = {"edgevlm": edgevlm, "image_hwc_u8": picture, "frame_hwc_u8": picture, "features": np.load("kitchen.npy")}
    for block in python:
        exec(compile(block.text, str(block), "exec"), names)  # noqa: S102
