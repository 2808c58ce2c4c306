"""Keys in the environment and in options: nothing that a study writes or says holds one, whoever repeats it."""

from __future__ import annotations

import json
import os
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from dspy.utils.exceptions import LMError
from servers import _llm_scenarios as scenarios
from servers import llm

from personaagent.experiments.harness.secrets import masked
from personaagent.programs.lm.endpoint import CALLS_TO_OPEN, one_line_of
from personaagent.programs.lm.make import make_lm

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "scale.py"


@pytest.fixture
def keys(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """New ones for each test, in the environment of what it starts."""
    names = ["OPENAI_API_KEY", "ANTHROPIC_API_KEY", "HF_TOKEN", "SOME_SECRET", "DATABASE_PASSWORD"]
    made = {name: f"sk-{secrets.token_urlsafe(24)}" for name in names}
    made["SOME_SECRET"] = f'"{secrets.token_hex(8)}\\+/=é {secrets.token_hex(8)}'  # as JSON and addresses escape it
    for name, value in made.items():
        monkeypatch.setenv(name, value)
    return made


class Telltale(llm.OpenAIServer):
    """An agent LM that repeats all keys in every field; requests that name bob are refused, with their headers."""

    def __init__(self, repeats: list[str], refuses: str) -> None:
        super().__init__(self.repeat)
        self.repeats, self.refuses = repeats, refuses

    def repeat(self, messages: list[dict[str, Any]]) -> str:
        text = llm.in_fields(messages, f"comedy, {' and '.join(self.repeats)}.")
        if "[[ ## next_tool_name ## ]]" not in text:
            return text
        tool = "finish" if "[[ ## observation_0 ## ]]" in messages[-1]["content"] else "wikipedia"
        arguments = "{}" if tool == "finish" else json.dumps({"query": self.repeats[0]})
        thought = f"I think of {self.repeats}."
        return llm.in_fields(messages, "X").replace("X", "{}").format(thought, tool, arguments)

    def admit(self, path: str, authorization: str | None, body: dict[str, Any]) -> llm.Seen:
        seen = super().admit(path, authorization, body)
        if self.refuses in json.dumps(body["messages"][-1]):
            seen.scenario = "tells"
        return seen


@pytest.fixture
def status(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """Of the refusals, which quote the request's headers; may be changed."""
    chosen = [400]

    def act(exchange: scenarios.Exchange) -> None:
        sent = exchange.handler.headers["Authorization"]
        said = f"Incorrect API key provided: {sent.split()[1]}. Your request had the header Authorization: {sent} " * 3
        exchange.send(chosen[0], scenarios.error(said, "invalid_request_error", "invalid_request"))

    monkeypatch.setitem(scenarios.SCENARIOS, "tells", scenarios.Scenario("quotes the headers", act))
    yield chosen


def run(cwd: Path, *argv: str, code: int) -> str:
    """What the script printed."""
    done = subprocess.run([sys.executable, str(SCRIPT), *argv], cwd=cwd, capture_output=True, check=False)
    said = (done.stdout + done.stderr).decode()
    assert done.returncode == code, said
    assert "Traceback" not in said
    return said


def left_in(folder: Path) -> str:
    """Everything in every file; of a database its rows, too, since it may store a long text in pieces."""
    texts = []
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        raw = path.read_bytes()
        texts.append(f"{path} {raw.decode('utf-8', 'replace')}")
        if raw.startswith(b"SQLite format 3"):
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as database:
                texts.append(f"{path} " + "\n".join(database.iterdump()))
    return "\n".join(texts)


def write_data(folder: Path) -> Path:
    def entry(user: str) -> dict[str, Any]:
        items = [{"id": f"{user}-{i}", "description": f"a film {i}", "tag": "comedy", "date": "2010"} for i in (1, 2)]
        query = {"id": f"{user}-q", "input": f"Which tag has the film of {user}?", "gold": "comedy"}
        return {"user_id": user, "profile": items, "query": [query]}

    folder.mkdir()
    (folder / "user_top_100_history.json").write_text(json.dumps([entry("ann"), entry("bob")]))
    return folder


SMALL = ["--batch-sizes", "1", "--iterations", "1", "--memories", "0", "--grid", "--users", "2", "--workers", "1"]


def test_what_servers_and_models_repeat_is_written_nowhere(
    keys: dict[str, str], status: list[int], tmp_path: Path
) -> None:
    password = secrets.token_hex(8)
    with Telltale([*keys.values(), password], refuses="film of bob") as server:
        argv = [*SMALL, "--lm", "openai/test", "--api-base", server.url, "--out", "out", "--data", "data"]
        argv += ["--wikipedia", f"http://me:{password}@127.0.0.1:9/w/api.php", "--tracking", "sqlite:///mlflow.db"]
        write_data(tmp_path / "data")
        said = run(tmp_path, *argv, code=1)
        assert {seen.authorization for seen in server.requests} == {f"Bearer {keys['OPENAI_API_KEY']}"}
        asked = len(server.requests)
        said += run(tmp_path, *argv, code=1)
        assert len(server.requests) == asked  # what was masked in the journal is found again
    left = left_in(tmp_path)
    shown = {name: key for name, key in [*keys.items(), ("password", password)] if in_any_form(key, left + said)}
    assert not shown
    assert (tmp_path / "mlflow.db").is_file() and (tmp_path / "mlartifacts").is_dir()
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    by_user = {line["user_id"]: json.dumps(line) for line in lines}
    assert "comedy, *** and ***" in by_user["ann"]
    assert "Incorrect API key provided: ***" in by_user["bob"]
    assert "comedy, *** and ***" in (tmp_path / "out" / "personas.jsonl").read_text()


def in_any_form(key: str, text: str) -> bool:
    return any(form in text for form in (key, json.dumps(key)[1:-1], json.dumps(key, ensure_ascii=False)[1:-1]))


def test_a_refused_key_is_not_repeated(keys: dict[str, str], status: list[int], tmp_path: Path) -> None:
    status[0] = 401
    write_data(tmp_path / "data")
    with Telltale([], refuses="") as server:
        argv = [*SMALL, "--lm", "openai/test", "--api-base", server.url, "--out", "out", "--data", "data"]
        said = run(tmp_path, *argv, "--wikipedia", "off", "--tracking", "sqlite:///mlflow.db", code=2)
        assert server.requests
    assert "error: the LM cannot be used" in said and "Incorrect API key provided: ***" in said
    left = left_in(tmp_path)
    assert not [name for name, key in keys.items() if in_any_form(key, left + said)]
    # Cut at 200 characters, a key may have lost its end.
    assert keys["OPENAI_API_KEY"][:12] not in left + said


@pytest.mark.parametrize("code", [403, 404, 422, 500, 503])
def test_what_an_error_quotes_is_masked(code: int, keys: dict[str, str], status: list[int]) -> None:
    status[0] = code
    said = []
    with Telltale([], refuses="") as server:
        lm = make_lm("openai/test", api_base=server.url, retry_wait_seconds=0.001)
        for _ in range(CALLS_TO_OPEN + 1):  # the last is not sent, and told why
            with pytest.raises(LMError) as caught:
                lm("Which?")
            said += [str(caught.value), one_line_of(caught.value)]
    key = keys["OPENAI_API_KEY"]
    assert all(key[:12] in text for text in said)
    assert not any(key[:12] in masked(text) for text in said)


@pytest.mark.parametrize(
    ("option", "value", "rest"),
    [
        ("--lm", "openai/test?api_key={}", ["--api-base", "http://127.0.0.1:9/v1", "--dry-run"]),
        ("--align-lm", "openai/test?token={}", ["--align-api-base", "http://127.0.0.1:9/v1", "--dry-run"]),
        ("--api-base", "http://127.0.0.1:9/v1?key={}", ["--lm", "openai/test", "--dry-run"]),
        ("--api-base", "http://me:{}@127.0.0.1:9/v1", ["--lm", "openai/test", "--dry-run"]),
        ("--data", "http://me:{}@127.0.0.1:9/data", ["--dry-run"]),
        ("--wikipedia", "htp://me:{}@127.0.0.1:9/w/api.php", ["--dry-run"]),
        ("--tracking", "http://127.0.0.1:9/?password={}", ["--users", "1"]),
    ],
    ids=lambda value: value.partition("{")[0].strip("-") if isinstance(value, str) else "",
)
def test_an_option_with_a_key_is_refused_without_repeating_it(
    option: str, value: str, rest: list[str], tmp_path: Path
) -> None:
    key = secrets.token_hex(8)
    said = run(tmp_path, option, value.format(key), *rest, "--out", "out", code=2)
    assert said.startswith("error: ") and len(said.splitlines()) == 1 and option in said
    assert key not in said + left_in(tmp_path)


def test_output_of_libraries_and_tracebacks_is_masked(keys: dict[str, str]) -> None:
    program = (
        "import logging, os, sys, threading\n"
        "from personaagent.experiments.harness.secrets import mask_output\n"
        "mask_output()\n"
        "key = os.environ['OPENAI_API_KEY']\n"
        "print('printed', key, flush=True)\n"
        "logging.getLogger('x').warning('logged %s', key)\n"
        "def fail(): raise ValueError(f'raised {key}')\n"
        "thread = threading.Thread(target=fail); thread.start(); thread.join()\n"
        "sys.stderr.writelines(['line ', key, '\\n'])\n"
        "fail()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    said = done.stdout + done.stderr
    assert done.returncode == 1
    for expected in ("printed ***", "logged ***", "line ***"):
        assert expected in said
    assert said.count("ValueError: raised ***") == 2
    assert keys["OPENAI_API_KEY"] not in said


def test_a_process_without_keys_is_left_as_it_is() -> None:
    environment = {name: value for name, value in os.environ.items() if name in ("PATH", "HOME", "LANG", "PYTHONPATH")}
    program = (
        "import sys\n"
        "from personaagent.experiments.harness.secrets import mask_output, secrets_given, without_secrets\n"
        "assert secrets_given() == []\n"
        "value = {'a': ['b', 1, None]}\n"
        "assert without_secrets(value) is value\n"
        "mask_output(); mask_output()\n"
        "assert sys.stdout.encoding and not sys.stdout.isatty() and sys.stdout.fileno() == 1\n"
    )
    subprocess.run([sys.executable, "-c", program], env=environment, check=True)
