"""The interfaces as they were released: whoever changes one bumps its schema version and writes the new hash down."""

from __future__ import annotations

import importlib
import json
from pathlib import Path

import pytest

pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from ament_index_python.packages import get_package_share_directory

PACKAGE = Path(__file__).parents[2] / "ros2_ws/src/edgevlm_msgs"
RELEASED = json.loads((PACKAGE / "interfaces.json").read_text())
SOURCES = sorted(path for kind in ("msg", "srv", "action") for path in (PACKAGE / kind).iterdir())


def built_hash(source: Path) -> str:
    """The type hash that ROS 2 compares between publisher and subscriber (REP 2011)."""
    name = f"edgevlm_msgs/{source.parent.name}/{source.stem}"
    described = Path(get_package_share_directory("edgevlm_msgs")) / source.parent.name / f"{source.stem}.json"
    return {entry["type_name"]: entry["hash_string"] for entry in json.loads(described.read_text())["type_hashes"]}[
        name
    ]


def test_every_interface_is_written_down() -> None:
    assert set(RELEASED) == {f"{source.parent.name}/{source.stem}" for source in SOURCES}


@pytest.mark.parametrize("source", SOURCES, ids=lambda source: source.stem)
def test_the_interface_is_the_released_one(source: Path) -> None:
    released, built = RELEASED[f"{source.parent.name}/{source.stem}"], built_hash(source)
    assert built == released["hash"], (
        f"{source.name} changed: raise its SCHEMA_VERSION (messages) and write {built} into interfaces.json"
    )


@pytest.mark.parametrize("name", sorted(name for name in RELEASED if name.startswith("msg/")))
def test_messages_say_their_schema_version(name: str) -> None:
    message = getattr(importlib.import_module("edgevlm_msgs.msg"), name.removeprefix("msg/"))
    assert RELEASED[name]["schema_version"] == message.SCHEMA_VERSION
    assert message().schema_version == 0, "a sender that forgets it is refused"
