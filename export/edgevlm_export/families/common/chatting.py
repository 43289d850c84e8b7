"""What the families of chats share: the vision stage, embeddings, limits, the original model as judge, the graph."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from edgevlm.errors import FamilyError
from edgevlm.manifest.drivers import CacheSpec
from edgevlm.manifest.schema import PICTURE, DecoderArgs, DecoderSpec, Port
from edgevlm_export.checkpoint import CONFIG, Checkpoint
from edgevlm_export.families.common.decoding import CHUNK, MASKS, STEP, Language, decoder_stage
from edgevlm_export.families.common.prompts import Words, check_features
from edgevlm_export.families.common.upstream import check_search, stop_ids
from edgevlm_export.prepared import Prepared, Room
from edgevlm_export.stage_graph import EMBEDDINGS, ChatGraph, Logits, Said, Stage
from edgevlm_export.tracing.repeated_layers import Chain, Piece

USUAL_CONTEXT = 2048  # tokens, where --context does not say otherwise and the model can do it
ANSWER = 32  # tokens of an answer: as many as the export compares
SQUARE = (1024, 1024)  # a picture that is cut into as many tiles as any
QUESTION = "What is in the picture? Say in one or two sentences what it shows, and where each thing is. " * 2

# pixels (N, 3, S, S) and ids (1, L) of a prompt -> what the original takes
Inputs = Callable[[Tensor | None, Tensor], dict[str, Tensor]]


class Step(nn.Module):
    """A function of one tensor over modules whose weights it should carry."""

    def __init__(self, run: Callable[[Tensor], Tensor], *modules: nn.Module) -> None:
        super().__init__()
        self.carried, self._run = nn.ModuleList(modules), run

    def forward(self, tensor: Tensor) -> Tensor:
        """The function's result."""
        return self._run(tensor)


class EncoderLayer(nn.Module):
    """One layer of a vision transformer, which masks nothing."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, hidden: Tensor) -> Tensor:
        """hidden (1, N, H)."""
        out: Tensor = self.layer(hidden, None)
        return out


def vision_stage(before: nn.Module, layers: Sequence[nn.Module], after: nn.Module, image_size: int) -> Stage:
    """pixels (1, 3, S, S) -> features (1, T, H): one tile of a picture."""
    pieces = tower_pieces(before, [EncoderLayer(layer) for layer in layers])
    pieces.append(Piece("after", "after", after, pieces[-1].outputs, ("features",)))
    return picture_stage(pieces, image_size)


def tower_pieces(before: nn.Module, layers: Sequence[nn.Module]) -> list[Piece]:
    """pixels -> what the last of `layers`, all of one kind, makes of them."""
    pieces = [Piece("before", "before", before, ("pixels",), ("hidden",))]
    for i, layer in enumerate(layers):
        pieces.append(Piece(f"layer_{i}", "layer", layer, pieces[-1].outputs, (f"hidden_{i}",)))
    return pieces


def picture_stage(pieces: Sequence[Piece], image_size: int, outputs: tuple[Port, ...] = ()) -> Stage:
    """The stage `vision`, of pieces that begin with pixels (1, 3, S, S); one output `features` where none are named."""
    example = (torch.zeros(1, 3, image_size, image_size),)
    names = tuple(port.name for port in outputs) or ("features",)
    chain = Chain(pieces, ("pixels",), names, (example, example)).eval()
    if not outputs:
        with torch.no_grad():
            shape = tuple(chain(*example)[0].shape)
        outputs = (Port(name="features", dtype="float32", shape=shape, kind="features"),)
    first = pieces[0]
    return Stage(
        name="vision",
        module=chain,
        inputs=(Port(name="pixels", dtype="float32", shape=(1, 3, image_size, image_size), kind="pixels"),),
        outputs=outputs,
        example=example,
        # The convolution of raw pixels: a hundredth of the work, and most of what int8 would lose.
        quant_exclude=tuple(
            f"{first.name}/{name}" for name, weight in first.module.state_dict().items() if weight.ndim == 4
        ),
    )


def embedding_table(embedding: nn.Embedding) -> NDArray[Any]:
    """(V, H): what the model makes of each id, in float16 where that loses nothing."""
    with torch.no_grad():
        table = embedding(torch.arange(embedding.num_embeddings)).numpy()
    with np.errstate(over="ignore"):
        small = table.astype(np.float16)
    return small if np.array_equal(small.astype(np.float32), table) else np.ascontiguousarray(table)


def chat_cache(checkpoint: Checkpoint, text: Any, context: int | None, words: Words) -> CacheSpec:
    """As `cache_spec`; where `context` is None, with room for the largest picture, a question and an answer.

    Raises:
        FamilyError: more than the model was made for, or no room for one tile of a picture and an answer.
    """
    usual = max(USUAL_CONTEXT, words.tokens(QUESTION, SQUARE) + 2 * ANSWER)
    cache = cache_spec(checkpoint, text, context, usual)
    least = words.prompt.picture_tokens + ANSWER
    if cache.slots < least:
        raise FamilyError(
            f"{checkpoint / CONFIG}: expected a context that holds a picture ({words.prompt.picture_tokens} tokens), a "
            f"question and an answer, got {cache.slots} tokens; "
            + (
                "the model has no more"
                if context is None
                else f"give --context {-(-2 * least // STEP) * STEP}, or none"
            )
        )
    return cache


def cache_spec(checkpoint: Checkpoint, text: Any, context: int | None, usual: int = USUAL_CONTEXT) -> CacheSpec:
    """Room for `context` tokens, rounded up to whole steps, or for as many as `usual`.

    Raises:
        FamilyError: more than the model was made for.
    """
    limit = int(text.max_position_embeddings)
    asked = min(limit, -(-usual // STEP) * STEP) if context is None else context
    step = min(STEP, limit)
    most = limit // step * step
    slots = -(-asked // step) * step if context is not None else min(asked, most) // step * step
    if not step <= slots <= most:
        raise FamilyError(
            f"{checkpoint / CONFIG}: expected a context of 1 to {most} tokens (whole steps of {step}, within "
            f"'text_config.max_position_embeddings' {limit}), got {asked}; give another --context"
        )
    heads = getattr(text, "num_key_value_heads", None) or text.num_attention_heads
    head_dim = getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads
    return CacheSpec(layers=text.num_hidden_layers, heads=heads, head_dim=head_dim, slots=slots, step=step)


class Original:
    """The upstream model in its own greedy search; see `ChatReference`."""

    def __init__(self, model: Any, inputs: Inputs) -> None:
        self._model, self._inputs = model, inputs

    def __call__(self, ids: Sequence[int], pixels: NDArray[np.float32] | None, most: int) -> tuple[Said, Logits]:
        """Greedy, with the checkpoint's own rules of when to stop."""
        seen = None if pixels is None else torch.from_numpy(np.ascontiguousarray(pixels))
        return greedy(self._model, self._inputs(seen, torch.tensor([list(ids)])), len(ids), most)


def greedy(model: Any, given: Mapping[str, Tensor], begun: int, most: int) -> tuple[Said, Logits]:
    """At most `most` tokens by upstream's own search, after the `begun` first ones of its row; their logits (n, V)."""
    plain = {"do_sample": False, "return_dict_in_generate": True, "output_logits": True}
    with torch.no_grad():
        out = model.generate(**given, max_new_tokens=most, **plain)
    return tuple(out.sequences[0, begun:].tolist()), torch.stack(out.logits)[:, 0].float().numpy()


@dataclass(frozen=True, kw_only=True)
class Parts:
    """What an adapter has found in a checkpoint.

    Attributes:
        windows: of each kind of attention, how far it looks back; null for all the way.
        generator: the part of the model whose settings say when an answer ends; None for the model itself.
    """

    family: str
    model: Any
    vision: Stage
    language: Language
    words: Words
    inputs: Inputs
    windows: Mapping[str, int | None]
    bidirectional: bool = False
    first_position: int = 0
    generator: Any = None


def prepare_chat(words: Words, cache: CacheSpec, load: Callable[[], ChatGraph]) -> Prepared:
    """A chat whose prompts are `words`, with the room of `cache`."""
    room = Room(words.tokens, cache.slots, ANSWER, "--context", words.tiles)
    return Prepared(task="chat", load=load, room=room)


def chat_graph(checkpoint: Checkpoint, parts: Parts) -> ChatGraph:
    """The graph of a chat.

    Raises:
        FamilyError: generation settings that change what the model says and that we do not know, or a processor that
            writes another number of image tokens than the vision part makes features.
    """
    check_features(checkpoint, parts.words.prompt.picture_tokens, int(parts.vision.outputs[0].shape[1]))
    language = parts.language
    check_search(checkpoint, parts.model.generation_config)  # the file, also where `generator` has settings of its own
    args = DecoderArgs(
        vision="vision",
        decoder="decoder",
        embeddings=EMBEDDINGS,
        cache=language.cache,
        masks={MASKS[kind]: parts.windows[kind] for kind in dict.fromkeys(language.kinds)},
        prefix="bidirectional" if parts.bidirectional else "causal",
        chunk=min(CHUNK, language.cache.slots),
        first_position=parts.first_position,
        stop_ids=stop_ids(checkpoint, parts.generator or parts.model),
    )
    return ChatGraph(
        family=parts.family,
        stages=(parts.vision, decoder_stage(language)),
        driver=DecoderSpec(args=args),
        preprocess={PICTURE: parts.words.operations},
        tokenizer=parts.words.tokenizer,
        prompt=parts.words.prompt,
        frozen=parts.words.frozen,
        embeddings=embedding_table(language.model.embed_tokens),
        reference=Original(parts.model, parts.inputs),
        source_sha256=checkpoint.sha256(),
    )
