"""A LaMP task's users out of its files, through the cache."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Any

from personaagent.datasets.lamp.cache import RowTable, StoredRow, cached
from personaagent.datasets.lamp.citation import SURROGATE_NOTE, with_references
from personaagent.datasets.lamp.layout import Files, find_files
from personaagent.datasets.lamp.official import official_rows
from personaagent.datasets.lamp.oppu import checked_rows, oppu_rows
from personaagent.datasets.lamp.records import file_digest
from personaagent.datasets.lamp.tasks import LAMP_1, LampTask
from personaagent.datasets.selection import UserSize
from personaagent.datasets.source import UserTable, no_such_user
from personaagent.datasets.task import Query, User
from personaagent.programs.errors import InputError

_POOL_ROWS = 500
"""Records that unrelated references are drawn from; of a large file a part is enough."""


def open_lamp(folder: Path, task: LampTask, split: str = "dev", data_seed: int = 0) -> LampSource:
    """The users of a task, in OPPU's or the official layout.

    The files are read once, record by record, into a cache on disk (`cache.py`): peak memory depends on the largest
    record and on the users that are taken, not on the size of the files.

    Args:
        folder: see `layout.find_files`.
        task: one of `TASKS`.
        split: of the official layout.
        data_seed: draws LaMP-1's unrelated references.

    Raises:
        InputError: if files are missing or wrong: which one, where in it, what to do.
        StoreError: if the cache cannot be written.
    """
    files = find_files(folder, task, split)
    digest = file_digest(files.read)
    rows = official_rows if files.layout == "official" else oppu_rows
    # The names too: an empty file leaves the digest as it is without one.
    key = [digest, task.name, files.layout, *(path.name for path in files.read)]
    table = cached(key, partial(_with_remedy, partial(rows, files.main, task, files.golds)))
    others = None
    if files.others is not None:
        others = cached([*key, "others"], partial(_with_remedy, partial(oppu_rows, files.others, task, None)))
    return LampSource(task, files, digest, table, others, data_seed)


@dataclass(frozen=True)
class LampSource:
    """See `datasets.source.Source`."""

    task: LampTask
    files: Files
    digest: str
    table: RowTable
    others: RowTable | None
    data_seed: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def where(self) -> str:
        return str(self.files.main.parent)

    def sizes(self, queries_per_user: int | None = None) -> list[UserSize]:
        found = []
        for user_id, indices in self._rows_of.items():
            asked = _asked(indices, queries_per_user)
            queries = sum(self.table.query_counts[i] for i in asked)
            found.append(UserSize(user_id, self.table.in_common(asked), queries))
        return found

    def user(self, user_id: str, queries_per_user: int | None = None) -> User:
        """A user, with history and the first so many queries. See `record`, also for what it raises.

        Raises:
            InputError: also if an item is wrong, or LaMP-1's references cannot be drawn.
        """
        record = self.record(user_id, queries_per_user)
        items: list[dict[str, Any]] = list(record.items)
        if self.task is LAMP_1:
            if any(item.get("citation") is None for item in items) and SURROGATE_NOTE not in self.notes:
                self.notes.append(SURROGATE_NOTE)
            asked = [title for q in record.queries for title in self.task.query_parts(q.input)]
            try:
                items = with_references(items, user_id, self._pool, self.data_seed, asked)
            except InputError as error:
                raise InputError(f"{self.files.main}: {error}") from None
        return _user(self.task, replace(record, items=tuple(items)), str(self.files.main))

    def users(self) -> Iterator[User]:
        """Every user with all queries, one at a time."""
        return (self.user(user_id) for user_id in self._rows_of)

    def record(self, user_id: str, queries_per_user: int | None = None) -> StoredRow:
        """A user as the files have it: items and the first so many queries.

        Where each question has a profile of its own, as in the time-based split, the items are what all of the asked
        ones have: no question sees what came after it.

        Raises:
            InputError: if there is no such user.
            StoreError: if the cache is damaged.
        """
        if user_id not in self._rows_of:
            raise no_such_user(self.where, user_id)
        rows = list(self.table.rows(_asked(self._rows_of[user_id], queries_per_user)))
        common = set.intersection(*({str(item["id"]) for item in row.items} for row in rows))
        # Of the shortest: should an item differ between them, as it was earliest.
        shortest = min(rows, key=lambda row: len(row.items))
        items = tuple(item for item in shortest.items if str(item["id"]) in common)
        queries = tuple(query for row in rows for query in row.queries)
        return StoredRow(user_id, items, queries[:queries_per_user])

    @property
    def user_ids(self) -> list[str]:
        """Every user, in the files' order."""
        return list(self._rows_of)

    @cached_property
    def _rows_of(self) -> dict[str, list[int]]:
        found: defaultdict[str, list[int]] = defaultdict(list)
        for index, user_id in enumerate(self.table.user_ids):
            found[user_id].append(index)
        return dict(found)

    @cached_property
    def _pool(self) -> list[tuple[str, str]]:
        """(user_id, title) of papers of many users."""
        table = self.others or self.table
        drawn = random.Random(f"pool {self.data_seed}").sample(range(len(table)), min(len(table), _POOL_ROWS))
        return [(row.user_id, str(item["title"])) for row in table.rows(sorted(drawn)) for item in row.items]


def _asked(indices: list[int], queries_per_user: int | None) -> list[int]:
    """The rows of the asked questions: a row a question, or one row with all of them."""
    return indices[:queries_per_user] if len(indices) > 1 else indices


def _user(task: LampTask, record: StoredRow, where: str) -> User:
    """A record as a user, the history in order of time."""
    history = []
    for number, item in enumerate(record.items):
        try:
            history.append(task.interaction(record.user_id, item, number))
        except InputError as error:
            raise InputError(f"{where}: user {record.user_id!r}, profile item {number}: {error}") from None
    history.sort(key=lambda interaction: interaction.position)
    return User(record.user_id, tuple(history), tuple(Query(q.id, q.input, q.gold) for q in record.queries))


def _with_remedy(rows: Callable[[], Iterator[StoredRow]]) -> Iterator[StoredRow]:
    """Rows; an error in one of the records says what to do about it."""
    try:
        yield from rows()
    except InputError as error:
        said = str(error)
        if " at index " in said and "not valid JSON" not in said and not said.endswith("?"):
            said += ". Correct it in the file, or leave that record out"
        raise InputError(said) from None


def users_from_entries(entries: Sequence[Mapping[str, Any]], task: LampTask, where: str, digest: str) -> UserTable:
    """Users from entries of OPPU's shape that are in memory: `user_id`, `profile` and `query`.

    Raises:
        InputError: as the reader of OPPU's files.
    """
    users = tuple(_user(task, row, where) for row in checked_rows(entries, task, where))
    return UserTable(task, where, digest, users)
