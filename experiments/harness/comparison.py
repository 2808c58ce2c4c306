"""Methods of a table held against each other: which pairs can be told apart, and how sure that is.

`differences` measures every pair, `judge` corrects for their number and marks them, `compare` does both:

    users = [f"user {number}" for number in range(8)]
    verdicts = compare({"rag": {(user, "q1"): 1.0 for user in users}, "prompt": {(user, "q1"): 0.0 for user in users}})
    [v.difference.first for v in verdicts if v.separable]  # ["rag"]

**What is weighted how.** Every query that both methods answered weighs the same, as in the score of a table, so a user
weighs by the number of these queries: the estimate is the difference of the two methods' means over them. The interval
and the test take the user as the unit, since queries of one user hang together. Both rest on the same sum of
differences over all queries, so they weigh alike.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from personaagent.experiments.harness.statistics import (
    NOISE,
    Correction,
    Interval,
    SignFlip,
    clustered_error,
    holm,
    sign_flip_test,
    t_interval,
    users_needed,
)
from personaagent.programs.errors import InputError

Question = TypeVar("Question", bound=tuple[Hashable, Hashable])
"""A user's id and a query's id."""
Scores = Mapping[Question, float]
"""What one method scored on each question that it answered."""


@dataclass(frozen=True)
class Difference:
    """One pair of methods over the queries that both answered: first minus second, in the score's unit."""

    first: str
    second: str
    users: int
    """Users with at least one of these queries."""
    queries: int
    """Queries that both answered: the difference is over these alone."""
    unpaired: int
    """Queries that only one of the two answered: left out."""
    interval: Interval
    """Mean difference and its user-clustered t interval. No bounds (NaN) under two users, or where a difference is
    infinite or too large to be squared; all NaN without a query."""
    spread: float
    """Standard error times sqrt(users): where users have equally many queries, the standard deviation of their mean
    differences. NaN where there are no bounds."""
    test: SignFlip
    """Of the users' summed differences. p is 1 without a query, or if a score is infinite (an LM's rating may be)."""


@dataclass(frozen=True)
class Verdict:
    """A pair of methods, judged as one of several."""

    difference: Difference
    p_holm: float
    """The test's p, adjusted for the number of pairs judged together."""
    separable: bool
    """True if p_holm is at most alpha. (The interval is not adjusted: it may exclude 0 where this is False.)"""
    users_needed: int | None
    """Users with whom this difference would be separable with 80 % power, were this the only pair."""
    users_needed_in_table: int | None
    """The same at alpha / pairs, which is always enough for Holm's correction. None: see `statistics.users_needed`."""


def compare(
    scores: Mapping[str, Scores[Question]], alpha: float = 0.05, seed: int = 0, correction: Correction = "G-1"
) -> tuple[Verdict, ...]:
    """Every pair of methods of one table: `judge` over `differences`, which see, also for what they raise."""
    return judge(differences(scores, alpha, seed, correction), alpha)


def differences(
    scores: Mapping[str, Scores[Question]], alpha: float = 0.05, seed: int = 0, correction: Correction = "G-1"
) -> tuple[Difference, ...]:
    """The paired difference of every two methods, in the order of the methods. Fewer than two methods give none.

    A pair's figures depend on its two methods and the seed alone, not on what else is in the table.

    Args:
        scores: by method. A question that a method did not answer is left out of its scores.
        alpha: the intervals hold 1 - alpha; between 0 and 1.
        seed: of the permutation test where it draws, 0 or more.
        correction: of the interval for few users; see `statistics.clustered_error`.

    Raises:
        InputError: if a score is NaN, or alpha or seed is outside its range.
    """
    return tuple(
        _difference(first, second, scores[first], scores[second], alpha, seed, correction)
        for first, second in combinations(scores, 2)
    )


def judge(found: Sequence[Difference], alpha: float = 0.05) -> tuple[Verdict, ...]:
    """Marks each pair as separable or not, so that the chance of any false mark among them is at most alpha (Holm).

    The family is what is handed in: for a table of several tasks, the differences of all of them. A pair that shares
    no query counts in it. So few users that p cannot reach alpha / pairs (`statistics.fewest_users`), or more than
    1,000 pairs at 0.05 over more than 16 users, leave all pairs unseparable whatever the scores.

    Args:
        found: pairs, in any order; none gives none.
        alpha: between 0 and 1.

    Raises:
        InputError: if alpha is outside its range.
    """
    if not 0 < alpha < 1:  # also NaN
        raise InputError(f"alpha must be between 0 and 1 but got {alpha}")
    adjusted = holm([one.test.p for one in found])
    return tuple(
        Verdict(
            one,
            p,
            p <= alpha,
            users_needed(one.interval.estimate, one.spread, alpha),
            users_needed(one.interval.estimate, one.spread, alpha / len(found)),
        )
        for one, p in zip(found, adjusted, strict=True)
    )


def _difference(
    first: str,
    second: str,
    ours: Scores[Question],
    theirs: Scores[Question],
    alpha: float,
    seed: int,
    correction: Correction,
) -> Difference:
    shared = [question for question in ours if question in theirs]
    unpaired = len(ours) + len(theirs) - 2 * len(shared)
    if not shared:
        nothing = t_interval(math.nan, math.nan, 0, 1 - alpha)
        return Difference(first, second, 0, 0, unpaired, nothing, math.nan, SignFlip(1.0, 1, True))
    ids: dict[Hashable, int] = {}
    users = np.array([ids.setdefault(user, len(ids)) for user, _ in shared])
    a = np.array([ours[question] for question in shared], dtype=np.float64)
    b = np.array([theirs[question] for question in shared], dtype=np.float64)
    if np.isnan(a).any() or np.isnan(b).any():
        raise InputError(f"{first} or {second} has a score that is NaN: leave out what was not answered")
    with np.errstate(invalid="ignore"):  # of two infinite scores, equal ones differ by nothing
        gaps = np.where(np.isclose(a, b, rtol=NOISE, atol=0.0), 0.0, a - b)
    mean, error, groups, freedom = clustered_error(gaps.tolist(), users.tolist(), correction)
    return Difference(
        first,
        second,
        groups,
        len(shared),
        unpaired,
        t_interval(mean, error, freedom, 1 - alpha),
        error * math.sqrt(groups),
        _test(gaps, np.abs(a) + np.abs(b), users, seed),
    )


def _test(gaps: NDArray[np.float64], sizes: NDArray[np.float64], users: NDArray[np.int64], seed: int) -> SignFlip:
    sums = np.bincount(users, gaps)
    if not np.isfinite(sums).all():
        return SignFlip(1.0, 1, True)
    # 0.1 + 0.2 - 0.3 is not 0: such a user does not differ.
    sums[np.abs(sums) <= NOISE * np.bincount(users, sizes)] = 0.0
    return sign_flip_test(sums.tolist(), seed)
