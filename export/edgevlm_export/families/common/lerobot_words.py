"""The words of a LeRobot policy that was made from a vision-language model: its config and its tokenizer.

A policy's directory has neither the one nor, before LeRobot 0.5, the other: it names the model they came from. That may
be a directory, a folder inside the policy's own, or a model of the hub, of which only small files are downloaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from edgevlm.errors import CheckpointError, FamilyError
from edgevlm.manifest.contract import InstructionSpec
from edgevlm_export.checkpoint import AGAIN, CONFIG, TOKENIZER, Checkpoint
from edgevlm_export.families.common.lerobot import BEFORE
from edgevlm_export.hub import download

NEW_LINE, TOKENIZE = "smolvla_new_line_processor", "tokenizer_processor"
STEPS = frozenset({NEW_LINE, TOKENIZE})
NAME = "vlm_model_name"
OWN = "tokenizer"  # the folder in which LeRobot 0.5 keeps it
SETTINGS = "tokenizer_config.json"
SMALL = (CONFIG, TOKENIZER, SETTINGS)  # all that is read of the model


@dataclass(frozen=True)
class Words:
    """Where the words of a policy come from.

    Attributes:
        vlm: the directory with the model's config.
        folder: the directory with the tokenizer.
    """

    vlm: Checkpoint
    folder: Checkpoint
    instruction: InstructionSpec

    @property
    def tokenizer(self) -> Path:
        """The tokenizer's file."""
        return self.folder / TOKENIZER

    @property
    def ids(self) -> int:
        """How many ids the tokenizer can put out."""
        return self.folder.token_ids

    @property
    def sha256(self) -> tuple[tuple[str, str], ...]:
        """(name, sha256) of each file that the bundle is made from."""
        return (CONFIG, self.vlm.file_sha256(CONFIG)), (TOKENIZER, self.folder.file_sha256(TOKENIZER))

    def special(self, name: str, usual: str) -> int:
        """The id of a token that the tokenizer's settings name. Raises FamilyError."""
        settings = self.folder.json(SETTINGS)
        more = settings.get("extra_special_tokens") or settings.get("model_specific_special_tokens")
        token = {**settings, **(more if isinstance(more, dict) else {})}.get(name, usual)
        token = token.get("content", usual) if isinstance(token, dict) else token
        found = Tokenizer.from_buffer(self.folder.read(TOKENIZER)).token_to_id(str(token))
        if found is None:
            raise FamilyError(
                f"{self.tokenizer}: add_image_special_tokens: expected the token {token!r}, which stands around "
                "pictures, found none; give the tokenizer that the policy was trained with"
            )
        return int(found)


def read_words(checkpoint: Checkpoint, config: Mapping[str, Any]) -> Words:
    """Where the words of a policy come from, and how they become ids.

    Raises:
        CheckpointError: the model that it names is nowhere, or its tokenizer is missing or damaged; with what to do.
        FamilyError: a way of making ids that this version does not know; with the field.
    """
    where = checkpoint / CONFIG
    name = config.get(NAME)
    if not isinstance(name, str) or not name:
        raise CheckpointError(
            f"{where}: {NAME}: expected a model's id or directory, got {name!r:.80}; correct the file"
        )
    steps = _steps(checkpoint)
    limit = _number(where, config, "tokenizer_max_length")
    told = name
    if steps is not None:
        settings = steps[TOKENIZE]
        limit = _number(checkpoint / BEFORE, {"max_length": limit, **settings}, "max_length")
        for field, wanted in (("padding_side", "right"), ("task_key", "task"), ("truncation", True)):
            if settings.get(field, wanted) != wanted:
                raise FamilyError(
                    f"{checkpoint / BEFORE}: {TOKENIZE}: {field}: expected {wanted!r}, got {settings[field]!r:.80}; "
                    "this variant is not supported"
                )
        told = str(settings.get("tokenizer_name") or name)
    vlm = _find(checkpoint, where, NAME, name, CONFIG)
    own = Checkpoint(checkpoint / OWN)
    folder = own if own.has(TOKENIZER) else _find(checkpoint, where, NAME, told, TOKENIZER)
    assert folder.token_ids is not None
    ending = "\n" if steps is None or NEW_LINE in steps else ""
    return Words(vlm, folder, InstructionSpec(max_tokens=limit, unknown="allow", ending=ending))


def _steps(checkpoint: Checkpoint) -> dict[str, dict[str, Any]] | None:
    """The steps of the processor that make words into ids, with their settings; None in directories without one."""
    if not checkpoint.has(BEFORE):
        return None
    path, steps = checkpoint / BEFORE, checkpoint.json(BEFORE).get("steps")
    if not isinstance(steps, list) or not all(isinstance(step, dict) for step in steps):
        raise CheckpointError(f"{path}: expected a list of steps, got none that can be read; {AGAIN}")
    found = {str(step.get("registry_name")): step.get("config") or {} for step in steps}
    if TOKENIZE not in found or not isinstance(found[TOKENIZE], dict):
        raise CheckpointError(f"{path}: expected a step {TOKENIZE!r}, got {sorted(found)}; {AGAIN}")
    return {name: settings for name, settings in found.items() if name in STEPS}


def _find(checkpoint: Checkpoint, where: Path, field: str, name: str, file: str) -> Checkpoint:
    """The directory that `name` stands for, with `file` in it."""
    inside = checkpoint / name
    if ".." not in Path(name).parts and not Path(name).is_absolute() and inside.is_dir():
        found = Checkpoint(inside)
    else:
        try:
            found = download(name, SMALL)
        except CheckpointError as error:
            raise CheckpointError(f"{where}: {field}: {error}; or {_instead(checkpoint)}") from error
    if not found.has(file):
        raise CheckpointError(
            f"{where}: {field} {name!r}: expected a directory with {file}, or a model of the hub, found none at "
            f"{found}; {_instead(checkpoint)}"
        )
    return found


def _instead(checkpoint: Checkpoint) -> str:
    return (
        f'put the model\'s {CONFIG} and {TOKENIZER} (no weights) into {checkpoint / "vlm"} and write "vlm" as {NAME} '
        f"into {CONFIG}, and as tokenizer_name into {BEFORE}"
    )


def _number(where: Path, config: Mapping[str, Any], field: str) -> int:
    value = config.get(field)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 1 << 16:
        raise CheckpointError(f"{where}: {field}: expected a whole number over 0, got {value!r:.80}; correct the file")
    return value
