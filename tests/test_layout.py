"""Rules of the layout that cost hours when they break."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = ("programs", "optimizers", "datasets", "experiments")


def test_datasets_and_tests_are_no_packages() -> None:
    """A package called datasets at the root would shadow Hugging Face's."""
    assert not (ROOT / "datasets" / "__init__.py").exists()
    assert not list((ROOT / "tests").rglob("__init__.py"))


def test_no_module_hides_one_of_the_standard_library() -> None:
    for folder in SOURCES:
        names = {path.stem for path in (ROOT / folder).glob("*.py")}
        assert not names & sys.stdlib_module_names


def test_every_folder_with_sources_is_listed_for_the_wheel() -> None:
    config = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["setuptools"]
    folders = {path.parent.relative_to(ROOT).as_posix() for folder in SOURCES for path in (ROOT / folder).rglob("*.py")}
    assert set(config["package-dir"].values()) == folders
    assert set(config["packages"]) == set(config["package-dir"])
    for folder in folders:
        assert (ROOT / folder / "py.typed").exists(), folder


@pytest.mark.parametrize("cwd", [ROOT, ROOT / "tests"])
def test_hugging_faces_datasets_is_the_one_that_is_imported(cwd: Path) -> None:
    program = "import datasets, personaagent.datasets.task; print(datasets.Dataset.__name__)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=cwd)
    assert run.stdout.strip() == "Dataset", run.stderr


def test_importing_the_library_loads_nothing_heavy(tmp_path: Path) -> None:
    program = (
        "import sys, personaagent.programs.agent, personaagent.optimizers, personaagent.programs.tools.wikipedia\n"
        "heavy = ('torch', 'sentence_transformers', 'mlflow', 'litellm', 'matplotlib', 'datasets', 'sklearn')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, check=True)
    assert run.stdout.strip() == "[]"


def test_no_file_is_longer_than_600_lines() -> None:
    sources = [path for folder in (*SOURCES, "tests") for path in (ROOT / folder).rglob("*.py")]
    long = [path for path in sources if len(path.read_text(encoding="utf-8").splitlines()) > 600]
    assert not long
