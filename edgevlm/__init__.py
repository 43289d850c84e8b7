"""edgevlm: run vision-language(-action) models on robots. The public names, nothing else."""

from edgevlm.contract import ActionChunk, Contract, Observation, Plan, Stamped
from edgevlm.errors import EdgevlmError
from edgevlm.load import load, load_chat, load_policy, load_retriever
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Answer, Chat, ChatSession, Classification, Match, Policy, Retriever, Session, Token

__version__ = "0.1.0"

__all__ = [
    "ActionChunk",
    "Answer",
    "Chat",
    "ChatSession",
    "Classification",
    "Contract",
    "EdgevlmError",
    "Match",
    "Observation",
    "Plan",
    "Policy",
    "Retriever",
    "RuntimeOptions",
    "Session",
    "Stamped",
    "Token",
    "load",
    "load_chat",
    "load_policy",
    "load_retriever",
]
