"""A checkpoint directory, opened once: every file is read at its first use, and what was read is what is hashed.

Nothing here imports torch. Libraries pass over tensors that a model has no place for, and make up those that it lacks,
so the headers of the weights are read here, before anything is loaded. An adapter that was never
merged, or weights whose scales lie in other tensors, would become another model without a word: both are refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer

from edgevlm.bundle import file_sha256
from edgevlm.errors import CheckpointError, FamilyError, require

if TYPE_CHECKING:
    from torch import Tensor

CONFIG, WEIGHTS, TOKENIZER = "config.json", "model.safetensors", "tokenizer.json"
INDEX = "model.safetensors.index.json"
SIDE_FILES = ("processor_config.json", "preprocessor_config.json", "tokenizer_config.json")
VOCABULARIES = (TOKENIZER, "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
# The small files that make a model of the transformers library what it is.
DESCRIBING = (
    *(CONFIG, *SIDE_FILES, TOKENIZER, "special_tokens_map.json", "added_tokens.json"),
    *("vocab.json", "merges.txt", "spiece.model"),
    *("generation_config.json", "chat_template.jinja", "chat_template.json"),
)
AGAIN = "copy or train the checkpoint again"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors")
LARGEST_HEADER = 100 << 20  # bytes, the format's own bound

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


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as the header of its file states it; dtype in the format's own words, e.g. "BF16"."""

    file: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Checkpoint:
    """A checkpoint directory on this machine.

    Attributes:
        origin: null for a directory of the caller's; else "endpoint", "id", "revision" (as asked) and "commit".
    """

    path: Path
    origin: Mapping[str, str] | None = None
    _contents: dict[str, bytes] = field(default_factory=dict, init=False, repr=False)
    _objects: dict[str, dict[str, Any]] = field(default_factory=dict, init=False, repr=False)

    def __str__(self) -> str:
        return str(self.path)

    def __truediv__(self, name: str) -> Path:
        return self.path / name

    def has(self, name: str) -> bool:
        """Whether the directory has this file."""
        return (self.path / name).is_file()

    def file(self, name: str) -> Path:
        """The path of a file that must be there. Raises CheckpointError."""
        if not self.path.is_dir():
            raise CheckpointError(
                f"{self}: expected a checkpoint directory with {CONFIG}, {WEIGHTS} and {TOKENIZER}, found none there"
            )
        if not self.has(name):
            present = sorted(item.name for item in self.path.iterdir())
            raise CheckpointError(f"{self / name}: expected this file in the checkpoint, found only {present}; {AGAIN}")
        return self.path / name

    def read(self, name: str) -> bytes:
        """The content of a small file that must be there. Raises CheckpointError."""
        if name not in self._contents:
            path = self.file(name)
            try:
                self._contents[name] = path.read_bytes()
            except OSError as error:
                raise CheckpointError(f"{path}: expected a file that can be read, got: {error}; {AGAIN}") from error
        return self._contents[name]

    def json(self, name: str) -> Mapping[str, Any]:
        """The object in a JSON file; empty where there is no such file. Raises CheckpointError."""
        if name != CONFIG and not self.has(name):
            return {}
        if name not in self._objects:
            try:
                value = json.loads(self.read(name))
            except (ValueError, RecursionError) as error:
                raise CheckpointError(f"{self / name}: expected JSON, got an error at {error}; {AGAIN}") from error
            if not isinstance(value, dict):
                raise CheckpointError(f"{self / name}: expected an object, got {type(value).__name__}; {AGAIN}")
            self._objects[name] = value
        return self._objects[name]

    @property
    def config(self) -> Mapping[str, Any]:
        """config.json, which must be there. Raises CheckpointError."""
        return self.json(CONFIG)

    @property
    def architectures(self) -> tuple[str, ...]:
        """The classes that config.json names; none where it names none. Raises CheckpointError."""
        names = self.config.get("architectures")
        if names is None:
            return ()
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise CheckpointError(
                f"{self / CONFIG}: 'architectures': expected a list of class names, got {names!r:.80}; {AGAIN}"
            )
        return tuple(names)

    @cached_property
    def token_ids(self) -> int:
        """How many ids tokenizer.json can put out. Raises CheckpointError where it is missing or no tokenizer."""
        path = self.file(TOKENIZER)
        try:
            json.loads(self.read(TOKENIZER))
            size = Tokenizer.from_buffer(self.read(TOKENIZER)).get_vocab_size()
        except Exception as error:  # the library raises bare Exception for everything
            raise CheckpointError(
                f"{path}: expected a tokenizer of the `tokenizers` library, got an error: {error}; {AGAIN}"
            ) from error
        return int(size)

    @cached_property
    def tokenizer(self) -> Any:
        """Upstream's tokenizer, from a vocabulary that is there. Raises CheckpointError, DependencyError."""
        if not any(map(self.has, VOCABULARIES)):
            raise CheckpointError(
                f"{self / TOKENIZER}: expected this file, or one of {VOCABULARIES[1:]}, found none of them; {AGAIN}"
            )
        if self.has(TOKENIZER):
            assert self.token_ids is not None  # the library's own errors do not name the file
        return self.part("AutoTokenizer")

    def part(self, name: str, **more: Any) -> Any:
        """Upstream's config, processor or tokenizer of class `name`. Raises CheckpointError, DependencyError."""
        library = require("transformers", extra="export")
        with self.reading():
            return getattr(library, name).from_pretrained(self.path, local_files_only=True, **more)

    @contextmanager
    def reading(self) -> Iterator[None]:
        """transformers' failures on the directory as one error of ours; its progress bars and notes stay silent."""
        log = require("transformers", extra="export").utils.logging
        hub = require("huggingface_hub.errors", extra="export")
        broken = require("safetensors", extra="export").SafetensorError
        verbosity, bars = log.get_verbosity(), log.is_progress_bar_enabled()
        log.set_verbosity_error()
        log.disable_progress_bar()
        try:
            yield
        except (
            OSError,
            ValueError,
            RuntimeError,
            LookupError,
            TypeError,
            AttributeError,
            ArithmeticError,
            ImportError,
            broken,
            hub.StrictDataclassError,
        ) as error:
            text = " ".join(str(error).split())
            raise CheckpointError(f"{self}: transformers cannot read it: {text[:400]}; {AGAIN}") from error
        finally:
            log.set_verbosity(verbosity)
            if bars:
                log.enable_progress_bar()

    def weights(self, only: Callable[[str], bool] = lambda name: True) -> dict[str, Tensor]:
        """The tensors of model.safetensors whose names `only` takes; read at each call, for they are large.

        Raises:
            CheckpointError: missing, truncated, or holding NaN or infinity.
        """
        path, library = self.file(WEIGHTS), require("safetensors", extra="export")
        try:
            with library.safe_open(str(path), framework="pt") as tensors:
                weights = {name: tensors.get_tensor(name) for name in tensors.keys() if only(name)}  # noqa: SIM118
        except (library.SafetensorError, OSError, ValueError) as error:
            raise CheckpointError(f"{path}: expected whole safetensors, got an error: {error}; {AGAIN}") from error
        if bad := [name for name, value in weights.items() if value.is_floating_point() and not value.isfinite().all()]:
            raise CheckpointError(f"{path}: expected finite weights, found NaN or infinity in {bad[:5]}; {AGAIN}")
        return weights

    @cached_property
    def weight_index(self) -> Mapping[str, str] | None:
        """Tensor -> file, of a checkpoint in shards; None for one without an index. Raises CheckpointError."""
        if not self.has(INDEX):
            return None
        shards = self.json(INDEX).get("weight_map")
        if not isinstance(shards, dict) or not shards or not all(isinstance(name, str) for name in shards.values()):
            raise CheckpointError(f"{self / INDEX}: expected a 'weight_map' of tensors to files; {AGAIN}")
        return shards

    @cached_property
    def weight_files(self) -> tuple[str, ...]:
        """The names of the files that hold the weights: model.safetensors, or the shards of the index.

        Raises:
            CheckpointError: none or some are missing, lead outside, or there are two sets of weights.
        """
        index = self.weight_index
        names = [WEIGHTS] if index is None else sorted(set(index.values()))
        if outside := [name for name in names if Path(name).name != name]:
            raise CheckpointError(f"{self / INDEX}: expected plain file names, got {outside[:3]}; do not use it")
        if missing := [name for name in names if not self.has(name)]:
            hint = AGAIN
            if any(self.path.glob("*.bin")):
                hint = "its weights are pickled, which edgevlm never opens: save it as safetensors with save_pretrained"
            raise CheckpointError(f"{self}: expected the weights {names}, missing {missing}; {hint}")
        present = [path.name for path in self.path.iterdir() if path.name == WEIGHTS or SHARD.fullmatch(path.name)]
        if more := sorted(set(present) - set(names)):
            raise CheckpointError(
                f"{self}: expected no weight files but {names}, got {more[:3]} besides: which of the two sets of "
                f"weights is meant is not known; remove the one that is not, or bring its {INDEX}"
            )
        return tuple(names)

    @cached_property
    def tensors(self) -> Mapping[str, StoredTensor]:
        """Every tensor that the weight files hold, by name, from their headers.

        Raises:
            CheckpointError: a file is missing or damaged, holds what the index does not name there, or a tensor lies
                in two files.
        """
        stored: dict[str, StoredTensor] = {}
        for file in self.weight_files:
            for name, tensor in read_header(self / file).items():
                if name in stored:
                    raise CheckpointError(
                        f"{self}: expected each tensor in one file, got {name!r} in {stored[name].file} and {file}; "
                        f"{AGAIN}"
                    )
                stored[name] = tensor
        index = self.weight_index or {name: tensor.file for name, tensor in stored.items()}
        if wrong := [name for name in {*index, *stored} if index.get(name) != _file(stored, name)]:
            name = min(wrong)
            raise CheckpointError(
                f"{self / INDEX}: expected it to name the file of every tensor, got {index.get(name)!s:.100} for "
                f"{name!r}, which lies in {_file(stored, name)} ({len(wrong)} such in all); {AGAIN}"
            )
        return stored

    def sha256(self, names: Sequence[str] | None = None, also: Iterable[tuple[str, str]] = ()) -> str:
        """One hash over files of the directory, those of a transformers model where none are named.

        Args:
            also: (name, its own sha256) of files elsewhere that the model was made from.
        """
        chosen = [*filter(self.has, DESCRIBING), *self.weight_files] if names is None else names
        lines = [
            f"{digest}  {name}\n" for name, digest in (*((name, self.file_sha256(name)) for name in chosen), *also)
        ]
        return hashlib.sha256("".join(lines).encode()).hexdigest()

    def file_sha256(self, name: str) -> str:
        """Of one file, as it was read where it was."""
        content = self._contents.get(name)
        return file_sha256(self / name) if content is None else hashlib.sha256(content).hexdigest()


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
    unique = dict(pairs)
    if len(unique) != len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"{next(name for name in names if names.count(name) > 1)!r} stands there twice")
    return unique


def _file(stored: Mapping[str, StoredTensor], name: str) -> str:
    return stored[name].file if name in stored else "no file"


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
