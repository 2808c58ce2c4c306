"""The memory store: every user's interactions, profiles and personas, in SQL. SQL is the truth."""

from __future__ import annotations

import hashlib
import json
import threading
import time
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection
from sqlalchemy.exc import ArgumentError, DatabaseError, OperationalError, SQLAlchemyError
from sqlalchemy.pool import StaticPool

from personaagent.programs.errors import EncoderError, InputError, StoreError
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.encoder import Encoder, Vector, checked_vector, load_encoder
from personaagent.programs.memory.episodic import EpisodicMemory
from personaagent.programs.persona import Persona

SCHEMA_VERSION = 1
_FORGOTTEN = "users_forgotten"
_LOCK_TIMEOUT_SECONDS = 30

_metadata = sa.MetaData()
_meta = sa.Table("meta", _metadata, sa.Column("key", sa.Text, primary_key=True), sa.Column("value", sa.Text))
_interactions = sa.Table(
    "interactions",
    _metadata,
    sa.Column("user_id", sa.Text, primary_key=True),
    sa.Column("id", sa.Text, primary_key=True),
    sa.Column("timestamp", sa.Text, nullable=False),
    sa.Column("ordinal", sa.Integer, nullable=False),
    sa.Column("query", sa.Text, nullable=False),
    sa.Column("response", sa.Text, nullable=False),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("text_digest", sa.Text, nullable=False),
    sa.Column("metadata", sa.Text, nullable=False),
    sa.Index("interactions_order", "user_id", "timestamp", "ordinal"),
)
# Keyed by the text's digest: a text is encoded once ever, whoever's it is and however often it occurs.
_embeddings = sa.Table(
    "embeddings",
    _metadata,
    sa.Column("encoder", sa.Text, primary_key=True),
    sa.Column("text_digest", sa.Text, primary_key=True),
    sa.Column("dimension", sa.Integer, nullable=False),
    sa.Column("vector", sa.LargeBinary, nullable=False),
)
_profiles = sa.Table(
    "profiles",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("user_id", sa.Text, nullable=False, index=True),
    sa.Column("text", sa.Text, nullable=False),
)
_personas = sa.Table(
    "personas",
    _metadata,
    sa.Column("sequence", sa.Integer, primary_key=True, autoincrement=True),
    sa.Column("user_id", sa.Text, nullable=False),
    sa.Column("digest", sa.Text, nullable=False),
    sa.Column("version", sa.Integer, nullable=False),
    sa.Column("parent", sa.Text),
    sa.Column("text", sa.Text, nullable=False),
    sa.Column("learnt_from", sa.Text, nullable=False),
    sa.Index("personas_latest", "user_id", "sequence"),
)


class Snapshot(NamedTuple):
    """A user's history in order, with its vectors."""

    interactions: list[Interaction]
    vectors: np.ndarray[Any, np.dtype[np.float32]]
    """float32, shape (len(interactions), dimension)."""


class MemoryStore:
    """Durable memory of many users.

    Args:
        url: an SQLAlchemy URL of SQLite: `sqlite:///memory.db` is a file (made if missing),
            `sqlite://` lives in this process only.
        encoder: a name (see `load_encoder`) or an `Encoder`. Loaded when first needed.

    All methods may be called from any thread; several processes may share a file. Every write is one
    transaction: after a crash it is there as a whole or not at all.

    Raises:
        InputError: if the URL is not one of SQLite.
        StoreError: if the file cannot be opened, is not a store, or was written by a newer version.
    """

    def __init__(self, url: str = "sqlite://", encoder: str | Encoder = "auto") -> None:
        self.url = url
        self._encoder = encoder
        self._views: weakref.WeakValueDictionary[str, EpisodicMemory] = weakref.WeakValueDictionary()
        # One connection serves an in-memory database, so statements of two threads must not interleave;
        # with a file the lock also keeps this process from waiting on its own write lock.
        self._lock = threading.RLock()
        self._engine = _make_engine(url)
        try:
            with self._guard("opened"):
                _open_schema(self._engine, url)
        except StoreError:
            self._engine.dispose()
            raise

    # -- interactions -----------------------------------------------------------------------------

    def add(self, interactions: Iterable[Interaction]) -> list[Interaction]:
        """Record interactions; all of them or, on an error, none.

        Idempotent by (user_id, id): one that is already there with the same content is left alone. An
        interaction without an ordinal gets the next one of its user.

        Returns:
            The interactions as stored, in the order given, with their ordinals.

        Raises:
            StoreError: if an id is already there with other content (nothing is overwritten).
        """
        stored: list[Interaction] = []
        # Drawn before the transaction: an iterator may read this very store.
        batch = list(interactions)
        with self._write("recorded") as connection:
            next_ordinals: dict[str, int] = {}
            for given in batch:
                found = connection.execute(_by_id(given.user_id, given.id)).first()
                if found is not None:
                    stored.append(_same_or_raise(_interaction(found), given))
                    continue
                if given.ordinal is None:
                    if given.user_id not in next_ordinals:
                        highest = sa.select(sa.func.max(_interactions.c.ordinal))
                        top = connection.execute(highest.where(_interactions.c.user_id == given.user_id)).scalar()
                        next_ordinals[given.user_id] = 0 if top is None else top + 1
                    ordinal = next_ordinals[given.user_id]
                else:
                    ordinal = given.ordinal
                next_ordinals[given.user_id] = max(next_ordinals.get(given.user_id, 0), ordinal + 1)
                new = _with_ordinal(given, ordinal)
                connection.execute(_interactions.insert().values(**_row(new)))
                stored.append(new)
        return stored

    def interactions(self, user_id: str) -> list[Interaction]:
        """A user's history, oldest first; empty for a user who is not known."""
        query = sa.select(_interactions).where(_interactions.c.user_id == user_id).order_by(*_ORDER)
        return [_interaction(row) for row in self._read(query)]

    def interaction(self, user_id: str, interaction_id: str) -> Interaction | None:
        """One interaction by its id, or None."""
        rows = self._read(_by_id(user_id, interaction_id))
        return _interaction(rows[0]) if rows else None

    def count(self, user_id: str) -> int:
        """Number of a user's interactions."""
        query = sa.select(sa.func.count()).select_from(_interactions).where(_interactions.c.user_id == user_id)
        return int(self._read(query)[0][0])

    def revision(self, user_id: str) -> tuple[int, int]:
        """A value that changes with the user's interactions: (how many, how many users were ever forgotten)."""
        # Interactions are never altered and a user is erased whole, so these two notice every change,
        # also by another process that forgets a user and records as many anew.
        count = sa.select(sa.func.count()).select_from(_interactions).where(_interactions.c.user_id == user_id)
        forgotten = sa.select(_meta.c.value).where(_meta.c.key == _FORGOTTEN)
        row: Sequence[Any] = self._read(sa.select(count.scalar_subquery(), forgotten.scalar_subquery()))[0]
        interactions, users_forgotten = row
        return int(interactions), int(users_forgotten or 0)

    def users(self) -> list[str]:
        """Ids of the users who have interactions, alphabetically."""
        query = sa.select(_interactions.c.user_id).distinct().order_by(_interactions.c.user_id)
        return [row[0] for row in self._read(query)]

    def episodic(self, user_id: str) -> EpisodicMemory:
        """The user's episodic memory. Handles of one user share it; it is freed with the last of them."""
        with self._lock:
            view = self._views.get(user_id)
            if view is None:
                view = self._views[user_id] = EpisodicMemory(self, user_id)
            return view

    # -- vectors ----------------------------------------------------------------------------------

    @property
    def encoder(self) -> Encoder:
        """The encoder of this store's vectors."""
        if isinstance(self._encoder, str):
            self._encoder = load_encoder(self._encoder)
        return self._encoder

    def snapshot(self, user_id: str) -> Snapshot:
        """A user's history with its vectors; texts that were never encoded are, and are stored.

        Raises:
            StoreError: if a stored vector is damaged.
            EncoderError: if the encoder cannot be loaded or its vectors are not usable.
        """
        interactions = self.interactions(user_id)
        if not interactions:
            return Snapshot([], np.zeros((0, 0), dtype=np.float32))
        name = self.encoder.name
        known = {
            row.text_digest: self._stored_vector(row)
            for row in self._read(
                sa.select(_embeddings)
                .join(_interactions, _interactions.c.text_digest == _embeddings.c.text_digest)
                .where(_embeddings.c.encoder == name, _interactions.c.user_id == user_id)
            )
        }
        digests = [_text_digest(i.text) for i in interactions]
        new: dict[str, Vector] = {}
        for digest, interaction in zip(digests, interactions, strict=True):
            if digest not in known and digest not in new:
                vector = self.encoder.encode(interaction.text)
                new[digest] = checked_vector(vector, self.encoder.dimension, name)
        if new:
            with self._write("recorded") as connection:
                # A user who was forgotten while this encoded leaves no vector behind.
                owned = sa.select(_interactions.c.text_digest).where(_interactions.c.user_id == user_id)
                still = set(connection.execute(owned).scalars())
                rows = [
                    {"encoder": name, "text_digest": d, "dimension": v.shape[0], "vector": v.tobytes()}
                    for d, v in new.items()
                    if d in still
                ]
                if rows:
                    connection.execute(insert(_embeddings).on_conflict_do_nothing(), rows)
        known.update(new)
        return Snapshot(interactions, np.stack([known[digest] for digest in digests]))

    def _stored_vector(self, row: Any) -> Vector:
        dimension = self.encoder.dimension
        if row.dimension != dimension or len(row.vector) != 4 * dimension:
            fault = (
                f"has {len(row.vector)} bytes for dimension {row.dimension}, but encoder {row.encoder!r} has "
                f"dimension {dimension}"
            )
        else:
            try:
                return checked_vector(np.frombuffer(row.vector, dtype=np.float32), dimension, row.encoder)
            except EncoderError:
                fault = "is zero or not finite"
        raise StoreError(
            f"{self.url}: the vector of text {row.text_digest[:12]} {fault}. The row is damaged or of "
            f"another model under the same name; delete it from table embeddings and it is computed again."
        )

    # -- what was learnt of a user ----------------------------------------------------------------

    def save_profile(self, user_id: str, text: str) -> None:
        """Keep a profile P^u; earlier ones stay."""
        with self._write("recorded") as connection:
            connection.execute(_profiles.insert().values(user_id=user_id, text=text))

    def profile(self, user_id: str) -> str | None:
        """The user's newest profile, or None."""
        query = sa.select(_profiles.c.text).where(_profiles.c.user_id == user_id)
        rows = self._read(query.order_by(_profiles.c.sequence.desc()).limit(1))
        return rows[0][0] if rows else None

    def save_persona(self, user_id: str, persona: Persona) -> None:
        """Keep a persona as the user's newest; earlier versions stay. Saving the newest again does nothing."""
        with self._write("recorded") as connection:
            newest = connection.execute(_newest_persona(user_id)).first()
            if newest is not None and newest.digest == persona.digest:
                return
            state = persona.dump_state() | {"learnt_from": json.dumps(list(persona.learnt_from))}
            connection.execute(_personas.insert().values(user_id=user_id, digest=persona.digest, **state))

    def persona(self, user_id: str) -> Persona | None:
        """The user's newest persona, or None."""
        rows = self._read(_newest_persona(user_id))
        return _persona(rows[0]) if rows else None

    def personas(self, user_id: str) -> list[Persona]:
        """All personas of a user that were saved, oldest first."""
        query = sa.select(_personas).where(_personas.c.user_id == user_id).order_by(_personas.c.sequence)
        return [_persona(row) for row in self._read(query)]

    # -- the whole --------------------------------------------------------------------------------

    def forget(self, user_id: str) -> None:
        """Erase a user: interactions, profiles, personas, and vectors of texts that no other user has."""
        with self._write("erased") as connection:
            mine = sa.select(_interactions.c.text_digest).where(_interactions.c.user_id == user_id)
            others = sa.select(_interactions.c.text_digest).where(_interactions.c.user_id != user_id)
            of_mine_only = _embeddings.c.text_digest.in_(mine) & _embeddings.c.text_digest.not_in(others)
            connection.execute(_embeddings.delete().where(of_mine_only))
            for table in (_interactions, _profiles, _personas):
                connection.execute(table.delete().where(table.c.user_id == user_id))
            one_more = {"value": sa.cast(sa.cast(_meta.c.value, sa.Integer) + 1, sa.Text)}
            counter = insert(_meta).values(key=_FORGOTTEN, value="1")
            connection.execute(counter.on_conflict_do_update(index_elements=["key"], set_=one_more))
        view = self._views.pop(user_id, None)
        if view is not None:
            view.invalidate()

    def close(self) -> None:
        """Release the database. The store cannot be used afterwards."""
        with self._lock:
            self._engine.dispose()

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryStore:
        return self  # a program's copy uses the same memory

    def __repr__(self) -> str:
        return f"MemoryStore({self.url!r})"

    def _read(self, query: sa.Select[Any]) -> Sequence[sa.Row[Any]]:
        with self._lock, self._guard("read"), self._engine.connect() as connection:
            return connection.execute(query).all()

    @contextmanager
    def _write(self, verb: str) -> Iterator[Connection]:
        with self._lock, self._guard(verb), self._engine.connect() as connection:
            # IMMEDIATE: the write lock before the first read, so that what was read is still true.
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.exec_driver_sql("ROLLBACK")
                raise
            connection.exec_driver_sql("COMMIT")

    @contextmanager
    def _guard(self, verb: str) -> Iterator[None]:
        try:
            yield
        except (SQLAlchemyError, UnicodeEncodeError, OverflowError) as error:
            # The last two are what the driver says of a text or a number that SQLite cannot hold.
            cause = getattr(error, "orig", None) or error
            raise StoreError(f"{self.url}: nothing could be {verb}: {cause}") from error


_ORDER = (_interactions.c.timestamp, _interactions.c.ordinal, _interactions.c.id)


def _make_engine(url: str) -> sa.Engine:
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise InputError(f"{url!r} is not a database URL; a file is written sqlite:///{url}") from None
    if parsed.drivername not in ("sqlite", "sqlite+pysqlite"):
        raise InputError(f"only SQLite is supported now (sqlite:///memory.db), but got {str(parsed)!r}")
    in_memory = parsed.database in (None, "", ":memory:")
    pool: dict[str, Any] = {"poolclass": StaticPool} if in_memory else {}
    engine = sa.create_engine(
        parsed,
        isolation_level="AUTOCOMMIT",
        connect_args={"check_same_thread": False, "timeout": _LOCK_TIMEOUT_SECONDS},
        **pool,
    )

    @sa.event.listens_for(engine, "connect")
    def _pragmas(connection: Any, _: Any) -> None:
        # FULL: what was recorded survives a power cut. Secure: what was forgotten leaves the file.
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA secure_delete=ON")

    return engine


def _open_schema(engine: sa.Engine, url: str) -> None:
    try:
        with engine.connect() as connection:
            _check_schema(connection, url)
            _use_wal(connection)
            connection.exec_driver_sql("BEGIN IMMEDIATE")
            _metadata.create_all(connection)
            version = {"key": "schema_version", "value": str(SCHEMA_VERSION)}
            connection.execute(insert(_meta).on_conflict_do_nothing(), version)
            connection.exec_driver_sql("COMMIT")
    except DatabaseError as error:
        if "not a database" in str(error.orig):
            raise StoreError(f"{url} is not a memory store: the file is not an SQLite database") from error
        raise


def _use_wal(connection: Connection) -> None:
    """Let readers not wait for a writer. The mode is kept in the file, so it is set after the check."""
    # SQLite waits for a writer everywhere but here, where several processes that open a new file meet.
    deadline = time.monotonic() + _LOCK_TIMEOUT_SECONDS
    while True:
        try:
            connection.exec_driver_sql("PRAGMA journal_mode=WAL")
            return
        except OperationalError as error:
            if "locked" not in str(error.orig) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _check_schema(connection: Connection, url: str) -> None:
    """Refuse, without writing, a database of another program or of a newer version."""
    tables = sa.inspect(connection).get_table_names()
    if not tables:
        return
    try:
        found = connection.execute(sa.select(_meta.c.value).where(_meta.c.key == "schema_version")).scalar()
        version = int(found or "")
    except (OperationalError, ValueError):
        raise StoreError(
            f"{url} is not a memory store but another program's database (table {tables[0]!r}). "
            f"Nothing was changed; give the store a file of its own."
        ) from None
    if version > SCHEMA_VERSION:
        raise StoreError(
            f"{url} has schema version {version}, written by a newer personaagent; this one knows "
            f"{SCHEMA_VERSION}. Nothing was changed; upgrade personaagent to open it."
        )


def _newest_persona(user_id: str) -> sa.Select[Any]:
    query = sa.select(_personas).where(_personas.c.user_id == user_id)
    return query.order_by(_personas.c.sequence.desc()).limit(1)


def _persona(row: Any) -> Persona:
    return Persona(row.text, row.version, row.parent, json.loads(row.learnt_from))


def _by_id(user_id: str, interaction_id: str) -> sa.Select[Any]:
    return sa.select(_interactions).where(_interactions.c.user_id == user_id, _interactions.c.id == interaction_id)


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _row(interaction: Interaction) -> dict[str, Any]:
    names = ("user_id", "id", "timestamp", "ordinal", "query", "response", "text")
    row = {name: getattr(interaction, name) for name in names}
    metadata = json.dumps(dict(interaction.metadata), ensure_ascii=False, sort_keys=True)
    return row | {"text_digest": _text_digest(interaction.text), "metadata": metadata}


def _interaction(row: Any) -> Interaction:
    return Interaction(
        user_id=row.user_id,
        id=row.id,
        query=row.query,
        response=row.response,
        timestamp=row.timestamp,
        ordinal=row.ordinal,
        text=row.text,
        metadata=json.loads(row.metadata),
    )


def _with_ordinal(interaction: Interaction, ordinal: int) -> Interaction:
    return replace(interaction, ordinal=ordinal)


def _same_or_raise(stored: Interaction, given: Interaction) -> Interaction:
    given_row = _row(given if given.ordinal is not None else _with_ordinal(given, stored.ordinal or 0))
    stored_row = _row(stored)
    differing = [name for name in stored_row if stored_row[name] != given_row[name] and name != "text_digest"]
    if differing:
        raise StoreError(
            f"user {given.user_id!r} already has an interaction {given.id!r} with another {differing[0]}: "
            f"stored {stored_row[differing[0]]!r}, given {given_row[differing[0]]!r}. Nothing was recorded; "
            f"give the new interaction an id of its own."
        )
    return stored
