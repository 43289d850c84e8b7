"""A scorer: features of a picture's regions and a text, read together; a score for each label out."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.drivers import CrossDriver
from edgevlm.drivers.numerics import softmax
from edgevlm.drivers.ports import text_values
from edgevlm.errors import BundleError
from edgevlm.graph import Graph, Value
from edgevlm.manifest.schema import ScorerManifest
from edgevlm.tasks.base import TurnTakingModel
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


class Scorer(TurnTakingModel):
    """A loaded model. Threads may share it and take turns.

    Attributes:
        labels: what it can answer, in the order of the scores.

    Raises:
        TaskError, BundleError, DependencyError, EngineError: when opening.
    """

    def _read_manifest(self) -> None:
        manifest = self.bundle.manifest.require(ScorerManifest)
        self._args, self.labels = manifest.driver.args, manifest.labels
        self._encode = TextEncoder(self.bundle.tokenizer(), manifest.text)
        self._head = manifest.stages[self._args.head]
        self._call_count = 0
        if self._args.vision is not None or self._args.scores != "softmax":
            raise BundleError(
                "driver.args: expected no vision in a scorer, which is given features, and scores by softmax, got "
                f"{self._args.vision!r} and {self._args.scores!r}; export the bundle again"
            )

    def _open_driver(self, graph: Graph) -> None:
        self._driver = CrossDriver(self._args, self.bundle.manifest.stages, graph)
        self._memory = self._driver.memory()
        if self._driver.columns != len(self.labels):
            raise BundleError(
                f"stage {self._args.head!r}: expected scores of the {len(self.labels)} labels, it has "
                f"{self._driver.columns} columns; export the bundle again"
            )

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
        return Scores(self.labels, softmax(logits), logits.copy())
