"""From the journal to samples and rows: a pure reading, done again whenever it is asked for."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from personaagent.datasets.task import Query, Task
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.journal import Unit
from personaagent.experiments.harness.statistics import Interval, clustered_mean, jackknifed
from personaagent.experiments.harness.study import Chain, Failed, Study
from personaagent.programs.lm.meter import Usage
from personaagent.programs.persona import Persona

KEY_COLUMNS = (
    "task",
    "method",
    "lm",
    "align_lm",
    "profile",
    "wikipedia",
    "control",
    "temperature",
    "batch_size",
    "iterations",
    "memories",
    "history",
    "seed",
    "prompts",
)
COUNT_COLUMNS = ("users", "queries", "answered", "failed", "unparsable")
METRIC_COLUMNS = ("accuracy", "f1", "mae", "rmse", "rouge1", "rougeL")
COST_COLUMNS = (
    "profile_lm_calls",
    "align_lm_calls",
    "serve_lm_calls",
    "prompt_tokens",
    "completion_tokens",
    "seconds",
)
COLUMNS = (
    *KEY_COLUMNS,
    *COUNT_COLUMNS,
    "score",
    "score_low",
    "score_high",
    "score_failed_as_worst",
    *METRIC_COLUMNS,
    "recall_called",
    "gold_recalled",
    "iterations_used",
    "tool_calls",
    *COST_COLUMNS,
)
USER_COLUMNS = (*KEY_COLUMNS, "user_id", *COUNT_COLUMNS[1:], "score", *METRIC_COLUMNS)


@dataclass(frozen=True)
class Sample:
    """One question in one cell: answered, or failed with a reason."""

    user_id: str
    query: Query
    chain: Chain
    unit: Unit | None
    """None if a unit that the question rests on failed."""
    raw: str | None
    prediction: str | None
    error: str | None
    recalled_labels: tuple[str, ...]
    """The responses of what recall returned."""

    @property
    def answered(self) -> bool:
        return self.error is None


def samples(study: Study, cell: Cell) -> tuple[list[Sample], int]:
    """The samples of a cell by user and id, and how many still wait for another run."""
    data = study.tasks[cell.task]
    found: list[Sample] = []
    waiting = 0
    for user in data.users:
        served_by = data.served_by[user.user_id]
        responses = {i.id: i.response for i in served_by.history}
        chain = study.chain(served_by, cell)
        for query in user.queries:
            outcome = study.answer(query, served_by, cell, chain)
            if outcome == "waiting":
                waiting += 1
            elif isinstance(outcome, Failed):
                found.append(Sample(user.user_id, query, chain, None, None, None, outcome.reason, ()))
            elif isinstance(outcome, Unit):
                raw = outcome.result.get("raw") if outcome.ok else None
                parsed = data.task.parse(raw) if raw is not None else None
                labels = tuple(responses[i] for i in outcome.result.get("recalled", ()) if i in responses)
                found.append(Sample(user.user_id, query, chain, outcome, raw, parsed, outcome.error, labels))
    return sorted(found, key=lambda s: (s.user_id, s.query.id)), waiting


def key_values(study: Study, cell: Cell) -> dict[str, Any]:
    """A cell's key columns."""
    constant = study.options.constant_columns | {"align_lm": study.options.align_lm or cell.lm}
    values = {**constant, **cell.to_dict()}
    return {name: values[name] for name in KEY_COLUMNS}


def prediction_line(study: Study, cell: Cell, sample: Sample) -> dict[str, Any]:
    """One line of predictions.jsonl."""
    unit, persona = sample.unit, sample.chain.persona
    result = unit.result if unit else {}
    return {
        **key_values(study, cell),
        "user_id": sample.user_id,
        "id": sample.query.id,
        "gold": sample.query.gold,
        "prediction": sample.prediction,
        "raw": sample.raw,
        "parsed": sample.prediction is not None,
        "retrieved": list(result.get("recalled", ())),
        "tools": list(result.get("tools", ())),
        "persona_version": persona.version if isinstance(persona, Persona) else None,
        "lm_calls": unit.usage.lm_calls if unit else 0,
        "seconds": unit.seconds if unit else 0.0,
        "error": sample.error,
    }


@dataclass(frozen=True)
class Row:
    """One cell's results."""

    cell: Cell
    values: dict[str, Any]
    """By column of results.csv; None where a column does not apply."""
    second: Interval | None
    """The second metric with its interval, for the figure."""
    waiting: int


def row(study: Study, cell: Cell) -> Row:
    """A cell's row of results.csv, over the samples that are there."""
    data = study.tasks[cell.task]
    found, waiting = samples(study, cell)
    answered = [s for s in found if s.answered]
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= key_values(study, cell)
    values |= {
        "users": len(data.users),
        "queries": sum(len(user.queries) for user in data.users),
        "answered": len(answered),
        "failed": len(found) - len(answered),
        "unparsable": sum(s.prediction is None for s in answered),
    }
    second = None
    if answered:
        second = _score(values, data.task, answered)
        calls = [s.unit.result["tools"] for s in answered if s.unit]
        if cell.memories:  # else there is no recall to call
            values["recall_called"] = sum("recall" in names for names in calls) / len(answered)
            if data.task.labels:
                values["gold_recalled"] = sum(s.query.gold in s.recalled_labels for s in answered) / len(answered)
        values["tool_calls"] = sum(map(len, calls))
    if found:
        values["score_failed_as_worst"] = _evaluate(
            data.task, found, [s.prediction if s.answered else data.task.worst(s.query.gold) for s in found]
        )[data.task.metrics[0]]
        steps = {s.user_id: sum(u.kind == "step" and u.ok for u in s.chain.units) for s in found}
        values["iterations_used"] = sum(steps.values()) / len(steps)
    values |= _costs(found)
    return Row(cell, values, second, waiting)


def _score(values: dict[str, Any], task: Task, answered: Sequence[Sample]) -> Interval | None:
    """Metrics over the answered samples, and the interval of the first; returns the second with its own."""
    metrics = _evaluate(task, answered, [s.prediction for s in answered])
    values |= metrics
    users = [s.user_id for s in answered]
    interval = clustered_mean([task.score(s.query.gold, s.prediction) for s in answered], users)
    values["score"] = metrics[task.metrics[0]]
    values["score_low"] = interval.low if math.isfinite(interval.low) else None
    values["score_high"] = interval.high if math.isfinite(interval.high) else None
    if len(task.metrics) < 2:
        return None
    second = task.metrics[1]
    return jackknifed(lambda some: _evaluate(task, some, [s.prediction for s in some])[second], answered, users)


def user_rows(study: Study, cell: Cell) -> list[dict[str, Any]]:
    """The metrics of each user of a cell, over this user's answered samples: the lines of users.csv."""
    task = study.tasks[cell.task].task
    by_user: dict[str, list[Sample]] = {}
    for sample in samples(study, cell)[0]:
        by_user.setdefault(sample.user_id, []).append(sample)
    lines = []
    for user_id, found in by_user.items():
        answered = [s for s in found if s.answered]
        line: dict[str, Any] = dict.fromkeys(USER_COLUMNS)
        line |= key_values(study, cell) | {
            "user_id": user_id,
            "queries": len(found),
            "answered": len(answered),
            "failed": len(found) - len(answered),
            "unparsable": sum(s.prediction is None for s in answered),
        }
        if answered:
            line |= _evaluate(task, answered, [s.prediction for s in answered])
            line["score"] = line[task.metrics[0]]
        lines.append(line)
    return lines


def _evaluate(task: Task, some: Sequence[Sample], predictions: Sequence[str | None]) -> dict[str, float]:
    return task.evaluate([s.query.gold for s in some], predictions)


def _costs(found: Sequence[Sample]) -> dict[str, Any]:
    """Journalled costs of every unit that the cell rests on, shared with other cells or not, each once."""
    units = {unit.key: unit for s in found for unit in (*s.chain.units, *([s.unit] if s.unit else []))}
    total = Usage()
    for unit in units.values():
        total.add(unit.usage)
    calls = {
        column: sum(unit.usage.lm_calls for unit in units.values() if unit.kind == kind)
        for column, kind in (
            ("profile_lm_calls", "profile"),
            ("align_lm_calls", "step"),
            ("serve_lm_calls", "answer"),
        )
    }
    return {
        **calls,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "seconds": math.fsum(unit.seconds for unit in units.values()),
    }
