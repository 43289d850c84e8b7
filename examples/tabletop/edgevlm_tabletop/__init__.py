"""The trained default of edgevlm: a simulated tabletop robot, its experts, its data and its training."""

import os

# MuJoCo chooses how it renders when it is first imported, so these come before any module of this package
os.environ.setdefault("MUJOCO_GL", "osmesa")
os.environ.setdefault("LP_NUM_THREADS", "1")
