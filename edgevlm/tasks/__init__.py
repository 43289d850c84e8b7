"""What a user meets: one module for each task."""

from edgevlm.tasks.policy import Policy, Session
from edgevlm.tasks.retriever import Classification, Match, Picture, Retriever

__all__ = ["Classification", "Match", "Picture", "Policy", "Retriever", "Session"]
