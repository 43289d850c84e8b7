"""What LeRobot saves, in the version that is documented, becomes a bundle that gives LeRobot's own chunks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from support import lerobot_parity as parity
from support import lerobot_policies as policies
from support.lerobot_setups import SETUPS, VERSION

from edgevlm_export.report import ExportReport

RESULTS = parity.ROOT / "docs" / "results" / f"lerobot-{VERSION}.json"
needs_lerobot = pytest.mark.skipif(
    not parity.installed(), reason=f"needs LeRobot {VERSION} in an environment of its own: make lerobot (Python 3.12)"
)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder for each policy, saved and answered by LeRobot."""
    folder = tmp_path_factory.mktemp("lerobot")
    parity.write(folder)
    return folder


@needs_lerobot
@pytest.mark.parametrize("name", SETUPS)
def test_the_bundle_gives_the_chunk_that_lerobot_gives(
    name: str, written: Path, traced: Callable[..., ExportReport], tmp_path: Path
) -> None:
    policy = written / name
    robot = policies.write_robot(tmp_path / "robot.yaml", policies.robot_of(policy))
    traced(policy, tmp_path / "bundle", robot=robot)
    measured = parity.measure(policy, tmp_path / "bundle")
    assert measured["error"] < parity.TOLERANCE
    still = {name: by for name, by in measured["controls"].items() if by < parity.CONTROL * parity.TOLERANCE}
    assert not still, f"expected every wrong input to move the chunk, these do not: {still}"


@needs_lerobot
def test_lerobot_is_the_version_that_is_documented(written: Path) -> None:
    versions = json.loads((written / "versions.json").read_text())
    assert versions["lerobot"] == VERSION and VERSION in (parity.ROOT / "docs" / "lerobot.md").read_text()


def test_the_published_figures_are_of_every_policy_and_that_version() -> None:
    results = json.loads(RESULTS.read_text())
    assert results["lerobot"]["lerobot"] == VERSION and set(results["policies"]) == set(SETUPS)
    for name, one in results["policies"].items():
        assert one["error"] < results["tolerance"] == parity.TOLERANCE, name
        assert min(one["controls"].values()) > parity.CONTROL * parity.TOLERANCE, name
