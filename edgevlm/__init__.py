"""edgevlm: run vision-language(-action) models on robots. The public names, nothing else."""

from edgevlm.errors import EdgevlmError
from edgevlm.load import load, load_chat, load_detector, load_policy, load_retriever, load_scorer
from edgevlm.manifest.contract import ActionChunk, Contract, Observation, Plan, Stamped
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import (
    Answer,
    Chat,
    ChatSession,
    Classification,
    Detections,
    Detector,
    Match,
    Policy,
    Regions,
    Retriever,
    Scorer,
    Scores,
    Session,
    Token,
)

__version__ = "0.1.0"

__all__ = [
    "ActionChunk",
    "Answer",
    "Chat",
    "ChatSession",
    "Classification",
    "Contract",
    "Detections",
    "Detector",
    "EdgevlmError",
    "Match",
    "Observation",
    "Plan",
    "Policy",
    "Regions",
    "Retriever",
    "RuntimeOptions",
    "Scorer",
    "Scores",
    "Session",
    "Stamped",
    "Token",
    "load",
    "load_chat",
    "load_detector",
    "load_policy",
    "load_retriever",
    "load_scorer",
]
