"""Tokens reach who listens while the LM still writes: from an endpoint, and from the offline reader.

The endpoint is a server with server-sent events whose last answer is held back after some words until the test has
seen a token: what it shows does not depend on time.
"""

from __future__ import annotations

import asyncio
import json
import re
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy.streaming import StreamListener, StreamResponse
from dspy.utils.callback import BaseCallback
from dspy.utils.exceptions import LMError
from servers.llm import COMPLETION_TOKENS, PROMPT_TOKENS, agent_reply, in_fields

from personaagent.programs import Interaction, MemoryStore, Persona, PersonaAgent, make_lm, personalize
from personaagent.programs.lm.meter import Meter

PATIENCE_SECONDS = 30.0
SAID = "a long answer of several words that is worth waiting for"
QUESTION = "Pick the tag. tags: [action, comedy, drama] description: a film by night"


class StreamingServer:
    """OpenAI-compatible, on 127.0.0.1, over real HTTP; an answer goes out word by word.

    Args:
        reply: from the messages of a request to the text of its answer.
        acts: what becomes of the first, second, ... request; all others are streamed. `stream`; `cut`: the connection
            closes before the first word; `cut-late`: after some words; `hold`: as `stream`, but after some words it
            waits for `let_go`; `hang`: it waits for `let_go` before the first word; `500`; `refuse`: 400, no streams;
            `whole`: the answer in one piece, whatever was asked for.
    """

    def __init__(self, reply: Callable[[list[dict[str, Any]]], str], acts: tuple[str, ...] = ()) -> None:
        self.reply, self.acts = reply, acts
        self.bodies: list[dict[str, Any]] = []
        self.ended = 0
        """Answers that are sent to their end."""
        self.hung_up = threading.Event()
        self.let_go = threading.Event()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def __enter__(self) -> StreamingServer:
        threading.Thread(target=self._http.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.let_go.set()
        self._http.shutdown()
        self._http.server_close()


def _handler(owner: StreamingServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            act = owner.acts[len(owner.bodies)] if len(owner.bodies) < len(owner.acts) else "stream"
            owner.bodies.append(body)
            try:
                self.answer(act, body)
            except OSError:
                owner.hung_up.set()

        def answer(self, act: str, body: dict[str, Any]) -> None:
            if act in ("500", "refuse"):
                said = "This model does not support stream." if act == "refuse" else "Out of order."
                return self.whole(500 if act == "500" else 400, {"error": {"message": said, "param": "stream"}})
            text = owner.reply(body["messages"])
            if act == "whole" or not body.get("stream"):
                message = {"role": "assistant", "content": text}
                choices = [{"index": 0, "message": message, "finish_reason": "stop"}]
                return self.whole(200, {**HEAD, "object": "chat.completion", "choices": choices, "usage": USAGE})
            self.send_response(200)
            self.send_header("Content-Type", "text/event-stream")
            self.end_headers()
            words = re.findall(r"\s*\S+", text)
            self.event({"choices": [{"index": 0, "delta": {"role": "assistant"}, "finish_reason": None}]})
            if act == "hang":
                self.wait()
            # All but the end of the last field: "[[", " ##", " completed", " ##", " ]]" and some words before.
            held = max(1, len(words) - 8)
            for place, word in enumerate(words):
                if (act == "cut" and place == 0) or (act == "cut-late" and place == held):
                    return
                if act == "hold" and place == held:
                    self.wait()
                self.event({"choices": [{"index": 0, "delta": {"content": word}, "finish_reason": None}]})
            self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
            self.event({"choices": [], "usage": USAGE})
            owner.ended += 1
            self.wfile.write(b"data: [DONE]\n\n")

        def wait(self) -> None:
            """Until the test lets go, or the client hangs up: a comment goes out now and then."""
            deadline = time.monotonic() + PATIENCE_SECONDS
            while not owner.let_go.wait(0.05) and time.monotonic() < deadline:
                self.wfile.write(b": waiting\n\n")

        def event(self, body: dict[str, Any]) -> None:
            self.wfile.write(b"data: " + json.dumps({**HEAD, **body}).encode() + b"\n\n")

        def whole(self, status: int, body: dict[str, Any]) -> None:
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)
            owner.ended += status == 200

        def log_message(self, format: str, *args: Any) -> None:
            """Silent."""

    return Handler


HEAD = {"id": "1", "object": "chat.completion.chunk", "created": 1, "model": "some"}
USAGE = {
    "prompt_tokens": PROMPT_TOKENS,
    "completion_tokens": COMPLETION_TOKENS,
    "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
}


def said(messages: list[dict[str, Any]]) -> str:
    return in_fields(messages, SAID) + "\n\n[[ ## completed ## ]]"


def lm_at(server: StreamingServer, meter: Meter, timeout_seconds: float = 60.0) -> dspy.LM:
    return make_lm(
        "openai/some",
        api_base=server.url,
        meter=meter,
        retry_wait_seconds=0.01,
        timeout_seconds=timeout_seconds,
    )


def spent(meter: Meter) -> tuple[int, int, int]:
    return meter.spent.lm_calls, meter.spent.prompt_tokens, meter.spent.completion_tokens


def calls_worth(count: int) -> tuple[int, int, int]:
    return count, count * PROMPT_TOKENS, count * COMPLETION_TOKENS


Seen = Callable[[Any], None]


def heard(
    program: dspy.Module, mode: str, inputs: dict[str, Any], field: str | None = None, seen: Seen = lambda _: None
) -> tuple[str, list[Any]]:
    """(the tokens of a field, everything that came), `seen` being told of each when it comes."""
    listeners = [StreamListener(field)] if field else []
    run = dspy.streamify(program, stream_listeners=listeners, is_async_program=mode == "async", async_streaming=True)

    async def listen() -> list[Any]:
        came = []
        async for value in run(**inputs):
            seen(value)
            came.append(value)
        return came

    everything = asyncio.run(listen())
    return "".join(value.chunk for value in everything if isinstance(value, StreamResponse)), everything


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    made = MemoryStore(f"sqlite:///{tmp_path / 'memory.db'}")
    made.add([Interaction("ann", "1", "a film by night", "comedy", "2020-01-01", 0)])
    made.save_persona("ann", Persona("Serve ann, who always answers comedy."))
    yield made
    made.close()


def programs(store: MemoryStore) -> dict[str, dspy.Module]:
    return {
        "agent": PersonaAgent("query -> response", memory=store).for_user("ann"),
        "program": personalize(dspy.ChainOfThought("query -> response"), store).for_user("ann"),
    }


MODES = pytest.mark.parametrize("mode", ["sync", "async"])
KINDS = pytest.mark.parametrize("kind", ["agent", "program"])


# -- at an endpoint -----------------------------------------------------------------------------------


@MODES
@KINDS
def test_the_first_token_is_shown_before_the_last_call_has_ended(kind: str, mode: str, store: MemoryStore) -> None:
    calls, meter = {"agent": 3, "program": 1}[kind], Meter()
    acts = ("stream",) * (calls - 1) + ("hold",)

    def reply(messages: list[dict[str, Any]]) -> str:
        return agent_reply(messages) if "next_tool_name" in str(messages[0]) else said(messages)

    with StreamingServer(reply, acts) as server, dspy.context(lm=lm_at(server, meter)):
        ended_at_first: list[int] = []

        def seen(value: Any) -> None:
            if isinstance(value, StreamResponse):
                ended_at_first.append(server.ended)
                server.let_go.set()

        text, everything = heard(programs(store)[kind], mode, {"query": "why?"}, "response", seen)
    assert ended_at_first[0] == calls - 1 and server.ended == calls == len(server.bodies)
    assert text == SAID == everything[-1].response
    assert len([value for value in everything if isinstance(value, StreamResponse)]) > 5
    assert spent(meter) == calls_worth(calls)
    assert (everything[-1].lm_calls, everything[-1].completion_tokens) == (calls, calls * COMPLETION_TOKENS)


@MODES
def test_what_fails_before_the_first_token_is_asked_again_and_booked(mode: str) -> None:
    meter = Meter()
    with StreamingServer(said, ("500", "cut")) as server, dspy.context(lm=lm_at(server, meter)):
        text, everything = heard(dspy.Predict("query -> response"), mode, {"query": "why?"}, "response")
    assert text == SAID == everything[-1].response
    assert len(server.bodies) == 3 and spent(meter) == (3, PROMPT_TOKENS, COMPLETION_TOKENS)


def test_one_stream_that_was_cut_off_does_not_end_streaming() -> None:
    with StreamingServer(said, ("cut",)) as server, dspy.context(lm=lm_at(server, Meter())):
        for _ in range(2):
            heard(dspy.Predict("query -> response"), "sync", {"query": "why?"}, "response")
    assert [bool(body.get("stream")) for body in server.bodies] == [True, False, True]


@MODES
def test_what_fails_after_a_token_was_shown_is_final(mode: str) -> None:
    meter, shown = Meter(), []
    with StreamingServer(said, ("cut-late",)) as server, dspy.context(lm=lm_at(server, meter)):
        with pytest.raises(LMError):
            heard(dspy.Predict("query -> response"), mode, {"query": "why?"}, "response", shown.append)
    assert SAID.startswith("".join(value.chunk for value in shown)) and shown
    assert len(server.bodies) == 1 and spent(meter) == (1, 0, 0)


@pytest.mark.parametrize("act", ["whole", "refuse"])
@MODES
def test_an_endpoint_that_does_not_stream_answers_in_one_piece(mode: str, act: str) -> None:
    meter = Meter()
    with StreamingServer(said, (act, "whole") * 2) as server, dspy.context(lm=lm_at(server, meter)):
        for _ in range(3):
            text, everything = heard(dspy.Predict("query -> response"), mode, {"query": "why?"}, "response")
            assert text == SAID == everything[-1].response
    # Twice in vain; then it is no longer asked for a stream.
    assert [bool(body.get("stream")) for body in server.bodies] == [True, False, True, False, False]
    assert spent(meter) == (5, 3 * PROMPT_TOKENS, 3 * COMPLETION_TOKENS)


def test_a_deadline_ends_a_stream_that_drips(store: MemoryStore) -> None:
    meter = Meter()
    with StreamingServer(said, ("hold",)) as server, dspy.context(lm=lm_at(server, meter, timeout_seconds=0.5)):
        with pytest.raises(LMError, match=r"no complete answer within 0\.5 s"):
            heard(dspy.Predict("query -> response"), "sync", {"query": "why?"}, "response")
        assert server.hung_up.wait(10)
    assert len(server.bodies) == 1


@MODES
def test_who_stops_listening_ends_the_request(mode: str) -> None:
    meter = Meter()
    with StreamingServer(said, ("hold",)) as server, dspy.context(lm=lm_at(server, meter)):
        listener = StreamListener("response")
        program = dspy.Predict("query -> response")
        run = dspy.streamify(program, stream_listeners=[listener], is_async_program=mode == "async")

        async def first() -> str:
            stream = run(query="why?")
            async for value in stream:
                task = asyncio.current_task()
                assert task is not None
                await stream.aclose()
                return value.chunk
            raise AssertionError("nothing came")

        if mode == "async":
            assert SAID.startswith(asyncio.run(first()).strip())
            assert server.hung_up.wait(10)
            assert meter.slots.held == 0 and spent(meter) == (1, 0, 0)
        else:  # a thread cannot be stopped; its call ends by itself
            server.let_go.set()
            assert SAID.startswith(asyncio.run(first()).strip())


def test_no_listener_no_stream_of_fields_but_the_chunks(store: MemoryStore) -> None:
    with StreamingServer(said) as server, dspy.context(lm=lm_at(server, Meter())):
        _, everything = heard(dspy.Predict("query -> response"), "sync", {"query": "why?"})
    texts = [value.choices[0].delta.content or "" for value in everything[:-1]]
    assert SAID in "".join(texts) and len(texts) > 5


# -- the offline reader -------------------------------------------------------------------------------


class LMCalls(BaseCallback):
    """Says of each LM call when it has begun and ended."""

    def __init__(self) -> None:
        self.begun = self.ended = 0

    def on_lm_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        self.begun += 1

    def on_lm_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
        self.ended += 1


@MODES
@KINDS
def test_the_offline_reader_speaks_before_its_last_call_has_ended(
    kind: str, mode: str, store: MemoryStore, encoder: Any
) -> None:
    meter, calls, places = Meter(), LMCalls(), []

    def seen(value: Any) -> None:
        if isinstance(value, StreamResponse):
            places.append((calls.begun, calls.ended))

    with dspy.context(lm=make_lm("offline", meter=meter, encoder=encoder), callbacks=[calls]):
        text, everything = heard(programs(store)[kind], mode, {"query": QUESTION}, "reasoning", seen)
    assert places[0] == (calls.begun, calls.begun - 1)
    assert text == everything[-1].reasoning and len(text.split()) > 3
    assert everything[-1].response == "comedy"
    assert meter.spent.lm_calls == calls.begun == everything[-1].lm_calls
    assert meter.spent.completion_tokens == everything[-1].completion_tokens > 0


def test_what_the_offline_reader_says_is_the_same_with_and_without_a_listener(store: MemoryStore, encoder: Any) -> None:
    meters = [Meter(), Meter()]
    with dspy.context(lm=make_lm("offline", meter=meters[0], encoder=encoder)):
        quiet = programs(store)["program"](query=QUESTION)
    with dspy.context(lm=make_lm("offline", meter=meters[1], encoder=encoder)):
        _, everything = heard(programs(store)["program"], "sync", {"query": QUESTION}, "response")
    assert everything[-1].toDict() | {"seconds": 0} == quiet.toDict() | {"seconds": 0}
    assert spent(meters[0]) == spent(meters[1])
