"""The SQLite file that MLflow writes to: it has its whole schema or is not there, and one run at a time opens it.

MLflow makes its schema in some 1,700 statements, each committed by itself. A kill in the middle, or a second process
that begins meanwhile, leaves a file that MLflow never opens again. So a new file is made beside its place, under a
lock, and renamed when it is whole.
"""

from __future__ import annotations

import os
import re
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from personaagent.programs.errors import InputError

_WAIT_SECONDS = 60.0
LOCK_SECONDS = 20.0
"""So long a run waits at its start for a lock of another program; MLflow itself waits as long for each statement."""


def sqlite_file(uri: str) -> Path | None:
    """The file of a SQLite URI; None for a URI of another kind.

    Raises:
        InputError: if a SQLite URI names no file.
    """
    if not re.match(r"sqlite(\+\w+)?:", uri):
        return None
    rest = uri.partition("://")[2]
    name = rest.removeprefix("/").partition("?")[0]
    if name in ("", ":memory:") or name.startswith("file:"):
        raise InputError("it names no file, and what is tracked in memory is lost when the run ends")
    if not rest.startswith("/"):
        raise InputError("the name of the file comes after three slashes")
    return Path(name)


def check_file(path: Path) -> None:
    """What can be said before MLflow is imported, and without writing anything.

    Raises:
        InputError: if it cannot be a file that MLflow writes to.
    """
    if not path.parent.is_dir():
        raise InputError(f"there is no folder {path.parent}")
    if path.exists() and not path.is_file():
        raise InputError(f"{path} is not a file")
    if path.exists() and not os.access(path, os.W_OK):
        raise InputError("the file is read-only")


@contextmanager
def opened_alone(path: Path) -> Iterator[None]:
    """Make the file if it is missing or empty; other runs wait until the block is left, up to a minute.

    Raises:
        InputError: if another run holds the file for longer.
        OSError, sqlite3.Error: if it cannot be written, or another program keeps it locked.
    """
    # A link stays a link, and all names of a file share the lock.
    place = Path(os.path.realpath(path))
    lock = FileLock(place.with_name(place.name + ".lock"), timeout=_WAIT_SECONDS)
    try:
        lock.acquire()
    except Timeout:
        raise InputError(f"another run has held {lock.lock_file} for {_WAIT_SECONDS:.0f} s") from None
    try:
        if not place.exists() or not place.stat().st_size:
            _make(place)
        _check_writable(place)
        yield
    finally:
        lock.release()


def _check_writable(place: Path) -> None:
    # MLflow would wait for a lock ten times, each time for longer, and say what it waits for in a traceback.
    with closing(sqlite3.connect(place, timeout=LOCK_SECONDS, isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("ROLLBACK")


def _make(place: Path) -> None:
    from mlflow.store.db import utils

    # Also of a run that was killed: nobody else is making one while the lock is held.
    made = place.with_name(place.name + ".new")
    _remove(made)
    engine = utils.create_sqlalchemy_engine(f"sqlite:///{made}")
    try:
        utils._initialize_tables(engine)
        engine.dispose()
        os.replace(made, place)
    finally:
        engine.dispose()
        _remove(made)


def _remove(file: Path) -> None:
    for ending in ("", "-journal", "-wal", "-shm"):
        file.with_name(file.name + ending).unlink(missing_ok=True)
