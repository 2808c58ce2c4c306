"""Studies with Wikipedia: what it answered is kept, replays are exact, and its faults lose no question."""

from __future__ import annotations

import json
import os
import re
import resource
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dspy import lm15
from servers.wikipedia import FAULTS, MIXED, WikipediaServer

from personaagent.experiments.harness import workers as workers_module
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.programs.errors import InputError, StoreError

PAGE = "Topic {0}: «Topic {0} has the number {0}.»"
NO_ALIGNMENT = ((0,), (1,), (0,))

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[WikipediaServer]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with WikipediaServer() as running:
        yield running


@pytest.fixture
def looking_up(engine: Any) -> Callable[[Callable[[str], str]], None]:
    """The engine asks Wikipedia first, about what this makes of the number of the film in question."""
    usual = engine.script

    def install(topic: Callable[[str], str]) -> None:
        def script(call: Any) -> Any:
            if call.role == "step" and not call.steps_taken:
                number = re.search(r"film (\d+)", call.user.rpartition("[[ ## query ## ]]")[2])
                arguments = json.dumps({"query": topic(number[1] if number else "")})
                return {"next_thought": "t", "next_tool_name": "wikipedia", "next_tool_args": arguments}
            return usual(call)

        engine.script = script

    install("Topic {}".format)
    return install


def journalled(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "journal.jsonl").read_text().splitlines()]


def observations(out: Path) -> list[str]:
    """What Wikipedia said, in the order of the answers in the journal."""
    answers = [unit["result"] for unit in journalled(out) if unit["kind"] == "answer" and unit["error"] is None]
    return [answer["trajectory"]["observation_0"] for answer in answers]


def kept(out: Path) -> dict[str, str]:
    entries = [json.loads(line) for line in (out / "wikipedia.jsonl").read_text().splitlines()]
    texts = {entry["topic"]: entry["text"] for entry in entries}
    assert len(texts) == len(entries)
    return texts


# -- nothing is asked twice ----------------------------------------------------------------------


@pytest.mark.parametrize("afterwards", ["changed", "gone"])
def test_a_value_more_on_an_axis_reads_what_the_first_run_read(
    server: WikipediaServer, looking_up: Any, run_study: Run, options: Make, afterwards: str
) -> None:
    out = options().out
    looking_up(lambda number: "Nobody" if number == "1" else f"Topic {number}")
    assert run_study(options(NO_ALIGNMENT, wikipedia=server.url)) == 0
    before, asked = kept(out), server.requests
    assert before["Nobody"] == 'Wikipedia has no page "Nobody".' and before["Topic 0"] == PAGE.format(0)
    if afterwards == "changed":
        server.pages |= {"Topic 0": "Something else.", "Nobody": "Somebody after all."}
    else:
        server.scenario = "reset"
    assert run_study(options(((0,), (1,), (0, 3)), wikipedia=server.url)) == 0
    assert len(observations(out)) == 12 and set(observations(out)) == set(before.values())
    assert (kept(out), server.requests) == (before, asked)


def test_failed_units_read_the_same_when_they_are_asked_again(
    server: WikipediaServer, looking_up: Any, engine: Any, run_study: Run, options: Make
) -> None:
    out = options().out
    whole = engine.script

    def without_answers(call: Any) -> Any:
        if call.role == "answer" and "ann's" in call.user:
            raise lm15.InvalidRequestError("out of order")
        return whole(call)

    engine.script = without_answers
    assert run_study(options(NO_ALIGNMENT, wikipedia=server.url)) == 1
    before, asked = kept(out), server.requests
    assert before == {"Topic 0": PAGE.format(0), "Topic 1": PAGE.format(1)}
    engine.script, server.scenario = whole, "reset"
    assert run_study(options(NO_ALIGNMENT, wikipedia=server.url, retry_failed=True)) == 0
    assert Counter(observations(out)) == {PAGE.format(0): 3, PAGE.format(1): 3}
    assert (kept(out), server.requests) == (before, asked)


def test_after_kill_9_the_same_topics_read_the_same_and_are_not_asked_again(
    server: WikipediaServer, process: Any, options: Make, tmp_path: Path, database: Path
) -> None:
    server.searches = {f"film {number}": f"Topic {number}" for number in range(10)}
    data = ["--data", str(options().data), "--users", "3", "--queries-per-user", "2"]
    argv = ["--batch-sizes", "1", "--iterations", "1", "--memories", "0", *data, "--wikipedia", server.url]
    argv += ["--tracking", f"sqlite:///{database}", "--trace-samples", "0", "--out"]
    before: dict[str, str] = {}
    for moment in (["journal", 5], ["line", 2], None):
        run = process([*argv, "killed"], tmp_path, moment)
        assert run["code"] == (-9 if moment else 0), run["stderr"]
        after = kept(tmp_path / "killed")
        assert before.items() <= after.items() and (not moment or len(after) > len(before))
        before = after
    searched = [seen.params["srsearch"] for seen in server.seen if "srsearch" in seen.params]
    assert sorted(searched) == sorted(before) and len(searched) == 9  # three histories' last, six queries


def test_workers_with_the_same_topic_ask_once(
    server: WikipediaServer, looking_up: Any, opened: Any, options: Make
) -> None:
    looking_up(lambda number: "Einstein")
    server.latency_seconds = 0.2
    one = opened(options(NO_ALIGNMENT, wikipedia=server.url, workers=6))
    assert server.requests == 3  # a redirect, the page, its summary
    assert set(observations(one.out)) == set(kept(one.out).values())
    assert len(observations(one.out)) == 6


def test_all_tasks_share_what_was_answered(
    server: WikipediaServer, looking_up: Any, opened: Any, options: Make, synthetic: Any, tmp_path: Path
) -> None:
    looking_up(lambda number: "Einstein")
    folders = [synthetic(name) for name in ("lamp-2m", "lamp-3")]
    data = folders[0].rename(tmp_path / "both")
    shutil.copytree(folders[1], data, dirs_exist_ok=True)
    settings = {"tasks": ("lamp-2m", "lamp-3"), "data": data, "users": 2, "queries_per_user": 1}
    one = opened(options(NO_ALIGNMENT, wikipedia=server.url, **settings))
    assert len(observations(one.out)) == 4 and set(observations(one.out)) == set(kept(one.out).values())
    assert server.requests == 3
    # Nor do they have a breaker each: what one task finds out of the site the other knows.
    assert len({id(data.setting.wikipedia_tool) for data in one.tasks.values()}) == 1


# -- faults --------------------------------------------------------------------------------------


def questions(folder: Callable[..., Path], users: int, queries: int) -> Path:
    """As many topics as questions: each user's films have numbers of their own."""
    data = folder({f"user{number}": (1, queries) for number in range(users)}, "many")
    path = data / "user_top_100_history.json"
    entries = json.loads(path.read_text())
    for number, entry in enumerate(entries):
        for place, asked in enumerate(entry["query"]):
            asked["input"] = asked["input"].replace(f"film {place}", f"film {number * queries + place}")
    path.write_text(json.dumps(entries))
    return data


def test_with_all_faults_mixed_every_question_is_answered_and_every_request_counted(
    server: WikipediaServer, looking_up: Any, opened: Any, options: Make, users_folder: Any
) -> None:
    server.scenario, server.rate, server.seed = MIXED, 0.2, 1
    settings = {"data": questions(users_folder, 10, 10), "users": 10, "queries_per_user": 10, "profile": False}
    runs = {"timeout_seconds": 0.5, "workers": 4, "wikipedia": server.url}
    one = opened(options(NO_ALIGNMENT, **settings, **runs))
    read = observations(one.out)
    assert len(read) == 100 == len(journalled(one.out))
    usable = {text for text in read if not text.startswith("Wikipedia is not available right now (")}
    assert usable == set(kept(one.out).values()) and 0 < len(usable) < 100
    assert usable <= {PAGE.format(number) for number in range(100)}
    tool = one.tasks["lamp-2m"].setting.wikipedia_tool.func
    assert tool.requests_sent == server.requests
    assert len(set(server.counts) & set(FAULTS)) > 2


@pytest.mark.parametrize("scenario", ["forbidden", "too-many-requests", "server-error", "reset", "redirect-loop"])
def test_a_site_that_refuses_costs_three_questions_and_no_sample(
    server: WikipediaServer, looking_up: Any, run_study: Run, options: Make, scenario: str
) -> None:
    server.scenario = scenario
    assert run_study(options(NO_ALIGNMENT, wikipedia=server.url)) == 0
    assert len(observations(options().out)) == 6
    assert server.requests == 3 * (16 if scenario == "redirect-loop" else 1)
    assert kept(options().out) == {}


# -- the disk ------------------------------------------------------------------------------------


def test_a_full_disk_ends_the_study_with_one_message_and_a_folder_that_goes_on(
    server: WikipediaServer, looking_up: Any, run_study: Run, options: Make
) -> None:
    out = options().out
    out.mkdir()
    # Longer than any other file of the study, so that the limit is on this one alone.
    other = json.dumps({"address": "http://other", "topic": "x", "text": "x" * 5_000_000})
    (out / "wikipedia.jsonl").write_text(other + "\n")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, ((out / "wikipedia.jsonl").stat().st_size + 10, hard))
    try:
        with pytest.raises(StoreError, match=r"wikipedia\.jsonl: cannot be written: File too large"):
            run_study(options(NO_ALIGNMENT, wikipedia=server.url))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert (out / "wikipedia.jsonl").read_text() == other + "\n"
    assert run_study(options(NO_ALIGNMENT, wikipedia=server.url)) == 0
    assert len(observations(out)) == 6


def test_a_damaged_line_is_named_before_anything_is_asked(
    server: WikipediaServer, engine: Any, run_study: Run, options: Make
) -> None:
    options().out.mkdir()
    (options().out / "wikipedia.jsonl").write_text('{"address"\n{}\n')
    with pytest.raises(InputError, match=r"out/wikipedia\.jsonl: line 1 is damaged"):
        run_study(options(wikipedia=server.url))
    assert not engine.calls and not server.requests


def test_a_password_in_the_address_is_in_no_file_and_may_change(
    server: WikipediaServer, looking_up: Any, run_study: Run, options: Make, tmp_path: Path
) -> None:
    url = server.url.replace("//", "//me:hunter2@")
    command = ("scale.py", "--wikipedia", url)
    assert run_study(options(NO_ALIGNMENT, wikipedia=url, command=command)) == 0
    assert {seen.authorization for seen in server.seen} == {"Basic bWU6aHVudGVyMg=="}
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any(path.name == "wikipedia.jsonl" for path in files)
    assert not [path for path in files if b"hunter2" in path.read_bytes()]
    before = (server.requests, len(journalled(options().out)))
    assert run_study(options(NO_ALIGNMENT, wikipedia=url.replace("hunter2", "other"))) == 0
    assert (server.requests, len(journalled(options().out))) == before


# -- an end in the middle ------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3])
def test_an_interruption_does_not_wait_for_a_site_that_hangs(
    server: WikipediaServer,
    looking_up: Any,
    run_study: Run,
    options: Make,
    workers: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(workers_module, "GRACE_SECONDS", 0.5)
    server.scenario = "hang"
    sent: list[float] = []

    def interrupt() -> None:
        while server.requests < min(workers, 2):  # of two topics
            time.sleep(0.01)
        sent.append(time.monotonic())
        os.kill(os.getpid(), signal.SIGINT)

    threading.Thread(target=interrupt, daemon=True).start()
    assert run_study(options(NO_ALIGNMENT, wikipedia=server.url, workers=workers)) == 130
    assert time.monotonic() - sent[0] < 5  # the tool would wait 10 s for each
    assert not any(unit["kind"] == "answer" for unit in journalled(options().out))
    assert kept(options().out) == {}
    server.scenario = "ok"
    assert run_study(options(NO_ALIGNMENT, wikipedia=server.url, workers=workers)) == 0
    assert sorted(observations(options().out)) == [PAGE.format(0)] * 3 + [PAGE.format(1)] * 3
