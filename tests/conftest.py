"""What every test run shares: off-screen rendering, reproducible property tests, and what is made once."""

from __future__ import annotations

import os

import pytest
from hypothesis import settings
from support.shared import Shared

IN_PARALLEL = "PYTEST_XDIST_WORKER" in os.environ
if IN_PARALLEL:  # before NumPy and torch are loaded: each process has a core, not all of them
    os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("LP_NUM_THREADS", "1")

# No deadline: a busy machine is not a defect. Derandomized: a failure in CI is the same failure here.
settings.register_profile("edgevlm", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("edgevlm")


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Shared:
    """What is made once, in whichever process of this test run."""
    base = tmp_path_factory.getbasetemp()
    return Shared((base.parent if IN_PARALLEL else base) / "shared")
