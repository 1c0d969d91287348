"""Means over seeds, paired differences, and what may be said about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from scipy import stats

BETTER, WORSE, NO_DIFFERENCE, FEW_SEEDS = 'better', 'worse', 'no difference beyond the spread', 'few seeds'
MIN_SEEDS = 3
CONFIDENCE = 0.95


@dataclass(frozen=True)
class Mean:
    """Mean and sample standard deviation (None for a single value) of ``n`` values."""

    mean: float
    sd: float | None
    n: int


@dataclass(frozen=True)
class Difference:
    """Mean of paired differences with the t-interval around it (None below `MIN_SEEDS`) and the verdict in words."""

    mean: float
    interval: tuple[float, float] | None
    n: int
    verdict: str


def mean_of(values: Sequence[float]) -> Mean | None:
    """Summarise one value per seed; None of none."""
    if not values:
        return None
    mean = math.fsum(values) / len(values)
    if len(values) == 1:
        return Mean(mean, None, 1)
    return Mean(mean, math.sqrt(math.fsum((v - mean) ** 2 for v in values) / (len(values) - 1)), len(values))


def paired_difference(values: Mapping[int, float], reference: Mapping[int, float]) -> Difference | None:
    """``values`` minus ``reference``, seed by seed; seeds that only one of them has are left out.

    The interval is the 95 % t-interval of the mean difference. It is not corrected for the number of comparisons.
    """
    summary = mean_of([values[seed] - reference[seed] for seed in sorted(values.keys() & reference.keys())])
    if summary is None:
        return None
    if summary.n < MIN_SEEDS:
        return Difference(summary.mean, None, summary.n, FEW_SEEDS)
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, summary.n - 1)) * summary.sd / math.sqrt(summary.n)
    low, high = summary.mean - half, summary.mean + half
    verdict = BETTER if low > 0 else WORSE if high < 0 else NO_DIFFERENCE
    return Difference(summary.mean, (low, high), summary.n, verdict)
