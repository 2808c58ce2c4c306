"""OPPU's per-user layout (TamSiuhin/OPPU, data/<task>/): a record a user, with profile and queries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from personaagent.datasets.lamp.cache import StoredQuery, StoredRow
from personaagent.datasets.lamp.checks import a_list, asked_text, checked_gold, checked_items, golds_by_id
from personaagent.datasets.lamp.records import an_object, required, unique
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
