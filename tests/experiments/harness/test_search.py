"""--search: which cells are chosen, over several calls and after a kill."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from statistics import mean

import optuna
import pytest

from personaagent.experiments.harness.cells import Axes, Cell
from personaagent.experiments.harness.search import search
from personaagent.programs.errors import StoreError

BASE = Cell("lamp-2m", "persona-agent", "offline", 0, 0, 0, seed=3)
AXES = Axes((0, 1, 3, 5), (1, 2), (0, 4))
PRODUCT = 2 + 3 * 2 * 2


def values_of(cell: Cell) -> tuple[float, float]:
    return cell.batch_size / 10 + cell.memories / 20, float(3 + cell.batch_size * cell.iterations)


@pytest.fixture
def run(tmp_path: Path) -> Callable[..., list[Cell]]:
    def call(trials: int, axes: Axes = AXES, seed: int = 0, name: str = "search.db", **changes: object) -> list[Cell]:
        return search(BASE, axes, trials, tmp_path / name, seed, changes.get("evaluate", values_of))  # type: ignore[arg-type]

    return call


def test_no_configuration_is_evaluated_twice_and_the_product_is_used_up(run: Callable[..., list[Cell]]) -> None:
    found = run(1000)
    assert len(found) == len(set(found)) == PRODUCT
    assert set(found) == set(AXES.grid(BASE))


def test_several_calls_go_on_where_the_last_ended_and_the_same_call_again_does_nothing(
    run: Callable[..., list[Cell]],
) -> None:
    calls = [run(3), run(3), run(7), run(12), run(1000), run(1000)]
    assert [len(cells) for cells in calls] == [3, 0, 4, 5, PRODUCT - 12, 0]
    assert len({cell for cells in calls for cell in cells}) == PRODUCT


def test_a_search_in_pieces_chooses_what_one_in_one_go_does(run: Callable[..., list[Cell]]) -> None:
    pieces = [cell for trials in (1, 2, 6, 11) for cell in run(trials, name="pieces.db")]
    assert pieces == run(11, name="whole.db")


def test_the_seed_decides(run: Callable[..., list[Cell]]) -> None:
    assert run(5, name="a.db") == run(5, name="b.db")
    assert any(run(5, name="a.db") != run(5, seed=seed, name=f"{seed}.db") for seed in (1, 2, 3))


def test_cells_keep_task_lm_and_seed(run: Callable[..., list[Cell]]) -> None:
    assert {(c.task, c.lm, c.seed) for c in run(4)} == {("lamp-2m", "offline", 3)}


@pytest.mark.parametrize("axes", [Axes((0,), (1, 2, 3), (4,)), Axes((0, 3), (0,), (4,))])
def test_without_alignment_there_is_one_cell(run: Callable[..., list[Cell]], axes: Axes) -> None:
    assert run(10, axes) == [Cell("lamp-2m", "persona-agent", "offline", 0, 0, 4, seed=3)]


def test_a_single_configuration_is_run_once(run: Callable[..., list[Cell]]) -> None:
    assert len(run(10, Axes((3,), (1,), (4,)))) == 1


def test_a_longer_axis_later_adds_its_cells_only(run: Callable[..., list[Cell]]) -> None:
    first = run(1000, Axes((1, 3), (1,), (4,)))
    later = run(1000, Axes((0, 1, 3, 40), (1, 2), (4,)))
    assert len(first) == 2
    assert set(first) | set(later) == set(Axes((0, 1, 3, 40), (1, 2), (4,)).grid(BASE))
    assert not set(first) & set(later)


def test_a_cell_that_has_to_wait_ends_the_call_and_comes_first_in_the_next(run: Callable[..., list[Cell]]) -> None:
    asked: list[Cell] = []

    def two_then_wait(cell: Cell) -> object:
        asked.append(cell)
        return values_of(cell) if len(asked) < 3 else "waiting"

    assert run(10, evaluate=two_then_wait) == asked[:2]
    assert len(asked) == 3
    later = run(10)
    assert later[0] == asked[2]
    assert len(later) == 8
    assert not set(later[1:]) & set(asked)


def test_a_cell_that_failed_is_passed_over_and_not_chosen_again(run: Callable[..., list[Cell]]) -> None:
    found = run(1000, evaluate=lambda cell: "failed" if cell.memories == 0 else values_of(cell))
    assert len(found) == len(set(found)) == PRODUCT
    assert run(1000) == []


def test_the_search_goes_where_the_score_is_high(run: Callable[..., list[Cell]]) -> None:
    axes = Axes(tuple(range(20)), (1, 2, 3), (0, 1, 2, 4, 8))

    def score(cell: Cell) -> float:
        return -abs(cell.batch_size - 13) - abs(cell.memories - 4)

    guided = run(35, axes, evaluate=lambda cell: (score(cell), 1.0))[5:]
    everywhere = axes.grid(BASE)
    assert mean(map(score, guided)) > mean(map(score, everywhere)) + 1


KILLED = """
import json, os, signal, sys
from pathlib import Path
from personaagent.experiments.harness.cells import Axes, Cell
from personaagent.experiments.harness.search import search
base = Cell("lamp-2m", "persona-agent", "offline", 0, 0, 0, seed=3)
def evaluate(cell):
    print(json.dumps(cell.to_dict()), flush=True)
    evaluate.seen += 1
    if evaluate.seen == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return cell.batch_size / 10 + cell.memories / 20, float(3 + cell.batch_size * cell.iterations)
evaluate.seen = 0
search(base, Axes((0, 1, 3, 5), (1, 2), (0, 4)), 8, Path(sys.argv[1]), 0, evaluate)
"""


def test_a_trial_in_which_the_process_was_killed_is_done_first_and_the_choice_is_as_without(
    run: Callable[..., list[Cell]], tmp_path: Path
) -> None:
    killed = subprocess.run(
        [sys.executable, "-c", KILLED, str(tmp_path / "search.db")], capture_output=True, text=True, check=False
    )
    assert killed.returncode == -9
    asked = [Cell(**json.loads(line)) for line in killed.stdout.splitlines()]
    assert len(asked) == 3
    later = run(8)
    assert later[0] == asked[2]
    assert asked[:2] + later == run(8, name="whole.db")


def test_a_trial_that_was_killed_while_it_was_chosen_is_put_aside(
    run: Callable[..., list[Cell]], tmp_path: Path
) -> None:
    run(1)
    study = optuna.load_study(study_name="search", storage=f"sqlite:///{tmp_path / 'search.db'}")
    study._storage.create_new_trial(study._study_id)
    assert len(run(1000)) == PRODUCT - 1
    states = [trial.state.name for trial in study.get_trials()]
    assert "RUNNING" not in states and states.count("FAIL") == 1


def test_a_file_that_is_no_database_is_one_error(run: Callable[..., list[Cell]], tmp_path: Path) -> None:
    (tmp_path / "search.db").write_text("this is a text and no database at all" * 20)
    with pytest.raises(StoreError, match=r"search\.db: the search cannot be opened"):
        run(1)
