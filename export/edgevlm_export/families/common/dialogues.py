"""A checkpoint's chat template -> data, proven against transformers' own rendering of it, in a process that ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from edgevlm.errors import FamilyError
from edgevlm.manifest.text import DialogueSpec
from edgevlm.text.confined import MAX_SOURCE, Unanswered, run_confined
from edgevlm_export.checkpoint import Checkpoint

CHILD = "edgevlm_export.template_child"  # outside of the families, which import torch
TIMEOUT_S = 60.0  # the child imports transformers first


class Dialogue(NamedTuple):
    """A chat template as data.

    Attributes:
        frozen: what it asks for besides the messages, such as dates and tools: its branches on them are as without.
    """

    spec: DialogueSpec
    frozen: tuple[str, ...] = ()


def derive_dialogue(
    checkpoint: Checkpoint, template: str, variables: Mapping[str, str], placeholder: str, reserved: Iterable[str]
) -> Dialogue:
    """The data that writes what `template` writes.

    Args:
        variables: what the template may use besides the messages: the tokenizer's special tokens.
        placeholder: what it writes for a picture.
        reserved: signs that no user may say.

    Raises:
        FamilyError: it is no literal text around the parts of a dialogue, does not end, or takes no picture.
    """
    request = {
        "source": template,
        "variables": dict(variables),
        "placeholder": placeholder,
        "reserved": sorted(reserved),
    }
    answer: dict[str, object] = {}
    try:
        if len(template) > MAX_SOURCE:
            raise Unanswered(f"expected at most {MAX_SOURCE} characters, got {len(template)}")
        answer = run_confined(CHILD, request, timeout_s=TIMEOUT_S)
        reason = answer.get("refused")
    except Unanswered as error:
        reason = error
    if reason is not None:
        raise FamilyError(
            f"{checkpoint}: 'chat_template' cannot be used: {reason}; give one that writes literal text around the "
            "messages (see docs/bundle.md)"
        )
    spec = DialogueSpec.model_validate_json(json.dumps(answer["dialogue"]), strict=True)
    if spec.gaps(system=False, pictures=True) is None:
        raise FamilyError(
            f"{checkpoint}: 'chat_template': expected one that takes a picture and a question, it refuses them; give "
            "the template that this model was trained with"
        )
    return Dialogue(spec, tuple(map(str, answer["frozen"])) if isinstance(answer["frozen"], list) else ())
