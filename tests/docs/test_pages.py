"""README and docs: what they name exists, what they list is complete."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path

import pytest

from personaagent.experiments.harness.methods.registry import GROUPS, METHODS
from personaagent.experiments.harness.results import COLUMNS, USER_COLUMNS
from personaagent.experiments.harness.study_files import packaged_studies
from personaagent.experiments.harness.swap_matrix import COLUMNS as MATRIX_COLUMNS
from personaagent.experiments.harness.tables import PAIR_COLUMNS

ROOT = Path(__file__).parents[2]
README, EXPERIMENTS = ROOT / "README.md", ROOT / "docs" / "experiments.md"
PAGES = (README, *sorted((ROOT / "docs").glob("*.md")))
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
SCRIPTS = ("scale", "compare", "ablate", "cold_start")
MOST_IMAGE_BYTES = 200_000


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def options_of(*command: str) -> set[str]:
    run = subprocess.run([sys.executable, *command, "--help"], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(OPTION.findall(run.stdout))


@pytest.fixture(scope="module")
def script_options() -> set[str]:
    return options_of("experiments/scale.py")


# -- what is named ------------------------------------------------------------------------------------


def test_every_option_of_readme_and_docs_exists(script_options: set[str]) -> None:
    # Those of Optuna, pip and others are not named; those of the repository's other commands are few.
    lamp = ("-m", "personaagent.datasets.lamp")
    others = [options_of(*lamp, command) for command in ("describe", "download", "convert")]
    others += [options_of("-m", f"tests.servers.{name}") for name in ("llm", "wikipedia")]
    known = script_options.union({"--help", "--env-manager"}, *others)  # the latter is MLflow's
    for page in PAGES:
        assert set(OPTION.findall(text_of(page))) - known == set(), page


def test_every_script_study_and_link_of_readme_and_docs_exists() -> None:
    for page in PAGES:
        text = text_of(page)
        for script in re.findall(r"(?<![\w/])experiments/\w+\.py\b", text):
            assert (ROOT / script).is_file(), f"{page}: {script}"
        for study in re.findall(r"--study ([a-z-]+)\b(?!\.)", text):
            assert study in packaged_studies(), f"{page}: {study}"
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", text):
            assert (page.parent / link).is_file(), f"{page}: {link}"


def test_images_are_small_and_shown() -> None:
    shown = " ".join(map(text_of, PAGES))
    for image in (ROOT / "docs" / "images").iterdir():
        assert image.stat().st_size < MOST_IMAGE_BYTES, image
        assert image.name in shown, image


def test_every_file_and_symbol_of_the_paper_map_exists(script_options: set[str]) -> None:
    [map_of_the_paper, _] = text_of(ROOT / "docs" / "paper_map.md").split("\n## ")
    rows = table_rows(map_of_the_paper)[1:]
    assert len(rows) > 20
    for paper, what, files, symbols in rows:
        where = f"{paper}: {what}"
        paths = [ROOT / name for name in re.findall(r"`([^`]+)`", files)]
        assert paths and [path for path in paths if not path.exists()] == [], where
        known = script_options.union(*(symbols_of(path) for path in paths))
        named = re.findall(r"`([^`]+)`", symbols)
        assert named and [name for name in named if not any(fnmatch(one, name) for one in known)] == [], where


# -- what is listed -----------------------------------------------------------------------------------


def test_the_docs_say_something_of_every_option(script_options: set[str]) -> None:
    assert script_options - {"--help"} - set(OPTION.findall(text_of(EXPERIMENTS))) == set()


@pytest.mark.parametrize("script", SCRIPTS)
def test_all_scripts_have_the_same_options(script: str, script_options: set[str]) -> None:
    assert options_of(f"experiments/{script}.py") == script_options


def test_the_docs_list_every_method_and_group_in_order() -> None:
    [table] = re.findall(r"^\| method \| persona \|.*?(?=\n\n)", text_of(EXPERIMENTS), re.DOTALL | re.MULTILINE)
    assert [row[0].strip("`") for row in table_rows(table)[1:]] == list(GROUPS["all"])
    named = set(re.findall(r"`([a-z-]+)`", text_of(EXPERIMENTS)))
    assert named >= {*METHODS, *GROUPS, *packaged_studies()}


def test_the_docs_list_every_column_in_order() -> None:
    text = text_of(EXPERIMENTS)
    parts = dict(re.findall(r"^\*\*(\w+\.csv)\*\*(.*?)(?=^\*\*|^## )", text, re.DOTALL | re.MULTILINE))
    assert set(parts) == {"results.csv", "users.csv", "pairs.csv", "swap_matrix.csv"}
    rows = re.findall(r"^\| (`.*?) \|", parts["results.csv"], re.MULTILINE)
    assert [name for row in rows for name in re.findall(r"`(\w+)`", row)] == list(COLUMNS)
    named = set(re.findall(r"`(\w+)`", parts["pairs.csv"]))
    assert named >= set(PAIR_COLUMNS)
    for file, columns in (("users.csv", USER_COLUMNS), ("swap_matrix.csv", MATRIX_COLUMNS)):
        own = [name for name in columns if name not in COLUMNS]
        assert set(own) <= set(re.findall(r"`(\w+)`", parts[file])), file


# -- reading ------------------------------------------------------------------------------------------


def table_rows(text: str) -> list[list[str]]:
    """The rows of tables, headings included, but for the rules under them."""
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]


def symbols_of(path: Path) -> set[str]:
    """What a Python file, or those in a folder, define at their top level, and what their classes do."""
    files = sorted(path.glob("*.py")) if path.is_dir() else [path] if path.suffix == ".py" else []
    return {name for file in files for name in defined(ast.parse(text_of(file)).body, "")}


def defined(body: list[ast.stmt], prefix: str) -> Iterator[str]:
    for node in body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield prefix + node.name
        if isinstance(node, ast.ClassDef):
            yield from defined(node.body, f"{node.name}.")
        if isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names = [name for target in targets for name in ast.walk(target) if isinstance(name, ast.Name)]
            yield from (prefix + name.id for name in names)
