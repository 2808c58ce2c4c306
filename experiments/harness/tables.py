"""Tables of a report: rows of cells grouped by task and LM, seeds put together, and every pair of rows judged.

`tables` makes a `Table` of each task and LM out of rows (`results.row` makes one of each cell) and a `TaskInfo` of each
task; `Table.lines` and `Table.verdicts` are what a report prints, `pairs_csv` writes the pairs of all tables.
"""

from __future__ import annotations

import csv
import io
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol

from personaagent.experiments.harness.cells import PAPER_BATCH_SIZE, PAPER_ITERATIONS, PAPER_MEMORIES, Cell
from personaagent.experiments.harness.comparison import Difference, Verdict, differences, judge
from personaagent.experiments.harness.statistics import Interval, clustered_mean

ALPHA = 0.05
"""Chance of any false verdict in one table."""
CENTRE = (PAPER_BATCH_SIZE, PAPER_ITERATIONS, PAPER_MEMORIES)
"""(n, E, K) of the paper."""
REFERENCE = "persona-agent"
"""The method that the others are held against."""

METRIC_TITLES: Mapping[str, str] = {
    "accuracy": "accuracy",
    "f1": "macro-F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
}
ERRORS = ("mae", "rmse")
"""Metrics of which less is better; from 0."""
SHARES = ("accuracy", "f1", "rouge1", "rougeL")
"""Metrics from 0 to 1."""

PAIR_COLUMNS = (
    "task",
    "lm",
    "history",
    "first",
    "second",
    "users",
    "queries",
    "unpaired",
    "difference",
    "low",
    "high",
    "p",
    "p_holm",
    "separable",
    "exact",
    "flips",
    "users_needed",
    "users_needed_in_table",
    "metric",
    *(
        f"{which}_{axis}"
        for which in ("first", "second")
        for axis in ("method", "batch_size", "iterations", "memories")
    ),
)
"""Of pairs.csv. See `pairs_csv`."""

Question = tuple[str, str]
"""(user_id, query_id)."""


class ResultRow(Protocol):
    """What a table takes of one cell's results: `results.Row` has it."""

    @property
    def cell(self) -> Cell: ...

    @property
    def values(self) -> Mapping[str, Any]:
        """By column of results.csv; None, or no such key, where a column does not apply."""

    @property
    def second(self) -> Interval | None:
        """The second metric."""

    @property
    def waiting(self) -> int:
        """Samples left for another run."""

    @property
    def scores(self) -> Mapping[Question, float]:
        """The first metric of each answered sample."""

    @property
    def failures(self) -> Mapping[str, int]:
        """{reason: failed samples}."""


@dataclass(frozen=True)
class TaskInfo:
    """What a report says of a task."""

    title: str
    metrics: tuple[str, ...]
    """Names, the score first; one or more."""
    higher_is_better: bool
    """Of the first metric."""
    users: int
    queries: int
    """Of all users together."""
    source: str
    """Where the data comes from."""
    labels: int = 0
    """How many possible answers there are; 0 for free text."""


@dataclass(frozen=True)
class Line:
    """One configuration over its seeds: a line of a table."""

    rows: tuple[ResultRow, ...]
    """One a seed, one or more."""
    scores: Mapping[Question, float]
    """Of each question the mean of the first metric over the seeds that answered it."""
    score: Interval | None
    """The mean of `scores` with its user-clustered 95 % interval (users stay the clusters); None without an answer."""
    second: Interval | None
    """The second metric: with one seed as its row has it, with several the mean over them without an interval."""
    detail: str = ""
    """What tells the line from others of its method, such as `n=3, E=1, K=4` or `history 10`; empty if none are."""

    @property
    def cell(self) -> Cell:
        """Of the first seed."""
        return self.rows[0].cell

    @property
    def method(self) -> str:
        return self.cell.method

    @property
    def setting(self) -> tuple[int, int, int]:
        """(n, E, K)."""
        return self.cell.batch_size, self.cell.iterations, self.cell.memories

    @property
    def control(self) -> str:
        """`none`, or what the users were served with instead of what is their own."""
        return self.rows[0].values.get("control") or "none"

    @property
    def seeds(self) -> tuple[int, ...]:
        return tuple(row.cell.seed for row in self.rows)

    @property
    def label(self) -> str:
        """The method's name, with what tells it from other lines; no two lines of a table share it."""
        return f"{self.method} ({self.detail})" if self.detail else self.method

    @property
    def waiting(self) -> int:
        return sum(row.waiting for row in self.rows)

    @property
    def failures(self) -> Counter[str]:
        """{reason: failed samples}, most frequent first."""
        found: Counter[str] = Counter()
        for row in self.rows:
            found.update(row.failures)
        return Counter(dict(sorted(found.items(), key=lambda item: (-item[1], item[0]))))

    def total(self, column: str) -> int:
        """A column of counts, summed over the seeds."""
        return sum(row.values.get(column) or 0 for row in self.rows)

    def mean(self, column: str) -> float | None:
        """A column's mean over the seeds that have it; None if none has."""
        found = [row.values[column] for row in self.rows if row.values.get(column) is not None]
        return _mean(found) if found else None


@dataclass(frozen=True)
class Table:
    """What is read side by side: the lines of one task and LM. It is also the family that Holm's correction is over."""

    task: str
    lm: str
    info: TaskInfo
    lines: tuple[Line, ...]
    verdicts: tuple[Verdict, ...] = field(repr=False)
    """Every two lines of one history that have an answer each. Scores are signed so that more is better: a positive
    difference says that the first is better, also of an error such as MAE. Under two users nothing is separable."""

    @property
    def users(self) -> int:
        """The most users that any pair shares; 0 without a pair."""
        return max((verdict.difference.users for verdict in self.verdicts), default=0)

    @property
    def histories(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(line.cell.history for line in self.lines))

    @cached_property
    def place(self) -> dict[str, int]:
        """{label: index in `lines`}."""
        return {line.label: index for index, line in enumerate(self.lines)}

    def told_apart(self, index: int) -> tuple[list[int], list[int]]:
        """The indices of the lines that this one is separably better than, and of those it is separably worse than."""
        label = self.lines[index].label
        better: list[int] = []
        worse: list[int] = []
        for verdict in self.verdicts:
            found = verdict.difference
            if verdict.separable and label in (found.first, found.second):
                other = self.place[found.second if label == found.first else found.first]
                wins = (found.interval.estimate > 0) == (label == found.first)
                (better if wins else worse).append(other)
        return sorted(better), sorted(worse)

    def reference(self, history: str, centre: tuple[int, int, int] = CENTRE) -> int | None:
        """The line that the others of this history are held against: persona-agent at the centre, else its first
        line, else the first line, each if it has an answer. None where no line has one.

        Args:
            history: as cells have it.
            centre: (n, E, K).
        """
        answered = [i for i, line in enumerate(self.lines) if line.cell.history == history and line.scores]
        own = [i for i in answered if self.lines[i].method == REFERENCE]
        own.sort(key=lambda i: (self.lines[i].control != "none", self.lines[i].setting != centre))
        return next(iter([*own, *answered]), None)

    def against(self, reference: int) -> list[tuple[int, Verdict]]:
        """(index of the other line, verdict) of each pair with this line, differences being this line minus the other.

        Without those that share under two users, of which nothing can be said.
        """
        label, found = self.lines[reference].label, []
        for verdict in self.verdicts:
            if verdict.difference.users < 2 or label not in (verdict.difference.first, verdict.difference.second):
                continue
            turned = verdict if verdict.difference.first == label else _turned(verdict)
            found.append((self.place[turned.difference.second], turned))
        return sorted(found, key=lambda pair: pair[0])


def tables(rows: Iterable[ResultRow], tasks: Mapping[str, TaskInfo]) -> tuple[Table, ...]:
    """One table for each (task, LM), in the order of the rows, and so are its lines.

    Only rows of one history are compared: with another, a user is asked the same but known otherwise. All pairs of a
    table are one family. Some seconds for a hundred lines, as of `--grid`: pairs grow with their square.

    Args:
        rows: cells' results, each cell once. Those that differ in nothing but the seed become one line.
        tasks: by the name in the cells.

    Raises:
        KeyError: for a task that is not in tasks.
        InputError: if a score is NaN.
    """
    by_table: dict[tuple[str, str], dict[tuple[Cell, str], list[ResultRow]]] = {}
    for row in rows:
        lines = by_table.setdefault((row.cell.task, row.cell.lm), {})
        control = row.values.get("control") or "none"
        lines.setdefault((replace(row.cell, seed=0), control), []).append(row)
    return tuple(
        _table(task, lm, tasks[task], [_line(same, tasks[task]) for same in found.values()])
        for (task, lm), found in by_table.items()
    )


def pairs_csv(made: Iterable[Table]) -> str:
    """Every pair of rows of every table, as CSV with `PAIR_COLUMNS`.

    `difference`, `low` and `high` are first minus second in the unit of `metric`, signed so that a positive one says
    that the first is better. `p` and what follows from it are empty where fewer than two users are shared, an interval
    where it has no bounds, users_needed as `statistics.users_needed` has None.
    """
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, PAIR_COLUMNS, lineterminator="\n", restval="")
    writer.writeheader()
    for table in made:
        for verdict in table.verdicts:
            values = _pair(table, verdict)
            writer.writerow({name: _csv_value(value) for name, value in values.items()})
    return buffer.getvalue()


def _pair(table: Table, verdict: Verdict) -> dict[str, Any]:
    found = verdict.difference
    lines = {
        which: table.lines[table.place[label]] for which, label in (("first", found.first), ("second", found.second))
    }
    values: dict[str, Any] = {
        "task": table.task,
        "lm": table.lm,
        "history": lines["first"].cell.history,
        "first": found.first,
        "second": found.second,
        "users": found.users,
        "queries": found.queries,
        "unpaired": found.unpaired,
        "difference": found.interval.estimate,
        "low": found.interval.low,
        "high": found.interval.high,
        "metric": table.info.metrics[0],
    }
    for which, line in lines.items():
        values |= {
            f"{which}_{axis}": getattr(line.cell, axis) for axis in ("method", "batch_size", "iterations", "memories")
        }
    if found.users >= 2:
        values |= {
            "p": found.test.p,
            "p_holm": verdict.p_holm,
            "separable": verdict.separable,
            "exact": found.test.exact,
            "flips": found.test.flips,
            "users_needed": verdict.users_needed,
            "users_needed_in_table": verdict.users_needed_in_table,
        }
    return values


def _csv_value(value: Any) -> Any:
    if isinstance(value, float):
        # repr of a float is the shortest text that reads back as the same float.
        return "" if math.isnan(value) else repr(value)
    return "" if value is None else value


def _table(task: str, lm: str, info: TaskInfo, lines: Sequence[Line]) -> Table:
    named = tuple(replace(line, detail=_detail(line, lines)) for line in lines)
    found: list[Difference] = []
    for history in dict.fromkeys(line.cell.history for line in named):
        sign = 1 if info.higher_is_better else -1
        scores = {
            line.label: {question: sign * score for question, score in line.scores.items()}
            for line in named
            if line.cell.history == history and line.scores
        }
        found += differences(scores, ALPHA)
    return Table(task, lm, info, named, judge(found, ALPHA))


def _line(rows: Sequence[ResultRow], info: TaskInfo) -> Line:
    by_question: dict[Question, list[float]] = {}
    for row in rows:
        for question, score in row.scores.items():
            by_question.setdefault(question, []).append(score)
    scores = {question: _mean(found) for question, found in by_question.items()}
    interval = clustered_mean(list(scores.values()), [user for user, _ in scores], 1 - ALPHA) if scores else None
    return Line(tuple(rows), scores, interval, _second(rows, info))


def _second(rows: Sequence[ResultRow], info: TaskInfo) -> Interval | None:
    if len(info.metrics) < 2:
        return None
    if len(rows) == 1 and rows[0].second is not None:
        return rows[0].second
    found = [row.values[info.metrics[1]] for row in rows if row.values.get(info.metrics[1]) is not None]
    return Interval(_mean(found), math.nan, math.nan) if found else None


def _detail(line: Line, lines: Sequence[Line]) -> str:
    """What of (n, E, K), history and control differs among the lines of this one's method."""
    same = [other for other in lines if other.method == line.method]
    parts = []
    if len({other.setting for other in same}) > 1:
        parts.append("n={}, E={}, K={}".format(*line.setting))
    if len({other.cell.history for other in same}) > 1:
        parts.append(f"history {line.cell.history}")
    if len({other.control for other in same}) > 1:
        parts.append(f"control {line.control}")
    return ", ".join(parts)


def _turned(verdict: Verdict) -> Verdict:
    """The same pair with its methods the other way round."""
    found = verdict.difference
    estimate, low, high = found.interval
    # Plus 0.0: the opposite of 0 would print as -0.
    interval = Interval(0.0 - estimate, 0.0 - high, 0.0 - low)
    return replace(verdict, difference=replace(found, first=found.second, second=found.first, interval=interval))


def _mean(values: Sequence[float]) -> float:
    # Not fsum, which raises where a sum of large ratings is infinite.
    return values[0] if len(values) == 1 else sum(values) / len(values)


# -- as they are shown --------------------------------------------------------------------------------


def metric_title(metric: str) -> str:
    """A metric's name for people; one that is not known is its own title."""
    return METRIC_TITLES.get(metric, metric)


def estimate_text(interval: Interval | None, metric: str, difference: bool = False) -> str:
    """An estimate and its bounds, as `0.513 [0.431, 0.595]`, clipped to what the metric can be, from which a t interval
    of few users may stray. Without bounds the estimate alone, without an estimate `-`. Where all users are alike,
    bounds of no width would look like certainty: `0.000 [-]`.

    Args:
        interval: in the metric's unit.
        metric: as tasks name it; an unknown one is not clipped.
        difference: whether it is of two scores, which may be negative.
    """
    if interval is None or math.isnan(interval.estimate):
        return "-"
    estimate, low, high = interval
    if math.isnan(low) or math.isnan(high):
        return number_text(estimate)
    if low == high:
        return f"{number_text(estimate)} [-]"
    most = 1.0 if metric in SHARES else math.inf
    least = -most if difference or metric not in (*SHARES, *ERRORS) else 0.0
    return f"{number_text(estimate)} [{number_text(max(least, low))}, {number_text(min(most, high))}]"


def number_text(value: float) -> str:
    """A score with three decimals; from a million on, as a wild rating may make it, three digits."""
    text = f"{value:.3f}" if abs(value) < 1e6 else f"{value:.3g}"
    return "0.000" if text == "-0.000" else text
