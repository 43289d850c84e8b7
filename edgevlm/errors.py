"""The error tree: what a caller can catch, and the exit code the command line gives each class.

Every message says what was expected, what came and what to do next. Exit codes 0 (done), 1 (a defect
of ours) and 2 (usage) are not in this table.
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any, ClassVar

# What a terminal obeys instead of showing: C0 and C1 controls, and the marks that turn the direction of writing.
CONTROL_CHARACTERS = frozenset(
    chr(code)
    for code in (
        *range(0x20),
        *range(0x7F, 0xA0),
        0x61C,
        0x200E,
        0x200F,
        *range(0x202A, 0x202F),
        *range(0x2066, 0x206A),
    )
)
_ESCAPES = {ord(c): ascii(c)[1:-1] for c in CONTROL_CHARACTERS - {"\n", "\t"}}


def printable(text: str) -> str:
    """`text` with control characters written out, such as \\x1b; line feeds and tabs stay.

    What came from a file, a message or a model goes through this on its way to a terminal.
    """
    return text.translate(_ESCAPES)


class EdgevlmError(Exception):
    """Anything edgevlm refuses; never raised itself, only its subclasses are. Its text is safe to print."""

    exit_code: ClassVar[int] = 1

    def __str__(self) -> str:
        return printable(super().__str__())


class DependencyError(EdgevlmError):
    """An optional package is not installed."""

    exit_code = 3


class CheckpointError(EdgevlmError):
    """A checkpoint directory is missing, incomplete or corrupt."""

    exit_code = 4


class FamilyError(EdgevlmError):
    """No adapter knows this model family, or it lacks what was asked of it."""

    exit_code = 5


class BundleError(EdgevlmError):
    """A bundle is incomplete, has unknown keys, or does not parse."""

    exit_code = 6


class FormatError(BundleError):
    """A bundle was written in a format this version does not read."""

    exit_code = 7


class TamperedError(BundleError):
    """A file of a bundle is missing or does not have the hash the manifest records."""

    exit_code = 8


class UnsafePathError(BundleError):
    """A path in a manifest leaves the bundle's directory."""

    exit_code = 9


class ContractError(EdgevlmError):
    """An input does not fit the contract of the model."""

    exit_code = 10


class ShapeError(ContractError):
    """An array has another shape, dtype or encoding than the contract says."""

    exit_code = 11


class StampError(ContractError):
    """A stamp went back, or a value is too old for the instant it is meant for."""

    exit_code = 12


class InstructionError(ContractError):
    """An instruction is empty, too long, or has words the model was never taught."""

    exit_code = 13


class NonFiniteError(ContractError):
    """NaN or infinity, in an input or in what a model put out."""

    exit_code = 14


class WindowNotReadyError(ContractError):
    """The window's contract is `pad: wait` and not every slot has a frame yet."""

    exit_code = 15


class SessionError(EdgevlmError):
    """A session was used from two threads at once, or after it was closed."""

    exit_code = 16


class EngineError(EdgevlmError):
    """An engine refused a stage, or failed while running it."""

    exit_code = 17


class LogError(EdgevlmError):
    """A recording cannot be read, or lacks topics that the contract needs."""

    exit_code = 18


class CalibrationError(EdgevlmError):
    """A calibration has too few samples, or a table does not belong to the model."""

    exit_code = 19


class QuantizationError(EdgevlmError):
    """A quantization changed no node, or made a graph that engines refuse."""

    exit_code = 20


class FidelityError(EdgevlmError):
    """A bundle does not do what its source does, or a negative control passed."""

    exit_code = 21


class OutputError(EdgevlmError):
    """A result cannot be written: the place is taken, full or not writable."""

    exit_code = 22


class SimulatorError(EdgevlmError):
    """A bundle names no simulator, or the one it names is not installed."""

    exit_code = 23


class TaskError(EdgevlmError):
    """A bundle is of another task than what it was given to, or cannot do what was asked of it."""

    exit_code = 24


class PictureError(ContractError):
    """A file is no picture, is broken, or would be larger than is safe."""

    exit_code = 25


class PromptError(ContractError):
    """A prompt is empty, too long, or has pictures or image tokens where none belong."""

    exit_code = 26


class ActionRangeError(ContractError):
    """A model put out an action far outside the bounds of its contract."""

    exit_code = 27


class LatchError(EdgevlmError):
    """The latch of an emergency stop cannot be kept where it outlives a restart."""

    exit_code = 28


def install(extra: str) -> str:
    """The command that brings an extra, to be run in a clone: edgevlm is on no package index yet."""
    return f"pip install '.[{extra}]'"


def require(module: str, *, extra: str) -> Any:
    """Import `module` at its point of use; `Any` because optional packages are typed where they are used.

    Raises:
        DependencyError: it is not installed; the message names the extra that brings it.
    """
    try:
        loaded: ModuleType = importlib.import_module(module)
    except ImportError as error:
        raise DependencyError(
            f"this needs the package {module!r}, which cannot be imported here ({error}); "
            f"install it from your clone of edgevlm: {install(extra)}"
        ) from error
    return loaded
