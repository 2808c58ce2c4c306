"""Small studies in one process: users of our own in OPPU's layout, a counted LM, no tracking server."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import dspy
import mlflow
import pytest
from lamp_files import write_synthetic
from rich.console import Console

from personaagent.datasets.lamp.tasks import LAMP_2M, TASKS
from personaagent.experiments.harness import command, study, tracking
from personaagent.experiments.harness.cells import Axes
from personaagent.experiments.harness.progress import Progress
from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.report import write_files
from personaagent.experiments.harness.results import Row, row
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.tracking import Tracker
from personaagent.programs.lm.endpoint import NUM_RETRIES
from personaagent.programs.lm.engines import AsyncMeteredEngine, MeteredEngine
from personaagent.programs.lm.make import OFFLINE, make_lm

LABELS = LAMP_2M.labels


def write_users(folder: Path, users: Mapping[str, tuple[int, int]]) -> Path:
    """OPPU's two files for {user_id: (interactions, queries)}; every text names its user, every date ties."""
    folder.mkdir(parents=True, exist_ok=True)
    entries: list[dict[str, Any]] = []
    golds: list[dict[str, str]] = []
    for user, (interactions, queries) in users.items():
        history = [
            {"id": f"{user}-{i}", "description": f"{user}'s film {i}", "tag": LABELS[i % 4], "date": "2010-01-01"}
            for i in range(interactions)
        ]
        asked = [
            {"id": f"{user}-q{i}", "input": LAMP_2M.question.format(description=f"{user}'s new film {i}")}
            for i in range(queries)
        ]
        golds += [{"id": q["id"], "output": LABELS[i % 4]} for i, q in enumerate(asked)]
        entries.append({"user_id": user, "profile": history, "query": asked})
    (folder / "user_top_100_history.json").write_text(json.dumps(entries))
    (folder / "user_top_100_history_label.json").write_text(json.dumps({"task": "LaMP_2", "golds": golds}))
    return folder


def tagging_script(call: Any) -> dict[str, str]:
    """Recalls once if it can; tags by a hash of what it reads, so that persona and memory change the answer."""
    digest = hashlib.sha256(f"{call.system}{call.user}".encode()).hexdigest()
    if call.role == "step":
        tool = "recall" if call.steps_taken == 0 and "(1) recall" in call.system else "finish"
        found = re.search(r"description: (.*)", call.user)
        arguments = {"query": found.group(1) if found else "film"} if tool == "recall" else {}
        return {"next_thought": "t", "next_tool_name": tool, "next_tool_args": json.dumps(arguments)}
    texts = {
        "answer": LABELS[int(digest, 16) % 4],
        "feedback": f"Feedback {digest[:6]}.",
        "new_persona": f"Persona {digest[:6]}.",
        "profile": f"Profile {digest[:6]}.",
    }
    return {name: texts.get(name, "r") for name in call.outputs}


class NoTracking:
    """A tracker that keeps nothing."""

    how_to_open = "nowhere"

    def __init__(self, uri: str, experiment: str) -> None:
        self.statuses: list[str] = []

    def start(self, study: Any) -> None: ...

    def log_or_note(self, study: Any, rows: Any) -> bool:
        return True

    def end(self, status: str) -> list[str]:
        self.statuses.append(status)
        return []


@pytest.fixture
def users_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes {user_id: (interactions, queries)} as a data folder."""

    def write(users: Mapping[str, tuple[int, int]] | None = None, name: str = "data") -> Path:
        return write_users(tmp_path / name, users or {"ann": (6, 2), "bob": (5, 2), "cleo": (4, 2)})

    return write


@pytest.fixture
def synthetic(tmp_path: Path) -> Callable[..., Path]:
    """Writes synthetic users of a task, by name, as a root folder of a layout: oppu, time or user."""

    def write(name: str, layout: str = "oppu") -> Path:
        return write_synthetic(tmp_path / f"synthetic-{name}-{layout}", TASKS[name], layout)

    return write


@pytest.fixture
def options(tmp_path: Path, users_folder: Callable[..., Path]) -> Callable[..., StudyOptions]:
    """Options of a small study; `axes` as (n, E, K)."""
    data = users_folder()
    standard = StudyOptions(
        script="scale",
        tasks=("lamp-2m",),
        axes=Axes((0, 2), (1,), (0, 3)),
        seeds=(0,),
        data=data,
        users=3,
        queries_per_user=2,
        profile=True,
        wikipedia="off",
        control="none",
        prompts=Prompts(),
        data_seed=0,
        lm="scripted/one",
        api_base=None,
        align_lm=None,
        align_api_base=None,
        temperature=0.1,
        timeout_seconds=60.0,
        workers=1,
        max_calls=None,
        out=tmp_path / "out",
        tracking=f"sqlite:///{tmp_path / 'mlflow.db'}",
        trace_samples=1,
        grid=True,
    )

    def make(axes: tuple[tuple[int, ...], ...] | None = None, **changes: Any) -> StudyOptions:
        if axes is not None:
            changes["axes"] = Axes(*axes)
        return replace(standard, **changes)

    return make


@pytest.fixture
def engine(monkeypatch: pytest.MonkeyPatch, scripted: Any, encoder: Any) -> Any:
    """The engine behind every LM of a study, whatever its name; `offline` is the reader with a tiny encoder."""
    _, made = scripted(tagging_script)
    encoder.cache_size = 0

    def fake(model: str, *, meter: Any, **settings: Any) -> dspy.LM:
        if model == OFFLINE:
            return make_lm(model, meter=meter, encoder=encoder, **settings)
        engines = {"engine": MeteredEngine(made, meter), "async_engine": AsyncMeteredEngine(made, meter)}
        return dspy.LM(model, **engines, cache=False, num_retries=NUM_RETRIES)

    monkeypatch.setattr(study, "make_lm", fake)
    monkeypatch.setattr(study, "load_encoder", lambda name: encoder)
    monkeypatch.setattr("dspy.clients.execution._delay", lambda error, attempt: 0)
    return made


@pytest.fixture
def opened(engine: Any) -> Callable[[StudyOptions], study.Study]:
    """A study, all of whose cells were run, left open for a look; its files are written."""
    made: list[study.Study] = []

    def run(options: StudyOptions) -> study.Study:
        while made:
            made.pop().__exit__()
        one = study.Study(options).__enter__()
        made.append(one)
        one.run(one.cells_asked(), Progress(Console(file=io.StringIO())))
        write_files(one, rows_of(one))
        return one

    yield run
    while made:
        made.pop().__exit__()


def rows_of(one: study.Study) -> list[Row]:
    return [row(one, cell) for cell in one.all_cells()]


@pytest.fixture
def rows() -> Callable[[study.Study], list[Row]]:
    """The rows of all cells of an open study."""
    return rows_of


@pytest.fixture
def run_study(engine: Any, monkeypatch: pytest.MonkeyPatch) -> Callable[[StudyOptions], int]:
    """A whole run without MLflow and the figure; its exit code."""
    monkeypatch.setattr(tracking, "Tracker", NoTracking)
    for name in ("scaling", "comparison", "histories"):
        monkeypatch.setattr(f"personaagent.experiments.harness.figures.{name}.draw_{name}", lambda *_: None)
    return command.run_study


@pytest.fixture(scope="session")
def empty_database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """MLflow's schema takes a second or two to make: once for all tests."""
    path = tmp_path_factory.mktemp("mlflow") / "empty.db"
    Tracker(f"sqlite:///{path}", "unused")
    return path


@pytest.fixture
def database(empty_database: Path, tmp_path: Path) -> Iterator[Path]:
    before = mlflow.get_tracking_uri()
    path = tmp_path / "mlflow.db"
    shutil.copy(empty_database, path)
    yield path
    mlflow.set_tracking_uri(before)


@pytest.fixture
def read_jsonl() -> Callable[[Path], list[dict[str, Any]]]:
    return lambda path: [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="session")
def process() -> Iterator[Callable[..., dict[str, Any]]]:
    """Runs the script as a process of its own, and kills it where it is told to; see forked_runs.py."""
    driver = subprocess.Popen(
        [sys.executable, str(Path(__file__).with_name("forked_runs.py"))],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert driver.stdin is not None and driver.stdout is not None

    def run(argv: list[str], cwd: Path, kill: list[Any] | None = None) -> dict[str, Any]:
        print(json.dumps({"argv": argv, "cwd": str(cwd), "kill": kill}), file=driver.stdin, flush=True)
        return dict(json.loads(driver.stdout.readline()))

    yield run
    driver.stdin.close()
    driver.wait()
    driver.stdout.close()


@pytest.fixture
def asked(engine: Any, run_study: Callable[[StudyOptions], int]) -> Callable[..., tuple[int, int]]:
    """Runs a study: (exit code, calls that the engine saw)."""

    def run(options: StudyOptions) -> tuple[int, int]:
        before = len(engine.calls)
        return run_study(options), len(engine.calls) - before

    return run
