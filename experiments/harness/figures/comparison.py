"""The comparison figure: a panel a task, a row a method, as in the paper's Tables 2 to 4, with intervals."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from personaagent.experiments.harness.figures import style
from personaagent.experiments.harness.figures.style import About, Line
from personaagent.experiments.harness.results import Row

_SLOT_INCHES, _GAP_INCHES = 0.15, 0.035
"""Of one LM in a row, and between rows."""


def draw_comparison(about: About, rows: Sequence[Row], path: Path) -> None:
    """Every method's first two metrics with 95 % intervals: a panel a task, a row a method, a colour an LM.

    The second metric stands pale and open under the first. What failed or waits is said at the right of its row.
    Rows of other seeds and history lengths than `about` says are left out.

    Args:
        about: of the study.
        rows: in the table's order, which the figure keeps.
        path: .png, .svg or .pdf.

    Raises:
        StoreError: if the file cannot be written.
    """
    with style.drawing():
        style.save(_figure(about, rows), path)


def _figure(about: About, rows: Sequence[Row]) -> Any:
    drawn = about.chosen(rows)
    present = {r.cell.task for r in drawn}
    tasks = [name for name in about.tasks if name in present] or list(about.tasks)[:1]
    lms = style.lms_of(drawn)
    lines = _merged([list(dict.fromkeys(Line.of(r) for r in drawn if r.cell.task == task)) for task in tasks])
    across = {1: 1, 2: 2, 4: 2}.get(len(tasks), 3)
    down = math.ceil(len(tasks) / across)
    width = style.COLUMN_INCHES if across == 1 else style.PAGE_INCHES
    room = width - 0.2
    labels = style.labels_of(lines)
    left = max((style.width_of(label, style.SMALL_POINTS) for label in labels), default=0.0) + 0.15
    title_room = max(1.0, (room - left) / across - 0.15)
    titles = [
        (
            style.balanced(about.tasks[task].title, title_room, style.TEXT_POINTS),
            style.wrapped(about.size_of(task), title_room, style.SMALL_POINTS),
        )
        for task in tasks
    ]
    title_inches = max(len(a) + len(b) for a, b in titles) * 0.135
    row_inches = _SLOT_INCHES * max(1, len(lms)) + _GAP_INCHES
    panel_inches = row_inches * max(1, len(lines)) + title_inches + 0.5
    cut = "" if about.history == "all" else f"; histories cut to the newest {style.plain(about.history)}"
    figure = style.frame(width, panel_inches * down, about.of_all(lms), about.notes(rows) + cut, style.lm_entries(lms))
    grid = figure.subplots(down, across, squeeze=False)
    for number, axis in enumerate(grid.flat):
        if number >= len(tasks):
            axis.set_visible(False)
            continue
        own = [r for r in drawn if r.cell.task == tasks[number]]
        _panel(axis, about, tasks[number], own, lines, lms)
        axis.set_yticks(range(len(lines)), labels if number % across == 0 else [""] * len(lines))
        style.title(axis, *titles[number])
    return figure


def _panel(axis: Any, about: About, name: str, rows: Sequence[Row], lines: Sequence[Line], lms: Sequence[str]) -> None:
    row_inches = _SLOT_INCHES * max(1, len(lms)) + _GAP_INCHES
    slot = _SLOT_INCHES / row_inches
    for r in rows:
        number = lms.index(r.cell.lm)
        color = style.color_of(number)
        middle = lines.index(Line.of(r)) + (number - (len(lms) - 1) / 2) * slot
        second = r.second if r.second is not None and style.is_number(r.second.estimate) else None
        y = middle - (0.17 * slot if second else 0)
        score = r.values["score"]
        if style.is_number(score):
            _point(axis, y, score, r.values["score_low"], r.values["score_high"], color, style.marker_of(number), True)
            if second:
                low, high = second.low, second.high
                pale = style.paled(color)
                _point(axis, y + 0.4 * slot, second.estimate, low, high, pale, style.marker_of(number), False)
        note = style.open_samples([r]) or ("" if style.is_number(score) else "none answered")
        if note:
            axis.annotate(
                note, (1, middle), xycoords=axis.get_yaxis_transform(), xytext=(3, 0), textcoords="offset points",
                va="center", fontsize=style.SMALL_POINTS - 1, color=color if len(lms) > 1 else style.GRAY,
            )  # fmt: skip
    axis.set_ylim(max(1, len(lines)) - 0.5, -0.5)
    axis.set_xlim(*style.limits(about.tasks[name], rows, second=True))
    axis.grid(axis="x")
    axis.tick_params(axis="y", length=0)
    if len(lms) > 1:
        for edge in range(1, len(lines)):
            axis.axhline(edge - 0.5, color=style.PALE_GRAY, linewidth=0.6, zorder=0)
    axis.set_xlabel(about.metric_names(name))


def _point(axis: Any, y: float, x: float, low: Any, high: Any, color: str, marker: str, filled: bool) -> None:
    ends = [style.bound(low, x), style.bound(high, x)]
    axis.plot(ends, [y, y], color=color, linewidth=1.1 if filled else 0.8, solid_capstyle="butt", zorder=2)
    axis.plot(
        [x], [y], color=color, marker=marker, markersize=3.8 if filled else 3.2, linestyle="none",
        markerfacecolor=color if filled else "white", markeredgewidth=0.8, zorder=4 if filled else 3, clip_on=False,
    )  # fmt: skip


def _merged(orders: Sequence[Sequence[Line]]) -> list[Line]:
    """One order for all panels: each task's own is kept, and what only a later one has stands after its neighbour."""
    merged: list[Line] = []
    for order in orders:
        place = 0
        for line in order:
            if line in merged:
                place = merged.index(line) + 1
            else:
                merged.insert(place, line)
                place += 1
    return merged
