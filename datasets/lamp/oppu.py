"""OPPU's per-user layout (TamSiuhin/OPPU, data/<task>/): a record a user, with profile and queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from personaagent.datasets.lamp.cache import StoredQuery, StoredRow
from personaagent.datasets.lamp.records import an_object, first_kind, required, stream, unique
from personaagent.datasets.lamp.tasks import LampTask
from personaagent.programs.errors import InputError

HISTORY_FILE = "user_top_100_history.json"
LABEL_FILE = "user_top_100_history_label.json"
OTHERS_FILE = "user_others.json"


def oppu_rows(path: Path, task: LampTask, labels: Path | None) -> Iterator[StoredRow]:
    """The users of a file, checked.

    Args:
        path: of `user_top_100_history.json` or `user_others.json`.
        task: whose items these are.
        labels: the label file; where the users have golds of their own, they must be the same.

    Raises:
        InputError: naming file, user, item, field and value.
    """
    golds = None if labels is None else golds_by_id(labels, task)
    unused = set(golds or ())
    for row in checked_rows(a_list(path, "users"), task, str(path), golds):
        for query in row.queries if golds else ():
            if query.id not in unused:
                raise InputError(
                    f"{path}: user {row.user_id!r}: query id {query.id!r} is also another user's, so "
                    f"its gold in {LABEL_FILE} is not clear: give each query an id of its own"
                )
            unused.remove(query.id)
        yield row
    if unused:
        raise InputError(
            f"{labels}: {len(unused)} golds are of no query in {path.name}, such as id {min(unused)!r}: are the two "
            f"files of one download?"
        )


def a_list(path: Path, of: str) -> Iterator[Any]:
    """The elements of a file that holds a list.

    Raises:
        InputError: if it holds something else, or nothing.
    """
    found = first_kind(path)
    if found in ("a list", ""):
        empty = True
        for element in stream(path, "item"):
            empty = False
            yield element
        if not empty:
            return
        found = "an empty list"
    raise InputError(f"{path}: expected a list of {of} and at least one, but found {found}")


def checked_rows(
    entries: Iterable[Any], task: LampTask, where: str, golds: Mapping[str, str] | None = None
) -> Iterator[StoredRow]:
    """Entries of OPPU's shape: `user_id`, `profile` (items, oldest first), `query` (id, input, gold).

    Args:
        entries: one a user.
        task: says what an item and a gold must be.
        where: named in errors.
        golds: by query id; where the entries have their own, they must be the same.

    Raises:
        InputError: naming user, item, field and value.
    """
    seen: set[str] = set()
    for index, entry in enumerate(entries):
        place = f"{where}: user at index {index}"
        entry = an_object(entry, place)
        user_id = str(required(entry, "user_id", (str, int), place))
        place += f" (user_id {user_id!r})"
        if user_id in seen:
            raise InputError(f"{place}: this user_id occurs twice")
        seen.add(user_id)
        items = checked_items(entry, task, place)
        asked = required(entry, "query", (list,), place, empty=True)
        unique([str(query["id"]) for query in asked if isinstance(query, Mapping) and "id" in query], f"{place}, query")
        queries = [_query(query, f"{place}, query {number}", task, golds) for number, query in enumerate(asked)]
        yield StoredRow(user_id, tuple(items), tuple(queries))


def checked_items(entry: Mapping[str, Any], task: LampTask, place: str) -> list[dict[str, Any]]:
    """The items of a record's `profile`, each with its fields, and no id twice.

    Raises:
        InputError: naming item, field and value.
    """
    items = required(entry, "profile", (list,), place)
    for number, item in enumerate(items):
        item = an_object(item, f"{place}, profile item {number}")
        try:
            task.check(item)
        except InputError as error:
            raise InputError(f"{place}, profile item {number}: {error}") from None
    unique([str(item["id"]) for item in items], f"{place}, profile")
    return items


def asked_text(entry: Mapping[str, Any], task: LampTask, place: str) -> str:
    """The `input` of a question.

    Raises:
        InputError: if it is missing, empty, or another task's question.
    """
    text: str = required(entry, "input", (str,), place)
    try:
        task.check_question(text)
    except InputError as error:
        raise InputError(f"{place}: {error}") from None
    return text


def golds_by_id(path: Path, task: LampTask) -> dict[str, str]:
    """The golds of a label file: `{"task", "golds": [{"id", "output"}]}`.

    Raises:
        InputError: naming entry, field and value.
    """
    if (found := first_kind(path)) not in ("an object", ""):
        raise InputError(f"{path}: expected an object with 'golds', but found {found}")
    golds: dict[str, str] = {}
    for index, entry in enumerate(stream(path, "golds.item")):
        place = f"{path}: golds at index {index}"
        entry = an_object(entry, place)
        query_id = str(required(entry, "id", (str, int), place))
        if query_id in golds:
            raise InputError(f"{place}: id {query_id!r} occurs twice")
        golds[query_id] = checked_gold(str(required(entry, "output", (str, int), place)), task, place)
    if not golds:
        [content] = stream(path, "")
        required(content, "golds", (list,), str(path))
    return golds


def checked_gold(gold: str, task: LampTask, place: str) -> str:
    """A gold as metrics take it.

    Raises:
        InputError: if it is no answer of the task.
    """
    try:
        task.answers.check(gold)
    except InputError as error:
        raise InputError(f"{place}: gold {error}") from None
    return gold.strip() if task.labels else gold


def _query(entry: Any, place: str, task: LampTask, golds: Mapping[str, str] | None) -> StoredQuery:
    entry = an_object(entry, place)
    query_id = str(required(entry, "id", (str, int), place))
    text = asked_text(entry, task, place)
    place += f" (id {query_id!r})"
    if golds is not None:
        if query_id not in golds:
            raise InputError(f"{place}: no label with this id in {LABEL_FILE}")
        own = str(entry.get("gold", golds[query_id])).strip()
        if own != golds[query_id].strip():
            raise InputError(f"{place}: gold {own!r} here, and {golds[query_id]!r} in {LABEL_FILE}")
        return StoredQuery(query_id, text, golds[query_id])
    return StoredQuery(query_id, text, checked_gold(str(required(entry, "gold", (str, int), place)), task, place))
