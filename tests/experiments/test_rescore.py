"""`--rescore`: what OUT holds is read and scored again, and nothing is asked, opened or changed beside."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dspy import lm15

from personaagent.datasets.lamp.answers import ScoredTask
from personaagent.experiments.harness import study as study_module
from personaagent.experiments.harness import tracking
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.programs.errors import InputError
from personaagent.programs.lm.make import make_lm

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]

METHODS = ("prompt", "rag", "persona-agent")
SMALL: dict[str, Any] = {"axes": ((2,), (1,), (3,)), "methods": METHODS, "script": "compare", "queries_per_user": 1}
LEFT = ("results.csv", "users.csv", "pairs.csv", "predictions.jsonl", "personas.jsonl", "journal.jsonl")
SWAPPED = ("swap_matrix.csv", "swap_predictions.jsonl")


def files(out: Path, *names: str) -> dict[str, bytes]:
    return {name: (out / name).read_bytes() for name in (*LEFT, *names)}


def results(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.fixture
def nobody_to_ask(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """From now on there is neither an LM nor an encoder."""

    def refuse(*args: Any, **_: Any) -> Any:
        raise AssertionError(f"{args} was asked for")

    def install() -> None:
        monkeypatch.setattr(study_module, "make_lm", refuse)
        monkeypatch.setattr(study_module.Workers, "do", refuse)

    return install


def test_nothing_is_asked_and_the_same_files_are_written(
    run_study: Run, options: Make, nobody_to_ask: Any, capsys: Any
) -> None:
    """Whatever of the axes is given now; with a swap matrix and equal-cost rows of other runs."""
    assert run_study(options(**SMALL, control="matrix")) == 0
    assert run_study(options(**SMALL, control="equal-cost")) == 0
    out, before = options().out, files(options().out, *SWAPPED)
    assert len(results(out)) == len(METHODS) + 2
    for name in ("results.csv", "report.md", "swap_matrix.csv"):
        (out / name).unlink()
    nobody_to_ask()
    capsys.readouterr()
    assert run_study(options(**SMALL, rescore=True)) == 0
    assert files(out, *SWAPPED) == before
    assert run_study(options(**{**SMALL, "axes": ((0,), (1,), (0,)), "methods": ("icl",)}, rescore=True)) == 0
    assert files(out, *SWAPPED) == before
    assert "# " in (out / "report.md").read_text()
    assert "Swap matrix of persona-agent" in capsys.readouterr().out
    runs = json.loads((out / "study.json").read_text())["runs"]
    assert [run["lm_calls"] > 0 for run in runs] == [True, True, False, False]
    assert all(run["complete"] for run in runs)


def test_it_needs_no_key(run_study: Run, options: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    settings = {**SMALL, "lm": "anthropic/claude-sonnet-4-5", "align_lm": "nobody/knows"}
    assert run_study(options(**settings)) == 0
    before = files(options().out)
    monkeypatch.setattr(study_module, "make_lm", make_lm)
    with pytest.raises(InputError, match="no key for 'anthropic/claude-sonnet-4-5'"):
        run_study(options(**settings))
    assert run_study(options(**settings, rescore=True)) == 0
    assert files(options().out) == before


def test_another_parser_gives_other_scores(
    run_study: Run, options: Make, nobody_to_ask: Any, monkeypatch: pytest.MonkeyPatch, read_jsonl: Any
) -> None:
    """Of votes, too: which sample counts is read anew."""
    run_study(options(**SMALL, control="equal-cost"))
    out = options().out
    raw = [line["raw"] for line in read_jsonl(out / "predictions.jsonl")]
    assert {line["prediction"] for line in read_jsonl(out / "predictions.jsonl")} == set(raw)
    nobody_to_ask()
    for said, score in (("comedy", 0.0), (None, 0.0), ("sci-fi", 1.0)):  # every query's answer is the first label
        monkeypatch.setattr(ScoredTask, "parse", lambda self, raw, said=said: said)
        assert run_study(options(**SMALL, rescore=True)) == 0
        assert {line["prediction"] for line in read_jsonl(out / "predictions.jsonl")} == {said}
        assert {float(row["score"]) for row in results(out)} == {score}
        assert {row["unparsable"] for row in results(out)} == {"0" if said else "3"}
        assert [line["raw"] for line in read_jsonl(out / "predictions.jsonl")] == raw


@pytest.mark.parametrize("there", [[], ["journal.jsonl"], ["study.json"]])
def test_a_folder_without_a_study_is_refused_and_left_as_it_is(
    run_study: Run, options: Make, there: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracking, "Tracker", lambda *_: pytest.fail("nothing is opened before"))
    out = options().out
    out.mkdir()
    for name in there:
        (out / name).touch()
    with pytest.raises(
        InputError, match=r"--rescore reads what a study has done, but .*/out holds none: give its --out"
    ):
        run_study(options(rescore=True))
    assert sorted(path.name for path in out.iterdir()) == there


def test_units_that_wait_or_failed_stay_so_and_end_with_exit_code_1(
    run_study: Run, options: Make, engine: Any, nobody_to_ask: Any, capsys: Any
) -> None:
    usual = engine.script

    def script(call: Any) -> Any:
        if call.role == "answer" and "ann's new film" in call.user:
            raise lm15.InvalidRequestError("out of order")
        return usual(call)

    engine.script = script
    settings = {**SMALL, "methods": ("rag", "persona-agent")}
    assert run_study(options(**settings, max_calls=230)) == 1
    before = files(options().out)
    nobody_to_ask()
    capsys.readouterr()
    assert run_study(options(**settings, rescore=True)) == 1
    assert files(options().out) == before
    said = capsys.readouterr().out
    assert "1 samples failed; --retry-failed asks them again" in said
    assert "3 samples wait: the same command without --rescore goes on with them" in said
    assert run_study(options(**{**settings, "methods": ("prompt",)}, rescore=True)) == 1
    assert "3 samples wait in cells of this folder that this command did not ask for" in capsys.readouterr().out


def test_other_settings_are_refused_with_the_difference(run_study: Run, options: Make, engine: Any) -> None:
    run_study(options(**SMALL))
    before = {path: path.read_bytes() for path in options().out.rglob("*") if path.is_file()}
    with pytest.raises(InputError, match=r"holds a study with other settings:\n  users: 3 there, 2 now\n"):
        run_study(options(**SMALL, users=2, rescore=True))
    assert {path: path.read_bytes() for path in options().out.rglob("*") if path.is_file()} == before


@pytest.mark.parametrize(
    "changes", [{"dry_run": True}, {"retry_failed": True}, {"search": 2}, {"record": Path("calls.jsonl")}], ids=str
)
def test_what_asks_is_refused_beside_it(options: Make, changes: dict[str, Any]) -> None:
    with pytest.raises(
        InputError, match="--rescore asks nothing: drop --dry-run, --retry-failed, --search and --record"
    ):
        options(rescore=True, grid=False, **changes)
