"""What a manifest says of the loop around its stages: which driver, and which stage plays which part in it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgevlm.loops.cached import KEYS, PAST, QUERY, CachedArgs, CacheSpec
from edgevlm.loops.cross import CrossArgs, CrossSpec
from edgevlm.loops.decoder import DecoderArgs, DecoderSpec, check_decoder
from edgevlm.loops.denoise import DenoiseArgs, DenoiseSpec
from edgevlm.loops.dual import DualArgs, DualSpec
from edgevlm.loops.fuse import FuseArgs, FuseSpec
from edgevlm.loops.regions import RegionsArgs, RegionsSpec
from edgevlm.loops.seq2seq import Seq2SeqArgs, Seq2SeqSpec, check_question, check_seq2seq

__all__ = [
    "KEYS",
    "PAST",
    "QUERY",
    "CacheSpec",
    "CachedArgs",
    "CrossArgs",
    "CrossSpec",
    "DecoderArgs",
    "DecoderSpec",
    "DenoiseArgs",
    "DenoiseSpec",
    "DriverSpec",
    "DualArgs",
    "DualSpec",
    "FuseArgs",
    "FuseSpec",
    "RegionsArgs",
    "RegionsSpec",
    "Seq2SeqArgs",
    "Seq2SeqSpec",
    "check_decoder",
    "check_question",
    "check_seq2seq",
]

DriverSpec = Annotated[
    FuseSpec | DenoiseSpec | DualSpec | CrossSpec | RegionsSpec | DecoderSpec | Seq2SeqSpec,
    Field(discriminator="name"),
]
