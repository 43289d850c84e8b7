"""A dialogue over several pictures, kept in a session, is what upstream says of the whole dialogue read anew."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from support import hub
from transformers.image_utils import load_image

import edgevlm
from edgevlm.errors import TaskError
from edgevlm.manifest.schema import DialogueManifest
from edgevlm_export.report import ExportReport

CLASSES = {  # model and processor of upstream's, of those that know turns
    "llava": ("LlavaForConditionalGeneration", "LlavaProcessor"),
    "smolvlm": ("SmolVLMForConditionalGeneration", "Idefics3Processor"),
    "idefics3": ("Idefics3ForConditionalGeneration", "Idefics3Processor"),
}
TURNS = (("coffee.png", "What is it?"), (None, "Where is it?"), ("rocket.jpg", "And this one?"), (None, "Really?"))
ANSWER_TOKENS = 8
MARGIN = 1e-3  # between the two likeliest tokens: a greedy choice that rounding cannot turn


@pytest.fixture
def photographs() -> dict[str, Path]:
    return {path.name: path for path in hub.photographs()}


def upstream(model: Any, processor: Any, messages: list[Any], pictures: list[Any]) -> tuple[list[int], list[int]]:
    """(the prompt's ids, the greedy answer's)."""
    text = processor.apply_chat_template(messages, add_generation_prompt=True)
    inputs = dict(processor(text=[text], images=[pictures], return_tensors="pt"))
    with torch.no_grad():
        out = model.generate(
            **inputs, max_new_tokens=ANSWER_TOKENS, do_sample=False, return_dict_in_generate=True, output_logits=True
        )
    top = np.sort(torch.stack(out.logits)[:, 0].numpy(), axis=1)[:, -2:]
    assert (top[:, 1] - top[:, 0]).min() > MARGIN
    prompt: list[int] = inputs["input_ids"][0].tolist()
    return prompt, out.sequences[0, len(prompt) :].tolist()


def test_every_turn_is_upstreams_and_nothing_is_read_twice(
    chat_family: str, chat_source: Path, chat_fp32: tuple[Path, ExportReport], photographs: dict[str, Path]
) -> None:
    root = chat_fp32[0]
    if chat_family not in CLASSES:
        with edgevlm.load_chat(root) as chat, pytest.raises(TaskError, match="one question at a time"):
            chat.session()
        return
    model, processor = (getattr(transformers, name) for name in CLASSES[chat_family])
    model, processor = model.from_pretrained(chat_source).eval(), processor.from_pretrained(chat_source)
    messages: list[Any] = []
    pictures: list[Any] = []
    read = 0
    with edgevlm.load_chat(root) as chat:
        session = chat.session()
        for name, text in TURNS:
            parts = [{"type": "text", "text": text}]
            if name is not None:
                pictures.append(load_image(str(photographs[name])))
                parts.insert(0, {"type": "image"})
            messages.append({"role": "user", "content": parts})
            prompt, generated = upstream(model, processor, messages, pictures)
            answer = session.ask(None if name is None else photographs[name], text, max_new_tokens=ANSWER_TOKENS)
            stops = chat.bundle.manifest.require(DialogueManifest).driver.args.stop_ids
            assert answer.prompt_tokens == len(prompt)
            assert list(answer.token_ids) == [token for token in generated if token not in stops]
            assert answer.reused_tokens >= read
            read = len(prompt) - 8  # the sign that an answer begins may melt into its first word
            turn = session.turns[-1]
            messages.append({"role": "assistant", "content": [{"type": "text", "text": turn.text}]})
        tiles = [chat.prepare(photographs[name], "x").pixels[0].shape[0] for name, _ in TURNS if name is not None]
        assert chat.stage_runs["vision"] == sum(tiles)
