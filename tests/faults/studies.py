"""Small studies as real processes, and what they leave, as it can be compared."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import mlflow
from mlflow import MlflowClient

from personaagent.experiments.harness.tracking import Tracker


class Warm:
    """A process that runs the script in children; see warm_runs.py.

    Args:
        prefix: command before Python's, such as that of a mount namespace.
    """

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        program = str(Path(__file__).with_name("warm_runs.py"))
        self._process = subprocess.Popen(
            [*prefix, sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._answer()
        self.root = Path(f"/proc/{self._process.pid}/root")
        """Its files, with the disks that are mounted for it alone."""

    def run(self, argv: Sequence[str], cwd: Path, **how: Any) -> dict[str, Any]:
        """One run of the script, to its end or its kill."""
        return self._ask({"argv": list(argv), "cwd": str(cwd), **how})

    def command(self, *argv: object) -> str:
        """A program in the place of the runs; what it printed."""
        done = self._ask({"command": list(map(str, argv))})
        assert done["code"] == 0, done
        return str(done["stdout"])

    def close(self) -> None:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait()
        self._process.stdout.close()

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        assert self._process.stdin is not None
        print(json.dumps(request), file=self._process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        return dict(json.loads(self._process.stdout.readline()))

    def seen(self, path: Path) -> Path:
        """Where this process finds a file of the runs'."""
        return self.root / path.relative_to("/")


@cache
def namespace() -> tuple[str, ...] | None:
    """The command before a process that may mount disks which nobody else sees; None where that is not allowed."""
    with tempfile.TemporaryDirectory() as folder:
        for prefix in (("unshare", "--mount"), ("unshare", "--mount", "--map-root-user")):
            mount = [*prefix, "mount", "-t", "tmpfs", "tmpfs", folder]
            if shutil.which("unshare") and not subprocess.run(mount, capture_output=True, check=False).returncode:
                return prefix
    return None


def make_database(path: Path) -> None:
    """MLflow's schema, which takes it a second or two: once for all studies of a test."""
    before = mlflow.get_tracking_uri()
    try:
        Tracker(f"sqlite:///{path}", "unused")
    finally:
        mlflow.set_tracking_uri(before)


# -- what a study leaves ---------------------------------------------------------------------------------


def without_seconds(value: Any) -> Any:
    """Nothing that is called seconds, however deep, and nothing that is named by a time."""
    if isinstance(value, dict):
        return {name: without_seconds(inner) for name, inner in value.items() if "seconds" not in name}
    return [without_seconds(inner) for inner in value] if isinstance(value, list) else value


def journalled(out: Path) -> dict[str, dict[str, Any]]:
    """The whole lines of the journal, by key."""
    path = out / "journal.jsonl"
    raw = path.read_bytes() if path.exists() else b""
    return {entry["key"]: entry for entry in map(json.loads, raw[: raw.rfind(b"\n") + 1].splitlines())}


def record(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "study.json").read_text()))


def left_by(out: Path) -> dict[str, Any]:
    """All files of a study, but for seconds and for what was really spent."""
    lines = {
        name: [without_seconds(json.loads(line)) for line in (out / name).read_text().splitlines()]
        for name in ("predictions.jsonl", "personas.jsonl")
    }
    with (out / "results.csv").open(newline="") as file:
        results = without_seconds(list(csv.DictReader(file)))
    spent = {"run", "spent"}
    units = {
        key: without_seconds({name: value for name, value in unit.items() if name not in spent})
        for key, unit in journalled(out).items()
    }
    return {
        **lines,
        "results.csv": results,
        "users.csv": (out / "users.csv").read_text(),
        "scaling.png": (out / "scaling.png").read_bytes(),
        "study.json": {name: value for name, value in record(out).items() if name not in ("id", "runs")},
        "journal.jsonl": units,
        "names": sorted(str(p.relative_to(out)) for p in out.rglob("*") if not p.name.startswith(".")),
    }


def tracked_in(database: Path) -> list[dict[str, Any]]:
    """MLflow's runs, with their traces and the names of their files, but for seconds, times and ids."""
    client = MlflowClient(f"sqlite:///{database}")
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{database}")
    try:
        experiment = client.get_experiment_by_name("scale")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id], max_results=1_000)
        traces = client.search_traces(locations=[experiment.experiment_id], max_results=500)
        own = [t.info.request_metadata["mlflow.sourceRun"] for t in traces]
        return sorted(
            (
                {
                    "name": run.info.run_name,
                    "status": run.info.status,
                    "params": run.data.params,
                    "metrics": {k: repr(v) for k, v in run.data.metrics.items() if "seconds" not in k},
                    "tags": {k: v for k, v in run.data.tags.items() if not re.search("parentRunId|study|source", k)},
                    "files": sorted(file.path for file in client.list_artifacts(run.info.run_id)),
                    "traces": own.count(run.info.run_id),
                }
                for run in runs
            ),
            key=lambda run: str(run["name"]),
        )
    finally:
        mlflow.set_tracking_uri(before)
