"""`--walk-forward`: each question is asked with what came before it, and with nothing of itself or of later."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from marked_users import Mark, Sent, Teller, done, logs_of, marks, sent, write_logs

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.methods.registry import GROUPS
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.subjects import ALL, Subject
from personaagent.programs.errors import InputError

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]

HISTORIES = {"ann": 6, "bob": 5}
"""Of the users, in rows: the rest of their logs are the queries, which are not asked."""
LAST, SHORT = 2, "2"
FIRST_POINT = {user: rows - LAST for user, rows in HISTORIES.items()}
LEARNING = ("pag", "memory-bank", "persona-agent", "no-alignment", "no-persona", "no-action", "semantic-only")
ALIGNED = ("persona-agent", "no-memory", "no-action", "episodic-only", "semantic-only")
RETRIEVING = ("rag", "pag", "react", "persona-agent", "no-alignment", "no-persona", "episodic-only")


class Asked(NamedTuple):
    """What was sent for one question of a cell."""

    cell: Cell
    subject: Subject
    place: int
    """Of the question among the user's interactions."""
    prompts: Sent

    @property
    def before(self) -> range:
        """What may be known: all before the question, or as many as are kept."""
        kept = self.place if self.cell.history == ALL else min(self.place, int(self.cell.history))
        return range(self.place - kept, self.place)

    @property
    def name(self) -> tuple[str, str, str, int]:
        return self.cell.method, self.cell.history, self.subject.user_id, self.place


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return write_logs(tmp_path / "logs.jsonl", {"ann": 9, "bob": 8, "cat": 6})


@pytest.fixture(scope="module")
def kept() -> list[Asked]:
    return []


@pytest.fixture
def walked(options: Make, engine: Any, logs: Path, kept: list[Asked]) -> list[Asked]:
    """Each question of a study of all methods, with whole histories and short ones. It is run once."""
    if kept:
        return kept
    engine.script = teller = Teller()
    methods = {"methods": GROUPS["all"], "histories": (ALL, SHORT)}
    with done(logs_of(options, logs, walk_forward=LAST, control="equal-cost", **methods)) as study:
        for cell in study.all_cells():
            for subject in study.subjects(cell):
                [query] = subject.queries
                place = int(query.id.rpartition("-")[2])
                kept.append(Asked(cell, subject, place, sent(study, cell, subject, teller)))
    return kept


def numbers(prompts: list[str], user: str, kinds: str = "qa") -> set[int]:
    return {mark.number for prompt in prompts for mark in marks(prompt) if mark.user == user and mark.kind in kinds}


def test_each_of_the_last_is_asked_about_by_every_method_at_every_history(walked: list[Asked]) -> None:
    points = {(user, rows - back) for user, rows in HISTORIES.items() for back in (1, 2)}
    methods = {*GROUPS["all"], "more-memories", "self-consistency"}
    assert {one.name for one in walked} == {(m, h, *p) for m in methods for h in (ALL, SHORT) for p in points}
    assert len(walked) == 16 * 2 * 4


def test_nothing_of_the_question_or_of_later_is_in_any_prompt(walked: list[Asked]) -> None:
    for one in walked:
        user = one.subject.user_id
        own = {Mark(user, kind, number) for kind in "qa" for number in one.before}
        for phase in ("learning", "alignment"):
            for prompt in getattr(one.prompts, phase):
                assert marks(prompt) <= own, (one.name, phase)
        # Of others icl sees what came before they were asked; no query of the logs is asked, and none is shown.
        others = {
            Mark(other, kind, number)
            for other, count in {**FIRST_POINT, "cat": 4 - LAST}.items()
            for kind in "qa"
            for number in range(count)
            if one.cell.method == "icl" and other != user
        }
        for prompt in one.prompts.answers:
            assert marks(prompt) <= own | others | {Mark(user, "q", one.place)}, one.name


def test_what_came_just_before_is_retrieved_and_no_more_is_shown_than_is_kept(walked: list[Asked]) -> None:
    seen = set()
    for one in walked:
        if one.cell.method in RETRIEVING:
            records = set(re.findall(rf"«What of {one.subject.user_id}-q(\d)\?» -> ", one.prompts.answers[-1]))
            assert records == {str(number) for number in one.before}, one.name
            seen.add(one.cell.method)
    assert seen == set(RETRIEVING)


def test_profiles_and_notes_are_of_all_that_came_before_and_differ_from_point_to_point(walked: list[Asked]) -> None:
    learnt: dict[tuple[str, str, str], set[tuple[str, ...]]] = {}
    for one in walked:
        if one.cell.method not in LEARNING:
            continue
        assert numbers(one.prompts.learning, one.subject.user_id) == set(one.before), one.name
        # And what was learnt is what is answered by.
        assert numbers(one.prompts.answers, one.subject.user_id, "a") == set(one.before), one.name
        learnt.setdefault(one.name[:3], set()).add(tuple(one.prompts.learning))
    assert len(learnt) == len(LEARNING) * 2 * 2
    assert all(len(points) == LAST for points in learnt.values())


def test_alignment_is_repeated_before_each_question_with_the_last_n_before_it(walked: list[Asked]) -> None:
    assert {one.cell.method for one in walked if one.prompts.alignment} == set(ALIGNED)
    for one in walked:
        if one.cell.method not in ALIGNED:
            continue
        gradients = [prompt for prompt in one.prompts.alignment if "`expected_answer`" in prompt]
        answers = [prompt.rpartition("[[ ## expected_answer ## ]]\n")[2].partition("\n")[0] for prompt in gradients]
        user, place = one.subject.user_id, one.place
        assert answers == [f"It is {user}-a{place - 2}.", f"It is {user}-a{place - 1}."], one.name
        assert "REWRITTEN" in one.prompts.answers[0]


def results(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("last", "queries"), [(1, ["ann-5", "bob-4", "cat-3"]), (4, None)], ids=["one", "more-than-some-have"]
)
def test_users_and_queries_are_counted_and_who_has_few_is_asked_about_all_but_the_first(
    options: Make, run_study: Run, read_jsonl: Any, logs: Path, capsys: Any, last: int, queries: list[str] | None
) -> None:
    assert run_study(logs_of(options, logs, users=3, walk_forward=last, axes=((0,), (1,), (0,)))) == 0
    every = {"ann": range(2, 6), "bob": range(1, 5), "cat": range(1, 4)}
    queries = queries or [f"{user}-{number}" for user, places in every.items() for number in places]
    lines = read_jsonl(options().out / "predictions.jsonl")
    assert [line["id"] for line in lines] == queries
    assert all(line["gold"] == f"It is {line['user_id']}-a{line['id'][-1]}." for line in lines)
    [row] = results(options().out)
    assert (row["users"], row["queries"], row["answered"]) == ("3", str(len(queries)), str(len(queries)))
    printed = capsys.readouterr().out
    assert f"own logs: 3 users, {len(queries)} queries, the last {last} of each user" in printed
    few = "1 users have no more than 4 interactions: they are asked about all but their first"
    assert (few in printed) == (last == 4)


def test_who_has_a_single_interaction_is_left_out_and_this_is_said(
    options: Make, run_study: Run, users_folder: Any, capsys: Any
) -> None:
    users_folder({"ann": (6, 1), "new": (1, 1), "newer": (1, 1)})
    assert run_study(options(walk_forward=2, axes=((0,), (1,), (0,)))) == 0
    [row] = results(options().out)
    assert (row["users"], row["queries"]) == ("1", "2")
    printed = capsys.readouterr().out
    assert "note: lamp-2m: 2 users have fewer than 2 interactions and are not asked about" in printed
    assert "all but their first" not in printed


def test_histories_without_a_second_interaction_are_refused(options: Make, run_study: Run, users_folder: Any) -> None:
    users_folder({"ann": (1, 1), "bob": (1, 2)})
    with pytest.raises(InputError, match="--walk-forward needs histories of 2 interactions or more, but lamp-2m has"):
        run_study(options(walk_forward=2))


@pytest.mark.parametrize("control", ["swap", "matrix"])
def test_another_users_memory_has_another_time_line(options: Make, control: str) -> None:
    with pytest.raises(InputError, match=f"--walk-forward and --control {control} exclude each other: another user's"):
        options(walk_forward=2, control=control)


@pytest.mark.parametrize("walk_forward", [0, -1])
def test_at_least_one_is_asked_about(options: Make, walk_forward: int) -> None:
    with pytest.raises(InputError, match=f"--walk-forward must be at least 1 but got {walk_forward}"):
        options(walk_forward=walk_forward)


def test_personas_are_told_apart_by_what_they_came_before(
    options: Make, opened: Any, logs: Path, read_jsonl: Any
) -> None:
    opened(logs_of(options, logs, walk_forward=LAST, histories=(ALL, "0")))
    lines = read_jsonl(options().out / "personas.jsonl")
    told = [(line["history"], line["user_id"], line["before"], line["iteration"]) for line in lines]
    points = [(user, f"{user}-{place}") for user, first in FIRST_POINT.items() for place in (first, first + 1)]
    assert sorted(told) == sorted((h, *point, i) for h in (ALL, "0") for point in points for i in (0, 1))


def test_a_history_of_none_is_no_point_in_time(options: Make, opened: Any, logs: Path, read_jsonl: Any) -> None:
    opened(logs_of(options, logs, histories=("0",)))
    lines = read_jsonl(options().out / "personas.jsonl")
    assert len(lines) == 4 and not [line for line in lines if "before" in line]
