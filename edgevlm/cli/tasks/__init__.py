"""One row for each task: what the verbs do with its models. A new task is a module here and its row."""

from collections.abc import Mapping

from edgevlm.cli.tasks.base import Measured, Plan, Request, TaskRow, Way
from edgevlm.cli.tasks.chat import CHAT
from edgevlm.cli.tasks.detector import DETECTOR
from edgevlm.cli.tasks.policy import POLICY
from edgevlm.cli.tasks.retriever import RETRIEVER
from edgevlm.cli.tasks.scorer import SCORER
from edgevlm.manifest.schema import Task

ROWS: Mapping[Task, TaskRow] = {
    "policy": POLICY,
    "retriever": RETRIEVER,
    "chat": CHAT,
    "detector": DETECTOR,
    "scorer": SCORER,
}

__all__ = ["ROWS", "Measured", "Plan", "Request", "TaskRow", "Way"]
