"""The cold-start figure: the score over the length of the history, a line a method (the paper's Table 6)."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from personaagent.experiments.harness.figures import style
from personaagent.experiments.harness.figures.style import About, Line
from personaagent.experiments.harness.methods.registry import PERSONA_AGENT
from personaagent.experiments.harness.results import Row

_PANEL_INCHES = 1.75
_FEW = 6
"""So many lines can all be strong; of more, the intervals are paled."""


def draw_histories(about: About, rows: Sequence[Row], path: Path) -> None:
    """Every method's first metric with 95 % intervals over the length of the history: a line a method.

    There is a panel for each task and LM.

    Lengths stand in order and at equal distances. At one length the methods stand side by side, so that their
    intervals can be told apart. Rows of other seeds than `about` says are left out.

    Args:
        about: of the study. Its `history` is not looked at.
        rows: in the table's order, which the legend keeps.
        path: .png, .svg or .pdf.

    Raises:
        StoreError: if the file cannot be written.
    """
    with style.drawing():
        style.save(_figure(about, rows), path)


def _figure(about: About, rows: Sequence[Row]) -> Any:
    from matplotlib.lines import Line2D

    drawn = about.chosen(rows, any_history=True)
    lms = style.lms_of(drawn)
    places = [(task, lm) for task in about.tasks for lm in lms if any(_is_of(r, task, lm) for r in drawn)]
    panels = places or [(next(iter(about.tasks)), "")]
    lines = list(dict.fromkeys(Line.of(r) for r in drawn))
    lengths = sorted({r.cell.history for r in drawn}, key=_by_length)
    # Many lines need the page's width; the LMs of one task stand side by side.
    across = 1 if len(lines) > _FEW else len(lms) if len(lms) in (2, 3) else min(2, len(panels))
    down = math.ceil(len(panels) / across)
    width = style.COLUMN_INCHES if across == 1 and len(lines) <= _FEW else style.PAGE_INCHES
    room = width - 0.2
    titles = [_titles(about, task, lm, lms, drawn, room / across - 0.55) for task, lm in panels]
    title_inches = max(len(large) + len(small) for large, small in titles) * 0.135
    entries = []
    looks = _looks(lines)
    for look, label in zip(looks, style.labels_of(lines), strict=True):
        entries.append((Line2D([], [], **look), label))
    figure = style.frame(
        width, (_PANEL_INCHES + title_inches + 0.35) * down, about.of_all(lms), about.notes(rows), entries
    )
    grid = figure.subplots(down, across, squeeze=False)
    for number, axis in enumerate(grid.flat):
        if number >= len(panels):
            axis.set_visible(False)
            continue
        task, lm = panels[number]
        own = [r for r in drawn if _is_of(r, task, lm)]
        _panel(axis, own, lines, looks, lengths)
        # One scale for all LMs of a task.
        axis.set_ylim(*style.limits(about.tasks[task], [r for r in drawn if r.cell.task == task], second=False))
        axis.set_ylabel(about.metric_names(task, 1, between=" "))
        if number + across >= len(panels):
            axis.set_xlabel("interactions in the history")
        style.title(axis, *titles[number])
    return figure


def _panel(
    axis: Any, rows: Sequence[Row], lines: Sequence[Line], looks: Sequence[dict[str, Any]], lengths: Sequence[str]
) -> None:
    step = min(0.09, 0.72 / max(1, len(lines)))
    for number, (line, look) in enumerate(zip(lines, looks, strict=True)):
        own = {r.cell.history: r for r in rows if Line.of(r) == line and style.is_number(r.values["score"])}
        points = [(place, own[length]) for place, length in enumerate(lengths) if length in own]
        if not points:
            continue
        shift = (number - (len(lines) - 1) / 2) * step
        xs = [place + shift for place, _ in points]
        ys = [r.values["score"] for _, r in points]
        for x, y, (_, r) in zip(xs, ys, points, strict=True):
            ends = [style.bound(r.values["score_low"], y), style.bound(r.values["score_high"], y)]
            pale = look["color"] if len(lines) <= _FEW else style.paled(look["color"], 0.55)
            axis.plot([x, x], ends, color=pale, linewidth=0.7, solid_capstyle="butt", zorder=2)
        axis.plot(xs, ys, label=style.plain(line.method), clip_on=False, **look)
    axis.set_xticks(range(len(lengths)), [style.plain(length) for length in lengths])
    axis.set_xlim(-0.5, max(1, len(lengths)) - 0.5)
    axis.grid(axis="y")
    axis.tick_params(axis="x", length=0)


def _looks(lines: Sequence[Line]) -> list[dict[str, Any]]:
    """Of each line: no two alike, and the paper's method the strongest of them."""
    methods = [line.method for line in lines]
    first = methods.index(PERSONA_AGENT) if PERSONA_AGENT in methods else None
    looks = []
    others = 0 if first is None else 1
    for place in range(len(lines)):
        number = 0 if place == first else others
        others += place != first
        color = style.color_of(number)
        again = number >= len(style.COLORS)  # a colour that stands for another line, too: open, and broken
        few = len(lines) <= _FEW
        looks.append(
            {
                "color": color,
                "marker": style.marker_of(number),
                "markersize": 3.8 if few or place == first else 3.2,
                "markerfacecolor": "white" if again else color,
                "markeredgewidth": 0.7,
                "linestyle": (0, (3, 1.2)) if again else "-",
                "linewidth": 1.5 if place == first else 1.0 if few else 0.8,
                "zorder": 4 if place == first else 3,
            }
        )
    return looks


def _titles(
    about: About, task: str, lm: str, lms: Sequence[str], rows: Sequence[Row], inches: float
) -> tuple[list[str], list[str]]:
    large = style.balanced(about.tasks[task].title, inches, style.TEXT_POINTS)
    small = style.wrapped(style.lm_name(lm), inches, style.SMALL_POINTS) if len(lms) > 1 else []
    missing = style.open_samples([r for r in rows if _is_of(r, task, lm)])
    size = "; ".join(filter(None, [about.size_of(task), missing]))
    return large, [*small, *style.wrapped(size, inches, style.SMALL_POINTS)]


def _is_of(r: Row, task: str, lm: str) -> bool:
    return r.cell.task == task and r.cell.lm == lm


def _by_length(history: str) -> tuple[bool, int, str]:
    """Numbers by size, then `all`."""
    return (False, int(history), "") if history.isdecimal() else (True, 0, history)
