"""What both layouts have in common: lists of records, profile items, questions and golds, each checked."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from personaagent.datasets.lamp.records import an_object, first_kind, required, stream, unique
from personaagent.datasets.lamp.tasks import LampTask
from personaagent.programs.errors import InputError


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
