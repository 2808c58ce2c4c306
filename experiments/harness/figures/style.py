"""What all figures share: what they are told of a study, sizes as in print, text as it is, intervals, files."""

from __future__ import annotations

import io
import math
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from personaagent.experiments.harness.files import replace_file
from personaagent.experiments.harness.results import Row
from personaagent.experiments.harness.settings import lm_title

COLUMN_INCHES, PAGE_INCHES = 3.5, 7.0
"""Widths of a figure that stands in one column of a two-column paper, and across both, without being scaled."""

TEXT_POINTS, SMALL_POINTS = 7.5, 6.5
_LINE_INCHES = SMALL_POINTS * 1.35 / 72
_HANDLE_INCHES = 0.42
"""Of a legend's entry, beside its text."""

GRAY, PALE_GRAY = "0.35", "0.9"

# Colours never tell alone: the markers differ, too.
COLORS = ("#1f4e79", "#c1440e", "#3b7a57", "#8e4585", "#c98a00", "#3aa0c9", "#444444")
MARKERS = ("o", "^", "D", "v", "s", "P", "X", "<", ">", "p", "*", "h", "d", "8")

_METRICS = {
    "accuracy": "accuracy",
    "f1": "macro-F1",
    "mae": "MAE",
    "rmse": "RMSE",
    "rouge1": "ROUGE-1",
    "rougeL": "ROUGE-L",
}
_METADATA: dict[str, dict[str, None]] = {
    "png": {"Software": None},
    "svg": {"Date": None},
    "pdf": {"CreationDate": None, "ModDate": None},
}
"""Left out, so that the same results are the same file."""


@dataclass(frozen=True)
class FigureTask:
    """What a figure says of a task."""

    title: str
    metrics: tuple[str, ...]
    """Names of the metrics, the first being the score."""
    higher_is_better: bool
    """Of the first metric."""
    source: str
    """Where the users come from; a long one loses its beginning."""
    users: int
    queries: int


@dataclass(frozen=True)
class About:
    """What a figure is told of its study, beside the rows."""

    tasks: Mapping[str, FigureTask]
    """By name, at least one; in this order they are drawn."""
    centre: tuple[int, int, int]
    """(n, E, K), where the lines of the scaling figure meet."""
    seed: int
    """The one that is drawn: the study's first."""
    control: str = "none"
    history: str = "all"
    """The history length that the scaling and the comparison are drawn at."""

    def chosen(self, rows: Sequence[Row], any_history: bool = False) -> list[Row]:
        """The rows of this study's tasks and seed, and of its history length."""
        return [
            r
            for r in rows
            if r.cell.task in self.tasks
            and r.cell.seed == self.seed
            and (any_history or r.cell.history == self.history)
        ]

    def size_of(self, name: str) -> str:
        """`100 users, 300 queries`, and the source if it is not that of all tasks."""
        task = self.tasks[name]
        counts = f"{counted(task.users, 'user')}, {counted(task.queries, 'query', 'queries')}"
        return counts if self._one_source else f"{counts} ({shortened(task.source)})"

    def of_all(self, lms: Sequence[str]) -> str:
        """What holds for every panel: the LM if there is one, where the users come from, a control."""
        sources = [f"data: {shortened(task.source)}" for task in self.tasks.values()]
        words = [f"LM: {lm_name(lms[0])}" if len(lms) == 1 else "", sources[0] if self._one_source else ""]
        words.append("" if self.control == "none" else f"control: {plain(self.control)}")
        return "; ".join(filter(None, words))

    @property
    def _one_source(self) -> bool:
        return len({task.source for task in self.tasks.values()}) == 1

    def metric_names(self, name: str, most: int = 2, between: str = "   ") -> str:
        """`● MAE   ○ RMSE   (lower is better)`: the first metrics of a task, as they are marked if there are two."""
        task = self.tasks[name]
        titles = [_METRICS.get(metric, plain(metric)) for metric in task.metrics[:most]]
        if len(titles) > 1:
            titles = ["   ".join(f"{mark} {title}" for mark, title in zip("●○", titles, strict=True))]
        return between.join([*titles, *([] if task.higher_is_better else ["(lower is better)"])])

    def notes(self, rows: Sequence[Row]) -> str:
        """What stands below the panels: what the bars are, and that one seed of several is drawn."""
        seeds = {r.cell.seed for r in rows if r.cell.task in self.tasks}
        several = f"; seed {self.seed} of {len(seeds)} seeds" if len(seeds) > 1 else ""
        return f"bars: 95 % intervals, clustered by user{several}"


class Line(NamedTuple):
    """What a row or a line of a figure shows: a method at its n, E and K."""

    method: str
    batch_size: int
    iterations: int
    memories: int

    @classmethod
    def of(cls, r: Row) -> Line:
        return cls(r.cell.method, r.cell.batch_size, r.cell.iterations, r.cell.memories)


def labels_of(lines: Sequence[Line]) -> list[str]:
    """The methods' names, with n, E and K where a method occurs more than once."""
    often = Counter(line.method for line in lines)
    return [plain(method) + (f" (n={n}, E={e}, K={k})" if often[method] > 1 else "") for method, n, e, k in lines]


@contextmanager
def drawing() -> Iterator[None]:
    """In this block figures are drawn in the house style, whatever the user's matplotlibrc says.

    No text is read as mathematics: names of tasks, LMs and files may hold a dollar sign or an underscore.
    """
    import matplotlib.style

    settings = {
        "text.parse_math": False,
        "font.size": TEXT_POINTS,
        "axes.titlesize": TEXT_POINTS,
        "axes.labelsize": TEXT_POINTS,
        "xtick.labelsize": SMALL_POINTS,
        "ytick.labelsize": SMALL_POINTS,
        "legend.fontsize": TEXT_POINTS,
        "axes.linewidth": 0.6,
        "axes.axisbelow": True,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "grid.color": PALE_GRAY,
        "grid.linewidth": 0.6,
        "xtick.major.width": 0.6,
        "ytick.major.width": 0.6,
        "xtick.major.size": 2.5,
        "ytick.major.size": 2.5,
        "savefig.dpi": 300,
        # Publishers refuse Type 3 fonts; text stays text in both.
        "pdf.fonttype": 42,
        "svg.fonttype": "none",
        "svg.hashsalt": "personaagent",
    }
    with matplotlib.style.context(settings, after_reset=True), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def save(figure: Any, path: Path) -> None:
    """Write a figure as its file name says: .png, .svg, .pdf.

    Raises:
        StoreError: if the file cannot be written.
    """
    kind = path.suffix[1:].lower()
    drawn = io.BytesIO()
    figure.savefig(drawn, format=kind, metadata=_METADATA.get(kind))
    replace_file(path, drawn.getvalue())


def counted(number: int, one: str, many: str | None = None) -> str:
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def lm_name(model: str) -> str:
    """An LM as figures show it."""
    return shortened(lm_title(model), 60)


def lms_of(rows: Sequence[Row]) -> list[str]:
    """The LMs of some rows, each once, in the order of the rows."""
    return list(dict.fromkeys(r.cell.lm for r in rows))


def color_of(number: int) -> str:
    return COLORS[number % len(COLORS)]


def marker_of(number: int) -> str:
    return MARKERS[number % len(MARKERS)]


def lm_entries(lms: Sequence[str]) -> list[tuple[Any, str]]:
    """The legend of several LMs; empty for one, which is named above the panels."""
    from matplotlib.lines import Line2D

    if len(lms) < 2:
        return []
    looks = [{"color": color_of(number), "marker": marker_of(number), "markersize": 4} for number in range(len(lms))]
    return [(Line2D([], [], **look), lm_name(lm)) for look, lm in zip(looks, lms, strict=True)]


def paled(color: str, share: float = 0.45) -> str:
    """Mixed with so much white."""
    from matplotlib.colors import to_hex, to_rgb

    return str(to_hex([(1 - share) * part + share for part in to_rgb(color)]))


def is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def bound(value: Any, estimate: float) -> float:
    """The end of an interval; the estimate itself where there is none, as of one user."""
    return float(value) if is_number(value) else estimate


def open_samples(rows: Sequence[Row]) -> str:
    """`3 failed, 5 waiting`: what the scores do not rest on; empty if there is none."""
    failed, waiting = sum(r.values["failed"] or 0 for r in rows), sum(r.waiting for r in rows)
    return ", ".join([f"{failed:,} failed"] * bool(failed) + [f"{waiting:,} waiting"] * bool(waiting))


def highest(rows: Sequence[Row], second: bool) -> float:
    """The end of a score axis that holds every point and interval; 1 if there is none."""
    ends = []
    for r in rows:
        if is_number(r.values["score"]):
            ends.append(bound(r.values["score_high"], r.values["score"]))
        if second and r.second is not None and is_number(r.second.estimate):
            ends.append(bound(r.second.high, r.second.estimate))
    return min(1.05 * max(ends, default=0.0), sys.float_info.max) or 1.0


def limits(task: FigureTask, rows: Sequence[Row], second: bool) -> tuple[float, float]:
    """Of a score axis. Accuracies fill the range from 0 to 1; errors leave it, and ROUGE stays at its foot."""
    return (0.0, 1.0) if task.metrics[0] == "accuracy" else (0.0, highest(rows, second))


def plain(text: str) -> str:
    """On one line."""
    return " ".join(str(text).split())


def shortened(text: str, most: int = 40) -> str:
    """On one line, the end of it if it is longer: of a path, that tells most. It is cut at a slash if it can be."""
    line = plain(text)
    if len(line) <= most:
        return line
    end = line[1 - most :]
    slash = end.find("/")
    return "…" + (end[slash:] if 0 <= slash < most // 2 else end)


def wrapped(text: str, inches: float, points: float) -> list[str]:
    """A text in lines of a width, broken at spaces; a word that is longer is broken anywhere."""
    lines: list[str] = []
    for word in plain(text).split(" "):
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and width_of(joined, points) <= inches:
            lines[-1] = joined
            continue
        while width_of(word, points) > inches and len(word) > 1:
            fits = next(n for n in range(len(word) - 1, 0, -1) if n == 1 or width_of(word[:n], points) <= inches)
            lines.append(word[:fits])
            word = word[fits:]
        lines.append(word)
    return lines


def balanced(text: str, inches: float, points: float) -> list[str]:
    """As `wrapped`, in as many lines, but of about one length."""
    lines = wrapped(text, inches, points)
    for share in (0.95, 0.9, 0.85, 0.8, 0.75, 0.7, 0.65, 0.6, 0.55):
        narrower = wrapped(text, share * inches, points)
        if len(narrower) > len(lines):
            break
        lines = narrower
    return lines


@lru_cache(maxsize=4096)
def width_of(text: str, points: float) -> float:
    """How wide a text is drawn, in inches."""
    from matplotlib.font_manager import FontProperties
    from matplotlib.textpath import text_to_path

    width, _, _ = text_to_path.get_text_width_height_descent(text, FontProperties(size=points), ismath=False)
    return float(width) / 72


def legend_columns(labels: Sequence[str], inches: float) -> int:
    """How many columns of a legend fit into a width, at least one."""
    widths = [width_of(label, TEXT_POINTS) + _HANDLE_INCHES for label in labels]
    for rows in range(1, len(labels)):
        columns = math.ceil(len(labels) / rows)
        # Matplotlib fills column by column, the first ones having one entry more.
        full, rest = divmod(len(labels), columns)
        starts = [number * full + min(number, rest) for number in range(columns + 1)]
        if sum(max(widths[start:end]) for start, end in pairwise(starts)) <= inches:
            return columns
    return 1


def frame(width: float, panels_inches: float, above: str, below: str, entries: Sequence[tuple[Any, str]] = ()) -> Any:
    """A figure with words above and below, and a legend, around the room of its panels, which fill it by themselves.

    Args:
        width: in inches.
        panels_inches: height of that room.
        above, below: small and gray, in as many lines as they take; the legend stands between panels and `below`.
        entries: handles and labels of the legend.
    """
    from matplotlib.figure import Figure

    pad = 0.05
    lines = [wrapped(text, width - 4 * pad, SMALL_POINTS) if text else [] for text in (above, below)]
    head, foot = (len(some) * _LINE_INCHES for some in lines)
    columns = legend_columns([label for _, label in entries], width - 2 * pad) if entries else 1
    legend_inches = math.ceil(len(entries) / columns) * TEXT_POINTS * 1.4 / 72 + 2 * pad if entries else 0.0
    height = panels_inches + legend_inches + head + foot + 2 * pad
    figure = Figure(figsize=(width, height))
    bottom = (foot + legend_inches + pad) / height
    figure.set_layout_engine(
        "constrained", rect=(0, bottom, 1, panels_inches / height), h_pad=0.04, w_pad=0.05, hspace=0.02, wspace=0.02
    )
    for some, top in zip(lines, (height - pad, foot + pad), strict=True):
        for number, line in enumerate(some):
            y = (top - (number + 0.5) * _LINE_INCHES) / height
            figure.text(0.5, y, line, ha="center", va="center", fontsize=SMALL_POINTS, color=GRAY)
    if entries:
        handles, labels = zip(*entries, strict=True)
        figure.legend(
            handles, labels, loc="lower center", bbox_to_anchor=(0.5, (foot + 2 * pad) / height), ncols=columns,
            frameon=False, borderaxespad=0.0, borderpad=0.0, labelspacing=0.35, columnspacing=1.4, handletextpad=0.5,
        )  # fmt: skip
    return figure


def title(axis: Any, lines: Sequence[str], small: Sequence[str]) -> None:
    """Above a panel: what it shows, and in small and gray how much."""
    below = 7 + len(small) * SMALL_POINTS * 1.3
    axis.set_title("\n".join(lines), pad=below, linespacing=1.2)
    axis.annotate(
        "\n".join(small), (0.5, 1), xycoords="axes fraction", xytext=(0, 4), textcoords="offset points",
        ha="center", va="bottom", fontsize=SMALL_POINTS, color=GRAY, linespacing=1.2,
    )  # fmt: skip
