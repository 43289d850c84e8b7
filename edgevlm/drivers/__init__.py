"""Loops that turn stages into a task; numpy only, blind to the engine."""

from edgevlm.drivers.cross import CrossDriver
from edgevlm.drivers.decoder import DecoderDriver
from edgevlm.drivers.denoise import DenoiseDriver
from edgevlm.drivers.dual import DualDriver
from edgevlm.drivers.fuse import FuseDriver
from edgevlm.drivers.kv_cache import KVCache
from edgevlm.drivers.kv_decoder import ChatDriver, ImageToken, Logits, Prompt
from edgevlm.drivers.policy import PolicyDriver
from edgevlm.drivers.regions import RegionsDriver
from edgevlm.drivers.sampling import Sampler, Sampling
from edgevlm.drivers.seq2seq import Seq2SeqDriver

__all__ = [
    "ChatDriver",
    "CrossDriver",
    "DecoderDriver",
    "DenoiseDriver",
    "DualDriver",
    "FuseDriver",
    "ImageToken",
    "KVCache",
    "Logits",
    "PolicyDriver",
    "Prompt",
    "RegionsDriver",
    "Sampler",
    "Sampling",
    "Seq2SeqDriver",
]
