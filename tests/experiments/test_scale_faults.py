"""Whole studies at an LM endpoint that fails: nothing is lost, everything is counted, failures are asked again alone.

The LM is a real one over real HTTP; only the waits between attempts are shortened.
"""

from __future__ import annotations

import csv
import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from servers.llm import GROUPS, REFUSAL, OpenAIServer

from personaagent.experiments.harness import study
from personaagent.experiments.harness.methods.base import MAX_ITERS
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.programs.episode import max_predictions
from personaagent.programs.lm.endpoint import CALLS_TO_OPEN
from personaagent.programs.lm.make import CALLS_PER_PREDICTION, make_lm

Run = Callable[[StudyOptions], int]
Make = Callable[..., StudyOptions]
At = Callable[..., StudyOptions]
"""Options at a server."""

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "scale.py"
WORKERS = 8
MIXED = tuple(name for name in GROUPS["all"] if not name.startswith("drip-"))
TRANSIENT = tuple(name for name in GROUPS["transient"] if name not in ("hang-in-body", "drip", "drip-headers"))
TIMEOUT_SECONDS = 1.5
"""Short, since many hang; and long enough for a busy machine to send a request in."""


@pytest.fixture
def engine(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the conftest's: a study's own LMs, at their endpoint."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    encoder.cache_size = 0
    monkeypatch.setattr(study, "make_lm", partial(make_lm, retry_wait_seconds=0.01))
    with OpenAIServer() as server:  # what DSPy imports with the first call must not count against its short timeout
        make_lm("openai/test", api_base=server.url)("hello")
    monkeypatch.setattr(study, "load_encoder", lambda name: encoder)


@pytest.fixture
def of(options: Make, users_folder: Callable[..., Path]) -> At:
    """Options of a study at a server: ten users with 30 questions each, in one cell, if nothing else is said."""
    data = users_folder({f"user{number}": (4, 30) for number in range(10)}, "many")

    def make(server: OpenAIServer, **changes: Any) -> StudyOptions:
        settings = {"users": 10, "queries_per_user": None, "workers": WORKERS, "timeout_seconds": TIMEOUT_SECONDS}
        settings |= {"axes": ((0,), (1,), (3,)), "profile": False, "data": data}
        return options(lm="openai/test", api_base=server.url, **{**settings, **changes})

    return make


def results(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def journal(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]


def check_accounts(out: Path, server: OpenAIServer) -> None:
    """The server, the journal and the record of the runs have counted the same requests, none of which took long."""
    runs = json.loads((out / "study.json").read_text())["runs"]
    booked, journalled = sum(run["lm_calls"] for run in runs), sum(unit["lm_calls"] for unit in journal(out))
    assert booked == journalled == len(server.requests)
    assert max(seen.seconds or 0.0 for seen in server.requests) <= TIMEOUT_SECONDS + 1


# -- 300 questions -----------------------------------------------------------------------------------


def test_with_a_fifth_of_all_requests_failing_transiently_no_question_is_lost(
    run_study: Run, of: At, read_jsonl: Any
) -> None:
    with OpenAIServer(scenarios=TRANSIENT, rate=0.2, retry_after="0.05") as server:
        options = of(server)
        run_study(options)
        counts = server.counts
        lines = read_jsonl(options.out / "predictions.jsonl")
        assert len(lines) == 300
        assert sum(line["error"] is None for line in lines) >= 297, "99 %"
        check_lines(lines)
        assert 0.15 < 1 - counts["ok"] / counts.total() < 0.25 and set(counts) == {"ok", *TRANSIENT}
        check_accounts(options.out, server)


def test_with_a_fifth_of_all_requests_failing_in_every_way_each_question_is_answered_or_says_why(
    run_study: Run, of: At, read_jsonl: Any
) -> None:
    """With profiles and alignment, too: 150 questions in two cells. Then a healthy server is asked for the rest."""
    with OpenAIServer(scenarios=MIXED, rate=0.2, seed=1, retry_after="0.05") as server:
        server.after = 1  # the first answer shows that the key and the model are right
        options = of(server, axes=((0, 1), (1,), (3,)), profile=True, users=5)
        assert run_study(options) == 1
        assert len(server.counts) > 10, "many kinds have come up; all of them, if the breaker stayed closed"
        first = read_jsonl(options.out / "predictions.jsonl")
        check_accounts(options.out, server)
        check_lines(first)
        failed = [line for line in first if line["error"] is not None]
        rows = [(int(row["answered"]), int(row["failed"])) for row in results(options.out)]
        assert [sum(row) for row in rows] == [150, 150] and len(first) == 300
        assert 0 < len(failed) == sum(number for _, number in rows)
        before, units = len(server.requests), journal(options.out)

        assert run_study(options) == 1, "what failed stays failed"
        assert len(server.requests) == before
        server.heal()
        assert run_study(replace(options, retry_failed=True)) == 0
        check_accounts(options.out, server)
        again = read_jsonl(options.out / "predictions.jsonl")
        assert {row["failed"] for row in results(options.out)} == {"0"}
        done = {unit["key"] for unit in units if unit["error"] is None}
        new = journal(options.out)[len(units) :]
        assert not done & {unit["key"] for unit in new}, "what was answered is not asked again"
        assert len(server.requests) - before == sum(unit["lm_calls"] for unit in new)
        kept = {key(line): line for line in again}
        assert all(kept[key(line)] == line for line in first if line["error"] is None)


def key(line: dict[str, Any]) -> tuple[Any, ...]:
    return line["user_id"], line["id"], line["batch_size"], line["memories"]


def check_lines(lines: list[dict[str, Any]]) -> None:
    for line in lines:
        assert line["lm_calls"] <= max_predictions(MAX_ITERS) * CALLS_PER_PREDICTION
        if line["error"] is None:
            assert line["raw"] is not None
        else:
            reason = line["error"]
            assert line["raw"] is None and line["prediction"] is None
            assert re.match(r"(profile: |alignment step 1: )?\w+Error: \[openai/test\] \S", reason), reason
            assert "Traceback" not in reason and len(reason) < 500


def test_a_retry_of_failures_asks_for_them_alone(run_study: Run, of: At, read_jsonl: Any) -> None:
    """Each question that failed takes three requests of a healthy server; no other one takes any."""
    with OpenAIServer(scenarios=["404-model"], rate=0.04, after=1) as server:
        options = of(server, users=5)
        assert run_study(options) == 1
        failed = sum(line["error"] is not None for line in read_jsonl(options.out / "predictions.jsonl"))
        assert 0 < failed < 150
        check_accounts(options.out, server)
        before = len(server.requests)
        server.heal()
        assert run_study(replace(options, retry_failed=True)) == 0
        assert len(server.requests) - before == 3 * failed
        check_accounts(options.out, server)


def test_a_study_with_the_same_faults_again_is_the_same_whatever_the_order(
    run_study: Run, of: At, read_jsonl: Any, tmp_path: Path
) -> None:
    kept = []
    for workers in (1, WORKERS):
        with OpenAIServer(scenarios=["prose", "unknown-tool", "500-retry-now", "null-content"], rate=0.3) as server:
            options = of(server, users=2, workers=workers, out=tmp_path / f"out-{workers}")
            assert run_study(options) == 0
            lines = read_jsonl(options.out / "predictions.jsonl")
            kept.append(([{**line, "seconds": 0} for line in lines], server.counts))
    assert kept[0] == kept[1]
    assert kept[0][1]["500-retry-now"] > 5


# -- an LM that answers, but not what is asked -------------------------------------------------------


def test_a_refusal_is_an_answer_and_wrong_and_not_a_failure(run_study: Run, of: At, read_jsonl: Any) -> None:
    with OpenAIServer(scenarios=["refusal"]) as server:
        options = of(server, users=1)
        assert run_study(options) == 0
        check_accounts(options.out, server)
    [row] = results(options.out)
    assert (row["answered"], row["failed"], row["unparsable"], float(row["score"])) == ("30", "0", "30", 0.0)
    assert {line["raw"] for line in read_jsonl(options.out / "predictions.jsonl")} == {REFUSAL}


# -- a key or a model that is wrong ------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "words"), [("401-bad-key", "Incorrect API key"), ("404-model", "`test` does not exist")]
)
def test_at_the_first_call_it_is_one_message_and_exit_code_2_and_nothing_is_counted(
    name: str, words: str, of: At, empty_database: Path, tmp_path: Path
) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    with OpenAIServer(scenarios=[name]) as server:
        argv = ["--batch-sizes", "0", "--memories", "0", "--profile", "off", "--wikipedia", "off", "--workers", "8"]
        argv += ["--lm", "openai/test", "--api-base", server.url, "--out", "out", "--data", str(of(server).data)]
        command = [sys.executable, str(SCRIPT), *argv, "--tracking", "sqlite:///mlflow.db"]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=45, check=False)
        assert len(server.requests) == 1, "the first request goes alone, and is the last"
    assert run.returncode == 2
    last = run.stderr.splitlines()[-1]  # after the bars
    assert last.startswith("error: the LM cannot be used: ") and words in last
    assert run.stderr.count("error:") == 1 and "Traceback" not in run.stdout + run.stderr
    assert journal(tmp_path / "out") == []
    assert json.loads((tmp_path / "out" / "study.json").read_text())["cells"] == []


@pytest.mark.parametrize("name", ["401-bad-key", "404-model"])
def test_in_the_middle_of_a_study_the_rest_are_failures_and_few_more_are_sent(
    name: str, run_study: Run, of: At, read_jsonl: Any
) -> None:
    with OpenAIServer(scenarios=[name], after=90) as server:
        options = of(server)
        assert run_study(options) == 1
        lines = read_jsonl(options.out / "predictions.jsonl")
        errors = [line["error"] for line in lines if line["error"] is not None]
        check_accounts(options.out, server)
        assert CALLS_TO_OPEN <= server.counts[name] < CALLS_TO_OPEN + 2 * WORKERS, "then the breaker is open"
    assert len(lines) == 300 and 20 < 300 - len(errors) <= 30
    words = {"401-bad-key": "Incorrect API key", "404-model": "does not exist"}[name]
    assert all(words in error for error in errors), set(errors)
