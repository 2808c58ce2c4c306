"""Runs of experiments/scale.py as processes of their own, forked from one that has done the slow imports.

Reads a line of JSON a request from standard input and answers each with a line. {"command": [...]} runs a program
here, and so within this process's mount namespace, if it was started in one: a disk of its own is mounted for the
runs and for nobody else. {"argv": [...], "cwd": ...} runs the script, with these more:

kill_after: seconds until a real kill -9, from the start, or from when the file `kill_when` is there.
when: the moment of a fault, null for none: ["journal", k] before the k-th unit is journalled, ["open", name, k] when a
    file that is so called is opened to be written for the k-th time, ["mlflow"] before results are logged, ["trace"]
    before the first trace is.
fault: ["fill", folder] takes all room there is on a disk, ["limit", file, n] lets no file grow beyond n bytes more
    than this one has, ["lock", file] has another process lock an SQLite file for as long as the run lives.
lock_seconds: so long the run waits for locks, in place of 5, 20 and 30 s.
stdout: a file to print to.

The encoder is one that takes no time. Nothing else of the program is changed.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS))  # this is run as a script

from forked_script import load_shared, run_script  # noqa: E402

shared = load_shared()

# What a run imports where it is used, once for all of them.
for _name in (
    "alembic.command",
    "dspy.clients.execution",
    "git",
    "litellm",
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "mlflow.pyfunc",
    "mlflow.store.tracking.sqlalchemy_workspace_store",
    "mlflow.tracing.export.mlflow_v3",
    "mlflow.tracing.processor.mlflow_v3",
    "optuna",
    "personaagent.datasets.sample",
    "personaagent.experiments.harness.figures",
    "personaagent.experiments.harness.options",
    "personaagent.experiments.harness.report",
    "scipy.stats",
    "sklearn.metrics",
    "typer",
):
    with suppress(ImportError):  # such as Git's, where there is no Git
        importlib.import_module(_name)

import sqlalchemy as sa  # noqa: E402

from personaagent.experiments.harness import journal, study, tracking, tracking_file  # noqa: E402

# -- faults ----------------------------------------------------------------------------------------------


def fill(folder: str) -> None:
    with open(os.path.join(folder, "ballast"), "wb", buffering=0) as ballast:
        for size in (65_536, 512):
            try:
                while True:
                    ballast.write(b"x" * size)
            except OSError:
                pass


def limit(file: str, more: int) -> None:
    most = (os.path.getsize(file) if os.path.exists(file) else 0) + more
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))


def lock(file: str) -> None:
    locked, tell = os.pipe()
    run = os.getpid()
    if os.fork() == 0:
        holder = sqlite3.connect(file, isolation_level=None)
        holder.execute("BEGIN EXCLUSIVE")
        os.write(tell, b".")
        while os.getppid() == run:
            time.sleep(0.02)
        os._exit(0)
    os.read(locked, 1)


FAULTS: dict[str, Callable[..., None]] = {"fill": fill, "limit": limit, "lock": lock}


def prepare(run: dict[str, Any]) -> None:
    encoder = shared.HashEncoder()
    encoder.cache_size = 0
    make_lm, pending = study.make_lm, [run["fault"]] if run.get("fault") else []

    def with_tiny_encoder(model: str, **settings: Any) -> Any:
        return make_lm(model, **({"encoder": encoder} if model == "offline" else {}), **settings)

    def strike() -> None:
        if pending:
            name, *arguments = pending.pop()
            FAULTS[name](*arguments)

    study.make_lm, study.load_encoder = with_tiny_encoder, lambda name: encoder
    if run.get("lock_seconds"):
        shorten_waits(run["lock_seconds"])
    moment, *which = run.get("when") or [None]
    if moment == "journal":
        before(journal.Journal, "add", which[0], strike)
    elif moment == "mlflow":
        before(tracking.Tracker, "log", 1, strike)
    elif moment == "trace":
        before(tracking.Tracker, "_trace", 1, strike)
    elif moment == "open":
        times = 0

        def opened(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal times
            if event == "open" and pending and arguments[2] & (os.O_WRONLY | os.O_RDWR):
                times += os.path.basename(str(arguments[0])) == which[0]
                if times == which[1]:
                    strike()

        sys.addaudithook(opened)


def before(owner: type, name: str, time: int, strike: Callable[[], None]) -> None:
    """Strike before so many-th call of a method."""
    method, calls = getattr(owner, name), []

    def struck(*arguments: Any) -> Any:
        calls.append(name)
        if len(calls) == time:
            strike()
        return method(*arguments)

    setattr(owner, name, struck)


def shorten_waits(seconds: float) -> None:
    @sa.event.listens_for(sa.Engine, "do_connect")
    def connect(_d: Any, _r: Any, _a: Any, settings: dict[str, Any]) -> None:
        settings["timeout"] = seconds

    study.MemoryStore = functools.partial(study.MemoryStore, lock_timeout_seconds=seconds)
    tracking_file.LOCK_SECONDS = seconds

    @sa.event.listens_for(sa.Engine, "before_cursor_execute", retval=True)
    def execute(_c: Any, _u: Any, statement: str, parameters: Any, _x: Any, _m: bool) -> tuple[str, Any]:
        if statement.startswith("PRAGMA busy_timeout"):
            statement = f"PRAGMA busy_timeout = {int(1000 * seconds)}"
        return statement, parameters


# -- runs ------------------------------------------------------------------------------------------------


def child(run: dict[str, Any], out: int, err: int) -> None:
    os.chdir(run["cwd"])
    os.dup2(os.open(run["stdout"], os.O_WRONLY) if run.get("stdout") else out, 1)
    os.dup2(err, 2)
    os.environ.pop("OPENAI_API_KEY", None)
    prepare(run)
    run_script(run["argv"])


def answered(run: dict[str, Any]) -> dict[str, Any]:
    # Pipes, not files: a limit on the size of files would hold for them, too.
    pipes = [os.pipe(), os.pipe()]
    started = time.monotonic()
    pid = os.fork()
    if pid == 0:
        child(run, pipes[0][1], pipes[1][1])
    for _, writing in pipes:
        os.close(writing)
    over = threading.Event()
    killer = threading.Thread(target=kill, args=(pid, over, run.get("kill_after"), run.get("kill_when")))
    killer.start()
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(read_all, [reading for reading, _ in pipes]))
    os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
    seconds = time.monotonic() - started
    over.set()
    killer.join()  # before its number can be another's
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return {"code": code, "stdout": texts[0], "stderr": texts[1], "started": started, "seconds": seconds}


def kill(pid: int, over: threading.Event, after: float | None, when: str | None) -> None:
    while when and not os.path.exists(when) and not over.wait(0.001):
        pass
    if not over.wait(300 if after is None else after):
        os.kill(pid, signal.SIGKILL)


def read_all(pipe: int) -> str:
    with open(pipe, encoding="utf-8") as file:
        return file.read()


def main() -> None:
    print(json.dumps({"ready": True}), flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        if "command" in request:
            done = subprocess.run(request["command"], capture_output=True, text=True, check=False)
            answer = {"code": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
        else:
            answer = answered(request)
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
