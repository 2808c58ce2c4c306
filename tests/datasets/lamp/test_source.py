"""A task's users out of its files: what a question may see, the cache, the digest, and memory."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import ijson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.datasets.lamp.source import LampSource, open_lamp, users_from_entries
from personaagent.datasets.lamp.tasks import LAMP_2M, LAMP_3, LampTask
from personaagent.datasets.selection import Selection, UserSize
from personaagent.datasets.source import chosen_users
from personaagent.programs.errors import InputError

Make = Callable[..., Any]


def history(source: LampSource, user_id: str, queries_per_user: int | None = None) -> list[str]:
    return [one.id for one in source.user(user_id, queries_per_user).history]


# --- no look-ahead ---------------------------------------------------------------------------------


@pytest.fixture
def growing(tmp_path: Path, question: Make, official: Make) -> LampSource:
    """Questions of one user, each later than the one before; the last one's profile was cut to the newest."""
    profiles = [["a", "b"], ["a", "b", "c"], ["a", "b", "c", "d"], ["b", "c", "d", "e"]]
    questions = [question(LAMP_3, f"q{n}", items, user="u") for n, items in enumerate(profiles)]
    other = question(LAMP_3, "other", ["x", "y", "z"], user="v")
    return open_lamp(official(tmp_path, [questions[0], other, *questions[1:]]), LAMP_3)


@pytest.mark.parametrize(
    ("asked", "expected"), [(1, ["a", "b"]), (2, ["a", "b"]), (3, ["a", "b"]), (4, ["b"]), (None, ["b"]), (9, ["b"])]
)
def test_a_history_is_what_the_profiles_of_all_asked_questions_share(
    growing: LampSource, asked: int | None, expected: list[str]
) -> None:
    user = growing.user("u", asked)
    assert [one.id for one in user.history] == expected
    assert [q.id for q in user.queries] == ["q0", "q1", "q2", "q3"][:asked]
    assert history(growing, "v", asked) == ["x", "y", "z"], "the questions of others do not matter"


def test_a_user_who_is_not_there_is_an_error(growing: LampSource) -> None:
    for ask in (growing.user, growing.record):
        with pytest.raises(InputError, match="there is no user 'nobody'"):
            ask("nobody")


def test_questions_that_share_nothing_leave_no_history(tmp_path: Path, question: Make, official: Make) -> None:
    questions = [question(LAMP_3, "q1", ["a"], user=1), question(LAMP_3, "q2", ["b"], user=1)]
    source = open_lamp(official(tmp_path, questions), LAMP_3)
    assert history(source, "1") == [] and history(source, "1", 1) == ["a"]


def test_ids_are_compared_as_text(tmp_path: Path, question: Make, official: Make, item: Make) -> None:
    questions = [question(LAMP_3, "q1", [item(LAMP_3, "7")], user=1)]
    questions.append(question(LAMP_3, "q2", [{**item(LAMP_3, "7"), "id": 7}], user=1))
    assert history(open_lamp(official(tmp_path, questions), LAMP_3), "1") == ["7"]


def test_a_history_is_in_order_of_date_and_then_of_position(
    tmp_path: Path, question: Make, official: Make, item: Make
) -> None:
    dates = {"a": "2012-01-01", "b": "2010", "c": "2012-01-01", "d": "", "e": "2011-06", "f": 2010}
    items = [item(LAMP_3, key, date=date) for key, date in dates.items()]
    undated = item(LAMP_3, "g")
    del undated["date"]
    source = open_lamp(official(tmp_path, [question(LAMP_3, "q", [*items, undated], user=1)]), LAMP_3)
    assert history(source, "1") == ["d", "g", "b", "f", "e", "a", "c"]
    assert [one.ordinal for one in source.user("1").history] == [3, 6, 1, 5, 4, 0, 2]


ITEMS = st.lists(st.sampled_from("abcdef"), min_size=1, unique=True)
PROFILES = st.lists(st.tuples(st.sampled_from("uvw"), ITEMS), min_size=1, max_size=8)


@settings(deadline=None, max_examples=60)
@given(profiles=PROFILES, asked=st.none() | st.integers(1, 4))
def test_no_item_that_is_missing_in_a_selected_questions_profile_is_in_the_history(
    tmp_path_factory: pytest.TempPathFactory, profiles: list[tuple[str, list[str]]], asked: int | None
) -> None:
    folder = tmp_path_factory.mktemp("property")
    questions = [
        {
            "id": str(number),
            "user_id": user,
            "input": "?",
            "profile": [{"id": one, "text": one, "score": "1", "date": f"20{ord(one) % 7 + 10}"} for one in items],
        }
        for number, (user, items) in enumerate(profiles)
    ]
    (folder / "dev_questions.json").write_text(json.dumps(questions))
    with mock.patch("datasets.config.HF_DATASETS_CACHE", folder / "cache"):
        source = open_lamp(folder, LAMP_3)
        sizes = {size.user_id: size for size in source.sizes(asked)}
        users = {user.user_id: user for user in chosen(source, asked)}
    assert list(users) == list(dict.fromkeys(user for user, _ in profiles)) == list(sizes)
    for user_id, user in users.items():
        own = [(str(number), items) for number, (user, items) in enumerate(profiles) if user == user_id][:asked]
        assert [query.id for query in user.queries] == [number for number, _ in own]
        found = [one.id for one in user.history]
        assert set(found) == set.intersection(*(set(items) for _, items in own)) and len(set(found)) == len(found)
        assert [one.position for one in user.history] == sorted(one.position for one in user.history)
        assert sizes[user_id].queries == len(own) and sizes[user_id].history >= len(found)


def chosen(source: LampSource, asked: int | None) -> Any:
    return [source.user(user_id, asked) for user_id in source.user_ids]


# --- users and sizes -------------------------------------------------------------------------------


def test_sizes_are_of_the_asked_questions(growing: LampSource) -> None:
    assert growing.sizes() == [UserSize("u", len(growing.user("u").history), 4), UserSize("v", 3, 1)]
    assert growing.sizes()[0].history == 1
    assert growing.sizes(1) == [UserSize("u", 2, 1), UserSize("v", 3, 1)]
    assert growing.user_ids == ["u", "v"] and growing.where == str(growing.files.main.parent)


def test_the_same_users_come_out_of_both_layouts(
    tmp_path: Path, question: Make, official: Make, oppu: Make, item: Make
) -> None:
    asked = [{**question(LAMP_2M, f"q{n}", ["a", "b"], user="7"), "gold": "action"} for n in range(3)]
    one = open_lamp(
        official(tmp_path / "1", asked, dict.fromkeys(["q0", "q1", "q2"], "action"), task="LaMP_2"), LAMP_2M
    )
    users = [{"user_id": 7, "profile": [item(LAMP_2M, key) for key in "ab"], "query": asked}]
    other = open_lamp(oppu(tmp_path / "2", users), LAMP_2M)
    for queries_per_user in (None, 1, 2, 5):
        assert one.user("7", queries_per_user) == other.user("7", queries_per_user)
    assert list(one.users()) == list(other.users()) == list(users_from_entries(users, LAMP_2M, "here", "x").users)
    assert (one.files.layout, other.files.layout) == ("official", "oppu")


def test_without_golds_nothing_can_be_scored_and_the_message_says_what_is_missing(growing: LampSource) -> None:
    with pytest.raises(
        InputError, match=r"query 'other' has no gold, .*: put the split's outputs beside its questions$"
    ):
        chosen_users(growing, Selection())


# --- cache and digest ------------------------------------------------------------------------------


def test_the_files_are_parsed_once(
    tmp_path: Path, question: Make, official: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = official(tmp_path, [question(LAMP_3, "q", ["a"], user=1)], {"q": "3"})
    first = list(open_lamp(folder, LAMP_3).users())

    def never(*_: Any, **__: Any) -> Any:
        raise AssertionError("the file is parsed again")

    monkeypatch.setattr(ijson, "items", never)
    assert list(open_lamp(folder, LAMP_3).users()) == first
    (tmp_path / "elsewhere").mkdir()
    for path in folder.glob("dev_*.json"):
        path.rename(tmp_path / "elsewhere" / path.name)
    assert list(open_lamp(tmp_path / "elsewhere", LAMP_3, data_seed=9).users()) == first, "the content is the key"
    (tmp_path / "elsewhere" / "dev_outputs.json").unlink()
    with pytest.raises(AssertionError, match="parsed again"):
        open_lamp(tmp_path / "elsewhere", LAMP_3)


def test_the_digest_follows_both_files_and_nothing_else(tmp_path: Path, question: Make, official: Make) -> None:
    asked = [question(LAMP_3, "q", ["a"], user=1)]
    same = [open_lamp(official(tmp_path / name, asked, {"q": "3"}), LAMP_3).digest for name in ("1", "2")]
    others = [
        open_lamp(official(tmp_path / "3", asked), LAMP_3).digest,
        open_lamp(official(tmp_path / "4", asked, {"q": "4"}), LAMP_3).digest,
        open_lamp(official(tmp_path / "5", [question(LAMP_3, "q", ["b"], user=1)], {"q": "3"}), LAMP_3).digest,
    ]
    assert same[0] == same[1] and len({same[0], *others}) == 4


def test_a_file_that_has_changed_is_read_anew(tmp_path: Path, question: Make, official: Make) -> None:
    for key in ("a", "b"):
        assert history(open_lamp(official(tmp_path, [question(LAMP_3, "q", [key], user=1)]), LAMP_3), "1") == [key]


def test_an_outputs_file_that_became_empty_is_not_taken_for_none(
    tmp_path: Path, question: Make, official: Make
) -> None:
    folder = official(tmp_path, [question(LAMP_3, "q", ["a"])])
    open_lamp(folder, LAMP_3)
    (folder / "dev_outputs.json").write_text("")
    with pytest.raises(InputError, match=r"dev_outputs\.json: the file is empty"):
        open_lamp(folder, LAMP_3)


def test_the_rows_of_one_task_are_not_those_of_another(tmp_path: Path, question: Make, official: Make) -> None:
    folder = official(tmp_path, [question(LAMP_3, "q", ["a"])])
    open_lamp(folder, LAMP_3)
    with pytest.raises(InputError, match="asks a question of lamp-3, not of lamp-2m"):
        open_lamp(folder, LAMP_2M)


def test_a_user_is_the_same_however_often_and_in_whatever_order_they_are_asked_for(
    tmp_path: Path, each_task: LampTask, question: Make, official: Make
) -> None:
    rng = random.Random(0)
    keys = [f"k{n}" for n in range(30)]
    asked = [question(each_task, f"q{n}", rng.sample(keys, 10), user=n % 6) for n in range(12)]
    source = open_lamp(official(tmp_path, asked, task=each_task.name), each_task)
    users = list(source.users())
    again = open_lamp(tmp_path, each_task)
    assert [again.user(user.user_id) for user in reversed(users)] == users[::-1]


# --- memory ----------------------------------------------------------------------------------------

READ = """
import re, resource, sys
from pathlib import Path
from personaagent.datasets.lamp.source import open_lamp
from personaagent.datasets.lamp.tasks import LAMP_3

source = open_lamp(Path(sys.argv[1]), LAMP_3)
items = sum(len(user.history) for user in source.users())
status = Path("/proc/self/status")  # on Linux, getrusage counts what the parent had before exec, too
if status.exists():
    kilobytes = int(re.search(r"VmHWM:\\s*(\\d+) kB", status.read_text())[1])
else:
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
print(len(source.user_ids), items, kilobytes // 1024)
"""


def write_reviews(folder: Path, users: int, items: int) -> Path:
    """Two questions a user, each with the same reviews, of some 3 kB each."""
    folder.mkdir()
    text = " ".join(f"word{number}" for number in range(360))
    reviews = [
        json.dumps({"id": str(n), "text": f"{n} {text}", "score": str(n % 5 + 1), "date": "2012-03-06"})
        for n in range(items)
    ]
    with (folder / "dev_questions.json").open("w") as file:
        for number in range(users * 2):
            head = json.dumps({"id": str(number), "user_id": number // 2, "input": f"review: {number}"})
            file.write(("," if number else "[") + head[:-1] + ', "profile": [' + ",".join(reviews) + "]}")
        file.write("]")
    return folder


def test_memory_does_not_depend_on_the_size_of_the_file(tmp_path: Path) -> None:
    small, large = write_reviews(tmp_path / "small", 1, 30), write_reviews(tmp_path / "large", 400, 30)
    assert (large / "dev_questions.json").stat().st_size > 60_000_000
    peaks = []
    for folder, users in ((small, 1), (large, 400)):
        done = subprocess.run([sys.executable, "-c", READ, str(folder)], capture_output=True, text=True, check=True)
        found, items, megabytes = map(int, done.stdout.split())
        assert (found, items, done.stderr) == (users, users * 30, "")
        peaks.append(megabytes)
    assert peaks[1] < peaks[0] + 50, peaks
