"""Disks that fill, refuse or are locked while a study runs: one message, and later the same command does the rest.

A full disk is a small tmpfs in a mount namespace of its own, where that is allowed; everywhere it is a limit on the
size of files, which the system enforces in the same places.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import sqlite3
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from faults import studies

SETTINGS = ["--users", "2", "--queries-per-user", "1", "--workers", "1", "--trace-samples", "1"]
AXES = ["--batch-sizes", "0,2", "--iterations", "1", "--memories", "2"]
WHOLE = [*SETTINGS, *AXES, "--out", "out"]
SEARCH = [*SETTINGS, *AXES, "--search", "2", "--out", "out"]
VERSION_1 = Path(__file__).parents[1] / "programs" / "memory" / "store_version_1.sql"

_BAR = re.compile(r"^(histories|learning|alignment \d+|answers) +[━╸╺ ]*\d+/\d+ ")
_FEW_USERS = "note: fewer than 10 users"


def told(run: dict[str, Any]) -> list[str]:
    """What a run says besides its bars and its table: errors, notes, and whatever else is on standard error."""
    lines = [line for line in run["stderr"].splitlines() if line.strip() and not _BAR.match(line)]
    notes = [line for line in run["stdout"].splitlines() if line.startswith("note: ")]
    return [line for line in lines + notes if not line.startswith(_FEW_USERS)]


class Place:
    """Folders for one test: `small`, on a disk of its own if that can be had, and `roomy`, with MLflow's database.

    Args:
        warm: runs studies.
        folder: where both are made.
        database: MLflow's, empty.
    """

    def __init__(self, warm: studies.Warm, folder: Path, database: Path) -> None:
        self.warm = warm
        self.small, self.roomy = folder / "small", folder / "roomy"
        self.small.mkdir()
        self.roomy.mkdir()
        shutil.copy(database, self.roomy / "mlflow.db")
        self.tracking = self.roomy / "mlflow.db"
        self.mounted = False

    def mount(self, size: str) -> None:
        self.warm.command("mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", self.small)
        self.mounted = True

    def unmount(self, keep: bool) -> None:
        """Take the disk away; what is on it comes to the same place on the disk below."""
        if not self.mounted:
            return
        if keep:
            self.warm.command("cp", "-a", f"{self.small}/.", self.roomy / "kept")
        self.warm.command("umount", self.small)
        self.mounted = False
        if keep:
            shutil.copytree(self.roomy / "kept", self.small, dirs_exist_ok=True)

    def remount(self, how: str) -> None:
        self.warm.command("mount", "-o", f"remount,{how}", self.small)

    def track_on_small(self) -> None:
        self.warm.command("cp", self.tracking, self.small / "mlflow.db")
        self.tracking = self.small / "mlflow.db"

    def run(self, argv: list[str] = WHOLE, cwd: Path | None = None, **how: Any) -> dict[str, Any]:
        return self.warm.run([*argv, "--tracking", f"sqlite:///{self.tracking}"], cwd or self.small, **how)

    @property
    def out(self) -> Path:
        return self.warm.seen(self.small / "out")

    def left(self) -> tuple[Any, Any]:
        self.unmount(keep=True)
        return studies.left_by(self.out), studies.tracked_in(self.tracking)


@pytest.fixture
def place(warm: studies.Warm, tmp_path: Path, empty_database: Path) -> Iterator[Place]:
    made = Place(warm, tmp_path, empty_database)
    yield made
    made.unmount(keep=False)


@pytest.fixture(scope="module")
def undisturbed(warm: studies.Warm, tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Any, Any]:
    whole = Place(warm, tmp_path_factory.mktemp("undisturbed"), empty_database)
    run = whole.run()
    assert run["code"] == 0 and told(run) == [], run
    return whole.left()


@pytest.fixture
def small_disk(place: Place) -> Place:
    if studies.namespace() is None:
        pytest.skip("no mount namespace is allowed here; the limit on the size of files is tested instead")
    place.mount("48m")
    return place


def goes_on(place: Place, undisturbed: tuple[Any, Any]) -> None:
    """The same command again does the rest, and leaves what a run leaves to which nothing happened."""
    run = place.run()
    assert run["code"] == 0 and told(run) == [], run
    assert place.left() == undisturbed


def complete(place: Place, undisturbed: tuple[Any, Any]) -> None:
    """The study's files are there as a whole, whatever became of MLflow's."""
    left = studies.left_by(place.out)
    assert {**left, "names": None} == {**undisturbed[0], "names": None}


def one_message(run: dict[str, Any], code: int, *said: str) -> None:
    assert run["code"] == code, run
    assert "Traceback" not in run["stderr"] + run["stdout"], run
    [message] = told(run)
    assert message.startswith("error: " if code == 2 else "note: "), message
    assert all(part in message for part in said), message


# -- a disk that fills -----------------------------------------------------------------------------------

NO_ROOM = "No space left on device. Make room and run the same command again; what was done before is kept."
FULL: dict[str, tuple[list[Any], str, str]] = {
    "memory": (["open", "journal.jsonl", 1], "out/memory/lamp-2m.db", "the disk is full. Make room"),
    "journal": (["journal", 4], "out/journal.jsonl", NO_ROOM),
    "study": (["open", "study.json.tmp", 3], "out/study.json", NO_ROOM),
    "results": (["open", "results.csv.tmp", 1], "out/results.csv", NO_ROOM),
    "predictions": (["open", "predictions.jsonl.tmp", 1], "out/predictions.jsonl", NO_ROOM),
    "figure": (["open", "scaling.png.tmp", 1], "out/scaling.png", NO_ROOM),
}


def test_a_disk_that_fills_is_one_message_each_time(small_disk: Place, undisturbed: Any) -> None:
    """Again and again in one study, each time a little later; half a line or half a file never stays."""
    place = small_disk
    for when, *said in FULL.values():
        one_message(place.run(when=when, fault=["fill", str(place.small)]), 2, *said)
        assert not list(place.out.rglob("*.tmp")), when
        assert (place.out / "journal.jsonl").read_bytes()[-1:] in (b"", b"\n"), when
        place.warm.command("rm", place.small / "ballast")
    goes_on(place, undisturbed)


def test_a_disk_that_fills_under_mlflow_is_one_message_each_time(small_disk: Place, undisturbed: Any) -> None:
    place = small_disk
    place.track_on_small()
    fill = ["fill", str(place.small)]
    one_message(place.run(when=["journal", 6], fault=fill), 2, "out/journal.jsonl", NO_ROOM)
    for moment in ("mlflow", "trace"):
        place.warm.command("rm", place.small / "ballast")
        run = place.run(when=[moment], fault=fill)
        one_message(run, 1, "MLflow", "The results are complete; the same command logs them again")
        complete(place, undisturbed)
    place.warm.command("rm", place.small / "ballast")
    goes_on(place, undisturbed)


def test_a_disk_without_room_for_mlflow_is_one_message_and_no_half_database(place: Place) -> None:
    if studies.namespace() is None:
        pytest.skip("no mount namespace is allowed here")
    place.mount("600k")
    place.tracking = place.small / "mlflow.db"
    one_message(place.run(), 2, "--tracking sqlite:///", "mlflow.db cannot be opened: the disk is full: make room")
    assert not [p for p in place.warm.seen(place.small).iterdir() if not p.name.endswith(".lock")]
    place.remount("size=48m")
    run = place.run()
    assert run["code"] == 0 and told(run) == [], run


def test_a_disk_that_is_too_small_again_and_again(small_disk: Place, undisturbed: Any) -> None:
    place = small_disk
    codes = []
    for size in (12, 160, 220, 260, 300):
        place.remount(f"size={size}k")
        run = place.run()
        codes.append(run["code"])
        if run["code"]:
            one_message(run, 2, "out/")
            assert "ake room" in run["stderr"] or "may be full" in run["stderr"], run
    assert codes[0] == 2 and codes.count(2) > 3, codes
    place.remount("size=48m")
    goes_on(place, undisturbed)


LIMITED: dict[str, tuple[list[Any], list[Any], str]] = {
    "memory": (["open", "journal.jsonl", 1], ["limit", "out/memory/lamp-2m.db", 8_192], "out/memory/lamp-2m.db"),
    "journal": (["journal", 5], ["limit", "out/journal.jsonl", 50], "out/journal.jsonl"),
    "users": (["open", "users.csv.tmp", 1], ["limit", "nothing", 100], "out/users.csv"),
}


def test_a_file_that_may_not_grow_is_one_message_each_time(place: Place, undisturbed: Any) -> None:
    for moment, (when, fault, said) in LIMITED.items():
        one_message(place.run(when=when, fault=fault), 2, said, "ry again" if moment == "memory" else "Make room")
        if moment == "journal":  # 50 bytes of its line were written, and taken back
            lines = (place.out / "journal.jsonl").read_bytes().splitlines(keepends=True)
            assert len(lines) == 4 and all(json.loads(line) and line.endswith(b"\n") for line in lines)
    goes_on(place, undisturbed)


def test_an_output_that_cannot_be_printed_is_one_message(place: Place, undisturbed: Any) -> None:
    run = place.run(stdout="/dev/full")
    one_message(run, 2, "the output: No space left on device")
    goes_on(place, undisturbed)


# -- a folder that cannot be written ---------------------------------------------------------------------


def test_a_read_only_folder_is_one_message(small_disk: Place, undisturbed: Any) -> None:
    """Before the study's first run, and when it is half done."""
    place = small_disk
    for done in (0, 4):
        if done:
            place.run(when=["journal", 5], fault=["limit", "out/journal.jsonl", 0])
            assert len(studies.journalled(place.out)) == done
        before = {path: path.read_bytes() for path in place.out.rglob("*") if path.is_file()}
        place.remount("ro")
        said = "--out out: cannot be written: Read-only file system. Make it writable, or give another --out"
        one_message(place.run(), 2, said)
        assert before == {path: path.read_bytes() for path in place.out.rglob("*") if path.is_file()}
        place.remount("rw")
    goes_on(place, undisturbed)


def test_a_read_only_database_of_mlflow_is_one_message(small_disk: Place) -> None:
    place = small_disk
    place.track_on_small()
    place.remount("ro")
    one_message(place.run(cwd=place.roomy), 2, "mlflow.db cannot be opened", "read-only")
    assert not (place.roomy / "out").exists()


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is forbidden to root; read-only disks are tested instead")
def test_a_folder_without_permission_is_one_message(place: Place, undisturbed: Any) -> None:
    (place.small / "out").mkdir(mode=0o500)
    one_message(place.run(), 2, "--out out: cannot be written: Permission denied. Make it writable, or give another")
    (place.small / "out").chmod(0o700)
    goes_on(place, undisturbed)


def test_something_else_in_the_place_of_a_file_is_one_message(place: Place, undisturbed: Any) -> None:
    """Holds for any user on any system: a file where a folder belongs, or the other way round."""
    out = place.small / "out"
    out.mkdir()
    (out / "memory").touch()
    one_message(place.run(), 2, "--out out: cannot be written: File exists")
    (out / "memory").unlink()
    for name in ("journal.jsonl", "results.csv"):
        (out / name / "something").mkdir(parents=True)
        one_message(place.run(), 2, f"out/{name}", "Is a directory")
        shutil.rmtree(out / name)
    goes_on(place, undisturbed)


# -- a database that is locked or damaged ----------------------------------------------------------------


def test_a_locked_memory_is_one_message(place: Place, undisturbed: Any) -> None:
    lock = ["lock", "out/memory/lamp-2m.db"]
    said = ["memory/lamp-2m.db", "another process has kept the file locked for 0.3 s", "then try again"]
    for what in ("nothing could be opened", "nothing could be recorded"):
        run = place.run(when=["open", "journal.jsonl", 1], fault=lock, lock_seconds=0.3)
        one_message(run, 2, what, *said)
        goes_on(place, undisturbed)
        (place.small / "out" / "journal.jsonl").unlink()  # what is done needs no memory


def test_a_locked_database_of_mlflow_is_one_message(place: Place, undisturbed: Any) -> None:
    """At the start nothing is done; later the results are there, and are logged by the next run."""
    with closing(sqlite3.connect(place.tracking, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        run = place.run(lock_seconds=0.3)
    one_message(run, 2, "mlflow.db cannot be opened: database is locked by another program: wait for it or end it")
    assert not (place.small / "out").exists()
    run = place.run(when=["mlflow"], fault=["lock", str(place.tracking)], lock_seconds=0.3)
    one_message(run, 1, "MLflow", "database is locked by another program", "the same command logs them again")
    complete(place, undisturbed)
    goes_on(place, undisturbed)


def test_a_search_that_is_locked_is_one_message(place: Place, tmp_path: Path) -> None:
    run = place.run(SEARCH, when=["journal", 2], fault=["lock", "out/search.db"], lock_seconds=0.3)
    one_message(run, 2, "out/search.db: the search cannot go on: database is locked by another program")
    run = place.run(SEARCH)
    assert run["code"] == 0 and told(run) == [], run
    assert len((place.out / "results.csv").read_text().splitlines()) == 1 + 2


def test_a_damaged_memory_is_one_message_and_can_be_deleted(place: Place, undisturbed: Any) -> None:
    assert place.run()["code"] == 0
    memory = place.small / "out" / "memory" / "lamp-2m.db"
    memory.write_bytes(memory.read_bytes()[:8_192] + b"\xff" * 100_000)
    one_message(place.run(), 2, "the file is damaged", f"Or delete {memory.relative_to(place.small)}: a study makes")
    memory.unlink()
    goes_on(place, undisturbed)
    assert studies.record(place.out)["runs"][-1]["lm_calls"] == 0


# -- the store alone -------------------------------------------------------------------------------------

_STORE = """
import json, sqlite3, sys
from contextlib import closing
from pathlib import Path
from personaagent.programs.errors import StoreError
from personaagent.programs.interaction import Interaction
from personaagent.programs.memory.store import MemoryStore

folder, said = Path(sys.argv[1]), []
file = folder / "memory.db"

def on_a_full_disk(call):
    with open(folder / "ballast", "wb", buffering=0) as ballast:
        try:
            while True:
                ballast.write(b"x" * 512)
        except OSError:
            pass
    try:
        call()
        said.append("nothing")
    except StoreError as error:
        said.append(str(error))
    (folder / "ballast").unlink()

def version():
    with closing(sqlite3.connect(file)) as connection:
        return connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()[0]

with closing(sqlite3.connect(file)) as connection:
    connection.executescript(Path(sys.argv[2]).read_text())
    rows = [(f"eve{n}", "x" * 1000) for n in range(500)]
    connection.executemany("INSERT INTO profiles (user_id, text) VALUES (?, ?)", rows)
    connection.commit()
on_a_full_disk(lambda: MemoryStore(f"sqlite:///{file}"))
versions = [version()]
store = MemoryStore(f"sqlite:///{file}")
versions.append(version())
batch = [Interaction("dora", str(n), "q" * 1000, "r") for n in range(500)]
on_a_full_disk(lambda: store.add(batch))
counts = [store.count("dora"), store.count("ann")]
counts.append(len(store.add(batch)))
print(json.dumps([said, versions, counts, store.profile("eve499") == "x" * 1000]))
"""


def test_a_store_on_a_full_disk_keeps_what_it_has_and_goes_on(small_disk: Place) -> None:
    """Of a migration and of a record: nothing of it is done, and with room again all of it."""
    printed = small_disk.warm.command(sys.executable, "-c", _STORE, small_disk.small, VERSION_1)
    said, versions, counts, whole = json.loads(printed)
    assert [re.sub("^.*nothing could be (opened|recorded): ", r"\1: ", text) for text in said] == [
        f"{verb}: the disk is full. Make room and try again; what was recorded before is kept."
        for verb in ("opened", "recorded")
    ]
    assert (versions, counts, whole) == (["1", "2"], [0, 3, 500], True)
