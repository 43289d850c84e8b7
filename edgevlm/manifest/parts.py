"""What only the manifests of one task have."""

from __future__ import annotations

from typing import NamedTuple

from edgevlm.manifest.contract import Contract
from edgevlm.manifest.drivers import CrossArgs, DecoderArgs, DenoiseArgs, DualArgs, FuseArgs, RegionsArgs, Seq2SeqArgs
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.text import PromptSpec, QuestionSpec, TextSpec


class PolicyParts(NamedTuple):
    """What only the manifest of a policy has."""

    contract: Contract
    args: FuseArgs | DenoiseArgs


class RetrieverParts(NamedTuple):
    """What only the manifest of a retriever has."""

    operations: tuple[ImageOp, ...]
    text: TextSpec
    args: DualArgs | CrossArgs


class DetectorParts(NamedTuple):
    """What only the manifest of a detector has."""

    operations: tuple[ImageOp, ...]
    text: TextSpec
    args: RegionsArgs


class ScorerParts(NamedTuple):
    """What only the manifest of a scorer has."""

    text: TextSpec
    labels: tuple[str, ...]
    args: CrossArgs


class QuestionParts(NamedTuple):
    """What only the manifest of a chat has that reads its question apart from its answer."""

    operations: tuple[ImageOp, ...]
    question: QuestionSpec
    args: Seq2SeqArgs


class ChatParts(NamedTuple):
    """What only the manifest of a chat has that reads words and pictures in one row."""

    operations: tuple[ImageOp, ...]
    prompt: PromptSpec
    args: DecoderArgs
