"""What the files of a checkpoint may not hold: adapters that are not merged, quantized weights, tensors of other types.

What the files state is what must be loaded: an adapter that was never merged, or weights whose scales lie in other
tensors, would become another model without a word.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from edgevlm.errors import FamilyError
from edgevlm_export.checkpoint import CONFIG, Checkpoint

MERGE = (
    "merge the adapter into the weights (PEFT: model.merge_and_unload(), then save_pretrained) and export what comes "
    "of it"
)
UNQUANTIZED = "export the unquantized checkpoint that it was made from; edgevlm quantizes by itself (--int8)"

ADAPTER_FILES = ("adapter_config.json", "adapter_model.*", "*lora*.safetensors", "*.lora.*")
ADAPTER_PARTS = re.compile(
    r"(^|\.)(lora_\w+|\w*_lora|base_layer|modules_to_save|original_module|dora_\w+|hada_\w+|lokr_\w+|ia3_\w+|oft_\w+"
    r"|boft_\w+|vera_\w+|prompt_encoder|prompt_embeddings|trainable_tokens_\w+|base_model)(\.|$)",
    re.IGNORECASE,
)
QUANTIZED_FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json", "quantization_config.json")
QUANTIZED_KEYS = ("quantization_config", "compression_config", "quantization")  # at any depth of config.json
QUANTIZED_PARTS = re.compile(
    r"(^|\.)(weight_scale\w*|weight_zero_point|weight_packed|weight_shape|weight_g_idx|weight_format|input_scale\w*"
    r"|output_scale|activation_scale|[kqv]_scale|scale_inv|scb|qweight|qzeros|scales|zeros|g_idx|absmax|quant_map"
    r"|nested_\w+|quant_state|\w*_?amax|\w+_quantizer|_packed_params|bitsandbytes__\w+)(\.|$)",
    re.IGNORECASE,
)
FLOATS = ("F16", "BF16", "F32", "F64")
COUNTERS = re.compile(r"(^|\.)(num_batches_tracked|position_ids|token_type_ids|relative_position_index)$")


def check_stored(checkpoint: Checkpoint) -> None:
    """Refuse a checkpoint whose files hold anything but whole, unquantized weights in one unambiguous place.

    Raises:
        CheckpointError: a file is missing or damaged, or files contradict each other.
        FamilyError: an adapter that is not merged, or quantized weights; with what to do.
    """
    _check_files(checkpoint)
    if field := next(_quantized_fields(checkpoint.config), None):
        raise FamilyError(f"{checkpoint / CONFIG}: {field!r}: expected none, got one: {UNQUANTIZED}")
    stored = checkpoint.tensors
    _refuse(checkpoint, [name for name in stored if ADAPTER_PARTS.search(name)], "an adapter that is not merged", MERGE)
    scales = [name for name in stored if QUANTIZED_PARTS.search(name)]
    _refuse(checkpoint, scales, "quantized weights with their scales", UNQUANTIZED)
    other = [f"{name} ({one.dtype})" for name, one in stored.items() if one.dtype not in FLOATS and not _counts(name)]
    _refuse(checkpoint, other, f"tensors of other types than {', '.join(FLOATS)}", UNQUANTIZED)


def _counts(name: str) -> bool:
    return COUNTERS.search(name) is not None


def _check_files(checkpoint: Checkpoint) -> None:
    adapters = sorted({path.name for pattern in ADAPTER_FILES for path in checkpoint.path.glob(pattern)})
    _refuse(checkpoint, adapters, "an adapter that is not merged", MERGE)
    quantized = [name for name in QUANTIZED_FILES if checkpoint.has(name)]
    quantized += sorted(path.name for path in checkpoint.path.glob("*.gguf"))
    _refuse(checkpoint, quantized, "quantized weights", UNQUANTIZED)


def _quantized_fields(part: Any, place: str = "") -> Iterator[str]:
    """Dotted fields of a config that speak of quantized weights."""
    if isinstance(part, Mapping):
        for name, value in part.items():
            if name in QUANTIZED_KEYS and value is not None:
                yield f"{place}{name}"
            yield from _quantized_fields(value, f"{place}{name}.")


def _refuse(checkpoint: Checkpoint, names: Sequence[str], what: str, instead: str) -> None:
    if names:
        raise FamilyError(
            f"{checkpoint}: expected whole weights, got {what}: {', '.join(names[:4])} ({len(names)} in all); {instead}"
        )
