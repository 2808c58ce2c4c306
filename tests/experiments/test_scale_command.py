"""scale.py as a command: bad input, refusals, and the script as a new user runs it."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mlflow import MlflowClient
from servers import llm as server_module

from personaagent.experiments.harness.settings import StudyOptions

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "scale.py"

Make = Callable[..., StudyOptions]


# -- bad input ------------------------------------------------------------------------------------


def entries(**changes: Any) -> str:
    item = {"id": "1", "description": "a film", "tag": "comedy", "date": "2010"}
    query = {"id": "q", "input": "which?", "gold": "comedy"}
    return json.dumps([{"user_id": "ann", "profile": [item], "query": [query]} | changes])


def test_bad_input_is_one_message_and_exit_code_2_before_any_work(process: Any, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    files = {
        "cut": entries()[:-20],
        "field": entries(profile=[{"id": "1", "description": "a film"}]),
        "query": entries(query=[{"id": "q", "input": "which?"}]),
        "list": "{}",
        "none": entries(query=[]),
    }
    for name, content in files.items():
        (tmp_path / name).mkdir()
        (tmp_path / name / "user_top_100_history.json").write_text(content)
    (tmp_path / "bad.yaml").write_text("personality: x")
    (tmp_path / "file").write_text("")
    cases: list[tuple[list[str], list[str]]] = [
        (["--data", "../gone"], ["../gone", "no such folder", "--data"]),
        (["--data", "../file"], ["../file", "is a file"]),
        (["--data", "../empty"], ["../empty", "user_top_100_history.json", "OPPU's layout"]),
        (["--data", "../cut"], ["cut/user_top_100_history.json", "not valid JSON", "index 0", "download"]),
        (["--data", "../field"], ["'ann'", "profile item 0", "'tag' is missing"]),
        (["--data", "../query"], ["query 0", "'gold' is missing"]),
        (["--data", "../list"], ["expected a list of users"]),
        (["--data", "../none"], ["no user of lamp-2m has a query"]),
        (["--tasks", "lamp-99"], ["unknown task 'lamp-99'", "lamp-2m"]),
        (["--tasks", ""], ["unknown task ''"]),
        (["--batch-sizes", "0,-1"], ["--batch-sizes: -1 is negative"]),
        (["--iterations", "1.5"], ["--iterations: '1.5' is not an integer"]),
        (["--memories", "4,x"], ["--memories: 'x' is not an integer"]),
        (["--seeds", "one"], ["--seeds: 'one' is not an integer"]),
        (["--split", "validation"], ["--split must be train, dev or test, but got 'validation'"]),
        (["--users-by", "age"], ["--users-by must be active or random, but got 'age'"]),
        (["--tasks", "logs"], ["--tasks logs needs --data, a log file"]),
        (["--tasks", "logs", "--data", "../file", "--columns", "user=u"], ["--columns", "query, response"]),
        (["--columns", "user=a,query=b,response=c"], ["--columns and --labels are of --tasks logs"]),
        (["--users", "0"], ["--users must be at least 1"]),
        (["--grid", "--search", "3"], ["--grid and --search exclude each other"]),
        (["--profile", "maybe"], ["--profile must be on or off, but got 'maybe'"]),
        (["--control", "other"], ["--control must be one of none, swap, matrix, equal-cost, but got 'other'"]),
        (["--control", "swap", "--users", "1"], ["--control swap needs at least 2 users"]),
        (["--temperature", "nan"], ["--temperature must be from 0 to 2"]),
        (["--prompts", "../gone.yaml"], ["--prompts ../gone.yaml", "cannot be read"]),
        (["--prompts", "../bad.yaml"], ["unknown key 'personality'"]),
        (["--lm", "nosuchprovider/model"], ["unknown LM provider", "'nosuchprovider/model'", "--api-base"]),
        (["--align-lm", "model-without-provider"], ["unknown LM provider", "'model-without-provider'"]),
        (["--api-base", "http://127.0.0.1:9/v1"], ["the offline reader has no endpoint"]),
        (["--lm", "openai/x", "--api-base", "localhost:9"], ["must be an http(s) URL"]),
        (["--tracking", "sqlite:///gone/mlflow.db"], ["--tracking sqlite:///gone/mlflow.db cannot be opened", "gone"]),
        (["--tracking", "http://127.0.0.1:9"], ["--tracking http://127.0.0.1:9 cannot be opened"]),
        (["--tracking", "gopher://x"], ["--tracking gopher://x cannot be opened"]),
        (["--tracking", "postgresql://me:hunter2@127.0.0.1:1/x"], ["--tracking postgresql://***@127.0.0.1:1/x cannot"]),
        (["--lm", "openai/gpt-4.1"], ["no key for 'openai/gpt-4.1'", "OPENAI_API_KEY"]),
        (["--batch-sizes", "1,,2"], ["--batch-sizes: '' in '1,,2' is not an integer"]),
        (["--memories", "99999999999"], ["--memories: 99999999999 is more than 10,000"]),
        (["--iterations", "101"], ["--iterations: 101 is more than 100"]),
        (["--out", "../file"], ["--out ../file: cannot be written"]),
    ]
    usage: list[list[str]] = [["--no-such-option"], ["--users", "many"], ["--search"], ["stray"]]
    runs = []
    for number, argv in enumerate([*(argv for argv, _ in cases), *usage]):
        cwd = tmp_path / f"cwd-{number}"
        cwd.mkdir()
        tracking = [] if "--tracking" in argv or "--out" not in argv else ["--tracking", f"sqlite:///{tmp_path}/x.db"]
        run = process([*argv, *tracking], cwd)
        assert run["code"] == 2, (argv, run)
        assert "Traceback" not in run["stderr"] + run["stdout"], (argv, run)
        assert run["calls"] == 0
        assert not list(cwd.iterdir()), argv
        runs.append(run)
    for run, (argv, said) in zip(runs, cases, strict=False):
        assert run["stderr"].startswith("error: ") and run["stderr"].count("error: ") == 1, (argv, run)
        assert len(run["stderr"].splitlines()) == 1, (argv, run)
        assert all(part in run["stderr"] for part in said), (argv, run["stderr"])
        # LiteLLM prints a line of its own about providers.
        assert [line for line in run["stdout"].splitlines() if line] == [], argv


def test_a_changed_setting_is_refused_with_exit_code_2(process: Any, options: Make, empty_database: Path) -> None:
    out, tmp_path = options().out, options().out.parent
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    data = ["--data", str(options().data), "--queries-per-user", "1", "--profile", "off", "--users", "2"]
    argv = ["--batch-sizes", "0", "--memories", "0", "--out", str(out), "--tracking", "sqlite:///mlflow.db", *data]
    changed = [*argv, "--temperature", "0.3"]
    runs = [process(a, tmp_path) for a in (argv, changed, [*argv, "--workers", "3"])]
    assert [run["code"] for run in runs] == [0, 2, 0]
    assert runs[1]["stderr"].startswith(f"error: {out} holds a study with other settings:\n")
    assert "temperature: 0.1 there, 0.3 now" in runs[1]["stderr"]
    assert (runs[1]["calls"], runs[2]["calls"]) == (0, 0)


# -- the script as it is --------------------------------------------------------------------------


def test_the_script_from_an_empty_folder_with_nothing_set(tmp_path: Path) -> None:
    """No variable of ours in the environment, the real encoder, the defaults for data, OUT and tracking."""
    ours = ("LITELLM", "MLFLOW", "OMP", "HF_", "TOKENIZERS", "PYTHON", "DSPY")
    environment = {k: v for k, v in os.environ.items() if not k.startswith(ours)}
    axes = ["--batch-sizes", "0,1", "--iterations", "1", "--memories", "0,2", "--grid"]
    argv = [sys.executable, str(SCRIPT), "--users", "2", "--queries-per-user", "1", *axes]
    done = subprocess.run(argv, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [out] = (tmp_path / "runs").glob("scale-*")
    assert re.fullmatch(r"scale-[0-9a-f]{8}", out.name)
    assert (tmp_path / "runs" / "mlflow.db").is_file()
    with (out / "results.csv").open(newline="") as file:
        assert [row["answered"] for row in csv.DictReader(file)] == ["2"] * 4
    assert "offline reader (not an LLM)" in done.stdout and "sample users" in done.stdout
    assert "scaling.png" in done.stdout and "make ui" in done.stdout
    assert "Traceback" not in done.stderr


def test_an_interruption_does_not_wait_for_an_endpoint_that_hangs(
    tmp_path: Path, options: Make, empty_database: Path
) -> None:
    go_on, asked = threading.Event(), threading.Semaphore(0)

    def reply(messages: Any) -> str:
        asked.release()
        if len(server.requests) > 2:
            go_on.wait(120)
        return str(server_module.in_fields(messages, "comedy"))

    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    with server_module.OpenAIServer(reply) as server:
        argv = ["--batch-sizes", "0", "--memories", "0", "--profile", "off", "--wikipedia", "off", "--workers", "2"]
        argv += ["--lm", "openai/test", "--api-base", server.url, "--timeout-seconds", "600", "--out", "out"]
        argv += ["--data", str(options().data), "--tracking", "sqlite:///mlflow.db"]
        command = [sys.executable, str(SCRIPT), *argv]
        process = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(4):
            assert asked.acquire(timeout=60)
        process.send_signal(signal.SIGINT)
        said, _ = process.communicate(timeout=60)  # the endpoint answers in 120 s, and the call would wait 600 s
        assert process.returncode == 130 and "2 units were under way and are given up" in said
        assert "the same command goes on from here" in said
        client = MlflowClient(f"sqlite:///{tmp_path / 'mlflow.db'}")
        experiment = client.get_experiment_by_name("scale")
        assert experiment is not None
        runs = client.search_runs([experiment.experiment_id])
        assert {run.info.status for run in runs} == {"KILLED"}
        done = (tmp_path / "out" / "journal.jsonl").read_text().splitlines()
        assert len(done) == 2
        go_on.set()
        before = len(server.requests)
        again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
        assert again.returncode == 0, again.stderr
        assert len(server.requests) - before == 4, "what was journalled is not asked again"
