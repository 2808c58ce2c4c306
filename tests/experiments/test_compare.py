"""A study of many methods: what they share is asked once, what is added is all that is asked, and what it costs."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from dspy import lm15
from marked_users import done, logs_of, write_logs
from rich.console import Console
from servers.wikipedia import WikipediaServer

from personaagent.experiments.harness.dry_run import print_projection
from personaagent.experiments.harness.methods.registry import GROUPS
from personaagent.experiments.harness.progress import Progress
from personaagent.experiments.harness.results import prediction_line, samples
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.study import Study
from personaagent.programs.errors import InputError

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]

CENTRE = ((2,), (1,), (3,))
ALL = GROUPS["all"]


def results(out: Path) -> list[dict[str, str]]:
    """results.csv but for seconds."""
    with (out / "results.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def predictions(study: Study) -> list[str]:
    """The lines of predictions.jsonl, but for seconds."""
    found = []
    for cell in study.all_cells():
        for sample in samples(study, cell)[0]:
            line = prediction_line(study, cell, sample)
            found.append(json.dumps({name: value for name, value in line.items() if name != "seconds"}))
    return found


@pytest.fixture
def compare(options: Make) -> Make:
    """A study of all methods. Ann, Bob and Cleo have 6, 5 and 4 interactions of one day; 2 questions each."""
    return lambda **changes: options(**{"axes": CENTRE, "grid": False, "methods": ALL, **changes})


@pytest.fixture
def calls(engine: Any) -> Callable[[StudyOptions], int]:
    """Runs a study without its reports: LM calls that the engine saw."""

    def run(options: StudyOptions) -> int:
        before = len(engine.calls)
        with done(options):
            return len(engine.calls) - before

    return run


# -- nothing is asked twice -----------------------------------------------------------------------

# A question with `recall` takes 3 calls, a step of two rollouts 2 * (3 + 1) + 1; without tools 1 and 2 * (1 + 1) + 1.
NEW_CALLS = {
    "prompt": 6,
    "icl": 6,
    "rag": 6,
    "pag": 3 + 6,  # a profile each
    "react": 6 * 3,
    "react-wiki": 6,
    "memory-bank": 3 * (2 + 2) + 6,  # two notes of the one day, and two overall
    "persona-agent": 3 * 9 + 6 * 3,  # with pag's profiles
    "no-alignment": 6 * 3,
    "no-persona": 6 * 3,
    "no-memory": 3 * 5 + 6,
    "no-action": 3 * 5 + 6,
    "episodic-only": 3 * 9 + 6 * 3,
    "semantic-only": 0,  # without Wikipedia all is no-action's
}
TOTAL = sum(NEW_CALLS.values())


def test_a_further_method_asks_only_what_is_new(compare: Make, calls: Any) -> None:
    assert {name: calls(compare(methods=ALL[: place + 1])) for place, name in enumerate(ALL)} == NEW_CALLS
    assert calls(compare()) == 0


def test_the_order_of_asking_changes_nothing(compare: Make, calls: Any, engine: Any, tmp_path: Path) -> None:
    forth, back = compare(out=tmp_path / "forth"), compare(methods=ALL[::-1], out=tmp_path / "back")
    assert calls(forth) == TOTAL and engine.roles()["summary"] == 3 + 3 * 4
    # The first one that has a profile pays for it.
    firsts = [calls(compare(methods=ALL[-1 : -count - 1 : -1], out=back.out)) for count in (1, 2)]
    assert firsts == [3 + 3 * 5 + 6, NEW_CALLS["episodic-only"]]
    assert calls(back) == TOTAL - sum(firsts)
    with done(forth) as one, done(back) as other:
        assert predictions(one) == predictions(other)
        assert len(predictions(one)) == 14 * 6


@pytest.mark.parametrize("order", [("persona-agent", "no-alignment"), ("no-alignment", "persona-agent")], ids="-".join)
def test_no_alignment_is_persona_agent_at_n_0(compare: Make, calls: Any, order: tuple[str, str]) -> None:
    axes = ((0,), (1,), (0, 3))
    assert [calls(compare(methods=order[: count + 1], axes=axes)) for count in (0, 1)] == [3 + 6 + 18, 0]
    with done(compare(methods=order, axes=axes)) as study:
        one, other = ([line.replace(name, "") for line in predictions(study) if f'"{name}"' in line] for name in order)
        assert one == other and len(one) == 2 * 6


def test_a_further_value_of_any_axis_asks_only_what_is_new(compare: Make, calls: Any) -> None:
    def of_ann(**changes: Any) -> int:
        return int(calls(compare(users=1, **changes)))

    assert of_ann() == TOTAL / 3
    asked = {
        "K": of_ann(axes=((2,), (1,), (3, 1))),
        "n": of_ann(axes=((2, 3), (1,), (3,))),
        "E": of_ann(axes=((2,), (1, 2), (3,))),
        "history": of_ann(histories=("all", "4")),
        "equal cost": of_ann(control="equal-cost"),
        "seed": of_ann(seeds=(0, 1)),
        "lm": of_ann(lm="scripted/one,scripted/two"),
    }
    assert asked == {
        # Who has no K asks nothing. What memory-bank remembers depends on K, and its notes are one unit with that.
        "K": 2 + 2 + (4 + 2) + (6 + 6 + 6) + 2 * (9 + 6),
        "n": 2 * (3 * 4 + 1 + 6) + 2 * (3 * 2 + 1 + 2),
        "E": 2 * (9 + 6) + 2 * (5 + 2),
        # Of no-memory the same batch makes the same persona, so that the answers are the same.
        "history": 2 + (1 + 2) + 6 + (4 + 2) + 6 + 6 + 2 * (9 + 6) + 5 + (5 + 2),
        # More memories in as many calls; and 3 more answers of 3 calls for a step of 9.
        "equal cost": 6 + 9,
        "seed": TOTAL / 3,
        "lm": TOTAL / 3,
    }


def test_a_further_task_asks_only_its_own(compare: Make, calls: Any, synthetic: Any, tmp_path: Path) -> None:
    data = synthetic("lamp-2m").rename(tmp_path / "both")
    shutil.copytree(synthetic("lamp-3"), data, dirs_exist_ok=True)
    alone = calls(compare(data=data, tasks=("lamp-3",), out=tmp_path / "alone"))
    assert calls(compare(data=data, tasks=("lamp-2m",))) > 0
    assert calls(compare(data=data, tasks=("lamp-3",))) == alone
    assert calls(compare(data=data, tasks=("lamp-2m", "lamp-3"))) == 0


def test_the_data_of_a_task_that_is_not_asked_for_again_are_held_to_what_they_were(
    compare: Make, calls: Any, synthetic: Any, tmp_path: Path
) -> None:
    """Its rows are in every table of the folder: with other golds they would be scored anew."""
    data = synthetic("lamp-2m").rename(tmp_path / "both")
    calls(compare(data=data, tasks=("lamp-2m",), methods=("prompt",)))
    shutil.copytree(synthetic("lamp-3"), data, dirs_exist_ok=True)
    [golds] = [path for path in data.rglob("*.json") if "A film" in path.read_text()]
    golds.write_text(golds.read_text().replace('"gold": "sci-fi"', '"gold": "classic"'))
    with pytest.raises(InputError, match=r"holds a study with other settings:\n  data lamp-2m: \w{12}… there"):
        calls(compare(data=data, tasks=("lamp-3",), methods=("prompt",)))


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"memory_bank_dates": 3}, "memory_bank_dates: 10 there, 3 now"),
        ({"memory_bank_curve": "published"}, "memory_bank_curve: 'paper' there, 'published' now"),
        ({"memory_bank_clock": "days"}, "memory_bank_clock: 'items' there, 'days' now"),
        ({"walk_forward": 2}, "walk_forward: None there, 2 now"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_changes_a_methods_rows_is_a_setting(
    compare: Make, calls: Any, engine: Any, changes: dict[str, Any], said: str
) -> None:
    calls(compare(methods=("memory-bank",)))
    before = len(engine.calls)
    with pytest.raises(InputError, match="holds a study with other settings") as caught:
        calls(compare(methods=("memory-bank",), **changes))
    assert said in str(caught.value) and len(engine.calls) == before


def test_fewer_dates_are_fewer_notes(options: Make, calls: Any, tmp_path: Path) -> None:
    """Ann has three days, Bob three."""
    data = write_logs(tmp_path / "logs.jsonl", {"ann": 9, "bob": 9})
    asked = {
        dates: calls(
            logs_of(options, data, methods=("memory-bank",), memory_bank_dates=dates, out=tmp_path / f"of-{dates}")
        )
        for dates in (0, 1, 3, 10)
    }
    assert asked == {0: 4, 1: 2 * 4 + 4, 3: 2 * 8 + 4, 10: 2 * 8 + 4}


# -- kills and caps -------------------------------------------------------------------------------


def test_a_comparison_that_was_killed_ends_as_one_that_was_not(
    process: Any, run_study: Run, compare: Make, empty_database: Path, tmp_path: Path
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_database.read_bytes())
    argv = ["--methods", "all", "--batch-sizes", "2", "--iterations", "1", "--memories", "3", "--trace-samples", "0"]
    argv += ["--data", str(compare().data), "--users", "2", "--queries-per-user", "1"]
    argv += ["--out", "killed", "--tracking", f"sqlite:///{database}"]
    # After notes and profiles, among the steps, and while the line of an answer is written.
    moments: list[list[Any] | None] = [["journal", 4], ["line", 20], None]
    runs = [process(argv, tmp_path, moment) for moment in moments]
    assert [run["code"] for run in runs] == [-9, -9, 0], runs
    whole = compare(lm="offline", users=2, queries_per_user=1, out=tmp_path / "whole")
    assert run_study(whole) == 0
    assert results(tmp_path / "killed") == results(whole.out) and len(results(whole.out)) == 14
    for name in ("predictions.jsonl", "personas.jsonl"):
        killed, untouched = (without_seconds((out / name).read_bytes()) for out in (tmp_path / "killed", whole.out))
        assert killed == untouched
    journalled = [json.loads(line) for line in (tmp_path / "killed" / "journal.jsonl").read_text().splitlines()]
    assert len({unit["key"] for unit in journalled}) == len(journalled)
    # Of the unit that was being written its calls were made twice.
    lost = sum(run["calls"] for run in runs) - sum(unit["lm_calls"] for unit in journalled)
    assert 0 < lost <= 3


def without_seconds(content: bytes) -> bytes:
    return re.sub(rb'"seconds": [0-9.e-]+', b"", content)


@pytest.mark.parametrize("workers", [1, 4])
def test_a_cap_is_never_exceeded_and_what_waits_is_done_by_further_runs(
    compare: Make, engine: Any, tmp_path: Path, workers: int
) -> None:
    settings = {"lm": "offline", "control": "equal-cost", "workers": workers, "users": 2}
    spent = []
    while not spent or spent[-1]:
        with done(compare(**settings, max_calls=70)) as study:
            spent.append(study.meter.spent.lm_calls)
    with done(compare(**settings, out=tmp_path / "whole")) as whole, done(compare(**settings)) as study:
        assert max(spent) <= 70 and len(spent) > 3
        assert sum(spent) == whole.meter.spent.lm_calls
        assert predictions(study) == predictions(whole) and len(predictions(study)) == 16 * 4


def test_a_cap_holds_when_every_call_fails(compare: Make, engine: Any) -> None:
    def refuse(call: Any) -> Any:
        raise lm15.RateLimitError("slow down")

    engine.script = refuse
    with done(compare(control="equal-cost", workers=4, max_calls=500)) as study:
        assert 0 < len(engine.calls) == study.meter.spent.lm_calls <= 500


# -- failures -------------------------------------------------------------------------------------


def test_what_rests_on_a_profile_or_notes_that_failed_has_failed_and_all_else_is_answered(
    compare: Make, engine: Any
) -> None:
    usual = engine.script

    def without_anns_summaries(call: Any) -> Any:
        if call.role == "summary" and "ann's" in call.user:
            raise lm15.InvalidRequestError("out of order")
        return usual(call)

    engine.script = without_anns_summaries
    with done(compare()) as study:
        lines = [json.loads(line) for line in predictions(study)]
    failed = {line["method"]: line["error"].partition(": ")[0] for line in lines if line["error"] is not None}
    with_profile = ("pag", "persona-agent", "no-alignment", "no-persona", "no-action", "semantic-only")
    assert failed == {**dict.fromkeys(with_profile, "profile"), "memory-bank": "notes"}
    assert {line["user_id"] for line in lines if line["error"] is not None} == {"ann"}
    assert sum(line["error"] is not None for line in lines) == 7 * 2
    engine.script, before = usual, len(engine.calls)
    with done(compare()) as study:
        assert len(engine.calls) == before  # it stays failed
    with done(compare(retry_failed=True)) as study:
        assert not [line for line in predictions(study) if '"error": null' not in line]
    # Ann's third of what needs any of it.
    needed = NEW_CALLS.keys() & failed.keys()
    assert len(engine.calls) - before == sum(NEW_CALLS[name] for name in needed) // 3


# -- what excludes what ---------------------------------------------------------------------------


@pytest.mark.parametrize("control", ["matrix", "equal-cost"])
def test_a_search_has_no_further_rows(compare: Make, control: str) -> None:
    """It chooses its cells one by one: a control that is asked for beside it would be left out in silence."""
    with pytest.raises(InputError, match=f"--search and --control {control} exclude each other"):
        compare(search=2, methods=("persona-agent",), control=control)


@pytest.mark.parametrize("control", ["matrix", "equal-cost"])
def test_what_controls_persona_agent_needs_its_row(compare: Make, control: str) -> None:
    with pytest.raises(InputError, match=f"--control {control} is of persona-agent: add it to --methods"):
        compare(methods=("rag", "no-alignment"), control=control)


# -- what it will cost ----------------------------------------------------------------------------


def projected(options: StudyOptions) -> int:
    printed = io.StringIO()
    study = Study(options)
    study.preview()
    print_projection(study, study.cells_asked(), Console(file=printed, width=200))
    found = re.search(r"about ([\d,]+) LM calls", printed.getvalue())
    assert found is not None
    return int(found[1].replace(",", ""))


def spent(options: StudyOptions) -> int:
    with Study(options) as study:
        study.run(study.cells_asked(), Progress(Console(file=io.StringIO())), study.matrix_asked())
        return study.meter.spent.lm_calls


SHORT = {"methods": ("pag", "memory-bank", "persona-agent", "no-alignment", "episodic-only"), "control": "equal-cost"}
PLANS: dict[str, dict[str, Any]] = {
    "all": {"control": "equal-cost"},
    "axes": {"axes": ((0, 2, 5), (1,), (0, 3)), "grid": True},
    "matrix": {"control": "matrix", "axes": ((0, 2), (1,), (3,))},
    "swap": {"control": "swap"},
    "wikipedia": {"wikipedia": "on", "control": "equal-cost"},
    "walk-forward": {"walk_forward": 2, "control": "equal-cost"},
    "histories": {**SHORT, "histories": ("0", "2", "all"), "axes": ((0, 3), (1,), (3,))},
    "no-profile": {"profile": False, "axes": ((0, 2), (1,), (3,))},
    "no-dates": {**SHORT, "memory_bank_dates": 0, "axes": ((2,), (1,), (0, 3)), "histories": ("2", "all")},
}


@pytest.mark.parametrize("plan", PLANS)
def test_a_dry_run_projects_what_the_offline_reader_is_asked(
    options: Make, engine: Any, tmp_path: Path, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    data = write_logs(tmp_path / "logs.jsonl", {"ann": 10, "bob": 9, "cat": 3})
    changes = {"methods": ALL, "lm": "offline", "users": 3, "axes": CENTRE, **PLANS[plan]}
    with WikipediaServer() as wikipedia:
        if "wikipedia" in changes:
            changes["wikipedia"] = wikipedia.url
        made = logs_of(options, data, **changes)
        before = projected(made)
        assert not made.out.exists() and not wikipedia.requests
        assert before == spent(made)


def test_a_dry_run_cannot_know_that_two_alignments_end_alike(options: Make, engine: Any, tmp_path: Path) -> None:
    data = write_logs(tmp_path / "logs.jsonl", {"ann": 10})
    same: dict[str, Any] = {"lm": "offline", "users": 1, "methods": ("no-memory",)}
    # By its second update of a batch the offline reader has nothing to add, and the answers are those of the first.
    again = logs_of(options, data, **same, axes=((2,), (1, 2), (0,)), out=tmp_path / "again")
    assert projected(again) == spent(again) + 2
    # Of both histories the batch is the same, and no-memory knows nothing else of them.
    short = logs_of(options, data, **same, histories=("2", "all"), out=tmp_path / "short")
    assert projected(short) == spent(short) + 2
