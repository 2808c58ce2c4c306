"""Uncertainty of a score: samples of one user are not independent, so users are the clusters."""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from typing import NamedTuple, TypeVar

from personaagent.programs.errors import InputError

Sample = TypeVar("Sample")

FEW_CLUSTERS = 10
"""Below so many users an interval is itself not to be trusted much."""


class Interval(NamedTuple):
    """An estimate and its interval. The bounds are NaN if there are fewer than two users."""

    estimate: float
    low: float
    high: float


def clustered_mean(values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95) -> Interval:
    """Mean with a user-clustered t interval, G - 1 degrees of freedom.

    The variance of the mean of N values in G clusters is G / (G - 1) * sum_g (sum_i (x_gi - mean))^2 / N^2
    (Miller 2024, arXiv 2411.00640, section 2.2, with the finite-cluster factor of Cameron and Miller 2015, eq. 11,
    for a mean). With one value a cluster it is the ordinary t interval.

    Raises:
        InputError: if there is no value, or not as many clusters as values.
    """
    if not values or len(values) != len(clusters):
        raise InputError(f"need as many clusters as values and at least one, but got {len(clusters)} and {len(values)}")
    mean = math.fsum(values) / len(values)
    residuals: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        residuals.setdefault(cluster, []).append(value - mean)
    groups = len(residuals)
    if groups < 2:
        return Interval(mean, math.nan, math.nan)
    total = math.fsum(math.fsum(group) ** 2 for group in residuals.values())
    error = math.sqrt(groups / (groups - 1) * total) / len(values)
    return _t_interval(mean, error, groups, level)


def jackknifed(
    statistic: Callable[[Sequence[Sample]], float],
    samples: Sequence[Sample],
    clusters: Sequence[Hashable],
    level: float = 0.95,
) -> Interval:
    """Any statistic with a delete-one-user jackknife t interval, for those that are no mean (macro-F1).

    The variance is (G - 1) / G * sum_g (s_(g) - s_(.))^2 over the values without user g (Efron and Tibshirani
    1993, ch. 11). Deterministic: no draws.

    Raises:
        InputError: as `clustered_mean`.
    """
    if not samples or len(samples) != len(clusters):
        raise InputError(
            f"need as many clusters as samples and at least one, but got {len(clusters)} and {len(samples)}"
        )
    estimate = statistic(samples)
    groups = list(dict.fromkeys(clusters))
    if len(groups) < 2:
        return Interval(estimate, math.nan, math.nan)
    without = [statistic([s for s, c in zip(samples, clusters, strict=True) if c != group]) for group in groups]
    centre = math.fsum(without) / len(groups)
    variance = (len(groups) - 1) / len(groups) * math.fsum((value - centre) ** 2 for value in without)
    return _t_interval(estimate, math.sqrt(variance), len(groups), level)


def _t_interval(estimate: float, error: float, groups: int, level: float) -> Interval:
    from scipy.stats import t

    half = float(t.ppf((1 + level) / 2, groups - 1)) * error
    return Interval(estimate, estimate - half, estimate + half)
