"""CLIP: a vision and a text transformer, each with a projection; probabilities by softmax over the texts.

The text transformer is causal and pools at the end token, so padding changes nothing: a text is as long as it is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor

from edgevlm.manifest import PICTURE, DualArgs, DualSpec, TextSpec
from edgevlm_export.families.checkpoint import tokenizer_file
from edgevlm_export.families.dual import Encode, reference, text_stage, vision_stage
from edgevlm_export.families.picture_ops import picture_ops
from edgevlm_export.families.upstream import (
    check_vocabulary,
    directory_sha256,
    load_model,
    load_part,
    open_config,
    unsupported,
)
from edgevlm_export.stage_graph import RetrieverGraph

FEWEST, USUAL = 2, 16  # ids of a text; begin and end are always there
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
ALLOWED = {
    "vision_config.num_channels": (3,),
    "vision_config.hidden_act": ACTIVATIONS,
    "text_config.hidden_act": ACTIVATIONS,
}


def build(checkpoint: Path) -> RetrieverGraph:
    """A CLIP checkpoint directory, cut into vision and text.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    unsupported(checkpoint, open_config(checkpoint, "CLIPModel"), ALLOWED)
    tokenizer, ids = tokenizer_file(checkpoint)
    model = load_model(checkpoint, "CLIPModel")
    config = model.config
    check_vocabulary(checkpoint, ids, config.text_config.vocab_size)
    most = config.text_config.max_position_embeddings
    size, width = config.vision_config.image_size, config.projection_dim
    processor = load_part(checkpoint, "CLIPImageProcessorPil")
    upstream = load_part(checkpoint, "CLIPTokenizer")

    def vision(pixels: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)  # type: ignore[no-any-return]

    def text(ids: Tensor) -> Tensor:
        return model.text_projection(model.text_model(input_ids=ids).pooler_output)  # type: ignore[no-any-return]

    def tokenize(texts: list[str]) -> Any:
        return upstream(texts, padding=True, return_tensors="pt")

    return RetrieverGraph(
        family="clip",
        stages=(
            vision_stage(Encode(model, vision), size, width),
            text_stage(Encode(model, text), (FEWEST, min(USUAL, most), most), width),
        ),
        driver=DualSpec(
            args=DualArgs(vision="vision", text="text", scale=float(model.logit_scale.exp()), scores="softmax")
        ),
        preprocess={PICTURE: picture_ops(checkpoint, processor, size)},
        tokenizer=tokenizer,
        text=TextSpec(max_tokens=most, length="own"),
        reference=reference(model, tokenize),
        source_sha256=directory_sha256(checkpoint),
    )
