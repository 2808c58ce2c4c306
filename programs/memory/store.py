"""The memory store: every user's interactions, profiles and personas, in SQL. SQL is the truth."""

from __future__ import annotations

import hashlib
import json
import logging
import math
import threading
import weakref
from collections.abc import Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert
from sqlalchemy.engine import Connection

from personaagent.programs.errors import DamagedStoreError, InputError, StoreError
from personaagent.programs.interaction import Interaction, normalise_timestamp
from personaagent.programs.memory import schema
from personaagent.programs.memory.encoder import Encoder, SentenceEncoder, Vector, checked_vector, load_encoder
from personaagent.programs.memory.episodic import EpisodicMemory
from personaagent.programs.persona import Persona

LOCK_TIMEOUT_SECONDS = 30.0
"""So long a store waits for another process's lock, unless told otherwise."""

_log = logging.getLogger(__name__)
_FORGOTTEN = "users_forgotten"
_meta, _interactions, _embeddings = schema.meta, schema.interactions, schema.embeddings
_profiles, _personas = schema.profiles, schema.personas

# Every statement that concerns a user is built once, here, and is given its values when it is executed.
# SQLAlchemy caches statements with the values written into them: a forgotten user's would stay in memory.
_USER: sa.BindParameter[str] = sa.bindparam("user")
_ORDER = (_interactions.c.timestamp, _interactions.c.ordinal, _interactions.c.id)
_HISTORY = sa.select(_interactions).where(_interactions.c.user_id == _USER).order_by(*_ORDER)
_BY_ID = sa.select(_interactions).where(_interactions.c.user_id == _USER, _interactions.c.id == sa.bindparam("of_id"))
_COUNT = sa.select(sa.func.count()).select_from(_interactions).where(_interactions.c.user_id == _USER)
_HIGHEST_ORDINAL = sa.select(sa.func.max(_interactions.c.ordinal)).where(_interactions.c.user_id == _USER)
_REVISION = sa.select(
    _COUNT.scalar_subquery(), sa.select(_meta.c.value).where(_meta.c.key == _FORGOTTEN).scalar_subquery()
)
_USERS = sa.select(_interactions.c.user_id).distinct().order_by(_interactions.c.user_id)
_DIGESTS = sa.select(_interactions.c.text_digest).where(_interactions.c.user_id == _USER)
_VECTORS = (
    sa.select(_embeddings)
    .join(_interactions, _interactions.c.text_digest == _embeddings.c.text_digest)
    .where(_embeddings.c.encoder == sa.bindparam("of_encoder"), _interactions.c.user_id == _USER)
)
# One that is there is written over: it is the same, or it is damaged.
_NEW_VECTOR = insert(_embeddings)
_KEEP_VECTORS = _NEW_VECTOR.on_conflict_do_update(
    index_elements=["encoder", "text_digest"],
    set_={name: _NEW_VECTOR.excluded[name] for name in ("dimension", "vector", "checksum")},
)
_NEWEST_PROFILE = (
    sa.select(_profiles).where(_profiles.c.user_id == _USER).order_by(_profiles.c.sequence.desc()).limit(1)
)
_PERSONAS = sa.select(_personas).where(_personas.c.user_id == _USER).order_by(_personas.c.sequence)
_NEWEST_PERSONA = (
    sa.select(_personas).where(_personas.c.user_id == _USER).order_by(_personas.c.sequence.desc()).limit(1)
)
_DIGESTS_OF_OTHERS = sa.select(_interactions.c.text_digest).where(_interactions.c.user_id != _USER)
_FORGET = (
    _embeddings.delete().where(
        _embeddings.c.text_digest.in_(_DIGESTS), _embeddings.c.text_digest.not_in(_DIGESTS_OF_OTHERS)
    ),
    *(table.delete().where(table.c.user_id == _USER) for table in (_interactions, _profiles, _personas)),
)
_ONE_MORE_FORGOTTEN = (
    insert(_meta)
    .values(key=_FORGOTTEN, value="1")
    .on_conflict_do_update(
        index_elements=["key"], set_={"value": sa.cast(sa.cast(_meta.c.value, sa.Integer) + 1, sa.Text)}
    )
)


class Snapshot(NamedTuple):
    """A user's history in order, with its vectors."""

    interactions: list[Interaction]
    vectors: np.ndarray[Any, np.dtype[np.float32]]
    """float32, shape (len(interactions), dimension); (0, 0) without interactions."""


class MemoryStore:
    """Durable memory of many users.

    Args:
        url: an SQLAlchemy URL of SQLite: `sqlite:///memory.db` is a file (made if missing),
            `sqlite://` lives in this process only.
        encoder: a name (see `load_encoder`) or an `Encoder`. Loaded when first needed.
        lock_timeout_seconds: so long a read or write waits for another process's lock; from 0.

    Every row carries a checksum of what it says, so that one that was damaged, by a bit that flipped or by
    another program, is noticed when it is read. A damaged vector is computed again from its text, and a
    warning is logged: nothing is lost by it. A damaged row of what cannot be computed is an error.

    All methods may be called from any thread; several processes may share a file. Every write is one
    transaction: after a crash it is there as a whole or not at all.

    A copy is the same store. A pickle holds the URL and the encoder (its name, if it was given by name) and
    nothing of the content; unpickling opens the URL. A store in memory cannot be pickled.

    Raises:
        InputError: if the URL is not one of SQLite, or the timeout is negative.
        StoreError: if the file cannot be opened, is not a store, or was written by a newer version; by every
            method that reads or writes, if the file is damaged (`DamagedStoreError`), is locked for too long or
            cannot be written, or the store is closed.
    """

    def __init__(
        self,
        url: str = "sqlite://",
        encoder: str | Encoder = "auto",
        *,
        lock_timeout_seconds: float = LOCK_TIMEOUT_SECONDS,
    ) -> None:
        if not 0 <= lock_timeout_seconds < math.inf:
            raise InputError(f"lock_timeout_seconds must be a number from 0 but got {lock_timeout_seconds}")
        self.url = url
        self.lock_timeout_seconds = lock_timeout_seconds
        self._encoder = encoder
        self._views: weakref.WeakValueDictionary[str, EpisodicMemory] = weakref.WeakValueDictionary()
        # With a file this keeps the process from waiting on its own write lock; what reads waits for nobody.
        # One connection serves an in-memory database, so statements of two threads must not interleave.
        self._lock = threading.RLock()
        self._views_lock = threading.Lock()
        self._closed = False
        self._engine = schema.make_engine(url, lock_timeout_seconds)
        self._reading: AbstractContextManager[Any] = self._lock if schema.in_memory(url) else nullcontext()
        file = schema.file_of(url)
        # Of a relative path what it means here and now, as SQLAlchemy takes it, too.
        whole = sa.make_url(url).set(database=str(file.absolute())) if file else None
        self._address = whole.render_as_string(hide_password=False) if whole else url
        try:
            with self._explained("opened"):
                schema.open_schema(self._engine, url, lock_timeout_seconds)
        except StoreError:
            self._engine.dispose()
            raise

    # -- interactions -----------------------------------------------------------------------------

    def add(self, interactions: Iterable[Interaction], *, now: str | datetime | None = None) -> list[Interaction]:
        """Record interactions; all of them or, on an error, none.

        Idempotent by (user_id, id): one that is already there with the same content is left alone. An
        interaction without an ordinal gets the one after its user's highest.

        Args:
            interactions: of any users.
            now: the time of new interactions whose timestamp is empty. The time of such a one is not
                compared with what is stored, so that a retry at a later time records nothing twice.
                Default: an empty timestamp is stored as it is, and compared.

        Returns:
            The interactions as stored, in the order given, with their ordinals.

        Raises:
            InputError: if `now` is not a timestamp, or the ordinals of a user are used up.
            StoreError: if an id is already there with other content (nothing is overwritten).
        """
        time_if_new = None if now is None else normalise_timestamp(now)
        stored: list[Interaction] = []
        # Drawn before the transaction: an iterator may read this very store.
        batch = list(interactions)
        with self._write("recorded") as connection:
            next_ordinals: dict[str, int] = {}
            for given in batch:
                user = given.user_id
                timestamp = given.timestamp or time_if_new or ""
                found = connection.execute(_BY_ID, {"user": user, "of_id": given.id}).first()
                if found is not None:
                    stored.append(_same_or_raise(self._interaction(found), given, timestamp == given.timestamp))
                    continue
                if user not in next_ordinals:
                    highest = connection.execute(_HIGHEST_ORDINAL, {"user": user}).scalar()
                    with self._sound_row(_interactions, {"user_id": user, "ordinal": highest}):
                        next_ordinals[user] = 0 if highest is None else highest + 1
                new = replace(
                    given,
                    ordinal=next_ordinals[user] if given.ordinal is None else given.ordinal,
                    timestamp=timestamp,
                )
                next_ordinals[user] = max(next_ordinals[user], new.position.ordinal + 1)
                connection.execute(_interactions.insert(), schema.sealed(_interactions, _row(new)))
                stored.append(new)
        return stored

    def interactions(self, user_id: str) -> list[Interaction]:
        """A user's history, oldest first; empty for a user who is not known."""
        return [self._interaction(row) for row in self._read(_HISTORY, user=user_id)]

    def interaction(self, user_id: str, interaction_id: str) -> Interaction | None:
        """One interaction by its id, or None."""
        rows = self._read(_BY_ID, user=user_id, of_id=interaction_id)
        return self._interaction(rows[0]) if rows else None

    def count(self, user_id: str) -> int:
        """Number of a user's interactions."""
        return int(self._read(_COUNT, user=user_id)[0][0])

    def revision(self, user_id: str) -> tuple[int, int]:
        """A value that changes with the user's interactions: (how many, how many users were ever forgotten)."""
        # Interactions are never altered and a user is erased whole, so these two notice every change,
        # also by another process that forgets a user and records as many anew.
        row: Sequence[Any] = self._read(_REVISION, user=user_id)[0]
        with self._sound_row(_meta, {"key": _FORGOTTEN}):
            return int(row[0]), int(row[1] or 0)

    def users(self) -> list[str]:
        """Ids of the users who have interactions, alphabetically."""
        return [row[0] for row in self._read(_USERS)]

    def episodic(self, user_id: str) -> EpisodicMemory:
        """The user's episodic memory: one object, shared by all who ask for it while anyone holds it.

        The store itself does not hold it. Keep it between recalls: the first recall of a new one reads the
        user's whole history, and later ones read it again only after it has changed.
        """
        with self._views_lock:
            view = self._views.get(user_id)
            if view is None:
                view = self._views[user_id] = EpisodicMemory(self, user_id)
            return view

    # -- vectors ----------------------------------------------------------------------------------

    @property
    def encoder(self) -> Encoder:
        """The encoder of this store's vectors.

        Raises:
            EncoderError: as `load_encoder`, if it was given by name.
        """
        if isinstance(self._encoder, str):
            self._encoder = load_encoder(self._encoder)
        return self._encoder

    def snapshot(self, user_id: str) -> Snapshot:
        """A user's history with its vectors; texts that were never encoded, or whose vector is damaged, are encoded.

        Raises:
            StoreError: if a stored vector is of another model under the same name.
            EncoderError: if the encoder cannot be loaded or its vectors are not usable.
        """
        interactions = self.interactions(user_id)
        if not interactions:
            return Snapshot([], np.zeros((0, 0), dtype=np.float32))
        name = self.encoder.name
        rows = self._read(_VECTORS, user=user_id, of_encoder=name)
        known = {row.text_digest: self._stored_vector(row) for row in rows if schema.is_sound(_embeddings, row)}
        if damaged := {row.text_digest for row in rows} - known.keys():
            _log.warning(
                "%s: damaged vectors of user %r are computed again from their texts: %d. Nothing is lost by it, but "
                "the disk may be failing: check it, and keep a backup.",
                self.url,
                user_id,
                len(damaged),
            )
        digests = [_text_digest(i.text) for i in interactions]
        new: dict[str, Vector] = {}
        for digest, interaction in zip(digests, interactions, strict=True):
            if digest not in known and digest not in new:
                vector = self.encoder.encode(interaction.text)
                new[digest] = checked_vector(vector, self.encoder.dimension, name)
        if new:
            with self._write("recorded") as connection:
                # A user who was forgotten while this encoded leaves no vector behind.
                still = set(connection.execute(_DIGESTS, {"user": user_id}).scalars())
                made = [
                    {"encoder": name, "text_digest": d, "dimension": v.shape[0], "vector": v.tobytes()}
                    for d, v in new.items()
                    if d in still
                ]
                if made:
                    connection.execute(_KEEP_VECTORS, [schema.sealed(_embeddings, row) for row in made])
        known.update(new)
        return Snapshot(interactions, np.stack([known[digest] for digest in digests]))

    def _stored_vector(self, row: Any) -> Vector:
        dimension = self.encoder.dimension
        if row.dimension != dimension or len(row.vector) != 4 * dimension:
            raise StoreError(
                f"{self.url}: the vector of text {row.text_digest[:12]} has dimension {row.dimension}, but encoder "
                f"{row.encoder!r} has dimension {dimension}: it is of another model under the same name. Give the "
                f"encoder a name of its own, or delete this name's rows from table embeddings: they are computed again."
            )
        return np.frombuffer(row.vector, dtype=np.float32)

    # -- what was learnt of a user ----------------------------------------------------------------

    def save_profile(self, user_id: str, text: str) -> None:
        """Keep a profile P^u; earlier ones stay."""
        with self._write("recorded") as connection:
            connection.execute(_profiles.insert(), schema.sealed(_profiles, {"user_id": user_id, "text": text}))

    def profile(self, user_id: str) -> str | None:
        """The user's newest profile, or None."""
        rows = self._read(_NEWEST_PROFILE, user=user_id)
        if not rows:
            return None
        with self._sound_row(_profiles, {"user_id": user_id, "sequence": rows[0].sequence}, rows[0]):
            return str(rows[0].text)

    def save_persona(self, user_id: str, persona: Persona) -> None:
        """Keep a persona as the user's newest; earlier versions stay. Saving the newest again does nothing."""
        with self._write("recorded") as connection:
            newest = connection.execute(_NEWEST_PERSONA, {"user": user_id}).first()
            if newest is not None and newest.digest == persona.digest:
                return
            state = persona.dump_state() | {"learnt_from": json.dumps(list(persona.learnt_from))}
            row = {"user_id": user_id, "digest": persona.digest} | state
            connection.execute(_personas.insert(), schema.sealed(_personas, row))

    def persona(self, user_id: str) -> Persona | None:
        """The user's newest persona, or None."""
        rows = self._read(_NEWEST_PERSONA, user=user_id)
        return self._persona(rows[0]) if rows else None

    def personas(self, user_id: str) -> list[Persona]:
        """All personas of a user that were saved, oldest first."""
        return [self._persona(row) for row in self._read(_PERSONAS, user=user_id)]

    # -- the whole --------------------------------------------------------------------------------

    def forget(self, user_id: str) -> None:
        """Erase a user: interactions, profiles, personas, and vectors of texts that no other user has."""
        with self._write("erased") as connection:
            for statement in _FORGET:
                connection.execute(statement, {"user": user_id})
            connection.execute(_ONE_MORE_FORGOTTEN)
        # The view stays the shared one: whoever holds it goes on with it, and it is emptied next time, too.
        view = self._views.get(user_id)
        if view is not None:
            view.invalidate()

    def close(self) -> None:
        """Release the database. Whatever reads or writes afterwards raises `StoreError`; closing again does nothing."""
        with self._lock:
            self._closed = True
            self._engine.dispose()

    def __copy__(self) -> MemoryStore:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> MemoryStore:
        return self  # a program's copy uses the same memory

    def __repr__(self) -> str:
        return f"MemoryStore({self.url!r})"

    def __getstate__(self) -> dict[str, Any]:
        if schema.in_memory(self.url):
            raise StoreError(
                f"{self.url}: a store in memory cannot be pickled, since its content would be lost. Use a store in a "
                f"file (sqlite:///memory.db), or save the program's state only (program.save('program.json'))."
            )
        return {
            "url": self._address,
            "encoder": self._encoder_to_pickle(),
            "lock_timeout_seconds": self.lock_timeout_seconds,
        }

    def __setstate__(self, state: dict[str, Any]) -> None:
        file = schema.file_of(state["url"])
        if file is not None and not file.is_file():
            raise StoreError(
                f"{state['url']}: the store of a pickled program is not there. An empty one in its place would know "
                f"nothing of any user: bring the file back, or give the program the store's new place and log it again."
            )
        MemoryStore.__init__(self, **state)

    def _encoder_to_pickle(self) -> str | Encoder:
        encoder = self._encoder
        # The one that a name stands for is pickled as that name: unpickled, it is the process's own one again.
        if isinstance(encoder, SentenceEncoder) and encoder is load_encoder(encoder.name):
            return encoder.name
        return encoder

    def _interaction(self, row: Any) -> Interaction:
        with self._sound_row(_interactions, {"user_id": row.user_id, "id": row.id}, row):
            fields = {name: getattr(row, name) for name in _COPIED}
            return Interaction(**fields, metadata=json.loads(row.metadata))

    def _persona(self, row: Any) -> Persona:
        with self._sound_row(_personas, {"user_id": row.user_id, "sequence": row.sequence}, row):
            return Persona(row.text, row.version, row.parent, json.loads(row.learnt_from))

    @contextmanager
    def _sound_row(self, table: sa.Table, key: dict[str, Any], row: Any = None) -> Iterator[None]:
        """What is read of a row within the block is what was recorded."""
        try:
            if row is not None and not schema.is_sound(table, row):
                raise ValueError("its checksum is that of other content")
            yield
        except (ValueError, TypeError, AttributeError) as error:  # no JSON, JSON of another kind, no sound field
            raise DamagedStoreError(
                f"{self.url}: the row of table {table.name} with {key} is damaged: {error}. "
                f"Restore the file from a backup, or delete that row."
            ) from error

    def _read(self, query: sa.Select[Any], **values: str) -> Sequence[sa.Row[Any]]:
        with self._reading, self._connected("read") as connection:
            return connection.execute(query, values).all()

    @contextmanager
    def _write(self, verb: str) -> Iterator[Connection]:
        with self._lock, self._connected(verb) as connection:
            with schema.transaction(connection):
                yield connection

    @contextmanager
    def _connected(self, verb: str) -> Iterator[Connection]:
        with self._explained(verb):
            if self._closed:
                raise StoreError(f"{self.url}: the store is closed; open it anew with MemoryStore({self.url!r})")
            with self._engine.connect() as connection:
                yield connection

    def _explained(self, verb: str) -> AbstractContextManager[None]:
        return schema.explained(self.url, verb, self.lock_timeout_seconds)


def _text_digest(text: str) -> str:
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


_COPIED = ("user_id", "id", "timestamp", "ordinal", "query", "response", "text")
"""Fields of an interaction that are columns as they are."""


def _row(interaction: Interaction) -> dict[str, Any]:
    row = {name: getattr(interaction, name) for name in _COPIED}
    metadata = json.dumps(dict(interaction.metadata), ensure_ascii=False, sort_keys=True)
    return row | {"text_digest": _text_digest(interaction.text), "metadata": metadata}


def _same_or_raise(stored: Interaction, given: Interaction, compare_time: bool) -> Interaction:
    left_out = {"text_digest"}  # it says what the text says
    if given.ordinal is None:
        left_out.add("ordinal")
    if not compare_time:
        left_out.add("timestamp")
    stored_row, given_row = _row(stored), _row(given)
    differing = [name for name in stored_row if stored_row[name] != given_row[name] and name not in left_out]
    if differing:
        raise StoreError(
            f"user {given.user_id!r} already has an interaction {given.id!r} with another {differing[0]}: "
            f"stored {stored_row[differing[0]]!r}, given {given_row[differing[0]]!r}. Nothing was recorded; "
            f"give the new interaction an id of its own."
        )
    return stored
