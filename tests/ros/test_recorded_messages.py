"""What the runtime writes without ROS is, field by field, what the nodes publish: read back by the real rclpy."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support import tiny

pytest.importorskip("rclpy", reason="needs ROS 2: make ros-build")
pytest.importorskip("edgevlm_msgs", reason="needs the built workspace: make ros-build")

from edgevlm_msgs.msg import ActionChunk, InferenceStats, Plan
from nav_msgs.msg import Path as NavPath
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

import edgevlm_ros.messages as nodes
from edgevlm.data import LogWriter
from edgevlm.data.container import Container
from edgevlm.errors import InstructionError
from edgevlm.loop.worker import Acted, Failed, Outcome, Times
from edgevlm.manifest.contract import ActionChunk as Chunk
from edgevlm.manifest.contract import Contract, PlanSpec
from edgevlm.manifest.contract import Plan as PlanValue
from edgevlm.replay.published import publish, write_difference, write_stats
from edgevlm.rosmsg.schemas import BODIES, definition
from edgevlm_ros.recorder import installed_definition

COUNTS = {"frames_received": 9, "frames_dropped": 2, "observations_dropped": 1, "acted": 5, "failed": 3}
TIMES = Times(tiny.START_NS + 7, tiny.START_NS + 19_000_007, 100, 19_000_100, False)


def contract() -> Contract:
    """With a plan that is a path in space."""
    plan = PlanSpec(
        steps=("approach", "grüßen"),
        waypoint_offsets_s=(0.2, 0.4),
        names=("y", "x", "z"),
        units=("m", "m", "m"),
        scale=(1.0, 1.0, 1.0),
        offset=(0.0, 0.0, 0.0),
        frame_id="base",
    )
    return tiny.mono_contract().model_copy(update={"plan": plan})


def acted() -> Acted:
    spec = contract()
    random = np.random.default_rng(0)
    assert spec.plan is not None
    plan = PlanValue(
        waypoints=random.normal(size=(2, 3)).astype(np.float32),
        stamps_ns=(tiny.START_NS + 200_000_001, tiny.START_NS + 400_000_000),
        names=spec.plan.names,
        units=spec.plan.units,
        frame_id="base",
        steps=spec.plan.steps,
        confidence=np.array([0.25, 0.75], np.float32),
    )
    action = spec.action
    chunk = Chunk(
        values=random.normal(size=(5, 3)).astype(np.float32),
        names=action.names,
        units=action.units,
        step_s=action.step_s,
        observed_ns=tiny.START_NS + 3,
        valid_until_ns=tiny.START_NS + 250_000_003,
        sequence=12,
        plan=plan,
    )
    observation = tiny.observation(spec, 1, "öffne the drawer", tiny.START_NS + 3)
    return Acted(chunk, observation, TIMES, {"step": 19_000_000, "preprocess": 1_000_000, "vision": 5_500_000})


def written(path: Path, outcome: Outcome) -> dict[str, Any]:
    """Topic -> the message that rclpy reads from the file."""
    kinds = {
        "/a/action_chunk": ActionChunk,
        "/a/plan": Plan,
        "/a/plan_path": NavPath,
        "/a/inference_stats": InferenceStats,
        "/difference": JointState,
    }
    with LogWriter(path) as log:
        publish(log, "/a", outcome, contract(), "f" * 64)
        write_stats(log, "/a", outcome, COUNTS, timed=True)
        write_difference(log, tiny.START_NS + 3, ("dx", "dy", "grip"), np.array([0.0, 0.5, 1e-9]))
    container = Container(path)
    return {
        container.channels[ref.channel].topic: deserialize_message(
            container.read(ref), kinds[container.channels[ref.channel].topic]
        )
        for ref in container.refs
    }


def test_every_message_of_a_replay_is_the_one_that_a_node_would_publish(tmp_path: Path) -> None:
    outcome = acted()
    plan = outcome.chunk.plan
    assert plan is not None
    assert written(tmp_path / "log.mcap", outcome) == {
        "/a/action_chunk": nodes.chunk_message(outcome, contract(), "f" * 64, 0),
        "/a/plan": nodes.plan_message(plan, outcome),
        "/a/plan_path": nodes.path_message(plan, outcome.chunk.observed_ns),
        "/a/inference_stats": nodes.stats_message(outcome, COUNTS),
        "/difference": JointState(
            header=nodes.chunk_message(outcome, tiny.mono_contract(), "", 0).header,
            name=["dx", "dy", "grip"],
            position=[0.0, 0.5, 1e-9],
        ),
    }


def test_a_failed_step_says_why_in_the_words_of_the_node(tmp_path: Path) -> None:
    outcome = Failed(InstructionError("no such word"), acted().observation, TIMES)
    recorded = written(tmp_path / "log.mcap", outcome)
    assert recorded["/a/inference_stats"] == nodes.stats_message(outcome, COUNTS)
    assert "/a/action_chunk" not in recorded


@pytest.mark.parametrize("type_name", sorted(BODIES))
def test_the_definitions_that_the_runtime_carries_are_those_installed(type_name: str) -> None:
    def bare(text: str) -> list[str]:
        """Without comments; a type of the same package may be written with the package or without."""
        lines = (" ".join(line.partition("#")[0].split()) for line in text.splitlines())
        return [line if line.startswith("MSG: ") else line.removeprefix("geometry_msgs/") for line in lines if line]

    assert bare(definition(type_name)) == bare(installed_definition(type_name))
