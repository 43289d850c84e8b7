"""Stamps against arrival: which clock the stamps of a recording are of, and how old each was on arrival by that clock.

A stamp before its arrival is latency or a clock that is behind; a stamp after it can only be a clock that is ahead, or
another clock for all topics, such as a simulation's. So ages are taken against the log times if these fit any topic,
and else against the topic that fits most of the others: interpolated over log time, so that a simulated clock may run
slower, stop or start again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgevlm.rosmsg.contract_check import Limits

_NS = 1e9


@dataclass(frozen=True)
class Arrival:
    """When the messages of a topic came and what they were stamped with, in order of log times."""

    log_ns: NDArray[np.int64]  # (M,)
    stamps_ns: NDArray[np.int64]  # (M,)

    @property
    def lag_ns(self) -> NDArray[np.int64]:
        """Log time minus stamp."""
        return self.log_ns - self.stamps_ns


@dataclass(frozen=True)
class Ages:
    """How old each topic's stamps were on arrival.

    Attributes:
        ages_ns: topic -> (M,), by the clock that the stamps are of.
        reference: the topic whose clock that is; empty: the log times'.
        apart_ns: how far the log times are ahead of that clock, the median.
    """

    ages_ns: Mapping[str, NDArray[np.int64]]
    reference: str
    apart_ns: int


def ages(arrivals: Mapping[str, Arrival], limits: Limits) -> Ages:
    """Ages by the log times, or by the clock of a topic where the log times fit none.

    Args:
        arrivals: in the order in which topics are tried as the reference; without those that have no messages.
    """
    best = Ages({topic: arrival.lag_ns for topic, arrival in arrivals.items()}, "", 0)
    fewest = _count_odd(best, limits)
    if fewest < len(arrivals):
        return best
    for topic, arrival in arrivals.items():
        apart_ns = int(np.median(arrival.lag_ns))
        relative = {name: other.lag_ns - _at(arrival, other.log_ns) for name, other in arrivals.items()}
        tried = Ages(relative, topic, apart_ns)
        odd = _count_odd(tried, limits)
        if odd < fewest:
            best, fewest = tried, odd
    return best


def _at(reference: Arrival, log_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """The reference's lag at these log times."""
    base_ns, from_ns = int(reference.lag_ns[0]), int(reference.log_ns[0])  # float64 holds differences exactly enough
    x = (log_ns - from_ns).astype(np.float64)
    xs = (reference.log_ns - from_ns).astype(np.float64)
    relative = np.interp(x, xs, (reference.lag_ns - base_ns).astype(np.float64))
    return base_ns + np.rint(relative).astype(np.int64)


def _count_odd(tried: Ages, limits: Limits) -> int:
    odd = 0
    for ages_ns in tried.ages_ns.values():
        low_s, age_s, high_s = np.percentile(ages_ns.astype(np.float64), (10, 50, 90)) / _NS
        odd += not -limits.future_s <= age_s <= limits.max_age_s or high_s - low_s > limits.max_age_s
    return odd
