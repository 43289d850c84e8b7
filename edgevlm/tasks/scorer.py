"""A scorer: features of a picture's regions and a text, read together; a score for each label out."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.bundle import Bundle
from edgevlm.drivers import CrossDriver
from edgevlm.drivers.dual import text_values
from edgevlm.engines import EngineFactory, open_engine
from edgevlm.errors import BundleError
from edgevlm.graph import Clock, Value
from edgevlm.options import RuntimeOptions
from edgevlm.tasks.assembly import open_graph
from edgevlm.tasks.base import ModelBase
from edgevlm.tasks.features import check_features, feature_limits
from edgevlm.text import TextEncoder


@dataclass(frozen=True)
class Scores:
    """A probability for each label of the model, and the raw logit it comes from."""

    labels: tuple[str, ...]
    scores: NDArray[np.float32]  # (C,)
    logits: NDArray[np.float32]  # (C,)

    @property
    def best(self) -> str:
        """The likeliest label."""
        return self.labels[int(np.argmax(self.logits))]


class Scorer(ModelBase):
    """A loaded model. Threads may share it and take turns.

    Attributes:
        labels: what it can answer, in the order of the scores.

    Raises:
        TaskError, BundleError, DependencyError, EngineError: when opening.
    """

    def __init__(
        self,
        bundle: Bundle,
        options: RuntimeOptions,
        *,
        engines: EngineFactory = open_engine,
        clock: Clock = time.perf_counter_ns,
    ) -> None:
        manifest = bundle.manifest
        text, self.labels, args = manifest.scorer()
        self._encode = TextEncoder(bundle.tokenizer(), text)
        self._head = manifest.stages[args.head]
        if args.vision is not None or args.scores != "softmax":
            raise BundleError(
                "driver.args: expected no vision in a scorer, which is given features, and scores by softmax, got "
                f"{args.vision!r} and {args.scores!r}; export the bundle again"
            )
        with ExitStack() as opened:
            graph = open_graph(bundle, options, engines, clock, opened)
            self._driver = CrossDriver(manifest, graph)
            if self._driver.columns != len(self.labels):
                raise BundleError(
                    f"stage {args.head!r}: expected scores of the {len(self.labels)} labels, it has "
                    f"{self._driver.columns} columns; export the bundle again"
                )
            opened.pop_all()
        self._call_count = 0
        super().__init__(bundle, options, clock, graph, self._driver.memory())

    @property
    def limits(self) -> tuple[int, int, int]:
        """(fewest regions of a picture, most of them, V)."""
        return feature_limits(self._head, self._driver.features.name)

    @property
    def width(self) -> int:
        """V: how many features a region has."""
        return self.limits[2]

    @property
    def most_regions(self) -> int:
        """How many regions a picture may have."""
        return self.limits[1]

    def score(self, features: NDArray[np.float32], text: str) -> Scores:
        """A score for each label, given float32 features (R, V) of a picture's regions and what is asked about it.

        Raises:
            ShapeError: the features have another type or width, or there are too few or too many regions.
            NonFiniteError: NaN or infinity in the features, or in the model's output.
            InstructionError: the text is empty or too long.
            EngineError: an engine failed.
            SessionError: the scorer was closed.
        """
        with self._timed():
            port = self._driver.features.name
            regions = check_features(features, self._head, port)[None]
            self._call_count += 1
            looked = {port: Value(("regions", self._call_count), regions)}
            logits = self._driver.read(looked, text_values(text, self._encode.encode), self._memory)
        powers = np.exp(logits - logits.max())
        return Scores(self.labels, powers / powers.sum(), logits.copy())
