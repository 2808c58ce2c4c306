"""From the journal to samples and rows: a pure reading, done again whenever it is asked for."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from personaagent.datasets.task import Query, Task
from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.journal import Unit
from personaagent.experiments.harness.methods.registry import EQUAL_COST
from personaagent.experiments.harness.outcomes import Answer, Chain, Failed
from personaagent.experiments.harness.statistics import Interval, clustered_mean, jackknifed
from personaagent.experiments.harness.study import Study
from personaagent.experiments.harness.subjects import Subject
from personaagent.programs.lm.meter import Usage

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
    served_by: str
    """By whose persona and memory: the user's own, but for a control."""
    query: Query
    chain: Chain
    unit: Unit | None
    """The one whose answer counts; None if a unit that the question rests on failed."""
    units: tuple[Unit, ...]
    """All that the question was asked in."""
    raw: str | None
    prediction: str | None
    error: str | None
    recalled_labels: tuple[str, ...]
    """The responses of what recall returned."""

    @property
    def answered(self) -> bool:
        return self.error is None


def samples(
    study: Study, cell: Cell, pairs: Sequence[tuple[Subject, Subject]] | None = None
) -> tuple[list[Sample], int]:
    """The samples of a cell by user and id, and how many still wait for another run.

    Args:
        pairs: who is asked, and by whose persona and memory. Default: as the study's control says.
    """
    task = study.task(cell)
    found: list[Sample] = []
    waiting = 0
    responses = {id(one): {i.id: i.response for i in one.history} for one in study.subjects(cell)}
    for asked, serving, query, chain in study.questions(cell, study.pairs(cell) if pairs is None else pairs):
        who = (asked.user_id, serving.user_id)
        outcome = study.answer(query, serving, cell, chain)
        if outcome == "waiting":
            waiting += 1
        elif isinstance(outcome, Failed):
            found.append(Sample(*who, query, chain, None, (), None, None, outcome.reason, ()))
        elif isinstance(outcome, Answer):
            unit, known = outcome.decided, responses[id(serving)]
            raw = unit.result.get("raw") if unit.ok else None
            parsed = task.parse(raw) if raw is not None else None
            labels = tuple(known[i] for i in unit.result.get("recalled", ()) if i in known)
            found.append(Sample(*who, query, chain, unit, outcome.units, raw, parsed, unit.error, labels))
    return sorted(found, key=lambda s: (s.user_id, s.query.id)), waiting


def key_values(study: Study, cell: Cell) -> dict[str, Any]:
    """A cell's key columns."""
    values = {**study.options.constant_columns, "align_lm": study.options.align_lm or cell.lm, **cell.to_dict()}
    if cell.method in EQUAL_COST:
        values["control"] = "equal-cost"
    return {name: values[name] for name in KEY_COLUMNS}


def prediction_line(study: Study, cell: Cell, sample: Sample) -> dict[str, Any]:
    """One line of predictions.jsonl."""
    unit, persona = sample.unit, sample.chain.persona
    calls = sum(unit.usage.lm_calls for unit in sample.units)
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
        "persona_version": persona.version if persona else None,
        "lm_calls": calls,
        "seconds": math.fsum(unit.seconds for unit in sample.units),
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
    scores: dict[tuple[str, str], float] = field(default_factory=dict)
    """(user_id, query id) -> the first metric of each sample that was answered."""
    failures: dict[str, int] = field(default_factory=dict)
    """Reason -> samples that failed for it."""
    samples: tuple[Sample, ...] = field(default=(), repr=False)
    """By user and id: what the row was made from."""


def row(study: Study, cell: Cell) -> Row:
    """A cell's row of results.csv, over the samples that are there."""
    task, method = study.task(cell), study.method(cell)
    found, waiting = samples(study, cell)
    answered = [s for s in found if s.answered]
    asked = study.subjects(cell)
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= key_values(study, cell)
    values |= {
        "users": len({subject.user_id for subject in asked}),
        "queries": sum(len(subject.queries) for subject in asked),
        "answered": len(answered),
        "failed": len(found) - len(answered),
        "unparsable": sum(s.prediction is None for s in answered),
    }
    second = None
    if answered:
        second = _score(values, task, answered)
        calls = [s.unit.result["tools"] for s in answered if s.unit]
        if "recall" in method.tools(cell):
            values["recall_called"] = sum("recall" in names for names in calls) / len(answered)
        if method.retrieves(cell) and task.labels:
            values["gold_recalled"] = sum(s.query.gold in s.recalled_labels for s in answered) / len(answered)
        values["tool_calls"] = sum(map(len, calls))
    if found:
        values["score_failed_as_worst"] = _evaluate(
            task, found, [s.prediction if s.answered else task.worst(s.query.gold) for s in found]
        )[task.metrics[0]]
        steps = [sum(u.kind == "step" and u.ok for u in chain.units) for chain in _chains(found)]
        values["iterations_used"] = sum(steps) / len(steps)
    values |= _costs(found)
    scores = {(s.user_id, s.query.id): task.score(s.query.gold, s.prediction) for s in answered}
    failures = Counter(s.error for s in found if s.error is not None)
    return Row(cell, values, second, waiting, scores, dict(failures.most_common()), tuple(found))


def _chains(found: Sequence[Sample]) -> list[Chain]:
    """What the samples were answered by, each once."""
    return list({id(s.chain): s.chain for s in found}.values())


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


def user_rows(study: Study, r: Row) -> list[dict[str, Any]]:
    """The metrics of each user of a row, over this user's answered samples: the lines of users.csv."""
    task = study.task(r.cell)
    by_user: dict[str, list[Sample]] = {}
    for sample in r.samples:
        by_user.setdefault(sample.user_id, []).append(sample)
    lines = []
    for user_id, found in by_user.items():
        answered = [s for s in found if s.answered]
        line: dict[str, Any] = dict.fromkeys(USER_COLUMNS)
        line |= key_values(study, r.cell) | {
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
    units = {unit.key: unit for s in found for unit in (*s.chain.units, *s.units)}
    total = Usage()
    for unit in units.values():
        total.add(unit.usage)
    calls = {
        column: sum(unit.usage.lm_calls for unit in units.values() if unit.kind in kinds)
        for column, kinds in (
            ("profile_lm_calls", ("profile", "notes")),
            ("align_lm_calls", ("step",)),
            ("serve_lm_calls", ("answer",)),
        )
    }
    return {
        **calls,
        "prompt_tokens": total.prompt_tokens,
        "completion_tokens": total.completion_tokens,
        "seconds": math.fsum(unit.seconds for unit in units.values()),
    }
