"""Reader of OPPU's per-user layout (TamSiuhin/OPPU, data/<task>/)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from personaagent.datasets.lamp.tasks import LabelTask
from personaagent.datasets.task import Query, Task, User
from personaagent.programs.errors import InputError

HISTORY_FILE = "user_top_100_history.json"
LABEL_FILE = "user_top_100_history_label.json"


def load_users(folder: Path, task: LabelTask) -> tuple[list[User], str]:
    """All users of a task.

    Args:
        folder: the task's folder, or one that holds it under OPPU's name (`movie_tagging`, ...).
        task: whose items these are.

    Returns:
        The users, in the file's order, and the SHA-256 of the files that were read.

    Raises:
        InputError: if a file is missing, is not JSON, or lacks a field: which file, which user, which item.
    """
    folder = _task_folder(folder, task)
    history_path, label_path = folder / HISTORY_FILE, folder / LABEL_FILE
    digest = hashlib.sha256()
    entries = _read_json(history_path, digest)
    golds = _golds(label_path, digest) if label_path.is_file() else None
    if not isinstance(entries, list) or not entries:
        raise InputError(f"{history_path}: expected a list of users and at least one, but found {_kind(entries)}")
    users = users_from_entries(entries, task, str(history_path), golds)
    return users, digest.hexdigest()


def users_from_entries(
    entries: Sequence[Mapping[str, Any]], task: Task, where: str, golds: Mapping[str, str] | None = None
) -> list[User]:
    """Users from entries of OPPU's shape: `user_id`, `profile` (items, oldest first), `query` (id, input, gold).

    Args:
        entries: one a user.
        task: turns profile items into interactions.
        where: named in errors.
        golds: the label file's, by query id; they are preferred to the entries' own.
    """
    users: list[User] = []
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        place = f"{where}: user at index {index}"
        if not isinstance(entry, Mapping):
            raise InputError(f"{place}: expected an object, but found {_kind(entry)}")
        user_id = str(_required(entry, "user_id", (str, int), place))
        place += f" (user_id {user_id!r})"
        if user_id in seen:
            raise InputError(f"{place}: this user_id occurs twice")
        seen.add(user_id)
        items = _required(entry, "profile", (list,), place)
        queries = _required(entry, "query", (list,), place)
        history = []
        for ordinal, item in enumerate(items):
            if not isinstance(item, Mapping):
                raise InputError(f"{place}, profile item {ordinal}: expected an object, but found {_kind(item)}")
            try:
                history.append(task.interaction(user_id, item, ordinal))
            except InputError as error:
                raise InputError(f"{place}, profile item {ordinal}: {error}") from None
        _unique([i.id for i in history], f"{place}, profile")
        held_out = tuple(_query(q, f"{place}, query {i}", task, golds) for i, q in enumerate(queries))
        _unique([q.id for q in held_out], f"{place}, query")
        users.append(User(user_id, tuple(history), held_out))
    return users


def _query(entry: Any, place: str, task: Task, golds: Mapping[str, str] | None) -> Query:
    if not isinstance(entry, Mapping):
        raise InputError(f"{place}: expected an object, but found {_kind(entry)}")
    query_id = str(_required(entry, "id", (str, int), place))
    text = _required(entry, "input", (str,), place)
    if golds is not None and query_id not in golds:
        raise InputError(f"{place} (id {query_id!r}): no label with this id in {LABEL_FILE}")
    gold = golds[query_id] if golds is not None else str(_required(entry, "gold", (str, int), place))
    if task.labels and gold.strip() not in task.labels:
        raise InputError(f"{place} (id {query_id!r}): gold {gold!r} is not a label of {task.name}")
    return Query(query_id, text, gold.strip() if task.labels else gold)


def _golds(path: Path, digest: Any) -> dict[str, str]:
    content = _read_json(path, digest)
    if not isinstance(content, Mapping):
        raise InputError(f"{path}: expected an object with 'golds', but found {_kind(content)}")
    golds: dict[str, str] = {}
    for index, entry in enumerate(_required(content, "golds", (list,), str(path))):
        place = f"{path}: golds at index {index}"
        if not isinstance(entry, Mapping):
            raise InputError(f"{place}: expected an object, but found {_kind(entry)}")
        query_id = str(_required(entry, "id", (str, int), place))
        if query_id in golds:
            raise InputError(f"{place}: id {query_id!r} occurs twice")
        golds[query_id] = str(_required(entry, "output", (str, int), place))
    return golds


def _task_folder(folder: Path, task: LabelTask) -> Path:
    if not folder.is_dir():
        raise InputError(f"{folder}: no such folder; --data takes a folder with {HISTORY_FILE}")
    for candidate in (folder, folder / task.folder):
        if (candidate / HISTORY_FILE).is_file():
            return candidate
    raise InputError(
        f"{folder}: neither {HISTORY_FILE} nor {task.folder}/{HISTORY_FILE} is in it; "
        f"{task.name} is read from OPPU's layout, data/{task.folder}/"
    )


def _read_json(path: Path, digest: Any) -> Any:
    try:
        raw = path.read_bytes()
        digest.update(raw)
        return json.loads(raw)
    except json.JSONDecodeError as error:
        ended = error.pos >= len(error.doc.rstrip()) - 1 or error.msg.startswith("Unterminated string")
        cut = " (the file ends too early: is the download complete?)" if ended else ""
        raise InputError(
            f"{path}: not valid JSON at line {error.lineno}, column {error.colno}: {error.msg}{cut}"
        ) from None
    except UnicodeDecodeError as error:
        raise InputError(f"{path}: not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        # A number of thousands of digits, or brackets nested by the thousand.
        raise InputError(f"{path}: not the JSON of a data file: {str(error) or type(error).__name__}") from None
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None


def _required(entry: Mapping[str, Any], name: str, types: tuple[type, ...], place: str) -> Any:
    if name not in entry:
        raise InputError(f"{place}: field {name!r} is missing")
    value = entry[name]
    if not isinstance(value, types) or isinstance(value, bool) or (isinstance(value, str) and not value.strip()):
        expected = " or ".join({str: "text", int: "number", list: "list"}[t] for t in types)
        raise InputError(f"{place}: field {name!r} must be {expected} and not empty, but is {_kind(value)}")
    return value


def _unique(ids: Sequence[str], place: str) -> None:
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise InputError(f"{place}: id {one!r} occurs twice")
        seen.add(one)


def _kind(value: Any) -> str:
    names = {
        list: "a list",
        dict: "an object",
        str: "text",
        int: "a number",
        float: "a number",
        type(None): "null",
    }
    text = names.get(type(value), type(value).__name__)
    return f"an empty {text.split()[-1]}" if isinstance(value, list | dict | str) and not value else text
