"""The fuse driver refuses, when a bundle is opened, every wiring that would fail or go wrong in a step."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from support import tiny
from support.functions import graph_of

from edgevlm.bundle import open_bundle
from edgevlm.drivers import FuseDriver
from edgevlm.errors import BundleError

Edit = Callable[[dict[str, Any]], Any]


def driver(root: Path) -> FuseDriver:
    manifest = open_bundle(root).manifest
    return FuseDriver(manifest.driver.args, manifest, graph_of({}))


def port(name: str, kind: str = "features") -> dict[str, Any]:
    return {"name": name, "dtype": "float32", "shape": [1, 4], "kind": kind}


def stages(data: dict[str, Any], name: str) -> Any:
    return data["stages"][name]


WRONG: list[tuple[str, str, Edit]] = [
    ("no pixels", "pixels as its one input", lambda d: stages(d, "vision")["inputs"][0].update(kind="features")),
    ("two inputs of vision", "pixels as its one input", lambda d: stages(d, "vision")["inputs"].append(port("x"))),
    (
        "two outputs of vision",
        "one frame as output",
        lambda d: stages(d, "vision")["outputs"].append(port("x")),
    ),
    ("no ids", "one input of the kind 'ids'", lambda d: stages(d, "text")["inputs"][0].update(kind="features")),
    ("no mask", "ids and mask as inputs", lambda d: stages(d, "text")["inputs"].pop()),
    ("more than ids and mask", "ids and mask as inputs, got", lambda d: stages(d, "text")["inputs"].append(port("x"))),
    ("a slot too few", "every slot of the window", lambda d: stages(d, "pool")["inputs"].pop()),
    ("a slot too many", "every slot of the window", lambda d: stages(d, "pool")["inputs"].append(port("front_4"))),
    ("a longer window", "every slot of the window", lambda d: d["contract"]["window"]["offsets_s"].insert(0, -0.5)),
    ("no chunk", "output 'chunk'", lambda d: stages(d, "head")["outputs"].pop(0)),
    ("no waypoints", "output 'waypoints'", lambda d: stages(d, "head")["outputs"].pop(1)),
    ("no logits", "output 'step_logits'", lambda d: stages(d, "head")["outputs"].pop(2)),
    ("another chunk", r"'chunk' of .'N', 4, 3.", lambda d: d["contract"]["action"].update(steps=4)),
    ("an input from nowhere", "'x'", lambda d: stages(d, "head")["inputs"].append(port("x"))),
    ("a name made twice", "inputs made once", lambda d: stages(d, "text")["outputs"][0].update(name="front_pooled")),
    ("two states", "the state", lambda d: stages(d, "head")["inputs"].append(port("more", "state"))),
    (
        "features of an instruction",
        "frame_cache 'frame'",
        lambda d: stages(d, "vision").update(frame_cache="instruction"),
    ),
]


@pytest.mark.parametrize(("message", "edit"), [case[1:] for case in WRONG], ids=[case[0] for case in WRONG])
def test_refuses_a_wiring_that_cannot_work(tmp_path: Path, message: str, edit: Edit) -> None:
    root = tiny.mono(tmp_path / "bundle")
    driver(root)
    tiny.rewrite(root, edit)
    with pytest.raises(BundleError, match=f"stage '.*{message}.*; (export the bundle again|update edgevlm)"):
        driver(root)


def test_refuses_a_head_with_a_state_that_the_contract_does_not_have(tmp_path: Path) -> None:
    root = tiny.duo(tmp_path / "bundle")
    tiny.rewrite(root, lambda data: stages(data, "head")["inputs"].append(port("state", "state")))
    with pytest.raises(BundleError, match="the state of the contract"):
        driver(root)


def test_takes_a_dynamic_batch_and_a_mask_nobody_pads_for(tmp_path: Path) -> None:
    def dynamic(data: dict[str, Any]) -> None:
        for stage in data["stages"].values():
            stage["dynamic"] = {"N": [1, 1, 8]}
            for result in (*stage["inputs"], *stage["outputs"]):
                result["shape"][0] = "N"

    for name, make in (("mono", tiny.mono), ("duo", tiny.duo)):
        root = make(tmp_path / name)
        tiny.rewrite(root, dynamic)
        driver(root)
    driver(tiny.duo(tmp_path / "masked", pad="mask"))
