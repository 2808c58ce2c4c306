"""From one layout to the other and back: the same users, or nothing at all."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from datasets import config
from personaagent.datasets.lamp.convert import Layout, convert
from personaagent.datasets.lamp.source import LampSource, open_lamp
from personaagent.datasets.lamp.tasks import LAMP_1, LAMP_2M, LAMP_2N, LAMP_3, LAMP_4, LAMP_5, TASKS, LampTask
from personaagent.datasets.task import User
from personaagent.programs.errors import InputError, StoreError

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

ROUND_TRIPS = [LAMP_1, LAMP_2M, LAMP_2N, LAMP_3, LAMP_4, LAMP_5]
GOLDS = {"lamp-1": "[2]", "lamp-2m": "dark comedy", "lamp-2n": "food & drink", "lamp-3": "4"}


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


def item(task: LampTask, user: str, number: int) -> dict[str, Any]:
    """An item with every field of its task's, and one more; texts have what JSON and terminals trip over."""
    values = {
        name: f'{user}\'s {name} {number}: "é 紅茶 🎬"\n\\ [b]' for name in task.fields if name not in task.derived
    }
    answer = GOLDS.get(task.name, f"title {number}")
    made: dict[str, Any] = values | {
        "id": f"{user}-{number}",
        "date": f"2010-01-{number % 3 + 1:02d}",
        "other": [number],
    }
    if task is LAMP_1:
        return made | {"citation": f"cited by {user} {number}"}
    if task is LAMP_3:
        return made | {"score": number % 5 + 1}  # a number, as some files have it
    return made | {task.answer_field: answer}


def question(task: LampTask, user: str, number: int) -> dict[str, str]:
    fields = {**{name: f"{name} é {user} {number}" for name in task.fields}, "reference_1": "R1", "reference_2": "R2"}
    return {
        "id": f"q-{user}-{number}",
        "input": task.question.format_map(fields),
        "gold": GOLDS.get(task.name, "A title"),
    }


def write_oppu(root: Path, task: LampTask, sizes: dict[str, tuple[int, int]]) -> Path:
    """OPPU's two files for {user_id: (items, queries)}."""
    folder = root / task.folder
    folder.mkdir(parents=True)
    entries = [
        {
            "user_id": user,
            "profile": [item(task, user, number) for number in range(items)],
            "query": [question(task, user, number) for number in range(queries)],
        }
        for user, (items, queries) in sizes.items()
    ]
    (folder / "user_top_100_history.json").write_text(json.dumps(entries), encoding="utf-8")
    return root


def write_official(
    root: Path, task: LampTask, sizes: dict[str, tuple[int, int]], split: str = "dev", grows: bool = True
) -> Path:
    """The time-based split's two files: users alternate, and later questions have an item more each if it `grows`."""
    folder = root / "time" / task.directory / split
    folder.mkdir(parents=True)
    entries: list[dict[str, Any]] = []
    golds: list[dict[str, str]] = []
    for turn in range(max(queries for _, queries in sizes.values())):
        for user, (items, queries) in sizes.items():
            if turn < queries:
                asked = question(task, user, turn)
                golds.append({"id": asked["id"], "output": asked.pop("gold")})
                more = turn if grows else 0
                profile = [item(task, user, number) for number in range(items + more)]
                entries.append({**asked, "profile": profile, "user_id": user})
    (folder / f"{split}_questions.json").write_text(json.dumps(entries), encoding="utf-8")
    name = task.name.replace("lamp-", "LaMP_").upper().replace("LAMP", "LaMP")
    (folder / f"{split}_outputs.json").write_text(json.dumps({"task": name, "golds": golds}), encoding="utf-8")
    return root


def users(source: LampSource) -> list[User]:
    return list(source.users())


def profiles(source: LampSource) -> dict[str, tuple[dict[str, Any], ...]]:
    """The items as the files have them, with fields that no task reads."""
    return {user_id: source.record(user_id).items for user_id in source.user_ids}


SIZES = {"ann": (4, 3), "7": (2, 1), "bé": (5, 2)}


# --- there and back -------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ROUND_TRIPS, ids=lambda task: task.name)
def test_from_oppus_layout_there_and_back_gives_the_same_users(tmp_path: Path, task: LampTask) -> None:
    first = open_lamp(write_oppu(tmp_path / "one", task, SIZES), task)
    paths = convert(first, tmp_path / "two", "official")
    folder = tmp_path / "two" / "time" / task.directory / "dev"
    assert paths == [folder / "dev_questions.json", folder / "dev_outputs.json"]
    second = open_lamp(tmp_path / "two", task)
    assert second.files.layout == "official" and users(second) == users(first)
    paths = convert(second, tmp_path / "three", "oppu")
    assert [path.name for path in paths] == ["user_top_100_history.json", "user_top_100_history_label.json"]
    third = open_lamp(tmp_path / "three", task)
    assert third.files.layout == "oppu" and users(third) == users(first)
    assert profiles(third) == profiles(second) == profiles(first)
    assert [query.gold for user in users(third) for query in user.queries if not query.gold] == []


@pytest.mark.parametrize("task", ROUND_TRIPS, ids=lambda task: task.name)
def test_from_the_official_layout_there_and_back_gives_the_same_users(tmp_path: Path, task: LampTask) -> None:
    # LaMP-1's references are drawn from all papers; see the next test.
    first = open_lamp(write_official(tmp_path / "one", task, SIZES, grows=task is not LAMP_1), task)
    convert(first, tmp_path / "two", "oppu")
    second = open_lamp(tmp_path / "two", task)
    convert(second, tmp_path / "three", "official")
    third = open_lamp(tmp_path / "three", task)
    assert users(first) == users(second) == users(third)
    assert profiles(first) == profiles(second) == profiles(third)
    assert [len(user.history) for user in users(second)] == [4, 2, 5], "what all of a user's questions have"


def test_papers_that_not_all_questions_have_are_lost_to_the_draw_of_references_alone(tmp_path: Path) -> None:
    first = open_lamp(write_official(tmp_path / "one", LAMP_1, SIZES), LAMP_1)
    convert(first, tmp_path / "two", "oppu")
    second = open_lamp(tmp_path / "two", LAMP_1)
    assert profiles(first) == profiles(second)
    for one, other in zip(users(first), users(second), strict=True):
        assert (one.user_id, one.queries) == (other.user_id, other.queries)
        assert [(i.id, i.text, i.timestamp) for i in one.history] == [
            (i.id, i.text, i.timestamp) for i in other.history
        ]


def test_citations_are_kept(tmp_path: Path) -> None:
    source = open_lamp(write_oppu(tmp_path / "one", LAMP_1, SIZES), LAMP_1)
    [questions, _] = convert(source, tmp_path / "two", "official")
    entries = json.loads(questions.read_text(encoding="utf-8"))
    assert [one["citation"] for one in entries[0]["profile"]] == [f"cited by ann {number}" for number in range(4)]
    assert "reference_1" not in entries[0]["profile"][0], "what a reader draws is in no file"
    second = open_lamp(tmp_path / "two", LAMP_1)
    assert users(second) == users(source) and second.notes == source.notes == []


def test_another_split_is_named_so(tmp_path: Path) -> None:
    source = open_lamp(write_official(tmp_path / "one", LAMP_3, SIZES, "train"), LAMP_3, "train")
    convert(source, tmp_path / "two", "oppu")
    paths = convert(open_lamp(tmp_path / "two", LAMP_3), tmp_path / "three", "official", "test")
    assert [path.name for path in paths] == ["test_questions.json", "test_outputs.json"]
    assert users(open_lamp(tmp_path / "three", LAMP_3, "test")) == users(source)


def test_the_user_based_split_becomes_a_user_for_each_question(tmp_path: Path) -> None:
    folder = write_official(tmp_path / "one", LAMP_2M, SIZES) / "time" / LAMP_2M.directory / "dev"
    path = folder / "dev_questions.json"
    entries = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps([{k: v for k, v in entry.items() if k != "user_id"} for entry in entries]))
    first = open_lamp(tmp_path / "one", LAMP_2M)
    convert(first, tmp_path / "two", "oppu")
    second = open_lamp(tmp_path / "two", LAMP_2M)
    assert len(users(second)) == 6 and users(second) == users(first)


def test_questions_without_golds_become_questions_without_golds(tmp_path: Path) -> None:
    write_official(tmp_path / "one", LAMP_4, SIZES)
    (tmp_path / "one" / "time" / LAMP_4.directory / "dev" / "dev_outputs.json").unlink()
    source = open_lamp(tmp_path / "one", LAMP_4)
    [path] = convert(source, tmp_path / "two", "official")
    assert [one.name for one in path.parent.iterdir()] == ["dev_questions.json"]
    assert users(open_lamp(tmp_path / "two", LAMP_4)) == users(source)


def test_users_without_a_query_are_left_out_of_the_official_layout(tmp_path: Path) -> None:
    source = open_lamp(write_oppu(tmp_path / "one", LAMP_2M, {**SIZES, "idle": (3, 0)}), LAMP_2M)
    convert(source, tmp_path / "two", "official")
    assert users(open_lamp(tmp_path / "two", LAMP_2M)) == users(source)[:-1]
    idle = open_lamp(write_oppu(tmp_path / "three", LAMP_2M, {"idle": (3, 0)}), LAMP_2M)
    assert "no user has a query" in refused(idle, tmp_path / "four", "official")


def test_all_tasks_go_under_one_root(tmp_path: Path) -> None:
    for task in TASKS.values():
        source = open_lamp(write_oppu(tmp_path / "one" / task.name, task, SIZES), task)
        convert(source, tmp_path / "two", "official")
    for task in TASKS.values():
        assert len(users(open_lamp(tmp_path / "two", task))) == 3


@pytest.mark.parametrize("name", ["lamp-2m", "lamp-2n", "lamp-3", "lamp-4"])
def test_real_users_are_the_same_there_and_back(tmp_path: Path, name: str) -> None:
    task = TASKS[name]
    folder = SHARED / "lamp" / "time" / task.directory
    if not folder.is_dir():
        pytest.skip(f"{folder} is not here: real data are no part of the project")
    first = open_lamp(SHARED / "lamp", task)
    convert(first, tmp_path / "two", "oppu")
    second = open_lamp(tmp_path / "two", task)
    convert(second, tmp_path / "three", "official")
    assert users(first) == users(second) == users(open_lamp(tmp_path / "three", task))


# --- nothing at all -------------------------------------------------------------------------------


def tree(folder: Path) -> dict[str, bytes]:
    """Everything under a folder, folders included."""
    return {str(p.relative_to(folder)): p.read_bytes() if p.is_file() else b"" for p in sorted(folder.rglob("*"))}


def refused(source: LampSource, to: Path, layout: str, kind: type[Exception] = InputError) -> str:
    """The message, which is one line; nothing under `to` has changed, nor was `to` made."""
    there, before = to.exists(), tree(to)
    with pytest.raises(kind) as caught:
        convert(source, to, cast("Layout", layout))
    assert (to.exists(), tree(to)) == (there, before)
    assert len(str(caught.value).splitlines()) == 1
    return str(caught.value)


@pytest.fixture
def source(tmp_path: Path) -> LampSource:
    return open_lamp(write_official(tmp_path / "one", LAMP_2M, {"ann": (40, 3), "bob": (40, 3)}), LAMP_2M)


@pytest.mark.parametrize("layout", ["oppu", "official"])
@pytest.mark.parametrize("number", [0, 1])
def test_what_is_there_is_not_overwritten(tmp_path: Path, source: LampSource, layout: Layout, number: int) -> None:
    paths = convert(source, tmp_path / "two", layout)
    paths[1 - number].unlink()
    text = refused(source, tmp_path / "two", layout)
    assert text == f"{paths[number]}: is there already; give another folder, or remove it"


def test_a_root_is_not_converted_onto_itself(tmp_path: Path, source: LampSource) -> None:
    assert "is there already" in refused(source, tmp_path / "one", "official")
    convert(source, tmp_path / "one", "oppu")  # beside it


@pytest.mark.parametrize("layout", ["", "OPPU", "lamp", "json"])
def test_another_layout_is_refused_by_name(tmp_path: Path, source: LampSource, layout: str) -> None:
    assert refused(source, tmp_path / "two", layout) == f"--to must be oppu or official, but got {layout!r}"


@contextmanager
def disk_of(size: int) -> Iterator[None]:
    """No file can grow beyond so many bytes; as on a full disk, a write fails and so does the one at closing."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("layout", ["oppu", "official"])
@pytest.mark.parametrize("size", [0, 100, 5000, 10_000])
def test_a_full_disk_leaves_nothing(tmp_path: Path, source: LampSource, layout: Layout, size: int) -> None:
    with disk_of(size):
        text = refused(source, tmp_path / "new" / "two", layout, StoreError)
    assert "cannot be written: File too large; nothing is left there" in text
    assert not (tmp_path / "new").exists()
    convert(source, tmp_path / "new" / "two", layout)
    assert users(open_lamp(tmp_path / "new" / "two", LAMP_2M)) == users(source)


def test_a_full_disk_leaves_what_was_there(tmp_path: Path, source: LampSource) -> None:
    other = tmp_path / "two" / "movie_tagging" / "notes.txt"
    other.parent.mkdir(parents=True)
    other.write_text("mine")
    with disk_of(5000):
        refused(source, tmp_path / "two", "oppu", StoreError)
    assert other.read_text() == "mine"


def test_a_second_file_that_cannot_be_placed_takes_the_first_with_it(
    tmp_path: Path, source: LampSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = os.replace

    def failing(part: Path, path: Path) -> None:
        if "label" in path.name:
            raise PermissionError(1, "Operation not permitted")
        place(part, path)

    monkeypatch.setattr(os, "replace", failing)
    assert "Operation not permitted" in refused(source, tmp_path / "two", "oppu", StoreError)


def test_a_second_file_that_cannot_be_opened_takes_the_first_with_it(tmp_path: Path, source: LampSource) -> None:
    blocked = tmp_path / "two" / "movie_tagging" / "user_top_100_history_label.json.part"
    blocked.mkdir(parents=True)
    assert "Is a directory" in refused(source, tmp_path / "two", "oppu", StoreError)


def test_an_interrupt_leaves_nothing(tmp_path: Path, source: LampSource, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(descriptor: int) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        convert(source, tmp_path / "two", "oppu")
    assert not (tmp_path / "two").exists()


def test_a_target_that_is_a_file_is_refused(tmp_path: Path, source: LampSource) -> None:
    (tmp_path / "file").write_text("mine")
    with pytest.raises(StoreError, match="cannot be written: Not a directory; nothing is left there"):
        convert(source, tmp_path / "file", "oppu")
    assert (tmp_path / "file").read_text() == "mine"


def test_oppus_layout_needs_golds(tmp_path: Path) -> None:
    write_official(tmp_path / "one", LAMP_2M, SIZES)
    (tmp_path / "one" / "time" / LAMP_2M.directory / "dev" / "dev_outputs.json").unlink()
    text = refused(open_lamp(tmp_path / "one", LAMP_2M), tmp_path / "two", "oppu")
    assert "query 'q-ann-0' has no gold, which OPPU's layout needs: put the split's outputs beside" in text


def test_half_of_a_surrogate_pair_is_refused_and_leaves_nothing(
    tmp_path: Path, source: LampSource, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of ijson's backends one puts a question mark in its place, and another leaves it."""
    row = replace(source.record("ann"), items=({"id": "1", "description": "\ud83d", "tag": "comedy"},))
    monkeypatch.setattr(LampSource, "record", lambda *_: row)
    text = refused(source, tmp_path / "two", "official")
    assert text.startswith(f"{source.where}: holds half of a surrogate pair, which is no valid text")
