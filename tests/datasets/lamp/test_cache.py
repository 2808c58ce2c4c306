"""The cache of rows: made once, whole or not at all, whoever is killed or comes at the same time."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from personaagent.datasets.lamp.cache import RowTable, StoredQuery, StoredRow, cached
from personaagent.programs.errors import InputError, StoreError

ROWS = [
    StoredRow("u1", ({"id": "a", "text": "é\n\"'", "score": 5, "more": [1.5, None]},), (StoredQuery("q", "?", "g"),)),
    StoredRow("u2", (), ()),
    StoredRow("u1", ({"id": "b"}, {"id": "c"}), (StoredQuery("r", "?", "h"), StoredQuery("s", "!", "i"))),
]


def never() -> Iterator[StoredRow]:
    raise AssertionError("the rows are in the cache")


def left(cache: Path) -> list[str]:
    """What is in the cache, but locks."""
    return sorted(path.name for path in cache.iterdir() if path.suffix != ".lock") if cache.is_dir() else []


def whole(cache: Path) -> bool:
    return len(left(cache)) == 1 and sorted(os.listdir(cache / left(cache)[0])) == [
        "ids.bin",
        "index.json",
        "rows.arrow",
    ]


# --- what is kept ----------------------------------------------------------------------------------


def test_rows_come_back_as_they_went_in_and_are_made_once(cache: Path) -> None:
    table = cached(["key"], lambda: ROWS)
    assert list(table.rows(range(3))) == ROWS and list(table.rows([2, 0, 2])) == [ROWS[2], ROWS[0], ROWS[2]]
    assert (table.user_ids, table.lengths, table.query_counts) == (["u1", "u2", "u1"], [1, 0, 2], [1, 0, 2])
    assert len(table) == 3 and table.golds
    assert list(cached(["key"], never).rows([1])) == [ROWS[1]]
    assert whole(cache)


def test_another_key_is_another_table() -> None:
    for number, key in enumerate((["a", "b"], ["ab"], ["a"], ["a", ""], ["b", "a"])):
        row = StoredRow(str(number), (), ())
        assert list(cached(key, lambda row=row: [row]).rows([0])) == [row]  # type: ignore[misc]


def test_one_question_without_a_gold_is_noted() -> None:
    row = StoredRow("u3", (), (StoredQuery("t", "?", ""),))
    assert not cached(["key"], lambda: [*ROWS, row]).golds


def test_many_rows_in_any_order() -> None:
    many = [StoredRow(str(i), ({"id": str(i)},) * (i % 5), ()) for i in range(700)]
    table = cached(["key"], lambda: iter(many))
    backwards = list(range(699, -1, -1))
    assert [row.user_id for row in table.rows(backwards)] == [str(i) for i in backwards]
    assert list(table.rows(range(700))) == many


def test_no_rows_are_a_table_too() -> None:
    assert len(cached(["key"], lambda: [])) == 0 and len(cached(["key"], never)) == 0


# --- what goes wrong while it is made --------------------------------------------------------------


@pytest.mark.parametrize(
    "error", [InputError("a wrong record"), KeyboardInterrupt(), MemoryError(), ZeroDivisionError()]
)
def test_rows_that_fail_leave_nothing_and_can_be_made_again(cache: Path, error: BaseException) -> None:
    def rows() -> Iterator[StoredRow]:
        yield from ROWS * 20
        raise error

    with pytest.raises(type(error)):
        cached(["key"], rows)
    assert left(cache) == []
    assert len(cached(["key"], lambda: ROWS)) == 3


def test_a_full_disk_is_one_message_and_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("datasets.arrow_writer.ArrowWriter.finalize", full)
    with pytest.raises(StoreError) as caught:
        cached(["key"], lambda: ROWS)
    text = str(caught.value)
    assert text.startswith(f"{cache}: the cache cannot be written: No space left on device.") and "\n" not in text
    assert "HF_DATASETS_CACHE" in text and left(cache) == []


def test_a_cache_folder_that_cannot_be_made_is_one_message(cache: Path) -> None:
    cache.parent.write_text("a file")
    with pytest.raises(StoreError, match=r"the cache cannot be written: .*set HF_DATASETS_CACHE to another folder$"):
        cached(["key"], lambda: ROWS)


def test_a_cache_folder_that_may_not_be_written_is_one_message(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(self: Path, *_: Any, **__: Any) -> None:
        raise PermissionError(errno.EACCES, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", denied)
    with pytest.raises(StoreError, match=r"the cache cannot be written: Permission denied\. "):
        cached(["key"], lambda: ROWS)


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-10])


@pytest.mark.parametrize(
    "damage",
    [
        lambda folder: cut(folder / "rows.arrow"),
        lambda folder: cut(folder / "index.json"),
        lambda folder: (folder / "rows.arrow").unlink(),
        lambda folder: (folder / "index.json").unlink(),
        lambda folder: (folder / "index.json").write_text("{}"),
        lambda folder: (folder / "index.json").write_bytes(b"\xff"),
    ],
)
def test_what_was_damaged_is_made_anew(cache: Path, damage: Callable[[Path], object]) -> None:
    cached(["key"], lambda: ROWS)
    damage(cache / left(cache)[0])
    assert list(cached(["key"], lambda: ROWS).rows(range(3))) == ROWS
    assert list(cached(["key"], never).rows(range(3))) == ROWS
    assert whole(cache)


# --- several processes -----------------------------------------------------------------------------

BUILD = """
import sys, time
from pathlib import Path
from personaagent.datasets.lamp.cache import StoredRow, cached

marks, seconds = Path(sys.argv[1]), float(sys.argv[2])

def rows():
    with marks.open("a") as file:
        file.write("begun\\n")
    for number in range(100):
        time.sleep(seconds / 100)
        yield StoredRow(str(number), ({"id": str(number)},), ())

table = cached(["key"], rows)
print(len(table), [row.user_id for row in table.rows([99])])
"""


def build(marks: Path, seconds: float) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", BUILD, str(marks), str(seconds)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(marks: Path) -> None:
    until = time.monotonic() + 60
    while not marks.exists():
        assert time.monotonic() < until
        time.sleep(0.01)


@pytest.mark.parametrize("sent", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_a_killed_process_leaves_nothing_that_the_next_one_minds(tmp_path: Path, cache: Path, sent: int) -> None:
    process = build(tmp_path / "marks", 60.0)
    wait_for(tmp_path / "marks")
    time.sleep(0.2)
    process.send_signal(sent)
    process.communicate(timeout=60)
    assert process.returncode != 0
    assert not any((folder / "index.json").exists() for folder in cache.iterdir())
    assert list(cached(["key"], lambda: ROWS).rows(range(3))) == ROWS
    assert whole(cache)


def test_two_processes_at_once_make_it_once_and_both_have_it(tmp_path: Path, cache: Path) -> None:
    processes = [build(tmp_path / "marks", 1.0) for _ in range(2)]
    for process in processes:
        out, err = process.communicate(timeout=120)
        assert (process.returncode, out, err) == (0, "100 ['99']\n", "")
    assert (tmp_path / "marks").read_text() == "begun\n"
    assert whole(cache)


def test_threads_at_once_make_it_once() -> None:
    made: list[int] = []
    tables: list[RowTable] = []

    def rows() -> Iterator[StoredRow]:
        made.append(1)
        time.sleep(0.2)
        yield from ROWS

    threads = [threading.Thread(target=lambda: tables.append(cached(["key"], rows))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert made == [1] and [len(table) for table in tables] == [3] * 4


def test_the_index_is_small(cache: Path) -> None:
    """What is in memory of a table does not grow with its texts."""
    row = StoredRow("u", ({"id": "a", "text": "x" * 100_000},), (StoredQuery("q", "y" * 100_000, "g"),))
    cached(["key"], lambda: [row])
    index = json.loads((cache / left(cache)[0] / "index.json").read_text())
    assert len(json.dumps(index)) < 200


@pytest.mark.parametrize("name", ["rows.arrow", "index.json", "ids.bin"])
def test_bytes_that_were_overwritten_are_noticed(cache: Path, name: str) -> None:
    cached(["key"], lambda: ROWS)
    [folder] = [path for path in cache.iterdir() if path.is_dir()]
    size = (folder / name).stat().st_size
    (folder / name).write_bytes(b"[]" + b" " * (size - 2) if name == "index.json" else b"\0" * (size - size % 8 - 8))
    assert list(cached(["key"], lambda: ROWS).rows(range(len(ROWS)))) == list(ROWS)


def test_rows_that_cannot_be_read_any_more_say_which_folder_to_delete(cache: Path) -> None:
    table = cached(["key"], lambda: ROWS)
    [folder] = [path for path in cache.iterdir() if path.is_dir()]
    raw = bytearray((folder / "rows.arrow").read_bytes())
    raw[:400] = b"\0" * 400
    (folder / "rows.arrow").write_bytes(bytes(raw))
    with pytest.raises(StoreError, match=f"{folder}: the cache is damaged: delete this folder"):
        list(table.rows([0]))


def test_what_rows_have_in_common_is_counted_by_id(cache: Path) -> None:
    rows = [StoredRow("u", tuple({"id": key} for key in keys), ()) for keys in ("abc", "bcd", "cde", "c")]
    table = cached(["common"], lambda: rows)
    assert [table.in_common(some) for some in ([0], [0, 1], [0, 1, 2], [0, 1, 2, 3])] == [3, 2, 1, 1]
