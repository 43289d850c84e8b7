"""The weights of a checkpoint as its files state them, read before anything is loaded: names, dtypes, shapes.

What the files state is what must be loaded. Libraries pass over tensors that a model has no place for, and make up
those that it lacks: an adapter that was never merged, or weights whose scales lie beside them, would become another
model without a word. Nothing here imports torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgevlm.errors import CheckpointError, FamilyError

CONFIG, WEIGHTS = "config.json", "model.safetensors"
INDEX = "model.safetensors.index.json"
AGAIN = "copy or train the checkpoint again"
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
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
LARGEST_HEADER = 100 << 20  # bytes, the format's own bound


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header of its file states it; dtype in the format's own words, e.g. "BF16"."""

    file: str
    dtype: str
    shape: tuple[int, ...]


def check_stored(checkpoint: Path, config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint whose files hold anything but whole, unquantized weights in one unambiguous place.

    Raises:
        CheckpointError: a file is missing or damaged, or files contradict each other.
        FamilyError: an adapter that is not merged, or quantized weights; with what to do.
    """
    _check_files(checkpoint)
    if field := next(_quantized_fields(config), None):
        raise FamilyError(f"{checkpoint / CONFIG}: {field!r}: expected none, got one: {UNQUANTIZED}")
    stored = stored_tensors(checkpoint)
    _refuse(checkpoint, [name for name in stored if ADAPTER_PARTS.search(name)], "an adapter that is not merged", MERGE)
    scales = [name for name in stored if QUANTIZED_PARTS.search(name)]
    _refuse(checkpoint, scales, "quantized weights with their scales", UNQUANTIZED)
    other = [f"{name} ({one.dtype})" for name, one in stored.items() if one.dtype not in FLOATS and not _counts(name)]
    _refuse(checkpoint, other, f"tensors of other types than {', '.join(FLOATS)}", UNQUANTIZED)


def stored_tensors(checkpoint: Path) -> dict[str, StoredTensor]:
    """Every tensor that the weight files hold, by name.

    Raises:
        CheckpointError: a file is missing or damaged, holds what the index does not name there, or a tensor lies in
            two files.
    """
    index = weight_index(checkpoint)
    stored: dict[str, StoredTensor] = {}
    for file in weight_files(checkpoint):
        for name, tensor in read_header(checkpoint / file).items():
            if name in stored:
                raise CheckpointError(
                    f"{checkpoint}: expected each tensor in one file, got {name!r} in {stored[name].file} and {file}; "
                    f"{AGAIN}"
                )
            stored[name] = tensor
    if index is not None and (wrong := [name for name in {*index, *stored} if index.get(name) != _file(stored, name)]):
        name = min(wrong)
        raise CheckpointError(
            f"{checkpoint / INDEX}: expected it to name the file of every tensor, got {index.get(name)!s:.100} for "
            f"{name!r}, which lies in {_file(stored, name)} ({len(wrong)} such in all); {AGAIN}"
        )
    return stored


def weight_files(checkpoint: Path) -> list[str]:
    """The names of the files that hold the weights: model.safetensors, or the shards of the index.

    Raises:
        CheckpointError: none or some are missing, lead outside, or there are two sets of weights.
    """
    index = weight_index(checkpoint)
    wanted = [WEIGHTS] if index is None else sorted(set(index.values()))
    if outside := [name for name in wanted if Path(name).name != name]:
        raise CheckpointError(f"{checkpoint / INDEX}: expected plain file names, got {outside[:3]}; do not use it")
    if missing := [name for name in wanted if not (checkpoint / name).is_file()]:
        hint = AGAIN
        if any(checkpoint.glob("*.bin")):
            hint = "its weights are pickled, which edgevlm never opens: save it as safetensors with save_pretrained"
        raise CheckpointError(f"{checkpoint}: expected the weights {wanted}, missing {missing}; {hint}")
    present = [path.name for path in checkpoint.iterdir() if path.name == WEIGHTS or SHARD.fullmatch(path.name)]
    if more := sorted(set(present) - set(wanted)):
        raise CheckpointError(
            f"{checkpoint}: expected no weight files but {wanted}, got {more[:3]} besides: which of the two sets of "
            f"weights is meant is not known; remove the one that is not, or bring its {INDEX}"
        )
    return wanted


def weight_index(checkpoint: Path) -> dict[str, str] | None:
    """Tensor -> file, of a checkpoint in shards; None for one without an index. Raises CheckpointError."""
    path = checkpoint / INDEX
    if not path.is_file():
        return None
    try:
        found = json.loads(path.read_bytes())
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected JSON, got an error at {error}; {AGAIN}") from error
    shards = found.get("weight_map") if isinstance(found, dict) else None
    if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
        raise CheckpointError(f"{path}: expected a 'weight_map' of tensors to files; {AGAIN}")
    return shards


def read_header(path: Path) -> dict[str, StoredTensor]:
    """The tensors of one safetensors file, whose bytes must all be there. Raises CheckpointError."""
    try:
        with path.open("rb") as stream:
            size = path.stat().st_size
            length = int.from_bytes(stream.read(8), "little")
            if not 0 < length <= min(LARGEST_HEADER, size - 8):
                raise ValueError(f"a header of {length} bytes in a file of {size}")
            header = json.loads(stream.read(length), object_pairs_hook=_without_repeats)
        header.pop("__metadata__", None)
        stored = {name: StoredTensor(path.name, str(one["dtype"]), tuple(one["shape"])) for name, one in header.items()}
        end = 8 + length + max((int(one["data_offsets"][1]) for one in header.values()), default=0)
        if end != size:
            raise ValueError(f"tensors up to byte {end} in a file of {size}")
    except (OSError, ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: expected whole safetensors, got an error: {error!s:.200}; {AGAIN}") from error
    return stored


def _without_repeats(pairs: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return found


def _file(stored: Mapping[str, StoredTensor], name: str) -> str:
    return stored[name].file if name in stored else "no file"


def _counts(name: str) -> bool:
    return COUNTERS.search(name) is not None


def _check_files(checkpoint: Path) -> None:
    adapters = sorted({path.name for pattern in ADAPTER_FILES for path in checkpoint.glob(pattern)})
    _refuse(checkpoint, adapters, "an adapter that is not merged", MERGE)
    quantized = [name for name in QUANTIZED_FILES if (checkpoint / name).is_file()]
    quantized += sorted(path.name for path in checkpoint.glob("*.gguf"))
    _refuse(checkpoint, quantized, "quantized weights", UNQUANTIZED)


def _quantized_fields(part: Any, place: str = "") -> Iterator[str]:
    """Dotted fields of a config that speak of quantized weights."""
    if isinstance(part, Mapping):
        for name, value in part.items():
            if name in QUANTIZED_KEYS and value is not None:
                yield f"{place}{name}"
            yield from _quantized_fields(value, f"{place}{name}.")


def _refuse(checkpoint: Path, names: Sequence[str], what: str, instead: str) -> None:
    if names:
        raise FamilyError(
            f"{checkpoint}: expected whole weights, got {what}: {', '.join(names[:4])} ({len(names)} in all); {instead}"
        )
