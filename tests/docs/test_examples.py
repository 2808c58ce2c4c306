"""docs/examples: each runs with the installed package in an empty folder, and says what it should."""

from __future__ import annotations

import ast
import re
import socket
import sqlite3
import subprocess
import sys
import tomllib
from collections.abc import Callable, Sequence
from contextlib import closing
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest
from servers._llm_agent import Message, Prompt, step, values, written
from servers.llm import OpenAIServer

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "examples"
EXAMPLES = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
MOST_LINES = 39
Run = Callable[..., dict[str, Any]]
OFFLINE = 'make_lm("offline")'
SAYS = {
    "personalise_rag": ("ann: train\n", "bob: bicycle\n"),
    "align_from_logs": (
        "4 events recorded; persona version 0 -> 1\n",
        '+ «The last radio station plays on.» -> "classic"\n',
    ),
    "shared_memory": (
        "the host says classic, having recalled ['tagged-1']\n",
        "the tagger says western, having recalled ['asked-1', 'tagged-1']\n",
        "bob's tagger has recalled []",
    ),
    "gepa_then_align": ("GEPA: 14 calls of the metric, best score 0.50\n", "everyone: sci-fi\n", "ann: classic\n"),
    "serve_http": (
        "ann 200 {'response': 'classic'}\n",
        "bob 200 {'response': 'sci-fi'}\n",
        "nobody 422 {'detail': \"user_id must be ",
    ),
    "stream_tokens": ("\nclassic\n10 tokens were shown, LM calls: 1; the genre is classic\n",),
    "mcp_tool": ("tools called: recall, showtimes\n", "answer: classic\n"),
    "many_users": ("12 of 12 users answered, score 100\n36 LM calls, ",),
}
LOGS = {"gepa_then_align": ("Proposed new text for predict: Name the genre", "is not better than old score")}
"""On standard error: GEPA's proposals are evaluated, not only made."""
LEAVES = {"align_from_logs": ["logs.jsonl", "memory.db"]}
THROUGH_MLFLOW = {"fastapi", "uvicorn"}

each = pytest.mark.parametrize("name", EXAMPLES)


def text_of(name: str) -> str:
    return EXAMPLES[name].read_text(encoding="utf-8")


def docstring_of(name: str) -> str:
    return " ".join((ast.get_docstring(ast.parse(text_of(name))) or "").split())


def kept_in_a_file() -> list[str]:
    """Those that say how to keep their memory."""
    return [name for name in EXAMPLES if "MemoryStore()" in text_of(name) and "sqlite:///memory.db" in text_of(name)]


def changed(name: str, folder: Path, old: str, new: str) -> Path:
    """An example with one thing replaced, in a folder of its own."""
    assert text_of(name).count(old) == 1
    folder.mkdir(exist_ok=True)
    script = folder / f"{name}.py"
    script.write_text(text_of(name).replace(old, new), encoding="utf-8")
    return script


def recorded_in(folder: Path) -> int:
    with closing(sqlite3.connect(folder / "memory.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM interactions").fetchone()[0])


def closed_address() -> str:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return f"http://127.0.0.1:{server.getsockname()[1]}/v1"


def never_recalls(messages: Sequence[Message]) -> str:
    prompt = Prompt(messages)
    return written(prompt, step("I know enough.", "finish", {}) if prompt.tools else values(prompt))


# In one test, so that the slow imports are done once, in one worker.
def test_each_runs_from_the_wheel_in_an_empty_folder(
    subtests: pytest.Subtests, tmp_path: Path, run_python: Run
) -> None:
    for name, script in EXAMPLES.items():
        with subtests.test(name):
            folder = tmp_path / name
            folder.mkdir()
            run = run_python([script], folder)
            assert run["code"] == 0 and "Traceback" not in run["stderr"], run["stderr"]
            for said in SAYS[name]:
                assert said in run["stdout"]
            for logged in LOGS.get(name, ()):
                assert logged in run["stderr"]
            lines = run["stdout"].split("\n")
            assert len([line for line in lines if "\r" not in line]) <= 7  # but for bars of DSPy's
            assert sorted(path.name for path in folder.iterdir()) == LEAVES.get(name, [])
            assert all(left in docstring_of(name) for left in LEAVES.get(name, []))
    with subtests.test("logs that are read again record nothing twice"):
        again = run_python([EXAMPLES["align_from_logs"]], tmp_path / "align_from_logs")
        assert again["stdout"].startswith("4 events recorded; persona version 1 -> 1\n"), again
    check_second_runs(subtests, tmp_path, run_python)
    check_other_lms(subtests, tmp_path, run_python)


def check_second_runs(subtests: pytest.Subtests, tmp_path: Path, run_python: Run) -> None:
    for name in kept_in_a_file():
        with subtests.test(f"{name} again, with its memory in a file"):
            script = changed(name, tmp_path / name, "MemoryStore()", 'MemoryStore("sqlite:///memory.db")')
            first, recorded = run_python([script], script.parent), recorded_in(script.parent)
            again = run_python([script], script.parent)
            assert first["code"] == again["code"] == 0, again["stderr"]
            assert recorded_in(script.parent) == recorded
            if name == "shared_memory":
                assert "'tagged-1']" in first["stdout"] and "'tagged-1', 'asked-1']" in again["stdout"]
            else:
                assert again["stdout"] == first["stdout"]


def check_other_lms(subtests: pytest.Subtests, tmp_path: Path, run_python: Run) -> None:
    key = {"OPENAI_API_KEY": "none"}
    with subtests.test("an LM that never recalls"), OpenAIServer(reply=never_recalls) as server:
        script = changed("shared_memory", tmp_path / "never", OFFLINE, f'make_lm("openai/x", api_base="{server.url}")')
        run = run_python([script], script.parent, key)
        assert run["code"] == 0 and run["stdout"].count("recalled []") == 3, run
    nowhere = f'make_lm("openai/x", api_base="{closed_address()}", retry_wait_seconds=0)'
    for name in EXAMPLES:
        with subtests.test(f"{name} ends, and says why, where no LM answers"):
            script = changed(name, tmp_path / f"{name}-nowhere", OFFLINE, nowhere)
            run = run_python([script], script.parent, key)
            assert "failed to connect to 127.0.0.1" in run["stdout"] + run["stderr"], run
            if name == "serve_http":
                assert run["code"] == 0 and run["stdout"].count(" 502 ") == 2, run
            else:
                assert run["code"] > 0, run  # below 0 it would have hung


def test_it_runs_as_its_docstring_says(tmp_path: Path) -> None:
    command = [sys.executable, FOLDER / "personalise_rag.py"]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert (run.returncode, run.stdout) == (0, "ann: train\nbob: bicycle\n"), run.stderr


@each
def test_it_is_short_and_says_what_it_is(name: str) -> None:
    assert len(text_of(name).splitlines()) <= MOST_LINES
    assert f"Run: `python {name}.py`." in docstring_of(name)
    assert "the offline reader, which is not a language model" in docstring_of(name)
    assert text_of(name).count('# a language model: make_lm("anthropic/claude-sonnet-4-5")') == 1


@each
def test_it_imports_nothing_outside_the_package_and_its_extras(name: str) -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["mcp"]]
    installed = {distribution(one) for one in wanted} | THROUGH_MLFLOW | {"personaagent"}
    for node in ast.walk(ast.parse(text_of(name))):
        modules = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        for module in modules:
            top = module.partition(".")[0]
            assert top in sys.stdlib_module_names or top in installed, module


def test_mlflow_brings_what_the_server_needs() -> None:
    needed = [one for part in ("mlflow", "mlflow-skinny") for one in requires(part) or () if "extra ==" not in one]
    assert {distribution(one) for one in needed} >= THROUGH_MLFLOW


def test_the_readme_lists_each_once() -> None:
    listed = re.findall(r"^\| \[(\w+)\.py\]\((\w+)\.py\)", (FOLDER / "README.md").read_text(encoding="utf-8"), re.M)
    assert sorted(listed) == [(name, name) for name in EXAMPLES] and set(SAYS) == set(EXAMPLES)


def distribution(requirement: str) -> str:
    return re.split(r"[^\w.-]", requirement, maxsplit=1)[0].lower()
