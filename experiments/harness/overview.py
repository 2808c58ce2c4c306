"""All tasks, or all LMs, of a study side by side: the first table of a report that has several."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import NamedTuple

from personaagent.experiments.harness.markdown_text import Column, plain, table_block
from personaagent.experiments.harness.tables import ERRORS, Line, Table, estimate_text, metric_title

INCOMPLETE = "‡"
"""Behind a figure that lacks answers."""


class _Key(NamedTuple):
    """What makes two lines of different tables the same row."""

    method: str
    setting: tuple[int, int, int]
    history: str
    control: str


def overview(
    made: Sequence[Table], method_title: Callable[[str], str], lm_title: Callable[[str], str]
) -> list[tuple[str, str]]:
    """(heading, Markdown) of a table of the first metric: for each LM its tasks, or for one task its LMs.

    Args:
        made: of `tables.tables`.
        method_title, lm_title: names as Markdown.

    Returns:
        None of them where there is but one table.
    """
    lms = list(dict.fromkeys(table.lm for table in made))
    tasks = list(dict.fromkeys(table.task for table in made))
    if len(made) < 2:
        return []
    if len(tasks) == 1:
        headings = [lm_title(table.lm) for table in made]
        return [(f"All LMs, {_metric(made[0])}", _block(made, headings, method_title))]
    found = []
    for lm in lms:
        of_lm = [table for table in made if table.lm == lm]
        headings = [f"{plain(table.info.title.partition(',')[0])}, {_metric(table)}" for table in of_lm]
        name = "All tasks" + (f", {lm_title(lm)}" if len(lms) > 1 else "")
        found.append((name, _block(of_lm, headings, method_title)))
    return found


def _metric(table: Table) -> str:
    metric = table.info.metrics[0]
    return plain(metric_title(metric)) + (" (lower is better)" if metric in ERRORS else "")


def _block(made: Sequence[Table], headings: Sequence[str], method_title: Callable[[str], str]) -> str:
    by_table = [{_key(line): line for line in table.lines} for table in made]
    first: dict[_Key, Line] = {}
    for lines in by_table:
        for key, line in lines.items():
            first.setdefault(key, line)
    names = [method_title(line.method) + (f" ({plain(line.detail)})" if line.detail else "") for line in first.values()]
    columns = [Column("method", "left", names)]
    for table, lines, heading in zip(made, by_table, headings, strict=True):
        cells = [_cell(lines.get(key), table.info.metrics[0]) for key in first]
        columns.append(Column(heading, "right", cells))
    return table_block(columns)


def _cell(line: Line | None, metric: str) -> str:
    return "-" if line is None else estimate_text(line.score, metric) + incomplete(line)


def incomplete(line: Line) -> str:
    """The mark of a line with questions that failed or wait."""
    return INCOMPLETE if line.waiting or sum(line.failures.values()) else ""


def _key(line: Line) -> _Key:
    return _Key(line.method, line.setting, line.cell.history, line.control)
