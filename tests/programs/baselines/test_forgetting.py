"""MemoryBank's forgetting: the curve, the draws, and what recall does to both."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.programs.baselines.forgetting import ITEMS_PER_DAY, draw, moments, remembered, retention
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction


def history(count: int, dates: list[str] | None = None, user: str = "ann") -> list[Interaction]:
    stamps = dates or ["2020-01-01"] * count
    return [Interaction(user, f"i{n}", f"q{n}", "r", stamps[n], n) for n in range(count)]


def unlike(count: int) -> Any:
    """Every text is as unlike each other as can be: all scores tie at 0."""
    return np.eye(count, dtype=np.float32)


# -- the curve ------------------------------------------------------------------------------------


@given(st.floats(0, 1_000), st.integers(1, 1_000))
def test_the_curves_are_the_closed_forms(days: float, strength: int) -> None:
    assert retention(days, strength) == pytest.approx(math.e ** -(days / strength), rel=1e-12)
    assert retention(days, strength, "published") == pytest.approx(math.e ** -(days / 5 * strength), rel=1e-12)


@given(st.floats(0.01, 10), st.integers(1, 50))
def test_strength_slows_forgetting_and_in_the_published_code_hastens_it(days: float, strength: int) -> None:
    assert retention(days, strength + 1) > retention(days, strength)
    assert retention(days, strength + 1, "published") < retention(days, strength, "published")


def test_the_curve_begins_at_one_and_takes_no_nonsense() -> None:
    assert retention(0, 1) == retention(0, 7, "published") == 1.0
    assert retention(1e9, 1) == 0.0
    for days, strength in ((-1, 1), (1, 0), (1, -2), (math.nan, 1)):
        with pytest.raises(InputError, match="days must be from 0 and strength above 0"):
            retention(days, strength)
    with pytest.raises(InputError, match="curve must be one of paper, published, but got 'flat'"):
        retention(1, 1, "flat")  # type: ignore[arg-type]


# -- time -----------------------------------------------------------------------------------------


def test_the_clock_of_items_ignores_dates() -> None:
    years = history(3, ["1999-01-01", "2007-05-05", "2020-12-31"])
    assert moments(years, "items") == [0, 1 / ITEMS_PER_DAY, 2 / ITEMS_PER_DAY, 3 / ITEMS_PER_DAY]
    assert moments(years, "items", 1) == [0, 1, 2, 3]
    assert moments([], "items") == [0]


def test_the_clock_of_days_counts_days_and_asks_on_the_last() -> None:
    when = moments(history(4, ["2019", "2019-02", "2019-02-28", "2019-03-01T23:59:00Z"]), "days")
    assert [day - when[0] for day in when] == [0, 31, 58, 59, 59]
    with pytest.raises(InputError, match="'i0' of 'ann' has no date: use the clock 'items'"):
        moments(history(1, [""]), "days")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        ({"curve": "flat"}, "curve must be one of paper, published, but got 'flat'"),
        ({"clock": "years"}, "clock must be one of items, days, but got 'years'"),
        ({"items_per_day": 0}, "items_per_day must be an integer from 1, but got 0"),
        ({"memories": -1}, "memories must be an integer from 0, but got -1"),
    ],
)
def test_a_setting_out_of_range_is_refused_even_of_an_empty_history(options: dict[str, Any], rule: str) -> None:
    for count in (0, 2):
        with pytest.raises(InputError, match=rule):
            remembered(history(count), unlike(count), **{"memories": 1, **options})
    for name in options.keys() & {"clock", "items_per_day"}:
        with pytest.raises(InputError, match=rule):
            moments([], **{"clock": "items", name: options[name]})


# -- what is remembered ---------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_without_recall_an_event_is_kept_while_the_curve_is_above_its_draw(seed: int) -> None:
    events = history(400)
    kept = remembered(events, unlike(400), memories=0, seed=seed)
    expected = {
        one.id: 1 for n, one in enumerate(events) if draw(seed, "ann", one.id, 1) < math.exp(-(400 - n) / ITEMS_PER_DAY)
    }
    assert kept == expected
    assert 0 < len(kept) < 400


@pytest.mark.parametrize(("curve", "scale"), [("paper", 1.0), ("published", 5.0)])
def test_the_share_that_is_kept_follows_the_curve(curve: Any, scale: float) -> None:
    """Over many users: of events of one age, R of them are left, within four standard deviations."""
    users, count = 2_000, 6
    left = np.zeros(count)
    for user in range(users):
        kept = remembered(history(count, user=f"u{user}"), unlike(count), memories=0, curve=curve, items_per_day=1)
        left += [f"i{n}" in kept for n in range(count)]
    for n in range(count):
        expected = math.exp(-(count - n) / scale)
        assert left[n] / users == pytest.approx(expected, abs=4 * math.sqrt(expected * (1 - expected) / users))


@given(st.integers(), st.text(max_size=5), st.text(max_size=5), st.integers(1, 9))
def test_a_draw_is_from_zero_to_below_one(seed: int, user: str, one: str, strength: int) -> None:
    assert 0 <= draw(seed, user, one, strength) < 1


def test_a_draw_is_the_same_in_every_process() -> None:
    assert draw(0, "ann", "i0", 1) == 0.08068933701209068


def test_draws_differ_by_seed_user_event_and_strength() -> None:
    drawn = {draw(s, u, i, n) for s in (0, 1) for u in ("a", "b") for i in ("a", "b") for n in (1, 2)}
    assert len(drawn) == 16
    assert np.mean([draw(0, "ann", str(n), 1) for n in range(4_000)]) == pytest.approx(0.5, abs=4 * 0.2887 / 63.2)


def test_the_same_seed_forgets_the_same_and_another_does_not() -> None:
    vectors = np.random.default_rng(0).standard_normal((60, 8))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    runs = [remembered(history(60), vectors, memories=2, seed=seed) for seed in (0, 0, 1)]
    assert runs[0] == runs[1] != runs[2]


# -- recall ---------------------------------------------------------------------------------------


def pairs(count: int) -> Any:
    """Event 0 is what all later ones are about; they are unlike each other."""
    vectors = np.eye(count, dtype=np.float32)
    vectors[1:, 0] = 1.0
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def surviving_seed(curve: Any, count: int) -> int:
    """A seed whose draws for event 0 are so low that it lives through all recalls."""
    return next(
        seed
        for seed in range(5_000)
        if all(draw(seed, "ann", "i0", n) < retention(1, n, curve) for n in range(1, count + 1))
    )


@pytest.mark.parametrize("curve", ["paper", "published"])
def test_each_recall_adds_one_and_sets_time_to_nought(curve: Any) -> None:
    count = 5
    seed = surviving_seed(curve, count)
    kept = remembered(history(count), pairs(count), memories=1, curve=curve, items_per_day=1, seed=seed)
    # Recalled by each of the four others, the last time one item before the question.
    assert kept["i0"] == 5


def test_what_is_recalled_lives_longer_and_in_the_published_code_shorter() -> None:
    def lives(curve: Any, memories: int) -> int:
        """Users of 500 who remember event 0, recalled by six others, after 20 more items that recall nothing."""
        count = 27
        vectors = pairs(count)
        vectors[7:] = np.eye(count, dtype=np.float32)[7:]
        left = 0
        for user in range(500):
            kept = remembered(history(count, user=f"u{user}"), vectors, memories=memories, curve=curve, items_per_day=5)
            left += "i0" in kept
        return left

    # The later items recall their neighbours by tie, newest first: never event 0.
    assert lives("paper", 1) > 2 * lives("paper", 0) > 0
    assert lives("published", 1) < lives("published", 0) / 2


def test_what_was_forgotten_is_never_recalled() -> None:
    """Event 0 is the most similar to event 2, and forgotten by then: event 1 is recalled in its place."""
    seed = next(
        s
        for s in range(5_000)
        if draw(s, "ann", "i0", 1) > math.exp(-1)
        and draw(s, "ann", "i1", 1) < math.exp(-1)
        and draw(s, "ann", "i1", 2) < math.exp(-1 / 2)
    )
    kept = remembered(history(3), pairs(3), memories=1, items_per_day=1, seed=seed)
    assert "i0" not in kept
    assert kept["i1"] == 2


def test_ties_are_recalled_newest_first() -> None:
    kept = remembered(history(4), unlike(4), memories=1, items_per_day=1_000_000)
    assert kept == {"i0": 2, "i1": 2, "i2": 2, "i3": 1}


def test_dates_out_of_order_do_not_lengthen_a_life() -> None:
    """A later item of an earlier date: no time has passed, and none is given back."""
    kept = remembered(history(2, ["2020-01-02", "2020-01-01"]), unlike(2), memories=0, clock="days")
    assert list(kept) == ["i0", "i1"]


def test_nothing_is_left_of_nothing() -> None:
    assert remembered([], np.zeros((0, 0)), memories=4) == {}
