"""All six LaMP tasks, in both layouts, through a whole study. Their data here are synthetic."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personaagent.datasets.lamp.tasks import TASKS
from personaagent.experiments.harness.settings import StudyOptions

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]

USERS = ("ann", "bob", "cleo")


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize("layout", ["oppu", "time", "user"])
@pytest.mark.parametrize("name", TASKS)
def test_a_study_runs_and_no_sample_fails(
    run_study: Run, options: Make, synthetic: Any, name: str, layout: str
) -> None:
    task = TASKS[name]
    data = synthetic(name, layout)
    axes = ((0, 2), (1,), (0, 3))
    assert run_study(options(tasks=(name,), data=data, axes=axes, lm="offline", users=6, profile=True)) == 0
    for row in rows(options().out / "results.csv"):
        assert (row["users"], row["answered"], row["failed"]) == ("6" if layout == "user" else "3", "6", "0")
        assert row["score"] == row[task.metrics[0]] != ""
        others = {"accuracy", "f1", "mae", "rmse", "rouge1", "rougeL"} - set(task.metrics)
        assert all(row[other] == "" for other in others)


def test_metrics_of_each_user_are_in_a_file_of_their_own(
    run_study: Run, options: Make, synthetic: Any, read_jsonl: Any
) -> None:
    data = synthetic("lamp-3", "oppu")
    assert run_study(options(tasks=("lamp-3",), data=data, axes=((0,), (1,), (3,)), lm="offline")) == 0
    lines = read_jsonl(options().out / "predictions.jsonl")
    found = rows(options().out / "users.csv")
    assert [row["user_id"] for row in found] == list(USERS)
    for row in found:
        errors = [abs(float(p["gold"]) - float(p["prediction"])) for p in lines if p["user_id"] == row["user_id"]]
        assert (row["queries"], row["answered"], row["unparsable"]) == ("2", "2", "0")
        assert float(row["mae"]) == float(row["score"]) == pytest.approx(sum(errors) / 2, abs=1e-12)
        assert float(row["rmse"]) == pytest.approx(math.sqrt(sum(e * e for e in errors) / 2), abs=1e-12)
    [pooled] = rows(options().out / "results.csv")
    assert float(pooled["mae"]) == pytest.approx(sum(float(row["mae"]) for row in found) / 3, abs=1e-12)


def test_an_unparsable_rating_counts_as_the_farther_extreme_and_is_told(
    run_study: Run, options: Make, engine: Any, synthetic: Any, capsys: Any, read_jsonl: Any
) -> None:
    data = synthetic("lamp-3", "oppu")
    usual = engine.script

    def refusing(call: Any) -> Any:
        return {"reasoning": "r", "answer": "I cannot say."} if call.role == "answer" else usual(call)

    engine.script = refusing
    assert run_study(options(tasks=("lamp-3",), data=data, axes=((0,), (1,), (0,)), users=1)) == 0
    [row] = rows(options().out / "results.csv")
    golds = [line["gold"] for line in read_jsonl(options().out / "predictions.jsonl")]
    expected = sum(4.0 if gold in "15" else 3.0 if gold in "24" else 2.0 for gold in golds) / 2
    assert (row["answered"], row["unparsable"], float(row["mae"])) == ("2", "2", expected)
    assert "100%" in capsys.readouterr().out


def test_the_critic_of_texts_is_told_what_differs_and_that_of_labels_is_not(
    run_study: Run, options: Make, engine: Any, synthetic: Any, tmp_path: Path
) -> None:
    for name, told in (("lamp-4", True), ("lamp-2n", False)):
        data = synthetic(name, "oppu")
        engine.calls.clear()
        run_study(options(tasks=(name,), data=data, axes=((1,), (1,), (0,)), out=tmp_path / f"out-{name}"))
        gradients = [call for call in engine.calls if call.role == "gradient"]
        assert len(gradients) == 3
        assert all(("Length:" in call.user) is told for call in gradients)


def test_surrogate_references_of_citations_are_noted(
    run_study: Run, options: Make, synthetic: Any, capsys: Any
) -> None:
    data = synthetic("lamp-1", "time")
    assert run_study(options(tasks=("lamp-1",), data=data, axes=((0,), (1,), (0,)), lm="offline")) == 0
    assert "note: lamp-1: histories without citations" in " ".join(capsys.readouterr().out.split())


def test_users_are_drawn_by_seed_where_that_is_asked(
    run_study: Run, options: Make, users_folder: Any, tmp_path: Path
) -> None:
    users_folder({f"u{i}": (i + 1, 1) for i in range(8)})
    drawn = []
    for seed in range(4):
        out = tmp_path / f"out-{seed}"
        axes = ((0,), (1,), (0,))
        assert run_study(options(axes=axes, out=out, lm="offline", users=2, users_by="random", data_seed=seed)) == 0
        drawn.append({row["user_id"] for row in rows(out / "users.csv")})
    assert len({frozenset(users) for users in drawn}) > 1
    assert drawn != [{"u7", "u6"}] * 4


def test_profiles_with_nothing_in_common_are_a_note(run_study: Run, options: Make, synthetic: Any, capsys: Any) -> None:
    data = synthetic("lamp-3", "time")
    [file] = data.rglob("dev_questions.json")
    questions = json.loads(file.read_text())
    questions[1]["profile"] = [{**one, "id": f"other-{one['id']}"} for one in questions[1]["profile"]]
    file.write_text(json.dumps(questions))
    assert run_study(options(tasks=("lamp-3",), data=data, axes=((0,), (1,), (0,)), lm="offline")) == 0
    assert "note: lamp-3: 1 users have no history" in " ".join(capsys.readouterr().out.split())
