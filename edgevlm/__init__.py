"""edgevlm: run vision-language(-action) models on robots. The public names, nothing else."""

from edgevlm.contract import ActionChunk, Contract, Observation, Plan, Stamped
from edgevlm.errors import EdgevlmError
from edgevlm.load import load
from edgevlm.options import RuntimeOptions
from edgevlm.tasks import Policy, Session

__version__ = "0.1.0"

__all__ = [
    "ActionChunk",
    "Contract",
    "EdgevlmError",
    "Observation",
    "Plan",
    "Policy",
    "RuntimeOptions",
    "Session",
    "Stamped",
    "load",
]
