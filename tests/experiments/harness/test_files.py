"""Files that are replaced as a whole or grow by whole lines, on disks that refuse: a real limit of the system's."""

from __future__ import annotations

import errno
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from personaagent.experiments.harness.files import WholeLines, refused, refused_by_sqlite, replace_file
from personaagent.programs.errors import StoreError


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "file"


def lines(path: Path) -> list[tuple[int, bytes]]:
    with closing(WholeLines(path)) as file:
        return list(file.lines())


# -- replaced as a whole ---------------------------------------------------------------------------------


@pytest.mark.parametrize("content", ["", "«text»\r\n", b"\x00\xff", "half a character: \ud83d"])
def test_a_file_is_replaced_and_nothing_stays_beside_it(path: Path, content: str | bytes) -> None:
    path.write_text("old")
    replace_file(path, content)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode("utf-8", "replace"))
    assert os.listdir(path.parent) == [path.name]


def test_a_disk_that_refuses_leaves_the_old_file_and_no_half_of_the_new(path: Path) -> None:
    path.write_text("old")
    with (
        no_file_longer_than(100),
        pytest.raises(StoreError, match=r"file: cannot be written: File too large\. Make room"),
    ):
        replace_file(path, "new" * 1_000)
    assert path.read_text() == "old" and os.listdir(path.parent) == [path.name]
    replace_file(path, "new")
    assert path.read_text() == "new"


REPLACING = """
import sys
from pathlib import Path
from personaagent.experiments.harness.files import replace_file
path, number = Path(sys.argv[1]), 0
while True:
    number += 1
    replace_file(path, f"{number}\\n" * 100_000)
    print(number, flush=True)
"""


def test_a_reader_and_a_kill_find_one_whole_file(path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", REPLACING, str(path)], stdout=subprocess.PIPE, text=True) as writer:
        assert writer.stdout is not None and writer.stdout.readline()
        for _ in range(200):
            read = path.read_text()
            assert len(set(read.split())) == 1 and read.count("\n") == 100_000
        os.kill(writer.pid, signal.SIGKILL)
    read = path.read_text()
    assert len(set(read.split())) == 1 and read.count("\n") == 100_000


# -- grown by whole lines --------------------------------------------------------------------------------


@pytest.mark.parametrize("room", range(1, 12))
def test_a_line_that_was_refused_in_the_middle_leaves_nothing_and_the_next_one_stands(path: Path, room: int) -> None:
    with closing(WholeLines(path)) as file:
        file.append(b"one")
        with no_file_longer_than(4 + room), pytest.raises(StoreError, match="file: cannot be written: File too large"):
            file.append(b"a longer line")
        assert path.read_bytes() == b"one\n"
        file.append(b"two")
    assert path.read_bytes() == b"one\ntwo\n"


def test_half_a_line_that_could_not_be_taken_back_is_cut_off_before_the_next(path: Path) -> None:
    with closing(WholeLines(path)) as file:
        file.append(b"one")
        with path.open("ab") as other:
            other.write(b'{"half')
        file.append(b"two")
    assert path.read_bytes() == b"one\ntwo\n"


@pytest.mark.parametrize("size", [0, 3, 65_535, 65_536, 65_537, 131_072, 200_000])
def test_what_was_cut_short_is_dropped_however_long_it_is(path: Path, size: int) -> None:
    path.write_bytes(b"one\n" + b"x" * size)
    assert lines(path) == [(1, b"one\n")]
    assert path.read_bytes() == b"one\n"
    path.write_bytes(b"x" * size)
    assert lines(path) == [] and path.read_bytes() == b""


@pytest.mark.parametrize("size", [65_534, 65_535, 65_536, 131_072])
def test_a_last_line_that_is_whole_stays_however_long_it_is(path: Path, size: int) -> None:
    path.write_bytes(b"one\n\n" + b"x" * size + b"\n")
    assert lines(path) == [(1, b"one\n"), (3, b"x" * size + b"\n")]


def test_closing_again_does_nothing(path: Path) -> None:
    file = WholeLines(path)
    file.append(b"one")
    file.close()
    file.close()
    assert lines(path) == [(1, b"one\n")]


# -- what is said ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device. Make room and run the same command again"),
        (errno.EDQUOT, "Make room and run the same command again"),
        (errno.EROFS, "Read-only file system. Make it writable, or give another --out"),
        (errno.EACCES, "Permission denied. Make it writable, or give another --out"),
        (errno.EIO, "Input/output error. What was done before is kept, and the same command goes on from there"),
    ],
)
def test_a_refusal_says_what_to_do(number: int, said: str) -> None:
    assert said in refused(OSError(number, os.strerror(number)))


def test_a_fault_of_sqlite_is_found_in_whatever_it_is_wrapped(path: Path) -> None:
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("CREATE TABLE t (x)")
        other.execute("BEGIN EXCLUSIVE")
        engine = sa.create_engine(f"sqlite:///{path}", connect_args={"timeout": 0})
        with pytest.raises(RuntimeError) as wrapped:
            try:
                with engine.begin() as connection:
                    connection.exec_driver_sql("INSERT INTO t VALUES (1)")
            except sa.exc.OperationalError as error:
                raise RuntimeError("something went wrong") from error
    assert refused_by_sqlite(wrapped.value) == "database is locked by another program: wait for it or end it"
    assert refused_by_sqlite(RuntimeError("something went wrong")) is None
