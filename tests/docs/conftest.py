"""The package as users install it, and runs of programs with it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = ("programs", "optimizers", "datasets", "experiments", "pyproject.toml", "README.md", "LICENSE")


@pytest.fixture(scope="session")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder into which the package's wheel is installed, for PYTHONPATH."""
    tree, site = (tmp_path_factory.mktemp(name) for name in ("tree", "site"))
    for name in SOURCES:  # a copy: building writes beside the sources, and tests run side by side
        whole = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        whole(ROOT / name, tree / name)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "install", "--no-index"]
    built = subprocess.run([*pip, "--no-deps", "--no-build-isolation", "--target", site, tree], capture_output=True)
    assert built.returncode == 0, built.stderr.decode()
    return site


@pytest.fixture(scope="session")
def run_python(installed: Path) -> Iterator[Callable[..., dict[str, Any]]]:
    """`run_python(argv, cwd, env)`: what `python argv` says with the installed package; see forked_docs.py."""
    command = [sys.executable, Path(__file__).with_name("forked_docs.py")]
    environment = {**os.environ, "PYTHONPATH": str(installed)}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment) as server:
        assert server.stdin is not None and server.stdout is not None
        asked, answers = server.stdin, server.stdout
        assert Path(answers.readline().strip()).is_relative_to(installed)

        def run(argv: list[str | Path], cwd: Path, env: dict[str, str] | None = None) -> dict[str, Any]:
            print(json.dumps({"argv": [*map(str, argv)], "cwd": str(cwd), "env": env or {}}), file=asked, flush=True)
            answer: dict[str, Any] = json.loads(answers.readline())
            return answer

        yield run
        asked.close()
