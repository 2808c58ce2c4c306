"""The figures that the paper prints: Tables 2, 3, 4 and 6 of arXiv 2506.06254, as data to stand beside one's own.

All of them are of one run of Claude-3.5 Sonnet (section 3.1 and App. F), without intervals. How many queries they are
over is not stated. For Tables 2 and 3 it can be inferred: their accuracies and errors are whole multiples of 1 / n
within rounding, for LaMP-2N within 0.001. For Tables 4 and 6 no small n fits.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from personaagent.experiments.harness.cells import PAPER_BATCH_SIZE, PAPER_ITERATIONS, PAPER_MEMORIES, Cell

PAPER_LM = "Claude-3.5 Sonnet"
COLD_START_HISTORY = "10"
"""Table 6: interactions that each user is left with (App. M)."""

_CENTRE = {"batch_size": PAPER_BATCH_SIZE, "iterations": PAPER_ITERATIONS, "memories": PAPER_MEMORIES}
_ALIGNED, _RECALLING = ("batch_size", "iterations"), ("memories",)
_AXES: Mapping[str, tuple[str, ...]] = {
    "prompt": (),
    "icl": (),
    "rag": _RECALLING,
    "pag": _RECALLING,
    "react": _RECALLING,
    "memory-bank": _RECALLING,
    "persona-agent": (*_ALIGNED, *_RECALLING),
    "no-alignment": _RECALLING,
    "no-persona": _RECALLING,
    "no-memory": _ALIGNED,
    "no-action": _ALIGNED,
}
"""What of n, E and K a method depends on: where these are the paper's, the cell is the paper's."""

_QUERIES = {"lamp-1": 123, "lamp-2m": 300, "lamp-2n": 147, "lamp-3": 112}
_METRICS = {
    "lamp-1": ("accuracy", "f1"),
    "lamp-2m": ("accuracy", "f1"),
    "lamp-2n": ("accuracy", "f1"),
    "lamp-3": ("mae", "rmse"),
    "lamp-4": ("rouge1", "rougeL"),
    "lamp-5": ("rouge1", "rougeL"),
}


@dataclass(frozen=True)
class PaperTable:
    """One task's figures in one of the paper's tables."""

    number: int
    """Of the table in the paper."""
    queries: int | None
    """Inferred from the figures' granularity; None where it cannot be. The paper states none."""
    history: str
    """The cells' history that it is of: `all`, or a number of interactions."""
    figures: Mapping[str, Mapping[str, float]]
    """{method: {metric: value}}; accuracy, F1 and ROUGE from 0 to 1, MAE and RMSE in points of the rating."""

    @property
    def source(self) -> str:
        """What the figures are of, in words."""
        queries = f"{self.queries} queries (inferred)" if self.queries else "number of queries not stated"
        return f"{PAPER_LM}, {queries}, one run"


def _table(
    number: int, methods: str, rows: Mapping[str, tuple[str, str]], history: str = "all", inferred: bool = False
) -> dict[str, PaperTable]:
    """By task. Of each the line of its first metric and that of its second, one figure a method, as printed."""
    made = {}
    for task, lines in rows.items():
        figures: dict[str, dict[str, float]] = {method: {} for method in methods.split()}
        for metric, line in zip(_METRICS[task], lines, strict=True):
            for method, value in zip(figures, line.split(), strict=True):
                figures[method][metric] = float(value)
        made[task] = PaperTable(number, _QUERIES[task] if inferred else None, history, figures)
    return made


_COMPARED = "prompt icl rag pag react memory-bank persona-agent"

TABLE_2 = _table(
    2,
    _COMPARED,
    {
        "lamp-1": ("0.772 0.780 0.715 0.837 0.837 0.862 0.919", "0.771 0.766 0.714 0.837 0.853 0.861 0.918"),
        "lamp-2m": ("0.387 0.283 0.427 0.430 0.450 0.470 0.513", "0.302 0.217 0.386 0.387 0.378 0.391 0.424"),
        "lamp-2n": ("0.660 0.388 0.742 0.768 0.639 0.741 0.796", "0.386 0.145 0.484 0.509 0.381 0.456 0.532"),
        "lamp-3": ("0.295 0.277 0.313 0.339 0.313 0.321 0.241", "0.590 0.543 0.713 0.835 0.590 0.582 0.509"),
    },
    inferred=True,
)
"""Decision-making tasks, by task."""

TABLE_3 = _table(
    3,
    "persona-agent no-alignment no-persona no-memory no-action",
    {
        "lamp-1": ("0.919 0.894 0.846 0.821 0.764", "0.918 0.893 0.855 0.841 0.789"),
        "lamp-2m": ("0.513 0.487 0.463 0.460 0.403", "0.424 0.403 0.361 0.365 0.329"),
        "lamp-2n": ("0.796 0.775 0.769 0.646 0.626", "0.532 0.502 0.483 0.388 0.375"),
        "lamp-3": ("0.241 0.259 0.277 0.348 0.375", "0.509 0.560 0.542 0.661 0.756"),
    },
    inferred=True,
)
"""Ablation, by task."""

TABLE_4 = _table(
    4,
    _COMPARED,
    {
        "lamp-4": ("0.129 0.140 0.161 0.160 0.167 0.160 0.178", "0.118 0.127 0.145 0.143 0.150 0.142 0.166"),
        "lamp-5": ("0.455 0.444 0.475 0.472 0.468 0.463 0.503", "0.384 0.380 0.424 0.413 0.407 0.399 0.434"),
    },
)
"""Text generation, by task."""

TABLE_6 = _table(
    6,
    "pag react memory-bank persona-agent",
    {
        "lamp-1": ("0.772 0.802 0.789 0.845", "0.764 0.792 0.781 0.837"),
        "lamp-2m": ("0.392 0.428 0.415 0.476", "0.328 0.361 0.349 0.407"),
        "lamp-2n": ("0.678 0.714 0.698 0.756", "0.438 0.468 0.452 0.509"),
        "lamp-3": ("0.341 0.328 0.332 0.301", "0.924 0.726 0.743 0.612"),
    },
    history=COLD_START_HISTORY,
)
"""Cold start with 10 interactions a user, by task."""

_BY_SCRIPT: Mapping[str, Mapping[str, PaperTable]] = {
    "compare": {**TABLE_2, **TABLE_4},
    "ablate": TABLE_3,
    "cold_start": TABLE_6,
}


def paper_table(script: str, task: str) -> PaperTable | None:
    """The paper's table that a script reproduces on a task.

    Args:
        script: `compare` has Tables 2 and 4, `ablate` Table 3, `cold_start` Table 6. Another, such as `scale`, has
            none: Figure 3 prints no numbers.
        task: as on the command line, such as `lamp-2m`.
    """
    return _BY_SCRIPT.get(script, {}).get(task)


def paper_figures(script: str, cell: Cell) -> Mapping[str, float]:
    """What the paper prints for a cell: {metric: value}. Empty unless the cell is at the paper's own setting.

    That is n=3, E=1, K=4 (App. F), as far as the method depends on them, and the history of the paper's table. The
    cell's LM and seed do not matter: `paper_table(...).source` says what the figures are of.
    """
    table = paper_table(script, cell.task)
    if table is None or cell.history != table.history:
        return {}
    if any(getattr(cell, axis) != _CENTRE[axis] for axis in _AXES.get(cell.method, ())):
        return {}
    return table.figures.get(cell.method, {})
