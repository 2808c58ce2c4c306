"""The user as an input; and with MLflow: logged, loaded and served over HTTP without what users have told."""

from __future__ import annotations

import asyncio
import json
import os
import pickle
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cloudpickle
import dspy
import mlflow
import numpy as np
import pytest

from personaagent.programs import Interaction, MemoryStore, Persona, PersonaAgent, Wikipedia, personalize
from personaagent.programs.errors import InputError
from personaagent.programs.lm.make import make_lm
from personaagent.programs.lm.meter import Meter
from personaagent.programs.serving import Served

LIKES = {"ann": "comedy", "bob": "action"}
QUESTION = "Pick the tag. tags: [action, comedy, drama] description: a film by night"


@pytest.fixture
def store(tmp_path: Path) -> Iterator[MemoryStore]:
    made = MemoryStore(f"sqlite:///{tmp_path / 'memory.db'}")
    for user, tag in LIKES.items():
        made.add([Interaction(user, "1", f"a film by night, seen by {user}", tag, "2020-01-01", 0)])
        made.save_persona(user, Persona(f"Serve {user}, who always answers {tag}."))
    yield made
    made.close()


@pytest.fixture
def served(store: MemoryStore) -> Served:
    return Served(PersonaAgent("query -> answer", memory=store))


@pytest.fixture
def offline() -> Iterator[dspy.LM]:
    lm = make_lm("offline")
    with dspy.context(lm=lm):
        yield lm


def test_each_user_is_answered_by_their_own_persona_and_memory(served: Served, offline: Any) -> None:
    for user, tag in LIKES.items():
        assert served(user_id=user, query=QUESTION).answer == tag
        assert asyncio.run(served.acall(user_id=user, query=QUESTION)).answer == tag


def test_what_is_learnt_elsewhere_is_used_at_once(served: Served, store: MemoryStore, offline: Any) -> None:
    store.save_persona("ann", Persona("Serve ann, who answers drama, drama and drama.", 1, "0" * 64))
    assert served(user_id="ann", query=QUESTION).persona_version == 1


def test_what_cannot_be_served_is_refused(served: Served) -> None:
    with pytest.raises(InputError, match="must have for_user"):
        Served(dspy.Predict("query -> answer"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="'ann''s: serve the shared one"):
        Served(served.program.for_user("ann"))
    with pytest.raises(InputError, match="'user_id' says who asks, by text or a whole number, but got only query"):
        served(query=QUESTION)


@pytest.mark.parametrize(
    "user", [None, True, 1.0, float("nan"), ["ann"], {"a": 1}, np.array(None), "None", " ", "\ud800"]
)
def test_nobody_is_no_user(served: Served, user: Any) -> None:
    with pytest.raises(InputError, match="user_id"):
        served(user_id=user, query=QUESTION)


@pytest.mark.parametrize("user", ["7", 7, np.str_("7"), np.int64(7), np.array("7")])
def test_a_user_is_known_by_text_or_by_number(served: Served, store: MemoryStore, offline: Any, user: Any) -> None:
    store.save_persona("7", Persona("Serve 7, who always answers drama.", 3, "0" * 64))
    assert served(user_id=user, query=QUESTION).persona_version == 3


def test_nothing_of_users_stays_in_dspys_trace_and_histories(served: Served, offline: dspy.LM) -> None:
    before = len(dspy.settings.trace or ())
    served(user_id="ann", query=QUESTION)
    assert len(dspy.settings.trace or ()) == before and not offline.history and not served.history
    with dspy.context(trace=[]):  # an optimizer's
        served(user_id="ann", query=QUESTION)
        assert dspy.settings.trace


def test_a_pickled_one_holds_the_address_of_its_memory_and_no_text_of_users_and_no_key(
    served: Served, monkeypatch: pytest.MonkeyPatch, offline: Any
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "sk-a-key-that-is-secret")
    lm = make_lm("openai/some", api_base="http://127.0.0.1:9/v1", meter=Meter(7, 2))
    with dspy.context(lm=offline):
        served.program.for_user("ann")(query=QUESTION)
    assert offline.history
    assert b"by night" not in cloudpickle.dumps(offline) and not pickle.loads(cloudpickle.dumps(offline)).history
    data = cloudpickle.dumps((served, lm))
    for text in (b"by night", b"Serve ann", b"sk-a-key"):
        assert text not in data
    again, lm = pickle.loads(data)
    assert [again(user_id=user, query=QUESTION).answer for user in LIKES] == list(LIKES.values())
    assert (lm.model, lm.engine._meter.max_calls, lm.engine._meter.max_in_flight) == ("openai/some", 7, 2)
    assert lm.engine._endpoint is lm.engine._meter.endpoint("http://127.0.0.1:9/v1")


@pytest.mark.parametrize("around", [dspy.BestOfN, dspy.Refine])
def test_dspys_modules_that_write_a_trace_can_be_served(store: MemoryStore, offline: Any, around: Any) -> None:
    program = around(dspy.ChainOfThought("query -> answer"), N=2, reward_fn=lambda given, said: 1.0, threshold=0.5)
    served = Served(personalize(program, store))
    assert served(user_id="ann", query=QUESTION).answer == "comedy"


def test_one_with_the_librarys_own_tools_can_be_pickled(store: MemoryStore, offline: Any) -> None:
    served = Served(PersonaAgent("query -> answer", memory=store, tools=[Wikipedia(user_agent="lab/1")]))
    again = pickle.loads(cloudpickle.dumps(served))
    assert again.program.tool_names == ("recall", "wikipedia")


@pytest.fixture
def logged(served: Served, tmp_path: Path, offline: dspy.LM) -> Iterator[str]:
    """The program logged in MLflow: its URI."""
    before = mlflow.get_tracking_uri()
    mlflow.set_tracking_uri(f"sqlite:///{tmp_path / 'mlflow.db'}")
    dspy.configure(lm=offline)  # MLflow saves the settings that are DSPy's own, not a context's
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(tmp_path)
        with mlflow.start_run():
            example = {"user_id": "ann", "query": QUESTION}
            info = mlflow.dspy.log_model(served, name="tags", input_example=example, pip_requirements=["dspy"])
        yield info.model_uri
    mlflow.set_tracking_uri(before)
    dspy.configure(lm=None)


def test_mlflow_logs_it_without_what_users_have_told_and_loads_it(logged: str, tmp_path: Path) -> None:
    for path in (tmp_path / "mlruns").rglob("*"):
        assert not path.is_file() or b"seen by ann" not in path.read_bytes(), path
    program = mlflow.dspy.load_model(logged)
    assert [program(user_id=user, query=QUESTION).answer for user in LIKES] == list(LIKES.values())
    model = mlflow.pyfunc.load_model(logged)
    assert model.predict({"user_id": "bob", "query": QUESTION})["answer"] == "action"


def test_mlflow_serves_two_users_over_http(logged: str, tmp_path: Path) -> None:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port = one.getsockname()[1]
    tools = Path(sys.executable).parent
    command = [tools / "mlflow", "models", "serve", "-m", logged, "--env-manager", "local", "--workers", "1"]
    environment = {
        **os.environ,
        "PATH": f"{tools}:{os.environ['PATH']}",
        "MLFLOW_TRACKING_URI": mlflow.get_tracking_uri(),
    }
    server = subprocess.Popen(
        [*map(str, command), "--host", "127.0.0.1", "--port", str(port)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.DEVNULL,
        stderr=(tmp_path / "log").open("wb"),
        start_new_session=True,
    )
    try:
        wait_for(f"http://127.0.0.1:{port}/ping", server, tmp_path / "log")
        for user, tag in LIKES.items():
            body = json.dumps({"inputs": {"user_id": user, "query": QUESTION}}).encode()
            headers = {"Content-Type": "application/json"}
            request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, headers)
            with urllib.request.urlopen(request, timeout=120) as reply:
                assert json.load(reply)["predictions"]["answer"] == tag
        for nobody in (None, ""):
            body = json.dumps({"inputs": {"user_id": nobody, "query": QUESTION}}).encode()
            request = urllib.request.Request(f"http://127.0.0.1:{port}/invocations", body, headers)
            with pytest.raises(urllib.error.HTTPError) as refused:
                urllib.request.urlopen(request, timeout=120)
            assert refused.value.code == 400 and b"user_id" in refused.value.read()
    finally:
        os.killpg(server.pid, 15)
        server.wait(60)


def wait_for(url: str, server: subprocess.Popen[bytes], log: Path) -> None:
    """Until it answers; a machine under load takes a minute."""
    for _ in range(240):
        assert server.poll() is None, log.read_text()
        try:
            urllib.request.urlopen(url, timeout=5)
            return
        except (urllib.error.URLError, OSError):
            time.sleep(0.5)
    raise AssertionError(log.read_text())
