"""Users of any source: who is chosen, what must be there, what would leak; and sources by their task's name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from personaagent.datasets.lamp.tasks import LAMP_2M, TASKS
from personaagent.datasets.registry import SAMPLE_USERS, check_task, open_source
from personaagent.datasets.sample import sample_users
from personaagent.datasets.selection import Selection, UserSize
from personaagent.datasets.source import UserTable, chosen_users, leaked_queries
from personaagent.datasets.task import Query, User
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction


def user(user_id: str, items: int, queries: int, gold: str = "comedy") -> User:
    history = tuple(Interaction(user_id, f"i{n}", "?", "comedy", "2010", n) for n in range(items))
    return User(user_id, history, tuple(Query(f"{user_id}-q{n}", "?", gold) for n in range(queries)))


def table(*users: User) -> UserTable:
    return UserTable(LAMP_2M, "a table", "digest", users)


# --- who is chosen ---------------------------------------------------------------------------------


def test_the_chosen_users_have_the_first_so_many_queries() -> None:
    source = table(user("a", 2, 3), user("b", 5, 1), user("c", 9, 0))
    assert source.sizes() == [UserSize("a", 2, 3), UserSize("b", 5, 1), UserSize("c", 9, 0)]
    chosen = chosen_users(source, Selection(users=2, queries_per_user=2))
    assert [(one.user_id, [q.id for q in one.queries]) for one in chosen] == [("b", ["b-q0"]), ("a", ["a-q0", "a-q1"])]
    assert chosen[0].history == source.users[1].history
    assert chosen_users(source, Selection()) == [source.users[1], source.users[0]]


def test_a_user_who_is_not_there_is_an_error() -> None:
    for source in (table(), table(user("a", 2, 3))):
        with pytest.raises(InputError, match=r"^a table: there is no user 'b'"):
            source.user("b")


def test_nobody_with_a_query_is_an_error() -> None:
    for source in (table(), table(user("a", 5, 0))):
        with pytest.raises(InputError, match=r"^a table: no user of lamp-2m has a query to answer$"):
            chosen_users(source, Selection())


def test_a_query_without_a_gold_is_an_error_if_it_is_asked() -> None:
    source = table(user("a", 5, 1), user("b", 2, 1, gold=""))
    assert len(chosen_users(source, Selection(users=1))) == 1
    with pytest.raises(
        InputError, match=r"^a table: query 'b-q0' has no gold, so nothing can be scored: put the split's"
    ):
        chosen_users(source, Selection())


def test_queries_of_the_own_history_are_found_by_id() -> None:
    leaking = User("a", user("a", 3, 0).history, (Query("i1", "?", "!"), Query("i9", "?", "!")))
    other = User("b", user("b", 1, 0).history, (Query("i1", "?", "!"),))
    assert leaked_queries([leaking, other, user("c", 3, 3)]) == [("a", "i1")]


# --- by name ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [*TASKS, "logs"])
def test_every_task_has_a_name(name: str) -> None:
    assert check_task(name) == name


@pytest.mark.parametrize("name", ["lamp-99", "", "LAMP-2M"])
def test_an_unknown_task_is_refused_with_the_names_there_are(name: str, tmp_path: Path) -> None:
    for call in (lambda: check_task(name), lambda: open_source(name), lambda: open_source(name, tmp_path)):
        with pytest.raises(InputError, match=rf"^unknown task '{name}'; the tasks are: lamp-1, .*lamp-5, logs$"):
            call()


def test_without_data_there_are_the_sample_users() -> None:
    source, other = open_source("lamp-2m"), open_source("lamp-2m", data_seed=1)
    entries = sample_users(0)
    assert source.where == SAMPLE_USERS and source.task is LAMP_2M and not source.notes
    assert source.digest == hashlib.sha256(json.dumps(entries, sort_keys=True).encode()).hexdigest() != other.digest
    assert [size.user_id for size in source.sizes()] == [entry["user_id"] for entry in entries]
    for entry in entries:
        one = source.user(entry["user_id"])
        assert [i.id for i in one.history] == [item["id"] for item in entry["profile"]]
        assert [(q.id, q.gold) for q in one.queries] == [(query["id"], query["gold"]) for query in entry["query"]]


@pytest.mark.parametrize("name", [name for name in (*TASKS, "logs") if name != "lamp-2m"])
def test_the_sample_users_are_of_one_task_only(name: str) -> None:
    what = "a log file" if name == "logs" else "a folder"
    with pytest.raises(
        InputError, match=rf"^--tasks {name} needs --data, {what}: the sample users are for lamp-2m only$"
    ):
        open_source(name)
