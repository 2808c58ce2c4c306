"""`--control equal-cost`: rows that spend alignment's LM calls otherwise, beside those that they are held against."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dspy import lm15

from personaagent.experiments.harness.settings import StudyOptions
from personaagent.programs.errors import InputError

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]

EQUAL: dict[str, Any] = {"axes": ((2,), (1,), (3,)), "script": "compare", "control": "equal-cost"}
CALLS = ("profile_lm_calls", "align_lm_calls", "serve_lm_calls")
USERS, QUERIES = 3, 2


def results(out: Path) -> dict[tuple[str, ...], dict[str, str]]:
    """The rows by method, n, E and K."""
    with (out / "results.csv").open(newline="") as file:
        rows = [{name: value for name, value in row.items() if name != "seconds"} for row in csv.DictReader(file)]
    return {(row["method"], row["batch_size"], row["iterations"], row["memories"]): row for row in rows}


def changing(engine: Any, answers: Callable[[Any, int], str]) -> None:
    """The engine's answers are what this makes of the call and of how often its like came before."""
    usual, seen = engine.script, Counter[str]()

    def script(call: Any) -> Any:
        fields = usual(call)
        if call.role == "answer":
            prompt = call.system + call.user
            number = seen[prompt]
            seen[prompt] += 1
            fields = fields | {"answer": answers(call, number)}
        return fields

    engine.script = script


def test_the_rows_are_of_their_own_and_take_as_many_calls_and_less_than_a_question_more(
    run_study: Run, options: Make, read_jsonl: Any
) -> None:
    axes = ((2, 0), (1, 2), (3, 0))
    assert run_study(options(**{**EQUAL, "axes": axes, "grid": False})) == 0
    rows = results(options().out)
    cells = [("2", "1", "0"), ("2", "1", "3"), ("2", "2", "3")]
    extra = [("more-memories", n, e, k) for n, e, k in cells if k != "0"]
    extra += [("self-consistency", *cell) for cell in cells]
    plain = [("persona-agent", *cell) for cell in (("0", "0", "3"), *cells)]
    assert list(rows) == [*plain, *extra]
    assert {rows[key]["control"] for key in extra} == {"equal-cost"}
    assert {rows[key]["control"] for key in plain} == {"none"}
    for key in extra:
        row, aligned = rows[key], rows["persona-agent", *key[1:]]
        assert (row["queries"], row["answered"], row["align_lm_calls"]) == ("6", "6", "0")
        assert row["profile_lm_calls"] == aligned["profile_lm_calls"] == "3"
        spent, of_alignment = (sum(int(one[name]) for name in CALLS) for one in (row, aligned))
        question = 3 if key[3] == "3" else 1
        if key[0] == "self-consistency":
            assert of_alignment <= spent < of_alignment + USERS * question
        else:
            assert spent == USERS * (1 + QUERIES * question)
            assert float(row["tool_calls"]) == USERS * QUERIES


def test_more_memories_are_read_in_one_answer(run_study: Run, options: Make, engine: Any, read_jsonl: Any) -> None:
    """At n=2, K=3 and two questions of three calls each, alignment takes 9: K is 3 * 15 / 6, rounded up."""
    assert run_study(options(**EQUAL)) == 0
    lines = {
        line["method"]: line for line in read_jsonl(options().out / "predictions.jsonl") if line["user_id"] == "ann"
    }
    assert len(lines["persona-agent"]["retrieved"]) == 3
    assert len(lines["more-memories"]["retrieved"]) == 6, "all that there are of 8"
    said = (options().out / "report.md").read_text()
    assert "For the calls of persona-agent at n=2, E=1, K=3 on lamp-2m: K=8." in said
    assert "For the calls of persona-agent at n=2, E=1, K=3 on lamp-2m: 2 to 3 samples of each answer." in said


def test_added_to_a_finished_study_it_asks_only_what_is_new(asked: Any, options: Make) -> None:
    """Sample 0 is no-alignment's answer: 2 further samples of one question and 1 of the other, for 9 calls."""
    plain = {**EQUAL, "control": "none", "methods": ("persona-agent", "no-alignment")}
    asked(options(**plain))
    before = results(options().out)
    samples, larger = USERS * 3 * 3, USERS * QUERIES * 3
    assert asked(options(**{**plain, "control": "equal-cost"})) == (0, samples + larger)
    after = results(options().out)
    assert {key: after[key] for key in before} == before and len(after) == len(before) + 2
    assert asked(options(**{**plain, "control": "equal-cost"})) == (0, 0)
    assert asked(options(**plain)) == (0, 0)
    assert results(options().out) == after, "the rows stay"


def test_without_alignment_there_is_nothing_to_spend(options: Make) -> None:
    with pytest.raises(InputError, match="with n=0 or E=0 there are none"):
        options(**{**EQUAL, "axes": ((0,), (1,), (0, 3))})


def test_without_memories_there_are_no_more_of_them(run_study: Run, options: Make) -> None:
    assert run_study(options(**{**EQUAL, "axes": ((2,), (1,), (0,))})) == 0
    assert [key[0] for key in results(options().out)] == ["persona-agent", "self-consistency"]


def test_the_answer_that_most_samples_give_counts(run_study: Run, options: Make, engine: Any, read_jsonl: Any) -> None:
    """The first question of each user has 3 samples, of which the later two agree; the other has 2 that differ."""
    changing(engine, lambda call, number: ["sci-fi", "classic", "classic"][number % 3])
    assert run_study(options(**EQUAL, methods=("persona-agent", "no-alignment"))) == 0
    lines = read_jsonl(options().out / "predictions.jsonl")
    voted = {line["id"]: line for line in lines if line["method"] == "self-consistency"}
    single = {line["id"]: line for line in lines if line["method"] == "no-alignment"}
    for user in ("ann", "bob", "cleo"):
        first, second = voted[f"{user}-q0"], voted[f"{user}-q1"]
        assert (first["raw"], second["raw"]) == ("classic", "sci-fi")
        assert (first["lm_calls"], second["lm_calls"]) == (9, 6)
        assert single[f"{user}-q0"]["raw"] == "sci-fi" and single[f"{user}-q0"]["lm_calls"] == 3


def test_a_sample_that_failed_has_no_vote_and_is_asked_again_alone(
    asked: Any, options: Make, engine: Any, read_jsonl: Any
) -> None:
    """The second sample of each of ann's questions fails, and all of cleo's."""
    usual, seen = engine.script, Counter[str]()

    def script(call: Any) -> Any:
        if call.role == "answer" and "Persona " not in call.system:
            seen[call.user] += 1
            if "cleo's new film" in call.user or ("ann's new film" in call.user and seen[call.user] % 3 == 2):
                raise lm15.InvalidRequestError("out of order")
        return usual(call)

    engine.script = script
    settings = {**EQUAL, "axes": ((2,), (1,), (0,))}
    code, _ = asked(options(**settings))
    row = results(options().out)["self-consistency", "2", "1", "0"]
    lines = [line for line in read_jsonl(options().out / "predictions.jsonl") if line["method"] == "self-consistency"]
    failed = [line["id"] for line in lines if line["error"]]
    assert code == 1 and failed == ["cleo-q0", "cleo-q1"]
    assert (row["answered"], row["failed"]) == ("4", "2")
    assert asked(options(**settings)) == (1, 0)
    engine.script = usual
    code, calls = asked(options(**settings, retry_failed=True))
    # Alignment takes 5 calls, which are 3 and 2 further samples at one call each.
    assert (code, calls) == (0, 2 + 7)


def test_samples_that_wait_leave_the_question_waiting(asked: Any, options: Make, capsys: Any) -> None:
    """A vote of fewer would be another method. An answer may take 132 calls, so that 134 are enough for three."""
    settings = {**EQUAL, "methods": ("persona-agent",), "axes": ((2,), (1,), (0,))}
    asked(options(**{**settings, "control": "none"}))
    for done in ("0", "1", "2"):  # of the 4 samples of a user's first question, and 3 of the second
        assert asked(options(**settings, max_calls=134)) == (1, 3)
        row = results(options().out)["self-consistency", "2", "1", "0"]
        assert (row["answered"], row["failed"]) == (done, "0")
        assert f"{6 - int(done)} samples wait" in capsys.readouterr().out
    assert asked(options(**settings)) == (0, USERS * 7 - 9)
    assert results(options().out)["self-consistency", "2", "1", "0"]["answered"] == "6"


@pytest.mark.parametrize("task", ["lamp-3", "lamp-5"])
def test_ratings_and_texts_have_their_own_votes(
    run_study: Run, options: Make, engine: Any, synthetic: Any, read_jsonl: Any, task: str
) -> None:
    said = {"lamp-3": ["1", "5", "5"], "lamp-5": ["green tea", "on red bicycles", "on a red bicycle"]}[task]
    changing(engine, lambda call, number: said[number % 3])
    settings = {**EQUAL, "tasks": (task,), "data": synthetic(task), "queries_per_user": 1, "axes": ((2,), (1,), (0,))}
    assert run_study(options(**settings)) == 0
    lines = read_jsonl(options().out / "predictions.jsonl")
    assert {line["raw"] for line in lines if line["method"] == "self-consistency"} == {said[1]}
    assert {row["control"] for row in results(options().out).values()} == {"none", "equal-cost"}


def test_each_history_and_each_test_point_has_its_own(run_study: Run, options: Make, tmp_path: Path) -> None:
    """A user of whom nothing is known is not aligned: there is nothing to spend."""
    assert run_study(options(**EQUAL, histories=("0", "2"))) == 0
    with (options().out / "results.csv").open(newline="") as file:
        calls = {(r["method"], r["history"]): r["serve_lm_calls"] for r in csv.DictReader(file)}
    assert calls["self-consistency", "0"] == calls["persona-agent", "0"] == str(USERS * QUERIES * 3)
    assert int(calls["self-consistency", "2"]) == USERS * (QUERIES + 3) * 3
    forward = options(**EQUAL, walk_forward=2, out=tmp_path / "forward")
    assert run_study(forward) == 0
    row = results(forward.out)["self-consistency", "2", "1", "3"]
    # One question each, and 9 calls of alignment before it.
    assert (row["queries"], row["serve_lm_calls"]) == ("6", str(USERS * 2 * (1 + 3) * 3))


def test_it_is_of_the_persona_agent(options: Make) -> None:
    with pytest.raises(InputError, match="--control equal-cost is of persona-agent: add it to --methods"):
        options(control="equal-cost", methods=("rag", "no-alignment"))
