"""From a model string to an LM: what is refused, and what really goes over the wire."""

from __future__ import annotations

import asyncio
import math
import os
import re
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.utils.exceptions import LMError
from servers import llm as server_module

from personaagent.programs.errors import InputError
from personaagent.programs.lm.endpoint import NUM_RETRIES
from personaagent.programs.lm.make import make_lm
from personaagent.programs.lm.meter import Meter, metering

SERVER = Path(__file__).parents[2] / "servers" / "llm.py"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("LITELLM_LOCAL_MODEL_COST_MAP", "True")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


@pytest.fixture
def server() -> Iterator[Any]:
    with server_module.OpenAIServer() as running:
        yield running


def ask(lm: dspy.LM, question: str = "Who?") -> str:
    with dspy.context(lm=lm):
        return str(dspy.Predict("question -> answer")(question=question).answer)


# --- what is refused -------------------------------------------------------------------------------


@pytest.mark.parametrize("model", ["nosuchprovider/some-model", "justaname"])
def test_an_unknown_provider_is_refused_with_the_remedy_once(model: str) -> None:
    with pytest.raises(InputError) as caught:
        make_lm(model)
    message = str(caught.value)
    assert message.startswith(f"unknown LM provider in {model!r}.")
    assert "PROVIDER/MODEL" in message and "--api-base URL" in message and "'offline'" in message


@pytest.mark.parametrize("model", ["", "openai/"])
def test_a_model_string_without_a_model_is_refused(model: str) -> None:
    with pytest.raises(InputError, match="cannot be used"):
        make_lm(model)


@pytest.mark.parametrize("api_base", ["127.0.0.1:8000/v1", "localhost", "ftp://127.0.0.1/v1", ""])
def test_an_api_base_that_is_no_url_is_refused(api_base: str) -> None:
    with pytest.raises(InputError) as caught:
        make_lm("openai/test", api_base=api_base)
    assert "http(s) URL" in str(caught.value) and repr(api_base) in str(caught.value)


def test_an_api_base_with_a_password_is_refused_and_not_repeated() -> None:
    with pytest.raises(InputError, match="must not hold a password") as caught:
        make_lm("openai/test", api_base="http://me:hunter2@127.0.0.1:8000/v1")
    assert "hunter2" not in str(caught.value)


@pytest.mark.parametrize(
    ("model", "variable"), [("openai/gpt-4.1", "OPENAI_API_KEY"), ("anthropic/claude-x", "ANTHROPIC_API_KEY")]
)
def test_a_hosted_model_without_its_key_is_refused_before_any_call(
    model: str, variable: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(variable, raising=False)
    with pytest.raises(InputError, match=f"no key for '{model}'.*{variable}.* in the environment"):
        make_lm(model)
    monkeypatch.setenv(variable, "sk-test")
    assert make_lm(model).model == model


def test_the_offline_reader_has_no_endpoint() -> None:
    with pytest.raises(InputError, match="no endpoint: drop --api-base"):
        make_lm("offline", api_base="http://127.0.0.1:1/v1")


@pytest.mark.parametrize("seconds", [0, 0.0, -1, -0.5, float("nan")])
@pytest.mark.parametrize("model", ["offline", "openai/test"])
def test_a_timeout_that_is_not_above_zero_is_refused(model: str, seconds: float) -> None:
    with pytest.raises(InputError, match=f"timeout_seconds must be above 0 but got {seconds}"):
        make_lm(model, timeout_seconds=seconds)


@pytest.mark.parametrize(
    ("setting", "value", "rule"),
    [
        ("retry_wait_seconds", -1, "retry_wait_seconds must be from 0 but got -1"),
        ("retry_wait_seconds", math.nan, "retry_wait_seconds must be from 0 but got nan"),
        ("temperature", -9, "temperature must be from 0 but got -9"),
        ("temperature", math.nan, "temperature must be from 0 but got nan"),
        ("temperature", math.inf, "temperature must be from 0 but got inf"),
    ],
)
@pytest.mark.parametrize("model", ["offline", "openai/test"])
def test_a_setting_out_of_range_is_refused(model: str, setting: str, value: float, rule: str) -> None:
    settings: dict[str, Any] = {setting: value}
    with pytest.raises(InputError, match=rule):
        make_lm(model, **settings)


def test_making_an_lm_sends_nothing(server: Any) -> None:
    make_lm("openai/test", api_base=server.url)
    assert server.requests == []


# --- over the wire ---------------------------------------------------------------------------------


def test_a_predictor_is_answered_by_the_server_and_booked(server: Any) -> None:
    meter = Meter()
    lm = make_lm("openai/test", api_base=server.url, temperature=0.35, meter=meter)
    with metering() as usage:
        assert ask(lm, "Who wrote it?") == "a loopback answer"
    (seen,) = server.requests
    assert seen.path == "/v1/chat/completions"
    assert seen.body["model"] == "test"
    assert seen.body["temperature"] == 0.35
    assert "Who wrote it?" in str(seen.body["messages"][-1]["content"])
    assert usage.to_dict() == {"lm_calls": 1, "prompt_tokens": 11, "completion_tokens": 7}
    assert meter.spent == usage


def test_the_papers_temperature_is_the_default(server: Any) -> None:
    ask(make_lm("openai/test", api_base=server.url))
    assert server.requests[0].body["temperature"] == 0.1


async def _aask(lm: dspy.LM) -> str:
    with dspy.context(lm=lm):
        return str((await dspy.Predict("question -> answer").acall(question="Who?")).answer)


def test_the_same_from_asyncio(server: Any) -> None:
    import asyncio

    meter = Meter()
    assert asyncio.run(_aask(make_lm("openai/test", api_base=server.url, meter=meter))) == "a loopback answer"
    assert len(server.requests) == meter.spent.lm_calls == 1
    assert (meter.spent.prompt_tokens, meter.spent.completion_tokens) == (11, 7)


def test_the_key_comes_from_the_environment(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(make_lm("openai/test", api_base=server.url))
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-environment")
    ask(make_lm("openai/test", api_base=server.url))
    assert [seen.authorization for seen in server.requests] == ["Bearer none", "Bearer of-the-environment"]


def test_the_key_is_in_no_dump_of_the_lm(server: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "of-the-environment")
    lm = make_lm("openai/test", api_base=server.url)
    ask(lm)
    assert "of-the-environment" not in str(lm.history) + str(lm.kwargs) + repr(lm)


def test_there_is_no_cache(server: Any) -> None:
    meter = Meter()
    lm = make_lm("openai/test", api_base=server.url, meter=meter)
    assert ask(lm) == ask(lm)
    assert len(server.requests) == meter.spent.lm_calls == 2
    assert server.requests[0].body == server.requests[1].body


def test_a_500_is_asked_again_and_both_are_booked() -> None:
    meter = Meter()
    with server_module.OpenAIServer(fail_first=1) as server:
        assert ask(make_lm("openai/test", api_base=server.url, meter=meter)) == "a loopback answer"
        assert len(server.requests) == 2
    assert meter.spent.to_dict() == {"lm_calls": 2, "prompt_tokens": 11, "completion_tokens": 7}


def test_retries_end() -> None:
    meter = Meter()
    with server_module.OpenAIServer(fail_first=99) as server:
        with pytest.raises(LMError):
            ask(make_lm("openai/test", api_base=server.url, meter=meter, retry_wait_seconds=0.01))
        assert len(server.requests) == NUM_RETRIES + 1
    assert meter.spent.lm_calls == NUM_RETRIES + 1


def test_a_401_is_not_asked_again_and_says_why() -> None:
    meter = Meter()
    with server_module.OpenAIServer(unauthorized=True) as server:
        with pytest.raises(LMError, match="Incorrect API key"):
            ask(make_lm("openai/test", api_base=server.url, meter=meter))
        assert len(server.requests) == 1
    assert meter.spent.to_dict() == {"lm_calls": 1, "prompt_tokens": 0, "completion_tokens": 0}


def test_an_unreadable_answer_costs_one_fallback() -> None:
    meter = Meter()
    with server_module.OpenAIServer(reply=lambda messages: "no field at all") as server:
        with pytest.raises(dspy.utils.exceptions.AdapterParseError):
            ask(make_lm("openai/test", api_base=server.url, meter=meter))
        assert len(server.requests) == meter.spent.lm_calls == 2


def test_a_call_is_in_the_history_once(server: Any) -> None:
    lm = make_lm("openai/test", api_base=server.url)
    with dspy.context(lm=lm), dspy.track_usage() as tracked:
        dspy.Predict("question -> answer")(question="Who?")
    assert len(lm.history) == 1
    assert [len(entries) for entries in tracked.usage_data.values()] == [1]


def test_threads_share_one_lm_and_each_call_is_booked() -> None:
    meter = Meter(max_in_flight=3)

    def echo(messages: list[dict[str, Any]]) -> str:
        return str(server_module.in_fields(messages, re.findall(r"q\d+\.", str(messages[-1]["content"]))[0]))

    with server_module.OpenAIServer(reply=echo) as server:
        lm = make_lm("openai/test", api_base=server.url, meter=meter)
        answers: list[str] = []
        threads = [threading.Thread(target=lambda i=i: answers.append(ask(lm, f"q{i}."))) for i in range(12)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(server.requests) == meter.spent.lm_calls == len(answers) == 12
    assert set(answers) == {f"q{i}." for i in range(12)}


def test_the_server_can_be_started_by_hand() -> None:
    command = [sys.executable, str(SERVER), "--port", "0", "--fail-first", "1"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONUNBUFFERED": "1"})
    try:
        assert process.stdout is not None
        url = process.stdout.readline().strip()
        request = urllib.request.Request(f"{url}/chat/completions", b'{"model": "m", "messages": []}', method="POST")
        with pytest.raises(urllib.error.HTTPError, match="500"):
            urllib.request.build_opener(urllib.request.ProxyHandler({})).open(request)
    finally:
        process.kill()
        process.wait()
        process.stdout.close() if process.stdout else None


# --- the offline reader ----------------------------------------------------------------------------


class Constant:
    """An encoder for which all texts are the same."""

    name, dimension = "constant", 2

    def encode(self, text: str) -> Any:
        import numpy as np

        return np.array([1.0, 0.0], dtype=np.float32)


def test_the_offline_reader_needs_no_key_and_books_its_calls() -> None:
    meter = Meter(max_calls=1)
    lm = make_lm("offline", meter=meter, encoder=Constant())
    assert ask(lm, "tags: [red, blue] text: sky") == "red"
    assert meter.spent.lm_calls == 1 and meter.spent.prompt_tokens > 0 and meter.spent.completion_tokens > 0
    with pytest.raises(Exception, match="cap of 1 LM calls"):
        ask(lm)


def test_a_copy_of_a_program_with_its_own_lm_is_on_the_same_account() -> None:
    meter = Meter()
    program = dspy.Predict("question -> answer")
    program.set_lm(make_lm("offline", meter=meter, encoder=Constant()))
    copied = program.deepcopy()
    assert copied(question="tags: [red, blue] text: sky").answer == "red"
    assert copied.lm.copy(temperature=0.5)("hello") is not None
    assert meter.spent.lm_calls == 2


# --- saving ----------------------------------------------------------------------------------------


def test_a_program_with_its_own_lm_is_saved_without_the_key_and_loads_where_that_is_allowed(
    server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    program = dspy.Predict("question -> answer")
    program.set_lm(make_lm("openai/test", api_base=server.url, temperature=0.7, timeout_seconds=9))
    file = tmp_path / "program.json"
    program.save(file)
    assert "sk-secret" not in file.read_text()
    loaded = dspy.Predict("question -> answer")
    with pytest.raises(ValueError, match="Refusing to import custom serialized LM class"):
        loaded.load(file)
    loaded.load(file, allow_unsafe_lm_state=True)
    with metering() as usage:
        assert loaded(question="Who?").answer
        monkeypatch.delenv("OPENAI_API_KEY")
        loaded.load(file, allow_unsafe_lm_state=True)
        assert asyncio.run(loaded.acall(question="Who?")).answer
    assert usage.lm_calls == 2
    assert [seen.authorization for seen in server.requests] == ["Bearer sk-secret", "Bearer none"]
    assert [seen.body["temperature"] for seen in server.requests] == [0.7, 0.7]
    assert (loaded.lm.num_retries, loaded.lm.cache) == (0, False), "the engine itself asks again, and books it"
    assert loaded.lm.dump_state() == program.lm.dump_state()


def test_a_program_with_the_offline_reader_is_saved_and_loads_where_that_is_allowed(tmp_path: Path) -> None:
    program = dspy.Predict("question -> answer")
    program.set_lm(make_lm("offline"))
    file = tmp_path / "program.json"
    program.save(file)
    loaded = dspy.Predict("question -> answer")
    with pytest.raises(ValueError, match="Refusing to import custom serialized LM class"):
        loaded.load(file)
    loaded.load(file, allow_unsafe_lm_state=True)
    assert loaded.lm.dump_state() == program.lm.dump_state()
