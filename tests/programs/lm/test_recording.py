"""Recording: what is in the file, what never is, and what a crash, a full disk or a second run leaves."""

from __future__ import annotations

import asyncio
import contextvars
import copy
import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.lm15 import Config, Message, Request, Response, TextPart
from dspy.lm15 import Usage as LMUsage
from dspy.utils.exceptions import LMError, LMUnexpectedError
from servers.llm import OpenAIServer, in_fields

from personaagent.programs.errors import InputError, StoreError
from personaagent.programs.lm.endpoint import NUM_RETRIES
from personaagent.programs.lm.make import make_lm
from personaagent.programs.lm.meter import Meter, Usage, metering
from personaagent.programs.lm.recording import Recording
from personaagent.programs.lm.scope import recording_scope, request_digest

MODEL = "openai/test"
ABOUT = {"lm": MODEL, "api_base": None, "temperature": 0.1, "methods": ["icl", "rag"]}
KEY = "sk-of-the-environment-1234"


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setenv("OPENAI_API_KEY", KEY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "calls.jsonl"


@pytest.fixture
def server() -> Iterator[OpenAIServer]:
    with OpenAIServer() as running:
        yield running


def entries(path: Path, name: str = "request") -> list[dict[str, Any]]:
    """The lines that hold this, which must all be whole."""
    lines = path.read_bytes().split(b"\n")
    assert lines.pop() == b""
    return [entry for entry in map(json.loads, lines) if name in entry]


def ask(lm: dspy.LM, question: str = "Who?") -> str:
    with dspy.context(lm=lm):
        return str(dspy.Predict("question -> answer")(question=question).answer)


def request(text: str = "?", **settings: Any) -> Request:
    return Request(model=MODEL, messages=[Message.user(text)], config=Config(**settings))


def response(text: str) -> Response:
    message = Message.assistant([TextPart(text)])
    return Response(id=None, model="test", message=message, finish_reason="stop", usage=LMUsage())


def filled(path: Path, *texts: str) -> None:
    with Recording(path, ABOUT) as recording:
        for text in texts:
            recording.add_response(request(text), response(text), Usage(1))


def said(path: Path) -> list[str]:
    return [entry["response"]["message"]["parts"][0]["text"] for entry in entries(path)]


# --- what is in the file ---------------------------------------------------------------------------


def test_a_call_is_one_line_after_the_header_and_its_lm(path: Path, server: OpenAIServer) -> None:
    with Recording(path, ABOUT) as recording, recording_scope("unit 1"):
        lm = make_lm(MODEL, api_base=server.url, recording=recording)
        assert ask(lm) == "a loopback answer"
        header, noted, call = map(json.loads, path.read_text().splitlines())
    assert header == {"personaagent_recording": 1, **ABOUT}
    assert noted == {"lm": MODEL, "temperature": 0.1}
    assert len(call.pop("request")) == 64
    answer = call.pop("response")
    assert answer["message"]["parts"][0]["text"].startswith("[[ ## answer ## ]]\na loopback answer")
    assert answer["finish_reason"] == "stop"
    cost = {"lm_calls": 1, "prompt_tokens": 11, "completion_tokens": 7}
    assert call == {"model": MODEL, "scope": "unit 1", "ordinal": 0, **cost}


def test_no_prompt_and_no_key_is_in_the_file(path: Path, server: OpenAIServer) -> None:
    with Recording(path, {**ABOUT, "api_base": server.url}) as recording:
        ask(make_lm(MODEL, api_base=server.url, recording=recording), "Is Zanzibar my secret wish?")
    assert server.requests[0].authorization == f"Bearer {KEY}"
    assert "Zanzibar" in str(server.requests[0].body)
    content = path.read_text()
    assert "Zanzibar" not in content and KEY not in content and "field" not in content


def test_a_key_that_an_lm_repeats_is_masked_for_the_run_too(path: Path) -> None:
    def repeat(messages: list[dict[str, Any]]) -> str:
        return in_fields(messages, f"my key is {KEY}")

    def mask(text: str) -> str:
        return text.replace(KEY, "***")

    with OpenAIServer(repeat) as server, Recording(path, {"note": KEY}, mask=mask) as recording:
        lm = make_lm(MODEL, api_base=server.url, recording=recording)
        with recording_scope(KEY):
            assert ask(lm) == "my key is ***", "what is used is what a replay will use"
        server.scenarios, server.reply = ("401-bad-key",), repeat
        with pytest.raises(LMError):
            ask(lm)
        recording.wikipedia(f"https://{KEY}@wiki", {})[f"t {KEY}"] = f"x {KEY}"
    assert KEY not in path.read_text()
    Recording(path, {"note": KEY}, mask=mask).close()  # the same settings again


def test_attempts_that_failed_are_counted_with_the_answer(path: Path) -> None:
    with OpenAIServer(fail_first=2) as server, Recording(path) as recording, metering() as usage:
        lm = make_lm(MODEL, api_base=server.url, recording=recording, retry_wait_seconds=0.001)
        ask(lm)
        ask(lm)
    assert [entry["lm_calls"] for entry in entries(path)] == [3, 1]
    assert [entry["prompt_tokens"] for entry in entries(path)] == [11, 11]
    assert usage.lm_calls == 4


def test_a_call_that_failed_for_good_is_recorded_with_its_attempts(path: Path) -> None:
    with OpenAIServer(scenarios=["500"]) as server, Recording(path) as recording:
        with pytest.raises(LMError) as caught:
            ask(make_lm(MODEL, api_base=server.url, recording=recording, retry_wait_seconds=0.001))
    [entry] = entries(path)
    assert entry["error"]["type"] == type(caught.value).__name__ == "LMServerError"
    assert entry["error"]["status"] == 500 and entry["error"]["message"] in str(caught.value)
    assert (entry["lm_calls"], entry["prompt_tokens"]) == (NUM_RETRIES + 1, 0)
    assert "response" not in entry


def test_a_call_that_the_cap_refuses_is_not_recorded(path: Path, server: OpenAIServer) -> None:
    with Recording(path) as recording:
        lm = make_lm(MODEL, api_base=server.url, recording=recording, meter=Meter(max_calls=1))
        ask(lm)
        with pytest.raises(LMUnexpectedError, match="cap of 1"):
            ask(lm)
    assert len(entries(path)) == 1


def test_a_call_that_is_cancelled_is_not_recorded_and_takes_no_number(path: Path) -> None:
    async def run(lm: dspy.LM) -> None:
        with dspy.context(lm=lm):
            call = asyncio.create_task(dspy.Predict("question -> answer").acall(question="Who?"))
            while not server.requests:
                await asyncio.sleep(0.01)
            call.cancel()
            with pytest.raises(asyncio.CancelledError):
                await call
            server.heal()
            await dspy.Predict("question -> answer").acall(question="Who?")

    with OpenAIServer(scenarios=["hang"]) as server, Recording(path) as recording:
        asyncio.run(run(make_lm(MODEL, api_base=server.url, recording=recording)))
    assert [entry["ordinal"] for entry in entries(path)] == [0]


def test_the_offline_reader_is_recorded_as_any_lm(path: Path, encoder: Any) -> None:
    with Recording(path) as recording, metering() as usage:
        lm = make_lm("offline", encoder=encoder, recording=recording)
        assert ask(lm, "tags: [red, blue] text: sky") in ("red", "blue")
        with dspy.context(lm=lm):
            asyncio.run(dspy.Predict("question -> answer").acall(question="tags: [red, blue] text: sky"))
    calls = entries(path)
    assert [(entry["model"], entry["ordinal"], entry["lm_calls"]) for entry in calls] == [
        ("offline", 0, 1),
        ("offline", 1, 1),
    ]
    assert sum(entry["prompt_tokens"] for entry in calls) == usage.prompt_tokens > 0
    assert entries(path, "lm") == [{"lm": "offline", "temperature": None}]


def test_two_lms_share_a_file_and_each_is_noted_once(path: Path, server: OpenAIServer) -> None:
    for _ in range(2):
        with Recording(path) as recording:
            for model, temperature in ((MODEL, 0.1), ("openai/critic", 1), ("openai/critic", 1.0)):
                ask(make_lm(model, api_base=server.url, temperature=temperature, recording=recording))
    assert [entry["model"] for entry in entries(path)] == [MODEL, "openai/critic", "openai/critic"] * 2
    assert len({entry["request"] for entry in entries(path)}) == 2
    assert entries(path, "lm") == [{"lm": MODEL, "temperature": 0.1}, {"lm": "openai/critic", "temperature": 1.0}]


def test_a_request_is_known_by_all_that_is_sent() -> None:
    requests = [
        request(),
        request("!"),
        request("\ud800"),
        request(temperature=0.1),
        request(temperature=0.2),
        request(temperature=0.1, seed=1),
        request(temperature=0.1, max_tokens=5),
        request(temperature=0.1, extensions={"min_p": 0.1}),
        Request(model="openai/other", messages=[Message.user("?")]),
        Request(model=MODEL, system="be kind", messages=[Message.user("?")]),
        Request(model=MODEL, messages=[Message.user("?"), Message.assistant([TextPart("!")]), Message.user("?")]),
    ]
    assert len({request_digest(each) for each in requests}) == len(requests)
    assert request_digest(request("?", temperature=0.1)) == request_digest(request("?", temperature=0.1))


# --- scopes ----------------------------------------------------------------------------------------


def test_ordinals_count_equal_requests_within_one_entering_of_a_scope(path: Path) -> None:
    with Recording(path) as recording:

        def record(text: str) -> None:
            recording.add_response(request(text), response("x"), Usage())

        record("a")
        record("a")
        with recording_scope("one"):
            record("a")
            record("b")
            record("a")
            with recording_scope("two"):
                record("a")
            record("b")
        with recording_scope("one"):
            record("a")
        record("a")
    numbered = [(entry["scope"], entry["ordinal"]) for entry in entries(path)]
    assert numbered == [
        *(("", 0), ("", 1)),
        *(("one", 0), ("one", 0), ("one", 1), ("two", 0), ("one", 1)),
        *(("one", 0), ("", 2)),
    ]


def test_threads_and_tasks_that_copied_the_context_count_together(path: Path, server: OpenAIServer) -> None:
    with Recording(path) as recording:
        lm = make_lm(MODEL, api_base=server.url, recording=recording)

        async def several() -> None:
            await asyncio.gather(*(dspy.Predict("question -> answer").acall(question="Who?") for _ in range(5)))

        with recording_scope("unit"), dspy.context(lm=lm), ThreadPoolExecutor(8) as pool:
            futures = [pool.submit(contextvars.copy_context().run, ask, lm) for _ in range(20)]
            for future in futures:
                future.result()
            asyncio.run(several())
    assert sorted(entry["ordinal"] for entry in entries(path)) == list(range(25))
    assert {entry["scope"] for entry in entries(path)} == {"unit"}


def test_units_side_by_side_count_for_themselves(path: Path, server: OpenAIServer) -> None:
    with Recording(path) as recording:
        lm = make_lm(MODEL, api_base=server.url, recording=recording)

        def unit(name: str) -> None:
            with recording_scope(name):
                for _ in range(3):
                    ask(lm)

        with ThreadPoolExecutor(6) as pool:
            list(pool.map(unit, "abcdef"))
    numbered = sorted((entry["scope"], entry["ordinal"]) for entry in entries(path))
    assert numbered == [(name, ordinal) for name in "abcdef" for ordinal in range(3)]


# --- opened again ----------------------------------------------------------------------------------


def test_a_recording_that_is_there_is_continued(path: Path) -> None:
    filled(path, "a")
    filled(path, "b")
    assert said(path) == ["a", "b"]
    assert len(entries(path, "personaagent_recording")) == 1


def test_another_run_is_refused_with_what_differs_and_nothing_is_touched(path: Path) -> None:
    filled(path, "a")
    before = path.read_bytes()
    with pytest.raises(InputError) as caught:
        Recording(path, {**ABOUT, "temperature": 0.7, "align_lm": "openai/critic"})
    assert str(caught.value).splitlines()[1:] == [
        "  temperature: 0.1 there, 0.7 now",
        "  align_lm: None there, 'openai/critic' now",
        "Record this run in a file of its own.",
    ]
    with pytest.raises(InputError, match=r"lm: 'openai/test' there, None now"):
        Recording(path)
    assert path.read_bytes() == before
    filled(path, "b")
    assert said(path) == ["a", "b"], "the lock was given back"


@pytest.mark.parametrize("keep", [1, 80, -2])
def test_a_last_line_that_was_cut_short_is_dropped_and_its_place_is_used(path: Path, keep: int) -> None:
    filled(path, "a", "b")
    *whole, last = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(whole) + last[:keep])
    filled(path, "c")
    assert said(path) == ["a", "c"]


@pytest.mark.parametrize("keep", [0, 1, 24, 25, 30, -1])
def test_a_header_that_was_cut_short_is_written_anew(path: Path, keep: int) -> None:
    Recording(path, ABOUT).close()
    path.write_bytes(path.read_bytes()[:keep])
    filled(path, "a")
    assert said(path) == ["a"]


ENTRY = {"model": "m", "request": "r", "scope": "", "ordinal": 0, "lm_calls": 1}
ENTRY |= {"prompt_tokens": 0, "completion_tokens": 0, "response": {}}
GOOD = {"model": "m", "message": {"role": "assistant", "parts": [{"type": "text", "text": "x"}]}}
GOOD |= {"finish_reason": "stop"}
DAMAGE = [
    '{"model": "m", "requ',
    "[]",
    "3",
    '"lm"',
    "\x00\x00",
    "[" * 100_000,
    json.dumps({"lm": 3, "temperature": 0.1}),
    json.dumps({"lm": "m"}),
    json.dumps({"wikipedia": "w", "topic": "t"}),
    json.dumps(ENTRY),
    json.dumps(ENTRY | {"response": "text"}),
    json.dumps(ENTRY | {"response": GOOD, "ordinal": -1}),
    json.dumps(ENTRY | {"response": GOOD, "lm_calls": "1"}),
    json.dumps(ENTRY | {"response": GOOD, "scope": None}),
    json.dumps(ENTRY | {"error": "LMError"}),
    json.dumps(ENTRY | {"error": {"type": "LMError"}}),
]


@pytest.mark.parametrize("damage", DAMAGE, ids=range(len(DAMAGE)))
def test_a_damaged_middle_line_is_named_by_its_number_and_nothing_is_touched(path: Path, damage: str) -> None:
    filled(path, "a", "b")
    header, first, second = path.read_text().splitlines()
    path.write_text("\n".join([header, first, "", damage, second]) + "\n")
    before = path.read_bytes()
    with pytest.raises(InputError, match=r"calls\.jsonl: line 4 is damaged\. Delete that line"):
        Recording(path, ABOUT)
    assert path.read_bytes() == before


OTHERS = [b"task,score\nLaMP-2,0.5\n", b"\x89PNG\r\n", b"no end of line", b'{"key": 1}\n', b"[1]\n", b"\n\n", b"{}"]


@pytest.mark.parametrize("content", OTHERS, ids=range(len(OTHERS)))
def test_a_file_of_another_kind_is_refused_untouched(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"calls\.jsonl is no recording of LM calls.*Give the file"):
        Recording(path)
    assert path.read_bytes() == content


def test_a_newer_versions_file_is_refused(path: Path) -> None:
    path.write_text('{"personaagent_recording": 2}\n')
    with pytest.raises(InputError, match="newer version of personaagent: its format is 2"):
        Recording(path)


def test_two_recordings_at_once_in_one_file_are_refused(path: Path) -> None:
    with Recording(path, ABOUT):
        with pytest.raises(InputError, match="in use by another run"):
            Recording(path, ABOUT)
    Recording(path, ABOUT).close()


def test_a_place_that_cannot_be_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="the recording cannot be opened: Is a directory"):
        Recording(tmp_path)
    (tmp_path / "file").touch()
    with pytest.raises(StoreError, match="the recording cannot be opened"):
        Recording(tmp_path / "file" / "calls.jsonl")
    with pytest.raises(InputError, match="needs the name of a file"):
        Recording("")


def test_its_folder_is_made(tmp_path: Path) -> None:
    filled(tmp_path / "a" / "b" / "calls.jsonl", "x")
    assert said(tmp_path / "a" / "b" / "calls.jsonl") == ["x"]


# --- faults ----------------------------------------------------------------------------------------


@contextmanager
def no_file_longer_than(size: int) -> Iterator[None]:
    """The kernel writes what fits and refuses the rest, as on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_full_disk_is_the_cause_of_the_calls_error_and_leaves_no_half_line(path: Path, server: OpenAIServer) -> None:
    with Recording(path) as recording:
        lm = make_lm(MODEL, api_base=server.url, recording=recording)
        ask(lm, "a")
        before = path.read_bytes()
        with no_file_longer_than(len(before) + 50), pytest.raises(LMUnexpectedError) as caught:
            ask(lm, "b")
        assert isinstance(caught.value.__cause__, StoreError)
        assert "calls.jsonl: cannot be written: File too large. Make room" in str(caught.value.__cause__)
        assert path.read_bytes() == before
        ask(lm, "c")
    assert len(entries(path)) == 2


def test_a_call_after_the_end_is_refused(path: Path, server: OpenAIServer) -> None:
    recording = Recording(path)
    lm = make_lm(MODEL, api_base=server.url, recording=recording)
    recording.close()
    recording.close()
    with pytest.raises(LMUnexpectedError, match="too late to be recorded"):
        ask(lm)
    with pytest.raises(StoreError, match="too late to be recorded"):
        make_lm("openai/another", api_base=server.url, recording=recording)


def test_sixteen_threads_write_whole_lines(path: Path) -> None:
    with Recording(path, ABOUT) as recording:

        def record(number: int) -> None:
            recording.add_response(request(str(number)), response(f"{number} " * 2000), Usage(1))

        with ThreadPoolExecutor(16) as pool:
            list(pool.map(record, range(200)))
    assert sorted(int(text.split()[0]) for text in said(path)) == list(range(200))


KILLED = """
import sys
from dspy.lm15 import Message, Request, Response, TextPart
from dspy.lm15 import Usage as LMUsage
from personaagent.programs.lm.meter import Usage
from personaagent.programs.lm.recording import Recording
recording, number = Recording(sys.argv[1]), 0
while True:
    request = Request(model="m", messages=[Message.user(str(number))])
    message = Message.assistant([TextPart(f"{number} " * 5000)])
    response = Response(id=None, model="m", message=message, finish_reason="stop", usage=LMUsage())
    recording.add_response(request, response, Usage(1))
    print(number, flush=True)
    number += 1
"""


def test_a_killed_run_loses_no_call_whose_answer_was_used(path: Path) -> None:
    used = 0
    for _ in range(3):
        command = [sys.executable, "-c", KILLED, str(path)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            assert process.stdout is not None
            for _ in range(20):
                process.stdout.readline()
            process.send_signal(signal.SIGKILL)
            used += 20 + len(process.stdout.read().splitlines())
    Recording(path).close()  # what was cut short is dropped
    assert used <= len(entries(path)) <= used + 3


def test_a_forked_process_does_not_write_into_its_parents_file(path: Path) -> None:
    with Recording(path, ABOUT) as recording:
        recording.add_response(request("a"), response("a"), Usage(1))
        child = os.fork()
        if not child:
            try:
                recording.add_response(request("b"), response("b"), Usage(1))
                os._exit(0)
            except StoreError:
                recording.close()
                os._exit(7)
            finally:
                os._exit(99)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
        with pytest.raises(InputError, match="in use"):
            Recording(path, ABOUT)
        recording.add_response(request("c"), response("c"), Usage(1))
    assert said(path) == ["a", "c"]


# --- Wikipedia -------------------------------------------------------------------------------------

WIKI = "https://wiki.example.org/w/api.php"


def test_every_answer_that_is_used_is_recorded_once(path: Path) -> None:
    for _ in range(2):
        with Recording(path, ABOUT) as recording:
            kept = {"old": "Old.", "unused": "Unused."}
            answers, others = recording.wikipedia(WIKI, kept), recording.wikipedia("https://de.example.org", {})
            assert answers.get("new") is None
            answers["new"] = "New."
            others["new"] = "Neu."
            assert [answers.get("old"), answers.get("new"), answers.get("old")] == ["Old.", "New.", "Old."]
            assert kept["new"] == "New."
    found = [(entry["wikipedia"], entry["topic"], entry["text"]) for entry in entries(path, "wikipedia")]
    assert found == [(WIKI, "new", "New."), ("https://de.example.org", "new", "Neu."), (WIKI, "old", "Old.")]


def test_a_page_that_has_changed_is_recorded_again(path: Path) -> None:
    for text in ("Then.", "Now.", "Now."):
        with Recording(path, ABOUT) as recording:
            assert recording.wikipedia(WIKI, {"t": text}).get("t") == text
    assert [entry["text"] for entry in entries(path, "wikipedia")] == ["Then.", "Now."]


def test_threads_that_read_one_topic_record_it_once(path: Path) -> None:
    begin = threading.Barrier(8)
    with Recording(path, ABOUT) as recording:
        answers = recording.wikipedia(WIKI, {"t": "Text."})

        def read() -> None:
            begin.wait()
            answers.get("t")

        with ThreadPoolExecutor(8) as pool:
            for future in [pool.submit(read) for _ in range(8)]:
                future.result()
    assert len(entries(path, "wikipedia")) == 1


def test_an_answer_that_cannot_be_recorded_is_not_kept(path: Path) -> None:
    kept: dict[str, str] = {}
    with Recording(path, ABOUT) as recording, no_file_longer_than(path.stat().st_size + 10):
        with pytest.raises(StoreError, match="cannot be written"):
            recording.wikipedia(WIKI, kept)["t"] = "Text."
    assert not kept


# --- copies, and saving ----------------------------------------------------------------------------


def test_a_copy_of_a_program_with_its_own_lm_is_recorded_in_the_same_file(path: Path, server: OpenAIServer) -> None:
    with Recording(path) as recording:
        assert copy.deepcopy(recording) is recording
        program = dspy.Predict("question -> answer")
        program.set_lm(make_lm(MODEL, api_base=server.url, recording=recording))
        program.deepcopy()(question="Who?")
        program.lm.copy(temperature=0.5)("hello")
    assert len(entries(path)) == 2


def engine_names(state: Mapping[str, Any]) -> list[str]:
    return [state[name]["class"].partition(":")[2] for name in ("engine", "async_engine")]


@pytest.mark.parametrize("offline", [False, True])
def test_a_program_with_its_own_lm_is_saved_and_loads_without_the_recording(
    path: Path, tmp_path: Path, server: OpenAIServer, offline: bool
) -> None:
    program = dspy.Predict("question -> answer")
    with Recording(path) as recording:
        settings: dict[str, Any] = {} if offline else {"api_base": server.url}
        program.set_lm(make_lm("offline" if offline else MODEL, recording=recording, **settings))
        program.save(tmp_path / "program.json")
    saved = (tmp_path / "program.json").read_text()
    assert KEY not in saved and str(path) not in saved
    loaded = dspy.Predict("question -> answer")
    loaded.load(tmp_path / "program.json", allow_unsafe_lm_state=True)
    bare = make_lm("offline" if offline else MODEL, **settings)
    assert loaded.lm.dump_state() == bare.dump_state()
    if not offline:
        assert loaded(question="Who?").answer == asyncio.run(loaded.acall(question="Who?")).answer
        assert entries(path) == []
