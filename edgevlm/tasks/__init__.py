"""What a user meets: one module for each task."""

from edgevlm.tasks.policy import Policy, Session

__all__ = ["Policy", "Session"]
