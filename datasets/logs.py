"""Your own logs as a task: who asked what, what the right answer was, and when."""

from __future__ import annotations

import codecs
import csv
import hashlib
import json
import re
import sys
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import dspy

from personaagent.datasets.lamp.answers import LabelAnswers, ScoredTask, TextAnswers
from personaagent.datasets.lamp.records import kind, open_data
from personaagent.datasets.selection import split_history
from personaagent.datasets.source import UserTable
from personaagent.datasets.task import Query, User
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction, normalise_timestamp

if TYPE_CHECKING:
    from datasets import Dataset

LOGS = "logs"
ROLES = ("user", "query", "response", "time", "id")
"""What a column may be; `time` and `id` need not be there."""

_INSTRUCTION = "Answer the query as this user would."
_SHOWN = 80
"""Of a value in a message, so many characters."""
_SECONDS = re.compile(r"(\d{9,})(?:\.(\d+))?")
"""Since 1970: fewer digits are a year, or a date without hyphens, which is none."""


@dataclass(frozen=True)
class LogTask(ScoredTask):
    """Answering as a user did in a log. See `datasets.task.Task`."""

    name: str = LOGS
    title: str = "own logs"
    summary_instruction: str = ""

    @property
    def instruction(self) -> str:
        rest = "one of the options in the query" if self.labels else "the answer"
        return f"{_INSTRUCTION} Give {rest}, and nothing else."

    @property
    def signature(self) -> type[dspy.Signature]:
        return dspy.Signature("query: str -> answer: str", self.instruction)

    def question(self, query: str) -> str:
        """The query as the agent is asked it: with the labels, if there are any."""
        return query + self._options

    def interaction(self, user_id: str, item: Mapping[str, Any], ordinal: int) -> Interaction:
        """A row as the interaction that it records: `query`, `response`, and `time` and `id` if there are any."""
        query, response = str(item["query"]), str(item["response"])
        one, time = item.get("id"), item.get("time")
        one = f"row-{ordinal}" if one is None else str(one)
        return Interaction(
            user_id, one, self.question(query), response, "" if time is None else time, ordinal, text=query
        )

    def retrieval_query(self, question: str) -> str:
        """The query without the options."""
        return question.removesuffix(self._options)

    @property
    def _options(self) -> str:
        return f"\noptions: [{', '.join(self.labels)}]" if self.labels else ""


def log_task(labels: Sequence[str] = ()) -> LogTask:
    """The task of answering with one of these labels, or in free text.

    Raises:
        InputError: if there is one label only, or one is empty, repeated or holds a comma.
    """
    if not labels:
        return LogTask(TextAnswers())
    cleaned = tuple(label.strip() for label in labels)
    if len(cleaned) < 2 or len(set(cleaned)) < len(cleaned) or not all(cleaned) or any("," in one for one in cleaned):
        raise InputError(
            f"--labels must be two or more different labels, comma-separated, but got {','.join(labels)!r}"
        )
    return LogTask(LabelAnswers(cleaned))


def parse_columns(text: str) -> dict[str, str]:
    """`{role: column}` from `user=...,query=...,response=...,time=...`.

    Raises:
        InputError: on an unknown role, a role or column named twice, or if user, query or response is missing.
    """
    columns: dict[str, str] = {}
    for part in filter(None, map(str.strip, text.split(","))):
        role, equals, column = (piece.strip() for piece in part.partition("="))
        if role not in ROLES or not equals or not column or role in columns or column in columns.values():
            raise InputError(
                f"--columns: {part!r} is not ROLE=COLUMN with a role of {', '.join(ROLES)}, each role and column "
                f"once; such as user=customer,query=question,response=answer,time=asked_at"
            )
        columns[role] = column
    missing = [role for role in ROLES[:3] if role not in columns]
    if missing:
        raise InputError(f"--columns: {', '.join(missing)} is missing; user, query and response are needed")
    return columns


def open_logs(path: Path, columns: Mapping[str, str] | None = None, labels: Sequence[str] = ()) -> UserTable:
    """Users out of a log file: JSONL, CSV (with a header), or a folder that `datasets` has saved to.

    Each user's rows are put in order of time, ties in the order of the file; the first 63 % are the history and the
    rest the queries (`split_history`). Users with one row are left out, which a note says. A time is ISO 8601 text, a
    year, a date or `datetime`, or a number of 9 digits or more: seconds since 1970. Rows without one come first.

    Args:
        path: the file or folder.
        columns: {role: column}; default: columns named as the roles.
        labels: the possible answers; none: free text.

    Raises:
        InputError: if the file cannot be read, or a row is wrong: which line, which column, what it holds; if the
            labels are wrong (see `log_task`), there is no row, or no user has two.
    """
    task = log_task(labels)
    try:
        there, folder = path.exists(), path.is_dir()
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    if not there:
        raise InputError(f"{path}: no such file; --data takes a .jsonl or .csv file of logs, or a saved dataset")
    if folder:
        return _users(_numbered(_saved_dataset(path), f"{path}: row"), task, columns, str(path))
    readers = {".jsonl": _jsonl, ".ndjson": _jsonl, ".csv": _csv, ".tsv": _csv}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise InputError(
            f"{path}: a log is a .jsonl, .ndjson, .csv or .tsv file, or a folder of a saved dataset; unpack or convert "
            f"this one"
        )
    return _users(reader(path), task, columns, str(path))


def users_from_dataset(
    dataset: Dataset, columns: Mapping[str, str] | None = None, labels: Sequence[str] = (), name: str = "dataset"
) -> UserTable:
    """As `open_logs`, from a `datasets.Dataset`. A `ClassLabel` is its name.

    Raises:
        InputError: as `open_logs`.
    """
    return _users(_numbered(dataset, f"{name}: row"), log_task(labels), columns, name)


def _users(
    rows: Iterable[tuple[str, Mapping[str, Any]]], task: LogTask, columns: Mapping[str, str] | None, where: str
) -> UserTable:
    columns = dict(columns or {role: role for role in ROLES})
    # Of what is read, not of the file: a CSV and the same rows as JSONL are the same data.
    digest = hashlib.sha256(json.dumps([sorted(columns.items()), task.labels]).encode())
    found: defaultdict[str, list[Interaction]] = defaultdict(list)
    places: dict[tuple[str, str], str] = {}
    undated = 0
    for ordinal, (place, row) in enumerate(rows):
        item = {role: _value(row, role, column, place) for role, column in columns.items()}
        user_id = str(item["user"])
        if task.labels and item["response"] not in task.labels:
            raise InputError(
                f"{place}: column {columns['response']!r}: {_shown(item['response'])} is not a label: "
                f"{', '.join(task.labels)}; labels are compared as they are written"
            )
        try:
            one = task.interaction(user_id, item, ordinal)
        except InputError as error:
            raise InputError(f"{place}: {error}") from None
        earlier = places.setdefault((user_id, one.id), place)
        if earlier != place:
            raise InputError(f"{place}: id {_shown(one.id)} of user {_shown(user_id)} is already that of {earlier}")
        found[user_id].append(one)
        undated += not one.timestamp
        digest.update(json.dumps([user_id, one.id, one.query, one.response, one.timestamp]).encode())
    if not found:
        raise InputError(f"{where}: there is no row")
    users = []
    for user_id, interactions in found.items():
        history, rest = split_history(interactions)
        if rest:
            users.append(User(user_id, history, tuple(Query(one.id, one.query, one.response) for one in rest)))
    if not users:
        raise InputError(f"{where}: no user has two rows or more: one for the history, one to be asked")
    notes = _notes(where, len(places), undated, len(found) - len(users))
    return UserTable(task, where, digest.hexdigest(), tuple(users), notes)


def _notes(where: str, rows: int, undated: int, alone: int) -> tuple[str, ...]:
    notes = []
    if undated == rows:
        notes.append(f"{where}: no row has a time: the order of the rows is taken for that of time")
    elif undated:
        notes.append(f"{where}: {undated:,} of {rows:,} rows have no time and are taken for the oldest")
    if alone:
        users, left = ("user has", "is") if alone == 1 else ("users have", "are")
        notes.append(f"{where}: {alone:,} {users} one row only and {left} left out")
    return tuple(notes)


def _value(row: Mapping[str, Any], role: str, column: str, place: str) -> str | None:
    """What a column holds, as text; None for a `time` or `id` that is not there."""
    if column not in row:
        if role in ("time", "id") and column == role:
            return None  # the default mapping; such columns need not be there
        has = ", ".join(map(repr, row)) or "none"
        raise InputError(
            f"{place}: there is no column {column!r} for {role} (--columns {role}=...); the columns are: {has}"
        )
    value = row[column]
    blank = value is None or (isinstance(value, str) and not value.strip())
    if blank and role in ("time", "id"):
        return None
    fits = str | int | float | date if role == "time" else str | int | float
    if blank or not isinstance(value, fits) or isinstance(value, bool) or value != value:
        raise InputError(f"{place}: column {column!r} must be text and not empty, but is {_shown(value)}")
    if role != "time":
        return str(value) if role == "query" else str(value).strip()
    try:
        return _time(value)
    except InputError as error:
        raise InputError(f"{place}: column {column!r}: {error}") from None


def _time(value: str | int | float | date) -> str:
    if isinstance(value, datetime):
        return normalise_timestamp(value)
    text = str(value).strip()  # of a date: ISO 8601
    seconds = _SECONDS.fullmatch(text)
    if not seconds:
        return normalise_timestamp(text[:_SHOWN])
    whole, fraction = seconds[1], (seconds[2] or "")[:6]
    try:
        moment = datetime(1970, 1, 1) + timedelta(seconds=int(whole), microseconds=int(fraction.ljust(6, "0")))
    except (OverflowError, ValueError):
        raise InputError(
            f"{_shown(value)} is no number of seconds since 1970 before the year 10000; divide milliseconds by 1000"
        ) from None
    return normalise_timestamp(moment)


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def _jsonl(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        place = f"{path}: line {number}"
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise InputError(f"{place}: not valid JSON: {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:
            raise InputError(f"{place}: not valid JSON: {error}") from None
        if not isinstance(row, dict):
            raise InputError(f"{place}: expected an object, but found {kind(row)}")
        yield place, row


def _csv(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader(_lines(path), delimiter="\t" if path.suffix.lower() == ".tsv" else ",", strict=True)
    header: list[str] = []
    while True:
        place = f"{path}: line {reader.line_num + 1}"  # where the row begins: a quoted text may have several lines
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise InputError(f"{place}: not valid CSV: {error}; is a quote missing from here on?") from None
        if fields is None:
            return
        if not any(field.strip() for field in fields):
            continue
        if not header:
            header = [field.strip() for field in fields]
            twice = next((name for name in header if name and header.count(name) > 1), None)
            if twice is not None:
                raise InputError(f"{place}: two columns are called {twice!r}; rename one")
        elif len(fields) != len(header):
            raise InputError(
                f"{place}: has {len(fields)} fields, but the header {len(header)}: quote a text that holds a separator "
                f"or a line break"
            )
        else:
            yield place, dict(zip(header, fields, strict=True))


def _lines(path: Path) -> Iterator[str]:
    with _opened(path) as file:
        for number, line in enumerate(file, 1):
            try:
                yield line.decode()
            except UnicodeDecodeError:
                raise InputError(f"{path}: line {number}: not UTF-8; save it as UTF-8") from None


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    """As `open_data`, but past a byte order mark, which spreadsheets write."""
    try:
        with path.open("rb") as file:
            if file.read(len(codecs.BOM_UTF8)) == codecs.BOM_UTF8:
                yield file
                return
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror}") from None
    with open_data(path, "reading") as file:
        yield file


def _numbered(dataset: Dataset, place: str) -> Iterator[tuple[str, Mapping[str, Any]]]:
    from datasets import ClassLabel

    names = {column: one for column, one in dataset.features.items() if isinstance(one, ClassLabel)}
    for number, row in enumerate(dataset.with_format(None)):
        for column, label in names.items():
            known = row[column] is not None and row[column] >= 0
            row[column] = label.int2str(row[column]) if known else None
        yield f"{place} {number}", row


def _saved_dataset(path: Path) -> Dataset:
    from datasets import Dataset, load_from_disk

    try:
        dataset = load_from_disk(str(path))
    except Exception as error:
        raise InputError(
            f"{path}: not a dataset that `datasets` has saved: {type(error).__name__}: {error}".splitlines()[0]
        ) from None
    if not isinstance(dataset, Dataset):
        folders = " or ".join(str(path / name) for name in dataset)
        raise InputError(f"{path}: holds several splits; give the folder of one: {folders}")
    return dataset
