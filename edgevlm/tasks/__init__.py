"""What a user meets: one module for each task."""

from edgevlm.tasks.asking import Answer, Token
from edgevlm.tasks.chat import Chat
from edgevlm.tasks.dialogue import ChatSession
from edgevlm.tasks.policy import Policy, Session
from edgevlm.tasks.retriever import Classification, Match, Picture, Retriever

__all__ = [
    "Answer",
    "Chat",
    "ChatSession",
    "Classification",
    "Match",
    "Picture",
    "Policy",
    "Retriever",
    "Session",
    "Token",
]
