"""The reader of OPPU's layout: what it takes, and what it says of a file that is wrong."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personaagent.datasets.lamp.oppu import HISTORY_FILE, LABEL_FILE, OTHERS_FILE
from personaagent.datasets.lamp.source import open_lamp, users_from_entries
from personaagent.datasets.lamp.tasks import LAMP_2M
from personaagent.datasets.task import User
from personaagent.programs.errors import InputError

USERS: list[dict[str, Any]] = [
    {
        "user_id": "11",
        "profile": [
            {"id": "a", "description": "Two bakers share an oven.", "tag": "comedy", "date": "2009-05-01"},
            {"id": "b", "description": "A bridge is held for a night.", "tag": "action", "date": "2009-05-01"},
        ],
        "query": [{"id": "q1", "input": "Which tag? A ship near Saturn.", "gold": "sci-fi"}],
    },
    {
        "user_id": 12,
        "profile": [{"id": "a", "description": "Clerks want a desk.", "tag": "dark comedy", "date": "2010-01-01"}],
        "query": [
            {"id": "q2", "input": "Which tag? A knocking cellar.", "gold": "violence"},
            {"id": "q3", "input": "Which tag? A street band.", "gold": "romance"},
        ],
    },
]
LABELS = {"task": "LaMP_2", "golds": [{"id": f"q{i}", "output": tag} for i, tag in enumerate(
    ("sci-fi", "violence", "romance"), 1)]}  # fmt: skip

Change = Callable[[Any], object]


def write(folder: Path, users: Any = USERS, labels: Any = LABELS) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / HISTORY_FILE).write_text(users if isinstance(users, str) else json.dumps(users), encoding="utf-8")
    if labels is not None:
        (folder / LABEL_FILE).write_text(labels if isinstance(labels, str) else json.dumps(labels), encoding="utf-8")
    return folder


def changed(value: Any, change: Change) -> Any:
    value = copy.deepcopy(value)
    change(value)
    return value


def load_users(folder: Path) -> tuple[list[User], str]:
    """(all users, digest)"""
    source = open_lamp(folder, LAMP_2M)
    return list(source.users()), source.digest


def message(folder: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_lamp(folder, LAMP_2M)
    text = str(caught.value)
    assert "\n" not in text and "Traceback" not in text
    return text


# --- what it takes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("inside", ["", "movie_tagging"])
def test_users_histories_and_queries_are_read(tmp_path: Path, inside: str) -> None:
    folder = write(tmp_path / inside)
    users, digest = load_users(tmp_path)
    assert [user.user_id for user in users] == ["11", "12"]
    assert [(i.id, i.ordinal, i.response, i.text) for i in users[0].history] == [
        ("a", 0, "comedy", "Two bakers share an oven."),
        ("b", 1, "action", "A bridge is held for a night."),
    ]
    assert [(q.id, q.input, q.gold) for q in users[1].queries] == [
        ("q2", "Which tag? A knocking cellar.", "violence"),
        ("q3", "Which tag? A street band.", "romance"),
    ]
    both = (folder / HISTORY_FILE).read_bytes() + (folder / LABEL_FILE).read_bytes()
    assert digest == hashlib.sha256(both).hexdigest()


def test_the_digest_follows_both_files(tmp_path: Path) -> None:
    digests = {
        load_users(write(tmp_path / "1"))[1],
        load_users(write(tmp_path / "2", labels=None))[1],
        load_users(write(tmp_path / "3", users=json.dumps(USERS) + " "))[1],
        load_users(write(tmp_path / "4", labels={**LABELS, "task": "other"}))[1],
    }
    assert len(digests) == 4


def test_golds_may_be_in_the_label_file_or_with_the_queries_or_the_same_in_both(tmp_path: Path) -> None:
    spaced = changed(LABELS, lambda labels: labels["golds"][0].update(output=" sci-fi "))
    without = changed(USERS, lambda users: [query.pop("gold") for user in users for query in user["query"]])
    assert load_users(write(tmp_path / "1", labels=spaced))[0][0].queries[0].gold == "sci-fi"
    assert load_users(write(tmp_path / "2", labels=None))[0][0].queries[0].gold == "sci-fi"
    assert load_users(write(tmp_path / "3", users=without))[0][0].queries[0].gold == "sci-fi"


def test_golds_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    other = changed(LABELS, lambda labels: labels["golds"][0].update(output="comedy"))
    said = message(write(tmp_path, labels=other))
    assert f"query 0 (id 'q1'): gold 'sci-fi' here, and 'comedy' in {LABEL_FILE}" in said


def test_a_query_id_of_two_users_is_refused_where_a_label_file_is_read_by_it(tmp_path: Path) -> None:
    twice = changed(USERS, lambda users: users[1]["query"][0].update(id="q1", gold="sci-fi"))
    assert "query id 'q1' is also another user's" in message(write(tmp_path, users=twice))


def test_a_user_may_have_no_queries(tmp_path: Path) -> None:
    users, _ = load_users(write(tmp_path, users=[changed(USERS[0], lambda user: user.update(query=[]))], labels=None))
    assert len(users[0].history) == 2 and users[0].queries == ()


def test_the_file_of_other_users_is_not_read_by_a_task_that_draws_nothing(tmp_path: Path) -> None:
    folder = write(tmp_path)
    digest = open_lamp(folder, LAMP_2M).digest
    (folder / OTHERS_FILE).write_text("no JSON")
    assert open_lamp(folder, LAMP_2M).digest == digest


def test_ids_repeat_freely_between_users(tmp_path: Path) -> None:
    users, _ = load_users(write(tmp_path))
    assert users[0].history[0].id == users[1].history[0].id == "a"


# --- folders and files -----------------------------------------------------------------------------


def test_a_missing_folder(tmp_path: Path) -> None:
    expected = f"{tmp_path}/nowhere: no such folder; --data takes a folder of LaMP files, see docs/lamp.md"
    assert message(tmp_path / "nowhere") == expected


def test_a_file_instead_of_a_folder(tmp_path: Path) -> None:
    write(tmp_path)
    assert "is a file" in message(tmp_path / HISTORY_FILE)


def test_a_folder_without_the_file(tmp_path: Path) -> None:
    text = message(tmp_path)
    assert str(tmp_path) in text and HISTORY_FILE in text and "movie_tagging/" in text


@pytest.mark.parametrize("keep", [1, 40, 150, 299, -1])
def test_a_history_cut_short(tmp_path: Path, keep: int) -> None:
    text = message(write(tmp_path, users=json.dumps(USERS)[:keep]))
    assert text.startswith(f"{tmp_path / HISTORY_FILE}: not valid JSON: the file ends too early, after ")
    assert f"in the record at index {[0, 1, 2][(keep > 299) + 2 * (keep < 0)]}" in text
    assert text.endswith("Is the download complete?")


def test_labels_cut_short(tmp_path: Path) -> None:
    text = message(write(tmp_path, labels=json.dumps(LABELS)[:-2]))
    assert text.startswith(f"{tmp_path / LABEL_FILE}: not valid JSON") and "ends too early" in text


def test_json_that_is_wrong_in_the_middle_is_not_called_cut_short(tmp_path: Path) -> None:
    text = message(write(tmp_path, users=json.dumps(USERS)[:-1] + ', {"user_id": oops, "profile": []}]'))
    assert "not valid JSON in the record at index 2, within the first" in text and "too early" not in text
    assert '"user_id": oops' in text


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    folder = write(tmp_path)
    (folder / HISTORY_FILE).write_bytes(b'[{"user_id": "\xff"}]')
    expected = f"{folder / HISTORY_FILE}: not UTF-8 in the record at index 0, within the first 18 bytes: save it as"
    assert message(folder).startswith(expected)


@pytest.mark.parametrize(
    ("content", "kind"), [([], "an empty list"), ({"a": 1}, "an object"), ("null", "null"), ("3", "a number")]
)
def test_a_history_that_is_no_list_of_users(tmp_path: Path, content: Any, kind: str) -> None:
    text = message(write(tmp_path, users=content))
    assert text == f"{tmp_path / HISTORY_FILE}: expected a list of users and at least one, but found {kind}"


# --- users, items and queries ----------------------------------------------------------------------

USER_1 = "user at index 1 (user_id '12')"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda u: u[1].pop("user_id"), "user at index 1: field 'user_id' is missing"),
        (
            lambda u: u[1].update(user_id=" "),
            "user at index 1: field 'user_id' must be text or a whole number and not empty",
        ),
        (lambda u: u[1].update(user_id=True), "user at index 1: field 'user_id' must be text or a whole number"),
        (lambda u: u.__setitem__(1, "x"), "user at index 1: expected an object, but found text"),
        (lambda u: u[1].update(user_id="11"), "user at index 1 (user_id '11'): this user_id occurs twice"),
        (lambda u: u[1].update(user_id=11), "user at index 1 (user_id '11'): this user_id occurs twice"),
        (lambda u: u[1].pop("profile"), f"{USER_1}: field 'profile' is missing"),
        (lambda u: u[1].update(profile={}), f"{USER_1}: field 'profile' must be a list and not empty"),
        (lambda u: u[1].update(profile=[]), f"{USER_1}: field 'profile' must be a list and not empty, but is an empty"),
        (lambda u: u[1].pop("query"), f"{USER_1}: field 'query' is missing"),
        (lambda u: u[1].update(query=None), f"{USER_1}: field 'query' must be a list, but is null"),
        (lambda u: u[1]["profile"][0].pop("tag"), f"{USER_1}, profile item 0: field 'tag' is missing"),
        (lambda u: u[1]["profile"][0].pop("id"), f"{USER_1}, profile item 0: field 'id' is missing"),
        (lambda u: u[1]["profile"][0].update(tag=""), f"{USER_1}, profile item 0: field 'tag' must be"),
        (
            lambda u: u[1]["profile"][0].update(date="soon"),
            f"{USER_1}, profile item 0: field 'date': timestamp must be",
        ),
        (lambda u: u[1]["profile"].append(7), f"{USER_1}, profile item 1: expected an object, but found a number"),
        (lambda u: u[1]["profile"].append(u[1]["profile"][0]), f"{USER_1}, profile: id 'a' occurs twice"),
        (lambda u: u[1]["query"][1].pop("id"), f"{USER_1}, query 1: field 'id' is missing"),
        (lambda u: u[1]["query"][1].pop("input"), f"{USER_1}, query 1: field 'input' is missing"),
        (lambda u: u[1]["query"][1].update(input=5), f"{USER_1}, query 1: field 'input' must be text and not empty"),
        (lambda u: u[1]["query"][1].update(id="q2"), f"{USER_1}, query: id 'q2' occurs twice"),
        (lambda u: u[1]["query"].append([]), f"{USER_1}, query 2: expected an object, but found an empty list"),
        (lambda u: u[1]["query"][1].update(id="q9"), f"{USER_1}, query 1 (id 'q9'): no label with this id in user_"),
    ],
)
def test_a_fault_in_the_history_is_named_with_its_place(tmp_path: Path, change: Change, expected: str) -> None:
    text = message(write(tmp_path, users=changed(USERS, change)))
    assert text.startswith(f"{tmp_path / HISTORY_FILE}: {expected}")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda u: u[0]["query"][0].pop("gold"), "field 'gold' is missing"),
        (lambda u: u[0]["query"][0].update(gold=""), "field 'gold' must be text or a whole number and not empty"),
        (lambda u: u[0]["query"][0].update(gold="drama"), "gold 'drama' is not a label: sci-fi, "),
        (lambda u: u[0]["query"][0].update(gold="Sci-Fi"), "gold 'Sci-Fi' is not a label: sci-fi, "),
    ],
)
def test_without_a_label_file_a_faulty_gold_is_named(tmp_path: Path, change: Change, expected: str) -> None:
    text = message(write(tmp_path, users=changed(USERS, change), labels=None))
    assert text.startswith(f"{tmp_path / HISTORY_FILE}: user at index 0 (user_id '11'), query 0")
    assert expected in text


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda g: g.pop("golds"), "field 'golds' is missing"),
        (lambda g: g.update(golds={}), "field 'golds' must be a list"),
        (lambda g: g["golds"].append("x"), "golds at index 3: expected an object, but found text"),
        (lambda g: g["golds"][1].pop("id"), "golds at index 1: field 'id' is missing"),
        (lambda g: g["golds"][1].pop("output"), "golds at index 1: field 'output' is missing"),
        (lambda g: g["golds"][1].update(id="q1"), "golds at index 1: id 'q1' occurs twice"),
    ],
)
def test_a_fault_in_the_labels_is_named_with_its_place(tmp_path: Path, change: Change, expected: str) -> None:
    text = message(write(tmp_path, labels=changed(LABELS, change)))
    assert text.startswith(f"{tmp_path / LABEL_FILE}: {expected}")


def test_labels_that_are_no_object(tmp_path: Path) -> None:
    text = message(write(tmp_path, labels=[1]))
    assert text == f"{tmp_path / LABEL_FILE}: expected an object with 'golds', but found a list"


def test_a_gold_of_the_label_file_that_is_no_label(tmp_path: Path) -> None:
    labels = changed(LABELS, lambda g: g["golds"][2].update(output="drama"))
    expected = f"{tmp_path / LABEL_FILE}: golds at index 2: gold 'drama' is not a label"
    assert message(write(tmp_path, labels=labels)).startswith(expected)


def test_golds_that_are_of_no_query(tmp_path: Path) -> None:
    labels = changed(LABELS, lambda g: g["golds"].append({"id": "q0", "output": "comedy"}))
    assert message(write(tmp_path, labels=labels)) == (
        f"{tmp_path / LABEL_FILE}: 1 golds are of no query in {HISTORY_FILE}, such as id 'q0': are the two files of "
        f"one download?"
    )


def test_entries_of_our_own_are_named_by_where_they_are_from() -> None:
    with pytest.raises(InputError, match=r"^the sample: user at index 0: field 'user_id' is missing$"):
        users_from_entries([{}], LAMP_2M, "the sample", "digest")
