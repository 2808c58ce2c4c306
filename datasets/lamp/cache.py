"""Rows of data files in an Arrow cache of Hugging Face `datasets`: read once, then taken from disk a row at a time."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import reduce
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock

from personaagent.programs.errors import InputError, StoreError

_FORMAT = 2
"""Part of every key: another way to write rows makes other files."""
_ROWS_A_BATCH = 16
_ROWS_A_MAP = 128
"""After so many rows the file is mapped anew: pages once read would count as this process's memory for good."""


@dataclass(frozen=True)
class StoredQuery:
    """A question, as its source has it."""

    id: str
    input: str
    gold: str
    """Empty if the source has none."""


@dataclass(frozen=True)
class StoredRow:
    """One record of a source: a user's profile with questions asked after it."""

    user_id: str
    items: tuple[dict[str, Any], ...]
    queries: tuple[StoredQuery, ...]


class RowTable:
    """Rows on disk, with what choosing among them needs in memory: whose they are, and how long.

    Args:
        folder: one that `cached` has made.

    Raises:
        OSError, ValueError, KeyError, TypeError: if it is not whole.
    """

    def __init__(self, folder: Path) -> None:
        from datasets import Dataset

        index = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        self._path = str(folder / "rows.arrow")
        if os.path.getsize(self._path) != index["bytes"]:
            raise ValueError(f"{self._path} is damaged")
        lists = [index[name] for name in ("user_ids", "lengths", "query_counts")]
        ids = np.fromfile(folder / "ids.bin", dtype=np.int64)
        if {len(one) for one in lists} != {len(Dataset.from_file(self._path))} or len(ids) != sum(index["lengths"]):
            raise ValueError(f"{folder} is damaged")
        self._ids = np.split(ids, np.cumsum(index["lengths"])[:-1])
        self.user_ids: list[str] = index["user_ids"]
        self.lengths: list[int] = index["lengths"]
        """Items of each row."""
        self.query_counts: list[int] = index["query_counts"]
        self.golds: bool = index["golds"]
        """Whether every question has one."""

    def __len__(self) -> int:
        return len(self.user_ids)

    def in_common(self, indices: Sequence[int]) -> int:
        """How many items all of these rows have, by id."""
        if len(indices) == 1:
            return self.lengths[indices[0]]
        return len(reduce(np.intersect1d, (self._ids[index] for index in indices)))

    def rows(self, indices: Sequence[int]) -> Iterator[StoredRow]:
        """These rows, one at a time.

        Raises:
            StoreError: if they are damaged.
        """
        from datasets import Dataset

        for start in range(0, len(indices), _ROWS_A_MAP):
            try:
                table = Dataset.from_file(self._path)
                for index in indices[start : start + _ROWS_A_MAP]:
                    row = table[index]
                    yield StoredRow(
                        row["user_id"],
                        tuple(json.loads(item) for item in row["items"]),
                        tuple(StoredQuery(*json.loads(query)) for query in row["queries"]),
                    )
            except (OSError, ValueError, TypeError) as error:  # Arrow's own are such, too
                folder = os.path.dirname(self._path)
                raise StoreError(f"{folder}: the cache is damaged: delete this folder, and it is made again") from error


def cached(key: Sequence[str], rows: Callable[[], Iterable[StoredRow]]) -> RowTable:
    """The rows under a key; made if they are not there, and then whole or not at all.

    They are in `personaagent/` under the cache folder of `datasets` (`HF_DATASETS_CACHE` moves it).

    Args:
        key: identifies the rows, such as the digest of their files and how they are read.
        rows: makes them; what it raises is passed on, and nothing is kept.

    Raises:
        StoreError: if the cache folder cannot be written.
    """
    from datasets import config

    name = hashlib.sha256(json.dumps([_FORMAT, *key]).encode()).hexdigest()[:32]
    root = Path(config.HF_DATASETS_CACHE) / "personaagent"
    folder = root / name
    if (table := _opened(folder)) is not None:
        return table
    try:
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f"{name}.lock"):
            if (table := _opened(folder)) is None:  # no other process has made it meanwhile
                _make(folder, rows())
                table = RowTable(folder)
            return table
    except OSError as error:
        raise StoreError(
            f"{root}: the cache cannot be written: {error.strerror or error}. Free space there, or set "
            f"HF_DATASETS_CACHE to another folder"
        ) from error


def _opened(folder: Path) -> RowTable | None:
    """The rows of a folder; None if they are not there, or not whole: a tidied disk, a power cut."""
    try:
        return RowTable(folder)
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _make(folder: Path, rows: Iterable[StoredRow]) -> None:
    from datasets.arrow_writer import ArrowWriter
    from datasets.features import List

    from datasets import Features, Value

    made = folder.with_name(f"{folder.name}.new")
    shutil.rmtree(made, ignore_errors=True)  # of a process that was killed: the lock is ours
    made.mkdir()
    features = Features(user_id=Value("string"), items=List(Value("large_string")), queries=List(Value("large_string")))
    index: dict[str, Any] = {"user_ids": [], "lengths": [], "query_counts": [], "golds": True}
    ids = array("q")
    try:
        with ArrowWriter(features=features, path=str(made / "rows.arrow"), writer_batch_size=_ROWS_A_BATCH) as writer:
            for row in rows:
                try:
                    items = [json.dumps(item) for item in row.items]
                except RecursionError:
                    raise InputError(f"user {row.user_id!r}: an item of the profile is nested too deeply") from None
                ids.extend(_hash(str(item["id"])) for item in row.items)
                queries = [json.dumps([q.id, q.input, q.gold]) for q in row.queries]
                writer.write({"user_id": row.user_id, "items": items, "queries": queries})
                index["user_ids"].append(row.user_id)
                index["lengths"].append(len(items))
                index["query_counts"].append(len(queries))
                index["golds"] = index["golds"] and all(q.gold for q in row.queries)
            writer.finalize()
        with (made / "ids.bin").open("wb") as file:
            ids.tofile(file)
        index["bytes"] = os.path.getsize(made / "rows.arrow")
        (made / "index.json").write_text(json.dumps(index), encoding="utf-8")
        shutil.rmtree(folder, ignore_errors=True)
        os.replace(made, folder)
    except BaseException:
        shutil.rmtree(made, ignore_errors=True)
        raise


def _hash(text: str) -> int:
    """64 bits that are the same in every process, as `hash` is not."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=8).digest(), signed=True)
