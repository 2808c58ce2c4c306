"""From one layout of LaMP's files to the other."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

from personaagent.datasets.lamp.official import outputs_file, questions_file
from personaagent.datasets.lamp.oppu import HISTORY_FILE, LABEL_FILE
from personaagent.datasets.lamp.source import LampSource
from personaagent.programs.errors import InputError, StoreError

Layout = Literal["oppu", "official"]


def convert(source: LampSource, to: Path, layout: Layout, split: str = "dev") -> list[Path]:
    """Write a source's users in a layout, so that `to` is a root which the reader takes.

    `oppu`: `to/<OPPU's folder>/`; a user's profile is what all of the user's questions have. `official`: the time-based
    `to/time/<official folder>/<split>/`, a question for each query, each with the whole profile. There and back
    gives the same users, histories, queries and golds, but for users without a query, whom the official layout cannot
    hold. OPPU's file of other users, and items that not all of a user's questions have, are not converted: LaMP-1's
    unrelated references are drawn from them too, and may then be others.

    Args:
        source: of any layout.
        to: a folder; it is made.
        layout: to write.
        split: that the official files are named by.

    Returns:
        The files.

    Raises:
        InputError: if they exist already, or the layout has another name; if no user has a query (`official`), a
            query has no gold (`oppu`), or a text holds half of a surrogate pair.
        StoreError: if they cannot be written, or the source's cache is damaged; then none is there.
    """
    if layout == "oppu":
        folder = to / source.task.folder
        paths = [folder / HISTORY_FILE, folder / LABEL_FILE]
        entries = _users(source)
    elif layout == "official":
        folder = to / "time" / source.task.directory / split
        paths = [folder / questions_file(split), folder / outputs_file(split)]
        entries = _questions(source)
        if not any(source.table.query_counts):
            raise InputError(f"{source.where}: no user has a query, and the official layout has a record for each")
    else:
        raise InputError(f"--to must be oppu or official, but got {layout!r}")
    for path in paths:
        if path.exists():
            raise InputError(f"{path}: is there already; give another folder, or remove it")
    golds: list[dict[str, str]] = []
    try:
        with _folder(folder), _whole(paths) as (main, labels):
            _write_list(main, _noting(entries, golds))
            json.dump(
                {"task": source.task.name.replace("lamp-", "LaMP_").upper().replace("LAMP", "LaMP"), "golds": golds},
                labels,
            )
    except UnicodeEncodeError as error:
        raise InputError(f"{source.where}: holds half of a surrogate pair, which is no valid text: {error}") from None
    except OSError as error:
        raise StoreError(f"{folder}: cannot be written: {error.strerror or error}; nothing is left there") from error
    if not golds:
        paths.pop().unlink()
    return paths


def _users(source: LampSource) -> Iterator[tuple[dict[str, Any], list[dict[str, str]]]]:
    for user_id in source.user_ids:
        record = source.record(user_id)
        queries = [{"id": q.id, "input": q.input, "gold": q.gold} for q in record.queries]
        golds = [{"id": q.id, "output": q.gold} for q in record.queries if q.gold]
        without = next((q.id for q in record.queries if not q.gold), None)
        if without is not None:
            raise InputError(
                f"{source.where}: query {without!r} has no gold, which OPPU's layout needs: put the split's outputs "
                f"beside its questions"
            )
        yield {"user_id": user_id, "profile": list(record.items), "query": queries}, golds


def _questions(source: LampSource) -> Iterator[tuple[dict[str, Any], list[dict[str, str]]]]:
    for user_id in source.user_ids:
        record = source.record(user_id)
        for query in record.queries:
            entry = {"id": query.id, "input": query.input, "profile": list(record.items), "user_id": user_id}
            yield entry, [{"id": query.id, "output": query.gold}] if query.gold else []


def _noting(
    entries: Iterable[tuple[dict[str, Any], list[dict[str, str]]]], golds: list[dict[str, str]]
) -> Iterator[Any]:
    for entry, own in entries:
        golds += own
        yield entry


def _write_list(file: IO[str], entries: Iterable[Any]) -> None:
    """A JSON list, an element at a time."""
    separator = "["
    for entry in entries:
        file.write(separator + json.dumps(entry, ensure_ascii=False))
        separator = ",\n"
    file.write("]\n")


@contextmanager
def _folder(folder: Path) -> Iterator[None]:
    """A folder for the time of the block, and for good if that ends without an error; so its parents."""
    new = [path for path in (folder, *folder.parents) if not path.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    except BaseException:
        with suppress(OSError):  # somebody else has put something there
            for path in new:
                path.rmdir()
        raise


@contextmanager
def _whole(paths: list[Path]) -> Iterator[list[IO[str]]]:
    """Files for writing that are there, all of them, when the block ends without an error, and else none."""
    parts = [path.with_name(path.name + ".part") for path in paths]
    files: list[IO[str]] = []
    placed: list[Path] = []
    try:
        files += (part.open("w", encoding="utf-8") for part in parts)
        yield files
        for file in files:
            file.flush()
            os.fsync(file.fileno())
            file.close()
        for part, path in zip(parts, paths, strict=True):
            os.replace(part, path)
            placed.append(path)
    except BaseException:
        for file in files:
            with suppress(OSError):  # of a full disk: closing writes what is left
                file.close()
        for path in (*parts, *placed):
            path.unlink(missing_ok=True)
        raise
