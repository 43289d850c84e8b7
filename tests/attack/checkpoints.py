"""Checkpoints whose files lie: tensors dropped, added, renamed, retyped, doubled; configs and indexes that contradict.

The judge shares nothing with the product: it reads each safetensors file itself, by its header and raw bytes, and holds
every number of the changed files against what the stages to be traced have.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from support import film, hub
from support import lerobot_policies as policies

from edgevlm.errors import EdgevlmError
from edgevlm_export.families import build

WEIGHTS, INDEX, CONFIG = "model.safetensors", "model.safetensors.index.json", "config.json"
DTYPES = {"F16": np.float16, "F32": np.float32, "F64": np.float64}
# Of ACT: read by its training alone, or folded into constants (the places, and what a latent of zero becomes).
UNUSED = ("vae_encoder", "decoder_pos_embed", "encoder_1d_feature_pos_embed", "encoder_latent_input_proj")
Tensors = dict[str, torch.Tensor]


class Checkpoints:
    """Changed copies of small checkpoints of three families, loaded as an export loads them."""

    name, unit = "checkpoints", "checkpoints"
    limit_s, memory_mb = 60.0, 4000

    @cached_property
    def sources(self) -> dict[str, Path]:
        """One checkpoint of each family, made once for the process."""
        self._folder = tempfile.TemporaryDirectory(prefix="edgevlm-checkpoints-")
        root = Path(self._folder.name)
        policies.write_robot(root / "robot.yaml")
        return {
            "clip": hub.clip(root / "clip"),
            "sharded": hub.clip(root / "sharded", max_shard_size="200KB"),
            "film": film.write_checkpoint(root / "film"),
            "act": policies.write_policy(root / "act"),
        }

    def one(self, seed: int, directory: Path) -> str:
        """One change, or none: an untouched checkpoint must load."""
        random = np.random.default_rng(seed)
        kind = str(random.choice(list(self.sources)))
        folder = Path(shutil.copytree(self.sources[kind], directory / "checkpoint"))
        change = CHANGES[int(random.integers(len(CHANGES)))]
        change(folder, random)
        robot = self.sources[kind].parent / "robot.yaml" if kind == "act" else None
        try:
            graph = build(folder, robot=robot)
        except EdgevlmError:
            assert change is not nothing, f"{kind}: an untouched checkpoint was refused"
            return "refused"
        held = {_digest(value.numpy()) for stage in graph.stages for value in stage.module.state_dict().values()}
        held |= {_digest(part) for stage in graph.stages for part in _joined(stage.module.state_dict())}
        lost = [name for name, value in stored(folder).items() if not _leftover(name) and _digest(value) not in held]
        assert not lost, f"{kind}, {change.__name__}: loaded without {lost[:3]} of the files"
        return "loaded"


def stored(folder: Path) -> dict[str, NDArray[Any]]:
    """Every tensor of every weight file, read from its bytes."""
    result = {}
    for path in sorted(folder.glob("model*.safetensors")):
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        for name, one in json.loads(data[8 : 8 + length]).items():
            if name == "__metadata__":
                continue
            begin, end = (8 + length + place for place in one["data_offsets"])
            raw = np.frombuffer(data[begin:end], DTYPES.get(one["dtype"], np.uint8))
            if one["dtype"] == "BF16":
                raw = (np.frombuffer(data[begin:end], np.uint16).astype(np.uint32) << 16).view(np.float32)
            result[name] = raw
    return result


def _digest(value: NDArray[Any]) -> bytes:
    return np.ascontiguousarray(value, np.float32).tobytes() if value.dtype.kind == "f" else b""


def _joined(state: dict[str, torch.Tensor]) -> list[NDArray[Any]]:
    """Projections that the files hold as one."""
    return [
        np.concatenate([state[f"{stem}{part}.{end}"].numpy() for part in ("query", "key", "value")])
        for full in state
        for stem, end in [(full.rpartition("query.")[0], full.rpartition("query.")[2])]
        if full == f"{stem}query.{end}" and f"{stem}key.{end}" in state and f"{stem}value.{end}" in state
    ]


def _leftover(name: str) -> bool:
    return name.removeprefix("model.").startswith(UNUSED) or name.endswith(
        ("position_ids", "num_batches_tracked", "logit_scale")
    )


def _rewrite(folder: Path, random: Any, change: Callable[[Tensors, str], None]) -> None:
    files = sorted(folder.glob("model*.safetensors"))
    path = files[int(random.integers(len(files)))]
    weights = load_file(path)
    names = [name for name, value in weights.items() if value.is_floating_point() and value.numel() > 1]
    change(weights, names[int(random.integers(len(names)))])
    save_file({name: value.contiguous().clone() for name, value in weights.items()}, path, metadata={"format": "pt"})


def nothing(folder: Path, random: Any) -> None:
    """The checkpoint as it is."""


def drop(folder: Path, random: Any) -> None:
    """A tensor is missing."""
    _rewrite(folder, random, lambda weights, name: weights.__delitem__(name))


def rename(folder: Path, random: Any) -> None:
    """A tensor has another name."""
    ends = ("_orig", ".base_layer", ".lora_A.default", "_scale", ".weight", "2")
    end = ends[int(random.integers(len(ends)))]
    _rewrite(folder, random, lambda weights, name: weights.update({f"{name}{end}": weights.pop(name)}))


def add(folder: Path, random: Any) -> None:
    """A tensor more, beside another one."""
    ends = ("_scale", "_scale_inv", ".SCB", ".lora_B", ".absmax", "_extra", ".qzeros", ".magnitude")
    end = ends[int(random.integers(len(ends)))]
    _rewrite(folder, random, lambda weights, name: weights.update({f"{name}{end}": weights[name] * 2 + 1}))


def retype(folder: Path, random: Any) -> None:
    """A tensor of another dtype, which may round it."""
    kinds = (torch.float16, torch.bfloat16, torch.float64, torch.int8, torch.float8_e4m3fn, torch.int64, torch.bool)
    kind = kinds[int(random.integers(len(kinds)))]
    _rewrite(folder, random, lambda weights, name: weights.update({name: weights[name].to(kind)}))


def reshape(folder: Path, random: Any) -> None:
    """A tensor of another shape."""
    _rewrite(folder, random, lambda weights, name: weights.update({name: weights[name].reshape(-1)[:-1]}))


def poison(folder: Path, random: Any) -> None:
    """A number that is none."""
    _rewrite(folder, random, lambda weights, name: weights[name].reshape(-1).__setitem__(0, float("nan")))


def second(folder: Path, random: Any) -> None:
    """A tensor under a prefix that loaders strip, with other numbers."""
    prefix = ("model.", "module.", "_orig_mod.", "base_model.model.")[int(random.integers(4))]
    _rewrite(folder, random, lambda weights, name: weights.update({prefix + name: weights[name] + 1}))


def stray(folder: Path, random: Any) -> None:
    """Another weight file beside."""
    names = (
        WEIGHTS,
        "model-00001-of-00001.safetensors",
        "adapter_model.safetensors",
        "model-00009-of-00009.safetensors",
    )
    path = folder / names[int(random.integers(len(names)))]
    if path.exists():
        path = folder / names[3]
    save_file({"a.weight": torch.ones(3)}, path, metadata={"format": "pt"})


def index(folder: Path, random: Any) -> None:
    """An index that names another file for a tensor, or a tensor that is nowhere."""
    path = folder / INDEX
    result = json.loads(path.read_text())["weight_map"] if path.is_file() else {"a.weight": WEIGHTS}
    name = list(result)[int(random.integers(len(result)))]
    result[name if random.integers(2) else f"{name}.more"] = sorted(set(result.values()))[0]
    path.write_text(json.dumps({"weight_map": result}))


def config(folder: Path, random: Any) -> None:
    """A quantization config somewhere in config.json."""
    path = folder / CONFIG
    settings = json.loads(path.read_text())
    parts = [settings, *(part for part in settings.values() if isinstance(part, dict))]
    parts[int(random.integers(len(parts)))]["quantization_config"] = {"quant_method": "fp8"}
    path.write_text(json.dumps(settings))


def cut(folder: Path, random: Any) -> None:
    """A weight file that ends early, or has bytes behind its end."""
    path = sorted(folder.glob("model*.safetensors"))[0]
    data = path.read_bytes()
    path.write_bytes(data[: int(random.integers(len(data)))] if random.integers(2) else data + b"0" * 8)


CHANGES = (nothing, drop, rename, add, retype, reshape, poison, second, stray, index, config, cut)
