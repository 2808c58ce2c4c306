"""Every code block of README, docs/ and docstrings runs, on small data; `Commands._adapted` says what else changes."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple, Self

import pytest
from lamp_files import write_synthetic
from servers.files import FilesServer
from servers.llm import OpenAIServer

from personaagent.datasets.lamp.tasks import TASKS

ROOT = Path(__file__).parents[2]
SOURCES = ("programs", "optimizers", "datasets", "experiments")
README = ROOT / "README.md"
PAGES = (README, *sorted((ROOT / "docs").rglob("*.md")))
FEWER = ("--users", "2", "--queries-per-user", "1")
LM = "anthropic/claude-sonnet-4-5"
Run = Callable[..., dict[str, Any]]


class Block(NamedTuple):
    """A fenced block of a page."""

    page: str
    line: int
    language: str
    code: str
    above: str
    """The text of the page before it."""


def blocks_of(page: Path) -> Iterator[Block]:
    text = page.read_text(encoding="utf-8")
    for found in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE):
        above = text[: found.start()]
        yield Block(str(page.relative_to(ROOT)), above.count("\n") + 1, found[1], found[2], above)


BLOCKS = [block for page in PAGES for block in blocks_of(page)]


def test_no_block_is_overlooked() -> None:
    fences = [line for page in PAGES for line in page.read_text(encoding="utf-8").splitlines() if "```" in line]
    assert len(fences) == 2 * len(BLOCKS)
    assert {block.language for block in BLOCKS} == {"python", "sh", "console", "yaml"}


def blocks_in(language: str) -> pytest.MarkDecorator:
    chosen = [block for block in BLOCKS if block.language == language]
    return pytest.mark.parametrize("block", chosen, ids=lambda block: f"{block.page}:{block.line}")


@blocks_in("python")
def test_python_runs(block: Block, tmp_path: Path, run_python: Run) -> None:
    write_data(tmp_path, block)
    (tmp_path / "block.py").write_text(block.code, encoding="utf-8")
    assert said(run_python(["block.py"], tmp_path)) or "print(" not in block.code


@blocks_in("console")
def test_a_session_is_what_is_printed(block: Block, tmp_path: Path, run_python: Run) -> None:
    command, _, printed = block.code.partition("\n")
    dollar, program, script, *arguments = shlex.split(command)
    assert (dollar, program) == ("$", ".venv/bin/python")
    assert said(run_python([ROOT / script, *arguments], tmp_path)).strip() == printed.strip()


@blocks_in("sh")
def test_commands_run(block: Block, tmp_path: Path, run_python: Run) -> None:
    write_data(tmp_path, block)
    with Commands(tmp_path, run_python) as commands:
        for line in block.code.replace("\\\n", " ").splitlines():
            commands(line)


SESSIONS = [path for folder in SOURCES for path in sorted((ROOT / folder).rglob("*.py")) if ">>>" in path.read_text()]


@pytest.mark.parametrize("path", SESSIONS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_sessions_in_docstrings_say_what_is_said(path: Path, tmp_path: Path, run_python: Run) -> None:
    module = f"personaagent.{'.'.join(path.relative_to(ROOT).with_suffix('').parts)}"
    script = f"import doctest, importlib\nprint(doctest.testmod(importlib.import_module({module!r})))\n"
    (tmp_path / "sessions.py").write_text(script, encoding="utf-8")
    result = said(run_python(["sessions.py"], tmp_path))
    assert re.search(r"TestResults\(failed=0, attempted=[1-9]", result), result


def test_the_quickstart_prints_what_the_readme_says(tmp_path: Path, run_python: Run) -> None:
    [block] = [block for block in blocks_of(README) if block.language == "python"]
    assert len(block.code.strip().splitlines()) == 12
    (tmp_path / "block.py").write_text(block.code, encoding="utf-8")
    assert said(run_python(["block.py"], tmp_path)).strip() == "classic"
    assert (tmp_path / "alice.json").is_file()


def test_the_excerpt_of_a_report_is_what_the_command_above_it_gives(tmp_path: Path, run_python: Run) -> None:
    text = README.read_text(encoding="utf-8")
    [(command, excerpt)] = re.findall(r"```sh\n\.venv/bin/python (.*)\n```\n\n((?:>.*\n)+)", text)
    script, *arguments = command.split()
    said(run_python([ROOT / script, *arguments], tmp_path))
    report = (tmp_path / arguments[arguments.index("--out") + 1] / "report.md").read_text(encoding="utf-8")
    quoted = [line.removeprefix(">").strip() for line in excerpt.splitlines()]
    assert [line for line in quoted if line not in report] == []


def said(run: dict[str, Any]) -> str:
    """Standard output of a run that ended well."""
    assert run["code"] == 0 and "Traceback" not in run["stderr"], f"{run['stdout'][-3000:]}\n{run['stderr'][-3000:]}"
    return str(run["stdout"])


def write_data(folder: Path, block: Block) -> None:
    """What a block is given: LaMP's files, logs, and the study file that stands above it."""
    for name in ("LaMP", "FOLDER"):
        if f"download {name}" not in block.code:
            for task in TASKS.values():
                write_synthetic(folder / name, task, "time")
    logs = [
        {"customer": f"c{user}", "question": f"Parcel {day}?", "answer": answer, "asked_at": f"2026-01-{day}"}
        for user in range(3)
        for day, answer in enumerate(["billing", "delivery", "other"] * 3, 10)
    ]
    (folder / "logs.jsonl").write_text("\n".join(map(json.dumps, logs)), encoding="utf-8")
    for study in re.findall(r"^```yaml\n(.*?)^```$", block.above, re.DOTALL | re.MULTILINE):
        (folder / "mine.yaml").write_text(study, encoding="utf-8")


class Commands:
    """The commands of one block, one after the other, with servers on loopback in place of others."""

    def __init__(self, folder: Path, run_python: Run) -> None:
        self.folder, self.run_python = folder, run_python
        self.environment: dict[str, str] = {}
        self._started = ExitStack()
        self.llm = self._started.enter_context(OpenAIServer())
        self.port = self.llm.url.split(":")[2].partition("/")[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._started.close()

    def __call__(self, line: str) -> None:
        for written in {re.sub(r"\[.*\]", "", line), re.sub(r"[][]", "", line)}:  # without an optional part and with it
            words = shlex.split(written, comments=True)
            if words[:1] == ["export"]:
                name, _, value = words[1].partition("=")
                self.environment[name] = value
            elif words[:3] == ["python", "-m", "tests.servers.llm"]:
                self._serve(words[1:])
            elif words[:2] == ["make", "test"]:
                assert self._of_make(words[1:])[:2] == ["-m", "pytest"]  # it is what runs here
            elif words:
                assert words[0] in ("make", "python", ".venv/bin/python"), line
                argv = self._adapted(self._of_make(words[1:]) if words[0] == "make" else words[1:])
                said(self.run_python(argv, self.folder, self.environment))

    def _of_make(self, arguments: list[str]) -> list[str]:
        # These tests may be run by make: its flags, and its ARGS, are not the block's.
        environment = {name: value for name, value in os.environ.items() if name != "ARGS" and "MAKE" not in name}
        command = ["make", "--dry-run", "--no-print-directory", *arguments]
        plan = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
        program, *argv = shlex.split(plan.stdout.splitlines()[-1])
        assert program == ".venv/bin/python"
        return argv

    def _serve(self, argv: list[str]) -> None:
        """The server that a page tells of, at a port that is free."""
        assert argv[-2:] == ["--port", "8000"]
        server = subprocess.Popen([sys.executable, *argv[:-1], "0"], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        self._started.callback(server.wait)
        self._started.callback(server.terminate)
        assert server.stdout is not None
        self.port = server.stdout.readline().strip().split(":")[2].partition("/")[0]

    def _adapted(self, argv: list[str]) -> list[str]:
        """Few users, in place of LMs that cost and of the network what is on loopback."""
        if argv[:3] == ["-m", "personaagent.datasets.lamp", "download"]:
            files = {path.relative_to(self.folder / "FOLDER").as_posix(): path for path in self.folder.rglob("*.json")}
            server = FilesServer({name: path.read_bytes() for name, path in files.items()})
            return [*argv, "--base-url", self._started.enter_context(server).url]
        if not argv[0].endswith(".py"):
            return argv
        argv = [str(ROOT / argv[0]), *(word.replace(":8000/", f":{self.port}/") for word in argv[1:])]
        if not {"--study", "--data", "--dry-run"}.intersection(argv):
            argv += FEWER
        if "--lm" in argv and "--dry-run" not in argv and not any(word.startswith("replay:") for word in argv):
            argv += ["--wikipedia", "off"]
            if LM in argv:
                argv[argv.index(LM)] = "openai/any"
                argv += ["--api-base", self.llm.url]
        return argv
