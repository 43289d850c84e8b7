"""What a family adapter hands to the exporter: pure tensor functions, and how the runtime is to join them."""

from __future__ import annotations

import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from edgevlm.manifest.contract import Contract
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.schema import DriverSpec, Port, PromptSpec, QuestionSpec, Task, TextSpec

TOKENIZER, EMBEDDINGS = "tokenizer.json", "embeddings.npy"  # files of a bundle


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One pure tensor function, to become one ONNX graph.

    Attributes:
        inputs, outputs: the graph's ports, in the order of the module's arguments and results.
        example: one tensor for each input; its shapes are the traced ones.
        dynamic: symbol -> (min, opt, max), for the symbols that appear in port shapes.
        quant_exclude: nodes, by the name of their weight, that stay in fp32 inside a quantized stage.
        frame_cache: what a cached result of this stage depends on, see the manifest.
    """

    name: str
    module: torch.nn.Module
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    example: tuple[torch.Tensor, ...]
    dynamic: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    quant_exclude: tuple[str, ...] = ()
    frame_cache: Literal["frame", "instruction", "none"] = "none"


@dataclass(frozen=True, kw_only=True)
class WindowInputs:
    """Everything the original model sees in one step, preprocessed by the runtime's own code.

    Attributes:
        pixels: camera -> float32 (T, 3, H, W), oldest slot first.
        ids, mask: int64 and float32 (1, max_tokens); None where the model takes no words.
        state: float32 (1, S) normalized; None where the contract has no state.
        noise: float32 (1, K, A) that the chunk is made of; None where it is made of none.
    """

    pixels: Mapping[str, NDArray[np.float32]]
    ids: NDArray[np.int64] | None
    mask: NDArray[np.float32] | None
    state: NDArray[np.float32] | None
    noise: NDArray[np.float32] | None = None


LARGE = 20_000_000  # weights of a stage for which a second thread is worth waiting for

Logits = NDArray[np.float32]
Said = tuple[int, ...]  # tokens

# The original model on one step: `chunk` (1, K, A) and, with a plan, `waypoints` (1, P, D) and `step_logits` (1, n).
Reference = Callable[[WindowInputs], dict[str, NDArray[np.float32]]]


@dataclass(frozen=True)
class Answer:
    """What a retriever says of I pictures and T texts."""

    logits: NDArray[np.float32]  # (I, T)
    images: NDArray[np.float32]  # (I, D), of length 1
    texts: NDArray[np.float32]  # (T, D), of length 1


class ChatReference(Protocol):
    """The original chat model, on ids in which every picture in their row already has its image tokens."""

    def __call__(self, ids: Sequence[int], pixels: NDArray[np.float32] | None, most: int) -> tuple[Said, Logits]:
        """By upstream's own greedy search: at most `most` tokens, and the logits (n, V) each was chosen from."""
        ...


# The original retriever on prepared pictures (I, 3, H, W) and raw texts, which its own tokenizer reads.
RetrieverReference = Callable[[NDArray[np.float32], Sequence[str]], Answer]


@dataclass(frozen=True)
class VisionCall:
    """What a detector says of one picture with N regions and T texts."""

    logits: NDArray[np.float32]  # (N, T)
    boxes: NDArray[np.float32]  # (N, 4), centre x, centre y, width, height in 0..1
    objectness: NDArray[np.float32] | None = None  # (N,)


# The original detector on one prepared picture (1, 3, H, W) and raw texts, which its own tokenizer reads.
DetectorReference = Callable[[NDArray[np.float32], Sequence[str]], VisionCall]


# The original scorer on features of regions (R, V) and a raw text: logits (C,).
ScorerReference = Callable[[NDArray[np.float32], str], NDArray[np.float32]]


@dataclass(frozen=True, kw_only=True)
class StageGraph(ABC):
    """A model, cut into stages: what graphs of every task have.

    Attributes:
        tokenizer: the content of the bundle's tokenizer.json, or a policy's file of it; None for a policy that takes
            no words.
        source_sha256: of the checkpoint's files.
    """

    family: str
    stages: tuple[Stage, ...]
    driver: DriverSpec
    preprocess: Mapping[str, tuple[ImageOp, ...]]
    tokenizer: Path | str | None
    source_sha256: str
    extensions: Mapping[str, Any] = field(default_factory=dict)

    @property
    @abstractmethod
    def task(self) -> Task:
        """What the bundle will be loaded as."""

    def write_files(self, root: Path) -> None:
        """Put into a bundle's directory what it has besides stages."""
        if self.tokenizer is None:
            return
        if isinstance(self.tokenizer, Path):
            shutil.copyfile(self.tokenizer, root / TOKENIZER)
        else:
            (root / TOKENIZER).write_bytes(self.tokenizer.encode())

    def stage(self, name: str) -> Stage:
        """The stage of this name; KeyError is a defect of the adapter."""
        return {stage.name: stage for stage in self.stages}[name]


@dataclass(frozen=True, kw_only=True)
class PolicyGraph(StageGraph):
    """A policy, cut into stages.

    Attributes:
        reference: the ORIGINAL model on a whole window in one forward; the judge of the export. It must not be made
            from the stages, else a fault in the cut goes unseen.
        embeddings: (V, H) float32 or float16, what a model reads for its ids that has no stage for them; else None.
        own_choice: whether the adapter says what stays in floats (docs/decisions/0009); else it is measured.
    """

    tokenizer: Path | None
    contract: Contract
    reference: Reference
    embeddings: NDArray[Any] | None = None
    own_choice: bool = False

    @property
    def task(self) -> Task:
        """policy"""
        return "policy"

    def write_files(self, root: Path) -> None:
        """The tokenizer and the embeddings."""
        super().write_files(root)
        if self.embeddings is not None:
            np.save(root / EMBEDDINGS, self.embeddings)


@dataclass(frozen=True, kw_only=True)
class RetrieverGraph(StageGraph):
    """A retriever, cut into stages; `reference` is the ORIGINAL model in one forward, not made from the stages."""

    tokenizer: str
    text: TextSpec
    reference: RetrieverReference

    @property
    def task(self) -> Task:
        """retriever"""
        return "retriever"


@dataclass(frozen=True, kw_only=True)
class DetectorGraph(StageGraph):
    """A detector, cut into stages; `reference` is the ORIGINAL model in one forward, not made from the stages."""

    tokenizer: str
    text: TextSpec
    reference: DetectorReference

    @property
    def task(self) -> Task:
        """detector"""
        return "detector"


@dataclass(frozen=True, kw_only=True)
class ScorerGraph(StageGraph):
    """A scorer of answers, as one stage over words and features of regions.

    Attributes:
        labels: of its columns.
        width: V, of the features of one region.
        reference: the ORIGINAL model in one forward, not made from the stage.
    """

    tokenizer: str
    text: TextSpec
    labels: tuple[str, ...]
    width: int
    reference: ScorerReference

    @property
    def task(self) -> Task:
        """scorer"""
        return "scorer"

    @property
    def limits(self) -> tuple[int, int, int]:
        """(fewest regions, most regions, V) that the stage takes."""
        (stage,) = self.stages
        (regions,) = (port.shape[1] for port in stage.inputs if port.kind == "features")
        low, _, high = stage.dynamic[str(regions)]
        return low, high, self.width


@dataclass(frozen=True, kw_only=True)
class TalkGraph(StageGraph):
    """A chat of any loop.

    Attributes:
        embeddings: (V, H) float32 or float16, what the decoder's first layer reads.
        reference: the ORIGINAL model, not made from the stages.
    """

    tokenizer: str
    embeddings: NDArray[Any]
    reference: ChatReference

    @property
    def task(self) -> Task:
        """chat"""
        return "chat"

    @property
    @abstractmethod
    def parts(self) -> dict[str, Any]:
        """What only this loop's manifest has."""

    def write_files(self, root: Path) -> None:
        """The tokenizer and the embeddings."""
        super().write_files(root)
        np.save(root / EMBEDDINGS, self.embeddings)


@dataclass(frozen=True, kw_only=True)
class ChatGraph(TalkGraph):
    """A chat that reads words and pictures in one row, cut into a vision and a decoder stage.

    Attributes:
        frozen: what the checkpoint's chat template asks for and is not given, such as dates and tools.
    """

    prompt: PromptSpec
    frozen: tuple[str, ...] = ()

    @property
    def parts(self) -> dict[str, Any]:
        """The rule for prompts."""
        return {"prompt": self.prompt}


@dataclass(frozen=True, kw_only=True)
class QuestionGraph(TalkGraph):
    """A chat whose decoder looks at the picture, cut into vision, decoder and, for some, an encoder of questions."""

    question: QuestionSpec

    @property
    def parts(self) -> dict[str, Any]:
        """The rule for questions."""
        return {"question": self.question}


def stage_outputs(stage: Stage, inputs: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """The stage's module in PyTorch; a small one on one thread, for on a busy machine it would wait for the others."""
    tensors = [torch.from_numpy(np.array(inputs[port.name])) for port in stage.inputs]
    small = sum(weight.numel() for weight in stage.module.parameters()) < LARGE
    with one_thread() if small else nullcontext(), torch.no_grad():
        results = stage.module(*tensors)
    results = results if isinstance(results, tuple) else (results,)
    return {port.name: value.numpy() for port, value in zip(stage.outputs, results, strict=True)}


@contextmanager
def one_thread() -> Iterator[None]:
    """PyTorch on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
