"""Runs of experiments/scale.py as processes of their own, forked from one that has done the slow imports.

Reads a line {"argv", "cwd", "kill"} a run from standard input, and answers each with a line {"code", "stdout",
"stderr", "calls"} on standard output. `code` is negative after a signal, `calls` is how many LM calls the engine
saw. `kill` is null or the moment of a real kill -9: ["journal", k] when k units were journalled, ["line", k] in the
middle of writing the k-th, ["files"] while results are written, ["mlflow"] while they are logged. The LM is the
offline reader with an encoder that takes no time.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path.append(str(TESTS))  # this is run as a script

from forked_script import load_shared, run_script  # noqa: E402

shared = load_shared()

# What a run imports where it is used, once for all of them.
import litellm  # noqa: E402, F401
import matplotlib.figure  # noqa: E402, F401
import mlflow.store.tracking.sqlalchemy_store  # noqa: E402, F401
import optuna  # noqa: E402, F401
import scipy.stats  # noqa: E402, F401
import sklearn.metrics  # noqa: E402, F401
import typer  # noqa: E402, F401

from personaagent.experiments.harness import command, figures, journal, report, study, tracking  # noqa: E402, F401
from personaagent.programs.lm import offline  # noqa: E402


def die(*_: Any, **__: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def prepare(kill: list[Any] | None, calls: int) -> None:
    encoder = shared.HashEncoder()
    encoder.cache_size = 0
    make_lm, complete, add = study.make_lm, offline.OfflineReader.complete, journal.Journal.add

    def with_tiny_encoder(model: str, **settings: Any) -> Any:
        return make_lm(model, encoder=encoder, **settings)

    def counted(self: Any, request: Any) -> Any:
        os.write(calls, b".")
        return complete(self, request)

    study.make_lm, study.load_encoder = with_tiny_encoder, lambda name: encoder
    offline.OfflineReader.complete = counted  # type: ignore[method-assign]
    added = 0

    def add_and_die(self: Any, unit: Any) -> None:
        nonlocal added
        added += 1
        assert kill is not None
        if kill[0] == "line" and added == kill[1]:
            self._file._file.write(b'{"key": "' + unit.key.encode() + b'", "kind": "ans')
            die()
        add(self, unit)
        if kill[0] == "journal" and added == kill[1]:
            die()

    if kill and kill[0] in ("journal", "line"):
        journal.Journal.add = add_and_die  # type: ignore[method-assign]
    elif kill and kill[0] == "files":
        report.replace_file = die
    elif kill and kill[0] == "mlflow":
        tracking.Tracker._trace = die  # type: ignore[method-assign]


def child(run: dict[str, Any], out: int, err: int, calls: int) -> None:
    os.chdir(run["cwd"])
    os.dup2(out, 1)
    os.dup2(err, 2)
    prepare(run.get("kill"), calls)
    run_script(run["argv"])


def main() -> None:
    for line in sys.stdin:
        run = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err, tempfile.TemporaryFile() as calls:
            pid = os.fork()
            if pid == 0:
                child(run, out.fileno(), err.fileno(), calls.fileno())
            _, status = os.waitpid(pid, 0)
            texts = []
            for file in (out, err, calls):
                file.seek(0)
                texts.append(file.read().decode())
        code = os.waitstatus_to_exitcode(status)
        answer = {"code": code, "stdout": texts[0], "stderr": texts[1], "calls": len(texts[2])}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
