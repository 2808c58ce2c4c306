"""What the processes share that fork runs of programs: the fakes of conftest.py, and one run to its end."""

from __future__ import annotations

import importlib.util
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

TESTS = Path(__file__).resolve().parent


def load_shared() -> Any:
    """conftest.py as a module."""
    spec = importlib.util.spec_from_file_location("shared", TESTS / "conftest.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run_script(
    argv: Sequence[str], script: str | Path = TESTS.parent / "experiments" / "scale.py", module: str | None = None
) -> NoReturn:
    """Run a script, or a module, in this process and end it with its exit code; 99 if it raised."""
    sys.argv = [module or str(script), *argv]
    try:
        if module:
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(str(script), run_name="__main__")
        code = 0
    except SystemExit as stop:
        code = stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except BaseException:
        import traceback

        traceback.print_exc()
        code = 99
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
