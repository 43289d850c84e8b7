"""Loops that turn stages into a task; numpy only, blind to the engine."""

from edgevlm.drivers.decoder import DecoderDriver, Feature, Prompt
from edgevlm.drivers.dual import DualDriver
from edgevlm.drivers.fuse import FuseDriver
from edgevlm.drivers.kv import KeyValues
from edgevlm.drivers.sampling import Sampler, Sampling

__all__ = ["DecoderDriver", "DualDriver", "Feature", "FuseDriver", "KeyValues", "Prompt", "Sampler", "Sampling"]
