"""docs/examples: each runs with the installed package in an empty folder, and says what it should."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Callable
from importlib.metadata import requires
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "docs" / "examples"
EXAMPLES = {path.stem: path for path in sorted(FOLDER.glob("*.py"))}
MOST_LINES = 39
SAYS = {
    "personalise_rag": ("ann: train\n", "bob: bicycle\n"),
    "align_from_logs": (
        "4 events recorded; persona version 0 -> 1\n",
        '+ «The last radio station plays on.» -> "classic"\n',
    ),
    "shared_memory": (
        "the host says classic, having recalled 1 event",
        "western, having recalled 2 events",
        "recalled 0",
    ),
    "gepa_then_align": ("GEPA: score 0.50", "everyone: sci-fi\n", "ann: classic\n"),
    "serve_http": ("ann {'response': 'classic', 'recalled': 1}\n", "bob {'response': 'sci-fi', 'recalled': 1}\n"),
    "stream_tokens": ("\nclassic\n10 tokens were shown of 1 LM call; the genre is classic\n",),
    "mcp_tool": ("tools called: recall, showtimes\n", "answer: classic\n"),
    "many_users": ("12 users, score 100\n36 LM calls, ",),
}
LEAVES = {"align_from_logs": ["logs.jsonl", "memory.db"]}
THROUGH_MLFLOW = {"fastapi", "uvicorn"}

each = pytest.mark.parametrize("name", EXAMPLES)


def text_of(name: str) -> str:
    return EXAMPLES[name].read_text(encoding="utf-8")


def docstring_of(name: str) -> str:
    return " ".join((ast.get_docstring(ast.parse(text_of(name))) or "").split())


# In one test, so that the slow imports are done once, in one worker.
def test_each_runs_from_the_wheel_in_an_empty_folder(
    subtests: pytest.Subtests, tmp_path: Path, run_python: Callable[..., dict[str, Any]]
) -> None:
    for name, script in EXAMPLES.items():
        with subtests.test(name):
            folder = tmp_path / name
            folder.mkdir()
            run = run_python([script], folder)
            assert run["code"] == 0 and "Traceback" not in run["stderr"], run["stderr"]
            for said in SAYS[name]:
                assert said in run["stdout"]
            lines = run["stdout"].split("\n")
            assert len([line for line in lines if "\r" not in line]) <= 7  # but for bars of DSPy's
            assert sorted(path.name for path in folder.iterdir()) == LEAVES.get(name, [])
            assert all(left in docstring_of(name) for left in LEAVES.get(name, []))
    with subtests.test("logs that are read again record nothing twice"):
        again = run_python([EXAMPLES["align_from_logs"]], tmp_path / "align_from_logs")
        assert again["stdout"].startswith("4 events recorded; persona version 1 -> 1\n"), again


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
