"""`--histories`: users of whom only the newest interactions are known, over one memory that holds more."""

from __future__ import annotations

import csv
import inspect
import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from personaagent.experiments import cold_start
from personaagent.experiments.harness.methods.registry import GROUPS
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.study import Study
from personaagent.programs.lm.scope import current_scope

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]

SIZES = {"ann": 6, "bob": 5, "cleo": 4}
COLD: dict[str, Any] = {"script": "cold_start", "axes": ((2,), (1,), (3,)), "queries_per_user": 1}
ALL_METHODS: dict[str, Any] = {**COLD, "methods": GROUPS["all"]}


def results(out: Path) -> dict[tuple[str, str], dict[str, str]]:
    """The rows by method and history, but for seconds."""
    with (out / "results.csv").open(newline="") as file:
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    found = {(row["method"], row["history"]): row for row in rows}
    assert len(found) == len(rows)
    return found


def predictions(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) | {"seconds": 0} for line in (out / "predictions.jsonl").read_text().splitlines()]


# -- what is seen ---------------------------------------------------------------------------------


WHOLE = ("pag", "memory-bank", "persona-agent", "no-alignment", "no-persona", "no-action", "semantic-only")
"""The methods that read all that is known of a user: for a profile, or for notes."""


def test_every_method_sees_the_newest_interactions_alone_and_those_that_read_all_see_all_of_them(
    options: Make, engine: Any, opened: Any
) -> None:
    """Of every unit that a cell rests on, all prompts; over one memory, in one run."""
    sent: dict[str, list[str]] = defaultdict(list)
    usual = engine.script

    def script(call: Any) -> Any:
        scope = current_scope()
        assert scope is not None
        sent[scope.name.partition("/")[0]].append(call.system + call.user)
        return usual(call)

    engine.script = script
    study = opened(options(**ALL_METHODS, histories=("0", "1", "2", "5", "all")))
    for cell in study.all_cells():
        for subject in study.subjects(cell):
            chain = study.chain(subject, cell)
            answer = study.answer(subject.queries[0], subject, cell, chain)
            units = [*chain.units, *answer.units]
            own = rf"{subject.user_id}'s film (\d+)"
            seen = {int(number) for u in units for prompt in sent[u.key] for number in re.findall(own, prompt)}
            size = SIZES[subject.user_id]
            known = size if cell.history == "all" else min(size, int(cell.history))
            newest = set(range(size - known, size))
            assert seen <= newest, cell
            assert cell.method not in WHOLE or seen == newest, cell
            assert not known or seen or cell.method in ("prompt", "icl", "react-wiki"), cell


def test_what_retrieves_finds_no_older_ones(run_study: Run, options: Make, read_jsonl: Any) -> None:
    """In one folder, in one run, over one memory."""
    assert run_study(options(**ALL_METHODS, histories=("1", "2", "all"))) == 0
    for line in read_jsonl(options().out / "predictions.jsonl"):
        size = SIZES[line["user_id"]]
        kept = size if line["history"] == "all" else int(line["history"])
        newest = {f"{line['user_id']}-{number}" for number in range(size - kept, size)}
        assert set(line["retrieved"]) <= newest
        if line["method"] in ("rag", "pag", "react", "persona-agent", "episodic-only"):
            assert len(line["retrieved"]) == min(3, kept)


def test_the_cells_of_several_histories_are_those_of_each_alone(run_study: Run, options: Make, tmp_path: Path) -> None:
    """In whatever order they are asked for, although memory grows in between."""
    settings = {**COLD, "methods": ("rag", "memory-bank", "persona-agent")}
    histories = ("1", "3", "all")
    assert run_study(options(**settings, histories=histories, out=tmp_path / "together")) == 0
    for history in ("3", "all", "1"):
        assert run_study(options(**settings, histories=(history,), out=tmp_path / "one-by-one")) == 0
        assert run_study(options(**settings, histories=(history,), out=tmp_path / history)) == 0
    together = results(tmp_path / "together")
    assert results(tmp_path / "one-by-one") == together
    assert predictions(tmp_path / "one-by-one") == predictions(tmp_path / "together")
    for history in histories:
        alone = results(tmp_path / history)
        assert alone == {key: row for key, row in together.items() if key[1] == history}


def test_one_memory_holds_what_the_longest_needs(run_study: Run, options: Make) -> None:
    def held() -> list[int]:
        [database] = (options().out / "memory").glob("*.db")
        with closing(sqlite3.connect(database)) as connection:
            return [
                n for _, n in connection.execute("SELECT user_id, count(*) FROM interactions GROUP BY 1 ORDER BY 1")
            ]

    run_study(options(**COLD, methods=("rag",), histories=("1", "3")))
    assert held() == [3, 3, 3]
    run_study(options(**COLD, methods=("rag",), histories=("5",)))
    assert held() == [5, 5, 4]
    run_study(options(**COLD, methods=("rag",), histories=("all",)))
    assert held() == list(SIZES.values())


# -- the ends of the axis -------------------------------------------------------------------------


def test_more_than_there_is_is_all_and_asked_once(asked: Any, options: Make) -> None:
    asked(options(**ALL_METHODS, histories=("all",)))
    assert asked(options(**ALL_METHODS, histories=("6", "all"))) == (0, 0)
    rows = results(options().out)
    assert len(rows) == 2 * len(GROUPS["all"])
    for (method, history), row in rows.items():
        assert row == {**rows[method, "all"], "history": history}
    _, calls = asked(options(**{**ALL_METHODS, "methods": ("persona-agent",)}, histories=("5",)))
    # Ann has 6: her profile, her step (two rollouts, two gradients, an update) and her question.
    assert calls == 1 + (2 * 4 + 1) + 3


def test_of_an_unknown_user_nothing_is_learnt(run_study: Run, options: Make, engine: Any, read_jsonl: Any) -> None:
    assert run_study(options(**ALL_METHODS, histories=("0",))) == 0
    assert set(engine.roles()) == {"step", "answer"}
    for row in results(options().out).values():
        assert (row["profile_lm_calls"], row["align_lm_calls"], row["answered"]) == ("0", "0", "3")
    assert all(line["retrieved"] == [] for line in read_jsonl(options().out / "predictions.jsonl"))
    assert {line["persona_version"] for line in read_jsonl(options().out / "predictions.jsonl")} <= {None, 0}


def test_alignment_on_fewer_than_its_batch_takes_what_there_is(run_study: Run, options: Make, read_jsonl: Any) -> None:
    assert run_study(options(**COLD, histories=("1", "2"))) == 0
    steps = [line for line in read_jsonl(options().out / "personas.jsonl") if line["step"]]
    assert {(line["history"], len(line["step"]["batch"])) for line in steps} == {("1", 1), ("2", 2)}
    for line in steps:
        newest = [f"{line['user_id']}-{SIZES[line['user_id']] - 1 - back}" for back in range(int(line["history"]))]
        assert [one["interaction_id"] for one in line["step"]["batch"]] == newest[::-1]


# -- who is asked ---------------------------------------------------------------------------------


@pytest.mark.parametrize("history", ["0", "1", "all"])
def test_users_are_drawn_by_the_seed_whatever_is_known_of_them(
    options: Make, users_folder: Any, engine: Any, history: str
) -> None:
    users_folder({f"user{number}": (1 + number % 4, 1) for number in range(12)})
    drawn = {}
    for seed in range(4):
        chosen = options(**COLD, users=5, users_by="random", data_seed=seed, histories=(history,))
        drawn[seed] = [user.user_id for user in Study(chosen)._chosen["lamp-2m"]]
    assert len({tuple(users) for users in drawn.values()}) == 4 and all(
        len(set(users)) == 5 for users in drawn.values()
    )
    whole = options(**COLD, users=5, users_by="random", data_seed=2)
    assert [user.user_id for user in Study(whole)._chosen["lamp-2m"]] == drawn[2]
    # In an order of their own, not by the size of a history.
    sizes = [len(user.history) for user in Study(whole)._chosen["lamp-2m"]]
    assert sizes != sorted(sizes, reverse=True)


# -- what is left to be read ----------------------------------------------------------------------


def test_rows_the_figure_and_the_report_are_over_histories(
    engine: Any, options: Make, opened: Any, rows: Any, capsys: Any
) -> None:
    study = opened(options(**{**COLD, "histories": ("2", "0", "1", "all"), "methods": ("rag", "persona-agent")}))
    order = [(row.cell.method, row.cell.history) for row in rows(study)]
    assert order == [(method, h) for method in ("rag", "persona-agent") for h in ("0", "1", "2", "all")]
    assert list(results(study.out)) == order
    assert (study.out / "histories.png").read_bytes().startswith(b"\x89PNG")
    assert not (study.out / "comparison.png").exists()
    report = (study.out / "report.md").read_text()
    assert re.search(r"^\| # \| method \| n \| E \| K \| history \|", report, re.MULTILINE)


def test_the_script_asks_random_users_with_ten_interactions_of_four_methods() -> None:
    """The paper's Table 6."""
    [command] = cold_start.app.registered_commands
    assert command.callback is not None
    defaults = {name: p.default for name, p in inspect.signature(command.callback).parameters.items()}
    assert (defaults["histories"], defaults["users_by"]) == ("10", "random")
    assert defaults["methods"] == "pag,react,memory-bank,persona-agent"
