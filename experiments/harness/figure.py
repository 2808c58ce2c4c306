"""The scaling figure: three panels as the paper's Figure 3, with intervals and the LM's name."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import Any

from personaagent.experiments.harness.files import replace_file
from personaagent.experiments.harness.results import Row
from personaagent.experiments.harness.settings import lm_title
from personaagent.experiments.harness.study import Study

_COLORS = ("#1f4e79", "#b3541e", "#3b7a57", "#7a3b69")
_TITLES = {
    "accuracy": "accuracy",
    "f1": "macro-F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
}
_PANELS = (
    ("batch_size", "alignment batch size n"),
    ("iterations", "alignment iterations E"),
    ("memories", "retrieved memories K"),
)


def draw_scaling(study: Study, rows: Sequence[Row], path: Path) -> None:
    """The first two metrics over n, E and K, each with the other two at the centre: a row a task, a colour an LM.

    Raises:
        StoreError: if the file cannot be written.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib.figure import Figure

    drawn = [r for r in rows if r.values["answered"]]
    tasks = list(dict.fromkeys(r.cell.task for r in drawn)) or list(study.options.tasks[:1])
    figure = Figure(figsize=(11, 3.9 * len(tasks)), layout="constrained", dpi=150)
    places = [figure] if len(tasks) == 1 else figure.subfigures(len(tasks), 1)
    for place, task in zip(places, tasks, strict=True):
        _draw_task(place, study, task, [r for r in drawn if r.cell.task == task])
    handles = (axis.get_legend_handles_labels() for axis in figure.get_axes())
    legend = {label: handle for found in handles for handle, label in zip(*found, strict=True)}
    if legend:
        figure.legend(
            legend.values(), legend.keys(), loc="outside lower center", ncols=4 if len(legend) <= 4 else 3,
            frameon=False, fontsize=9, title="bars: 95 % intervals, clustered by user", title_fontsize=8,
        )  # fmt: skip
    drawn_as = io.BytesIO()
    figure.savefig(drawn_as, format=path.suffix[1:], metadata={"Software": None})
    replace_file(path, drawn_as.getvalue())


def _draw_task(place: Any, study: Study, name: str, rows: Sequence[Row]) -> None:
    data = study.tasks[name]
    lms = sorted({r.cell.lm for r in rows})
    axes = place.subplots(1, 3, sharey=True)
    for axis, (axis_name, label) in zip(axes, _PANELS, strict=True):
        ticks: set[int] = set()
        for color, lm in zip(cycle(_COLORS), lms, strict=False):
            own = [r for r in rows if r.cell.lm == lm]
            ticks.update(_panel(axis, study, data.task.metrics, own, axis_name, color, lm_title(lm)))
        if ticks:
            axis.set_xticks(sorted(ticks))
            margin = 0.06 * (max(ticks) - min(ticks)) or 1.0
            axis.set_xlim(min(ticks) - margin, max(ticks) + margin)
        axis.set_xlabel(label)
        axis.grid(axis="y", color="0.9")
        axis.spines[["top", "right"]].set_visible(False)
        axis.set_title(_held(study, axis_name), fontsize=9, color="0.35")
    better = "" if data.task.higher_is_better else " (lower is better)"
    axes[0].set_ylabel(", ".join(_TITLES[name] for name in data.task.metrics) + better)
    # Accuracies fill the range from 0 to 1; errors leave it, and ROUGE stays at its foot.
    axes[0].set_ylim(0, 1 if data.task.metrics[0] == "accuracy" else None)
    first = rows[0].values if rows else {"users": 0, "queries": 0}
    control = "" if study.options.control == "none" else f", control: {study.options.control}"
    place.suptitle(
        f"{data.task.title}: {first['users']} users, {first['queries']} queries ({_short(data.source)}{control}). "
        f"LM: {', '.join(map(lm_title, lms))}",
        fontsize=10.5,
    )


def _panel(
    axis: Any, study: Study, metrics: Sequence[str], rows: Sequence[Row], name: str, color: str, title: str
) -> list[int]:
    """One LM's two lines; the values of the axis that it was measured at."""
    points = sorted((r for r in rows if _on_line(study, r, name)), key=lambda r: getattr(r.cell, name))
    if not points:
        return []
    xs = [getattr(r.cell, name) for r in points]
    scores = [r.values["score"] for r in points]
    bounds = [(r.values["score_low"], r.values["score_high"]) for r in points]
    _line(axis, xs, scores, bounds, color, "-", "o", f"{_TITLES[metrics[0]]}, {title}")
    second = [(x, r.second) for x, r in zip(xs, points, strict=True) if r.second is not None]
    if second:
        # Beside the first one's marker, so that the two intervals can be told apart.
        shift = 0.012 * (max(xs) - min(xs) or 1)
        _line(
            axis,
            [x + shift for x, _ in second],
            [interval.estimate for _, interval in second],
            [(interval.low, interval.high) for _, interval in second],
            _pale(color),
            "--",
            "s",
            f"{_TITLES[metrics[1]]}, {title}",
        )
    return xs


def _pale(color: str) -> str:
    """Mixed with white: the second metric's line lies under the score's."""
    from matplotlib.colors import to_hex, to_rgb

    return str(to_hex([0.55 * part + 0.45 for part in to_rgb(color)]))


def _line(
    axis: Any,
    xs: Sequence[float],
    ys: Sequence[float],
    bounds: Sequence[tuple[Any, Any]],
    color: str,
    style: str,
    marker: str,
    label: str,
) -> None:
    errors = [
        [0.0 if low is None or low != low else y - low for y, (low, _) in zip(ys, bounds, strict=True)],
        [0.0 if high is None or high != high else high - y for y, (_, high) in zip(ys, bounds, strict=True)],
    ]
    filled = color if style == "-" else "white"
    axis.errorbar(
        xs, ys, yerr=errors, color=color, linestyle=style, marker=marker, markersize=5, capsize=2,
        linewidth=1.4, elinewidth=0.8, markerfacecolor=filled, label=label,
    )  # fmt: skip


def _on_line(study: Study, r: Row, name: str) -> bool:
    n, e, k = study.options.axes.centre
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
    return cell.seed == study.seeds[0] and all(has == held for axis, (has, held) in others.items() if axis != name)


def _held(study: Study, name: str) -> str:
    n, e, k = study.options.axes.centre
    held = {"batch_size": f"n = {n}", "iterations": f"E = {e}", "memories": f"K = {k}"}
    return ", ".join(text for axis, text in held.items() if axis != name)


def _short(source: str) -> str:
    return source if len(source) <= 40 else "…" + source[-39:]
