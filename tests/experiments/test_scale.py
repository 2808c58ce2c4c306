"""The scaling study end to end: what it promises of kills, caps, failures, controls and bad input."""

from __future__ import annotations

import csv
import json
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dspy
import pytest
from dspy import lm15
from mlflow import MlflowClient

from personaagent.experiments.harness.methods import base, personas
from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.study import Study
from personaagent.programs.errors import InputError
from personaagent.programs.lm.endpoint import NUM_RETRIES

SCRIPT = Path(__file__).resolve().parents[2] / "experiments" / "scale.py"

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]


def results(out: Path) -> list[dict[str, str]]:
    """results.csv but for seconds."""
    with (out / "results.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def predictions(out: Path) -> bytes:
    """predictions.jsonl byte for byte, but for seconds."""
    return re.sub(rb'"seconds": [0-9.e-]+', b'"seconds": 0', (out / "predictions.jsonl").read_bytes())


def journalled_calls(out: Path) -> int:
    lines = (out / "journal.jsonl").read_text().splitlines()
    return sum(json.loads(line)["lm_calls"] for line in lines if line.endswith("}"))


def failing(engine: Any, when: Callable[[Any], bool], error: Callable[[str], Exception] | None = None) -> None:
    """The engine raises where `when` holds, and answers as before elsewhere."""
    usual = engine.script

    def script(call: Any) -> Any:
        if when(call):
            raise (error or lm15.InvalidRequestError)("out of order")
        return usual(call)

    engine.script = script


# -- nothing is asked twice -----------------------------------------------------------------------


def test_the_same_command_again_asks_nothing_and_changes_nothing(asked: Any, options: Make) -> None:
    assert asked(options())[0] == 0
    before = (results(options().out), (options().out / "predictions.jsonl").read_bytes())
    assert asked(options()) == (0, 0)
    assert (results(options().out), (options().out / "predictions.jsonl").read_bytes()) == before


def test_a_value_more_on_an_axis_asks_only_what_is_new(asked: Any, options: Make) -> None:
    out = options().out
    asked(options(axes=((0, 2), (1,), (0, 3))))
    old = results(out)
    # 3 users x one step from the shared first one (2 rollouts of 3 calls, 2 gradients, an update), 6 questions.
    assert asked(options(axes=((2,), (2,), (3,)))) == (0, 3 * 9 + 6 * 3)
    assert asked(options(axes=((0, 2), (1, 2), (3,)))) == (0, 0)
    assert [row for row in results(out) if row["iterations"] != "2"] == old
    assert len(results(out)) == len(old) + 1


def test_another_lm_in_the_same_folder_is_an_axis(asked: Any, options: Make) -> None:
    _, first = asked(options())
    old = results(options().out)
    assert asked(options(lm="scripted/two")) == (0, first)
    assert [row for row in results(options().out) if row["lm"] == "scripted/one"] == old
    assert {row["align_lm"] for row in results(options().out)} == {"scripted/one", "scripted/two"}


def test_two_seeds_share_no_completion(asked: Any, options: Make) -> None:
    _, one = asked(options())
    assert asked(options(seeds=(0, 1))) == (0, one)


def test_the_offline_reader_has_one_seed_and_says_so(run_study: Run, options: Make, capsys: Any) -> None:
    assert run_study(options(lm="offline", seeds=(4, 5))) == 0
    assert {row["seed"] for row in results(options().out)} == {"4"}
    assert "the offline reader does not sample: only seed 4 is run" in capsys.readouterr().out


def test_two_fresh_folders_get_the_same_bytes_but_for_seconds(asked: Any, options: Make, tmp_path: Path) -> None:
    asked(options(out=tmp_path / "one"))
    asked(options(out=tmp_path / "two"))
    assert predictions(tmp_path / "one") == predictions(tmp_path / "two")
    assert results(tmp_path / "one") == results(tmp_path / "two")


def test_eight_workers_predict_as_one_does_with_no_more_than_eight_calls_in_flight(
    asked: Any, options: Make, engine: Any, tmp_path: Path
) -> None:
    axes = ((0, 3), (1, 2), (0, 3))
    asked(options(axes=axes, out=tmp_path / "one"))
    assert engine.most_in_flight == 1
    engine.latency_seconds = 0.005
    asked(options(axes=axes, out=tmp_path / "eight", workers=8))
    assert 1 < engine.most_in_flight <= 8
    assert predictions(tmp_path / "one") == predictions(tmp_path / "eight")
    assert results(tmp_path / "one") == results(tmp_path / "eight")


def test_kill_9_at_several_moments_changes_nothing(
    process: Any, run_study: Run, options: Make, empty_database: Path, tmp_path: Path
) -> None:
    out, database = tmp_path / "killed", tmp_path / "mlflow.db"
    database.write_bytes(empty_database.read_bytes())
    axes = ["--batch-sizes", "0,2", "--iterations", "1,2", "--memories", "0,3", "--grid"]
    data = ["--data", str(options().data), "--users", "3", "--queries-per-user", "2", "--trace-samples", "1"]
    argv = [*axes, *data, "--out", str(out), "--tracking", f"sqlite:///{database}"]
    moments = [["journal", 1], ["journal", 5], ["line", 9], ["journal", 14], ["line", 1], ["files"], ["mlflow"]]
    before = 0
    for number, moment in enumerate([*moments, None]):
        run = process(argv, tmp_path, moment)
        assert run["code"] == (-9 if moment else 0), run["stderr"]
        done = journalled_calls(out)
        unfinished = 3 if moment and moment[0] == "line" else 0
        # What was journalled before is not asked again: every call of this run is in a line of this run,
        # but for those of the one unit that was cut off.
        assert 0 <= run["calls"] - (done - before) <= 9 * bool(unfinished), (number, moment)
        before = done
        found = MlflowClient(f"sqlite:///{database}").search_runs(["1", "2"], max_results=100)
        parents = [r for r in found if "mlflow.parentRunId" not in r.data.tags]
        assert [r.info.status for r in parents] == ["RUNNING" if moment else "FINISHED"]
    assert len(found) == 1 + 6 and {r.info.status for r in found} == {"FINISHED"}
    whole = options(lm="offline", axes=((0, 2), (1, 2), (0, 3)))
    assert run_study(whole) == 0
    assert results(out) == results(whole.out)
    assert predictions(out) == predictions(whole.out)


def test_a_search_that_was_killed_ends_as_one_that_was_not(
    process: Any, options: Make, empty_database: Path, tmp_path: Path
) -> None:
    database = tmp_path / "mlflow.db"
    database.write_bytes(empty_database.read_bytes())
    data = ["--data", str(options().data), "--users", "2", "--queries-per-user", "1", "--profile", "off"]
    argv = ["--search", "4", "--memories", "0,3", *data, "--tracking", f"sqlite:///{database}", "--out"]
    runs = [
        process([*argv, "killed"], tmp_path, ["journal", 6]),
        process([*argv, "killed"], tmp_path),
        process([*argv, "killed"], tmp_path),
        process([*argv, "whole"], tmp_path),
    ]
    assert [run["code"] for run in runs] == [-9, 0, 0, 0], runs
    assert runs[2]["calls"] == 0
    assert len(results(tmp_path / "killed")) == 4
    assert results(tmp_path / "killed") == results(tmp_path / "whole")


# -- one folder, one study ------------------------------------------------------------------------


CHANGED: list[tuple[dict[str, Any], str]] = [
    ({"temperature": 0.5}, "temperature: 0.1 there, 0.5 now"),
    ({"profile": False}, "profile: 'on' there, 'off' now"),
    ({"users": 2}, "users: 3 there, 2 now"),
    ({"control": "swap"}, "control: 'none' there, 'swap' now"),
    ({"align_lm": "scripted/two"}, "align_lm: 'as --lm' there, 'scripted/two' now"),
    ({"prompts": Prompts(gradient="x")}, "prompt texts: "),
]


def test_a_changed_setting_is_refused_with_the_difference_and_nothing_is_touched(
    asked: Any, options: Make, engine: Any, users_folder: Any
) -> None:
    asked(options())
    out = options().out
    before = {path: path.read_bytes() for path in out.rglob("*") if path.is_file()}
    calls = len(engine.calls)
    for changes, said in CHANGED:
        with pytest.raises(InputError, match="holds a study with other settings") as caught:
            asked(options(**changes))
        assert said in str(caught.value) and "another --out" in str(caught.value)
        assert str(caught.value).count(" there, ") == 1
    users_folder({"ann": (6, 2), "bob": (5, 2), "cleo": (4, 2), "dave": (3, 1)})
    with pytest.raises(InputError, match="data lamp-2m: "):
        asked(options())
    assert len(engine.calls) == calls
    assert {path: path.read_bytes() for path in out.rglob("*") if path.is_file()} == before


def test_operational_options_may_change(asked: Any, options: Make) -> None:
    asked(options())
    changes = {"workers": 4, "max_calls": 0, "timeout_seconds": 5.0, "trace_samples": 0, "retry_failed": True}
    assert asked(options(**changes, tracking="sqlite:///other.db")) == (0, 0)


def test_two_runs_at_once_in_one_folder_are_refused(options: Make, engine: Any) -> None:
    with Study(options()):
        with pytest.raises(InputError, match="is in use by another run"), Study(options()):
            pass
    with Study(options()):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": {}, "cells": [{"n": 3}]}'])
def test_a_damaged_record_is_refused(options: Make, engine: Any, content: str) -> None:
    options().out.mkdir()
    (options().out / "study.json").write_text(content)
    with pytest.raises(InputError, match=r"study\.json: not a study's record"), Study(options()):
        pass
    assert (options().out / "study.json").read_text() == content


def test_the_record_holds_settings_digests_and_what_was_spent(asked: Any, options: Make) -> None:
    _, first = asked(options())
    asked(options(axes=((0, 4), (1,), (0, 3))))
    record = json.loads((options().out / "study.json").read_text())
    assert record["settings"]["users"] == 3 and len(record["settings"]["data lamp-2m"]) == 64
    assert record["settings"]["prompts"] == "built-in" and len(record["settings"]["prompt texts"]) == 64
    assert record["runs"][0]["lm_calls"] == first
    assert sum(run["lm_calls"] for run in record["runs"]) == journalled_calls(options().out)
    assert all(run["seconds"] > 0 and run["prompt_tokens"] == 100 * run["lm_calls"] for run in record["runs"])


def test_a_host_programs_settings_are_as_it_left_them_and_no_prompt_is_kept(
    run_study: Run, options: Make, scripted: Any, engine: Any
) -> None:
    lm, host = scripted()
    kept: set[tuple[bool, bool]] = set()
    usual = engine.script

    def looking(call: Any) -> Any:
        kept.add((dspy.settings.trace is not None, not dspy.settings.disable_history))
        return usual(call)

    engine.script = looking
    heard: list[Any] = []

    class Listener(dspy.utils.callback.BaseCallback):
        def on_lm_start(self, *args: Any, **_: Any) -> None:
            heard.append(args)

    def host_history() -> int:
        return len(dspy.clients.base_lm.GLOBAL_HISTORY)

    trace: list[Any] = []
    history = host_history()
    with dspy.context(lm=lm, trace=trace, callbacks=[Listener()], adapter=dspy.JSONAdapter(), track_usage=False):
        before = dict(dspy.settings.copy())
        assert run_study(options(workers=1)) == 0
        assert run_study(options(workers=3, out=options().out.with_name("other"))) == 0
        assert dict(dspy.settings.copy()) == before
    assert (host.calls, host_history(), heard, trace) == ([], history, [], [])
    assert kept == {(False, False)}


# -- caps -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 4])
def test_max_calls_is_never_exceeded_and_later_runs_do_the_rest(
    asked: Any, options: Make, tmp_path: Path, engine: Any, workers: int
) -> None:
    """The worst case of a step at n = 2 and K = 3 is 300 calls, so that 305 always let one begin."""
    seen: set[str] = set()
    lock = threading.Lock()

    def once(call: Any) -> bool:
        with lock:
            new = call.user not in seen and hash(call.user) % 3 == 0
            seen.add(call.user)
        return new

    failing(engine, once, lm15.ServerError)  # a retry succeeds
    codes = []
    for _ in range(20):
        code, calls = asked(options(max_calls=305, workers=workers))
        assert calls <= 305
        codes.append(code)
        if code == 0:
            break
    assert codes == [*[1] * (len(codes) - 1), 0] and len(codes) > 1
    asked(options(out=tmp_path / "whole"))
    assert predictions_but_calls(options().out) == predictions_but_calls(tmp_path / "whole")


def predictions_but_calls(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in predictions(out).splitlines()]
    return [{k: v for k, v in line.items() if k != "lm_calls"} for line in lines]


def test_max_calls_holds_when_everything_fails(asked: Any, options: Make, engine: Any) -> None:
    failing(engine, lambda call: True, lm15.RateLimitError)
    code, calls = asked(options(max_calls=20, profile=True))
    assert code == 1 and 0 < calls <= 20


def test_an_lm_at_its_worst_stays_within_the_worst_case(options: Make, engine: Any, opened: Any) -> None:
    """Every call is refused five times and then unreadable, so retries and fallbacks are all used up."""
    tries: dict[str, int] = {}

    def worst(call: Any) -> str:
        tries[call.user] = tries.get(call.user, 0) + 1
        if tries[call.user] % (NUM_RETRIES + 1):
            raise lm15.RateLimitError("slow down")
        return "no fields at all"

    engine.script = worst
    axes = ((2,), (1,), (3,))
    study = opened(options(axes=axes, profile=False, users=1, queries_per_user=1))
    [cell] = study.all_cells()
    [subject], method = study.subjects(cell), study.method(cell)
    persona = method.start(subject, cell, None)
    works = [
        method.step(subject, cell, 1, persona),
        *method.answers(subject.queries[0], subject, cell, persona),
    ]
    spent = [study.journal.get(work.key) for work in works]
    for work, unit in zip(works, spent, strict=True):
        assert unit is not None and unit.ok
        assert 50 < unit.usage.lm_calls <= work.worst_case


def test_a_unit_that_meets_the_cap_waits_and_has_not_failed(
    asked: Any, options: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if a worst case were too low, the cap holds, and the unit is done by another run."""
    for module in (base, personas):
        monkeypatch.setattr(module, "calls_per_prediction", lambda model: -3)
    axes = ((2,), (1,), (3,))
    assert asked(options(axes=axes, max_calls=8)) == (1, 8)
    assert results(options().out)[0]["failed"] == "0"
    assert asked(options(axes=axes))[0] == 0
    assert results(options().out)[0]["answered"] == "6"


def test_a_cap_below_every_unit_is_said_to_let_nothing_begin(asked: Any, options: Make, capsys: Any) -> None:
    assert asked(options(max_calls=3)) == (1, 0)
    said = " ".join(capsys.readouterr().out.split())
    assert "--max-calls 3 lets nothing begin, since the next unit may take up to 17 LM calls" in said


# -- failures -------------------------------------------------------------------------------------


def test_a_profile_that_fails_fails_that_users_questions_in_every_cell(
    asked: Any, options: Make, engine: Any, read_jsonl: Any
) -> None:
    usual = engine.script
    failing(engine, lambda call: call.role == "summary" and "ann's" in call.user)
    code, first = asked(options())
    assert code == 1
    for line in read_jsonl(options().out / "predictions.jsonl"):
        assert (line["error"] is not None) == (line["user_id"] == "ann")
        if line["error"]:
            assert line["error"].startswith("profile: LMInvalidRequestError") and "out of order" in line["error"]
            assert (line["prediction"], line["persona_version"], line["lm_calls"]) == (None, None, 0)
    assert {(r["answered"], r["failed"]) for r in results(options().out)} == {("4", "2")}
    for row in results(options().out):
        assert float(row["score_failed_as_worst"]) == pytest.approx(float(row["score"]) * 4 / 6)
    engine.script = usual
    assert asked(options()) == (1, 0)  # it stays failed
    code, retried = asked(options(retry_failed=True))
    assert code == 0
    # Ann's profile, a step for each K (n rollouts, n gradients, an update) and her questions in 4 cells.
    assert retried == 1 + (2 * 2 + 1) + (2 * 4 + 1) + 2 * (1 + 3 + 1 + 3)
    assert first + retried == journalled_calls(options().out)
    assert asked(options(retry_failed=True)) == (0, 0)


def test_a_step_that_fails_fails_that_user_in_that_cell_alone(
    asked: Any, options: Make, engine: Any, read_jsonl: Any
) -> None:
    usual = engine.script
    failing(engine, lambda call: call.role == "gradient" and "bob's" in call.user, lm15.ServerError)
    assert asked(options(axes=((0, 2), (1, 2), (3,))))[0] == 1
    for line in read_jsonl(options().out / "predictions.jsonl"):
        failed = line["user_id"] == "bob" and line["batch_size"] == 2
        assert (line["error"] is not None) == failed
        if failed:
            assert line["error"].startswith("alignment step 1: LMServerError")
    engine.script = usual
    code, retried = asked(options(axes=((0, 2), (1, 2), (3,)), retry_failed=True))
    assert (code, retried) == (0, 2 * (2 * 4 + 1) + 2 * (2 * 3))
    assert {row["failed"] for row in results(options().out)} == {"0"}


def test_an_answer_that_fails_is_counted_with_its_reason_and_asked_again_alone(
    asked: Any, options: Make, engine: Any, capsys: Any
) -> None:
    usual = engine.script
    failing(engine, lambda call: call.role == "answer" and "cleo's new film 1" in call.user)
    axes = ((0,), (1,), (0, 3))
    assert asked(options(axes=axes))[0] == 1
    assert "2 samples failed; --retry-failed asks them again" in capsys.readouterr().out
    assert {(r["answered"], r["failed"]) for r in results(options().out)} == {("5", "1")}
    engine.script = usual
    assert asked(options(axes=axes, retry_failed=True)) == (0, 1 + 3)


def test_what_fails_again_is_asked_once_a_run(asked: Any, options: Make, engine: Any) -> None:
    failing(engine, lambda call: "ann's new film 0" in call.user)
    axes = ((0,), (1,), (0,))
    asked(options(axes=axes))
    assert asked(options(axes=axes, retry_failed=True)) == (1, 1)


def test_what_fails_again_is_asked_once_for_all_cells_of_a_search(asked: Any, options: Make, engine: Any) -> None:
    failing(engine, lambda call: call.role == "summary" and "ann's" in call.user)
    settings: dict[str, Any] = {"axes": ((0,), (1,), (0, 1, 3)), "grid": False}
    asked(options(**settings, search=1))
    before = len(engine.calls)
    assert asked(options(**settings, search=3, retry_failed=True))[0] == 1
    assert sum(call.role == "summary" for call in engine.calls[before:]) == 1


def test_a_search_asks_again_what_failed_in_its_own_lms_cells(asked: Any, options: Make, engine: Any) -> None:
    usual = engine.script
    failing(engine, lambda call: call.role == "answer" and "ann's new" in call.user)
    settings: dict[str, Any] = {"axes": ((0,), (1,), (0, 1, 3)), "grid": False, "search": 2}
    assert asked(options(**settings, lm="scripted/two"))[0] == 1
    assert asked(options(**settings))[0] == 1
    assert asked(options(**settings)) == (1, 0)
    engine.script = usual
    code, retried = asked(options(**settings, retry_failed=True))
    assert code == 1 and retried > 0
    failed = [(row["lm"], row["failed"]) for row in results(options().out)]
    assert sorted(failed) == [("scripted/one", "0")] * 2 + [("scripted/two", "2")] * 2


@pytest.mark.parametrize("workers", [1, 4])
def test_an_lm_that_refuses_the_key_ends_the_run_at_once(asked: Any, options: Make, engine: Any, workers: int) -> None:
    failing(engine, lambda call: True, lm15.AuthError)
    with pytest.raises(InputError, match="the LM cannot be used: LMAuthError"):
        asked(options(workers=workers))
    assert 1 <= len(engine.calls) <= workers
    assert (options().out / "journal.jsonl").read_text() == ""


def test_a_key_that_is_refused_leaves_no_cell_behind_that_waits(asked: Any, options: Make, engine: Any) -> None:
    usual = engine.script
    failing(engine, lambda call: True, lm15.AuthError)
    with pytest.raises(InputError):
        asked(options(lm="scripted/typo"))
    engine.script = usual
    assert asked(options())[0] == 0
    assert {row["lm"] for row in results(options().out)} == {"scripted/one"}


def test_samples_of_cells_that_were_not_asked_for_wait_elsewhere(asked: Any, options: Make, capsys: Any) -> None:
    assert asked(options(axes=((2,), (1,), (3,)), max_calls=60))[0] == 1
    capsys.readouterr()
    assert asked(options(axes=((0,), (1,), (0,))))[0] == 1
    said = " ".join(capsys.readouterr().out.split())
    assert re.search(r"\d samples wait in cells of this folder that this command did not ask for", said)
    assert "the same command goes on" not in said
