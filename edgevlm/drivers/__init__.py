"""Loops that turn stages into a task; numpy only, blind to the engine."""

from edgevlm.drivers.dual import DualDriver
from edgevlm.drivers.fuse import FuseDriver

__all__ = ["DualDriver", "FuseDriver"]
