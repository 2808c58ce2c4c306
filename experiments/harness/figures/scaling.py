"""The scaling figure: three panels as the paper's Figure 3, with intervals and the LM's name."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from personaagent.experiments.harness.figures import style
from personaagent.experiments.harness.figures.style import About
from personaagent.experiments.harness.methods.registry import PERSONA_AGENT
from personaagent.experiments.harness.results import Row

_PANEL_INCHES = 1.9
_AXIS_INCHES = 1.75
"""About how far apart the first and the last value of an axis are drawn."""

_AXES = (
    ("batch_size", "alignment batch size n"),
    ("iterations", "alignment iterations E"),
    ("memories", "retrieved memories K"),
)


def draw_scaling(about: About, rows: Sequence[Row], path: Path) -> None:
    """The first two metrics over n, E and K, each with the other two at the centre: a row a task, a colour an LM.

    Only rows of the method persona-agent are drawn, at the seed and the history length that `about` says.

    Args:
        about: of the study.
        rows: in any order.
        path: .png, .svg or .pdf.

    Raises:
        StoreError: if the file cannot be written.
    """
    with style.drawing():
        style.save(_figure(about, rows), path)


def _figure(about: About, rows: Sequence[Row]) -> Any:
    drawn = [
        r
        for r in about.chosen(rows)
        if r.cell.method == PERSONA_AGENT and any(_on_line(about, r, axis_name) for axis_name, _ in _AXES)
    ]
    scored = [r for r in drawn if style.is_number(r.values["score"])]
    present = {r.cell.task for r in scored}
    tasks = [name for name in about.tasks if name in present] or list(about.tasks)[:1]
    lms = style.lms_of(scored)
    width = style.PAGE_INCHES
    room = width - 0.2
    titles = [_title(about, task, [r for r in drawn if r.cell.task == task], room) for task in tasks]
    task_inches = _PANEL_INCHES + 0.75 + 0.12 * max(len(lines) for lines in titles)
    figure = style.frame(width, task_inches * len(tasks), about.of_all(lms), about.notes(rows), style.lm_entries(lms))
    places = figure.subfigures(len(tasks), 1, squeeze=False)[:, 0]
    for place, task, lines in zip(places, tasks, titles, strict=True):
        place.suptitle("\n".join(lines), fontsize=style.TEXT_POINTS, linespacing=1.2)
        _draw_task(place, about, task, [r for r in scored if r.cell.task == task], lms)
    return figure


def _draw_task(place: Any, about: About, name: str, rows: Sequence[Row], lms: Sequence[str]) -> None:
    task = about.tasks[name]
    axes = place.subplots(1, 3, sharey=True)
    for axis, (axis_name, label) in zip(axes, _AXES, strict=True):
        on_line = [r for r in rows if _on_line(about, r, axis_name)]
        ticks = sorted({getattr(r.cell, axis_name) for r in on_line})
        span = max(ticks) - min(ticks) if ticks else 0
        beside = 0.012 * span or 0.04
        for number, lm in enumerate(lms):
            own = sorted((r for r in on_line if r.cell.lm == lm), key=lambda r: getattr(r.cell, axis_name))
            # Side by side, so that the intervals can be told apart.
            shift = (2 * number - len(lms) + 0.5) * beside
            points = [(getattr(r.cell, axis_name) + shift, r) for r in own]
            _line(
                axis,
                [(x, r.values["score"], r.values["score_low"], r.values["score_high"]) for x, r in points],
                _look(number, True),
            )
            seconds = [(x + beside, r.second) for x, r in points if r.second is not None]
            _line(
                axis,
                [(x, s.estimate, s.low, s.high) for x, s in seconds if style.is_number(s.estimate)],
                _look(number, False),
            )
        if ticks:
            axis.set_xticks(ticks, _apart(ticks))
            margin = (0.06 + 0.012 * len(lms)) * span or 1.0
            axis.set_xlim(min(ticks) - margin, max(ticks) + margin)
        else:
            axis.set_xticks([])
        axis.set_xlabel(label)
        axis.grid(axis="y")
        axis.set_title(_held(about, axis_name), fontsize=style.SMALL_POINTS, color=style.GRAY)
    axes[0].set_ylabel(about.metric_names(name, between="\n"))
    axes[0].set_ylim(*style.limits(task, rows, second=True))


def _apart(ticks: Sequence[int]) -> list[str]:
    """The ticks' labels, without those that would touch the one before."""
    labels, end = [], -math.inf
    for tick in ticks:
        half = style.width_of(str(tick), style.SMALL_POINTS) / 2
        middle = _AXIS_INCHES * (tick - ticks[0]) / (ticks[-1] - ticks[0] or 1)
        fits = middle - half > end + 0.03
        labels.append(str(tick) if fits else "")
        end = middle + half if fits else end
    return labels


def _line(axis: Any, points: Sequence[tuple[float, float, Any, Any]], look: dict[str, Any]) -> None:
    """Through (x, estimate, low, high)."""
    for x, y, low, high in points:
        ends = [style.bound(low, y), style.bound(high, y)]
        axis.plot([x, x], ends, color=look["color"], linewidth=0.7, solid_capstyle="butt", zorder=look["zorder"])
    if points:
        axis.plot([x for x, *_ in points], [y for _, y, *_ in points], clip_on=False, **look)


def _look(number: int, is_score: bool) -> dict[str, Any]:
    color = style.color_of(number) if is_score else style.paled(style.color_of(number))
    return {
        "color": color,
        "marker": style.marker_of(number),
        "markersize": 3.8 if is_score else 3.2,
        "markerfacecolor": color if is_score else "white",
        "markeredgewidth": 0.8,
        "linestyle": "-" if is_score else "--",
        "linewidth": 1.2 if is_score else 0.9,
        "zorder": 4 if is_score else 3,
    }


def _title(about: About, name: str, rows: Sequence[Row], inches: float) -> list[str]:
    task, missing = about.tasks[name], style.open_samples(rows)
    return style.balanced(
        "; ".join(filter(None, [f"{task.title}: {about.size_of(name)}", missing])), inches, style.TEXT_POINTS
    )


def _on_line(about: About, r: Row, name: str) -> bool:
    n, e, k = about.centre
    cell = r.cell
    others = {
        "batch_size": (cell.batch_size, n if e else 0),
        "iterations": (cell.iterations, e),
        "memories": (cell.memories, k),
    }
    if cell.batch_size == 0:
        # No alignment: the left end of the line over n, and of no line over E.
        others["iterations"] = (0, 0)
        if name == "iterations":
            return False
    return all(has == held for axis, (has, held) in others.items() if axis != name)


def _held(about: About, name: str) -> str:
    n, e, k = about.centre
    held = {"batch_size": f"n = {n}", "iterations": f"E = {e}", "memories": f"K = {k}"}
    return ", ".join(text for axis, text in held.items() if axis != name)
