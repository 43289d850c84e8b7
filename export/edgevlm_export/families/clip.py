"""CLIP: a vision and a text transformer, each with a projection; probabilities by softmax over the texts.

The text transformer is causal and pools at the end token, so padding changes nothing: a text is as long as it is.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from torch import Tensor

from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.schema import PICTURE, DualArgs, DualSpec, TextSpec
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.dual import Encode, reference, text_stage, vision_stage
from edgevlm_export.families.common.upstream import (
    bundle_tokenizer,
    check_vocabulary,
    load_model,
    open_config,
    unsupported,
)
from edgevlm_export.families.common.upstream_inputs import check_texts, read_pictures, text_room
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import RetrieverGraph

FEWEST, USUAL = 2, 16  # ids of a text; begin and end are always there
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
ALLOWED = {
    "vision_config.num_channels": (3,),
    "vision_config.hidden_act": ACTIVATIONS,
    "text_config.hidden_act": ACTIVATIONS,
}


def prepare(checkpoint: Checkpoint) -> Prepared:
    """A CLIP checkpoint directory, to be cut into vision and text.

    Raises:
        CheckpointError: a file is missing, broken, or does not fit the others.
        FamilyError: a variant that is not supported; with the field.
    """
    unsupported(checkpoint, open_config(checkpoint, "CLIPModel"), ALLOWED)
    config = checkpoint.part("CLIPConfig")
    upstream = checkpoint.tokenizer
    tokenizer, ids = bundle_tokenizer(checkpoint, upstream)
    check_vocabulary(checkpoint, ids, config.text_config.vocab_size)
    check_texts(checkpoint, tokenizer, upstream)
    operations = read_pictures(checkpoint, config.vision_config.image_size)
    room = text_room(tokenizer, config.text_config.max_position_embeddings)
    return Prepared(task="retriever", load=partial(_load, checkpoint, upstream, tokenizer, operations), room=room)


def _load(checkpoint: Checkpoint, upstream: Any, tokenizer: str, operations: tuple[ImageOp, ...]) -> RetrieverGraph:
    model = load_model(checkpoint, "CLIPModel")
    config = model.config
    most, width = config.text_config.max_position_embeddings, config.projection_dim

    def vision(pixels: Tensor) -> Tensor:
        return model.visual_projection(model.vision_model(pixel_values=pixels).pooler_output)  # type: ignore[no-any-return]

    def text(ids: Tensor) -> Tensor:
        return model.text_projection(model.text_model(input_ids=ids).pooler_output)  # type: ignore[no-any-return]

    def tokenize(texts: list[str]) -> Any:
        return upstream(texts, padding=True, return_tensors="pt")

    return RetrieverGraph(
        family="clip",
        stages=(
            vision_stage(Encode(model, vision), config.vision_config.image_size, width),
            text_stage(Encode(model, text), (FEWEST, min(USUAL, most), most), width),
        ),
        driver=DualSpec(
            args=DualArgs(vision="vision", text="text", scale=float(model.logit_scale.exp()), scores="softmax")
        ),
        preprocess={PICTURE: operations},
        tokenizer=tokenizer,
        text=TextSpec(max_tokens=most, length="own"),
        reference=reference(model, tokenize),
        source_sha256=checkpoint.sha256(),
    )
