"""Rows put together to tables: seeds, labels, families of pairs, and pairs.csv."""

from __future__ import annotations

import csv
import io
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.comparison import compare
from personaagent.experiments.harness.statistics import Interval, clustered_mean
from personaagent.experiments.harness.tables import (
    PAIR_COLUMNS,
    Question,
    Table,
    TaskInfo,
    estimate_text,
    metric_title,
    number_text,
    pairs_csv,
    tables,
)
from personaagent.programs.errors import InputError

FILMS = TaskInfo("Films", ("accuracy", "f1"), True, 20, 60, "sample users", 15)
STARS = TaskInfo("Stars", ("mae", "rmse"), False, 20, 60, "sample users", 5)
TASKS = {"films": FILMS, "stars": STARS}


@dataclass(frozen=True)
class Row:
    cell: Cell
    scores: Mapping[Question, float]
    values: dict[str, Any] = field(default_factory=dict)
    second: Interval | None = None
    waiting: int = 0
    failures: Mapping[str, int] = field(default_factory=dict)


def cell(
    method: str, task: str = "films", lm: str = "a/lm", axes: tuple[int, int, int] = (0, 0, 4), **more: Any
) -> Cell:
    return Cell(task, method, lm, *axes, **more)


def drawn(chance: float, users: int = 20, queries: int = 3, seed: int = 0) -> dict[Question, float]:
    """Right or wrong answers; with another seed, others to the same questions."""
    luck = np.random.default_rng([seed, round(1_000 * chance)]).random((users, queries))
    return {(f"u{u}", f"q{q}"): float(luck[u, q] < chance) for u in range(users) for q in range(queries)}


def table(rows: Sequence[Row]) -> Table:
    (made,) = tables(rows, TASKS)
    return made


def methods(**chances: float) -> list[Row]:
    return [Row(cell(name.replace("_", "-")), drawn(chance)) for name, chance in chances.items()]


def lines_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# --- grouping ---


def test_a_table_for_each_task_and_lm_in_the_order_of_the_rows() -> None:
    rows = [
        Row(cell(method, task, lm), drawn(0.5))
        for method in ("rag", "prompt")
        for task, lm in (("stars", "b/lm"), ("films", "b/lm"), ("stars", "a/lm"))
    ]
    made = tables(rows, TASKS)
    assert [(t.task, t.lm, t.info.title) for t in made] == [
        ("stars", "b/lm", "Stars"),
        ("films", "b/lm", "Films"),
        ("stars", "a/lm", "Stars"),
    ]
    assert all([line.method for line in t.lines] == ["rag", "prompt"] for t in made)


def test_no_rows_are_no_tables_and_an_unknown_task_is_refused() -> None:
    assert tables([], TASKS) == ()
    with pytest.raises(KeyError, match="elsewhere"):
        tables([Row(cell("rag", "elsewhere"), {})], TASKS)


def test_with_one_seed_a_line_is_its_row() -> None:
    second = Interval(0.3, 0.2, 0.4)
    [line] = table([Row(cell("rag"), drawn(0.4), {"queries": 60, "answered": 60, "f1": 0.3}, second, waiting=2)]).lines
    users = [user for user, _ in drawn(0.4)]
    assert line.score == clustered_mean(list(drawn(0.4).values()), users)
    assert line.second == second
    assert (line.seeds, line.waiting, line.total("answered"), line.control) == ((0,), 2, 60, "none")
    assert (line.label, line.setting) == ("rag", (0, 0, 4))


def test_a_questions_score_is_its_mean_over_the_seeds_that_answered_it_worked_by_hand() -> None:
    rows = [
        Row(cell("rag", seed=0), {("ann", "1"): 1.0, ("ann", "2"): 0.0, ("bob", "1"): 1.0}, {"f1": 0.2, "answered": 3}),
        Row(cell("rag", seed=1), {("ann", "1"): 0.0, ("bob", "1"): 1.0}, {"f1": 0.4, "answered": 2, "failed": 1}),
        Row(cell("rag", seed=5), {("bob", "1"): 1.0, ("cid", "1"): 0.0}, {"f1": None, "answered": 2}),
    ]
    [line] = table(rows).lines
    assert line.scores == {("ann", "1"): 0.5, ("ann", "2"): 0.0, ("bob", "1"): 1.0, ("cid", "1"): 0.0}
    # Of four questions, not of seven answers; users stay the clusters.
    assert line.score == clustered_mean([0.5, 0.0, 1.0, 0.0], ["ann", "ann", "bob", "cid"])
    assert line.score is not None and line.score.estimate == 0.375
    assert line.second is not None
    assert line.second.estimate == pytest.approx(0.3)
    assert math.isnan(line.second.low) and math.isnan(line.second.high)
    assert (line.seeds, line.total("answered"), line.total("failed")) == ((0, 1, 5), 7, 1)
    assert line.mean("f1") == pytest.approx(0.3)
    assert line.mean("rmse") is None


def test_seeds_of_one_user_do_not_make_the_interval_narrower() -> None:
    once = table([Row(cell("rag"), drawn(0.4))]).lines[0].score
    often = table([Row(cell("rag", seed=seed), drawn(0.4)) for seed in range(5)]).lines[0].score
    assert often == once


def test_reasons_of_failure_are_added_up_most_frequent_first() -> None:
    rows = [
        Row(cell("rag", seed=0), {}, failures={"late": 1, "refused": 2}),
        Row(cell("rag", seed=1), {}, failures={"refused": 1, "busy": 1}),
    ]
    assert list(table(rows).lines[0].failures.items()) == [("refused", 3), ("busy", 1), ("late", 1)]


def test_a_line_without_an_answer_has_no_score_and_is_in_no_pair() -> None:
    made = table([*methods(rag=0.4, pag=0.6), Row(cell("react"), {}, waiting=60)])
    assert (made.lines[2].score, made.lines[2].second) == (None, None)
    assert [(v.difference.first, v.difference.second) for v in made.verdicts] == [("rag", "pag")]
    assert made.told_apart(2) == ([], [])


def test_a_task_of_one_metric_has_no_second() -> None:
    info = TaskInfo("Own", ("accuracy",), True, 20, 60, "logs")
    [made] = tables([Row(cell("rag", "own"), drawn(0.4), {"f1": 0.3}, Interval(0.3, 0.2, 0.4))], {"own": info})
    assert made.lines[0].second is None


# --- labels ---


def test_labels_name_what_differs_among_the_lines_of_a_method_and_nothing_else() -> None:
    rows = [
        Row(cell("persona-agent", axes=(3, 1, 4)), drawn(0.5)),
        Row(cell("persona-agent", axes=(0, 0, 4)), drawn(0.5)),
        Row(cell("rag", history="5"), drawn(0.5)),
        Row(cell("rag", history="10"), drawn(0.5)),
        Row(cell("pag"), drawn(0.5)),
        Row(cell("pag"), drawn(0.5), {"control": "equal-cost"}),
        Row(cell("prompt"), drawn(0.5)),
    ]
    assert [line.label for line in table(rows).lines] == [
        "persona-agent (n=3, E=1, K=4)",
        "persona-agent (n=0, E=0, K=4)",
        "rag (history 5)",
        "rag (history 10)",
        "pag (control none)",
        "pag (control equal-cost)",
        "prompt",
    ]


# --- pairs ---


def test_verdicts_are_those_of_comparison_over_the_table() -> None:
    rows = methods(prompt=0.2, rag=0.5, pag=0.55, persona_agent=0.9)
    assert table(rows).verdicts == compare({row.cell.method: row.scores for row in rows})


def test_the_family_is_one_table() -> None:
    films = methods(prompt=0.2, rag=0.5)
    others = [Row(cell(row.cell.method, lm="b/lm"), row.scores) for row in films]
    one, other = tables([*films, *others], TASKS)
    assert one.verdicts == other.verdicts == table(films).verdicts


def test_rows_of_another_history_are_in_the_family_but_in_no_pair_together() -> None:
    rows = [
        Row(cell(method, history=history), drawn(chance + int(history) / 100))
        for history in ("1", "10")
        for method, chance in (("rag", 0.2), ("pag", 0.4), ("persona-agent", 0.8))
    ]
    made = table(rows)
    assert made.histories == ("1", "10")
    pairs = [(v.difference.first, v.difference.second) for v in made.verdicts]
    assert len(pairs) == 6
    assert all(first.split("history")[1] == second.split("history")[1] for first, second in pairs)
    alone = table(rows[:3])
    assert made.verdicts[0].difference.test == alone.verdicts[0].difference.test
    assert min(v.p_holm for v in made.verdicts) > min(v.p_holm for v in alone.verdicts)


def test_of_an_error_less_is_better() -> None:
    worse, better = drawn(0.9), drawn(0.1)
    made = table([Row(cell("rag", "stars"), worse), Row(cell("pag", "stars"), better)])
    found = made.verdicts[0].difference
    assert found.interval.estimate == pytest.approx(np.mean(list(better.values())) - np.mean(list(worse.values())))
    assert found.interval.estimate < 0  # rag - pag: rag is worse
    assert made.lines[0].score is not None and made.lines[0].score.estimate > 0.8  # shown as it is
    assert made.told_apart(0) == ([], [1])
    assert made.told_apart(1) == ([0], [])
    [(_, verdict)] = made.against(1)
    assert verdict.difference.interval.estimate > 0


def test_told_apart_names_both_directions_in_order() -> None:
    made = table(methods(a=0.5, b=0.02, c=0.98, d=0.5, e=0.02))
    assert made.told_apart(0) == ([1, 4], [2])
    assert made.told_apart(2) == ([0, 1, 3, 4], [])
    assert made.told_apart(1) == ([], [0, 2, 3])


def test_scores_that_are_nan_are_refused() -> None:
    with pytest.raises(InputError, match="NaN"):
        table([Row(cell("rag"), {("ann", "1"): math.nan}), Row(cell("pag"), {("ann", "1"): 1.0})])


def test_infinitely_wrong_ratings_do_no_harm() -> None:
    scores = {**drawn(0.5), ("u0", "q0"): math.inf}
    made = table(
        [Row(cell("rag", "stars", seed=seed), scores) for seed in (0, 1)] + [Row(cell("pag", "stars"), drawn(0.4))]
    )
    assert made.lines[0].score is not None and made.lines[0].score.estimate == math.inf
    assert made.verdicts[0].difference.test.p == 1


def test_one_user_is_judged_by_nothing() -> None:
    made = table([Row(cell("rag"), drawn(0.9, users=1)), Row(cell("pag"), drawn(0.1, users=1))])
    assert made.users == 1
    assert not any(verdict.separable for verdict in made.verdicts)
    assert made.against(0) == []
    assert table(methods(alone=0.5)).users == 0


# --- the reference ---


def test_the_reference_is_persona_agent_at_the_centre() -> None:
    rows = [
        Row(cell("rag"), drawn(0.5)),
        Row(cell("persona-agent", axes=(0, 0, 4)), drawn(0.5)),
        Row(cell("persona-agent", axes=(3, 1, 4)), drawn(0.5), {"control": "equal-cost"}),
        Row(cell("persona-agent", axes=(3, 1, 4)), drawn(0.5)),
    ]
    assert table(rows).reference("all") == 3
    assert table(rows).reference("all", (0, 0, 4)) == 1
    assert table(rows[:3]).reference("all", (5, 1, 4)) == 1
    assert table(rows[:1]).reference("all") == 0
    assert table(rows).reference("10") is None
    assert table([rows[0], Row(cell("persona-agent", axes=(3, 1, 4)), {})]).reference("all") == 0


def test_against_the_reference_every_difference_is_it_minus_the_other() -> None:
    made = table(methods(prompt=0.2, persona_agent=0.7, rag=0.4))
    found = made.against(1)
    assert [index for index, _ in found] == [0, 2]
    plain = {(v.difference.first, v.difference.second): v for v in made.verdicts}
    turned, same = found[0][1], found[1][1]
    original = plain["prompt", "persona-agent"]
    assert same == plain["persona-agent", "rag"]
    assert (turned.difference.first, turned.difference.second) == ("persona-agent", "prompt")
    there, back = original.difference.interval, turned.difference.interval
    assert (back.estimate, back.low, back.high) == pytest.approx((-there.estimate, -there.high, -there.low))
    assert (turned.p_holm, turned.separable, turned.users_needed) == (
        original.p_holm,
        original.separable,
        original.users_needed,
    )


# --- pairs.csv ---


def test_pairs_csv_has_every_pair_and_reads_back() -> None:
    rows = methods(prompt=0.2, rag=0.5, persona_agent=0.8)
    stars = [Row(cell("rag", "stars"), drawn(0.9)), Row(cell("pag", "stars"), drawn(0.1))]
    made = tables([*rows, *stars], TASKS)
    text = pairs_csv(made)
    assert text.splitlines()[0] == ",".join(PAIR_COLUMNS)
    found = lines_of(text)
    assert [(line["task"], line["first"], line["second"]) for line in found] == [
        ("films", "prompt", "rag"),
        ("films", "prompt", "persona-agent"),
        ("films", "rag", "persona-agent"),
        ("stars", "rag", "pag"),
    ]
    verdicts = [verdict for one in made for verdict in one.verdicts]
    for line, verdict in zip(found, verdicts, strict=True):
        one = verdict.difference
        assert (float(line["difference"]), float(line["low"]), float(line["high"])) == tuple(one.interval)
        assert (float(line["p"]), float(line["p_holm"])) == (one.test.p, verdict.p_holm)
        assert (line["separable"], line["exact"]) == (str(verdict.separable), str(one.test.exact))
        assert [int(line[name]) for name in ("users", "queries", "unpaired")] == [20, 60, 0]
        assert line["users_needed"] == str(verdict.users_needed)
        assert line["users_needed_in_table"] == str(verdict.users_needed_in_table)
    assert (found[0]["metric"], found[3]["metric"]) == ("accuracy", "mae")
    assert float(found[3]["difference"]) < 0  # positive would say that the first is better


def test_pairs_csv_has_the_cells_axes_and_labels_with_commas() -> None:
    rows = [Row(cell("persona-agent", axes=axes, history="10"), drawn(0.5)) for axes in ((3, 1, 4), (0, 0, 4))]
    [line] = lines_of(pairs_csv(tables(rows, TASKS)))
    assert (line["first"], line["history"], line["lm"]) == ("persona-agent (n=3, E=1, K=4)", "10", "a/lm")
    assert [line[f"first_{name}"] for name in ("method", "batch_size", "iterations", "memories")] == [
        "persona-agent",
        "3",
        "1",
        "4",
    ]
    assert [line[f"second_{name}"] for name in ("batch_size", "iterations", "memories")] == ["0", "0", "4"]


def test_what_cannot_be_said_of_a_pair_is_empty() -> None:
    rows = [
        Row(cell("rag"), drawn(0.5, users=1)),
        Row(cell("pag"), drawn(0.1, users=1)),
        Row(cell("icl"), {("z", "1"): 1.0}),
    ]
    one, apart, _ = lines_of(pairs_csv(tables(rows, TASKS)))
    unsaid = ("low", "high", "p", "p_holm", "separable", "exact", "flips", "users_needed", "users_needed_in_table")
    assert [one[name] for name in unsaid] == [""] * len(unsaid)
    assert (one["users"], one["queries"], one["difference"] != "") == ("1", "3", True)
    assert (apart["users"], apart["queries"], apart["unpaired"], apart["difference"]) == ("0", "0", "4", "")


def test_without_tables_pairs_csv_is_its_heading() -> None:
    assert pairs_csv(()) == ",".join(PAIR_COLUMNS) + "\n"


@pytest.mark.parametrize("users", [20, 60])
def test_fifteen_rows_of_300_queries_take_seconds(users: int) -> None:
    rows = [Row(cell("persona-agent", axes=(n, 1, 4)), drawn(0.2 + n / 30, users, 300 // users)) for n in range(1, 16)]
    started = time.perf_counter()
    made = table(rows)
    assert len(lines_of(pairs_csv([made]))) == 105
    assert time.perf_counter() - started < 10  # 0.3 seconds on one core


# --- as they are shown ---


@pytest.mark.parametrize(
    ("interval", "metric", "difference", "text"),
    [
        (Interval(0.5, 0.4, 0.6), "accuracy", False, "0.500 [0.400, 0.600]"),
        (Interval(0.9, 0.7, 1.1), "accuracy", False, "0.900 [0.700, 1.000]"),
        (Interval(0.1, -0.1, 0.3), "f1", False, "0.100 [0.000, 0.300]"),
        (Interval(0.1, -1.1, 1.3), "rougeL", True, "0.100 [-1.000, 1.000]"),
        (Interval(0.8, -0.2, 1.8), "mae", False, "0.800 [0.000, 1.800]"),
        (Interval(-0.8, -1.2, 1.8), "mae", True, "-0.800 [-1.200, 1.800]"),
        (Interval(-0.8, -1.2, 1.8), "of my own", False, "-0.800 [-1.200, 1.800]"),
        (Interval(0.5, math.nan, math.nan), "accuracy", False, "0.500"),
        (Interval(math.nan, math.nan, math.nan), "accuracy", True, "-"),
        (Interval(math.inf, math.nan, math.nan), "mae", False, "inf"),
        (None, "accuracy", False, "-"),
    ],
)
def test_an_estimate_is_shown_within_what_the_metric_can_be(
    interval: Interval | None, metric: str, difference: bool, text: str
) -> None:
    assert estimate_text(interval, metric, difference) == text


@pytest.mark.parametrize(
    ("value", "text"), [(-0.0001, "0.000"), (12.3456, "12.346"), (1e300, "1e+300"), (-1.0, "-1.000")]
)
def test_numbers_have_three_decimals(value: float, text: str) -> None:
    assert number_text(value) == text


def test_metrics_have_titles() -> None:
    assert [metric_title(name) for name in ("f1", "rmse", "own")] == ["macro-F1", "RMSE", "own"]
