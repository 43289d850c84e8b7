"""A checkpoint's own processor -> how words and pictures become ids: what a manifest says, and its tokenizer."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import numpy as np

from edgevlm.errors import CheckpointError, FamilyError, require
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.text import IMAGE, DialogueSpec, PictureText, PromptSpec
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.text import PromptWriter, Turn
from edgevlm.text.confined import MAX_SOURCE, Unanswered, run_confined
from edgevlm.text.prompt import tiles
from edgevlm.text.special_tokens import special_tokens
from edgevlm_export.checkpoint import AGAIN, CONFIG, TOKENIZER, Checkpoint
from edgevlm_export.families.common.picture_ops import picture_ops
from edgevlm_export.families.common.upstream import backend_of, tokenizer_json
from edgevlm_export.families.common.upstream_inputs import check_pictures, check_texts

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


TEMPLATE = "chat_template.jinja"  # the name of the template's file in a checkpoint
# (file, where in it) of the picture part's settings: newer checkpoints have the first
IMAGE_SETTINGS = (("processor_config.json", "image_processor"), ("preprocessor_config.json", None))
GRIDS = ((0, 0), (1, 2), (2, 1), (3, 4))  # tried against upstream's own text


@dataclass(frozen=True)
class Words:
    """What a bundle needs to know of a prompt.

    Attributes:
        prompt: for the manifest.
        frozen: what the chat template asks for besides the messages, such as dates and tools: its branches on them are
            as they are without.
        tokenizer: tokenizer.json with every token that the processor adds.
        operations: what is done to a picture.
        ids: the number of ids that the tokenizer can put out.
    """

    prompt: PromptSpec
    frozen: tuple[str, ...]
    tokenizer: str
    operations: tuple[ImageOp, ...]
    ids: int

    def tokens(self, text: str, size: tuple[int, int]) -> int:
        """Of a question about a picture of `size` (height, width), as the runtime writes it."""
        return len(self._writer.ids([Turn("user", text, 1)], [PicturePreprocessor(self.operations).grid(*size)]))

    def tiles(self, size: tuple[int, int]) -> int:
        """How many a picture of this size becomes."""
        return tiles(PicturePreprocessor(self.operations).grid(*size))

    @cached_property
    def _writer(self) -> PromptWriter:
        with TemporaryDirectory() as folder:
            path = Path(folder) / TOKENIZER
            path.write_text(self.tokenizer, encoding="utf-8")
            return PromptWriter(self.prompt, path)


class _Parts(NamedTuple):
    """A processor of upstream's, taken apart."""

    checkpoint: Checkpoint
    pictures: Any  # image processor
    tokenizer: Any
    settings: Mapping[str, Any]  # processor_config.json and the template
    image_token: str
    whole: Any  # the processor itself; None where it cannot be built without video


class _Kind(NamedTuple):
    """What is peculiar to one class of processors."""

    pictures: tuple[str, ...]  # classes of image processors that may come with it; the first where none is said
    text: Callable[[_Parts], PictureText]
    tokens: Callable[[_Parts, int], Any]  # of one tile, by the processor's own count; the tile's side
    settings: tuple[str, ...] = ()  # of processor_config.json, which the class takes
    plain: str | None = None  # with {bos}, or {begin} for what the tokenizer puts before a text
    special_tokens: bool = True
    needs_text: bool = True
    most_pictures: int | None = None


def read_words(checkpoint: Checkpoint, processor: str, features: int | None, image_size: int) -> Words:
    """The words and pictures of a checkpoint whose processor is of the class `processor`.

    `features` is how many vectors the vision part makes of one tile, where that is known already, `image_size` the side
    of that tile.

    Raises:
        CheckpointError: a file is missing or broken, or the tokenizer is another model's.
        FamilyError: a variant that is not supported, or a count that does not fit; with the field.
    """
    kind = KINDS[processor]
    parts = _open(checkpoint, processor, kind)
    operations = picture_ops(checkpoint, parts.pictures, image_size)
    tokens = kind.tokens(parts, image_size)
    check_features(checkpoint, tokens, tokens if features is None and _is_count(tokens) else features)
    check_pictures(checkpoint, parts.pictures, operations, image_size)
    template = None if kind.plain is not None else _template(parts)
    bos, tokenizer = parts.tokenizer.bos_token or "", tokenizer_json(checkpoint, parts.tokenizer)
    signs = special_tokens(json.loads(tokenizer))
    dialogue = template and derive_dialogue(
        checkpoint, template, parts.tokenizer.special_tokens_map, parts.image_token, signs
    )
    prompt = PromptSpec(
        dialogue=dialogue.spec if dialogue else None,
        plain=None if kind.plain is None else kind.plain.replace("{bos}", bos).replace("{begin}", _begin(parts)),
        placeholder=parts.image_token,
        image_id=_image_id(parts),
        picture_tokens=tokens,
        picture=kind.text(parts),
        needs_picture=kind.plain is not None,  # upstream refuses words alone there
        most_pictures=kind.most_pictures,
        needs_text=kind.needs_text,
        special_tokens=kind.special_tokens,
        unless_begins="" if template is None else bos,  # upstream's rule for templates
    )
    _check_text(parts, prompt, image_size)
    engine = backend_of(checkpoint, parts.tokenizer)
    ids = max(engine.get_vocab(with_added_tokens=True).values()) + 1
    check_texts(checkpoint, tokenizer, parts.tokenizer)
    return Words(prompt, dialogue.frozen if dialogue else (), tokenizer, operations, ids)


def check_features(checkpoint: Checkpoint, tokens: Any, features: int | None) -> None:
    """Refuse a processor that writes other than one token for each feature of a tile. Raises FamilyError."""
    if tokens != features:
        made = "a whole number above 0" if features is None else features
        raise FamilyError(
            f"{checkpoint}: the processor writes {tokens!r:.20} image tokens for a tile ('image_seq_len', "
            f"'image_seq_length', or 'patch_size' and its like), the vision part makes {made} features of it"
        )


def _is_count(tokens: object) -> bool:
    return isinstance(tokens, int) and not isinstance(tokens, bool) and tokens > 0


def _open(checkpoint: Checkpoint, processor: str, kind: _Kind) -> _Parts:
    pictures = checkpoint.part(f"{picture_class(checkpoint, kind.pictures)}Pil")
    library = require("transformers", extra="export")
    with checkpoint.reading():
        settings, _ = library.ProcessorMixin.get_processor_dict(checkpoint.path, local_files_only=True)
    tokenizer = checkpoint.tokenizer
    if processor == "SmolVLMProcessor":  # asks for a video part and torchvision, which pictures do not need
        return _Parts(checkpoint, pictures, tokenizer, settings, _named(tokenizer, "image_token", "<image>"), None)
    with checkpoint.reading():
        known = {key: settings[key] for key in kind.settings if key in settings}
        whole = getattr(library, processor)(image_processor=pictures, tokenizer=tokenizer, **known)
    return _Parts(checkpoint, pictures, whole.tokenizer, settings, str(whole.image_token), whole)


def picture_class(checkpoint: Checkpoint, known: Sequence[str]) -> str:
    """The image processor's class of a checkpoint, the first of `known` where none is said. Raises FamilyError."""
    for name, inside in IMAGE_SETTINGS:
        if not checkpoint.has(name):
            continue
        settings = checkpoint.json(name)
        found = settings.get(inside) or {} if inside else settings
        if not isinstance(found, Mapping):
            raise CheckpointError(f"{checkpoint / name}: '{inside}': expected an object, got {found!r:.80}; {AGAIN}")
        if said := found.get("image_processor_type"):
            plain = str(said).removesuffix("Fast").removesuffix("Pil")
            if plain not in known:
                raise FamilyError(
                    f"{checkpoint / name}: 'image_processor_type': expected one of {list(known)}, got "
                    f"{said!r:.80}; this variant is not supported"
                )
            return plain
    return known[0]


def _template(parts: _Parts) -> str:
    found = parts.settings.get("chat_template")
    if isinstance(found, Mapping):
        found = found.get("default")
    if not isinstance(found, str) or not found.strip():
        raise FamilyError(
            f"{parts.checkpoint}: expected a chat template ({TEMPLATE}, or 'chat_template' in processor_config.json), "
            "found none: how a question is put to this model is not known; add the template it was trained with"
        )
    return found


def _begin(parts: _Parts) -> str:
    """What the tokenizer itself puts before a text. Raises FamilyError where it puts something behind one."""
    begin, tokenizer = parts.tokenizer("").input_ids, parts.tokenizer
    text = "What is this?"
    own, bare = tokenizer(text).input_ids, tokenizer(text, add_special_tokens=False).input_ids
    if own != [*begin, *bare]:
        raise FamilyError(
            f"{parts.checkpoint}: the tokenizer's special tokens: expected them before a text, as {begin}, got {own} "
            f"for {text!r}; this variant is not supported"
        )
    return "".join(tokenizer.convert_ids_to_tokens(begin))


def _image_id(parts: _Parts) -> int:
    token, tokenizer = parts.image_token, parts.tokenizer
    ids = tokenizer.encode(token, add_special_tokens=False)
    if len(ids) != 1 or ids[0] == tokenizer.unk_token_id:
        raise CheckpointError(
            f"{parts.checkpoint}: expected a tokenizer that knows {token!r}, got the ids {ids} for it; "
            "tokenizer and processor are of different models"
        )
    config = parts.checkpoint.config
    said = config.get("image_token_id", config.get("image_token_index"))
    if said is not None and said != ids[0]:
        raise CheckpointError(
            f"{parts.checkpoint / CONFIG}: 'image_token_id' is {said!r:.20}, the tokenizer's {token!r} is {ids[0]}; "
            "tokenizer and weights are of different models"
        )
    return int(ids[0])


def _check_text(parts: _Parts, prompt: PromptSpec, image_size: int) -> None:
    """Refuse a processor that writes another text for a picture than the manifest would."""
    writes = "replace_image_token"
    if parts.whole is None or writes not in vars(type(parts.whole)):  # the latter writes the tokens itself, as a row
        return
    for rows, columns in GRIDS if prompt.picture.tile else GRIDS[:1]:
        pixels = np.zeros((1, 3, image_size, image_size), np.float32)
        want = parts.whole.replace_image_token({"rows": [[rows]], "cols": [[columns]], "pixel_values": pixels}, 0)
        got = _picture_text(prompt.picture, (rows, columns)).replace(IMAGE, parts.image_token * prompt.picture_tokens)
        if got != want:
            raise FamilyError(
                f"{parts.checkpoint}: a picture of {rows} x {columns} tiles: expected the text {got!r:.200}, the "
                f"processor writes {want!r:.200}; this version of transformers is not supported"
            )


def _picture_text(text: PictureText, grid: tuple[int, int]) -> str:
    """What stands for a picture of `grid` (rows, columns), with IMAGE for each tile's tokens."""
    rows, columns = grid
    if not rows:
        return text.whole
    lines = (
        "".join(
            text.tile.replace("{row}", str(row + 1)).replace("{column}", str(column + 1)) for column in range(columns)
        )
        for row in range(rows)
    )
    return "".join(line + text.row_end for line in lines) + text.after_tiles


def _named(owner: Any, name: str, otherwise: str) -> str:
    return str(getattr(owner, name, None) or otherwise)


def _tiled(parts: _Parts) -> PictureText:
    owner, tag = (parts.tokenizer, "global_image_token") if parts.whole is None else (parts.whole, "global_image_tag")
    around = _named(owner, "fake_image_token", "<fake_token_around_image>")
    last = f"{around}{_named(owner, tag, '<global-img>')}{IMAGE}{around}"
    return PictureText(
        whole=last, tile=f"{around}<row_{{row}}_col_{{column}}>{IMAGE}", row_end="\n", after_tiles=f"\n{last}"
    )


def _sequence_length(parts: _Parts, side: int) -> Any:
    return parts.settings.get("image_seq_len", 169)  # 169 is upstream's default


def _one_tile(parts: _Parts) -> PictureText:
    return PictureText(whole=IMAGE)


def _by_patches(parts: _Parts, side: int) -> Any:
    patch = parts.whole.patch_size
    if not isinstance(patch, int) or patch < 1:
        raise FamilyError(
            f"{parts.checkpoint}/processor_config.json: 'patch_size': expected the vision part's, got {patch!r:.20}; "
            "add it, it says how many tokens a picture takes"
        )
    skipped = parts.whole.vision_feature_select_strategy == "default"
    return (side // patch) ** 2 + parts.whole.num_additional_image_tokens - skipped


def _by_pictures(parts: _Parts, side: int) -> Any:
    return getattr(parts.pictures, "image_seq_length", None)


KINDS: Mapping[str, _Kind] = {
    "SmolVLMProcessor": _Kind(("SmolVLMImageProcessor", "Idefics3ImageProcessor"), _tiled, _sequence_length),
    "Idefics3Processor": _Kind(
        ("Idefics3ImageProcessor", "SmolVLMImageProcessor"), _tiled, _sequence_length, ("image_seq_len",)
    ),
    "LlavaProcessor": _Kind(
        pictures=("CLIPImageProcessor", "LlavaImageProcessor", "SiglipImageProcessor"),
        text=_one_tile,
        tokens=_by_patches,
        settings=("patch_size", "vision_feature_select_strategy", "image_token", "num_additional_image_tokens"),
    ),
    "Blip2Processor": _Kind(
        pictures=("BlipImageProcessor",),
        text=_one_tile,
        tokens=lambda parts, side: parts.whole.num_query_tokens,
        settings=("num_query_tokens",),
        plain="{images}{begin}{text}",
        special_tokens=False,
        needs_text=False,
        most_pictures=1,
    ),
    "PaliGemmaProcessor": _Kind(("SiglipImageProcessor",), _one_tile, _by_pictures, plain="{images}{bos}{text}\n"),
}
