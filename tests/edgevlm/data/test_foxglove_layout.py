"""The layout that ships shows fields that the messages have, in panels that exist."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from edgevlm.rosmsg.own_schemas import ACTION_CHUNK, GATE_STATUS, INFERENCE_STATS, PLAN
from edgevlm.rosmsg.schemas import BODIES, JOINT_STATE, PATH

LAYOUT = json.loads((Path(__file__).parents[3] / "docs/foxglove-layout.json").read_text())
TYPES = {
    "action_chunk": ACTION_CHUNK,
    "plan": PLAN,
    "plan_path": PATH,
    "inference_stats": INFERENCE_STATS,
    "gate_status": GATE_STATUS,
    "difference": JOINT_STATE,
}


def leaves(tree: Any) -> Iterator[str]:
    if isinstance(tree, str):
        yield tree
        return
    assert tree["direction"] in ("row", "column") and 0 < tree["splitPercentage"] < 100
    yield from leaves(tree["first"])
    yield from leaves(tree["second"])


def test_every_panel_is_laid_out_once_and_configured() -> None:
    panels = list(leaves(LAYOUT["layout"]))
    for tab in LAYOUT["configById"]["Tab!views"]["tabs"]:
        panels += leaves(tab["layout"])
    assert sorted(panels) == sorted(LAYOUT["configById"])
    kinds = {panel.partition("!")[0] for panel in panels}
    assert kinds == {"Image", "3D", "Plot", "StateTransitions", "Tab"}


def test_every_series_is_a_field_of_what_is_published() -> None:
    series = [path["value"] for panel in LAYOUT["configById"].values() for path in panel.get("paths", ())]
    assert len(series) > 30
    for value in series:
        match = re.fullmatch(r"(?:/[ab])?/(\w+)\.(\w+)(\[\d+\])?", value)
        assert match is not None, value
        field = rf"^[\w/]+{re.escape('[]') if match[3] else ''} {match[2]}$"
        assert re.search(field, BODIES[TYPES[match[1]]], re.MULTILINE), value


def test_the_paths_in_space_are_those_of_the_robot_and_of_a_replay() -> None:
    assert set(LAYOUT["configById"]["3D!plan"]["topics"]) == {"/plan_path", "/a/plan_path", "/b/plan_path"}
