"""Where icl's examples come from: deterministic, and never a question of the study."""

from __future__ import annotations

from dataclasses import replace

import pytest

from personaagent.datasets.logs import log_task
from personaagent.datasets.source import UserTable
from personaagent.datasets.task import Query, User
from personaagent.experiments.harness.pool import MOST_USERS, example_pool
from personaagent.programs.baselines.icl import ICL
from personaagent.programs.interaction import Interaction


def user(name: str, count: int = 4) -> User:
    history = (Interaction(name, f"{name}-{i}", f"asked {i} of {name}", f"said {i}", "", i) for i in range(count))
    return User(name, tuple(history), tuple(Query(f"{name}-q{i}", f"{name}'s question {i}?", "gold") for i in range(2)))


def source(users: list[User]) -> UserTable:
    return UserTable(log_task(), "here", "digest", tuple(users))


MANY = [user(f"u{number:02}") for number in range(50)]


def owners(pool: tuple[Interaction, ...]) -> list[str]:
    return list(dict.fromkeys(one.user_id for one in pool))


def test_a_pool_is_the_histories_of_some_users_drawn_by_the_seed() -> None:
    drawn = {seed: example_pool(source(MANY), MANY[:3], seed) for seed in (0, 1)}
    assert drawn[0] == example_pool(source(MANY[::-1]), MANY[:3], 0)
    assert all(len(owners(pool)) == MOST_USERS and len(pool) == 4 * MOST_USERS for pool in drawn.values())
    assert set(owners(drawn[0])) != set(owners(drawn[1]))
    assert {owner for seed in range(12) for owner in owners(example_pool(source(MANY), [], seed))} == {
        one.user_id for one in MANY
    }


@pytest.mark.parametrize("walk_forward", [None, 2])
def test_a_larger_study_has_the_same_pool(walk_forward: int | None) -> None:
    pools = {size: example_pool(source(MANY), MANY[:size], 0, walk_forward) for size in (1, 3, 50)}
    assert pools[1] == pools[3] == pools[50]


def test_few_users_are_all_in_it_and_who_has_no_history_is_not() -> None:
    some = [user("ann"), user("bob"), user("new", 0)]
    assert sorted(owners(example_pool(source(some), some[:1], 0))) == ["ann", "bob"]
    assert example_pool(source([user("new", 0)]), [user("new", 0)], 0) == ()


def test_no_question_of_the_study_is_in_it_whosever_history_it_is_in() -> None:
    """As when two users tag the same film."""
    ann, bob = user("ann"), user("bob")
    shared = replace(bob.history[1], query=ann.queries[0].input, text="a part of it")
    bob = replace(bob, history=(bob.history[0], shared, *bob.history[2:]))
    pool = example_pool(source([ann, bob]), [ann], 0)
    assert {one.id for one in pool} == {*(f"ann-{i}" for i in range(4)), "bob-0", "bob-2", "bob-3"}
    # Of who is not asked nothing is a question.
    assert shared in example_pool(source([ann, bob]), [bob], 0)


def test_a_walk_forward_takes_what_came_before_anyones_questions() -> None:
    ann, bob, cat = user("ann"), user("bob"), user("cat")
    asked = ann.history[3]
    bob = replace(bob, history=(replace(bob.history[0], query=asked.query), *bob.history[1:]))
    pool = example_pool(source([ann, bob, cat]), [ann], 0, walk_forward=2)
    # Also of users who are not in the study: they are in a larger one.
    assert {one.id for one in pool} == {"ann-0", "ann-1", "bob-1", "cat-0", "cat-1"}


def test_histories_are_those_that_go_with_the_questions_that_are_asked() -> None:
    """Of each user, in the study or not: LaMP-1's references, for one, keep clear of what is asked."""

    class AsAsked(UserTable):
        def user(self, user_id: str, queries_per_user: int | None = None) -> User:
            one = super().user(user_id, queries_per_user)
            return replace(one, history=one.history[: 2 if queries_per_user == 1 else 4])

    some = AsAsked(log_task(), "here", "digest", (user("ann"), user("bob")))
    asked = [some.user("ann", 1)]
    pool = example_pool(some, asked, 0, queries_per_user=1)
    assert {one.id for one in pool} == {"ann-0", "ann-1", "bob-0", "bob-1"}
    assert pool == example_pool(some, [*asked, some.user("bob", 1)], 0, queries_per_user=1)


def test_of_this_pool_no_user_is_shown_the_own() -> None:
    pool = example_pool(source(MANY), MANY, 0)
    icl = ICL("query -> answer", pool)
    shown = {name: [one["user_id"] for one in icl.learn(name, ())["examples"]] for name in owners(pool)}
    assert all(len(set(others)) == 4 and name not in others for name, others in shown.items())
