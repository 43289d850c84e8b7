"""Upstream's own models and processors, as judges of a chat bundle."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from numpy.typing import NDArray
from transformers.image_utils import load_image

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class Native:
    """A model and the processor that reads its inputs, of a dialogue.

    Attributes:
        text: what is asked.
    """

    model: Any
    processor: Any
    text: str

    def inputs(self, path: Path) -> dict[str, Any]:
        """What the model takes."""
        picture = load_image(str(path))
        parts = [{"type": "image", "image": picture}, {"type": "text", "text": self.text}]
        text = self.processor.apply_chat_template([{"role": "user", "content": parts}], add_generation_prompt=True)
        return dict(self.processor(text=[text], images=[picture], return_tensors="pt"))

    def ids(self, path: Path) -> list[int]:
        """What is read of the words, as the bundle's own reader should write it."""
        result: list[int] = self.inputs(path)["input_ids"][0].tolist()
        return result

    def answer(self, path: Path, count: int) -> tuple[Tokens, NDArray[np.float32]]:
        """(greedy tokens, the logits each was chosen from)."""
        return self._search(self.inputs(path), count)

    def caption(self, path: Path, count: int) -> tuple[Tokens, NDArray[np.float32]]:
        """The same of a picture alone, the words left to upstream."""
        pixels = self.processor.image_processor(load_image(str(path)), return_tensors="pt")["pixel_values"]
        return self._search({"pixel_values": pixels}, count)

    def _search(self, inputs: dict[str, Any], count: int) -> tuple[Tokens, NDArray[np.float32]]:
        with torch.no_grad():
            out = self.model.generate(
                **inputs,
                max_new_tokens=count,
                do_sample=False,
                return_dict_in_generate=True,
                output_logits=True,
            )
        tokens = out.sequences[0].tolist()[-len(out.logits) :]
        return tuple(tokens), torch.stack(out.logits)[:, 0].numpy()

    def forward(self, path: Path, tokens: Tokens) -> NDArray[np.float32]:
        """The logits of `tokens` in one forward over prompt and answer, without a cache."""
        inputs = self.inputs(path)
        start = inputs["input_ids"].shape[1]
        answer = torch.tensor([tokens[:-1]])
        inputs["input_ids"] = torch.cat([inputs["input_ids"], answer], 1)
        inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
        if "token_type_ids" in inputs:  # 1: an answer, which looks back only
            inputs["token_type_ids"] = torch.cat([inputs["token_type_ids"], torch.ones_like(answer)], 1)
        with torch.no_grad():
            logits: NDArray[np.float32] = self.model(**inputs).logits[0, start - 1 :].numpy()
        return logits


class Prefixed(Native):
    """A model that knows no dialogue, and words after its pictures."""

    def inputs(self, path: Path) -> dict[str, Any]:
        """What the model takes."""
        result = dict(self.processor(text=[self.text], images=[[load_image(str(path))]], return_tensors="np"))
        return {name: torch.from_numpy(np.array(value)) for name, value in result.items() if name != "labels"}


class Plain(Native):
    """A model that takes one picture and a text."""

    def inputs(self, path: Path) -> dict[str, Any]:
        """What the model takes."""
        return dict(self.processor(images=load_image(str(path)), text=self.text, return_tensors="pt"))


class Captioner(Plain):
    """A model that goes on from the beginning of a caption, with its own sign before that and none behind it."""

    def inputs(self, path: Path) -> dict[str, Any]:
        """What the model takes; its search wants the last sign, too."""
        inputs = super().inputs(path)
        inputs["input_ids"][:, 0] = self.model.config.text_config.bos_token_id
        return inputs

    def ids(self, path: Path) -> list[int]:
        """What the decoder begins with."""
        return super().ids(path)[:-1]

    def forward(self, path: Path, tokens: Tokens) -> NDArray[np.float32]:
        """As `Native`."""
        row = torch.tensor([[*self.ids(path), *tokens[:-1]]])
        with torch.no_grad():
            logits = self.model(pixel_values=self.inputs(path)["pixel_values"], input_ids=row).logits
        return np.asarray(logits[0, -len(tokens) :])


class Answerer(Plain):
    """A model whose encoder reads the question."""

    def forward(self, path: Path, tokens: Tokens) -> NDArray[np.float32]:
        """Through the parts of the model, whose own forward gives no logits."""
        inputs = self.inputs(path)
        row = torch.tensor([[self.model.decoder_start_token_id, *tokens[:-1]]])
        with torch.no_grad():
            observed = self.model.vision_model(pixel_values=inputs["pixel_values"]).last_hidden_state
            read = self.model.text_encoder(
                input_ids=inputs["input_ids"], encoder_hidden_states=observed
            ).last_hidden_state
            logits = self.model.text_decoder(input_ids=row, encoder_hidden_states=read).logits
        return np.asarray(logits[0])


KINDS: dict[str, tuple[type[Native], str, str]] = {  # how it is asked, upstream's model and processor
    "llava": (Native, "LlavaForConditionalGeneration", "LlavaProcessor"),
    "smolvlm": (Native, "SmolVLMForConditionalGeneration", "Idefics3Processor"),
    "idefics3": (Native, "Idefics3ForConditionalGeneration", "Idefics3Processor"),
    "paligemma": (Prefixed, "PaliGemmaForConditionalGeneration", "PaliGemmaProcessor"),
    "paligemma2": (Prefixed, "PaliGemmaForConditionalGeneration", "PaliGemmaProcessor"),
    "blip2": (Plain, "Blip2ForConditionalGeneration", "Blip2Processor"),
    "blip": (Captioner, "BlipForConditionalGeneration", "BlipProcessor"),
    "blip_vqa": (Answerer, "BlipForQuestionAnswering", "BlipProcessor"),
}


def native(family: str, checkpoint: Path, text: str) -> Native:
    """The judge of a checkpoint."""
    kind, model, processor = KINDS[family]
    return kind(
        getattr(transformers, model).from_pretrained(checkpoint).eval(),
        getattr(transformers, processor).from_pretrained(checkpoint),
        text,
    )
