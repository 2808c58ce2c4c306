"""Runs of docs/examples as processes of their own, forked from one that has done the slow imports.

Reads a line {"script", "cwd"} a run from standard input, and answers each with a line {"code", "stdout", "stderr"} on
standard output. `code` is negative after a signal.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import tempfile
from pathlib import Path

sys.path.append(str(Path(__file__).resolve().parents[1]))  # this is run as a script

# What an example imports, or has imported where it is used: once for all of them.
import fastapi  # noqa: F401
import gepa  # noqa: F401
import mcp.server.mcpserver  # noqa: F401
import requests  # noqa: F401
import uvicorn  # noqa: F401
from forked_script import run_script

import personaagent.optimizers
import personaagent.programs.personalize
import personaagent.programs.serving  # noqa: F401
from personaagent.programs.memory.encoder import load_encoder

SECONDS = 120
"""So long a run may take; then it ends by a signal."""


def child(script: str, cwd: str, out: int, err: int) -> None:
    os.chdir(cwd)
    os.dup2(out, 1)
    os.dup2(err, 2)
    signal.alarm(SECONDS)
    sys.path[0] = os.path.dirname(script)
    run_script([], script)


def main() -> None:
    load_encoder("auto").encode("the model is loaded here, once")
    for line in sys.stdin:
        run = json.loads(line)
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            pid = os.fork()
            if pid == 0:
                child(run["script"], run["cwd"], out.fileno(), err.fileno())
            _, status = os.waitpid(pid, 0)
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        answer = {"code": os.waitstatus_to_exitcode(status), "stdout": texts[0], "stderr": texts[1]}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
