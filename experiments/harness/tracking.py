"""MLflow: a parent run for the study and a run for each cell, with the same keys on all."""

from __future__ import annotations

import json
import logging
import math
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from personaagent.datasets.task import Task
from personaagent.experiments.harness.diff import persona_diff_page
from personaagent.experiments.harness.files import refused_by_sqlite
from personaagent.experiments.harness.methods.registry import PERSONA_AGENT
from personaagent.experiments.harness.results import KEY_COLUMNS, Row, Sample
from personaagent.experiments.harness.secrets import masked
from personaagent.experiments.harness.settings import DEFAULT_TRACKING, lm_title
from personaagent.experiments.harness.study import Study
from personaagent.experiments.harness.subjects import ALL
from personaagent.experiments.harness.tracking_file import check_file, opened_alone, sqlite_file
from personaagent.programs.errors import InputError
from personaagent.programs.persona import Persona

FILES = (
    "report.md",
    "results.csv",
    "users.csv",
    "pairs.csv",
    "predictions.jsonl",
    "personas.jsonl",
    "swap_matrix.csv",
    "swap_predictions.jsonl",
    "scaling.png",
    "comparison.png",
    "histories.png",
    "study.json",
)
_STUDY_TAG, _CELL_TAG, _TRACED_TAG = "personaagent.study", "personaagent.cell", "personaagent.traced"
_CONNECT_SECONDS = 5.0
# MLflow logs what it also raises, with a traceback; and what it only logs, `_trace` looks for itself.
_TOLD_TWICE = ("mlflow.store.db.utils", "mlflow.tracing.export.mlflow_v3")


class Tracker:
    """The MLflow side of a study. Its runs carry the study's id as a tag, by which a later run re-opens them.

    A client bound to run ids is used throughout: the fluent API's active run belongs to one thread.

    Args:
        uri: an MLflow tracking URI.
        experiment: name of the MLflow experiment, made if missing.

    Raises:
        InputError: if the URI cannot be opened.
    """

    def __init__(self, uri: str, experiment: str) -> None:
        self.uri = uri
        self._running: set[str] = set()
        self._logged = True
        try:
            path = sqlite_file(uri)
            if path is not None:
                if uri == DEFAULT_TRACKING:
                    path.parent.mkdir(parents=True, exist_ok=True)
                check_file(path)
            elif _is_server(uri):
                _check_server(uri)
            import mlflow
            from mlflow import MlflowClient

            for name in _TOLD_TWICE:
                logging.getLogger(name).setLevel(logging.CRITICAL)
            with nullcontext() if path is None else opened_alone(path):
                mlflow.set_tracking_uri(uri)
                self._client = MlflowClient(uri)
                found = self._client.get_experiment_by_name(experiment)
                if found is None:
                    place = str((path.parent / "mlartifacts").resolve()) if path is not None else None
                    self._experiment = self._client.create_experiment(experiment, place)
                else:
                    self._experiment = found.experiment_id
        except Exception as error:
            raise InputError(_cannot_open(uri, error)) from error
        if found is not None and found.lifecycle_stage == "deleted":
            raise InputError(
                f"--tracking {masked(uri)}: its experiment {experiment!r} was deleted in MLflow. Restore it there "
                f"(mlflow experiments restore -x {found.experiment_id}), or give another --tracking."
            )

    @property
    def how_to_open(self) -> str:
        """What a person does to see the runs."""
        if self.uri == DEFAULT_TRACKING:
            return "make ui, then http://127.0.0.1:5000: select the runs of the study, Compare"
        shown = masked(self.uri)
        return shown if _is_server(self.uri) else f"mlflow ui --backend-store-uri {shown}"

    def start(self, study: Study) -> None:
        """Open, or open again, the parent run.

        Raises:
            InputError: if MLflow cannot be read or written.
        """
        own = f"tags.`{_STUDY_TAG}` = '{study.record.id}'"
        try:
            found = self._client.search_runs([self._experiment], filter_string=own, max_results=5_000)
        except Exception as error:
            raise InputError(_cannot_open(self.uri, error)) from error
        self._runs = {run.data.tags.get(_CELL_TAG, ""): str(run.info.run_id) for run in found}
        self._traced = {str(run.info.run_id): run.data.tags.get(_TRACED_TAG, "0") for run in found}
        # Params cannot change: the parent stays with the cell that it was first given.
        self._shown: dict[str, str] = next((run.data.params for run in found if not run.data.tags.get(_CELL_TAG)), {})
        self._study_id: str = study.record.id
        try:
            self._parent = self._opened("", study.out.name, {})
        except Exception as error:
            raise InputError(_cannot_open(self.uri, error)) from error

    def log(self, study: Study, rows: Sequence[Row]) -> None:
        """Params, metrics, files, persona diffs and sample traces of every cell, and of the study."""
        metrics = _metrics(study, rows)
        for r, numbers in zip(rows, metrics, strict=True):
            self._log_cell(study, r, numbers)
        if rows:
            shown = next((i for i, r in enumerate(rows) if _params(r) == self._shown), None)
            if shown is None:
                shown = next((i for i, r in enumerate(rows) if _at_centre(study, r)), 0)
            self._shown = _params(rows[shown])
            about = {"mlflow.note.content": _note(study, rows, rows[shown])}
            self._log_row(self._parent, self._shown, metrics[shown], about)
        for name in FILES:
            if (study.out / name).is_file():
                self._client.log_artifact(self._parent, str(study.out / name))

    def log_or_note(self, study: Study, rows: Sequence[Row]) -> bool:
        """`log`, where a failure is a note: the study's files are written, and can be logged again."""
        try:
            self.log(study, rows)
            self._logged = True
        except Exception as error:
            self._logged = False
            study.notes.append(
                f"MLflow ({masked(self.uri)}) could not be written: {_reason(self.uri, error)}. The results "
                f"are complete; the same command logs them again"
            )
        return self._logged

    def end(self, status: str) -> list[str]:
        """Close the parent run as FINISHED, FAILED or KILLED, and as FAILED the cells that a failure left open.

        Returns:
            A note for each run that could not be closed, unless a failure to log was noted before. Nothing is
            raised or printed: another error may be on its way up.
        """
        notes = []
        try:
            # MLflow's own client would try a server that is gone for minutes.
            if not self._logged and _is_server(self.uri):
                _check_server(self.uri)
        except Exception:
            return []
        for run_id in sorted(self._running):
            try:
                self._close(run_id, status if run_id == self._parent else "FAILED")
            except Exception as error:
                # After a failure to log, the study's notes have said it.
                if self._logged:
                    notes.append(
                        f"MLflow ({masked(self.uri)}): run {run_id} was not closed: {_reason(self.uri, error)}"
                    )
        return notes

    # -- cells ------------------------------------------------------------------------------------

    def _log_cell(self, study: Study, r: Row, metrics: Mapping[str, float]) -> None:
        c = r.cell
        key = json.dumps(c.to_dict(), sort_keys=True)
        parts = [
            c.task * (len(study.tasks) > 1),
            c.method * (c.method != PERSONA_AGENT or len(study.options.methods) > 1),
            f"h={c.history}" * (c.history != ALL),
            f"n={c.batch_size} E={c.iterations} K={c.memories}",
            f"seed={c.seed}" * (len(study.seeds) > 1),
        ]
        name = " ".join(filter(None, parts))
        run_id = self._opened(key, name, {"mlflow.parentRunId": self._parent})
        self._log_row(run_id, _params(r), metrics, {"mlflow.note.content": f"LM: {lm_title(c.lm)}"})
        with tempfile.TemporaryDirectory() as folder:
            personas = _personas(study, r)
            if personas:
                page = Path(folder) / "personas.html"
                page.write_text(persona_diff_page(r.cell, personas), encoding="utf-8")
                self._client.log_artifact(run_id, str(page))
        if not r.waiting:
            answered = [s for s in r.samples if s.answered][: study.options.trace_samples]
            for sample in answered[self._traces_done(run_id) :]:
                self._trace(run_id, study.task(c), r, sample)
        self._close(run_id, "KILLED" if r.waiting else "FINISHED")

    def _log_row(
        self, run_id: str, params: Mapping[str, str], metrics: Mapping[str, float], tags: Mapping[str, str]
    ) -> None:
        from mlflow.entities import Metric, Param, RunTag

        now = int(time.time() * 1000)
        self._client.log_batch(
            run_id,
            [Metric(name, value, now, 0) for name, value in metrics.items()],
            [Param(name, value) for name, value in params.items()],
            [RunTag(name, value) for name, value in tags.items()],
        )

    def _traces_done(self, run_id: str) -> int:
        """How many traces a run has; one that an earlier run of ours did not finish is deleted."""
        done, _, begun = self._traced.get(run_id, "0").partition(" ")
        if begun:
            self._client.delete_traces(self._experiment, trace_ids=[begun])
            self._set_traced(run_id, done)
        return int(done)

    def _set_traced(self, run_id: str, state: str) -> None:
        """So many traces are done; after a blank, the id of one that is begun."""
        self._client.set_tag(run_id, _TRACED_TAG, state)
        self._traced[run_id] = state

    def _trace(self, run_id: str, task: Task, r: Row, sample: Sample) -> None:
        """A sample from the journal as an MLflow trace: a span for the question, one for each step."""
        import mlflow
        from mlflow.entities.span import NoOpSpan
        from mlflow.exceptions import MlflowException

        assert sample.unit is not None
        result = sample.unit.result
        persona = sample.chain.persona
        root = mlflow.start_span_no_context(
            f"{sample.user_id} {sample.query.id}",
            span_type="AGENT",
            inputs={
                "query": sample.query.input,
                "persona": persona.text if persona else None,
            },
            attributes={"gold": sample.query.gold, "lm": lm_title(r.cell.lm)},
            metadata={"mlflow.sourceRun": run_id},
            experiment_id=self._experiment,
        )
        # MLflow writes a trace span by span, and a kill would leave a part of it that nobody knows.
        done = int(self._traced.get(run_id, "0"))
        self._set_traced(run_id, f"{done} {root.trace_id}")
        trajectory = result.get("trajectory", {})
        steps = sum(key.startswith("tool_name_") for key in trajectory)
        for step in range(steps):
            span = mlflow.start_span_no_context(
                trajectory[f"tool_name_{step}"],
                span_type="TOOL",
                parent_span=root,
                inputs={
                    "thought": trajectory[f"thought_{step}"],
                    "arguments": trajectory[f"tool_args_{step}"],
                },
            )
            span.end(outputs=trajectory[f"observation_{step}"])
        root.end(
            outputs={
                "answer": sample.raw,
                "reasoning": result.get("reasoning"),
                "score": task.score(sample.query.gold, sample.prediction),
            }
        )
        if not isinstance(root, NoOpSpan):  # of a user who has turned tracing off, or takes a sample
            # What could not be written, MLflow only logs.
            kept = self._client.get_trace(root.trace_id, display=False, flush=True)
            if len(kept.data.spans) != steps + 1 or kept.info.request_metadata.get("mlflow.sourceRun") != run_id:
                raise MlflowException(f"trace {root.trace_id} was not written whole")
        self._set_traced(run_id, str(done + 1))

    # -- runs -------------------------------------------------------------------------------------

    def _opened(self, key: str, name: str, tags: Mapping[str, str]) -> str:
        """The run of a cell (the study's own under ""), re-opened or made; its status is RUNNING."""
        if key in self._runs:
            # Before the call: it may be done although its answer is lost.
            self._running.add(self._runs[key])
            self._client.update_run(self._runs[key], status="RUNNING")
        else:
            own = {**tags, _STUDY_TAG: self._study_id, _CELL_TAG: key}
            self._runs[key] = str(self._client.create_run(self._experiment, tags=own, run_name=name).info.run_id)
            self._running.add(self._runs[key])
        return self._runs[key]

    def _close(self, run_id: str, status: str) -> None:
        self._client.set_terminated(run_id, status)
        self._running.discard(run_id)


def _params(r: Row) -> dict[str, str]:
    return {name: str(r.values[name]) for name in KEY_COLUMNS}


def _metrics(study: Study, rows: Sequence[Row]) -> list[dict[str, float]]:
    """The numbers of each row, with the same keys for all: NaN where a cell has none, as while it waits."""
    found = []
    for r in rows:
        numbers = {k: float(v) for k, v in r.values.items() if k not in KEY_COLUMNS and v is not None}
        if "score" in numbers:
            sign = 1 if study.task(r.cell).higher_is_better else -1
            numbers["score_oriented"] = sign * numbers["score"]
        found.append(numbers)
    # The UI's comparison opens with the first metric that was logged.
    names = sorted(
        dict.fromkeys(name for numbers in found for name in numbers), key=lambda n: not n.startswith("score")
    )
    return [{name: numbers.get(name, math.nan) for name in names} for numbers in found]


def _personas(study: Study, r: Row) -> list[tuple[str, Persona, Persona]]:
    """(user, before alignment, after) of everyone who serves in a cell."""
    found = []
    for subject in study.subjects(r.cell):
        before, after = study.chain(subject, r.cell, 0).persona, study.chain(subject, r.cell).persona
        if before is not None and after is not None:
            found.append((subject.user_id, before, after))
    return found


def _at_centre(study: Study, r: Row) -> bool:
    n, e, k = study.options.axes.centre
    return r.cell == replace(r.cell, method=PERSONA_AGENT, batch_size=n, iterations=e, memories=k)


def _note(study: Study, rows: Sequence[Row], shown: Row) -> str:
    c = shown.cell
    lms = ", ".join(sorted({lm_title(r.cell.lm) for r in rows}))
    methods = ", ".join(dict.fromkeys(r.cell.method for r in rows))

    def values(name: str) -> list[Any]:
        return sorted({getattr(r.cell, name) for r in rows})

    return (
        f"LM: {lms}. Study of {len(rows)} cells: {methods}, over n in {values('batch_size')}, E in "
        f"{values('iterations')}, K in {values('memories')}. This parent run carries the params and metrics of one of "
        f"them ({c.method}, n={c.batch_size}, E={c.iterations}, K={c.memories}), so that it has the same keys as its "
        f"children; the files of the whole study are its artifacts, report.md the one to read first."
    )


def _is_server(uri: str) -> bool:
    return uri.startswith(("http://", "https://"))


def _check_server(uri: str) -> None:
    import requests

    # MLflow's own client would retry for minutes.
    requests.get(uri.rstrip("/") + "/health", timeout=_CONNECT_SECONDS).raise_for_status()


def _cannot_open(uri: str, error: Exception) -> str:
    return (
        f"--tracking {masked(uri)} cannot be opened: {_reason(uri, error)}. Give sqlite:///FILE.db in a folder "
        f"that exists, or the http(s) address of a running MLflow server; the default is {DEFAULT_TRACKING}."
    )


def _reason(uri: str, error: Exception) -> str:
    """The first line of what went wrong; MLflow's words for a fault of SQLite hide what it was."""
    lines = masked(refused_by_sqlite(error) or str(error), uri).strip().splitlines()
    return lines[0][:300] if lines else type(error).__name__
