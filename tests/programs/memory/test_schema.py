"""The store's file: versions, damage that SQLite does not notice, and locks of other processes."""

from __future__ import annotations

import json
import logging
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from personaagent.programs.errors import DamagedStoreError, InputError, StoreError
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

VERSION_1 = Path(__file__).with_name("store_version_1.sql")
"""A dump of a file as the code of version 1 left it."""


def event(id: str, user: str = "ann", **fields: Any) -> Interaction:
    return Interaction(**{"user_id": user, "id": id, "query": f"query {id}", "response": f"response {id}"} | fields)


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def sql(file: Path, statement: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def version_1(file: Path) -> Path:
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.executescript(VERSION_1.read_text(encoding="utf-8"))
    return file


def schema_of(file: Path) -> list[Any]:
    return sorted(sql(file, "SELECT type, name, tbl_name, sql FROM sqlite_master"))


def content_of(store: MemoryStore) -> dict[str, Any]:
    """All that can be asked of a store, by user."""
    return {
        user: (
            store.interactions(user),
            store.snapshot(user).vectors.tolist(),
            store.profile(user),
            store.personas(user),
        )
        for user in store.users()
    }


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


# -- version 1 -----------------------------------------------------------------------------------------


def test_a_file_of_version_1_becomes_one_of_version_2_and_says_the_same(
    file: Path, tmp_path: Path, encoder: Any, caplog: Any
) -> None:
    version_1(file)
    vectors = {row[0]: row[1] for row in sql(file, "SELECT text_digest, vector FROM embeddings")}
    with closing(MemoryStore(url_of(file), encoder)) as store:
        assert store.users() == ["ann", "bob"]
        first = event("1", query="What tag?\n«é» 👩‍👧", response="comedy", timestamp="2007-08-31", ordinal=0)
        assert [i.id for i in store.interactions("ann")] == ["2", "3", "1"]
        assert store.interaction("ann", "1") == Interaction(**{**vars_of(first), "metadata": {"é": "1"}})
        assert store.snapshot("ann").vectors.shape == (3, 32) and encoder.texts == []  # read, not computed
        assert store.profile("ann") == "likes coffee"
        root = Persona("zero")
        assert store.personas("ann") == [root, root.rewritten("one", ["1", "2"])]
        assert store.revision("ann") == (3, 1)
    with closing(MemoryStore(url_of(tmp_path / "fresh.db"), encoder)):
        assert schema_of(file) == schema_of(tmp_path / "fresh.db")
    assert {row[0]: row[1] for row in sql(file, "SELECT text_digest, vector FROM embeddings")} == vectors
    assert sql(file, "PRAGMA integrity_check") == [("ok",)] and not caplog.records


def vars_of(interaction: Interaction) -> dict[str, Any]:
    return {name: getattr(interaction, name) for name in ("user_id", "id", "query", "response", "timestamp", "ordinal")}


def test_vectors_that_no_encoder_returns_are_not_taken_over(file: Path, encoder: Any) -> None:
    version_1(file)
    whole = np.frombuffer(sql(file, "SELECT vector FROM embeddings")[0][0], np.float32)
    broken = [whole.tobytes()[:-1], (2 * whole).tobytes(), np.full(32, np.nan, np.float32).tobytes(), bytes(128)]
    sql(file, "DELETE FROM embeddings")
    for number, vector in enumerate([*broken, whole.tobytes()]):
        sql(file, "INSERT INTO embeddings VALUES ('hash-32', ?, 32, ?)", str(number), vector)
    MemoryStore(url_of(file), encoder).close()
    assert sql(file, "SELECT text_digest FROM embeddings") == [(str(len(broken)),)]


def test_a_row_of_version_1_that_is_no_text_is_one_error_and_stays_version_1(file: Path) -> None:
    version_1(file)
    sql(file, "UPDATE profiles SET text = CAST(x'ff' AS TEXT)")
    before = sql(file, "SELECT * FROM interactions")
    with pytest.raises(DamagedStoreError, match=r"nothing could be opened: the file is damaged.*backup"):
        MemoryStore(url_of(file))
    assert sql(file, "SELECT value FROM meta WHERE key = 'schema_version'") == [("1",)]
    assert sql(file, "SELECT * FROM interactions") == before


_MIGRATING = """
import os, shutil, signal, sys
from personaagent.programs.memory import schema
from personaagent.programs.memory.store import MemoryStore
url, moments = sys.argv[1], sys.argv[2:]
path = url.removeprefix("sqlite:///")
checksum, add = schema._checksum, schema._add_checksums
for moment in moments:
    shutil.copy(path, path + "." + moment)
    if os.fork() == 0:
        calls = 0
        def counted(*values):
            global calls
            calls += 1
            if moment == str(calls):
                os.kill(os.getpid(), signal.SIGKILL)
            return checksum(*values)
        def added(connection):
            add(connection)
            if moment == "end":
                os.kill(os.getpid(), signal.SIGKILL)
        schema._checksum, schema._add_checksums = counted, added
        MemoryStore(url + "." + moment)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.wait()[1]), flush=True)
"""


def test_a_migration_that_is_killed_leaves_version_1(file: Path, encoder: Any) -> None:
    version_1(file)
    with closing(sqlite3.connect(file)) as connection, connection:
        # More than SQLite keeps in memory: some of what is killed is in the file already.
        rows = [(f"eve{n}", "x" * 2_000) for n in range(2_000)]
        connection.executemany("INSERT INTO profiles (user_id, text) VALUES (?, ?)", rows)
    moments = ["1", "3", "8", "600", "1900", "end"]
    command = [sys.executable, "-c", _MIGRATING, url_of(file), *moments]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(-signal.SIGKILL)] * len(moments)
    with closing(MemoryStore(url_of(file), encoder)) as store:
        whole = content_of(store)
    for moment in moments:
        killed = file.with_name(f"{file.name}.{moment}")
        assert sql(killed, "SELECT value FROM meta WHERE key = 'schema_version'") == [("1",)]
        with closing(MemoryStore(url_of(killed), encoder)) as store:
            assert content_of(store) == whole
            assert store.profile("eve1999") == "x" * 2_000
        assert schema_of(killed) == schema_of(file)


_OPENING = """
import sys
from personaagent.programs.memory.store import MemoryStore
print("ready", flush=True)
sys.stdin.readline()
store = MemoryStore(sys.argv[1])
print(store.count("ann"), store.profile("ann"), flush=True)
"""


def test_processes_that_open_version_1_at_once_make_one_version_2(file: Path, encoder: Any) -> None:
    version_1(file)
    command = [sys.executable, "-c", _OPENING, url_of(file)]
    openers = [
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(3)
    ]
    for opener in openers:
        assert opener.stdout is not None and opener.stdout.readline() == "ready\n"
    with closing(sqlite3.connect(file, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        for opener in openers:
            assert opener.stdin is not None
            opener.stdin.write("\n")
            opener.stdin.flush()
        time.sleep(0.7)  # until now all of them have seen version 1, and wait for the lock
        writer.execute("COMMIT")
    assert [opener.communicate() for opener in openers] == [("3 likes coffee\n", "")] * 3
    with closing(MemoryStore(url_of(file), encoder)) as store:
        assert len(content_of(store)["ann"][0]) == 3 and encoder.texts == []


def test_a_process_of_version_1_that_has_the_file_open_is_refused_afterwards(file: Path) -> None:
    version_1(file)
    with closing(sqlite3.connect(file)) as old:
        assert old.execute("SELECT count(*) FROM profiles").fetchone() == (2,)
        MemoryStore(url_of(file)).close()
        with pytest.raises(sqlite3.IntegrityError, match=r"profiles\.checksum"):
            old.execute("INSERT INTO profiles (user_id, text) VALUES ('ann', 'of version 1')")


# -- damage --------------------------------------------------------------------------------------------


def test_a_bit_that_flipped_in_a_vector_is_found_and_the_vector_made_anew(
    file: Path, encoder: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    with closing(MemoryStore(url_of(file), encoder)) as store:
        store.add([event("1"), event("2", text="two"), event("3", text="two")])
        before = store.snapshot("ann").vectors
        [(row, vector)] = sql(file, "SELECT rowid, vector FROM embeddings LIMIT 1")
        flipped = bytearray(vector)
        flipped[5] ^= 1  # the length is still 1 within what a float can say
        sql(file, "UPDATE embeddings SET vector = ? WHERE rowid = ?", bytes(flipped), row)
        encoder.texts.clear()
        assert (store.snapshot("ann").vectors == before).all() and len(encoder.texts) == 1
        assert sql(file, "SELECT vector FROM embeddings WHERE rowid = ?", row) == [(vector,)]
        assert [str(file) in r.getMessage() and "damaged" in r.getMessage() for r in caplog.records] == [True]
        caplog.clear()
        assert (store.snapshot("ann").vectors == before).all() and len(encoder.texts) == 1
        assert not caplog.records


def test_a_vector_of_another_text_in_its_place_is_found(file: Path, encoder: Any) -> None:
    with closing(MemoryStore(url_of(file), encoder)) as store:
        store.add([event("1"), event("2")])
        before = store.snapshot("ann").vectors
        one, two = sql(file, "SELECT text_digest, vector, checksum FROM embeddings")
        for digest, vector, checksum in ((one[0], *two[1:]), (two[0], *one[1:])):
            change = "UPDATE embeddings SET vector = ?, checksum = ? WHERE text_digest = ?"
            sql(file, change, vector, checksum, digest)
        assert (store.snapshot("ann").vectors == before).all()


@pytest.mark.parametrize(
    ("table", "column"),
    [
        *(
            ("interactions", c)
            for c in ("query", "response", "text", "timestamp", "text_digest", "ordinal", "checksum")
        ),
        ("profiles", "text"),
        *(("personas", c) for c in ("text", "version", "digest", "learnt_from")),
    ],
)
def test_a_cell_that_was_changed_to_something_sound_is_found(file: Path, encoder: Any, table: str, column: str) -> None:
    with closing(MemoryStore(url_of(file), encoder)) as store:
        store.add([event("1", timestamp="2007-08-31")])
        store.save_profile("ann", "likes tea")
        store.save_persona("ann", Persona("p"))
        other = {"timestamp": "2008-08-31", "ordinal": 7, "version": 3, "learnt_from": '["9"]'}.get(column, "another")
        sql(file, f"UPDATE {table} SET {column} = ?", other)
        read: Any = {"interactions": store.interactions, "profiles": store.profile, "personas": store.persona}[table]
        with pytest.raises(
            DamagedStoreError, match=rf"{re.escape(str(file))}.*table {table} with .*is damaged.*backup"
        ):
            read("ann")


def test_a_text_that_is_no_text_any_more_is_one_error_without_the_text(file: Path, encoder: Any) -> None:
    with closing(MemoryStore(url_of(file), encoder)) as store:
        store.add([event("1")])
        sql(file, "UPDATE interactions SET query = CAST(x'736563726574ff' AS TEXT)")
        with pytest.raises(DamagedStoreError, match=r"Could not decode to UTF-8 column 'query'\).*backup") as refused:
            store.interactions("ann")
        assert "secret" not in str(refused.value)


def filled(file: Path, encoder: Any) -> tuple[dict[str, Any], set[str]]:
    """A store of many pages: its content, and all single things that it holds, as text."""
    with closing(MemoryStore(url_of(file), encoder)) as store:
        for user in ("ann", "bob", "cleo"):
            store.add([event(f"{n}", user, query=f"{user} asks {n} " * 5) for n in range(25)])
            store.save_profile(user, f"profile of {user} " * 20)
            store.save_persona(user, Persona(f"persona of {user} " * 20))
        content = content_of(store)
    single = [thing for history, _, profile, personas in content.values() for thing in (*history, profile, *personas)]
    return content, set(map(str, single))


def test_pages_of_garbage_are_one_error_that_names_the_file_and_the_remedy(file: Path, encoder: Any) -> None:
    filled(file, encoder)
    raw = bytearray(file.read_bytes())
    raw[2 * 4096 :] = random.Random(1).randbytes(len(raw) - 2 * 4096)
    file.write_bytes(raw)
    with pytest.raises(
        DamagedStoreError, match=r"the file is damaged \(database disk image is malformed\).*backup"
    ) as no:
        with closing(MemoryStore(url_of(file), encoder)) as store:
            content_of(store)
    assert str(file) in str(no.value) and len(str(no.value).splitlines()) == 1


def reads(store: MemoryStore, encoder: Any) -> Iterator[Any]:
    """Every read of a store, each as a call."""
    for user in ("ann", "bob", "cleo"):
        yield lambda user=user: store.interactions(user)
        yield lambda user=user: [i for i in [store.interaction(user, "3")] if i]
        yield lambda user=user: [store.profile(user)]
        yield lambda user=user: store.personas(user)
        yield lambda user=user: [i.interaction for i in store.episodic(user).recall("x", 50)]
        yield lambda user=user: (store.count(user), store.revision(user), store.users(), [])[-1]


@pytest.mark.parametrize("kind", ["bit", "bytes", "page", "cut"])
def test_whatever_is_damaged_nothing_is_said_that_was_not_recorded(file: Path, encoder: Any, kind: str) -> None:
    """Of many damaged files: every read gives what was recorded, or a part of it, or is one `StoreError`."""
    _, recorded = filled(file, encoder)
    whole = file.read_bytes()
    refused = 0
    for seed in range(25):
        rng = random.Random(f"{kind} {seed}")
        raw, place = bytearray(whole), rng.randrange(100, len(whole))
        if kind == "bit":
            raw[place] ^= 1 << rng.randrange(8)
        elif kind == "bytes":
            raw[place : place + 40] = rng.randbytes(len(raw[place : place + 40]))
        elif kind == "page":
            start = rng.randrange(1, len(raw) // 4096) * 4096
            raw[start : start + 4096] = bytes(4096)
        else:
            del raw[place:]
        for beside in file.parent.glob("memory.db-*"):
            beside.unlink()
        file.write_bytes(raw)
        try:
            store = MemoryStore(url_of(file), encoder)
        except StoreError:
            refused += 1
            continue
        with closing(store):
            for read in reads(store, encoder):
                try:
                    found = [thing for thing in read() if thing is not None]
                except StoreError as error:
                    assert str(file) in str(error)
                    refused += 1
                else:
                    assert not [thing for thing in found if str(thing) not in recorded], (kind, seed)
    assert refused


def test_a_store_that_was_restored_from_a_backup_opens_again(file: Path, encoder: Any) -> None:
    content, _ = filled(file, encoder)
    backup = file.with_suffix(".backup")
    shutil.copy(file, backup)
    file.write_bytes(file.read_bytes()[:5000])
    with pytest.raises(StoreError), closing(MemoryStore(url_of(file), encoder)) as store:
        content_of(store)
    shutil.copy(backup, file)
    with closing(MemoryStore(url_of(file), encoder)) as store:
        assert content_of(store) == content
        store.add([event("after")])


# -- locks ---------------------------------------------------------------------------------------------

_HOLDER = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN EXCLUSIVE")
print("held", flush=True)
sys.stdin.readline()
"""


@pytest.fixture
def held(file: Path) -> Iterator[Any]:
    """Locks the file in another process; gives what to call to let go."""
    holders: list[subprocess.Popen[str]] = []

    def hold() -> subprocess.Popen[str]:
        command = [sys.executable, "-c", _HOLDER, str(file)]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        holders.append(holder)
        assert holder.stdout is not None and holder.stdout.readline() == "held\n"
        return holder

    yield hold
    for holder in holders:
        holder.communicate()


def test_a_lock_of_another_process_is_one_error_after_the_timeout(file: Path, encoder: Any, held: Any) -> None:
    with closing(MemoryStore(url_of(file), encoder, lock_timeout_seconds=0.3)) as store:
        store.add([event("1")])
        holder = held()
        assert store.count("ann") == 1  # who reads does not wait for who writes
        started = time.monotonic()
        with pytest.raises(
            StoreError, match=r"another process has kept the file locked for 0\.3 s.*try again"
        ) as refused:
            store.add([event("2")])
        assert 0.2 < time.monotonic() - started < 3
        assert str(file) in str(refused.value) and "nothing could be recorded" in str(refused.value)
        with closing(MemoryStore(url_of(file), encoder, lock_timeout_seconds=0.1)) as another:
            assert another.count("ann") == 1
        holder.communicate()
        store.add([event("2")])
        assert store.count("ann") == 2


def test_a_lock_on_a_file_that_is_not_yet_a_store_is_one_error(file: Path, held: Any) -> None:
    holder = held()
    with pytest.raises(
        StoreError, match=r"nothing could be opened: another process has kept the file locked for 0\.2 s"
    ):
        MemoryStore(url_of(file), lock_timeout_seconds=0.2)
    holder.communicate()
    with closing(MemoryStore(url_of(file), lock_timeout_seconds=0.2)) as store:
        store.add([event("1")])


@pytest.mark.parametrize("seconds", [-1, -0.001, float("inf"), float("nan")])
def test_a_timeout_that_is_none_is_refused(seconds: float) -> None:
    with pytest.raises(InputError, match="lock_timeout_seconds must be a number from 0"):
        MemoryStore(lock_timeout_seconds=seconds)


def test_a_read_only_file_is_one_error_that_says_so(file: Path, encoder: Any) -> None:
    MemoryStore(url_of(file)).close()
    with pytest.raises(StoreError, match=r"nothing could be recorded: the file or its folder is read-only.*writable"):
        with closing(MemoryStore(f"sqlite:///file:{file}?mode=ro&uri=true", encoder)) as store:
            store.add([event("1")])


def test_the_dump_is_what_version_1_wrote() -> None:
    """Nobody has edited the dump: its personas' digests are those of their texts."""
    rows = re.findall(
        r"INSERT INTO \"personas\" VALUES\(\d,'ann','(\w+)',\d,(?:NULL|'(\w+)'),'(\w+)','(.*)'\)", VERSION_1.read_text()
    )
    root = Persona("zero")
    assert [row[0] for row in rows] == [root.digest, root.rewritten("one", ["1", "2"]).digest]
    assert json.loads(rows[1][3]) == ["1", "2"]
