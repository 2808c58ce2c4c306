"""The figures are drawn for whatever a study can be, and say what they show."""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import combinations
from pathlib import Path
from typing import Any

import matplotlib
import matplotlib.figure
import matplotlib.image
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.figures import (
    About,
    FigureTask,
    draw_comparison,
    draw_histories,
    draw_scaling,
    style,
)
from personaagent.experiments.harness.results import COLUMNS, Row
from personaagent.experiments.harness.statistics import Interval
from personaagent.programs.errors import StoreError

METHODS = (
    "prompt icl rag pag react react-wiki memory-bank no-alignment no-persona no-memory no-action episodic-only "
    "semantic-only persona-agent"
).split()
TASKS = {
    "lamp-2m": FigureTask("LaMP-2M, movie tagging", ("accuracy", "f1"), True, "sample users", 20, 60),
    "lamp-3": FigureTask("LaMP-3, product rating", ("mae", "rmse"), False, "sample users", 20, 40),
    "lamp-4": FigureTask("LaMP-4, headlines", ("rouge1", "rougeL"), True, "sample users", 20, 60),
}
AROUND = [(0, 0, 4), (3, 1, 4), (5, 1, 4), (3, 2, 4), (3, 1, 0)]
DRAWERS = [draw_scaling, draw_comparison, draw_histories]

Draw = Callable[..., Any]


def about(*names: str, **changes: Any) -> About:
    return About({name: TASKS[name] for name in names or ("lamp-2m",)}, (3, 1, 4), 0, **changes)


def row(
    task: str = "lamp-2m",
    method: str = "persona-agent",
    lm: str = "one/lm",
    at: tuple[int, int, int] = (3, 1, 4),
    history: str = "all",
    seed: int = 0,
    score: float | None = 0.5,
    failed: int = 0,
    waiting: int = 0,
) -> Row:
    values: dict[str, Any] = dict.fromkeys(COLUMNS)
    values |= {"users": 20, "queries": 60, "failed": failed, "answered": 0 if score is None else 60, "score": score}
    second = None
    if score is not None:
        values |= {"score_low": score - 0.1, "score_high": score + 0.1}
        second = Interval(score - 0.05, score - 0.2, score + 0.1)
    cell = Cell(
        task=task, method=method, lm=lm, batch_size=at[0], iterations=at[1], memories=at[2], history=history, seed=seed
    )
    return Row(cell=cell, values=values, second=second, waiting=waiting)


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Draw:
    """Draws; the figure, after seeing that nothing of it overlaps or leaves the page, and that there is a picture."""
    made: list[Any] = []
    save = matplotlib.figure.Figure.savefig

    def kept(self: Any, *args: Any, **settings: Any) -> None:
        save(self, *args, **settings)
        made.append(self)
        # Here, within the house style: a text is measured when it is drawn.
        inside_and_apart(self)

    monkeypatch.setattr(matplotlib.figure.Figure, "savefig", kept)

    def draw(drawer: Callable[..., None], told: About, rows: list[Row]) -> Any:
        path = tmp_path / "figure.png"
        drawer(told, rows, path)
        assert matplotlib.image.imread(path).std() > 0.01
        return made[-1]

    return draw


def inside_and_apart(figure: Any) -> None:
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    renderer = canvas.get_renderer()
    visible = [axis for axis in figure.get_axes() if axis.get_visible()]
    texts = [*figure.texts]
    for axis in visible:
        texts += [axis.title, axis.xaxis.label, axis.yaxis.label, *axis.texts]
        for one in (axis.xaxis, axis.yaxis):
            low, high = sorted(one.get_view_interval())
            texts += [
                label
                for place, label in zip(one.get_ticklocs(), one.get_ticklabels(), strict=False)
                if low <= place <= high
            ]
    for legend in figure.legends:
        texts += legend.get_texts()
    boxes = [(t.get_text(), t.get_window_extent(renderer)) for t in texts if t.get_text().strip() and t.get_visible()]
    for text, box in boxes:
        assert box.x0 >= 0 and box.y0 >= 0, text
        assert box.x1 <= figure.bbox.x1 + 1 and box.y1 <= figure.bbox.y1 + 1, text
    for (one, box), (other, with_box) in combinations(boxes, 2):
        across = min(box.x1, with_box.x1) - max(box.x0, with_box.x0)
        down = min(box.y1, with_box.y1) - max(box.y0, with_box.y0)
        assert across <= 1 or down <= 1, (one, other)


def words(figure: Any) -> str:
    """Every text of a figure, a line each."""
    found = figure.findobj(matplotlib.text.Text)
    return "\n".join(dict.fromkeys(text.get_text() for text in found if text.get_text()))


def lines_of(axis: Any, filled: bool = True) -> list[tuple[list[float], list[float]]]:
    """Lines through the points of a metric: the score's are filled, or of a colour of their own."""
    marked = [line for line in axis.lines if line.get_marker() not in ("None", "", None)]
    chosen = [line for line in marked if (line.get_markerfacecolor() != "white") == filled]
    return [([float(x) for x in line.get_xdata()], [float(y) for y in line.get_ydata()]) for line in chosen]


def bars_of(axis: Any) -> list[tuple[list[float], list[float]]]:
    return [
        (list(line.get_xdata()), list(line.get_ydata()))
        for line in axis.lines
        if line.get_marker() == "None" and len(line.get_xdata()) == 2 and line.get_transform() == axis.transData
    ]


# -- all of them ----------------------------------------------------------------------------------


@pytest.mark.parametrize("drawer", DRAWERS)
@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_the_same_results_are_the_same_file(drawer: Any, kind: str, tmp_path: Path) -> None:
    contents = set()
    for name in ("one", "other"):
        drawer(about(), [row(), row(at=(0, 0, 4))], tmp_path / f"{name}.{kind}")
        contents.add((tmp_path / f"{name}.{kind}").read_bytes())
    assert len(contents) == 1
    assert {p.suffix for p in tmp_path.iterdir()} == {f".{kind}"}


@pytest.mark.parametrize("drawer", DRAWERS)
def test_what_is_shown_is_said(drawer: Any, drawn: Draw) -> None:
    said = words(drawn(drawer, about(control="swap"), [row(lm="offline")]))
    assert "LaMP-2M, movie tagging" in said.replace("\n", " ")
    for part in ("20 users, 60 queries", "LM: offline reader (not an LLM)", "data: sample users", "control: swap"):
        assert part in said
    assert "bars: 95 % intervals, clustered by user" in said and "accuracy" in said


@pytest.mark.parametrize("drawer", DRAWERS)
def test_names_are_text_and_no_mathematics(drawer: Any, drawn: Draw, tmp_path: Path) -> None:
    title, source, lm = r"_Costs $5_{x}$ \frac{1} a_b^2", "/home/$HOME/we_are", "_lm/we$ird_$name^{2}"
    told = about()
    told = replace(told, tasks={"lamp-2m": replace(told.tasks["lamp-2m"], title=title, source=source)})
    rows = [row(lm=lm), row(lm="other/$x$", at=(0, 0, 4))]
    drawn(drawer, told, rows)
    drawer(told, rows, tmp_path / "figure.svg")
    written = html.unescape((tmp_path / "figure.svg").read_text())
    said = " ".join(re.findall(r"<text[^>]*>([^<]*)</text>", (tmp_path / "figure.svg").read_text()))
    for name in (title, source, lm):
        assert name.split(" ")[0] in html.unescape(said), name
    assert r"\frac{1}" in written and "a_b^2" in written


@pytest.mark.parametrize("drawer", DRAWERS)
def test_a_users_own_matplotlibrc_changes_nothing_and_is_left_alone(drawer: Any, tmp_path: Path) -> None:
    drawer(about(), [row()], tmp_path / "one.svg")
    with matplotlib.rc_context({"font.size": 30, "text.parse_math": True, "lines.linewidth": 9, "axes.grid": True}):
        drawer(about(), [row()], tmp_path / "other.svg")
        assert matplotlib.rcParams["font.size"] == 30
    assert (tmp_path / "one.svg").read_bytes() == (tmp_path / "other.svg").read_bytes()


@pytest.mark.parametrize("drawer", DRAWERS)
@pytest.mark.parametrize("rows", [[], [row(score=None)], [row(score=math.nan)], [row(task="unknown")]], ids=len)
def test_nothing_to_draw_is_an_empty_figure(drawer: Any, drawn: Draw, rows: list[Row]) -> None:
    figure = drawn(drawer, about(), rows)
    assert not any(lines_of(axis) for axis in figure.get_axes())
    assert "LaMP-2M" in words(figure)


@pytest.mark.parametrize("drawer", DRAWERS)
@pytest.mark.parametrize("bound", [None, math.nan, -math.inf])
def test_without_an_interval_the_point_is_drawn(drawer: Any, drawn: Draw, bound: Any) -> None:
    one = row("lamp-3")
    one = replace(one, values={**one.values, "score_low": bound, "score_high": bound})
    one = replace(one, second=Interval(0.4, math.nan, math.nan))
    figure = drawn(drawer, about("lamp-3"), [one])
    assert lines_of(figure.get_axes()[0])
    assert {len({*xs}) * len({*ys}) for xs, ys in bars_of(figure.get_axes()[0])} == {1}


@pytest.mark.parametrize("drawer", DRAWERS)
def test_a_second_metric_that_is_missing_or_not_a_number_is_left_out(drawer: Any, drawn: Draw) -> None:
    rows = [replace(row(), second=None), replace(row(at=(0, 0, 4)), second=Interval(math.nan, 0.1, 0.2))]
    assert not lines_of(drawn(drawer, about(), rows).get_axes()[0], filled=False)


@pytest.mark.parametrize("drawer", DRAWERS)
def test_an_error_far_out_of_range_does_not_break_the_figure(drawer: Any, drawn: Draw) -> None:
    for score in (1e9, 1e300):
        drawn(drawer, about("lamp-3"), [row("lamp-3", score=score), row("lamp-3", at=(0, 0, 4))])


@pytest.mark.parametrize("drawer", DRAWERS)
def test_only_the_first_seed_is_drawn_and_that_is_said(drawer: Any, drawn: Draw) -> None:
    rows = [row(score=0.4), row(score=0.9, seed=1), row(score=0.9, seed=2)]
    figure = drawn(drawer, about(), rows)
    values = {value for line in lines_of(figure.get_axes()[0]) for axis in line for value in axis}
    assert 0.4 in values and 0.9 not in values
    assert "seed 0 of 3 seeds" in words(figure)
    assert "seed" not in words(drawn(drawer, about(), rows[:1]))


@pytest.mark.parametrize("drawer", DRAWERS)
@pytest.mark.parametrize(
    ("task", "limits"), [("lamp-2m", (0.0, 1.0)), ("lamp-3", (0.0, 0.63)), ("lamp-4", (0.0, 0.63))], ids=str
)
def test_axes_start_at_zero_and_accuracies_end_at_one(drawer: Any, drawn: Draw, task: str, limits: Any) -> None:
    axis = drawn(drawer, about(task), [row(task)]).get_axes()[0]
    found = axis.get_xlim() if drawer is draw_comparison else axis.get_ylim()
    assert found == pytest.approx(limits)


@pytest.mark.parametrize("drawer", DRAWERS)
def test_lower_is_better_is_said_of_errors_alone(drawer: Any, drawn: Draw) -> None:
    first, *_ = axes = drawn(drawer, about("lamp-3", "lamp-2m"), [row("lamp-3"), row()]).get_axes()
    last = axes[3 if drawer is draw_scaling else 1]
    label = "get_xlabel" if drawer is draw_comparison else "get_ylabel"
    assert "(lower is better)" in getattr(first, label)() and "better" not in getattr(last, label)()


@pytest.mark.parametrize("drawer", DRAWERS)
def test_different_sources_are_said_with_their_tasks(drawer: Any, drawn: Draw) -> None:
    told = about("lamp-2m", "lamp-3")
    elsewhere = replace(told.tasks["lamp-3"], source="/a/long/way/to/the/folder/where/all/of/the/data/lie/lamp")
    told = replace(told, tasks={**told.tasks, "lamp-3": elsewhere})
    said = words(drawn(drawer, told, [row(), row("lamp-3")]))
    assert "60 queries (sample users)" in said.replace("\n", " ") and "data:" not in said
    assert "40queries(…/folder/where/all/of/the/data/lie/lamp)" in "".join(said.split())


@pytest.mark.parametrize("drawer", DRAWERS)
def test_a_file_that_cannot_be_written_is_one_error(drawer: Any, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="nowhere"):
        drawer(about(), [row()], tmp_path / "nowhere" / "figure.png")


# -- scaling --------------------------------------------------------------------------------------


def test_scaling_has_a_panel_an_axis_each_through_the_centre(drawn: Draw) -> None:
    grid = [(0, 0, 0), (0, 0, 4), *((n, e, k) for n in (3, 5) for e in (1, 2) for k in (0, 4))]
    rows = [row(at=at, score=0.2 + 0.01 * number) for number, at in enumerate(grid)]
    figure = drawn(draw_scaling, about(), rows)
    axes = figure.get_axes()
    assert [a.get_xlabel() for a in axes] == [
        "alignment batch size n", "alignment iterations E", "retrieved memories K",
    ]  # fmt: skip
    assert [list(a.get_xticks()) for a in axes] == [[0, 3, 5], [1, 2], [0, 4]]
    assert [a.get_title() for a in axes] == ["E = 1, K = 4", "n = 3, K = 4", "n = 3, E = 1"]
    scores = dict(zip(grid, (r.values["score"] for r in rows), strict=True))
    through = [[(0, 0, 4), (3, 1, 4), (5, 1, 4)], [(3, 1, 4), (3, 2, 4)], [(3, 1, 0), (3, 1, 4)]]
    for axis, points in zip(axes, through, strict=True):
        [(_, ys)] = lines_of(axis)
        assert ys == [scores[at] for at in points]


def test_scaling_is_of_persona_agent_with_all_of_the_history(drawn: Draw) -> None:
    rows = [row(at=at) for at in AROUND]
    others = [
        row(method="rag", at=(0, 0, 8)),
        row(method="no-alignment", at=(0, 0, 4), score=0.9),
        row(at=(9, 1, 4), history="10"),
    ]
    figure = drawn(draw_scaling, about(), [*others, *rows])
    assert [list(a.get_xticks()) for a in figure.get_axes()] == [[0, 3, 5], [1, 2], [0, 4]]
    assert all(max(ys) == 0.5 for axis in figure.get_axes() for _, ys in lines_of(axis))


def test_scaling_draws_intervals_from_low_to_high_beside_each_other(drawn: Draw) -> None:
    axis = drawn(draw_scaling, about(), [row(at=at) for at in AROUND]).get_axes()[0]
    ends = [tuple(ys) for _, ys in bars_of(axis)]
    assert ends.count(pytest.approx((0.4, 0.6))) == 3 and ends.count(pytest.approx((0.3, 0.6))) == 3
    assert len({xs[0] for xs, _ in bars_of(axis)}) == 6


def test_scaling_of_several_lms_has_a_colour_each_and_all_values_have_their_tick(drawn: Draw) -> None:
    rows = [row(lm=f"lm/{number}", at=at) for number in range(3) for at in AROUND[: 2 + number]]
    figure = drawn(draw_scaling, about(), rows)
    axis = figure.get_axes()[0]
    assert len(lines_of(axis)) == 3 and list(axis.get_xticks()) == [0, 3, 5]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["lm/0", "lm/1", "lm/2"]


def test_scaling_counts_what_failed_or_waits_on_its_lines(drawn: Draw) -> None:
    rows = [
        row(at=(3, 1, 4), failed=2),
        row(at=(0, 0, 4), score=None, failed=60, waiting=5),
        row(at=(9, 9, 9), failed=7),
    ]
    figure = drawn(draw_scaling, about(), rows)
    assert "62 failed, 5 waiting" in words(figure)
    assert list(figure.get_axes()[0].get_xticks()) == [3]


def test_scaling_leaves_out_tick_labels_that_would_touch(drawn: Draw) -> None:
    values = (0, 1, 2, 3, 4, 5, 8, 10, 20, 50)
    axis = drawn(draw_scaling, about(), [row(at=(n, 1, 4)) for n in values]).get_axes()[0]
    assert list(axis.get_xticks()) == list(values)
    labels = [label.get_text() for label in axis.get_xticklabels()]
    assert labels[0] == "0" and labels[-1] == "50" and "1" not in labels


def test_scaling_has_a_row_of_panels_a_task(drawn: Draw) -> None:
    figure = drawn(draw_scaling, about(*TASKS), [row(task, at=at) for task in TASKS for at in AROUND])
    labels = [axis.get_ylabel() for axis in figure.get_axes()[::3]]
    assert labels == ["● accuracy   ○ macro-F1", "● MAE   ○ RMSE\n(lower is better)", "● ROUGE-1   ○ ROUGE-L"]


# -- comparison -----------------------------------------------------------------------------------


@pytest.mark.parametrize("tasks", range(1, 7))
def test_comparison_has_a_panel_a_task_with_the_methods_in_the_tables_order(drawn: Draw, tasks: int) -> None:
    names = [f"task-{number}" for number in range(tasks)]
    told = About(dict.fromkeys(names, TASKS["lamp-2m"]), (3, 1, 4), 0)
    rows = [row(name, method, score=0.3 + 0.01 * place) for name in names for place, method in enumerate(METHODS)]
    figure = drawn(draw_comparison, told, rows)
    axes = [axis for axis in figure.get_axes() if axis.get_visible()]
    assert len(axes) == tasks
    assert [label.get_text() for label in axes[0].get_yticklabels()] == METHODS
    for axis in axes:
        points = [(xs[0], ys[0]) for xs, ys in lines_of(axis)]
        assert [x for x, _ in points] == [0.3 + 0.01 * place for place in range(14)]
        assert [y for _, y in points] == sorted(y for _, y in points)
        assert axis.get_ylim() == (13.5, -0.5)  # from top to bottom
    assert figure.get_size_inches()[0] == (style.COLUMN_INCHES if tasks == 1 else style.PAGE_INCHES)
    assert figure.get_size_inches()[1] < 9


def test_comparison_shows_the_second_metric_pale_and_open_under_the_first(drawn: Draw) -> None:
    axis = drawn(draw_comparison, about(), [row()]).get_axes()[0]
    [(_, [first])], [(xs, [second])] = lines_of(axis), lines_of(axis, filled=False)
    assert xs == [0.45] and first < 0 < second < 0.5
    assert bars_of(axis) == [([0.4, 0.6], [first] * 2), ([0.3, 0.6], [second] * 2)]
    assert axis.get_xlabel() == "● accuracy   ○ macro-F1"


def test_comparison_names_the_cell_where_a_method_has_several(drawn: Draw) -> None:
    rows = [row(method="rag", at=(0, 0, 4)), *(row(at=at) for at in AROUND[:2])]
    axis = drawn(draw_comparison, about(), rows).get_axes()[0]
    labels = ["rag", "persona-agent (n=0, E=0, K=4)", "persona-agent (n=3, E=1, K=4)"]
    assert [label.get_text() for label in axis.get_yticklabels()] == labels


def test_comparison_says_what_failed_or_waits_in_its_row(drawn: Draw) -> None:
    rows = [
        row(method="prompt"),
        row(method="rag", failed=3),
        row(method="pag", failed=1, waiting=12),
        row(method="react", score=None, failed=60),
        row(method="memory-bank", score=None),
    ]
    axis = drawn(draw_comparison, about(), rows).get_axes()[0]
    notes = [(text.xy[1], text.get_text()) for text in axis.texts if text.xy[0] == 1]
    assert notes == [(1, "3 failed"), (2, "1 failed, 12 waiting"), (3, "60 failed"), (4, "none answered")]
    assert len(lines_of(axis)) == 3 and len(axis.get_yticklabels()) == 5


def test_comparison_of_several_lms_has_them_side_by_side_with_a_legend(drawn: Draw) -> None:
    rows = [
        row(task, method, lm, failed=2 if lm == "offline" else 0)
        for task in ("lamp-2m", "lamp-3")
        for method in METHODS[:7]
        for lm in ("offline", "a/lm", "another/lm")
    ]
    figure = drawn(draw_comparison, about("lamp-2m", "lamp-3"), rows)
    legend = [text.get_text() for text in figure.legends[0].get_texts()]
    assert legend == ["offline reader (not an LLM)", "a/lm", "another/lm"]
    ys = [ys[0] for _, ys in lines_of(figure.get_axes()[0])]
    assert len(set(ys)) == 21 and all(abs(y - number // 3) < 0.5 for number, y in enumerate(ys))
    assert words(figure).count("2 failed") == 1  # the text is the same in each row


def test_comparison_lines_up_tasks_with_different_methods(drawn: Draw) -> None:
    rows = [row("lamp-2m", method) for method in ("prompt", "rag", "persona-agent")]
    rows += [row("lamp-3", method) for method in ("prompt", "pag", "persona-agent", "last")]
    first, second = drawn(draw_comparison, about("lamp-2m", "lamp-3"), rows).get_axes()
    assert [label.get_text() for label in first.get_yticklabels()] == ["prompt", "pag", "rag", "persona-agent", "last"]
    assert [round(ys[0]) for _, ys in lines_of(first)] == [0, 2, 3]
    assert [round(ys[0]) for _, ys in lines_of(second)] == [0, 1, 3, 4]


def test_comparison_is_at_one_history(drawn: Draw) -> None:
    rows = [row(history=h, score=score) for h, score in (("10", 0.3), ("all", 0.6))]
    figure = drawn(draw_comparison, about(history="10"), rows)
    assert [xs for xs, _ in lines_of(figure.get_axes()[0])] == [[0.3]]
    assert "histories cut to the newest 10" in words(figure)


# -- histories ------------------------------------------------------------------------------------

LENGTHS = ["1", "2", "5", "10", "20", "50", "all"]


def over_lengths(
    methods: list[str], tasks: tuple[str, ...] = ("lamp-2m",), lms: tuple[str, ...] = ("a/lm",)
) -> list[Row]:
    return [
        row(task, method, lm, history=h, score=0.2 + 0.05 * place)
        for task in tasks
        for lm in lms
        for method in methods
        for place, h in enumerate(reversed(LENGTHS))
    ]


@pytest.mark.parametrize("count", [1, 4, 14])
def test_histories_are_in_order_with_a_line_a_method(drawn: Draw, count: int) -> None:
    figure = drawn(draw_histories, about(), over_lengths(METHODS[-count:]))
    [axis] = figure.get_axes()
    assert [label.get_text() for label in axis.get_xticklabels()] == LENGTHS
    lines = [line for line in axis.lines if line.get_marker() != "None"]
    assert len(lines) == count
    assert all(list(line.get_ydata()) == sorted(line.get_ydata(), reverse=True) for line in lines)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == METHODS[-count:]
    # Side by side: no two intervals on one another, none nearer to another length than to its own.
    xs = [float(x) for line in lines for x in line.get_xdata()]
    assert len(set(xs)) == 7 * count and all(abs(x - round(x)) < 0.4 for x in xs)
    bars = [line for line in axis.lines if line.get_marker() == "None"]
    assert [tuple(bar.get_ydata()) for bar in bars[:7]] == [(y - 0.1, y + 0.1) for y in lines[0].get_ydata()]


def test_histories_look_different_and_persona_agent_the_strongest(drawn: Draw) -> None:
    lines = [
        line
        for line in drawn(draw_histories, about(), over_lengths(METHODS)).get_axes()[0].lines
        if line.get_marker() != "None"
    ]
    looks = {(line.get_color(), line.get_marker(), line.get_markerfacecolor()) for line in lines}
    assert len(looks) == 14 and len({marker for _, marker, _ in looks}) == 14
    assert max(lines, key=lambda line: line.get_linewidth()).get_label() == "persona-agent"


def test_histories_have_a_panel_a_task_and_lm_with_one_scale_a_task(drawn: Draw) -> None:
    rows = over_lengths(METHODS[:3], ("lamp-2m", "lamp-3"), ("a/lm", "another/lm"))
    rows = [replace(r, values={**r.values, "score_high": 2.0}) if r.cell.lm == "a/lm" else r for r in rows]
    figure = drawn(draw_histories, about("lamp-2m", "lamp-3"), rows)
    axes = figure.get_axes()
    small = [axis.texts[0].get_text() for axis in axes]
    assert [text.split("\n")[0] for text in small] == ["a/lm", "another/lm"] * 2
    assert [axis.get_ylim() for axis in axes] == [(0, 1)] * 2 + [(0, pytest.approx(2.1))] * 2


def test_histories_leave_gaps_and_count_what_failed(drawn: Draw) -> None:
    rows = [
        row(method="rag", history="1"),
        row(method="rag", history="5", score=None, failed=9),
        row(method="pag", history="5"),
    ]
    figure = drawn(draw_histories, about(), rows)
    [axis] = figure.get_axes()
    assert [label.get_text() for label in axis.get_xticklabels()] == ["1", "5"]
    assert [len(xs) for xs, _ in lines_of(axis)] == [1, 1]
    assert "20 users, 60 queries; 9 failed" in words(figure)


# -- text -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "short"),
    [
        ("sample users", "sample users"),
        ("two\n lines", "two lines"),
        ("/home/somebody/projects/personas/data/oppu/LaMP", "…/projects/personas/data/oppu/LaMP"),
        ("x" * 50, "…" + "x" * 39),
        ("short/" + "x" * 39, "…" + "x" * 39),
    ],
)
def test_a_long_source_keeps_its_end(text: str, short: str) -> None:
    assert style.shortened(text) == short


def test_text_is_broken_where_it_is_too_wide() -> None:
    with style.drawing():
        text = "LaMP-5, personalized scholarly title generation"
        lines = style.wrapped(text, 2.0, 7.5)
        assert " ".join(lines) == text and len(lines) == 2
        assert all(style.width_of(line, 7.5) <= 2.0 for line in lines)
        even = style.balanced(text, 2.0, 7.5)
        assert len(even) == 2 and style.width_of(even[0], 7.5) <= style.width_of(lines[0], 7.5)
        word = "x" * 100
        pieces = style.wrapped(word, 1.0, 7.5)
        assert "".join(pieces) == word and all(style.width_of(piece, 7.5) <= 1.0 for piece in pieces)
        assert style.wrapped("xyz", 0.0, 7.5) == ["x", "y", "z"]


def test_a_legend_takes_as_many_columns_as_fit() -> None:
    with style.drawing():
        assert style.legend_columns(METHODS, 7.0) == 7
        assert style.legend_columns(METHODS[-4:], 3.3) == 2
        assert style.legend_columns(["x" * 200] * 3, 3.3) == 1
        assert style.legend_columns(["one"], 0.1) == 1
