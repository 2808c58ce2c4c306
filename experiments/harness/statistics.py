"""Uncertainty of scores: samples of one user are not independent, so users are the clusters.

Intervals (`clustered_mean`, `jackknifed`), a test (`sign_flip_test`), its correction for many pairs (`holm`) and a
plan (`users_needed`), all on plain numbers. `comparison` applies them to the methods of a table.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Callable, Hashable, Sequence
from typing import Literal, NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from personaagent.programs.errors import InputError

Sample = TypeVar("Sample")
Correction = Literal["G-1", "bell-mccaffrey"]

FEW_CLUSTERS = 10
"""Below so many users an interval is itself not to be trusted much."""
EXACT_USERS = 16
"""Up to so many users that differ, every sign flip is counted: 2^16."""
DRAWS = 20_000
"""Sign flips drawn where there are more users."""
NOISE = 1e-10
"""What is smaller than this part of the numbers that it was computed from is rounding, and counts as nothing."""
MOST_USERS = 1_000_000
"""`users_needed` names no larger number."""
_BLOCK = 8
"""Users whose signs are drawn at once, as one of 2^8 sums."""


class Interval(NamedTuple):
    """An estimate and its interval.

    The bounds are NaN if there are fewer than two users, or a value is infinite or too large to be squared.
    """

    estimate: float
    low: float
    high: float


class ClusteredError(NamedTuple):
    """A mean and how sure it is."""

    mean: float
    error: float
    """Standard error, in the values' unit. NaN if there are fewer than two users, or a value is infinite or too large
    to be squared."""
    users: int
    freedom: float
    """Degrees of freedom of its t distribution, from 0 to G - 1."""


class SignFlip(NamedTuple):
    """Outcome of a sign-flip test."""

    p: float
    """Two-sided, above 0 and at most 1."""
    flips: int
    """How many sign flips p was counted over."""
    exact: bool
    """True if those are all that there are."""


def clustered_error(
    values: Sequence[float], clusters: Sequence[Hashable], correction: Correction = "G-1"
) -> ClusteredError:
    """Mean and user-clustered standard error. Every value weighs the same, so a user weighs by the number of values.

    With N values in G clusters, n_g of them in cluster g, and u_g = sum_i (x_gi - mean), the variance of the mean is

    * `G-1`: G / (G - 1) * sum_g u_g^2 / N^2 with G - 1 degrees of freedom (Miller 2024, arXiv 2411.00640, section
      2.2, with the finite-cluster factor of Cameron and Miller 2015, eq. 11, for a mean);
    * `bell-mccaffrey`: sum_g u_g^2 / (1 - h_g) / N^2 with h_g = n_g / N (CR2) and 1 / (sum_g h_g^2 + (sum_g a_g)^2
      - sum_g a_g^2) degrees of freedom, where a_g = h_g^2 / (1 - h_g): what section VI.D of Cameron and Miller 2015
      gives for a mean under independent values (Bell and McCaffrey 2002).

    For users of one size both are the same. For users of very unequal size the first is too sure of itself:
    experiments/calibration.py prints by how much.

    Raises:
        InputError: if there is no value, one is NaN, or there are not as many clusters as values.
    """
    if not len(values) or len(values) != len(clusters):
        raise InputError(f"need as many clusters as values and at least one, but got {len(clusters)} and {len(values)}")
    if any(map(math.isnan, values)):
        raise InputError("a value is NaN: leave out what was not answered")
    by_cluster: dict[Hashable, list[float]] = {}
    for value, cluster in zip(values, clusters, strict=True):
        by_cluster.setdefault(cluster, []).append(value)
    total, groups = len(values), len(by_cluster)
    try:
        mean = math.fsum(values) / total
        squares = [math.fsum(value - mean for value in group) ** 2 for group in by_cluster.values()]
        if groups < 2:
            return ClusteredError(mean, math.nan, groups, 0)
        if correction == "G-1":
            error = math.sqrt(groups / (groups - 1) * math.fsum(squares)) / total
            return ClusteredError(mean, error, groups, groups - 1)
        shares = [len(group) / total for group in by_cluster.values()]
        error = math.sqrt(math.fsum(u / (1 - h) for u, h in zip(squares, shares, strict=True))) / total
    except (OverflowError, ValueError):  # infinite, or too large to be squared, as an LM's rating may be
        return ClusteredError(sum(values) / total, math.nan, groups, 0)
    weights = [h * h / (1 - h) for h in shares]
    inverse = math.fsum(h * h for h in shares) + math.fsum(weights) ** 2 - math.fsum(a * a for a in weights)
    return ClusteredError(mean, error, groups, min(1 / inverse, groups - 1))


def clustered_mean(
    values: Sequence[float], clusters: Sequence[Hashable], level: float = 0.95, correction: Correction = "G-1"
) -> Interval:
    """Mean with a user-clustered t interval; see `clustered_error`. With one value a cluster it is the ordinary one.

    Raises:
        InputError: as `clustered_error`, or if level is not between 0 and 1.
    """
    found = clustered_error(values, clusters, correction)
    return t_interval(found.mean, found.error, found.freedom, level)


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
        InputError: if there is no sample, not as many clusters as samples, or level is not between 0 and 1.
    """
    if not samples or len(samples) != len(clusters):
        raise InputError(
            f"need as many clusters as samples and at least one, but got {len(clusters)} and {len(samples)}"
        )
    estimate = statistic(samples)
    groups = list(dict.fromkeys(clusters))
    if len(groups) < 2:
        return t_interval(estimate, math.nan, 0, level)
    without = [statistic([s for s, c in zip(samples, clusters, strict=True) if c != group]) for group in groups]
    try:
        centre = math.fsum(without) / len(groups)
        variance = (len(groups) - 1) / len(groups) * math.fsum((value - centre) ** 2 for value in without)
    except (OverflowError, ValueError):  # as in clustered_error
        variance = math.nan
    return t_interval(estimate, math.sqrt(variance), len(groups) - 1, level)


def t_interval(estimate: float, error: float, freedom: float, level: float = 0.95) -> Interval:
    """An estimate plus and minus the t quantile times its standard error. No bounds if the error is not finite.

    Raises:
        InputError: if level is not between 0 and 1.
    """
    from scipy.special import stdtrit

    _check_share("level", level)
    if not math.isfinite(error):
        return Interval(estimate, math.nan, math.nan)
    half = float(stdtrit(freedom, (1 + level) / 2)) * error
    return Interval(estimate, estimate - half, estimate + half)


def sign_flip_test(sums: Sequence[float] | NDArray[np.float64], seed: int = 0) -> SignFlip:
    """Two-sided test that methods are exchangeable within a user, by flipping the signs of whole users.

    Were two methods the same, swapping their names for one user would change nothing but the sign of this user's
    sum. The statistic is |sum of all sums|; p is the share of sign flips that reach it, ties included, the one
    that was seen being one of them. Up to `EXACT_USERS` users whose sum is not 0 all flips are counted. Above,
    `DRAWS` of them are drawn, and p = (1 + reached) / (1 + draws), which is never too small (Phipson and Smyth
    2010). (A flip of a 0 changes nothing, so leaving such users out keeps p.)

    p does not depend on the users' order, nor on which method comes first. It is never below 2^(1 - users):
    see `fewest_users`.

    Args:
        sums: one number a user, the sum of this user's paired differences, in any unit; one user or more.
        seed: of the draws, 0 or more.

    Raises:
        InputError: if there is no user, a sum is not finite, or the seed is negative.
    """
    values = np.abs(np.asarray(sums, dtype=np.float64))
    if values.ndim != 1 or not values.size or not np.isfinite(values).all():
        raise InputError("need one finite sum of differences a user, and at least one user")
    if seed < 0:
        raise InputError(f"seed cannot be negative but got {seed}")
    largest = float(values.max())
    if largest == 0:
        return SignFlip(1.0, 1, True)
    # The flips of sums and of their absolute values are the same set; sorted, the draws meet the same sums always.
    signed = np.asarray(sums, dtype=np.float64) / largest
    scaled = np.sort(values / largest)
    scaled = scaled[scaled > NOISE]
    reached = abs(math.fsum(signed)) - NOISE * math.fsum(scaled)
    if scaled.size <= EXACT_USERS:
        # Of a flip and its opposite one is enough: the first sign is kept.
        flipped = scaled[0] + _signed_sums(scaled[1:])
        return SignFlip(float(np.mean(np.abs(flipped) >= reached)), 2**scaled.size, True)
    generator = np.random.default_rng(seed)
    flipped = np.zeros(DRAWS)
    for start in range(0, scaled.size, _BLOCK):
        block = _signed_sums(scaled[start : start + _BLOCK])
        flipped += block[generator.integers(block.size, size=DRAWS)]
    return SignFlip((1 + int(np.sum(np.abs(flipped) >= reached))) / (1 + DRAWS), DRAWS, False)


def _signed_sums(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """The sums under all 2^len sign flips."""
    found = np.zeros(1)
    for value in values:
        found = np.concatenate([found + value, found - value])
    return found


def fewest_users(alpha: float = 0.05) -> int:
    """The least G with 2^(1 - G) at most alpha: with fewer users that differ no scores let `sign_flip_test` reach it.

    Over a table of m pairs Holm's correction asks one pair to reach alpha / m: 6 users for one pair at 0.05, 12 for 91.

    Raises:
        InputError: if alpha is not between 0 and 1.
    """
    _check_share("alpha", alpha)
    return 1 + math.ceil(-math.log2(alpha))


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979).

    The i-th smallest of m is max_{j<=i} min(1, (m - j + 1) p_(j)). To call all with at most alpha different keeps
    the chance of any false call at alpha or below, however the tests depend on each other.

    Args:
        p_values: each from 0 to 1; none gives none.

    Raises:
        InputError: if one is not from 0 to 1.
    """
    for p in p_values:
        if not 0 <= p <= 1:  # also NaN
            raise InputError(f"a p-value is from 0 to 1 but got {p}")
    adjusted, highest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return tuple(adjusted)


def t_test_power(difference: float, spread: float, users: int, alpha: float = 0.05) -> float:
    """Chance that a two-sided one-sample t test over users' mean differences reaches alpha, from alpha to 1.

    P(|T| > t_(1 - alpha/2, G - 1)) for T noncentral t with G - 1 degrees of freedom and noncentrality
    sqrt(G) |difference| / spread (Cohen 1988, section 2.3; Miller 2024, section 5, is its normal approximation).

    Args:
        difference: true mean difference, finite.
        spread: standard deviation of the differences between users, above 0, in the same unit.
        users: G, 2 or more.
        alpha: level of the test, between 0 and 1.

    Raises:
        InputError: if an argument is outside its range.
    """
    from scipy.special import nctdtr, stdtrit

    _check_share("alpha", alpha)
    if users < 2 or not math.isfinite(difference) or not 0 < spread < math.inf:
        raise InputError(
            f"need a finite difference, a spread above 0 and 2 users, but got {difference}, {spread} and {users}"
        )
    noncentrality = math.sqrt(users) * abs(difference) / spread
    bound = float(stdtrit(users - 1, 1 - alpha / 2))
    within, opposite = nctdtr(users - 1, noncentrality, [bound, -bound]).tolist()
    # scipy has NaN for some tails, all of them below 1e-12.
    return (0.0 if math.isnan(opposite) else opposite) + 1 - (0.0 if math.isnan(within) else within)


def users_needed(difference: float, spread: float, alpha: float = 0.05, power: float = 0.8) -> int | None:
    """The least number of users with which a difference of this size would be separable with this power.

    The least G with `t_test_power` of at least power, never below `fewest_users`, since it is the sign-flip test
    that decides (its power is about the t test's). It takes difference and spread at face value. Both are usually
    estimates: this is a size to plan the next study by and says no more about this one than p does (Hoenig and
    Heisey 2001).

    Args:
        difference: mean difference; its sign does not matter.
        spread: standard deviation between users of their mean differences, 0 or more, in the same unit. Where users
            differ in size: the standard error times sqrt(G), for users of the same mix of sizes.
        alpha: level of the test, between 0 and 1. For a table of m pairs alpha / m is always enough.
        power: between 0 and 1.

    Returns:
        None if no number up to `MOST_USERS` is enough (a difference of 0), if difference or spread is not finite, or
        if alpha is below 1 / (1 + DRAWS), which drawn flips cannot reach (a table of more than 1,000 pairs at 0.05).

    Raises:
        InputError: if alpha or power is not between 0 and 1, or the spread is negative.
    """
    _check_share("power", power)
    fewest = fewest_users(alpha)
    if spread < 0:
        raise InputError(f"spread cannot be negative but got {spread}")
    if difference == 0 or not math.isfinite(difference) or not math.isfinite(spread) or alpha < 1 / (1 + DRAWS):
        return None
    if spread == 0:
        return fewest
    sizes = range(fewest, MOST_USERS + 1)
    found = bisect_left(sizes, power, key=lambda users: t_test_power(difference, spread, users, alpha))
    return sizes[found] if found < len(sizes) else None


def _check_share(name: str, value: float) -> None:
    if not 0 < value < 1:  # also NaN
        raise InputError(f"{name} must be between 0 and 1 but got {value}")
