"""Shared by all tests: the environment before any import, and fakes with a stated property."""

from __future__ import annotations

import os
import tempfile

# A cache of their own for data files, also for the processes that tests start.
os.environ["HF_DATASETS_CACHE"] = tempfile.mkdtemp(prefix="personaagent-tests-")

for _name, _value in (
    ("LITELLM_LOCAL_MODEL_COST_MAP", "True"),
    ("MLFLOW_DISABLE_TELEMETRY", "true"),
    ("OMP_NUM_THREADS", "1"),
    ("HF_HUB_OFFLINE", "1"),
    ("TOKENIZERS_PARALLELISM", "false"),
    ("MLFLOW_ENABLE_ASYNC_TRACE_LOGGING", "false"),
    ("MLFLOW_LOGGING_LEVEL", "WARNING"),
):
    os.environ.setdefault(_name, _value)

import asyncio
import hashlib
import re
import signal
import threading
import time
from collections.abc import Callable
from typing import Any

import dspy
import numpy as np
import pytest
from dspy.lm15 import Message, Request, Response, TextPart, Usage

if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as of a command in the background of a shell
    signal.signal(signal.SIGINT, signal.default_int_handler)  # for the processes that tests interrupt, too

_OUTPUT = re.compile(r"^\d+\. `(\w+)` \(", re.MULTILINE)


def pytest_make_parametrize_id(val: object, argname: str) -> str | None:
    """Bytes are named by their argument: workers must agree on a test's name, and a gzip holds the time."""
    return argname if isinstance(val, bytes) else None


class HashEncoder:
    """Unit vectors drawn from a text's own hash: equal texts are equal, others nearly orthogonal."""

    name = "hash-32"
    dimension = 32

    def __init__(self) -> None:
        self.texts: list[str] = []

    def encode(self, text: str) -> Any:
        self.texts.append(text)
        seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
        vector = np.random.default_rng(seed).standard_normal(self.dimension)
        return (vector / np.linalg.norm(vector)).astype(np.float32)


class Call:
    """One request as an engine saw it."""

    def __init__(self, request: Request) -> None:
        parts = request.system
        self.system = parts if isinstance(parts, str) else "".join(p.text for p in parts or ())
        self.user = request.messages[-1].text or ""
        self.text = "\n".join([self.system, *((message.text or "") for message in request.messages)])
        """All that was sent, demonstrations included."""
        declared = self.system.partition("Your output fields are:")[2].partition("All interactions")[0]
        self.outputs = _OUTPUT.findall(declared)

    @property
    def role(self) -> str:
        """step, gradient, update, summary or answer, by the output fields that are asked for."""
        names = {"next_tool_name": "step", "feedback": "gradient", "new_persona": "update", "profile": "summary"}
        return next((names[name] for name in self.outputs if name in names), "answer")

    @property
    def steps_taken(self) -> int:
        return len(re.findall(r"\[\[ ## observation_\d+ ## \]\]", self.user))


Script = Callable[[Call], dict[str, str] | str]


def acting_script(call: Call) -> dict[str, str]:
    """Recalls once if it can, finishes, and answers `yes`; a gradient and an update say a fixed text."""
    if call.role == "step":
        tool = "recall" if call.steps_taken == 0 and "(1) recall" in call.system else "finish"
        return {
            "next_thought": "t",
            "next_tool_name": tool,
            "next_tool_args": '{"query": "x"}' if tool == "recall" else "{}",
        }
    fixed = {"feedback": "Say yes.", "new_persona": "A persona that says yes.", "profile": "Likes yes."}
    return {name: fixed.get(name, "yes") for name in call.outputs}


class ScriptedEngine:
    """Answers by a function of the request, counts and keeps what it was asked. Thread-safe, no latency by default."""

    def __init__(self, script: Script = acting_script, latency_seconds: float = 0.0) -> None:
        self.script = script
        self.latency_seconds = latency_seconds
        self.calls: list[Call] = []
        self.in_flight = 0
        self.most_in_flight = 0
        self._lock = threading.Lock()

    def roles(self) -> dict[str, int]:
        counted: dict[str, int] = {}
        for call in self.calls:
            counted[call.role] = counted.get(call.role, 0) + 1
        return counted

    def complete(self, request: Request) -> Response:
        call = Call(request)
        with self._lock:
            self.calls.append(call)
            self.in_flight += 1
            self.most_in_flight = max(self.most_in_flight, self.in_flight)
        try:
            if self.latency_seconds:
                time.sleep(self.latency_seconds)
            return self._reply(request, call)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _reply(self, request: Request, call: Call) -> Response:
        said = self.script(call)
        if isinstance(said, dict):
            said = "\n\n".join([f"[[ ## {k} ## ]]\n{v}" for k, v in said.items()] + ["[[ ## completed ## ]]"])
        usage = Usage(input_tokens=100, output_tokens=20)
        message = Message.assistant([TextPart(said)])
        return Response(id=None, model=request.model, message=message, finish_reason="stop", usage=usage)


class AsyncScriptedEngine:
    """The same engine for `acall`."""

    def __init__(self, engine: ScriptedEngine) -> None:
        self._engine = engine

    async def complete(self, request: Request) -> Response:
        await asyncio.sleep(self._engine.latency_seconds)
        call = Call(request)
        with self._engine._lock:
            self._engine.calls.append(call)
        return self._engine._reply(request, call)


@pytest.fixture
def encoder() -> HashEncoder:
    return HashEncoder()


@pytest.fixture
def scripted() -> Callable[..., tuple[dspy.LM, ScriptedEngine]]:
    """(an LM, its engine) for a script; default: `acting_script`."""

    def make(script: Script = acting_script, latency_seconds: float = 0.0) -> tuple[dspy.LM, ScriptedEngine]:
        engine = ScriptedEngine(script, latency_seconds)
        asynchronous = AsyncScriptedEngine(engine)
        return dspy.LM("scripted", engine=engine, async_engine=asynchronous, cache=False, num_retries=0), engine

    return make
