"""What the docs show, run as processes of their own, forked from one that has done the slow imports.

First writes a line on standard output, where the package is that is imported. Then reads a line {"argv", "cwd", "env"}
a run from standard input, argv as after `python`, and answers each with a line {"code", "stdout", "stderr"}. `code` is
negative after a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any, NoReturn

sys.path.append(str(Path(__file__).resolve().parents[1]))  # this is run as a script

# What is imported, or where it is used: once for all of them.
import fastapi  # noqa: F401
import gepa  # noqa: F401
import mcp.server.mcpserver  # noqa: F401
import requests  # noqa: F401
import scipy.stats  # noqa: F401
import sklearn.metrics  # noqa: F401
import uvicorn  # noqa: F401
from forked_script import run_script

import personaagent.datasets.lamp.source
import personaagent.experiments.harness.command
import personaagent.experiments.harness.tracking
import personaagent.optimizers
import personaagent.programs.personalize
import personaagent.programs.serving
from personaagent.programs.memory.encoder import load_encoder

SECONDS = 300
"""So long a run may take; then it ends by a signal."""


def child(run: dict[str, Any], out: int, err: int) -> NoReturn:
    os.chdir(run["cwd"])
    os.environ.update(run["env"])
    os.dup2(out, 1)
    os.dup2(err, 2)
    signal.alarm(SECONDS)
    program, *argv = run["argv"]
    if program == "-m":
        run_script(argv[1:], module=argv[0])
    sys.path[0] = os.path.dirname(program)
    run_script(argv, script=program)


def main() -> None:
    load_encoder("auto").encode("the model is loaded here, once")
    print(personaagent.programs.__file__, flush=True)
    for line in sys.stdin:
        run = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                child(run, out.fileno(), err.fileno())
            _, status = os.waitpid(pid, 0)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        answer = {"code": os.waitstatus_to_exitcode(status), "stdout": texts[0], "stderr": texts[1]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
