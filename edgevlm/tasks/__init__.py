"""What a user meets: one module for each task."""

from edgevlm.tasks.chat import Chat
from edgevlm.tasks.detector import Detections, Detector, Regions
from edgevlm.tasks.generation_config import Answer, Picture, Token
from edgevlm.tasks.policy import Policy, Session
from edgevlm.tasks.retriever import Classification, Match, Retriever
from edgevlm.tasks.scorer import Scorer, Scores
from edgevlm.tasks.session import ChatSession

__all__ = [
    "Answer",
    "Chat",
    "ChatSession",
    "Classification",
    "Detections",
    "Detector",
    "Match",
    "Picture",
    "Policy",
    "Regions",
    "Retriever",
    "Scorer",
    "Scores",
    "Session",
    "Token",
]
