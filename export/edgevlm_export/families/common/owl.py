"""What OWL-ViT and OWLv2 share: a CLIP whose every patch is a region with a box, and texts to compare it with.

The text transformer is causal and pools at the highest id, which is the end token, so padding changes nothing: a text
is as long as it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgevlm.errors import CheckpointError, FamilyError
from edgevlm.manifest.drivers import RegionsSpec
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.schema import PICTURE, Port, PortKind, RegionsArgs, TextSpec
from edgevlm_export.checkpoint import Checkpoint
from edgevlm_export.families.common.dual import Encode, text_stage
from edgevlm_export.families.common.upstream import (
    bundle_tokenizer,
    check_vocabulary,
    load_model,
    open_config,
    unsupported,
)
from edgevlm_export.families.common.upstream_inputs import check_pictures, check_texts, load_pictures, text_room
from edgevlm_export.prepared import Prepared
from edgevlm_export.stage_graph import DetectorGraph, DetectorReference, Stage, VisionCall, one_thread

CONFIGS = {"owlvit": "OwlViTConfig", "owlv2": "Owlv2Config"}
FEWEST, USUAL = 2, 8  # ids of a text; begin and end are always there
ACTIVATIONS = ("quick_gelu", "gelu", "gelu_new", "gelu_pytorch_tanh", "relu", "silu")
ALLOWED = {
    "vision_config.num_channels": (3,),
    "vision_config.hidden_act": ACTIVATIONS,
    "text_config.hidden_act": ACTIVATIONS,
}
# A step of int8 in these is pixels of a box, or a whole logit; of the arithmetic they are some percent.
IN_FLOATS = ("box_head.", "objectness_head.", "class_head.logit_", ".patch_embedding.")


def prepare_owl(
    checkpoint: Checkpoint,
    names: tuple[str, str],
    frame: Literal["picture", "square"],
    pictures: Callable[[Checkpoint, Any, int], tuple[ImageOp, ...]],
) -> Prepared:
    """A checkpoint of either family.

    Args:
        names: model_type, and the model's class.
        frame: as `RegionsArgs` has it.
        pictures: the operations of an image processor, for the model's image size.
    """
    family, architecture = names
    unsupported(checkpoint, open_config(checkpoint, architecture), ALLOWED)
    config = checkpoint.part(CONFIGS[family])
    side = int(config.vision_config.image_size)
    upstream = checkpoint.tokenizer
    tokenizer, ids = bundle_tokenizer(checkpoint, upstream)
    check_vocabulary(checkpoint, ids, config.text_config.vocab_size)
    _check_ends(checkpoint, upstream)
    check_texts(checkpoint, tokenizer, upstream)
    processor = load_pictures(checkpoint)
    operations = pictures(checkpoint, processor, side)
    check_pictures(checkpoint, processor, operations, side)

    def load() -> DetectorGraph:
        return _graph(checkpoint, names, frame, _Inputs(upstream, tokenizer, operations))

    return Prepared(task="detector", load=load, room=text_room(tokenizer, config.text_config.max_position_embeddings))


class _Inputs(NamedTuple):
    upstream: Any  # its tokenizer
    tokenizer: str
    operations: tuple[ImageOp, ...]


def _graph(
    checkpoint: Checkpoint, names: tuple[str, str], frame: Literal["picture", "square"], inputs: _Inputs
) -> DetectorGraph:
    family, architecture = names
    model = load_model(checkpoint, architecture)
    config = model.config
    most = config.text_config.max_position_embeddings
    return DetectorGraph(
        family=family,
        stages=(
            _vision_stage(model, family, int(config.vision_config.image_size)),
            text_stage(_encode(model, family), (FEWEST, min(USUAL, most), most), config.text_config.hidden_size),
        ),
        driver=RegionsSpec(args=RegionsArgs(vision="vision", text="text", frame=frame)),
        preprocess={PICTURE: inputs.operations},
        tokenizer=inputs.tokenizer,
        text=TextSpec(max_tokens=most, length="own"),
        reference=_reference(model, inputs.upstream, most),
        source_sha256=checkpoint.sha256(),
    )


class _Vision(nn.Module):
    """pixels -> regions, boxes, shift, scale and, for some models, objectness."""

    def __init__(self, model: Any, family: str) -> None:
        super().__init__()
        self.model, self._family = model, family

    def forward(self, pixels: Tensor) -> tuple[Tensor, ...]:
        """As upstream's forward has it, up to where texts come in."""
        model = self.model
        tower = getattr(model, self._family).vision_model
        states = tower.post_layernorm(tower(pixel_values=pixels).last_hidden_state)
        # (N, H): each patch, weighed by the whole picture. Without the batch the heads' weights keep their names.
        regions = model.layer_norm(states[:, 1:] * states[:, :1])[0]
        boxes = (model.box_head(regions) + model.box_bias).sigmoid()
        head = model.class_head
        embedded = head.dense0(regions)
        embedded = embedded / (torch.linalg.norm(embedded, dim=-1, keepdim=True) + 1e-6)
        shift = head.logit_shift(regions)[..., 0]
        scale = head.elu(head.logit_scale(regions))[..., 0] + 1
        found = [embedded, boxes, shift, scale]
        if hasattr(model, "objectness_head"):
            found.append(model.objectness_head(regions)[..., 0])
        return tuple(each[None] for each in found)


def _vision_stage(model: Any, family: str, size: int) -> Stage:
    count = (size // model.config.vision_config.patch_size) ** 2
    shapes: dict[PortKind, tuple[int, ...]] = {
        "regions": (1, count, model.config.text_config.hidden_size),
        "boxes": (1, count, 4),
        "shift": (1, count),
        "scale": (1, count),
    }
    if hasattr(model, "objectness_head"):
        shapes["objectness"] = (1, count)
    module = _Vision(model, family)
    return Stage(
        name="vision",
        module=module,
        inputs=(Port(name="pixels", dtype="float32", shape=(1, 3, size, size), kind="pixels"),),
        outputs=tuple(Port(name=kind, dtype="float32", shape=shape, kind=kind) for kind, shape in shapes.items()),
        example=(torch.zeros(1, 3, size, size),),
        quant_exclude=tuple(name for name, _ in module.named_parameters() if any(part in name for part in IN_FLOATS)),
    )


def _encode(model: Any, family: str) -> Encode:
    """ids -> the text's vector, normalized twice as upstream does it."""
    clip = getattr(model, family)

    def text(ids: Tensor) -> Tensor:
        found = clip.text_projection(clip.text_model(input_ids=ids).pooler_output)
        found = found / torch.linalg.norm(found, dim=-1, keepdim=True)
        return found / (torch.linalg.norm(found, dim=-1, keepdim=True) + 1e-6)  # type: ignore[no-any-return]

    return Encode(model, text)


def _check_ends(checkpoint: Checkpoint, upstream: Any) -> None:
    """The model reads a text at its highest id, and takes a text that begins with 0 for none."""
    begin, *_, end = upstream("a")["input_ids"]
    if end != len(upstream) - 1 or begin == 0 or end != upstream.eos_token_id:
        raise CheckpointError(
            f"{checkpoint}: expected a tokenizer that begins a text with an id other than 0 and ends it with its "
            f"highest one, {len(upstream) - 1}, got {begin} and {end}: the model reads a text there; "
            "take the tokenizer that it was trained with"
        )


def _reference(model: Any, upstream: Any, most: int) -> DetectorReference:
    """`model` on a picture and texts in one native forward, padded as upstream's processor does it."""

    def run(pixels: NDArray[np.float32], texts: Sequence[str]) -> VisionCall:
        tokens = upstream(list(texts), padding="max_length", max_length=most, return_tensors="pt")
        with one_thread(), torch.no_grad():
            out = model(pixel_values=torch.from_numpy(pixels), **tokens)
        thing = getattr(out, "objectness_logits", None)
        return VisionCall(out.logits[0].numpy(), out.pred_boxes[0].numpy(), None if thing is None else thing[0].numpy())

    return run


def unknown(checkpoint: Checkpoint, field: str, expected: str, got: object) -> FamilyError:
    """An image processor that does what boxes do not survive, or the operations cannot say."""
    return FamilyError(
        f"{checkpoint}: the image processor's {field!r}: expected {expected}, got {got!r:.80}; "
        "this variant is not supported"
    )
