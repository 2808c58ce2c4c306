"""MLflow: the same keys on all runs, none left RUNNING, found again, and URIs that cannot be opened."""

from __future__ import annotations

import socket
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import mlflow
import pytest
from dspy import lm15
from mlflow import MlflowClient
from mlflow.entities.span import LiveSpan
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore

from personaagent.experiments.harness import command, tracking_file
from personaagent.experiments.harness.results import KEY_COLUMNS
from personaagent.experiments.harness.secrets import masked
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.tracking import Tracker
from personaagent.programs.errors import InputError


@pytest.fixture
def run(engine: Any, database: Path, options: Callable[..., StudyOptions]) -> Callable[..., list[Any]]:
    """Runs a study and gives all of its MLflow runs, the parent first."""

    def whole(**changes: Any) -> list[Any]:
        command.run_study(options(**{"axes": ((0, 2), (1,), (3,)), **changes}))
        return runs(database)

    return whole


def runs(database: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("scale")
    assert experiment is not None
    found = client.search_runs([experiment.experiment_id], max_results=1000)
    return sorted(found, key=lambda run: ("mlflow.parentRunId" in run.data.tags, run.info.run_name))


def traces(database: Path) -> list[Any]:
    client = MlflowClient(f"sqlite:///{database}")
    experiment = client.get_experiment_by_name("scale")
    assert experiment is not None
    return list(client.search_traces(locations=[experiment.experiment_id], max_results=100))


def artifacts(database: Path, run_id: str) -> set[str]:
    return {file.path for file in MlflowClient(f"sqlite:///{database}").list_artifacts(run_id)}


def test_a_parent_with_a_run_a_cell_the_same_keys_on_all_and_none_running(run: Any, database: Path) -> None:
    found = run()
    parent, *cells = found
    assert [r.info.run_name for r in found] == ["out", "n=0 E=0 K=3", "n=2 E=1 K=3"]
    assert all(r.data.tags["mlflow.parentRunId"] == parent.info.run_id for r in cells)
    assert [set(r.data.params) for r in found] == [set(KEY_COLUMNS)] * 3
    assert len({frozenset(r.data.metrics) for r in found}) == 1
    assert {"score", "score_oriented", "score_low", "accuracy", "f1", "seconds"} <= set(parent.data.metrics)
    assert {r.info.status for r in found} == {"FINISHED"}
    assert [r.data.params["batch_size"] for r in cells] == ["0", "2"]
    assert cells[1].data.metrics["score_oriented"] == cells[1].data.metrics["score"]
    files = {"results.csv", "users.csv", "predictions.jsonl", "personas.jsonl", "scaling.png", "study.json"}
    files |= {"report.md", "pairs.csv"}
    assert artifacts(database, parent.info.run_id) == files
    assert all(artifacts(database, r.info.run_id) == {"personas.html"} for r in cells)


def test_samples_of_each_cell_are_traces_of_its_run(run: Any, database: Path) -> None:
    _, *cells = run(trace_samples=2)
    found = traces(database)
    sources = [trace.info.request_metadata["mlflow.sourceRun"] for trace in found]
    assert sorted(sources) == sorted([r.info.run_id for r in cells] * 2)
    for trace in found:
        names = [span.name for span in trace.data.spans]
        assert names[0].startswith("ann ann-q") and names[1:] == ["recall", "finish"]


def test_the_same_command_again_opens_the_same_runs_and_adds_none(run: Any, database: Path) -> None:
    before = run()
    again = run()
    assert [r.info.run_id for r in again] == [r.info.run_id for r in before]
    assert [(r.data.params, r.data.metrics) for r in again] == [(r.data.params, r.data.metrics) for r in before]
    assert len(traces(database)) == 2


def test_a_longer_axis_adds_its_cells_under_the_same_parent(run: Any) -> None:
    before = run(axes=((2,), (1,), (3,)))
    # The centre is the paper's value once that is listed, while an MLflow param cannot change.
    after = run(axes=((2, 3), (1,), (3, 0)))
    assert len(before) == 2 and len(after) == 5
    assert {r.info.run_id for r in before} < {r.info.run_id for r in after}
    assert after[0].data.params == before[0].data.params
    assert after[0].data.metrics == before[0].data.metrics
    assert {r.info.status for r in after} == {"FINISHED"}


def test_the_parent_shows_the_centre_of_its_first_run_even_where_that_is_no_alignment(run: Any) -> None:
    parent, *_ = run(axes=((0, 2), (1, 2), (0, 4)))
    assert [parent.data.params[k] for k in ("batch_size", "iterations", "memories")] == ["0", "0", "4"]


def test_a_run_that_waits_has_all_keys_and_is_finished_with_its_traces_by_the_next(run: Any, database: Path) -> None:
    waiting = run(lm="offline", max_calls=48)
    assert [r.info.status for r in waiting] == ["FAILED", "FINISHED", "KILLED"]
    assert len({frozenset(r.data.metrics) for r in waiting}) == 1
    assert len(traces(database)) == 1
    done = run(lm="offline")
    assert [r.info.run_id for r in done] == [r.info.run_id for r in waiting]
    assert {r.info.status for r in done} == {"FINISHED"}
    assert len({frozenset(r.data.metrics) for r in done}) == 1
    assert all(value == value for r in done for value in r.data.metrics.values())
    assert len(traces(database)) == 2


def test_a_cell_that_failed_has_all_keys(run: Any, engine: Any) -> None:
    usual = engine.script

    def failing(call: Any) -> Any:
        if call.role == "update":
            raise lm15.InvalidRequestError("no")
        return usual(call)

    engine.script = failing
    found = run()
    assert len({frozenset(r.data.metrics) for r in found}) == 1
    assert found[2].data.metrics["failed"] == 6 and found[2].data.metrics["score"] != found[2].data.metrics["score"]
    assert found[0].info.status == "FAILED" and "RUNNING" not in {r.info.status for r in found}


def test_an_interrupted_run_is_killed_and_the_next_one_ends_it(
    run: Any, engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    usual = engine.script

    def interrupted(call: Any) -> Any:
        if len(engine.calls) > 20:
            raise KeyboardInterrupt
        return usual(call)

    engine.script = interrupted
    stopped = run()
    assert stopped[0].info.status == "KILLED" and "RUNNING" not in {r.info.status for r in stopped}
    engine.script = usual
    assert {r.info.status for r in run()} == {"FINISHED"}


def test_an_error_in_the_middle_leaves_nothing_running(run: Any, engine: Any, database: Path) -> None:
    def refused(call: Any) -> Any:
        raise lm15.AuthError("who are you?")

    engine.script = refused
    with pytest.raises(InputError, match=r"the LM cannot be used: LMAuthError.*who are you"):
        run()
    assert [r.info.status for r in runs(database)] == ["FAILED"]


def test_two_studies_in_one_database_stay_apart(run: Any, database: Path, tmp_path: Path) -> None:
    first = run()
    both = run(out=tmp_path / "other")
    assert len(both) == 2 * len(first)
    assert {r.info.run_id for r in first} < {r.info.run_id for r in both}


def test_runs_that_were_deleted_in_the_ui_are_made_anew(run: Any, database: Path) -> None:
    first = run()
    client = MlflowClient(f"sqlite:///{database}")
    for one in first:
        client.delete_run(one.info.run_id)
    again = run()
    assert len(again) == 3 and not {r.info.run_id for r in first} & {r.info.run_id for r in again}


def test_an_experiment_that_was_deleted_is_one_error(run: Any, database: Path) -> None:
    run()
    client = MlflowClient(f"sqlite:///{database}")
    client.delete_experiment(client.get_experiment_by_name("scale").experiment_id)  # type: ignore[union-attr]
    with pytest.raises(InputError, match="was deleted in MLflow"):
        run()


def test_after_a_failed_log_no_run_is_left_running_and_the_next_time_it_succeeds(
    run: Any, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(MlflowClient, "log_artifact", full)
        stopped = run()
    assert {r.info.status for r in stopped} == {"FAILED"}
    done = run()
    assert {r.info.run_id for r in stopped} <= {r.info.run_id for r in done}
    assert {r.info.status for r in done} == {"FINISHED"}


class Killed(BaseException):
    """Goes up as a kill does: past every handler of an error."""


@pytest.mark.parametrize(
    ("owner", "name", "call"),
    [(mlflow, "start_span_no_context", 2), (LiveSpan, "end", 2), (Tracker, "_set_traced", 2)],
    ids=["begun", "a span written", "all written"],
)
def test_a_trace_that_a_kill_cut_off_is_made_once(
    run: Any, database: Path, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str, call: int
) -> None:
    usual, calls = getattr(owner, name), []

    def killed(*arguments: Any, **named: Any) -> Any:
        calls.append(name)
        if len(calls) == call:
            raise Killed
        return usual(*arguments, **named)

    with monkeypatch.context() as broken:
        broken.setattr(owner, name, killed)
        with pytest.raises(Killed):
            run()
    assert {r.info.status for r in run()} == {"FINISHED"}
    found = traces(database)
    assert len({t.info.request_metadata["mlflow.sourceRun"] for t in found}) == len(found) == 2
    assert [len(t.data.spans) > 1 and t.info.state == "OK" for t in found] == [True, True]


def test_a_trace_that_could_not_be_written_is_a_failure_to_log_and_made_up_for(
    run: Any, database: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(*_: Any) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(SqlAlchemyStore, "start_trace", refused)
        assert {r.info.status for r in run()} == {"FAILED"}
    said = capsys.readouterr()
    assert "could not be written" in said.out and "the same command logs them again" in said.out
    assert "Failed" not in said.err
    assert {r.info.status for r in run()} == {"FINISHED"} and len(traces(database)) == 2


def test_a_file_that_another_program_keeps_locked_is_one_error_in_time(
    database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking_file, "LOCK_SECONDS", 0.2)
    with closing(sqlite3.connect(database, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        started = time.monotonic()
        with pytest.raises(InputError, match="database is locked by another program: wait for it or end it"):
            Tracker(f"sqlite:///{database}", "scale")
        assert time.monotonic() - started < 5
    Tracker(f"sqlite:///{database}", "scale")


OPEN = """
import os, sys
from personaagent.experiments.harness import command
from personaagent.experiments.harness.tracking import Tracker
import sqlalchemy
statements = 0
def die(*_, **__):
    global statements
    statements += 1
    if statements == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
sqlalchemy.event.listen(sqlalchemy.engine.Engine, "after_cursor_execute", die)
Tracker(sys.argv[1], "scale")
"""


def opening(uri: str, dies_after: int = 0) -> subprocess.Popen[str]:
    """A process that opens a tracking file, and is killed after so many SQL statements."""
    argv = [sys.executable, "-c", OPEN, uri, str(dies_after)]
    return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_new_file_survives_a_kill_while_its_schema_is_made_and_two_first_runs_at_once(tmp_path: Path) -> None:
    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    killed = opening(uri, dies_after=300)
    killed.communicate()
    assert killed.returncode == -9 and not (tmp_path / "mlflow.db").exists()
    for process in [opening(uri), opening(uri)]:
        _, said = process.communicate()
        assert process.returncode == 0, said
    assert MlflowClient(uri).get_experiment_by_name("scale") is not None
    assert [file.name for file in tmp_path.glob("mlflow.db.*") if file.suffix != ".lock"] == []


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


def not_a_database(tmp_path: Path) -> str:
    (tmp_path / "notes.db").write_text("a text, and no database" * 100)
    return f"sqlite:///{tmp_path / 'notes.db'}"


def of_another_version(tmp_path: Path) -> str:
    with sqlite3.connect(tmp_path / "other.db") as connection:
        connection.execute("CREATE TABLE alembic_version (version_num TEXT)")
        connection.execute("INSERT INTO alembic_version VALUES ('fffffffffff')")
    return f"sqlite:///{tmp_path / 'other.db'}"


URIS: dict[str, Callable[[Path], str]] = {
    "missing folder": lambda path: f"sqlite:///{path}/gone/mlflow.db",
    "a folder": lambda path: f"sqlite:///{path}",
    "no database": not_a_database,
    "another schema": of_another_version,
    "closed port": lambda path: f"http://127.0.0.1:{free_port()}",
    "closed port, https": lambda path: f"https://127.0.0.1:{free_port()}/x",
    "no host": lambda path: "http://",
    "unknown scheme": lambda path: "gopher://tracking",
    "file store": lambda path: f"file:{path}/mlruns",
    "bare path": lambda path: f"{path}/mlruns",
    "in memory": lambda path: "sqlite://",
    "in memory, by name": lambda path: "sqlite:///:memory:",
    "in memory, by mode": lambda path: "sqlite:///file:x?mode=memory&uri=true",
    "two slashes": lambda path: "sqlite://mlflow.db",
    "no driver": lambda path: "postgresql://nobody@127.0.0.1:1/none",
}


@pytest.mark.parametrize("kind", URIS)
def test_a_uri_that_cannot_be_opened_is_one_error(kind: str, tmp_path: Path) -> None:
    uri = URIS[kind](tmp_path)
    files = sorted(tmp_path.rglob("*"))
    before = mlflow.get_tracking_uri()
    try:
        with pytest.raises(InputError) as caught:
            Tracker(uri, "scale")
    finally:
        mlflow.set_tracking_uri(before)
    assert str(caught.value).startswith(f"--tracking {masked(uri)} cannot be opened: ")
    assert "Give sqlite:///FILE.db in a folder that exists" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert sorted(path for path in tmp_path.rglob("*") if path.suffix != ".lock") == files
