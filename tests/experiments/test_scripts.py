"""The four scripts as commands: help, study files, bad values of every new option, and what they leave behind."""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

from personaagent.experiments.harness import command, secrets, study
from personaagent.experiments.harness.methods.registry import GROUPS
from personaagent.experiments.harness.study_files import packaged_studies
from personaagent.programs.lm.make import make_lm

FOLDER = Path(__file__).resolve().parents[2] / "experiments"
SCRIPTS = {
    "ablate": "PersonaAgent with a part taken away (the paper's Table 3), and the two memories each alone.",
    "cold_start": "Users with short histories (the paper's Table 6): the score over how many interactions are known.",
    "compare": "The methods held against each other (the paper's Tables 2 and 4), with what can be told apart.",
    "scale": "Test-time scaling (the paper's section 3.5): accuracy over batch size n, iterations E and memories K.",
}
SMALL = ("--users", "2", "--queries-per-user", "1", "--tracking", "nowhere")


class Ended:
    """What a command has said, and how it ended."""

    def __init__(self, code: int, out: str, err: str) -> None:
        self.code, self.out, self.err = code, out, err

    @property
    def lines(self) -> list[str]:
        """Of standard error, without bars and typer's words on usage."""
        return [
            line for line in self.err.splitlines() if line and "━" not in line and not line.startswith(("Us", "Try"))
        ]


@pytest.fixture
def run(run_study: Any, monkeypatch: pytest.MonkeyPatch, capfd: Any, tmp_path: Path) -> Callable[..., Ended]:
    """Runs a script in an empty folder, in this process, with a reader that takes no time and without MLflow."""
    folder = tmp_path / "cwd"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def call(script: str, *argv: str) -> Ended:
        monkeypatch.setattr(sys, "argv", [f"{script}.py", *argv])
        monkeypatch.setattr(secrets, "mask_output", lambda: None)  # it would stay in place
        capfd.readouterr()
        try:
            command.main(import_module(f"personaagent.experiments.{script}").app)
            code: Any = 0
        except SystemExit as end:
            code = end.code
        said = capfd.readouterr()
        return Ended(code, said.out, said.err)

    return call


def rows(folder: str = "out") -> list[dict[str, str]]:
    with (Path(folder) / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


# -- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("script", SCRIPTS)
def test_help_says_what_it_is_and_loads_nothing_heavy(script: str) -> None:
    program = (
        "import runpy, sys\n"
        f"sys.argv = ['{script}.py', '--help']\n"
        "try:\n"
        f"    runpy.run_path({str(FOLDER / f'{script}.py')!r}, run_name='__main__')\n"
        "except SystemExit as end:\n"
        "    assert not end.code\n"
        "heavy = {'dspy', 'torch', 'mlflow', 'litellm', 'numpy', 'sqlalchemy', 'matplotlib', 'scipy', 'faiss'}\n"
        "print('LOADED', sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert SCRIPTS[script] in " ".join(done.stdout.split())
    assert "LOADED []" in done.stdout and done.stderr == ""
    for option in ("--study", "--methods", "--histories", "--control", "--record", "--rescore", "--walk-forward"):
        assert f"\n  {option} " in done.stdout


def test_each_script_says_in_its_first_line_what_its_help_says() -> None:
    scripts = {path.stem for path in FOLDER.glob("*.py")} - {"__init__", "bench", "calibration"}
    assert scripts == set(SCRIPTS)
    for script, about in SCRIPTS.items():
        assert (FOLDER / f"{script}.py").read_text().startswith(f'"""{about}\n')


# -- what they run --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "methods", "figure"),
    [
        ("compare", GROUPS["all"], "comparison.png"),
        ("ablate", GROUPS["ablation"], "comparison.png"),
        ("cold_start", ("pag", "react", "memory-bank", "persona-agent"), "histories.png"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_each_script_runs_its_own_methods(run: Any, script: str, methods: tuple[str, ...], figure: str) -> None:
    ended = run(script, *SMALL, "--memory-bank-dates", "1", "--out", "out")
    assert ended.code == 0 and ended.lines == []
    assert [row["method"] for row in rows()] == list(methods)
    assert {row["history"] for row in rows()} == {"10" if script == "cold_start" else "all"}
    assert f"out/{figure}" in ended.out and "out/report.md" in ended.out


def test_without_out_each_script_and_each_setting_has_a_folder_of_its_own(run: Any) -> None:
    settings = [*SMALL, "--methods", "prompt"]
    for argv in (settings, [*settings, "--users", "1"], settings, [*settings, "--control", "none", "--workers", "2"]):
        assert run("compare", *argv).code == 0
    assert run("ablate", *settings).code == 0
    names = sorted(path.name.rpartition("-")[0] for path in Path("runs").iterdir())
    assert names == ["ablate", "compare", "compare"]


def test_queries_by_task_are_the_ones_that_are_asked(run: Any, synthetic: Any, tmp_path: Path) -> None:
    folders = [synthetic(name) for name in ("lamp-2m", "lamp-3")]
    for folder in folders[1].iterdir():
        folder.rename(folders[0] / folder.name)
    settings = ["--tasks", "lamp-2m,lamp-3", "--data", str(folders[0]), "--methods", "prompt", "--users", "3"]
    for text, counts in (("lamp-2m:1,lamp-3:0", ("3", "6")), ("1,lamp-3:2", ("3", "6")), ("lamp-2m:0,1", ("6", "3"))):
        ended = run("compare", *settings, "--queries-per-user", text, "--tracking", "nowhere", "--out", text)
        assert ended.code == 0, ended.err
        assert tuple(row["queries"] for row in rows(text)) == counts


# -- study files ----------------------------------------------------------------------------------


def test_the_smoke_study_runs_in_seconds_as_it_says(run: Any) -> None:
    ended = run("compare", "--study", "smoke", "--tracking", "nowhere", "--out", "out")
    assert ended.code == 0 and ended.lines == []
    assert [row["method"] for row in rows()] == ["prompt", "rag", "memory-bank", "persona-agent"]
    assert {(row["users"], row["queries"], row["lm"]) for row in rows()} == {("4", "4", "offline")}


def test_the_command_line_overrides_a_file_which_overrides_the_script(run: Any, tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "methods: [rag, prompt, rag]\nusers: 3\nqueries-per-user: {lamp-2m: 1, lamp-3: 0}\nhistories: [2, all]\n"
    )
    ended = run("cold_start", "--study", str(file), "--users", "2", "--tracking", "nowhere", "--out", "out")
    assert ended.code == 0
    assert {(row["method"], row["history"]) for row in rows()} == {
        (m, h) for m in ("prompt", "rag") for h in ("2", "all")
    }
    assert {(row["users"], row["queries"]) for row in rows()} == {("2", "2")}
    assert json.loads(Path("out/study.json").read_text())["settings"]["users_by"] == "random", "the script's own"


@pytest.mark.parametrize("name", ["paper", "paper-ablation", "paper-cold-start"])
def test_the_papers_studies_need_a_key_and_data_and_say_so(
    run: Any, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    assert name in packaged_studies()
    ended = run("compare", "--study", name, "--lm", "offline")
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert (
        "--tasks lamp-1 needs --data, a folder" in ended.err and f"(given in {packaged_studies()[name]})" in ended.err
    )
    monkeypatch.setattr(study, "make_lm", make_lm)
    ended = run("compare", "--study", name)
    assert (ended.code, len(ended.lines)) == (2, 1)
    assert "no key for 'anthropic/claude-3-5-sonnet-20241022': set ANTHROPIC_API_KEY" in ended.err


# -- bad values -----------------------------------------------------------------------------------

METHODS = "the methods are: prompt, icl, rag, pag, react,"
BAD: list[tuple[list[str], list[str]]] = [
    (
        ["--methods", "rag,nope"],
        ["--methods: unknown method 'nope'", METHODS, "one of the groups all, paper, ablation"],
    ),
    (["--methods", ""], ["--methods: unknown method ''"]),
    (["--methods", "rag,,icl"], ["--methods: unknown method ''"]),
    (["--methods", "RAG"], ["--methods: unknown method 'RAG'"]),
    (["--methods", "self-consistency"], ["--methods: unknown method 'self-consistency'"]),
    (["--histories", "1,x"], ["--histories: 'x' is neither a whole number from 0 nor 'all'", "1,10,all"]),
    (["--histories", ""], ["--histories: ''"]),
    (["--histories", "-1"], ["--histories: '-1'"]),
    (["--queries-per-user", "many"], ["--queries-per-user: 'many' is not a whole number from 0", "lamp-2m:3,lamp-3:0"]),
    (["--queries-per-user", "lamp-9:1"], ["--queries-per-user: unknown task 'lamp-9'"]),
    (["--queries-per-user", "2,3"], ["--queries-per-user: '2,3' says it twice"]),
    (["--walk-forward", "0"], ["--walk-forward must be at least 1 but got 0"]),
    (["--walk-forward", "2", "--control", "swap"], ["--walk-forward and --control swap exclude each other"]),
    (["--memory-bank-dates", "-1"], ["--memory-bank-dates must be at least 0 but got -1"]),
    (["--memory-bank-curve", "steep"], ["--memory-bank-curve must be paper or published, but got 'steep'"]),
    (["--memory-bank-clock", "sun"], ["--memory-bank-clock must be items or days, but got 'sun'"]),
    (["--control", "Matrix"], ["--control must be one of none, swap, matrix, equal-cost, but got 'Matrix'"]),
    (["--control", "matrix", "--methods", "rag"], ["--control matrix is of persona-agent: add it to --methods"]),
    (["--control", "equal-cost", "--methods", "rag"], ["--control equal-cost is of persona-agent"]),
    (["--control", "matrix", "--users", "1"], ["--control matrix needs at least 2 users"]),
    (["--search", "2"], ["--search chooses cells of persona-agent alone"]),
    (["--search", "2", "--methods", "persona-agent", "--control", "matrix"], ["--search and --control matrix exclude"]),
    (["--search", "2", "--methods", "persona-agent", "--control", "equal-cost"], ["--search and --control equal-cost"]),
    (["--lm", "openai/a,,openai/b"], ["--lm 'openai/a,,openai/b': an LM's name is empty"]),
    (["--lm", ""], ["--lm '': an LM's name is empty"]),
    (["--align-lm", ""], ["--align-lm '': an LM's name is empty"]),
    (["--align-lm", "openai/a,openai/b"], ["--align-lm must be one LM, but got 'openai/a,openai/b'"]),
    (["--lm", "replay:missing"], ["--lm: missing: the recording cannot be read", "--record", "replay:FILE"]),
    (["--lm", "replay:"], ["--lm: .: the recording cannot be read"]),
    (["--lm", "replay:../file"], ["--lm: ../file is no recording of LM calls"]),
    (["--lm", "offline,replay:../file"], ["--lm 'offline,replay:../file': a recording answers for all LMs"]),
    (["--wikipedia", ""], ["--wikipedia must be on, off or the URL of a MediaWiki API, but got ''"]),
    (["--wikipedia", "http://"], ["--wikipedia must be on, off or the URL of a MediaWiki API, but got 'http://'"]),
    (["--record", "../file"], ["--record: ../file is no recording of LM calls"]),
    (["--record", "../file/calls"], ["--record: ../file/calls: the recording cannot be opened", "is no folder"]),
    (["--record", "."], ["--record: a recording needs the name of a file, but got '.'"]),
    (["--record", "out/journal.jsonl", "--out", "out"], ["--record out/journal.jsonl is a file of the study's own"]),
    (
        ["--record", "../cwd/out/./users.csv", "--out", "out"],
        ["is a file of the study's own: record its calls in another"],
    ),
    (["--rescore"], ["--rescore reads what a study has done, but runs/", "holds none: give its --out"]),
    (
        ["--rescore", "--record", "calls"],
        ["--rescore asks nothing: drop --dry-run, --retry-failed, --search and --record"],
    ),
    (["--rescore", "--dry-run"], ["--rescore asks nothing"]),
    (["--rescore", "--retry-failed"], ["--rescore asks nothing"]),
    (["--study", "nope"], ["--study nope: there is no such file, and no study of that name; there are: paper,"]),
    (["--study", "../methods.yaml"], ["--methods: unknown method 'nope'", "(given in ../methods.yaml)"]),
    (["--study", "../histories.yaml"], ["--histories: 'x' is neither", "(given in ../histories.yaml)"]),
    (["--study", "../queries.yaml"], ["--queries-per-user: unknown task 'lamp-9'", "(given in ../queries.yaml)"]),
    (["--study", "../control.yaml"], ["--control must be one of none, swap,", "(given in ../control.yaml)"]),
    (["--study", "../record.yaml"], ["--record: ../file is no recording", "(given in ../record.yaml)"]),
    (["--study", "../replay.yaml"], ["--lm: missing: the recording cannot be read", "(given in ../replay.yaml)"]),
    (["--study", "../forward.yaml"], ["../forward.yaml: walk-forward: Input should be a valid integer"]),
    (["--study", "../rescore.yaml"], ["../rescore.yaml: rescore: Input should be a valid boolean"]),
    (["--study", "../zero.yaml"], ["../zero.yaml, line 1: lm: 'replay:a\\x00b' holds a zero byte"]),
    (["--walk-forward", "two"], ["Invalid value for '--walk-forward'"]),
    (["--memory-bank-dates", "x"], ["Invalid value for '--memory-bank-dates'"]),
    (["--record"], ["Option '--record' requires an argument"]),
]
STUDY_FILES = {
    "methods": "methods: [rag, nope]",
    "histories": "histories: [1, x]",
    "queries": "queries-per-user: {lamp-9: 1}",
    "control": "control: upside-down",
    "record": "record: ../file",
    "replay": "lm: replay:missing",
    "forward": "walk-forward: two",
    "rescore": "rescore: perhaps",
    "zero": 'lm: "replay:a\\0b"',
}


@pytest.mark.parametrize(("argv", "said"), BAD, ids=[" ".join(argv) for argv, _ in BAD])
def test_a_bad_value_is_one_line_that_names_option_and_value_and_nothing_is_left(
    run: Any, tmp_path: Path, argv: list[str], said: list[str]
) -> None:
    (tmp_path / "file").write_text("not a recording\n")
    for name, content in STUDY_FILES.items():
        (tmp_path / f"{name}.yaml").write_text(content + "\n")
    ended = run("compare", *argv)
    assert ended.code == 2, ended.err
    assert len(ended.lines) == 1 and ended.lines[0].lower().startswith("error: "), ended.err
    assert all(part in ended.lines[0] for part in said), ended.err
    assert "Traceback" not in ended.err and ended.out == ""
    assert list(Path().iterdir()) == []


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_refuses_in_the_same_way(run: Any, script: str) -> None:
    ended = run(script, "--methods", "nope")
    assert (ended.code, len(ended.lines)) == (2, 1) and "--methods: unknown method 'nope'" in ended.err


def test_a_place_that_the_system_refuses_is_one_line(run: Any) -> None:
    """Only the system knows, once it is asked."""
    for place in ("/proc/nowhere/calls", "x" * 300):
        ended = run("compare", *SMALL, "--methods", "prompt", "--record", place)
        assert (ended.code, len(ended.lines)) == (2, 1), ended.err
        assert ended.lines[0].startswith(f"error: --record: {place}: the recording cannot be opened: ")


# -- good values that look odd --------------------------------------------------------------------

ODD: list[list[str]] = [
    ["--methods", " prompt , prompt,rag"],
    ["--methods", "prompt,paper", "--memory-bank-dates", "0"],
    ["--histories", "0,1,00,all, all"],
    ["--queries-per-user", "999999999"],
    ["--walk-forward", "999999999", "--histories", "1"],
    ["--data-seed", "-1", "--methods", "icl,memory-bank"],
    ["--workers", "999999999"],
    ["--control", "equal-cost", "--methods", "persona-agent", "--memories", "0", "--batch-sizes", "0,1"],
    ["--control", "matrix", "--methods", "persona-agent", "--batch-sizes", "0", "--memories", "0"],
    ["--lm", "offline, offline", "--methods", "prompt", "--seeds", "3,4"],
    ["--record", "new/folder/calls.jsonl", "--methods", "prompt"],
    ["--record", "out/calls.jsonl", "--methods", "prompt"],
    ["--record", "~nobody-of-this-name/calls.jsonl", "--methods", "prompt"],
]


@pytest.mark.parametrize("argv", ODD, ids=" ".join)
def test_a_value_that_looks_odd_is_taken(run: Any, argv: list[str]) -> None:
    settings = [] if "--queries-per-user" in argv else ["--queries-per-user", "1"]
    for dry in (["--dry-run"], []):
        ended = run("compare", "--users", "2", *settings, "--methods", "rag", *argv, "--out", "out", *dry)
        assert (ended.code, ended.lines) == (0, []), ended.err
        assert bool(dry) == (not Path("out").exists())
    assert all(row["failed"] == "0" for row in rows())
