"""Replay: the same answers, errors and costs as when they were recorded, with no server to ask."""

from __future__ import annotations

import asyncio
import copy
import itertools
import json
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import copy_context
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import Message, Request, Response, TextPart, ThinkingPart, ToolCallPart
from dspy.lm15 import Usage as LMUsage
from dspy.utils import exceptions
from dspy.utils.exceptions import (
    ContextWindowExceededError,
    LMAuthError,
    LMError,
    LMInvalidRequestError,
    LMRateLimitError,
    LMServerError,
    LMTimeoutError,
    LMUnexpectedError,
    is_retryable_lm_error,
)
from servers.llm import OpenAIServer, in_fields
from servers.wikipedia import WikipediaServer

from personaagent.programs.errors import BudgetError, InputError
from personaagent.programs.lm.endpoint import EndpointPausedError, says_misconfigured
from personaagent.programs.lm.make import make_lm
from personaagent.programs.lm.meter import Meter, Usage, metering
from personaagent.programs.lm.recording import Recording
from personaagent.programs.lm.replay import NOT_RECORDED, NotRecordedError, Replay
from personaagent.programs.lm.scope import recording_scope
from personaagent.programs.tools.wikipedia import Wikipedia

MODEL = "openai/test"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


def ask(lm: dspy.LM, question: str = "Who?") -> str:
    with dspy.context(lm=lm):
        return str(dspy.Predict("question -> answer")(question=question).answer)


async def aask(lm: dspy.LM, question: str = "Who?") -> str:
    with dspy.context(lm=lm):
        return str((await dspy.Predict("question -> answer").acall(question=question)).answer)


def numbering() -> Callable[[list[dict[str, Any]]], str]:
    """An LM that never gives an answer twice."""
    numbers = itertools.count()
    return lambda messages: in_fields(messages, f"answer {next(numbers)}")


@contextmanager
def recorded(path: Path, **server: Any) -> Iterator[tuple[dspy.LM, OpenAIServer]]:
    """An LM that is recorded, and its server, which is gone after the block."""
    with OpenAIServer(server.pop("reply", numbering()), **server) as running, Recording(path) as recording:
        yield make_lm(MODEL, api_base=running.url, recording=recording, retry_wait_seconds=0.001), running


def given(path: Path, response: Response, text: str = "?") -> Response:
    """What a replay makes of a response."""
    request = Request(model=MODEL, messages=[Message.user(text)])
    with Recording(path) as recording:
        recording.add_lm(MODEL, None)
        recording.add_response(request, response, Usage(1))
    replayed: Response = Replay(path).lm()(request)
    return replayed


def response(*parts: Any, **fields: Any) -> Response:
    usage = LMUsage(input_tokens=3, output_tokens=2, reasoning_tokens=1)
    settings: dict[str, Any] = {"id": "r1", "model": "test-2026", "finish_reason": "stop", "usage": usage, **fields}
    return Response(message=Message.assistant(list(parts)), **settings)


# --- whose answer it is ----------------------------------------------------------------------------


def test_two_units_with_one_prompt_get_each_its_own_answer_in_any_order(path: Path) -> None:
    with recorded(path) as (lm, _):
        for name in ("one", "two"):
            with recording_scope(name):
                assert ask(lm) == f"answer {['one', 'two'].index(name)}"
    lm = make_lm(f"replay:{path}")
    for name in ("two", "one", "two"):
        with recording_scope(name):
            assert ask(lm) == f"answer {['one', 'two'].index(name)}"


def test_answers_to_one_prompt_in_a_unit_come_in_order(path: Path) -> None:
    with recorded(path) as (lm, _), recording_scope("unit"):
        assert [ask(lm), asyncio.run(aask(lm)), ask(lm, "Else?"), ask(lm)] == [f"answer {i}" for i in range(4)]
    lm = make_lm(f"replay:{path}")
    with recording_scope("unit"):
        assert [ask(lm, "Else?"), asyncio.run(aask(lm)), ask(lm), ask(lm)] == [f"answer {i}" for i in (2, 0, 1, 3)]


def test_of_a_unit_that_was_done_again_the_last_time_counts(path: Path) -> None:
    with recorded(path) as (lm, _):
        for questions in (["a", "b"], ["a", "c"]):
            with recording_scope("unit"):
                for question in questions:
                    ask(lm, question)
    lm = make_lm(f"replay:{path}")
    with recording_scope("unit"):
        assert [ask(lm, question) for question in "abc"] == ["answer 2", "answer 1", "answer 3"]


def test_a_program_without_units_gets_its_answers_in_the_order_recorded(path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm)
        with recording_scope("one"):
            ask(lm), ask(lm)
        with recording_scope("two"):
            ask(lm)
    lm = make_lm(f"replay:{path}")
    with recording_scope("a unit that was not recorded"):
        assert [ask(lm) for _ in range(4)] == [f"answer {i}" for i in range(4)]
        with pytest.raises(NotRecordedError):
            ask(lm)
    assert [ask(lm) for _ in range(4)] == [f"answer {i}" for i in range(4)]


def test_a_recording_without_units_serves_one_with_units(path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm, "a"), ask(lm, "b")
    lm = make_lm(f"replay:{path}")
    for question, name in (("b", "one"), ("a", "two")):
        with recording_scope(name):
            assert ask(lm, question) == f"answer {'ab'.index(question)}"


def test_each_replay_begins_anew(path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm), ask(lm)
    for _ in range(2):
        assert [ask(make_lm(f"replay:{path}")) for _ in range(2)] == ["answer 0"] * 2
        lm = make_lm(f"replay:{path}")
        assert [ask(lm), ask(lm.copy())] == ["answer 0", "answer 1"]


def test_threads_get_every_answer_once(path: Path) -> None:
    def run(lm: dspy.LM) -> list[str]:
        with recording_scope("unit"), ThreadPoolExecutor(8) as pool:
            return [f.result() for f in [pool.submit(copy_context().run, ask, lm) for _ in range(24)]]

    with recorded(path) as (lm, _):
        seen = run(lm)
    assert len(set(seen)) == 24
    assert sorted(run(make_lm(f"replay:{path}"))) == sorted(seen)


# --- what was not recorded -------------------------------------------------------------------------


def test_a_call_that_was_not_recorded_is_an_error_of_that_call_and_costs_nothing(path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm)
    meter = Meter()
    lm = make_lm(f"replay:{path}", meter=meter)
    for wrong in (lambda: ask(lm, "Else?"), lambda: ask(lm.copy(temperature=0.2)), lambda: asyncio.run(aask(lm, "E"))):
        with pytest.raises(NotRecordedError) as caught:
            wrong()
        said = f"[{MODEL}] {path} holds no answer to this call: another prompt, setting or version was recorded"
        assert str(caught.value) == said
    assert isinstance(caught.value, LMError)
    assert not says_misconfigured(caught.value) and not is_retryable_lm_error(caught.value)
    assert meter.spent.lm_calls == 0
    assert ask(lm) == "answer 0"


# --- errors ----------------------------------------------------------------------------------------

ERRORS: list[LMError] = [
    *(
        kind(message=f"Said by {name}.", model=MODEL, provider="p", status=418, request_id="r", retry_after=3.5)
        for name, kind in vars(exceptions).items()
        if isinstance(kind, type) and issubclass(kind, LMError)
    ),
    EndpointPausedError("not sent: here is paused", model=MODEL),
    ContextWindowExceededError(),
    LMServerError("half a character: \ud83d, \0", provider_code="x"),
    LMServerError({"an": ["object"]}),  # type: ignore[arg-type]
]


@pytest.mark.parametrize("error", ERRORS, ids=[f"{i}-{type(e).__name__}" for i, e in enumerate(ERRORS)])
def test_an_error_is_raised_again_as_it_was(path: Path, error: LMError) -> None:
    request = Request(model=MODEL, messages=[Message.user("?")])
    with Recording(path) as recording:
        recording.add_lm(MODEL, None)
        recording.add_error(request, error, Usage(4))
    meter = Meter()
    with pytest.raises(LMError) as caught:
        Replay(path).lm(meter=meter)(request)
    assert type(caught.value) is type(error)
    assert str(caught.value) == str(error)
    names = ("message", "code", "model", "provider", "provider_code", "status", "request_id", "retry_after")
    assert [getattr(caught.value, name) for name in names] == [getattr(error, name) for name in names]
    assert meter.spent == Usage(4)


def test_an_error_of_a_kind_of_ones_own_becomes_the_nearest_that_is_known(path: Path) -> None:
    class TooBusyError(LMRateLimitError):
        pass

    request = Request(model=MODEL, messages=[Message.user("?")])
    with Recording(path) as recording:
        recording.add_lm(MODEL, None)
        recording.add_error(request, TooBusyError("busy"), Usage(1))
    with pytest.raises(LMRateLimitError, match="busy"):
        Replay(path).lm()(request)
    path.write_text(path.read_text().replace("LMRateLimitError", "LMErrorOfALaterVersion"))
    with pytest.raises(LMError, match="busy"):
        Replay(path).lm()(request)


SCENARIOS = {
    "500": LMServerError,
    "hang": LMTimeoutError,
    "context-length": ContextWindowExceededError,
    "401-bad-key": LMAuthError,
    "404-model": LMInvalidRequestError,
    "cut": LMError,
    "html-200": LMError,
}


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_a_server_did_is_raised_again_at_once_and_costs_the_same(path: Path, scenario: str) -> None:
    def failure(lm: dspy.LM) -> LMError:
        with pytest.raises(SCENARIOS[scenario]) as caught:
            ask(lm)
        error: LMError = caught.value
        return error

    meter, again = Meter(), Meter()
    with OpenAIServer(scenarios=[scenario]) as server, Recording(path) as recording:
        settings: dict[str, Any] = {"timeout_seconds": 0.05 if scenario == "hang" else 5, "retry_wait_seconds": 0.001}
        first = failure(make_lm(MODEL, api_base=server.url, recording=recording, meter=meter, **settings))
        assert meter.spent.lm_calls == len(server.requests)
    second = failure(make_lm(f"replay:{path}", meter=again))
    assert (type(second), str(second), second.status) == (type(first), str(first), first.status)
    assert again.spent == meter.spent


def test_a_refused_key_that_was_recorded_is_that_calls_failure_and_not_the_runs(path: Path) -> None:
    with recorded(path, scenarios=["401-bad-key"]) as (lm, _), pytest.raises(LMAuthError):
        ask(lm)
    meter = Meter()
    with pytest.raises(LMAuthError) as caught:
        ask(make_lm(f"replay:{path}", meter=meter))
    error = caught.value
    assert says_misconfigured(error) and meter.has_answered(error.model or "", getattr(error, "endpoint", ""))


# --- what it costs ---------------------------------------------------------------------------------


def test_retries_and_tokens_are_booked_as_they_were(path: Path) -> None:
    def run(lm: dspy.LM) -> list[dict[str, int]]:
        costs = []
        for question in "abc":
            with metering() as usage:
                ask(lm, question)
            costs.append(usage.to_dict())
        return costs

    with recorded(path, fail_first=2) as (lm, _):
        costs = run(lm)
    assert [cost["lm_calls"] for cost in costs] == [3, 1, 1]
    meter = Meter()
    assert run(make_lm(f"replay:{path}", meter=meter)) == costs
    assert meter.spent.to_dict() == {"lm_calls": 5, "prompt_tokens": 33, "completion_tokens": 21}


def test_the_cap_holds_in_a_replay(path: Path) -> None:
    with recorded(path, fail_first=1) as (lm, _):
        ask(lm, "a"), ask(lm, "b")
    meter = Meter(max_calls=2)
    lm = make_lm(f"replay:{path}", meter=meter)
    ask(lm, "a")
    with pytest.raises(LMUnexpectedError) as caught:
        ask(lm, "b")
    assert isinstance(caught.value.__cause__, BudgetError)
    assert meter.spent.lm_calls == 2


# --- what an answer may hold -----------------------------------------------------------------------

TEXTS = [
    "",
    "one\u2028two\u0085three\x0cfour\nfive\rsix\r\n",
    "half a character: \ud83d, and a whole one: 😀",
    "nothing: \0, and its name: \\u0000 \\ud83d",
    "é" * 1_000_000,
    json.dumps({"answer": {"deep": [[[{"a": "\"'\\\n"}]]], "none": None}}),
    '{"personaagent_recording": 1}\n{"wikipedia": "x"}',
    "[[ ## completed ## ]]",
]


@pytest.mark.parametrize("text", TEXTS, ids=range(len(TEXTS)))
def test_any_text_comes_back_as_it_was(path: Path, text: str) -> None:
    assert given(path, response(TextPart(text))) == response(TextPart(text))
    path.read_bytes().decode()  # UTF-8 throughout
    assert len(path.read_bytes().splitlines()) == 3


def test_all_that_a_response_holds_comes_back(path: Path) -> None:
    arguments = {"query": "x", "deep": [1, 2.5, None, {"": [], "e": {}, "f": ""}], "NaN": True}
    parts = [ThinkingPart("hm"), TextPart("a"), ToolCallPart(id="1", name="recall", input=arguments), TextPart("b")]
    for finish in ("length", "tool_call", "content_filter"):
        full = response(*parts, finish_reason=finish)
        assert given(path, full, finish) == full
    bare = response(TextPart("x"), id=None, usage=LMUsage())
    assert given(path, bare, "bare") == bare


def test_an_answer_that_broke_off_comes_back_broken_off(path: Path) -> None:
    def outputs(lm: dspy.LM) -> Any:
        return lm("hello"), lm.history[-1]["usage"], lm.history[-1]["response"].finish_reason

    with recorded(path, scenarios=["truncated"]) as (lm, _):
        seen = outputs(lm)
    assert seen[-1] == "length"
    assert outputs(make_lm(f"replay:{path}")) == seen


# --- which LM it is --------------------------------------------------------------------------------


def test_it_goes_under_the_name_of_the_recorded_lm_at_its_temperature(path: Path) -> None:
    with OpenAIServer() as server, Recording(path, {"lm": MODEL, "seed": 3}) as recording:
        ask(make_lm(MODEL, api_base=server.url, temperature=0.7, recording=recording))
    lm = make_lm(f"replay:{path}")
    assert (lm.model, lm.kwargs["temperature"], lm.cache, lm.num_retries) == (MODEL, 0.7, False, 0)
    assert ask(lm) == ask(make_lm(f"replay:{path}", temperature=0.7)) == "a loopback answer"
    assert Replay(path).about == {"lm": MODEL, "seed": 3}
    with pytest.raises(InputError, match=r"holds 'openai/test' at temperature 0\.7, not 0\.1"):
        make_lm(f"replay:{path}", temperature=0.1)


def test_of_two_lms_the_first_in_the_settings_is_the_default_and_the_other_has_a_name(path: Path) -> None:
    with OpenAIServer() as server, Recording(path, {"lm": MODEL, "align_lm": "openai/critic"}) as recording:
        for model in ("openai/critic", MODEL):
            ask(make_lm(model, api_base=server.url, recording=recording), model)
    replay = Replay(path)
    assert (replay.lm().model, replay.lm("openai/critic").model) == (MODEL, "openai/critic")
    assert ask(replay.lm("openai/critic"), "openai/critic")
    with pytest.raises(NotRecordedError):
        ask(replay.lm(), "openai/critic")
    with pytest.raises(InputError, match=r"holds no calls of 'openai/else', but of 'openai/critic', 'openai/test'"):
        replay.lm("openai/else")


def test_without_settings_the_only_lm_is_the_default_and_of_several_one_is_named(path: Path) -> None:
    with OpenAIServer() as server:
        with Recording(path) as recording:
            make_lm("openai/a", api_base=server.url, recording=recording)
        assert make_lm(f"replay:{path}").model == "openai/a"
        with Recording(path) as recording:
            make_lm("openai/b", api_base=server.url, recording=recording)
            make_lm("openai/b", api_base=server.url, recording=recording, temperature=0.5)
    with pytest.raises(InputError, match=r"holds calls of 'openai/a', 'openai/b': name one, as in Replay\(FILE\)\.lm"):
        make_lm(f"replay:{path}")
    with pytest.raises(InputError, match=r"'openai/b' at temperatures 0\.1 and 0\.5: name one"):
        Replay(path).lm("openai/b")
    assert Replay(path).lm("openai/b", temperature=0.5).kwargs["temperature"] == 0.5


def test_the_offline_reader_is_replayed_as_any_lm(path: Path, encoder: Any) -> None:
    with Recording(path, {"lm": "offline", "temperature": 0.1}) as recording, metering() as usage:
        answer = ask(make_lm("offline", encoder=encoder, recording=recording), "tags: [red, blue] text: sky")
    encoder.texts.clear()
    with metering() as again:
        lm = make_lm(f"replay:{path}", temperature=0.1)
        assert ask(lm, "tags: [red, blue] text: sky") == answer
    assert lm.model == "offline" and again == usage and not encoder.texts


# --- the file --------------------------------------------------------------------------------------


def test_a_last_line_that_was_cut_short_is_dropped_and_the_file_is_not_touched(path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm, "a"), ask(lm, "b")
    path.write_bytes(path.read_bytes()[:-2])
    before = path.read_bytes()
    path.chmod(0o444)
    lm = make_lm(f"replay:{path}")
    assert ask(lm, "a") == "answer 0"
    with pytest.raises(NotRecordedError):
        ask(lm, "b")
    assert path.read_bytes() == before


def test_a_damaged_line_is_named(path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm, "a"), ask(lm, "b")
    lines = path.read_bytes().splitlines(keepends=True)
    lines[2] = lines[2].replace(b'"parts"', b'"part"')
    path.write_bytes(b"".join(lines))
    with pytest.raises(InputError, match=r"calls\.jsonl: line 3 is damaged\. Delete that line, and the call has no"):
        Replay(path)


@pytest.mark.parametrize("content", [b"task,score\n", b'{"key": "x"}\n', b"\x89PNG\r\n\x1a\n\0", b"[]\n"])
def test_a_file_that_is_no_recording_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"calls\.jsonl is no recording of LM calls.*Give the file that a run with"):
        make_lm(f"replay:{path}")


@pytest.mark.parametrize("content", [b"", b"\n", b"no end", b'{"personaagent_recording": 1}\n'])
def test_a_file_that_holds_nothing_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"holds no recorded calls\. Give the file that a run with --record wrote"):
        make_lm(f"replay:{path}")


def test_a_file_that_is_not_there_is_refused_with_what_to_give(tmp_path: Path) -> None:
    for model in ("replay:nowhere.jsonl", f"replay:{tmp_path}", "replay:"):
        with pytest.raises(InputError, match=r"the recording cannot be read: .*as replay:FILE"):
            make_lm(model)


def test_settings_that_a_replay_cannot_have_are_refused(path: Path, tmp_path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm)
    with pytest.raises(InputError, match="a recording has no endpoint: drop --api-base"):
        make_lm(f"replay:{path}", api_base="http://127.0.0.1:1/v1")
    with Recording(tmp_path / "other.jsonl") as other, pytest.raises(InputError, match="recorded already"):
        make_lm(f"replay:{path}", recording=other)


def test_it_can_be_read_while_it_is_written(path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm)
        assert ask(make_lm(f"replay:{path}")) == "answer 0"
        assert ask(lm) == "answer 1"


# --- Wikipedia -------------------------------------------------------------------------------------


def test_wikipedia_answers_as_it_did_and_is_never_asked(path: Path) -> None:
    topics = ["Albert Einstein", "Nobody at all", "Albert Einstein"]
    with WikipediaServer() as server, Recording(path) as recording:
        recording.add_lm(MODEL, None)
        tool = Wikipedia(url=server.url, answers=recording.wikipedia(server.url, {}))
        seen = [tool(topic) for topic in topics]
        asked = server.requests
        replay = Replay(path)
        for answers in (replay.wikipedia(), replay.wikipedia(server.url)):
            tool = Wikipedia(url=server.url, answers=answers)
            assert [tool(topic) for topic in topics] == seen
            assert tool("Marie Curie") == NOT_RECORDED
        assert Wikipedia(url=server.url, answers=replay.wikipedia("http://else"))("Albert Einstein") == NOT_RECORDED
        assert server.requests == asked


# --- copies, and saving ----------------------------------------------------------------------------


def test_a_program_with_its_own_lm_is_copied_saved_and_loaded(path: Path, tmp_path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm), ask(lm)
    program = dspy.Predict("question -> answer")
    replay = Replay(path)
    assert copy.deepcopy(replay) is replay
    meter = Meter()
    program.set_lm(replay.lm(meter=meter))
    assert [program(question="Who?").answer, program.deepcopy()(question="Who?").answer] == ["answer 0", "answer 1"]
    assert meter.spent.lm_calls == 2
    program.save(tmp_path / "program.json")
    loaded = dspy.Predict("question -> answer")
    loaded.load(tmp_path / "program.json", allow_unsafe_lm_state=True)
    assert loaded.lm.dump_state() == program.lm.dump_state()
    assert loaded(question="Who?").answer == "answer 0"
    assert asyncio.run(loaded.acall(question="Who?")).answer == "answer 0"


def test_a_forked_process_can_go_on_with_it(path: Path) -> None:
    with recorded(path) as (lm, _):
        ask(lm), ask(lm)
    lm = make_lm(f"replay:{path}")
    assert ask(lm) == "answer 0"
    child = os.fork()
    if not child:
        try:
            os._exit(0 if ask(lm) == "answer 1" else 1)
        finally:
            os._exit(99)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_recorded_answer_and_a_replayed_one_can_be_streamed(tmp_path: Path) -> None:
    question = "tags: [one two, three] description: one two"
    with Recording(tmp_path / "calls.jsonl") as recording:
        streamed = words_of(make_lm("offline", recording=recording), question)
    assert words_of(Replay(tmp_path / "calls.jsonl").lm(), question) == streamed
    assert "".join(streamed).strip() == "one two" and len(streamed) > 1


def words_of(lm: dspy.LM, question: str) -> list[str]:
    listener = dspy.streaming.StreamListener("answer")
    program = dspy.streamify(dspy.Predict("query -> answer"), stream_listeners=[listener], async_streaming=False)
    with dspy.context(lm=lm):
        chunks = list(program(query=question))
    return [chunk.chunk for chunk in chunks if isinstance(chunk, dspy.streaming.StreamResponse)]
