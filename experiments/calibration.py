"""How far the statistics keep their word: simulated studies whose truth is known. Under a minute, writes nothing.

python experiments/calibration.py [coverage] [errors] [family] [power]       default: all
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from personaagent.experiments.harness.comparison import differences, judge
from personaagent.experiments.harness.statistics import Correction, clustered_mean, sign_flip_test, users_needed

Floats = NDArray[np.float64]
Users = NDArray[np.int64]
Counts = Callable[[np.random.Generator, int], Users]
"""Draws how many queries each of so many users has."""

USERS = (4, 10, 20, 50)
STUDIES = 2_000
"""Simulated studies behind a coverage or a power: its standard error is half a point at 95 %, 0.9 at 80 %."""
TEST_STUDIES = 4_000
"""Behind an error rate: its standard error is 0.34 points at 5 %."""
FAMILY_STUDIES = 1_000
ALPHA = 0.05
ACCURACIES = (0.4, 0.7)
"""Means of what the two simulated methods add to what a user makes of any method."""


class BinaryStudy(NamedTuple):
    """Right (1) or wrong (0) answers of two methods to the same queries. Three arrays of one length."""

    first: Floats
    second: Floats
    users: Users


def few_queries(generator: np.random.Generator, users: int) -> Users:
    """1 to 3 a user, as under `--queries-per-user 3` where some users have or answered fewer."""
    return generator.integers(1, 4, users)


def all_queries(generator: np.random.Generator, users: int) -> Users:
    """2 + a lognormal: half of the users have under 10, one in fifty over 100, as real authors do."""
    return np.rint(2 + generator.lognormal(np.log(7), 1.3, users)).astype(np.int64)


COUNTS: dict[str, Counts] = {
    "1 to 3 queries a user": few_queries,
    "2 to some 100 a user": all_queries,
}


def binary_study(
    generator: np.random.Generator, counts: Users, accuracies: tuple[float, float] = ACCURACIES
) -> BinaryStudy:
    """Two methods answer the same queries; users differ in how well each method suits them.

    A user's chance of a right answer is half a Beta(1.5, 1.5), shared by both methods, and half a Beta of the method's
    own accuracy (between users: standard deviation 0.17 of a chance and 0.17 of the methods' difference). In 7 of 10
    queries both methods meet the same luck. The mean score of a method is 0.25 + accuracy / 2.
    """
    shared = generator.beta(1.5, 1.5, len(counts))
    chances = [shared / 2 + generator.beta(3 * a, 3 * (1 - a), len(counts)) / 2 for a in accuracies]
    users = np.repeat(np.arange(len(counts)), counts)
    luck = generator.random(len(users))
    other = np.where(generator.random(len(users)) < 0.7, luck, generator.random(len(users)))
    return BinaryStudy((luck < chances[0][users]).astype(float), (other < chances[1][users]).astype(float), users)


def interval_coverage(
    counts: Counts,
    users: int,
    correction: Correction,
    studies: int,
    seed: int = 0,
) -> tuple[float, float]:
    """Shares of 95 % intervals that hold the truth: of the first method's score, of the paired difference."""
    generator = np.random.default_rng(seed)
    score, difference = 0.25 + ACCURACIES[0] / 2, (ACCURACIES[0] - ACCURACIES[1]) / 2
    held = np.zeros(2)
    for _ in range(studies):
        study = binary_study(generator, counts(generator, users))
        for column, (values, truth) in enumerate(((study.first, score), (study.first - study.second, difference))):
            interval = clustered_mean(values.tolist(), study.users.tolist(), 1 - ALPHA, correction)
            held[column] += interval.low <= truth <= interval.high
    return float(held[0] / studies), float(held[1] / studies)


def continuous_error(counts: Counts, users: int, studies: int, seed: int = 0) -> float:
    """How often the sign-flip test finds a difference that is not there: normal differences, with a user's own part."""
    generator = np.random.default_rng(seed)
    found = 0
    for number in range(studies):
        queries = counts(generator, users)
        sums = queries * generator.normal(0, 0.5, users) + np.sqrt(queries) * generator.normal(0, 1, users)
        found += sign_flip_test(sums, number).p <= ALPHA
    return found / studies


def binary_error(users: int, studies: int, seed: int = 0) -> float:
    """The same on two equal methods with right or wrong answers, where most users' sums tie at -1, 0 or 1."""
    generator = np.random.default_rng(seed)
    found = 0
    for number in range(studies):
        study = binary_study(generator, few_queries(generator, users), (0.5, 0.5))
        sums = np.bincount(study.users, study.first - study.second)
        found += sign_flip_test(sums.tolist(), number).p <= ALPHA
    return found / studies


def family_error(methods: int, users: int, studies: int, seed: int = 0) -> tuple[float, float]:
    """How often a table of equal methods has any pair called different: by its own p, and by Holm's."""
    generator = np.random.default_rng(seed)
    alone = held_together = 0
    for _ in range(studies):
        drawn = generator.normal(0, 1, users) + generator.normal(0, 1, (methods, users))
        scores = {
            f"method {m}": {(user, "q"): score for user, score in enumerate(row)}
            for m, row in enumerate(drawn.tolist())
        }
        verdicts = judge(differences(scores, ALPHA), ALPHA)
        alone += any(v.difference.test.p <= ALPHA for v in verdicts)
        held_together += any(v.separable for v in verdicts)
    return alone / studies, held_together / studies


def power_reached(difference: float, spread: float, studies: int, seed: int = 0) -> tuple[int, float]:
    """The users that `users_needed` names, and how often the sign-flip test then finds the difference."""
    users = users_needed(difference, spread, ALPHA)
    assert users is not None
    generator = np.random.default_rng(seed)
    found = sum(
        sign_flip_test(generator.normal(difference, spread, users), study).p <= ALPHA for study in range(studies)
    )
    return users, found / studies


def coverage() -> bool:
    """Coverage of the 95 % interval."""
    print(f"\ncoverage of the 95 % interval, % of {STUDIES:,} studies of right or wrong answers")
    print(_line("", [f"{users} users" for users in USERS]))
    kept = True
    for name, counts in COUNTS.items():
        for correction in ("G-1", "bell-mccaffrey"):
            rows = [interval_coverage(counts, users, correction, STUDIES) for users in USERS]
            promised = counts is few_queries and correction == "G-1"
            kept &= not promised or all(0.93 <= share <= 0.97 for row in rows[1:] for share in row)
            for column, what in enumerate(("score", "paired difference")):
                target = "  target: 93 to 97 from 10 users" if promised else ""
                print(_line(f"{name}, {what}, {correction}", [_percent(row[column]) for row in rows]) + target)
    return kept


def errors() -> bool:
    """Error rate of the sign-flip test."""
    print(f"\nfalse differences found by the sign-flip test at {ALPHA}, % of {TEST_STUDIES:,} studies of equal methods")
    print(_line("", [f"{users} users" for users in USERS]))
    kept = True
    for name, counts in COUNTS.items():
        rates = [continuous_error(counts, users, TEST_STUDIES) for users in USERS]
        kept &= rates[0] <= 0.06 and all(0.04 <= rate <= 0.06 for rate in rates[1:])
        print(_line(f"continuous differences, {name}", map(_percent, rates)) + "  target: 4 to 6 from 10 users")
    rates = [binary_error(users, TEST_STUDIES) for users in USERS]
    print(_line("right or wrong answers, with ties", map(_percent, rates)) + "  target: never above 6")
    return kept and max(rates) <= 0.06


def family() -> bool:
    """Error rate of a whole table."""
    alone, held_together = family_error(5, 12, FAMILY_STUDIES)
    print(
        f"\ntables of 5 equal methods (10 pairs), 12 users, {FAMILY_STUDIES:,} studies: any pair called different in "
        f"{_percent(alone)} % by its own p, {_percent(held_together)} % by Holm's; target: at most 6"
    )
    return held_together <= 0.06


def power() -> bool:
    """Power at the number of users that is named."""
    kept = True
    print(f"\ndifferences found with the users that users_needed names for 80 % power, {STUDIES:,} studies each")
    for difference, spread in ((0.3, 0.3), (0.2, 0.4), (0.1, 0.3)):
        users, share = power_reached(difference, spread, STUDIES)
        kept &= 0.77 <= share <= 0.83
        print(f"difference {difference}, spread {spread}: {users} users, {_percent(share)} %; target: 77 to 83")
    return kept


def _line(name: str, cells: Iterable[str]) -> str:
    return f"{name:<58}" + "".join(f"{cell:>10}" for cell in cells)


def _percent(share: float) -> str:
    return f"{100 * share:.1f}"


CHECKS: dict[str, Callable[[], bool]] = {"coverage": coverage, "errors": errors, "family": family, "power": power}


def main(names: list[str]) -> int:
    unknown = [name for name in names if name not in CHECKS]
    if unknown:
        print(f"error: unknown check {unknown[0]!r}; there are {', '.join(CHECKS)}", file=sys.stderr)
        return 2
    missed = [name for name in names or CHECKS if not CHECKS[name]()]
    if missed:
        print(f"missed its target: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
