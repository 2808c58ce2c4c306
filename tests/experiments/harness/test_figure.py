"""The figure is drawn for whatever a study can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib.figure
import matplotlib.image
import pytest
from dspy import lm15

from personaagent.experiments.harness.figure import draw_scaling


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, rows: Any) -> Any:
    """Draws a study; the panels, and (in the picture file) more than white."""
    made: list[Any] = []
    save = matplotlib.figure.Figure.savefig
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda self, *a, **k: (made.append(self), save(self, *a, **k))
    )

    def draw(study: Any) -> Any:
        path = tmp_path / "scaling.png"
        draw_scaling(study, rows(study), path)
        picture = matplotlib.image.imread(path)
        assert picture.shape[0] > 300 and picture.std() > 0.01
        return made[-1]

    return draw


def lines_of(axis: Any) -> dict[str, list[float]]:
    return {c.get_label(): list(c.lines[0].get_xdata()) for c in axis.containers}


def test_a_panel_an_axis_with_accuracy_and_f1(opened: Any, options: Any, drawn: Any) -> None:
    figure = drawn(opened(options(axes=((0, 2, 3), (1, 2), (0, 3, 4)), grid=False)))
    batch, iterations, memories = figure.axes
    assert [a.get_xlabel() for a in figure.axes] == [
        "alignment batch size n", "alignment iterations E", "retrieved memories K",
    ]  # fmt: skip
    assert lines_of(batch)["accuracy, scripted/one"] == [0, 2, 3]
    assert lines_of(iterations)["accuracy, scripted/one"] == [1, 2]
    assert lines_of(memories)["accuracy, scripted/one"] == [0, 3, 4]
    assert all("macro-F1, scripted/one" in lines_of(axis) for axis in figure.axes)
    assert [list(a.get_xticks()) for a in figure.axes] == [[0, 2, 3], [1, 2], [0, 3, 4]]
    assert "scripted/one" in figure.get_suptitle() and "3 users, 6 queries" in figure.get_suptitle()


def test_of_a_grid_the_lines_through_the_centre(opened: Any, options: Any, drawn: Any, rows: Any) -> None:
    study = opened(options(axes=((0, 3), (1, 2), (0, 4)), grid=True))
    figure = drawn(study)
    values = {(r.cell.batch_size, r.cell.iterations, r.cell.memories): r.values["accuracy"] for r in rows(study)}
    accuracy = [c.lines[0].get_ydata().tolist() for a in figure.axes for c in a.containers if "acc" in c.get_label()]
    assert accuracy == [
        [values[0, 0, 4], values[3, 1, 4]],
        [values[3, 1, 4], values[3, 2, 4]],
        [values[3, 1, 0], values[3, 1, 4]],
    ]


def test_intervals_reach_from_low_to_high(opened: Any, options: Any, drawn: Any, rows: Any) -> None:
    study = opened(options(axes=((3,), (1,), (4,))))
    [row] = rows(study)
    bars = drawn(study).axes[0].containers[0].lines[2][0].get_segments()[0]
    assert bars[:, 1] == pytest.approx([row.values["score_low"], row.values["score_high"]])


@pytest.mark.parametrize("axes", [((0,), (1,), (0,)), ((2,), (1,), (3,)), ((0, 2), (0,), (3, 0))], ids=str)
def test_single_values_and_no_alignment(opened: Any, options: Any, drawn: Any, axes: Any) -> None:
    figure = drawn(opened(options(axes=axes)))
    assert lines_of(figure.axes[2])["accuracy, scripted/one"] == sorted(axes[2])
    assert [text.get_text() for text in figure.legends[0].get_texts()]


def test_one_user_has_no_interval_and_is_drawn(opened: Any, options: Any, drawn: Any) -> None:
    drawn(opened(options(users=1)))


def test_cells_that_failed_are_left_out(opened: Any, options: Any, engine: Any, drawn: Any) -> None:
    usual = engine.script

    def failing(call: Any) -> Any:
        if "(1) recall" in call.system:
            raise lm15.InvalidRequestError("no tools today")
        return usual(call)

    engine.script = failing
    figure = drawn(opened(options(axes=((0,), (1,), (0, 3)))))
    assert lines_of(figure.axes[2])["accuracy, scripted/one"] == [0]


def test_nothing_answered_at_all_is_an_empty_figure(opened: Any, options: Any, drawn: Any) -> None:
    figure = drawn(opened(options(lm="offline", max_calls=0)))
    assert not figure.axes[0].containers


def test_each_lm_has_its_colour_and_all_values_have_their_tick(opened: Any, options: Any, drawn: Any) -> None:
    for number in range(4):
        opened(options(axes=((0, 2), (1,), (0,)), lm=f"scripted/{number}"))
    figure = drawn(opened(options(axes=((2, 4), (1,), (0,)), lm="scripted/other")))
    labels = {label for label in lines_of(figure.axes[0]) if label.startswith("accuracy")}
    assert labels == {f"accuracy, scripted/{name}" for name in (0, 1, 2, 3, "other")}
    assert list(figure.axes[0].get_xticks()) == [0, 2, 4]


def test_a_long_source_is_shortened_and_a_control_is_named(opened: Any, options: Any, drawn: Any) -> None:
    title = drawn(opened(options(control="swap"))).get_suptitle()
    assert "control: swap" in title and "…" in title


def test_each_task_has_a_row_with_its_own_metrics(opened: Any, options: Any, drawn: Any, synthetic: Any) -> None:
    data = synthetic("lamp-4")
    (synthetic("lamp-2n") / "news_categorize").rename(data / "news_categorize")
    figure = drawn(opened(options(tasks=("lamp-4", "lamp-2n"), data=data, axes=((0, 2), (1,), (3,)))))
    rows = [lines_of(axis) for axis in (figure.axes[0], figure.axes[3])]
    assert [sorted(line.partition(",")[0] for line in row) for row in rows] == [
        ["accuracy", "macro-F1"],
        ["ROUGE-1", "ROUGE-L"],
    ]


def test_the_axis_of_an_error_says_that_lower_is_better(opened: Any, options: Any, drawn: Any, synthetic: Any) -> None:
    figure = drawn(opened(options(tasks=("lamp-3",), data=synthetic("lamp-3"), axes=((0, 2), (1,), (3,)))))
    assert figure.axes[0].get_ylabel() == "MAE, RMSE (lower is better)"
    assert figure.axes[0].get_ylim()[0] == 0
