"""Methods held against each other: against scipy, by hand, and what must not change a verdict."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from personaagent.experiments.harness import comparison
from personaagent.experiments.harness.comparison import Difference, Scores, compare, differences, judge
from personaagent.experiments.harness.statistics import clustered_mean, sign_flip_test, users_needed
from personaagent.programs.errors import InputError

quick = settings(deadline=None, database=None, derandomize=True, max_examples=150)
QUESTIONS = st.tuples(st.integers(0, 20), st.integers(0, 3))
PAIRS = st.dictionaries(QUESTIONS, st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=60)
"""Scores of two methods in quarters, by user and query."""


def one(first: Scores[Any], second: Scores[Any], **options: Any) -> Difference:
    (found,) = differences({"first": first, "second": second}, **options)
    return found


def quarters(pairs: Mapping[tuple[int, int], tuple[int, int]], which: int) -> dict[tuple[int, int], float]:
    return {question: scores[which] / 4 for question, scores in pairs.items()}


def table(methods: int, users: int, queries: int, seed: int = 0) -> dict[str, dict[tuple[int, int], float]]:
    generator = np.random.default_rng(seed)
    return {
        f"m{m}": {(u, q): float(generator.random() < 0.3 + 0.04 * m) for u in range(users) for q in range(queries)}
        for m in range(methods)
    }


def test_the_example_of_the_module_says_what_comes_out() -> None:
    example = [line.strip() for line in str(comparison.__doc__).splitlines() if line.startswith("    ")]
    expression, said = example.pop().split("  # ")
    names: dict[str, Any] = {"compare": compare}
    exec("\n".join(example), names)
    assert eval(expression, names) == eval(said) == ["rag"]


@pytest.mark.parametrize("users", [2, 7, 16])
def test_with_one_query_a_user_it_is_the_paired_t_and_permutation_test(users: int) -> None:
    generator = np.random.default_rng(users)
    a, b = generator.normal(0.3, 1, users), generator.normal(0, 1, users)
    found = one({(u, "q"): x for u, x in enumerate(a.tolist())}, {(u, "q"): x for u, x in enumerate(b.tolist())})
    interval = stats.ttest_rel(a, b).confidence_interval(0.95)
    assert found.interval == pytest.approx((np.mean(a - b), interval.low, interval.high), abs=1e-6)
    assert found.spread == pytest.approx(np.std(a - b, ddof=1), abs=1e-6)
    theirs = stats.permutation_test((a - b,), np.mean, permutation_type="samples", n_resamples=np.inf)
    assert found.test.p == pytest.approx(min(1.0, theirs.pvalue), abs=1e-6)
    assert (found.users, found.queries, found.unpaired, found.test.exact) == (users, users, 0, True)


def test_the_permutation_test_is_scipys_on_the_users_sums() -> None:
    generator = np.random.default_rng(6)
    users = [user for user in range(9) for _ in range(user + 1)]
    gaps = generator.normal(0.3, 1, len(users))
    found = one({(u, i): g for i, (u, g) in enumerate(zip(users, gaps.tolist(), strict=True))}, zeros(users))
    sums = np.bincount(users, gaps)
    theirs = stats.permutation_test((sums,), np.sum, permutation_type="samples", n_resamples=np.inf)
    assert found.test.p == pytest.approx(theirs.pvalue, abs=1e-6)
    assert found.interval == pytest.approx(clustered_mean(gaps.tolist(), users), abs=1e-9)


def zeros(users: list[int]) -> dict[tuple[int, int], float]:
    return {(user, i): 0.0 for i, user in enumerate(users)}


def test_only_what_both_answered_counts_worked_by_hand() -> None:
    ours = {("ann", 1): 1.0, ("ann", 2): 1.0, ("ann", 3): 1.0, ("bob", 1): 0.0, ("cid", 1): 1.0}
    theirs = {("ann", 1): 0.0, ("ann", 2): 0.0, ("ann", 3): 0.0, ("bob", 1): 1.0, ("dan", 1): 1.0, ("dan", 2): 0.0}
    found = one(ours, theirs)
    assert (found.users, found.queries, found.unpaired) == (2, 4, 3)
    # Every query weighs the same: (3 - 1) / 4, not the mean (1 - 1) / 2 of the users' means.
    assert found.interval.estimate == 0.5
    # Residual sums: ann 3 * 1/2, bob -3/2. Variance 2/1 * (2 * 9/4) / 16 = 9/16.
    assert found.interval.high - 0.5 == pytest.approx(stats.t.ppf(0.975, 1) * 0.75)
    assert found.spread == pytest.approx(0.75 * math.sqrt(2))
    # Sums 3 and -1: |2| is reached by all four flips.
    assert found.test == (1.0, 4, True)


def test_the_bounds_follow_alpha_and_correction() -> None:
    scores = table(2, 6, 1)
    scores["m1"] |= {(0, q): 1.0 for q in range(5)}
    scores["m0"] |= {(0, q): 0.0 for q in range(5)}
    users = [0] * 5 + [1, 2, 3, 4, 5]
    gaps = [scores["m0"][key] - scores["m1"][key] for key in sorted(scores["m0"])]
    for alpha, correction in ((0.05, "G-1"), (0.2, "G-1"), (0.05, "bell-mccaffrey")):
        found = one(scores["m0"], scores["m1"], alpha=alpha, correction=correction)
        expected = clustered_mean(gaps, users, 1 - alpha, correction)  # type: ignore[arg-type]
        assert found.interval == pytest.approx(expected)


@quick
@given(PAIRS)
def test_the_other_way_round_it_is_the_same_pair(pairs: dict[tuple[int, int], tuple[int, int]]) -> None:
    ours, theirs = quarters(pairs, 0), quarters(pairs, 1)
    there, back = one(ours, theirs), one(theirs, ours)
    mirrored = (-back.interval.estimate, -back.interval.high, -back.interval.low)
    assert there.interval == pytest.approx(mirrored, nan_ok=True)
    assert there.spread == pytest.approx(back.spread, nan_ok=True)
    assert there.test == back.test


@quick
@given(PAIRS, st.permutations(range(21)))
def test_names_and_order_of_users_do_not_matter(
    pairs: dict[tuple[int, int], tuple[int, int]], names: list[int]
) -> None:
    renamed = {(f"user {names[user]}", query): scores for (user, query), scores in reversed(pairs.items())}
    before = one(quarters(pairs, 0), quarters(pairs, 1))
    after = one(quarters(renamed, 0), quarters(renamed, 1))  # type: ignore[arg-type]
    assert after.interval == pytest.approx(before.interval, nan_ok=True)
    assert (after.users, after.queries, after.test) == (before.users, before.queries, before.test)


@quick
@given(PAIRS, st.sampled_from([0.01, 1 / 3, 100.0]))
def test_the_scores_unit_scales_and_a_common_shift_is_nothing(
    pairs: dict[tuple[int, int], tuple[int, int]], factor: float
) -> None:
    def moved(scores: Scores[Any]) -> Scores[Any]:
        return {question: score * factor + 0.1 for question, score in scores.items()}

    ours, theirs = quarters(pairs, 0), quarters(pairs, 1)
    before, after = one(ours, theirs), one(moved(ours), moved(theirs))
    assert after.interval == pytest.approx([factor * bound for bound in before.interval], nan_ok=True, abs=1e-9)
    assert after.test == before.test


def test_rounding_is_no_difference() -> None:
    ours = {(user, 0): 0.1 + 0.2 for user in range(20)}
    same = one(ours, {(user, 0): 0.3 for user in range(20)})
    assert same.interval == (0, 0, 0) and same.test.p == 1
    # A user whose differences 0.1 + 0.2 - 0.3 cancel does not differ.
    gaps = {(user, i): gap for user in range(20) for i, gap in enumerate((0.1, 0.2, -0.3))}
    assert one(gaps, dict.fromkeys(gaps, 0.0)).test == (1.0, 1, True)


def test_methods_that_share_no_query_cannot_be_told_apart() -> None:
    (verdict,) = compare({"a": {("ann", 1): 1.0}, "b": {("ann", 2): 0.0}})
    found = verdict.difference
    assert (found.users, found.queries, found.unpaired, found.test.p) == (0, 0, 2, 1.0)
    assert all(map(math.isnan, (*found.interval, found.spread)))
    assert not verdict.separable
    assert verdict.users_needed is verdict.users_needed_in_table is None


def test_one_user_tells_nothing() -> None:
    (verdict,) = compare({"a": {("ann", q): 1.0 for q in range(50)}, "b": {("ann", q): 0.0 for q in range(50)}})
    assert verdict.difference.interval.estimate == 1
    assert math.isnan(verdict.difference.interval.low)
    assert (verdict.p_holm, verdict.separable, verdict.users_needed) == (1, False, None)


@pytest.mark.parametrize("other", [0.0, -math.inf])
def test_an_infinite_score_leaves_nothing_to_tell(other: float) -> None:
    ours: dict[tuple[int, int], float] = {(user, 0): 1.0 for user in range(20)}
    theirs = dict.fromkeys(ours, 0.0)
    assert compare({"a": ours, "b": theirs})[0].separable
    (verdict,) = compare({"a": {**ours, (3, 0): math.inf}, "b": {**theirs, (3, 0): other}})
    assert math.isinf(verdict.difference.interval.estimate)
    assert math.isnan(verdict.difference.interval.low)
    assert (verdict.p_holm, verdict.separable, verdict.users_needed) == (1, False, None)


def test_two_answers_that_are_infinitely_wrong_are_equally_wrong() -> None:
    ours: dict[tuple[int, int], float] = {(user, 0): 1.0 for user in range(20)}
    found = one({**ours, (3, 0): math.inf}, {**dict.fromkeys(ours, 0.0), (3, 0): math.inf})
    assert found.interval.estimate == pytest.approx(0.95)
    assert found.test.p < 0.001


def test_nan_is_refused_and_the_methods_named() -> None:
    with pytest.raises(InputError, match="rag or prompt has a score that is NaN"):
        compare({"rag": {("ann", 1): math.nan}, "prompt": {("ann", 1): 0.0}})


@pytest.mark.parametrize("options", [{"alpha": 0.0}, {"alpha": 1.0}, {"alpha": math.nan}, {"seed": -1}])
def test_options_out_of_range_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=r"between 0 and 1|cannot be negative"):
        compare(table(2, 3, 1), **options)


@pytest.mark.parametrize("alpha", [0.0, 1.0, math.nan])
def test_a_level_out_of_range_is_refused_also_where_there_is_nothing_to_judge(alpha: float) -> None:
    with pytest.raises(InputError, match="alpha must be between 0 and 1"):
        judge([], alpha)


@pytest.mark.parametrize("scores", [{}, {"alone": {("ann", 1): 1.0}}])
def test_fewer_than_two_methods_are_no_pair(scores: dict[str, Scores[Any]]) -> None:
    assert compare(scores) == ()


# --- verdicts ---


def test_every_pair_is_judged_once_in_the_order_of_the_methods() -> None:
    verdicts = compare(table(4, 8, 2))
    names = [(v.difference.first, v.difference.second) for v in verdicts]
    assert names == [("m0", "m1"), ("m0", "m2"), ("m0", "m3"), ("m1", "m2"), ("m1", "m3"), ("m2", "m3")]


def test_separable_is_holms_p_at_most_alpha() -> None:
    verdicts = compare(table(8, 40, 3))
    assert {v.separable for v in verdicts} == {True, False}
    assert all(v.separable == (v.p_holm <= 0.05) for v in verdicts)
    by_p = sorted(verdicts, key=lambda v: v.difference.test.p)
    assert by_p[0].p_holm == pytest.approx(28 * by_p[0].difference.test.p)
    assert any(v.difference.test.p <= 0.05 and not v.separable for v in verdicts)


def test_another_method_changes_no_other_pairs_figures_but_holms() -> None:
    scores = table(4, 60, 2)
    before = {(d.first, d.second): d for d in differences({name: scores[name] for name in ("m0", "m1", "m3")})}
    after = {(d.first, d.second): d for d in differences(scores)}
    assert before == {pair: after[pair] for pair in before}
    assert not before["m0", "m3"].test.exact


def test_the_family_is_what_is_judged_together() -> None:
    one_task, other = differences(table(3, 12, 2)), differences(table(3, 12, 2, seed=1))
    alone, together = judge(one_task), judge([*one_task, *other])
    assert [v.difference for v in together] == [*one_task, *other]
    assert all(b.p_holm >= a.p_holm for a, b in zip(alone, together, strict=False))
    assert any(b.p_holm > a.p_holm for a, b in zip(alone, together, strict=False))


def test_eleven_users_separate_nothing_in_a_table_of_14_methods_and_twelve_may() -> None:
    def apart(users: int) -> dict[str, Scores[Any]]:
        return {f"m{m}": {(u, 0): float(m) for u in range(users)} for m in range(14)}

    assert not any(v.separable for v in compare(apart(11)))
    assert all(v.separable for v in compare(apart(12)))


def test_users_needed_come_from_the_difference_and_its_spread() -> None:
    for verdict in compare(table(4, 20, 3)):
        found = verdict.difference
        assert verdict.users_needed == users_needed(found.interval.estimate, found.spread)
        assert verdict.users_needed_in_table == users_needed(found.interval.estimate, found.spread, 0.05 / 6)
        assert verdict.users_needed is None or verdict.users_needed < (verdict.users_needed_in_table or 0)


def test_draws_follow_the_seed() -> None:
    scores = table(2, 60, 3)
    assert differences(scores, seed=1) == differences(scores, seed=1)
    assert len({one(scores["m0"], scores["m1"], seed=seed).test.p for seed in range(5)}) > 1
    gaps = [sum(scores["m0"][u, q] - scores["m1"][u, q] for q in range(3)) for u in range(60)]
    assert one(scores["m0"], scores["m1"], seed=3).test == sign_flip_test(gaps, 3)


def test_fourteen_methods_and_a_hundred_users_take_seconds() -> None:
    scores = table(14, 100, 3)
    started = time.perf_counter()
    assert len(compare(scores)) == 91
    assert time.perf_counter() - started < 10  # half a second on one core
