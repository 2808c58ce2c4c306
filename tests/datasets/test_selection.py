"""Who is studied, and on what part of their history."""

from __future__ import annotations

import random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from personaagent.datasets.selection import HISTORY_SHARE, Selection, UserSize, choose, cut_history, split_history
from personaagent.datasets.task import Query, User
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction


def interaction(number: int, timestamp: str = "2010") -> Interaction:
    return Interaction("u", f"i{number}", "?", "!", timestamp, number)


def user(size: int) -> User:
    return User("u", tuple(map(interaction, range(size))), (Query("q", "?", "!"),))


SIZES = st.lists(
    st.builds(UserSize, st.text("ab1", min_size=1, max_size=3), st.integers(0, 5), st.integers(0, 2)),
    unique_by=lambda size: size.user_id,
)


# --- who -------------------------------------------------------------------------------------------


def test_the_most_active_come_first_and_ties_are_by_id_as_text() -> None:
    sizes = [UserSize("9", 5, 1), UserSize("10", 5, 1), UserSize("b", 7, 1), UserSize("a", 3, 1), UserSize("c", 9, 0)]
    assert choose(sizes, Selection()) == ["b", "10", "9", "a"], "who has no query is not asked"
    assert choose(sizes, Selection(users=2)) == ["b", "10"] and choose(sizes, Selection(users=99)) == [
        "b",
        "10",
        "9",
        "a",
    ]
    assert choose([], Selection(users=2)) == []


def test_a_seed_draws_users_and_other_seeds_draw_others() -> None:
    sizes = [UserSize(str(number), number, 1) for number in range(40)]
    drawn = [choose(sizes, Selection(users=10, by="random", seed=seed)) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2] and len(set(drawn[0])) == 10
    assert drawn[0] != choose(sizes, Selection(users=10))


@given(sizes=SIZES, users=st.integers(1, 6), seed=st.integers(0, 9), by=st.sampled_from(["active", "random"]))
def test_a_larger_choice_holds_each_smaller_one_and_the_order_of_the_source_does_not_matter(
    sizes: list[UserSize], users: int, seed: int, by: Any
) -> None:
    everyone = choose(sizes, Selection(by=by, seed=seed))
    assert sorted(everyone) == sorted(size.user_id for size in sizes if size.queries)
    assert choose(sizes, Selection(users, by=by, seed=seed)) == everyone[:users]
    shuffled = random.Random(seed).sample(sizes, len(sizes))
    assert choose(shuffled, Selection(users, by=by, seed=seed)) == everyone[:users]


@pytest.mark.parametrize("name", ["users", "queries_per_user"])
@pytest.mark.parametrize("value", [0, -1])
def test_a_number_out_of_range_is_refused(name: str, value: int) -> None:
    with pytest.raises(InputError, match=rf"^{name} must be at least 1 but got {value}$"):
        Selection(**{name: value})  # type: ignore[arg-type]


def test_another_way_to_select_is_refused() -> None:
    with pytest.raises(InputError, match=r"^users are selected by 'active' or 'random', but got 'first'$"):
        Selection(by="first")  # type: ignore[arg-type]


# --- on what ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("newest", "first"), [(0, 5), (1, 4), (3, 2), (5, 0), (99, 0)])
def test_a_cut_history_is_its_newest_part(newest: int, first: int) -> None:
    cut = cut_history(user(5), newest)
    assert [one.ordinal for one in cut.history] == list(range(first, 5)) and cut.queries == user(5).queries


def test_a_negative_cut_is_refused() -> None:
    with pytest.raises(InputError, match=r"but got -1$"):
        cut_history(user(5), -1)


@pytest.mark.parametrize(("size", "first"), [(2, 1), (3, 2), (10, 6), (33, 21), (113, 71), (1226, 772)])
def test_a_raw_history_is_split_at_oppus_share(size: int, first: int) -> None:
    history, rest = split_history(user(size).history)
    assert (len(history), len(rest)) == (first, size - first) and HISTORY_SHARE == 0.63


@given(
    timestamps=st.lists(st.sampled_from(["", "2009", "2010-01", "2010-01-02"]), max_size=12),
    share=st.floats(0, 1, exclude_min=True, exclude_max=True),
)
def test_what_comes_after_is_never_earlier_and_both_parts_have_one(timestamps: list[str], share: float) -> None:
    given_ones = [interaction(number, timestamp) for number, timestamp in enumerate(timestamps)]
    history, rest = split_history(random.Random(0).sample(given_ones, len(given_ones)), share)
    assert [*history, *rest] == sorted(given_ones, key=lambda one: one.position)
    assert len(given_ones) < 2 or (history and rest)
    assert len(given_ones) != 1 or (len(history), len(rest)) == (1, 0)


@pytest.mark.parametrize("share", [0, 1, -0.5, 1.5, float("nan")])
def test_a_share_out_of_range_is_refused(share: float) -> None:
    with pytest.raises(InputError, match=r"^share must be between 0 and 1 but got "):
        split_history(user(5).history, share)
