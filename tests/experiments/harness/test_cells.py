"""Cells and how axes span them."""

from __future__ import annotations

import pytest

from personaagent.experiments.harness.cells import Axes, Cell, parse_axis
from personaagent.programs.errors import InputError

BASE = Cell("lamp-2m", "persona-agent", "offline", 0, 0, 0)


def points(cells: list[Cell]) -> list[tuple[int, int, int]]:
    return [(c.batch_size, c.iterations, c.memories) for c in cells]


@pytest.mark.parametrize(("n", "e"), [(0, 3), (3, 0), (0, 0)])
def test_no_alignment_is_one_cell_however_it_is_written(n: int, e: int) -> None:
    assert Cell("t", "m", "lm", n, e, 4) == Cell("t", "m", "lm", 0, 0, 4)


def test_the_default_axes_vary_one_at_a_time_around_the_papers_values() -> None:
    axes = Axes((0, 1, 3, 5), (1, 2, 3, 4, 5), (0, 1, 4, 8))
    assert axes.centre == (3, 1, 4)
    assert points(axes.around_centre(BASE)) == [
        (0, 0, 4), (1, 1, 4), (3, 1, 4), (5, 1, 4),
        (3, 2, 4), (3, 3, 4), (3, 4, 4), (3, 5, 4),
        (3, 1, 0), (3, 1, 1), (3, 1, 8),
    ]  # fmt: skip


def test_where_the_papers_value_is_not_listed_the_first_one_is_the_centre() -> None:
    axes = Axes((5, 1), (4, 2), (8, 0))
    assert axes.centre == (5, 4, 8)
    assert points(axes.around_centre(BASE)) == [(5, 4, 8), (1, 4, 8), (5, 2, 8), (5, 4, 0)]


def test_a_grid_has_one_cell_without_alignment_for_each_number_of_memories() -> None:
    cells = Axes((0, 2), (0, 1, 2), (0, 4)).grid(BASE)
    assert sorted(points(cells)) == [(0, 0, 0), (0, 0, 4), (2, 1, 0), (2, 1, 4), (2, 2, 0), (2, 2, 4)]


def test_a_cell_keeps_what_is_no_axis_of_the_grid() -> None:
    base = Cell("t", "m", "lm", 0, 0, 0, seed=7)
    assert {(c.task, c.method, c.lm, c.seed) for c in Axes((1,), (1,), (1,)).grid(base)} == {("t", "m", "lm", 7)}


def test_cells_sort_by_number_not_by_text() -> None:
    assert sorted([Cell("t", "m", "lm", 10, 1, 0), Cell("t", "m", "lm", 2, 1, 0)])[0].batch_size == 2


def test_a_cell_comes_back_from_its_own_record() -> None:
    cell = Cell("t", "m", "lm", 3, 1, 4, seed=2)
    assert Cell(**cell.to_dict()) == cell


def test_an_axis_is_read_with_repeated_values_once_in_the_order_given() -> None:
    assert parse_axis("--memories", " 4,0, 4,1") == (4, 0, 1)


@pytest.mark.parametrize("text", ["", "3,", "1.5", "x", "1;2", "-1", "0,-3", "1e3", "nan"])
def test_an_axis_value_that_is_no_count_is_refused_by_name(text: str) -> None:
    with pytest.raises(InputError, match=r"^--memories: .*(not an integer|negative).*such as 0,1,3"):
        parse_axis("--memories", text)


def test_an_axis_value_that_is_too_large_is_refused_by_name() -> None:
    assert parse_axis("--iterations", "100", most=100) == (100,)
    with pytest.raises(InputError, match=r"^--iterations: 101 is more than 100"):
        parse_axis("--iterations", "1,101", most=100)


def test_values_that_no_cell_around_the_centre_has_are_told() -> None:
    assert Axes((0, 2), (0, 1, 2), (3,)).left_out() == ["E=2"]
    assert Axes((0, 3), (1, 2), (3,)).left_out() == []
