"""Intervals, tests and plans against scipy, published values and closed forms."""

from __future__ import annotations

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from personaagent.experiments.harness.statistics import (
    DRAWS,
    EXACT_USERS,
    MOST_USERS,
    clustered_error,
    clustered_mean,
    fewest_users,
    holm,
    jackknifed,
    sign_flip_test,
    t_interval,
    t_test_power,
    users_needed,
)
from personaagent.programs.errors import InputError

quick = settings(deadline=None, database=None, derandomize=True, max_examples=150)
SUMS = st.lists(st.integers(-6, 6), min_size=1, max_size=25)
"""Small integers: many ties, exact below 17 users and drawn above."""


def mean(values: object) -> float:
    return float(np.mean(values))


def half(interval: tuple[float, float, float]) -> float:
    return interval[2] - interval[0]


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_with_one_value_a_user_it_is_the_ordinary_t_interval(level: float) -> None:
    values = np.random.default_rng(1).normal(size=17).tolist()
    low, high = stats.t.interval(level, 16, loc=np.mean(values), scale=stats.sem(values))
    for correction in ("G-1", "bell-mccaffrey"):
        found = clustered_mean(values, range(17), level, correction)
        assert found == pytest.approx((np.mean(values), low, high), abs=1e-9)
    interval = stats.ttest_1samp(values, 0).confidence_interval(level)
    assert clustered_mean(values, range(17), level)[1:] == pytest.approx((interval.low, interval.high), abs=1e-9)


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


def test_nan_is_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        clustered_mean([1.0, math.nan], "ab")


@pytest.mark.parametrize("level", [0.0, 1.0, math.nan])
def test_a_level_outside_its_range_is_refused(level: float) -> None:
    with pytest.raises(InputError, match="level must be between 0 and 1"):
        clustered_mean([1.0, 2.0], "ab", level)
    with pytest.raises(InputError, match="level must be between 0 and 1"):
        jackknifed(mean, [1.0, 2.0], "aa", level)


@pytest.mark.parametrize("huge", [math.inf, 1e200, 1.7e308])
@pytest.mark.parametrize("others", [[1.0, 2.0], [math.inf, 1.0], [1.7e308, 1.0], [-math.inf, 1.0]])
@pytest.mark.parametrize("correction", ["G-1", "bell-mccaffrey"])
def test_a_score_too_large_to_square_leaves_no_bounds(huge: float, others: list[float], correction: str) -> None:
    """LaMP-3's official rule makes the rating `inf`, or one of 300 digits, as wrong as it is off."""
    interval = clustered_mean([huge, *others], "abc", correction=correction)  # type: ignore[arg-type]
    assert not math.isfinite(interval.estimate) or interval.estimate > 1e199
    assert math.isnan(interval.low) and math.isnan(interval.high)
    assert math.isnan(jackknifed(sum, [huge, *others], "abc").low)


def by_matrices(values: list[float], users: list[int]) -> tuple[float, float]:
    """Standard error and degrees of freedom of CR2 after Bell and McCaffrey, from the matrices of their definition."""
    size, x = len(values), np.ones(len(values))
    residual = np.eye(size) - np.outer(x, x) / size
    columns, variance = [], 0.0
    for user in sorted(set(users)):
        own = np.flatnonzero(np.array(users) == user)
        powers, vectors = np.linalg.eigh(residual[np.ix_(own, own)])
        adjust = vectors @ np.diag(powers**-0.5) @ vectors.T
        weights = residual[:, own] @ adjust @ x[own] / size
        columns.append(weights)
        variance += float(weights @ np.array(values)) ** 2
    spectrum = np.linalg.eigvalsh(np.array(columns) @ np.array(columns).T)
    return math.sqrt(variance), float(spectrum.sum() ** 2 / (spectrum**2).sum())


@pytest.mark.parametrize("sizes", [(1, 1), (3, 1), (1, 2, 3, 4), (1, 1, 1, 20), (5, 5, 5)])
def test_bell_mccaffrey_is_what_its_matrices_give(sizes: tuple[int, ...]) -> None:
    users = [user for user, size in enumerate(sizes) for _ in range(size)]
    values = np.random.default_rng(3).normal(size=len(users)).tolist()
    error, freedom = by_matrices(values, users)
    found = clustered_error(values, users, "bell-mccaffrey")
    assert found == pytest.approx((np.mean(values), error, len(sizes), freedom), abs=1e-9)
    assert found.freedom <= len(sizes) - 1


def test_the_corrections_agree_on_users_of_one_size_only() -> None:
    values = np.random.default_rng(4).normal(size=24).tolist()
    even, uneven = [u for u in range(8) for _ in range(3)], [min(u, 7) for u in range(24)]
    assert clustered_error(values, even, "bell-mccaffrey") == pytest.approx(clustered_error(values, even))
    assert clustered_error(values, uneven, "bell-mccaffrey").freedom < 3 < clustered_error(values, uneven).freedom


def test_an_interval_is_the_t_distributions() -> None:
    low, high = stats.t.interval(0.9, 7.5, loc=2, scale=3)
    assert t_interval(2, 3, 7.5, 0.9) == pytest.approx((2, low, high), abs=1e-9)


# --- sign flips ---


@pytest.mark.parametrize("users", [2, 3, 5, 9, 12])
@pytest.mark.parametrize("ties", [False, True])
def test_the_exact_test_is_scipys(users: int, ties: bool) -> None:
    generator = np.random.default_rng(users)
    sums = generator.integers(-3, 4, users).astype(float) if ties else generator.normal(0.5, 1, users)
    theirs = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    ours = sign_flip_test(sums)
    assert ours.exact
    # scipy doubles the smaller tail, which is the same for a symmetric null distribution unless it passes 1.
    assert ours.p == pytest.approx(min(1.0, theirs.pvalue), abs=1e-6)


@pytest.mark.parametrize(
    ("sums", "p", "flips"),
    [
        ([1, 1, 1, 1], 2 / 16, 16),
        ([1, 1, 1, -1], 10 / 16, 16),
        ([3, 1, 1], 2 / 8, 8),
        ([3, 1, -1], 6 / 8, 8),
        ([5], 1, 2),
        ([0, 0], 1, 1),
        ([0, 2, 0, 2], 2 / 4, 4),
    ],
)
def test_cases_worked_by_hand(sums: list[float], p: float, flips: int) -> None:
    assert sign_flip_test(sums) == (p, flips, True)


def test_ties_are_ties_in_spite_of_rounding() -> None:
    """0.1 + 0.2 is not 0.3 for a float, so flips that reach the same sum would otherwise seem smaller."""
    sums = [3, -1, -2, 4, 1, 2, 3, 6, -3]
    assert sign_flip_test([value / 10 for value in sums]).p == sign_flip_test(sums).p
    assert sign_flip_test([0.1, 0.2, -0.3]).p == 1


def exact_p(sums: list[int]) -> float:
    """By the whole distribution of the sum, for integers and any number of users."""
    counts = Counter({0: 1})
    for value in sums:
        flipped: Counter[int] = Counter()
        for total, ways in counts.items():
            flipped[total + value] += ways
            flipped[total - value] += ways
        counts = flipped
    reached = sum(ways for total, ways in counts.items() if abs(total) >= abs(sum(sums)))
    return reached / 2 ** len(sums)


def test_all_flips_are_counted_up_to_16_users_that_differ() -> None:
    sums = np.random.default_rng(5).integers(-4, 6, 60)
    sixteen = sums[sums != 0][:EXACT_USERS].tolist()
    assert sign_flip_test([*sixteen, 0, 0, 0]) == (exact_p(sixteen), 2**16, True)
    assert sign_flip_test([*sixteen, 1])[1:] == (DRAWS, False)


@pytest.mark.parametrize("users", [17, 24, 40, 100])
def test_drawn_flips_come_near_the_exact_p(users: int) -> None:
    sums = np.random.default_rng(users).integers(-6, 7, users).tolist()
    true = exact_p(sums)
    assert 0.01 < true < 0.99
    found = sign_flip_test(sums)
    assert not found.exact
    assert abs(found.p - true) < 4 * math.sqrt(true * (1 - true) / DRAWS) + 1 / DRAWS
    assert sign_flip_test(sums) == found
    assert len({sign_flip_test(sums, seed).p for seed in range(5)}) > 1


def test_a_drawn_p_is_never_0() -> None:
    assert sign_flip_test([1] * 60).p == 1 / (1 + DRAWS)


@quick
@given(SUMS, st.randoms(use_true_random=False))
def test_neither_order_nor_names_matter(sums: list[int], random: object) -> None:
    found = sign_flip_test(sums)
    shuffled = sorted(sums, key=lambda _: random.random())  # type: ignore[attr-defined]
    assert sign_flip_test(shuffled) == found
    assert sign_flip_test([-value for value in sums]) == found


@quick
@given(SUMS, st.sampled_from([1e-300, 0.1, 1 / 3, 7.0, 1e300]))
def test_the_unit_does_not_matter(sums: list[int], factor: float) -> None:
    assert sign_flip_test([value * factor for value in sums]) == sign_flip_test(sums)


@quick
@given(SUMS, st.integers(1, 5))
def test_users_that_do_not_differ_do_not_matter(sums: list[int], more: int) -> None:
    assert sign_flip_test([*sums, *[0] * more]) == sign_flip_test(sums)


@pytest.mark.parametrize("sums", [[], [math.nan], [1.0, math.inf], [[1.0], [2.0]]])
def test_sums_that_cannot_be_tested_are_refused(sums: list[float]) -> None:
    with pytest.raises(InputError, match="one finite sum"):
        sign_flip_test(sums)


def test_a_negative_seed_is_refused() -> None:
    with pytest.raises(InputError, match="seed cannot be negative"):
        sign_flip_test([1.0], -1)


@pytest.mark.parametrize("alpha", [0.2, 0.05, 2**-5, 0.05 / 10, 0.05 / 91])
def test_the_fewest_users_are_those_who_can_reach_alpha(alpha: float) -> None:
    reaching = [users for users in range(1, 17) if sign_flip_test([1.0] * users).p <= alpha]
    assert fewest_users(alpha) == reaching[0]


# --- Holm ---


def test_holms_correction_worked_by_hand() -> None:
    # Sorted: .005 x 4 = .02; .01 x 3 = .03; .03 x 2 = .06; .04 x 1 = .04, raised to .06.
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([0.5, 0.6, 0.001]) == pytest.approx((1.0, 1.0, 0.003))
    assert holm([0.04]) == (0.04,)
    assert holm([]) == ()


def rejected_step_down(p_values: list[float], alpha: float) -> set[int]:
    """Holm's procedure in its own words: go on while the smallest left is at most alpha / (number left)."""
    left, rejected = dict(enumerate(p_values)), set()
    while left:
        index = min(left, key=left.__getitem__)
        if left.pop(index) * (len(left) + 1) > alpha:
            break
        rejected.add(index)
    return rejected


@quick
@given(st.lists(st.floats(0, 1), max_size=12), st.sampled_from([0.01, 0.05, 0.2]))
def test_adjusted_values_reject_what_holms_steps_reject(p_values: list[float], alpha: float) -> None:
    adjusted = holm(p_values)
    assert {index for index, p in enumerate(adjusted) if p <= alpha} == rejected_step_down(p_values, alpha)
    assert all(p <= a <= min(1, p * len(p_values)) for p, a in zip(p_values, adjusted, strict=True))


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=5))
def test_holms_correction_follows_its_values(p_values: list[float]) -> None:
    adjusted = dict(zip(p_values, holm(p_values), strict=True))
    for order in itertools.permutations(p_values):
        assert holm(order) == tuple(adjusted[p] for p in order)


@pytest.mark.parametrize("p", [-0.1, 1.1, math.nan])
def test_what_is_no_p_value_is_refused(p: float) -> None:
    with pytest.raises(InputError, match="from 0 to 1"):
        holm([0.5, p])


# --- power ---


@pytest.mark.parametrize("users", [2, 6, 20, 100, 5_000])
@pytest.mark.parametrize("effect", [0.0, 0.05, 0.5, 1.5])
@pytest.mark.parametrize("alpha", [0.05, 0.05 / 91])
def test_the_power_is_the_noncentral_t_distributions(users: int, effect: float, alpha: float) -> None:
    bound = stats.t.ppf(1 - alpha / 2, users - 1)
    noncentrality = effect * math.sqrt(users)
    above = stats.nct.sf(bound, users - 1, noncentrality)
    below = stats.nct.cdf(-bound, users - 1, noncentrality)
    if noncentrality > 5:  # scipy has NaN for some tails here; T < 0 has the chance norm.cdf(-noncentrality)
        assert np.isnan(below) or below < stats.norm.cdf(-5)
        below = 0
    assert t_test_power(-3 * effect, 3, users, alpha) == pytest.approx(above + below, abs=1e-6)


@pytest.mark.parametrize("users", [6, 20, 300])
@pytest.mark.parametrize("effect", [0.1, 0.6, 3.0])
def test_the_power_is_the_integral_over_the_variance(users: int, effect: float) -> None:
    """Without scipy's noncentral t: a normal mean over a chi-square variance."""
    freedom, bound, shift = users - 1, stats.t.ppf(0.975, users - 1), effect * math.sqrt(users)
    points = (np.arange(200_000) + 0.5) / 200_000
    scaled = bound * np.sqrt(stats.chi2.ppf(points, freedom) / freedom)
    true = np.mean(stats.norm.sf(scaled - shift) + stats.norm.cdf(-scaled - shift))
    assert t_test_power(effect, 1, users) == pytest.approx(true, abs=1e-6)


def test_the_power_of_no_difference_is_alpha_and_of_a_huge_one_is_1() -> None:
    assert t_test_power(0, 1, 10, 0.03) == pytest.approx(0.03, abs=1e-9)
    for huge in np.geomspace(20, 1e300, 500):
        assert t_test_power(huge, 1, 34, 1e-4) == pytest.approx(1)


@pytest.mark.parametrize(("effect", "users"), [(0.2, 199), (0.5, 34), (0.8, 15)])
def test_the_users_needed_are_the_published_ones(effect: float, users: int) -> None:
    """Cohen's small, medium and large effects: a two-sided t test of one sample at 0.05 and 80 %, by G*Power."""
    assert users_needed(effect, 1) == users
    assert users_needed(-effect / 100, 1 / 100) == users


@quick
@given(st.floats(0.01, 3), st.sampled_from([0.05, 0.001]), st.sampled_from([0.5, 0.8, 0.95]))
def test_the_users_needed_are_the_least(effect: float, alpha: float, power: float) -> None:
    users = users_needed(effect, 1, alpha, power)
    assert users is not None and users >= fewest_users(alpha)
    assert t_test_power(effect, 1, users, alpha) >= power
    assert users == fewest_users(alpha) or t_test_power(effect, 1, users - 1, alpha) < power


def test_so_few_users_as_flips_cannot_separate_are_never_enough() -> None:
    assert users_needed(10, 1) == users_needed(10, 0) == fewest_users(0.05) == 6
    assert users_needed(10, 1, 0.05 / 91) == 12


@pytest.mark.parametrize(
    ("difference", "spread"), [(0, 1), (0, 0), (1e-9, 1), (math.nan, 1), (1, math.nan), (math.inf, 1), (1, math.inf)]
)
def test_some_differences_no_number_of_users_separates(difference: float, spread: float) -> None:
    assert users_needed(difference, spread) is None


def test_the_most_users_are_named_and_no_more() -> None:
    effect = (stats.norm.ppf(0.975) + stats.norm.ppf(0.8)) / math.sqrt(MOST_USERS)
    assert users_needed(effect * 1.00001, 1) == pytest.approx(MOST_USERS, rel=1e-4)
    assert users_needed(effect * 0.9999, 1) is None


def test_what_drawn_flips_cannot_reach_needs_more_than_any_users() -> None:
    assert users_needed(1, 1, 0.05 / 1000) is not None
    assert users_needed(1, 1, 0.05 / 1001) is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((1, -1), "spread cannot be negative"),
        ((1, 1, 0), "alpha must be"),
        ((1, 1, math.nan), "alpha must be"),
        ((1, 1, 0.05, 1), "power must be"),
    ],
)
def test_plans_out_of_range_are_refused(arguments: tuple[float, ...], message: str) -> None:
    with pytest.raises(InputError, match=message):
        users_needed(*arguments)


@pytest.mark.parametrize("arguments", [(math.nan, 1, 5), (1, 0, 5), (1, math.inf, 5), (1, 1, 1)])
def test_a_power_of_nothing_is_refused(arguments: tuple[float, float, int]) -> None:
    with pytest.raises(InputError, match="need a finite difference"):
        t_test_power(*arguments)
