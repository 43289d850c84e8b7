"""Checkpoint directories as `transformers` saves them: what is refused, and loading with its own classes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models

from edgevlm.errors import CheckpointError, FamilyError, require
from edgevlm_export.checkpoint import AGAIN, CONFIG, SIDE_FILES, TOKENIZER, Checkpoint
from edgevlm_export.families.common.loaded import check_loaded, check_loading, check_tied

# Settings of a search that change what is said: the values that change nothing, besides null.
PLAIN_SEARCH: Mapping[str, tuple[Any, ...]] = {
    **{"num_beams": (1,), "repetition_penalty": (1.0,), "encoder_repetition_penalty": (1.0,), "guidance_scale": (1.0,)},
    **{"no_repeat_ngram_size": (0,), "encoder_no_repeat_ngram_size": (0,), "min_length": (0,), "min_new_tokens": (0,)},
    **{name: ((), []) for name in ("suppress_tokens", "begin_suppress_tokens", "bad_words_ids", "stop_strings")},
    **dict.fromkeys(("forced_bos_token_id", "forced_eos_token_id", "sequence_bias"), ()),
    **dict.fromkeys(("exponential_decay_length_penalty", "penalty_alpha", "dola_layers", "watermarking_config"), ()),
}
PARTS = ("vision_config", "text_config", "qformer_config")  # objects within config.json
# Whole numbers above 0, of the model or of a part of it; what is not said there has upstream's own default.
SIZES = (
    *("image_size", "patch_size", "hidden_size", "intermediate_size", "projection_dim", "vocab_size"),
    *("num_attention_heads", "num_key_value_heads", "num_hidden_layers", "max_position_embeddings"),
    *("image_text_hidden_size", "num_query_tokens", "visual_embedding_dim"),
)
# What `clean_up_tokenization_spaces` does to a text, in this order.
SPACES = (
    *((" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't")),
    *((f" '{end}", f"'{end}") for end in ("m", "s", "ve", "re")),
)


def open_config(checkpoint: Checkpoint, architecture: str) -> Mapping[str, Any]:
    """config.json of a checkpoint that holds `architecture` and no code of its own.

    Raises:
        CheckpointError: a file that should be JSON is none, or a part of config.json is no object.
        FamilyError: code that would have to be trusted, another architecture, or a size that is
            no whole number above 0; with the field.
    """
    config = checkpoint.config
    for name in (CONFIG, *SIDE_FILES):
        if "auto_map" in checkpoint.json(name):
            raise FamilyError(
                f"{checkpoint / name}: 'auto_map' asks for code from the checkpoint (trust_remote_code), which edgevlm "
                "never runs: a model is data; export a checkpoint of the library's own classes"
            )
    said = checkpoint.architectures or (architecture,)
    if said != (architecture,):
        raise FamilyError(
            f"{checkpoint / CONFIG}: 'architectures': expected [{architecture!r}], got {list(said)!s:.200}; "
            "this is a part of the model, or one with another head: export the whole model"
        )
    _check_sizes(checkpoint, config, "")
    for name in PARTS:
        part = config.get(name)
        if part is not None and not isinstance(part, dict):
            raise CheckpointError(f"{checkpoint / CONFIG}: '{name}': expected an object, got {part!r:.80}; {AGAIN}")
        _check_sizes(checkpoint, part or {}, f"{name}.")
    return config


def _check_sizes(checkpoint: Checkpoint, part: Mapping[str, Any], place: str) -> None:
    for name in SIZES:
        value = part.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise FamilyError(
                f"{checkpoint / CONFIG}: '{place}{name}': expected a whole number above 0, got {value!r:.80}; "
                "this variant is not supported"
            )


def unsupported(checkpoint: Checkpoint, config: Mapping[str, Any], allowed: Mapping[str, tuple[Any, ...]]) -> None:
    """Refuse values that the adapter does not know: dotted field -> allowed ones; a field not there is fine.

    Raises:
        FamilyError: naming the field, what is allowed and what came.
    """
    for field, values in allowed.items():
        found: Any = config
        for part in field.split("."):
            found = found.get(part) if isinstance(found, Mapping) else None
        if found is not None and found not in values:
            raise FamilyError(
                f"{checkpoint / CONFIG}: {field!r}: expected one of {[v for v in values if v is not None]}, "
                f"got {found!r:.80}; this variant is not supported"
            )


def load_model(checkpoint: Checkpoint, name: str, **more: Any) -> Any:
    """The model of class `name`, in float32 and eval mode, every weight from the files; `more` for from_pretrained.

    Raises:
        CheckpointError: a file is missing or broken, or weights are missing, left over, have other shapes, are not
            finite or are not those of the files.
        DependencyError: transformers is not installed.
    """
    assert checkpoint.weight_files
    library = require("transformers", extra="export")
    with checkpoint.reading():
        settings = {"local_files_only": True, "use_safetensors": True, "dtype": torch.float32, **more}
        settings["ignore_mismatched_sizes"] = True  # they are reported by name, and refused
        model, told = getattr(library, name).from_pretrained(checkpoint.path, output_loading_info=True, **settings)
    check_loading(checkpoint, told)
    state = model.state_dict()
    if bad := [key for key, value in state.items() if value.is_floating_point() and not value.isfinite().all()]:
        raise CheckpointError(f"{checkpoint}: expected finite weights, found NaN or infinity in {bad[:5]}; {AGAIN}")
    check_tied(checkpoint, model.get_expanded_tied_weights_keys(all_submodels=True), state)
    check_loaded(checkpoint, state)
    return model.eval().requires_grad_(False)


def bundle_tokenizer(checkpoint: Checkpoint, tokenizer: Any) -> tuple[str, int]:
    """(tokenizer.json, or what upstream makes of the vocabulary that older checkpoints have instead, number of ids).

    Raises:
        CheckpointError: the file is no tokenizer.
        FamilyError: a tokenizer that is no part of the `tokenizers` library.
    """
    if checkpoint.has(TOKENIZER):
        return tokenizer_content(checkpoint), checkpoint.token_ids
    engine = backend_of(checkpoint, tokenizer)
    return engine.to_str(), max(engine.get_vocab(with_added_tokens=True).values()) + 1


def tokenizer_content(checkpoint: Checkpoint) -> str:
    """tokenizer.json, to the byte. Raises CheckpointError where it is missing or no tokenizer."""
    assert checkpoint.token_ids is not None
    return checkpoint.read(TOKENIZER).decode("utf-8")


def backend_of(checkpoint: Checkpoint, tokenizer: Any) -> Any:
    """Upstream's tokenizer as one of the `tokenizers` library. Raises FamilyError where it is none."""
    engine = getattr(tokenizer, "backend_tokenizer", None)
    if engine is None:
        raise FamilyError(
            f"{checkpoint}: the tokenizer {type(tokenizer).__name__}: expected one of the `tokenizers` library, got "
            f"one written in Python; save the checkpoint with its {TOKENIZER}"
        )
    return engine


def tokenizer_json(checkpoint: Checkpoint, tokenizer: Any) -> str:
    """tokenizer.json of one of upstream's, with what its `decode` does behind the file's own decoder.

    Raises:
        FamilyError: there is no decoder to put it behind, or it is no part of the `tokenizers` library.
    """
    fast = Tokenizer.from_str(backend_of(checkpoint, tokenizer).to_str())
    forced = tokenizer.clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output
    if tokenizer.clean_up_tokenization_spaces and (forced or not isinstance(fast.model, models.BPE)):
        if fast.decoder is None:
            raise FamilyError(
                f"{checkpoint / 'tokenizer_config.json'}: 'clean_up_tokenization_spaces': expected false for a "
                "tokenizer.json without a decoder, got true; this variant is not supported"
            )
        cleaning = (decoders.Replace(found, put) for found, put in SPACES)
        fast.decoder = decoders.Sequence([fast.decoder, decoders.Fuse(), *cleaning])
    text: str = fast.to_str()
    return text


def check_vocabulary(checkpoint: Checkpoint, ids: int, rows: int) -> None:
    """Refuse a tokenizer that can put out more ids than the embedding has rows.

    Raises:
        CheckpointError: with both numbers.
    """
    if ids > rows:
        raise CheckpointError(
            f"{checkpoint}: the tokenizer puts out ids up to {ids - 1}, the model's embedding has {rows} rows "
            "('text_config.vocab_size'); tokenizer and weights are of different models"
        )


def stop_ids(checkpoint: Checkpoint, model: Any) -> tuple[int, ...]:
    """The tokens that end an answer, from generation_config.json or else config.json.

    Raises:
        FamilyError: none is named, or a setting there changes what is said in a way that the runtime does not know.
    """
    settings = model.generation_config
    check_search(checkpoint, settings)
    for said in (settings, model.config, model.config.get_text_config()):
        ids = getattr(said, "eos_token_id", None)
        if ids is not None:
            return tuple(sorted({int(one) for one in (ids if isinstance(ids, (list, tuple)) else [ids])}))
    raise FamilyError(
        f"{checkpoint / 'generation_config.json'}: expected 'eos_token_id', found none there or in {CONFIG}; an answer "
        "would never end"
    )


def check_search(checkpoint: Checkpoint, settings: Any) -> None:
    """Refuse settings of a search that change what is said. Raises FamilyError."""
    for field, plain in PLAIN_SEARCH.items():
        value = getattr(settings, field, None)
        if value is not None and value not in plain:
            raise FamilyError(
                f"{checkpoint / 'generation_config.json'}: {field!r}: expected one of {[*plain, None]}, got "
                f"{value!r:.80}; this variant is not supported"
            )
