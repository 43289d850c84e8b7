"""What a manifest says of the loop around its stages: which driver, and which stage plays which part in it."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from edgevlm.manifest.drivers.cross import CrossArgs, CrossSpec
from edgevlm.manifest.drivers.decoder import DecoderArgs, DecoderSpec, check_decoder
from edgevlm.manifest.drivers.denoise import DenoiseArgs, DenoiseSpec
from edgevlm.manifest.drivers.dual import DualArgs, DualSpec
from edgevlm.manifest.drivers.fuse import FuseArgs, FuseSpec
from edgevlm.manifest.drivers.kv_decoder import KEYS, PAST, QUERY, CacheSpec, KVDecoderSpec
from edgevlm.manifest.drivers.regions import RegionsArgs, RegionsSpec
from edgevlm.manifest.drivers.seq2seq import Seq2SeqArgs, Seq2SeqSpec, check_question, check_seq2seq

__all__ = [
    "KEYS",
    "PAST",
    "QUERY",
    "CacheSpec",
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
    "KVDecoderSpec",
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
