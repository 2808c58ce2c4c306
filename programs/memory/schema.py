"""The store's file: its tables, how it is opened, how a file of an earlier version becomes one of this, what fails."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import sqlalchemy as sa
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from personaagent.programs.errors import DamagedStoreError, InputError, StoreError

SCHEMA_VERSION = 2
"""1: without checksums."""

metadata = sa.MetaData()
meta = sa.Table("meta", metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text))
interactions = sa.Table(
    "interactions",
    metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("timestamp", sa.Text, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("text_digest", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
    sa.Index("interactions_order", "user_id", "timestamp", "ordinal"),
)
# Keyed by the text's digest: a text is encoded once ever, whoever's it is and however often it occurs.
embeddings = sa.Table(
    "embeddings",
    metadata,
    sa.Column("encoder", sa.Text, primary_key=True),
    sa.Column("text_digest", sa.Text, primary_key=True),
    sa.Column("dimension", sa.Integer, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
)
profiles = sa.Table(
    "profiles",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("user_id", sa.Text, nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
)
personas = sa.Table(
    "personas",
    metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("parent", sa.Text),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("learnt_from", sa.Text, nullable=False),
    sa.Column("checksum", sa.Text, nullable=False),
    sa.Index("personas_latest", "user_id", "sequence"),
)
_SEALED = (interactions, embeddings, profiles, personas)


# -- checksums -----------------------------------------------------------------------------------------


def sealed(table: sa.Table, row: Mapping[str, Any]) -> dict[str, Any]:
    """The row with the checksum of what it says: SQLite itself does not notice a bit that has changed."""
    return {**row, "checksum": _checksum(*(row[name] for name in _covered(table)))}


def is_sound(table: sa.Table, row: Any) -> bool:
    """Whether a row that was read says what was recorded."""
    return bool(row.checksum == _checksum(*(getattr(row, name) for name in _covered(table))))


def _covered(table: sa.Table) -> list[str]:
    """Columns under a row's checksum; `sequence` is SQLite's own, given when the row is there."""
    return _COVERED[table.name]


_COVERED = {t.name: [c.name for c in t.columns if c.name not in ("checksum", "sequence")] for t in _SEALED}


def _checksum(*values: Any) -> str:
    # JSON, so that no two rows run together; bytes after it, as they are, since vectors are most of a file.
    digest = hashlib.blake2b(json.dumps([None if isinstance(v, bytes) else v for v in values]).encode(), digest_size=8)
    for value in values:
        if isinstance(value, bytes):
            digest.update(value)
    return digest.hexdigest()


# -- opening -------------------------------------------------------------------------------------------


def make_engine(url: str, lock_timeout_seconds: float) -> sa.Engine:
    """An engine of SQLite whose connections wait so long for another's lock.

    Raises:
        InputError: if the URL is not one of SQLite.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise InputError(f"{url!r} is not a database URL; a file is written sqlite:///{url}") from None
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise InputError(f"only SQLite is supported now (sqlite:///memory.db), but got {str(parsed)!r}")
    pool: dict[str, Any] = {"poolclass": StaticPool} if in_memory(url) else {}
    engine = sa.create_engine(
        parsed,
        isolation_level="AUTOCOMMIT",
        connect_args={"check_same_thread": False, "timeout": lock_timeout_seconds},
        **pool,
    )

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        # FULL: what was recorded survives a power cut. Secure: what was forgotten leaves the file.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")

    return engine


def file_of(url: str) -> Path | None:
    """The file that a URL of SQLite names; None for one in memory, and for SQLite's own URIs."""
    name = sa.make_url(url).database or ""
    return None if in_memory(url) or name.startswith("file:") else Path(name)


def in_memory(url: str) -> bool:
    """Whether a URL of SQLite names no file."""
    parsed = sa.make_url(url)
    name = parsed.database or ":memory:"
    unnamed = ":memory:" in name or "memory" in parsed.query.values()
    return name == ":memory:" or (name.startswith("file:") and unnamed)


def open_schema(engine: sa.Engine, url: str, lock_timeout_seconds: float) -> None:
    """Make the tables of a new file, or those of an earlier version into this one's; all of it or nothing.

    Raises:
        StoreError: if the file is another program's or a newer version's. It is not touched.
    """
    with engine.connect() as connection:
        found = _version(connection, url)
        _use_wal(connection, lock_timeout_seconds)
        if found == SCHEMA_VERSION:
            return
        with transaction(connection):
            # Again, now that nobody else can write: another process may have done it meanwhile.
            found = _version(connection, url)
            if found is None:
                metadata.create_all(connection)
                connection.execute(meta.insert(), {"key": "schema_version", "value": str(SCHEMA_VERSION)})
            elif found == 1:
                _add_checksums(connection)


@contextmanager
def transaction(connection: Connection) -> Iterator[None]:
    """What is written within the block, as a whole or not at all."""
    # IMMEDIATE: the write lock before the first read, so that what was read is still true.
    connection.exec_driver_sql("BEGIN IMMEDIATE")
    try:
        yield
        connection.exec_driver_sql("COMMIT")
    except BaseException:
        # SQLite has rolled back by itself after some faults, such as a full disk.
        if connection.connection.driver_connection.in_transaction:  # type: ignore[union-attr]
            connection.exec_driver_sql("ROLLBACK")
        raise


def _use_wal(connection: Connection, lock_timeout_seconds: float) -> None:
    """Let readers not wait for a writer. The mode is kept in the file, so it is set after the check."""
    # SQLite waits for a writer everywhere but here, where several processes that open a new file meet.
    deadline = time.monotonic() + lock_timeout_seconds
    while True:
        try:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            return
        except OperationalError as error:
            if not _name(error).startswith(_LOCKED) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _version(connection: Connection, url: str) -> int | None:
    """The file's version, None of an empty one; refuses, without writing, what cannot become a store."""
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        return None
    columns = {c["name"] for c in sa.inspect(connection).get_columns("meta")} if "meta" in tables else set()
    found: Any = None
    if columns >= {"key", "value"}:
        found = connection.execute(sa.select(meta.c.value).where(meta.c.key == "schema_version")).scalar()
    try:
        version = int(found or "")
    except ValueError:
        raise StoreError(
            f"{url} is not a memory store but another program's database (table {tables[0]!r}). "
            f"Nothing was changed; give the store a file of its own."
        ) from None
    if version < 1:
        raise StoreError(
            f"{url} has schema version {version}, which no personaagent has written: the file is damaged. "
            f"Nothing was changed; restore it from a backup."
        )
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{url} has schema version {version}, written by a newer personaagent; this one knows "
            f"{SCHEMA_VERSION}. Nothing was changed; upgrade personaagent to open it."
        )
    return version


def _add_checksums(connection: Connection) -> None:
    """From version 1 to 2. Rows are taken as they are, but for vectors that no encoder returns: they are made anew."""
    driver: Any = connection.connection.driver_connection
    driver.create_function("row_checksum", -1, _checksum, deterministic=True)
    driver.create_function("is_unit_vector", 2, _is_unit_vector, deterministic=True)
    # Copied, not altered: a process of the earlier version that still has the file open is refused by
    # "NOT NULL", where a default would let it write rows that look damaged.
    for table in _SEALED:
        for index in table.indexes:
            connection.exec_driver_sql(f"DROP INDEX {index.name}")
        connection.exec_driver_sql(f"ALTER TABLE {table.name} RENAME TO {table.name}_1")
    metadata.create_all(connection)
    for table in _SEALED:
        own = [c.name for c in table.columns if c.name != "checksum"]
        connection.exec_driver_sql(
            f"INSERT INTO {table.name} ({', '.join(own)}, checksum) "
            f"SELECT {', '.join(own)}, row_checksum({', '.join(_covered(table))}) FROM {table.name}_1"
            + (" WHERE is_unit_vector(dimension, vector)" if table is embeddings else "")
        )
        connection.exec_driver_sql(f"DROP TABLE {table.name}_1")
    connection.execute(meta.update().where(meta.c.key == "schema_version"), {"value": str(SCHEMA_VERSION)})


def _is_unit_vector(dimension: Any, vector: Any) -> bool:
    if not isinstance(vector, bytes) or len(vector) != 4 * dimension:
        return False
    norm = float(np.linalg.norm(np.frombuffer(vector, dtype=np.float32).astype(np.float64)))
    return abs(norm - 1.0) < 1e-5  # false of NaN


# -- what fails ----------------------------------------------------------------------------------------

_LOCKED = ("SQLITE_BUSY", "SQLITE_LOCKED")


@contextmanager
def explained(url: str, verb: str, lock_timeout_seconds: float) -> Iterator[None]:
    """What SQLite and its driver say, as one `StoreError` that says what to do."""
    try:
        yield
    except (SQLAlchemyError, UnicodeEncodeError, OverflowError) as error:
        # The last two are what the driver says of a text or a number that SQLite cannot hold.
        raise _explanation(url, verb, lock_timeout_seconds, error) from error


def _explanation(url: str, verb: str, lock_timeout_seconds: float, error: Exception) -> StoreError:
    cause = getattr(error, "orig", None) or error
    name = _name(error)
    start = f"{url}: nothing could be {verb}: "
    if name == "SQLITE_NOTADB":
        return StoreError(f"{url} is not a memory store: the file is not an SQLite database")
    # A text that is no UTF-8 has no code of its own, and the driver's words for it repeat the text. The function is
    # the checksum's, which is given such a text.
    no_text = ("Could not decode to UTF-8", "user-defined function raised")
    if name.startswith("SQLITE_CORRUPT") or str(cause).startswith(no_text):
        said = str(cause).partition(" with text ")[0]
        return DamagedStoreError(f"{start}the file is damaged ({said}). Restore it from a backup.")
    if name.startswith(_LOCKED):
        return StoreError(
            f"{start}another process has kept the file locked for {lock_timeout_seconds:g} s ({cause}). "
            f"Wait for it or end it, then try again."
        )
    if name == "SQLITE_FULL":
        return StoreError(f"{start}the disk is full. Make room and try again; what was recorded before is kept.")
    if name.startswith("SQLITE_IOERR"):
        return StoreError(
            f"{start}the disk refuses ({cause}). It may be full or broken: see to it and try again; what was "
            f"recorded before is kept."
        )
    if name.startswith("SQLITE_READONLY"):
        return StoreError(
            f"{start}the file or its folder is read-only ({cause}). Make both writable, or work on a copy elsewhere."
        )
    if name.startswith("SQLITE_CANTOPEN"):
        return StoreError(f"{start}{cause}. Its folder must exist, and both must be writable.")
    return StoreError(f"{start}{cause}")


def _name(error: Exception) -> str:
    """SQLite's name of a fault, such as SQLITE_IOERR_WRITE; empty if it is not SQLite's."""
    return getattr(getattr(error, "orig", None), "sqlite_errorname", None) or ""
