"""From the values a tensor took to the threshold that int8 must hold. Symmetric, streaming, order-independent counts.

`minmax` keeps every value. `mse` gives up rare outliers where that makes the mean squared quantization error smaller,
which is what matters when a range is 127 steps wide. Source of the second: Migacz, 8-bit Inference with TensorRT
(2017) for the idea of searching thresholds on a histogram; the squared error is the criterion of Banner et al. 2019.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

BINS = 4096
LEVELS = 127
CANDIDATES = 256


class HistogramObserver:
    """Minimum, maximum and a histogram of magnitudes, whose range doubles when a larger value comes."""

    def __init__(self) -> None:
        self.counts = np.zeros(BINS, np.int64)
        self.limit = 0.0  # the histogram spans [0, limit), a power of two
        self.minimum = math.inf
        self.maximum = -math.inf

    def add(self, values: NDArray[Any]) -> None:
        """Count every value; whoever calls has refused those that are not finite."""
        flat = np.asarray(values, np.float32).ravel()
        if not flat.size:
            return
        self.minimum = min(self.minimum, float(flat.min()))
        self.maximum = max(self.maximum, float(flat.max()))
        if self.peak == 0.0 or not math.isfinite(self.peak):
            self.counts[0] += flat.size
            return
        self._grow(self.peak)
        scale = int(math.log2(BINS / self.limit))  # a power of two, which may be beyond float32
        index = np.ldexp(np.abs(flat), scale).astype(np.int32)
        self.counts += np.bincount(index, minlength=BINS)

    @property
    def peak(self) -> float:
        """The largest magnitude observed."""
        return max(abs(self.minimum), abs(self.maximum))

    def _grow(self, peak: float) -> None:
        if self.limit == 0.0:
            self.limit = 2.0 ** (math.frexp(peak)[1])
        while peak >= self.limit:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.concatenate([merged, np.zeros(BINS - merged.size, np.int64)])
            self.limit *= 2.0


def minmax(observed: HistogramObserver) -> float:
    """The largest magnitude; 1.0 for a tensor that was always 0, whose scale does not matter."""
    return observed.peak or 1.0


def mse(observed: HistogramObserver) -> float:
    """The threshold up to the peak with the least mean squared error of rounding and clipping."""
    if not observed.peak:
        return 1.0
    centers = (np.arange(BINS) + 0.5) * (observed.limit / BINS)
    filled = np.flatnonzero(observed.counts)
    values, weights = centers[filled], observed.counts[filled].astype(np.float64)
    candidates = observed.peak * np.arange(CANDIDATES // 8, CANDIDATES + 1) / CANDIDATES
    scales = candidates[:, None] / LEVELS
    codes = np.minimum(np.rint(values / scales), LEVELS)
    errors = ((values - codes * scales) ** 2 * weights).sum(1)
    return float(candidates[int(np.argmin(errors))])


# Name in the table -> how a threshold is chosen.
OBSERVERS: Mapping[str, Callable[[HistogramObserver], float]] = {"minmax": minmax, "mse": mse}
