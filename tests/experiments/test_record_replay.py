"""Studies that are recorded, and run again from the recording alone: the same files, in any folder and any order.

The LM is a real one over real HTTP that never answers a question twice in the same way, and so is Wikipedia. Both are
gone when the recording is replayed.
"""

from __future__ import annotations

import csv
import itertools
import json
import re
import resource
import secrets
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from servers import _llm_agent as agent
from servers.llm import OpenAIServer, Seen
from servers.wikipedia import WikipediaServer

from personaagent.experiments.harness import study
from personaagent.experiments.harness.journal import Journal, Unit
from personaagent.experiments.harness.options import Arguments, study_options
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.optimizers.alignment import PersonaAlignment
from personaagent.programs.errors import InputError, StoreError
from personaagent.programs.lm.make import make_lm
from personaagent.programs.lm.recording import Recording
from personaagent.programs.tools.wikipedia import Wikipedia

Run = Callable[[StudyOptions], int]
At = Callable[..., StudyOptions]
"""Options of a study; the recording is written to or read from `calls`."""

METHODS = "prompt,memory-bank,persona-agent,no-persona"


def moody() -> Callable[[list[dict[str, Any]]], str]:
    """An agent LM that says something else each time: it looks things up or not, and answers this or that."""
    numbers = itertools.count()

    def reply(messages: list[dict[str, Any]]) -> str:
        prompt, number = agent.Prompt(messages), next(numbers)
        fields = agent.values(prompt)
        if "next_tool_name" in fields:
            tool = "finish" if len(prompt.called) > 1 else ("wikipedia", "recall", "finish")[number % 3]
            tool = tool if tool in prompt.tools else "finish"
            about = {"wikipedia": f"Topic {number % 4}", "recall": f"film {number % 5}"}
            fields |= agent.step(f"Thought {number}.", tool, {"query": about[tool]} if tool in about else {})
        else:
            labels = prompt.candidates
            said = {name: f"{value} ({number})" for name, value in fields.items() if isinstance(value, str)}
            if "answer" in said and labels:
                said["answer"] = labels[number % len(labels)]
            fields |= said
        return agent.written(prompt, fields)

    return reply


@pytest.fixture
def engine(encoder: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """In place of the conftest's: a study's own LMs, at their endpoint."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    encoder.cache_size = 0
    monkeypatch.setattr(study, "make_lm", partial(make_lm, retry_wait_seconds=0.001))
    monkeypatch.setattr(study, "load_encoder", lambda name: encoder)


@pytest.fixture
def at(tmp_path: Path, users_folder: Callable[..., Path]) -> At:
    data = users_folder()

    def make(out: str, script: str = "compare", **changes: Any) -> StudyOptions:
        settings: dict[str, Any] = {"data": data, "users": 3, "queries_per_user": "1", "methods": METHODS}
        settings |= {"batch_sizes": "2", "memories": "2", "workers": 8, "timeout_seconds": 5.0, "tracking": "nowhere"}
        return study_options(script, Arguments(out=tmp_path / out, **{**settings, **changes}))

    return make


@pytest.fixture
def calls(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


class Refusing(OpenAIServer):
    """Refuses for good the gradient of bob's film before the last, and cleo's question."""

    def admit(self, path: str, authorization: str | None, body: dict[str, Any]) -> Seen:
        seen = super().admit(path, authorization, body)
        refused = "bob's film 3" if "feedback" in seen.prompt.outputs else "cleo's new film"
        if refused in seen.prompt.user:
            seen.scenario = "404-model"
        return seen


@pytest.fixture
def recorded(calls: Path) -> Callable[..., Any]:
    """An LM and a Wikipedia, and what a study says of them that is recorded."""

    @contextmanager
    def serve(
        kind: type[OpenAIServer] = OpenAIServer, wikipedia_faults: float = 0.0, **server: Any
    ) -> Iterator[tuple[OpenAIServer, dict[str, Any]]]:
        with kind(moody(), **server) as llm, WikipediaServer("server-error", rate=wikipedia_faults) as wiki:
            yield llm, {"lm": "openai/test", "api_base": llm.url, "wikipedia": wiki.url, "record": calls}

    return serve


def left_in(out: Path) -> dict[str, Any]:
    """What a study leaves to be read, but for seconds."""
    found: dict[str, Any] = {}
    for name in ("results.csv", "users.csv", "pairs.csv", "swap_matrix.csv"):
        if (out / name).exists():
            with (out / name).open(newline="") as file:
                found[name] = [without_seconds(row) for row in csv.DictReader(file)]
    for name in ("predictions.jsonl", "personas.jsonl", "swap_predictions.jsonl"):
        if (out / name).exists():
            found[name] = [without_seconds(json.loads(line)) for line in (out / name).read_text().splitlines()]
    return found


def without_seconds(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: without_seconds(part) for name, part in value.items() if name != "seconds"}
    return [without_seconds(part) for part in value] if isinstance(value, list) else value


def entries(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def unavailable(calls: Path) -> int:
    return sum("not available" in entry.get("text", "") for entry in entries(calls))


def spent(out: Path) -> list[int]:
    return [run["lm_calls"] for run in json.loads((out / "study.json").read_text())["runs"]]


# -- the same again -------------------------------------------------------------------------------


FAULTS = ("500-retry-now", "prose", "unknown-tool")


def test_a_study_of_many_methods_is_the_same_again_without_its_servers(
    run_study: Run, at: At, recorded: Any, calls: Path, capsys: Any
) -> None:
    """With faults of the LM, some of them for good, and of Wikipedia."""
    with recorded(Refusing, 0.5, scenarios=FAULTS, rate=0.1, after=1) as (server, there):
        real = at("real", **there)
        assert run_study(real) == 1
        assert sum(spent(real.out)) == len(server.requests)
    assert "replayed" not in capsys.readouterr().out
    assert "No answer is a replay." in (real.out / "report.md").read_text()
    seen = left_in(real.out)
    reasons = {str(line["error"]).partition(":")[0] for line in seen["predictions.jsonl"]}
    assert reasons == {"None", "alignment step 1", "LMUnsupportedModelError"}
    assert unavailable(calls) > 0
    before = calls.read_bytes()
    for workers in (1, 8):
        replay = at(f"replay-{workers}", lm=f"replay:{calls}", workers=workers)
        assert run_study(replay) == 1
        check_same(left_in(replay.out), seen)
        assert {row["lm"] for row in csv.DictReader((replay.out / "results.csv").open())} == {"openai/test"}
        assert "LM: openai/test, replayed from calls.jsonl. Intervals" in capsys.readouterr().out
        said = "No LM was asked: the answers are replayed from `calls.jsonl`."
        assert said in (replay.out / "report.md").read_text()
    assert calls.read_bytes() == before


def check_same(again: dict[str, Any], seen: dict[str, Any]) -> None:
    assert again.keys() == seen.keys()
    for file in seen:
        assert again[file] == seen[file], file


def test_controls_and_later_cells_in_the_same_folder_are_the_same_again(
    run_study: Run, at: At, recorded: Any, calls: Path
) -> None:
    """A swap matrix, and in another run equal-cost rows of a further cell; then all in the other order."""
    asked = [{"control": "matrix"}, {"control": "equal-cost", "iterations": "1,2"}]
    settings = {"methods": "persona-agent", "users": 2}
    with recorded() as (_, there):
        for changes in asked:
            assert run_study(at("real", **there, **settings, **changes)) == 0
    for changes in reversed(asked):
        assert run_study(at("replay", lm=f"replay:{calls}", **settings, **changes)) == 0
    seen, again = left_in(at("real").out), left_in(at("replay").out)
    assert {"swap_matrix.csv", "swap_predictions.jsonl"} < seen.keys()
    assert len(seen["results.csv"]) == 6 and len(seen["swap_predictions.jsonl"]) == 4
    check_same(again, seen)


def test_two_lms_two_seeds_and_another_lm_for_alignment_are_each_their_own(
    run_study: Run, at: At, recorded: Any, calls: Path
) -> None:
    settings = {"methods": "persona-agent", "users": 2, "seeds": "0,1"}
    with recorded() as (server, there):
        there |= {"lm": "openai/one,openai/two", "align_lm": "openai/critic", "align_api_base": server.url}
        assert run_study(at("real", **there, **settings)) == 0
    replay = at("replay", lm=f"replay:{calls}", **settings)
    assert (replay.lms, replay.align_lm) == (("openai/one", "openai/two"), "openai/critic")
    assert run_study(replay) == 0
    seen = left_in(at("real", **there).out)
    check_same(left_in(replay.out), seen)
    assert [(row["lm"], row["align_lm"], row["seed"]) for row in seen["results.csv"]] == [
        (lm, "openai/critic", seed) for lm in ("openai/one", "openai/two") for seed in "01"
    ]
    texts = [persona["text"] for persona in seen["personas.jsonl"] if persona["version"]]
    assert len(set(texts)) == len(texts) == 8, "nothing is shared"


# -- a recording in several runs ------------------------------------------------------------------


def test_runs_with_a_cap_make_one_whole_recording(run_study: Run, at: At, recorded: Any, calls: Path) -> None:
    settings = {"methods": "persona-agent", "users": 2}
    codes = []
    with recorded() as (_, there):
        while not codes or codes[-1]:
            # The worst case of a question is 132 calls, and of the step 288.
            codes.append(run_study(at("real", **there, **settings, max_calls=300)))
            assert len(codes) < 10
    assert len(codes) > 1
    assert run_study(at("replay", lm=f"replay:{calls}", **settings)) == 0
    check_same(left_in(at("replay").out), left_in(at("real").out))


def test_a_unit_that_was_cut_off_is_recorded_anew_and_only_its_last_calls_count(
    run_study: Run, at: At, recorded: Any, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed after a unit was recorded and before it was journalled, in the middle of a line."""
    settings = {"methods": "persona-agent", "users": 2, "workers": 1}
    add = Journal.add
    with recorded() as (server, there):
        for kept in (1, 2, 1):
            left = iter(range(kept))

            def adding(self: Journal, unit: Unit, left: Any = left) -> None:
                if next(left, None) is None:
                    raise SystemExit("killed")
                add(self, unit)

            with monkeypatch.context() as killing, pytest.raises(SystemExit, match="killed"):
                killing.setattr(Journal, "add", adding)
                run_study(at("real", **there, **settings))
            with calls.open("a") as file:
                file.write('{"model": "openai/te')
        assert run_study(at("real", **there, **settings)) == 0
        units = entries(at("real").out / "journal.jsonl")
        assert len(units) == 6 and sum(unit["lm_calls"] for unit in units) < len(server.requests)
    assert run_study(at("replay", lm=f"replay:{calls}", **settings)) == 0
    check_same(left_in(at("replay").out), left_in(at("real").out))


def test_of_a_recording_without_its_end_the_rest_is_the_same(
    run_study: Run, at: At, recorded: Any, calls: Path
) -> None:
    settings = {"methods": "persona-agent", "users": 2, "workers": 1}
    with recorded() as (_, there):
        assert run_study(at("real", **there, **settings)) == 0
    calls.write_bytes(calls.read_bytes()[:-20])
    assert run_study(at("replay", lm=f"replay:{calls}", **settings)) == 1
    seen, again = (left_in(at(name).out)["predictions.jsonl"] for name in ("real", "replay"))
    assert again[0] == seen[0]
    said = again[1].pop("error")
    assert said.startswith("NotRecordedError: [openai/test] ") and "holds no answer to this call" in said


def test_a_recording_that_begins_late_or_has_a_gap_says_so(
    run_study: Run, at: At, recorded: Any, calls: Path, capsys: Any
) -> None:
    settings = {"methods": "prompt", "users": 2}
    with recorded() as (_, there):
        unrecorded = {**there, "record": None}
        assert run_study(at("real", **unrecorded, **settings)) == 0
        assert run_study(at("real", **there, **{**settings, "methods": "pag"})) == 0
        said = "note: calls.jsonl lacks {} units that were done before: a replay lacks them, too."
        assert said.format(2) in capsys.readouterr().out.replace(f"{calls.parent}/", "")
        assert run_study(at("real", **unrecorded, **{**settings, "methods": "icl"})) == 0
        capsys.readouterr()
        assert run_study(at("real", **there, **settings)) == 0
        assert said.format(4) in capsys.readouterr().out.replace(f"{calls.parent}/", "")
    assert run_study(at("replay", lm=f"replay:{calls}", **{**settings, "methods": "pag"})) == 0
    assert run_study(at("replay", lm=f"replay:{calls}", **settings)) == 1


def test_what_was_not_recorded_fails_and_is_asked_by_a_real_lm_later(
    run_study: Run, at: At, recorded: Any, calls: Path, capsys: Any
) -> None:
    """Another method, user, seed: their prompts, which partly are the same as recorded ones, were other calls."""
    small = {"methods": "prompt,persona-agent", "users": 1}
    larger = {"methods": "prompt,pag,persona-agent", "users": 2, "seeds": "0,1"}
    with recorded() as (server, there):
        assert run_study(at("small", **there, **small)) == 0
        port = int(server.url.split(":")[2].partition("/")[0])
    replay = at("replay", lm=f"replay:{calls}", **larger)
    assert run_study(replay) == 1
    assert "samples failed; --retry-failed asks them again" in capsys.readouterr().out
    lines = entries(replay.out / "predictions.jsonl")
    whole = [(line["method"], line["user_id"], line["seed"]) for line in lines if line["error"] is None]
    assert whole == [("prompt", "ann", 0), ("persona-agent", "ann", 0)]
    for line in lines:
        if line["error"] is not None:
            assert re.search(r"NotRecordedError: \[openai/test\] .* holds no answer to this call", line["error"])
            assert line["lm_calls"] == 0
    with OpenAIServer(moody(), port=port) as server:
        real = {**larger, "lm": "openai/test", "api_base": server.url, "wikipedia": there["wikipedia"]}
        assert run_study(at("replay", **real, retry_failed=True)) == 0
        assert spent(replay.out) == [*spent(at("small", **there, **small).out), len(server.requests)]
    after = entries(replay.out / "predictions.jsonl")
    assert len(after) == len(lines) == 12 and not any(line["error"] for line in after)
    assert all(line in after for line in lines if not line["error"])
    assert "A part of the answers is replayed from `calls.jsonl`." in (replay.out / "report.md").read_text()
    assert "LM: openai/test, in part replayed from calls.jsonl." in capsys.readouterr().out


def test_a_recording_of_other_settings_is_not_continued(run_study: Run, at: At, recorded: Any, calls: Path) -> None:
    with recorded() as (_, there):
        assert run_study(at("one", **there, methods="prompt", users=1)) == 0
        before = calls.read_bytes()
        with pytest.raises(InputError, match=r"of other settings:\n  temperature: 0\.1 there, 0\.5 now\n"):
            run_study(at("two", **there, methods="prompt", users=1, temperature=0.5))
        # Of a question that both ask, only the later answer would count, which the earlier one's study never had.
        with pytest.raises(InputError, match=r"of other settings:\n  study: '.*' there, '.*' now\n"):
            run_study(at("two", **there, methods="prompt", users=1))
    assert calls.read_bytes() == before


# -- Wikipedia ------------------------------------------------------------------------------------


def test_a_unit_that_could_not_reach_wikipedia_reads_so_again_and_no_other_one(
    run_study: Run, at: At, calls: Path
) -> None:
    """Every question looks one topic up twice: ann's fails first, bob finds what ann found, and cleo's fails twice."""
    scenarios = {"ann": ["server-error", "ok"], "bob": ["reset", "reset"], "cleo": ["server-error", "server-error"]}
    with WikipediaServer() as wiki:

        def reply(messages: list[dict[str, Any]]) -> str:
            prompt = agent.Prompt(messages)
            user = next(name for name in scenarios if f"{name}'s new film" in prompt.user)
            fields = agent.values(prompt)
            if "next_tool_name" not in fields:
                fields["answer"] = " and ".join(re.findall(r"not available|the number \d", prompt.user))
            elif len(prompt.called) == 2:
                fields |= agent.step("Done.", "finish", {})
            else:
                wiki.scenario = scenarios[user][len(prompt.called)]
                fields |= agent.step("Once more.", "wikipedia", {"query": f"Topic {2 if user == 'cleo' else 1}"})
            return agent.written(prompt, fields)

        with OpenAIServer(reply) as llm:
            there = {"lm": "openai/test", "api_base": llm.url, "wikipedia": wiki.url, "record": calls}
            settings = {"methods": "react-wiki", "workers": 1}
            assert run_study(at("real", **there, **settings)) == 0
    found = {line["user_id"]: line["raw"] for line in entries(at("real").out / "predictions.jsonl")}
    assert found == {
        "ann": "not available and the number 1",
        "bob": "the number 1 and the number 1",
        "cleo": "not available and not available",
    }
    assert [entry["topic"] for entry in entries(at("real").out / "wikipedia.jsonl")] == ["Topic 1"]
    for workers in (1, 8):
        replay = at(f"replay-{workers}", lm=f"replay:{calls}", **{**settings, "workers": workers})
        assert run_study(replay) == 0
        check_same(left_in(replay.out), left_in(at("real").out))
        assert not (replay.out / "wikipedia.jsonl").read_text()


def test_a_unit_that_is_asked_again_and_reaches_wikipedia_then_is_replayed_so(
    run_study: Run, at: At, recorded: Any, calls: Path
) -> None:
    settings = {"methods": "react-wiki", "users": 1, "workers": 1}

    def reply(messages: list[dict[str, Any]]) -> str:
        prompt = agent.Prompt(messages)
        fields = agent.values(prompt)
        if "next_tool_name" in fields:
            fields |= agent.step("t", "finish" if prompt.called else "wikipedia", {"query": "Topic 1"})
        return agent.written(prompt, fields)

    with OpenAIServer(reply) as llm, WikipediaServer("server-error") as wiki:
        there = {"lm": "openai/test", "api_base": llm.url, "wikipedia": wiki.url, "record": calls}
        llm.scenarios, llm.after = ("404-model",), 2  # its two steps are answered, and its answer is refused
        assert run_study(at("real", **there, **settings)) == 1
        llm.heal()
        wiki.scenario = "ok"
        assert run_study(at("real", **there, **settings, retry_failed=True)) == 0
    assert unavailable(calls) == 1
    assert run_study(at("replay", lm=f"replay:{calls}", **settings)) == 0
    check_same(left_in(at("replay").out), left_in(at("real").out))


# -- what is done side by side --------------------------------------------------------------------


def test_rollouts_with_one_question_each_get_their_own_answer_in_any_order(
    run_study: Run, at: At, recorded: Any, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The batch holds the same film twice, and the answers to it differ; in the replay the last rollout is first."""
    history = at("x").data / "user_top_100_history.json"  # type: ignore[operator]
    history.write_text(re.sub(r'film \d+"', 'film"', history.read_text()))
    settings = {"methods": "persona-agent", "users": 2, "batch_sizes": "3", "memories": "0", "wikipedia": "off"}
    with recorded() as (_, there):
        assert run_study(at("real", **{**there, **settings, "workers": 1})) == 0
    places: list[int] = []
    simulate = PersonaAlignment._simulate

    def last_first(self: PersonaAlignment, agent: Any, item: Any, place: int) -> Any:
        time.sleep(0.15 * (2 - place))
        places.append(place)
        return simulate(self, agent, item, place)

    monkeypatch.setattr(PersonaAlignment, "_simulate", last_first)
    settings.pop("wikipedia")
    assert run_study(at("replay", lm=f"replay:{calls}", **settings)) == 0
    assert places[0] == 2 and places[-1] == 0
    seen = left_in(at("real", wikipedia="off").out)
    answers = [[one["answered"] for one in p["step"]["batch"]] for p in seen["personas.jsonl"] if p["step"]]
    assert all(len(set(given)) == 3 for given in answers), "one question, three answers"
    check_same(left_in(at("replay").out), seen)


# -- disks and keys -------------------------------------------------------------------------------


@contextmanager
def full_after(path: Path, more: int) -> Iterator[None]:
    """No file may be longer than this one and so many bytes: the kernel refuses the rest, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (path.stat().st_size + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize(
    ("methods", "room"), [("prompt", (20, 1_000)), ("react-wiki", (1_000, 1_600)), ("persona-agent", (3_000, 6_000))]
)
def test_a_full_disk_ends_the_study_with_one_message_and_nothing_failed(
    run_study: Run, at: At, recorded: Any, calls: Path, methods: str, room: tuple[int, ...]
) -> None:
    settings = {"methods": methods, "users": 2, "batch_sizes": "2"}
    with recorded(wikipedia_faults=1.0) as (_, there):
        assert run_study(at("real", **there, **settings, max_calls=0)) == 1
        # Longer than any other file of the study, so that the limit is on this one alone.
        other = {"wikipedia": "http://other", "topic": "x", "text": "x" * 5_000_000}
        with calls.open("a") as file:
            file.write(json.dumps(other) + "\n")
        for more in room:
            with full_after(calls, more):
                with pytest.raises(StoreError, match=r"calls\.jsonl: cannot be written: File too large\. Make room"):
                    run_study(at("real", **there, **settings))
            assert calls.read_bytes().endswith(b"}\n")
            assert not [unit for unit in entries(at("real").out / "journal.jsonl") if unit["error"]]
        assert run_study(at("real", **there, **settings)) == 0
    assert run_study(at("replay", lm=f"replay:{calls}", **settings)) == 0
    check_same(left_in(at("replay").out), left_in(at("real").out))


def test_that_wikipedia_is_not_available_is_recorded_before_it_is_used(tmp_path: Path) -> None:
    with WikipediaServer("server-error") as wiki, Recording(tmp_path / "calls.jsonl") as recording:
        answers = recording.wikipedia(wiki.url, {})
        tool = Wikipedia(url=wiki.url, answers=answers, given=answers.given)
        with full_after(recording.path, 10), pytest.raises(StoreError, match="cannot be written"):
            tool("Topic 1")
        assert "not available" in tool("Topic 1")
    assert unavailable(recording.path) == 1


def test_no_key_is_recorded_and_what_only_looks_like_one_is_answered_as_it_is(
    run_study: Run, at: At, calls: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = f"sk-{secrets.token_urlsafe(24)}"
    monkeypatch.setenv("OPENAI_API_KEY", key)
    said = "A basic understanding of http://example.org/?token=x and ftp://me:you@here"

    def reply(messages: list[dict[str, Any]]) -> str:
        prompt = agent.Prompt(messages)
        fields = agent.values(prompt)
        if "next_tool_name" in fields:
            done = bool(prompt.called)
            fields |= agent.step(f"My key is {key}.", "finish" if done else "wikipedia", {} if done else {"query": key})
        return agent.written(prompt, fields | ({"answer": f"{said}, {key}"} if "answer" in fields else {}))

    settings = {"methods": "react-wiki", "users": 2}
    with OpenAIServer(reply) as llm, WikipediaServer() as wiki:
        there = {"lm": "openai/test", "api_base": llm.url, "wikipedia": wiki.url.replace("//", "//me:hunter22@")}
        assert run_study(at("real", **there, **settings, record=calls)) == 0
        assert run_study(at("unrecorded", **there, **settings)) == 0
        assert {seen.authorization for seen in llm.requests} == {f"Bearer {key}"}
    assert key not in calls.read_text() and "hunter22" not in calls.read_text()
    assert {line["raw"] for line in entries(at("real").out / "predictions.jsonl")} == {f"{said}, ***"}
    check_same(left_in(at("real").out), left_in(at("unrecorded").out))
    assert run_study(at("replay", lm=f"replay:{calls}", **settings)) == 0
    check_same(left_in(at("replay").out), left_in(at("real").out))
