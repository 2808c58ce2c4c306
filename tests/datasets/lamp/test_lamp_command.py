"""`python -m personaagent.datasets.lamp` as a person runs it: what it prints, its exit codes, and bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from datasets import config
from personaagent.datasets.lamp import __main__ as command
from personaagent.datasets.lamp.tasks import LAMP_2M, LAMP_3, LampTask

SHARED = Path(__file__).resolve().parents[4] / "shared" / "data"

Run = Callable[..., "Done"]


class Done:
    """What a run of the command left: its exit code and what it printed."""

    def __init__(self, code: int, out: str, error: str) -> None:
        self.code, self.out, self.error = code, out, error
        assert "Traceback" not in out + error

    @property
    def message(self) -> str:
        """Of bad input: one line, exit code 2, and nothing on standard output."""
        assert (self.code, self.out) == (2, ""), (self.code, self.out, self.error)
        assert len(self.error.splitlines()) == 1 and self.error.startswith("error: "), self.error
        return self.error.removeprefix("error: ").strip()


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command in this process."""

    def run(*argv: Any) -> Done:
        monkeypatch.setattr(sys, "argv", ["lamp", *map(str, argv)])
        code: Any = 0
        try:
            command.main()
        except SystemExit as exit_:
            code = exit_.code or 0
        printed = capsys.readouterr()
        return Done(int(code), printed.out, printed.err)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Run:
    """The command as a process of its own."""

    def run(*argv: Any) -> Done:
        done = subprocess.run(
            [sys.executable, "-m", "personaagent.datasets.lamp", *map(str, argv)],
            cwd=tmp_path,
            env={**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache"), "COLUMNS": "80"},
            capture_output=True,
            text=True,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


def write(root: Path, task: LampTask = LAMP_2M, answer: str = "comedy") -> Path:
    """Two users in OPPU's layout."""
    folder = root / task.folder
    folder.mkdir(parents=True)
    users = []
    for user in ("ann", "bob"):
        profile = [{name: f"{user} {name} {n}" for name in task.fields} for n in range(3)]
        profile = [item | {task.answer_field: answer, "date": "2010-01-01"} for item in profile]
        text = task.question.format_map(dict.fromkeys(task.fields, f"{user} asks"))
        users.append({"user_id": user, "profile": profile, "query": [{"id": user, "input": text, "gold": answer}]})
    (folder / "user_top_100_history.json").write_text(json.dumps(users))
    return root


# --- as a process --------------------------------------------------------------------------------


def test_help_names_the_commands_and_each_its_options(process: Run) -> None:
    done = process("--help")
    assert done.code == 0 and done.error == ""
    assert all(f"  {name} " in done.out for name in ("describe", "download", "convert"))
    assert "..." not in done.out.partition("Commands:")[2], "a summary that is cut says little"
    assert max(map(len, done.out.splitlines())) <= 80


def test_describe_and_convert_as_processes(process: Run, tmp_path: Path) -> None:
    write(tmp_path / "one")
    done = process("describe", "one")
    assert (done.code, done.error) == (0, "")
    assert "LaMP-2M" in done.out and "ties        6 items (100.0%)" in done.out
    assert max(len(line.rstrip()) for line in done.out.splitlines()) <= 80
    done = process("convert", "one", "two", "--task", "lamp-2m", "--to", "official")
    assert (done.code, done.error) == (0, "")
    assert done.out.splitlines() == [f"two/time/LaMP_2/new/dev/dev_{name}.json" for name in ("questions", "outputs")]
    assert (
        process("describe", "gone").message
        == "gone: no such folder; --data takes a folder of LaMP files, see docs/lamp.md"
    )


def test_output_that_nobody_reads_to_its_end_is_no_error(tmp_path: Path) -> None:
    write(tmp_path / "one")
    argv = f"{sys.executable} -m personaagent.datasets.lamp describe one | head -n 1"
    environment = {**os.environ, "HF_DATASETS_CACHE": str(tmp_path / "cache")}
    done = subprocess.run(argv, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


# --- describe ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["describe", "download", "convert"])
def test_each_command_has_help(run: Run, name: str) -> None:
    done = run(name, "--help")
    assert done.code == 0 and f"{name} [OPTIONS]" in done.out and done.error == ""


def test_describe_takes_a_task_and_a_split(run: Run, tmp_path: Path) -> None:
    write(write(tmp_path / "one"), LAMP_3, "5")
    both = run("describe", tmp_path / "one")
    assert both.code == 0 and "lamp-2m" in both.out and "lamp-3" in both.out
    one = run("describe", tmp_path / "one", "--task", "lamp-3", "--split", "dev")
    assert one.code == 0 and "lamp-2m" not in one.out and "lamp-3" in one.out


def test_a_second_description_is_the_same_as_the_first(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "one")
    assert run("describe", tmp_path / "one").out == run("describe", tmp_path / "one").out
    assert list((tmp_path / "cache").rglob("rows.arrow"))


def test_describe_refuses_what_it_cannot_read(run: Run, tmp_path: Path) -> None:
    write(tmp_path / "one")
    path = tmp_path / "one" / "movie_tagging" / "user_top_100_history.json"
    for argv, said in (
        ([tmp_path / "gone"], "gone: no such folder"),
        ([path], "user_top_100_history.json: is a file"),
        ([tmp_path], "no LaMP files. Looked for"),
        ([tmp_path / "one", "--task", "lamp-9"], "unknown task 'lamp-9'; the tasks are: lamp-1, lamp-2m"),
        ([tmp_path / "one", "--task", "lamp-3"], "no files of lamp-3"),
        ([tmp_path / "one", "--split", "all"], "--split must be train, dev or test, but got 'all'"),
    ):
        assert said in run("describe", *argv).message, argv
    path.write_text(path.read_text()[:-40])
    assert "not valid JSON: the file ends too early" in run("describe", tmp_path / "one").message
    path.write_text("{}")
    assert "user_top_100_history.json: " in run("describe", tmp_path / "one").message
    assert "expected a list of users" in run("describe", tmp_path / "one", "--task", "lamp-2m").message


def test_a_cache_that_cannot_be_written_is_one_message(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(tmp_path / "one")
    (tmp_path / "file").write_text("")
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "file" / "cache")
    assert "the cache cannot be written" in run("describe", tmp_path / "one").message


@pytest.mark.parametrize("argv", [["describe"], ["describe", "--nonsense", "x"], ["nonsense"], ["convert", "one"]])
def test_wrong_usage_is_exit_code_2_with_the_usage(run: Run, argv: list[str]) -> None:
    done = run(*argv)
    assert done.code == 2 and "Usage: " in done.error and done.out == ""


def test_an_interrupt_is_said_in_a_word(run: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(command, "print_description", interrupted)
    done = run("describe", tmp_path)
    assert done.code == 130 and len(done.error.strip().splitlines()) <= 1


# --- convert and download -------------------------------------------------------------------------


def test_convert_prints_each_path_in_a_line_of_its_own(run: Run, tmp_path: Path) -> None:
    root = write(tmp_path / "one")
    to = tmp_path / ("a long name [bold]" * 8)
    done = run("convert", root, to, "--task", "lamp-2m", "--to", "official", "--split", "test")
    folder = to / "time" / "LaMP_2" / "new" / "test"
    assert done.code == 0
    assert done.out.splitlines() == [str(folder / f"test_{name}.json") for name in ("questions", "outputs")]
    done = run("convert", to, tmp_path / "back", "--task", "lamp-2m", "--to", "oppu", "--split", "test")
    assert done.code == 0 and (tmp_path / "back" / "movie_tagging" / "user_top_100_history.json").is_file()


def test_convert_refuses_bad_input(run: Run, tmp_path: Path) -> None:
    root, task = write(tmp_path / "one"), ["--task", "lamp-2m"]
    for argv, said in (
        ([root, tmp_path / "two", *task, "--to", "csv"], "--to must be oppu or official, but got 'csv'"),
        ([tmp_path / "gone", tmp_path / "two", *task, "--to", "csv"], "--to must be oppu or official"),
        ([root, tmp_path / "two", "--task", "lamp-9", "--to", "oppu"], "unknown task 'lamp-9'"),
        ([root, tmp_path / "two", "--task", "lamp-3", "--to", "oppu"], "no files of lamp-3"),
        ([root, tmp_path / "two", *task, "--to", "official", "--split", "all"], "--split must be train, dev or test"),
        ([root, root, *task, "--to", "oppu"], "user_top_100_history.json: is there already; give another folder"),
        ([root, root / "movie_tagging" / "user_top_100_history.json", *task, "--to", "oppu"], "cannot be written"),
    ):
        assert said in run("convert", *argv).message, argv
    assert not (tmp_path / "two").exists()


def test_download_refuses_bad_input_before_it_asks_for_anything(run: Run, tmp_path: Path) -> None:
    for argv, said in (
        (["--tasks", "lamp-9"], "unknown task 'lamp-9'"),
        (["--tasks", "lamp-3", "--layout", "random"], "--layout must be time or user, but got 'random'"),
        (["--tasks", "lamp-3", "--splits", "all"], "'all'"),
        (["--tasks", "lamp-3,"], "unknown task ''"),
    ):
        assert said in run("download", tmp_path / "to", *argv, "--base-url", "http://127.0.0.1:1").message, argv
    assert not (tmp_path / "to").exists()


# --- real files ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("folder", "said"),
    [
        ("oppu/product_rating", ["46 items", "7 queries"]),
        ("oppu/movie_tagging", ["158 texts in the histories of several users"]),
        ("oppu", ["(lamp-2m;", "(lamp-2n;", "(lamp-3;", "(lamp-4;"]),
        ("lamp/time", ["(lamp-2m;", "(lamp-2n;", "(lamp-3;", "(lamp-4;"]),
    ],
)
def test_real_folders_are_described(run: Run, folder: str, said: list[str]) -> None:
    place = SHARED / folder
    if not place.is_dir():
        pytest.skip(f"{place} is not here: real data are no part of the project")
    done = run("describe", place)
    assert (done.code, done.error) == (0, "")
    assert all(part in done.out for part in said), done.out
