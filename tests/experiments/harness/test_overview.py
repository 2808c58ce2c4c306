"""The first table of a report with several: methods by tasks, or by LMs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.overview import overview
from personaagent.experiments.harness.statistics import Interval
from personaagent.experiments.harness.tables import TaskInfo, tables

TASKS = {
    "films": TaskInfo("LaMP-2M, movie tagging", ("accuracy", "f1"), True, 4, 4, "data", 15),
    "stars": TaskInfo("LaMP-3, product rating", ("mae", "rmse"), False, 4, 4, "data", 5),
}


class Row(NamedTuple):
    cell: Cell
    scores: Mapping[tuple[str, str], float]
    waiting: int = 0
    failures: Mapping[str, int] = {}
    values: Mapping[str, Any] = {}
    second: Interval | None = None


def row(method: str, task: str = "films", lm: str = "one", right: int = 2, k: int = 4, **more: Any) -> Row:
    scores = {(f"user {number}", "q"): float(number < right) for number in range(4)}
    return Row(Cell(task, method, lm, 0, 0, k), scores, **more)


def cells(markdown: str) -> list[list[str]]:
    lines = [[cell.strip() for cell in line.split("|")[1:-1]] for line in markdown.splitlines()]
    return [lines[0], *lines[2:]]


def shown(rows: Sequence[Row]) -> dict[str, list[list[str]]]:
    return {heading: cells(text) for heading, text in overview(tables(rows, TASKS), str.upper, "<{}>".format)}


def test_one_table_needs_none() -> None:
    assert shown([row("rag"), row("pag")]) == {} == shown([])


def test_methods_stand_by_task_with_their_intervals() -> None:
    [(heading, [names, rag, pag])] = shown([row("rag"), row("pag", right=4), row("rag", "stars", right=0)]).items()
    assert heading == "All tasks"
    assert names == ["method", "LaMP-2M, accuracy", "LaMP-3, MAE (lower is better)"]
    assert rag == ["RAG", "0.500 [0.000, 1.000]", "0.000 [-]"]
    assert pag == ["PAG", "1.000 [-]", "-"]


def test_several_lms_have_a_table_each_and_of_one_task_a_column_each() -> None:
    by_task = shown([row("rag", task, lm) for lm in ("one", "two") for task in TASKS])
    assert list(by_task) == ["All tasks, <one>", "All tasks, <two>"]
    [(heading, [names, _])] = shown([row("rag", lm=lm) for lm in ("one", "two")]).items()
    assert (heading, names) == ("All LMs, accuracy", ["method", "<one>", "<two>"])


def test_settings_of_a_method_are_rows_of_their_own() -> None:
    [[_, *rows]] = shown([row("rag", task, k=k) for task in TASKS for k in (4, 8)]).values()
    assert [name for name, *_ in rows] == ["RAG (n=0, E=0, K=4)", "RAG (n=0, E=0, K=8)"]


def test_what_lacks_answers_is_marked() -> None:
    rows = [row("rag", failures={"timeout": 1}), row("pag", waiting=2), row("icl"), row("rag", "stars")]
    [[_, *found]] = shown(rows).values()
    assert [line[1].endswith("‡") for line in found] == [True, True, False]
    assert not found[0][2].endswith("‡")
