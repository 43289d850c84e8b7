"""What every test run shares: off-screen rendering and reproducible property tests."""

from __future__ import annotations

import os

from hypothesis import settings

os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("LP_NUM_THREADS", "1")

# No deadline: a busy machine is not a defect. Derandomized: a failure in CI is the same failure here.
settings.register_profile("edgevlm", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("edgevlm")
