"""What models of every task share: how one is opened and closed, and turns of those that keep no dialogue."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from types import MappingProxyType, TracebackType
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.drivers.ports import Words, text_values
from edgevlm.engines import EngineFactory, open_engine
from edgevlm.errors import BundleError, InstructionError, SessionError
from edgevlm.graph import Clock, Graph, Memory, Value
from edgevlm.manifest.image_ops import ImageOp
from edgevlm.manifest.stages import StageSpec
from edgevlm.manifest.text import TextSpec
from edgevlm.options import RuntimeOptions
from edgevlm.preprocess import PicturePreprocessor
from edgevlm.tasks.assembly import open_graph
from edgevlm.tasks.generation_config import ImageInput, Picture, open_images
from edgevlm.text import TextEncoder

Self = TypeVar("Self", bound="Model")


class Model(ABC):
    """A loaded bundle.

    Raises:
        TaskError: the bundle is another task's.
        BundleError: its stages do not fit its task.
        DependencyError, EngineError: an engine is missing, or refuses a stage.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: RuntimeOptions,
        *,
        engines: EngineFactory = open_engine,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        self.bundle, self.options, self.clock = bundle, options, clock
        self.closed, self._lock = False, threading.Lock()
        self._read_manifest()
        with ExitStack() as opened:  # what was opened is closed again when a later part is refused
            self._graph = open_graph(bundle, options, engines, clock, opened)
            self._open_driver(self._graph)
            opened.pop_all()

    @abstractmethod
    def _read_manifest(self) -> None:
        """What the model has besides its engines: refused before any of these is opened. Raises as the class says."""

    @abstractmethod
    def _open_driver(self, graph: Graph) -> None:
        """What runs the stages. Raises as the class says."""

    def close(self) -> None:
        """Free the engines; every later call raises SessionError."""
        self.closed = True
        self._graph.close()

    def __enter__(self: Self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class TurnTakingModel(Model):
    """One that keeps no dialogue: threads may share it and take turns, and each call is timed.

    Attributes:
        last_times_ns: of the last call: "step", "preprocess" and the engine time of each stage that ran.
    """

    _memory: Memory
    last_times_ns: Mapping[str, int] = MappingProxyType({})

    @property
    def stage_runs(self) -> MappingProxyType[str, int]:
        """Stage -> engine runs since the bundle was loaded."""
        return MappingProxyType(self._memory.runs)

    def close(self) -> None:
        """Free the engines once nobody is served; every later call raises SessionError."""
        with self._lock:
            super().close()

    @contextmanager
    def _timed(self) -> Iterator[None]:
        """One call's turn. Raises SessionError after `close`."""
        with self._lock:
            if self.closed:
                raise SessionError(
                    f"{self.bundle.manifest.task}: expected an open one, it was closed; load the bundle again"
                )
            started = self.clock()
            self._memory.begin_step()
            yield
            self.last_times_ns = {**self._memory.times_ns, "step": self.clock() - started}

    @contextmanager
    def _preprocessing(self) -> Iterator[None]:
        started = self.clock()
        yield
        self._memory.add_time("preprocess", self.clock() - started)


class PictureModel(TurnTakingModel):
    """One that compares a picture with texts: each is prepared where it is new."""

    def _read_words_and_pictures(self, operations: Sequence[ImageOp], text: TextSpec) -> None:
        self._prepare = PicturePreprocessor(operations)
        self._encode = TextEncoder(self.bundle.tokenizer(), text)

    def _check_vision(self, stage: str) -> None:
        """Whether the preprocessing makes what the stage takes. Raises BundleError."""
        pixels = self._prepare(np.zeros((64, 64, 3), np.uint8)).shape
        check_pixels(stage, self.bundle.manifest.stages, pixels, "preprocess")

    def _picture(self, image: Picture) -> tuple[Value, ImageInput]:
        """(the pixels (1, 3, S, S) of a picture, made once they are looked at, the picture). Raises PictureError."""
        with self._preprocessing():
            (image_input,) = open_images([image])
        return Value(("picture", image_input.digest), lambda: self._pixels(image_input)), image_input

    def _pixels(self, image_input: ImageInput) -> NDArray[np.float32]:
        with self._preprocessing():
            return self._prepare(image_input.image)

    def _words(self, text: str) -> Words:
        """Ids and mask of a text, made where they are looked at. Raises InstructionError, also when that happens."""
        if not isinstance(text, str):
            raise InstructionError(f"text: expected words, got {text!r:.80}; give a description or a label")
        return text_values(text, self._encode.encode)


def check_pixels(stage: str, stages: Mapping[str, StageSpec], shape: Sequence[int], maker: str) -> None:
    """Whether a stage takes pixels of this shape. Raises BundleError."""
    expected = stages[stage].inputs[0].shape
    if len(expected) != 4 or any(
        isinstance(side, int) and side != actual for side, actual in zip(expected, shape, strict=True)
    ):
        raise BundleError(
            f"stage {stage!r}: expected pixels {expected}, {maker} makes {tuple(shape)}; export the bundle again"
        )
