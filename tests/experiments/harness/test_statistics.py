"""Clustered intervals against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from personaagent.experiments.harness.statistics import clustered_mean, jackknifed
from personaagent.programs.errors import InputError


def mean(values: object) -> float:
    return float(np.mean(values))


def half(interval: tuple[float, float, float]) -> float:
    return interval[2] - interval[0]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_with_one_value_a_user_it_is_the_ordinary_t_interval(level: float) -> None:
    values = np.random.default_rng(1).normal(size=17).tolist()
    low, high = stats.t.interval(level, 16, loc=np.mean(values), scale=stats.sem(values))
    assert clustered_mean(values, range(17), level) == pytest.approx((np.mean(values), low, high))


def test_a_case_worked_by_hand() -> None:
    # mean 0.5; residual sums: a +1, b -1, c 0. Variance 3/2 * (1 + 1 + 0) / 36 = 1/12.
    interval = clustered_mean([1, 1, 0, 0, 1, 0], ["a", "a", "b", "b", "c", "c"])
    assert interval.estimate == 0.5
    assert half(interval) == pytest.approx(stats.t.ppf(0.975, 2) * math.sqrt(1 / 12))
    assert interval.estimate - interval.low == pytest.approx(half(interval))


def test_users_of_unequal_size_worked_by_hand() -> None:
    # mean 3/4; residual sums: a 3 * 1/4, b -3/4. Variance 2/1 * (2 * 9/16) / 16 = 9/64.
    interval = clustered_mean([1, 1, 1, 0], ["a", "a", "a", "b"])
    assert half(interval) == pytest.approx(stats.t.ppf(0.975, 1) * 3 / 8)


def test_repeating_every_users_answer_adds_no_certainty() -> None:
    once = clustered_mean([1, 0, 0, 1], "abcd")
    assert clustered_mean([1, 0, 0, 1] * 5, "abcd" * 5) == pytest.approx(once)


@pytest.mark.parametrize("size", [1, 4])
def test_the_jackknife_of_a_mean_is_the_clustered_interval_for_equal_users(size: int) -> None:
    """Both have the factor G / (G - 1) on the residual sums when users are of one size."""
    users = [u for u in range(9) for _ in range(size)]
    values = np.random.default_rng(2).integers(0, 2, len(users)).tolist()
    assert jackknifed(mean, values, users) == pytest.approx(clustered_mean(values, users))


def test_the_jackknife_of_a_mean_for_unequal_users_worked_by_hand() -> None:
    # Without a: 0, without b: 1. Variance 1/2 * (1/4 + 1/4) = 1/4.
    interval = jackknifed(mean, [1, 1, 1, 0], "aaab")
    assert interval.estimate == 0.75
    assert half(interval) == pytest.approx(stats.t.ppf(0.975, 1) * 0.5)


@pytest.mark.parametrize("users", ["aaa", "a"])
def test_one_user_gives_no_bounds(users: str) -> None:
    for interval in (clustered_mean([1.0] * len(users), users), jackknifed(mean, [1.0] * len(users), users)):
        assert interval.estimate == 1.0
        assert math.isnan(interval.low) and math.isnan(interval.high)


def test_the_order_of_samples_does_not_matter() -> None:
    values, users = [1, 0, 1, 1, 0, 0], "aabbcc"
    order = [5, 0, 3, 1, 4, 2]
    shuffled = ([values[i] for i in order], [users[i] for i in order])
    assert clustered_mean(*shuffled) == pytest.approx(clustered_mean(values, users))
    assert jackknifed(mean, *shuffled) == pytest.approx(jackknifed(mean, values, users))


@pytest.mark.parametrize(("values", "users"), [([], []), ([1.0], []), ([1.0], ["a", "b"])])
def test_nothing_and_unequal_numbers_are_refused(values: list[float], users: list[str]) -> None:
    with pytest.raises(InputError, match="as many clusters"):
        clustered_mean(values, users)
    with pytest.raises(InputError, match="as many clusters"):
        jackknifed(mean, values, users)
