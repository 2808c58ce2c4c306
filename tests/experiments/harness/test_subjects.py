"""Who is asked in a cell, and what is known of them then."""

from __future__ import annotations

from dataclasses import replace

import pytest

from personaagent.datasets.task import Query, User
from personaagent.experiments.harness.subjects import (
    ALL,
    Subject,
    as_query,
    before_the_questions,
    parse_histories,
    subjects,
)
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction

QUERIES = (Query("q0", "what next?", "gold"),)


def user(count: int, user_id: str = "ann") -> User:
    """Two interactions a day."""
    history = (
        Interaction(user_id, f"i{i}", f"asked {i}", f"said {i}", f"2010-01-{1 + i // 2:02}", i) for i in range(count)
    )
    return User(user_id, tuple(history), QUERIES)


def ids(subject: Subject) -> list[str]:
    return [one.id for one in subject.history]


def test_all_is_the_whole_history_and_the_queries() -> None:
    [subject] = subjects([user(5)])
    assert (subject.user_id, subject.history, subject.queries) == ("ann", user(5).history, QUERIES)
    assert (subject.since, subject.before) == (None, None)


@pytest.mark.parametrize(("kept", "expected"), [("1", ["i4"]), ("3", ["i2", "i3", "i4"])])
def test_a_short_history_is_the_newest_and_memory_shows_nothing_older(kept: str, expected: list[str]) -> None:
    [subject] = subjects([user(5)], kept)
    assert ids(subject) == expected
    assert subject.since == user(5).history[5 - int(kept)] and subject.before is None


@pytest.mark.parametrize("kept", ["5", "6", "1000"])
def test_a_history_that_is_short_enough_is_that_of_all(kept: str) -> None:
    assert subjects([user(5)], kept) == subjects([user(5)])


def test_of_none_memory_shows_nothing_though_it_holds_all() -> None:
    [subject] = subjects([user(5)], "0")
    assert subject == Subject("ann", (), QUERIES, None, user(5).history[0])
    assert subjects([user(0)], "0") == subjects([user(0)]) == [Subject("ann", (), QUERIES)]


def test_a_walk_forward_is_a_subject_a_point_with_what_came_before_it() -> None:
    found = subjects([user(5), user(3, "bob")], ALL, walk_forward=2)
    assert [(one.user_id, ids(one), [q.id for q in one.queries]) for one in found] == [
        ("ann", ["i0", "i1", "i2"], ["i3"]),
        ("ann", ["i0", "i1", "i2", "i3"], ["i4"]),
        ("bob", ["i0"], ["i1"]),
        ("bob", ["i0", "i1"], ["i2"]),
    ]
    assert [one.before for one in found] == [*user(5).history[3:], *user(3, "bob").history[1:]]
    assert all(one.since is None for one in found)
    assert found[0].queries == (Query("i3", "asked 3", "said 3"),)


def test_a_walk_forward_asks_those_who_have_few_about_all_but_the_first_and_others_about_nothing() -> None:
    found = subjects([user(2), user(1, "bob"), user(0, "cat")], ALL, walk_forward=9)
    assert [(one.user_id, ids(one)) for one in found] == [("ann", ["i0"])]


def test_a_walk_forward_with_a_short_history_is_bounded_on_both_sides() -> None:
    whole = user(5).history
    found = subjects([user(5)], "2", walk_forward=3)
    assert [ids(one) for one in found] == [["i0", "i1"], ["i1", "i2"], ["i2", "i3"]]
    assert [(one.since, one.before) for one in found] == [(None, whole[2]), (whole[1], whole[3]), (whole[2], whole[4])]


def test_a_walk_forward_without_any_history_shows_nothing_at_any_point() -> None:
    found = subjects([user(5)], "0", walk_forward=2)
    assert [(ids(one), one.since, one.before) for one in found] == [([], None, user(5).history[0])] * 2
    assert [one.queries[0].id for one in found] == ["i3", "i4"]


def test_what_came_before_the_questions() -> None:
    assert before_the_questions(user(5), None) == user(5).history
    assert before_the_questions(user(5), 2) == user(5).history[:3]
    assert before_the_questions(user(5), 9) == user(5).history[:1]
    assert before_the_questions(user(0), 2) == ()


def test_an_interaction_is_asked_as_it_was() -> None:
    one = Interaction("ann", "7", "the whole question", "comedy", text="a part of it")
    assert as_query(one) == Query("7", "the whole question", "comedy")


@pytest.mark.parametrize(
    "change",
    [
        {"id": "x"},
        {"query": "x", "text": "asked 1"},
        {"response": "x"},
        {"timestamp": "2010-02-01"},
        {"ordinal": 9},
        {"text": "x"},
    ],
    ids=lambda change: next(iter(change)),
)
def test_the_digest_is_of_all_that_can_be_read_of_a_history(change: dict[str, str | int]) -> None:
    history = user(2).history
    other = (history[0], replace(history[1], **change))
    assert Subject("ann", other, ()).history_digest != Subject("ann", history, ()).history_digest


def test_the_digest_is_of_nothing_else() -> None:
    history = user(2).history
    digest = Subject("ann", history, ()).history_digest
    assert Subject("ann", history, QUERIES, history[0], history[1]).history_digest == digest
    assert Subject("ann", (history[0], replace(history[1], metadata={"a": "b"})), ()).history_digest == digest
    assert Subject("ann", history[::-1], ()).history_digest != digest


def test_histories_are_counts_or_all_each_once() -> None:
    assert parse_histories("1, 10,all,010,0,all") == ("1", "10", "all", "0")


@pytest.mark.parametrize("text", ["", "1,", "-1", "1.5", "ten", "All", "²", "1234567890", "1;2"])
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(
        InputError, match=r"^--histories: .* is neither a whole number from 0 nor 'all'; write for example"
    ):
        parse_histories(text)
