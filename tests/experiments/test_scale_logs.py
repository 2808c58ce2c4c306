"""The scaling study on a person's own logs, with labels and in free text, from every kind of file."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from datasets import Dataset, config
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.study import Study
from personaagent.programs.errors import InputError

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]
Rows = list[dict[str, Any]]

COLUMNS = {"user": "customer", "query": "question", "response": "answer", "time": "asked_at"}
LABELS = ("tea", "coffee", "hot milk")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(config, "HF_DATASETS_CACHE", tmp_path / "cache")


def log(answers: tuple[str, ...] = LABELS) -> Rows:
    """Three customers with 10, 8 and 6 rows, who always answer the same; newest first, and one with one row."""
    rows = [
        {
            "customer": customer,
            "question": f"{customer} at table {day}:\nwhat to bring?",
            "answer": answers[number],
            "asked_at": 1700000000 + 86400 * day,
            "waiter": "x",
        }
        for number, (customer, days) in enumerate({"Ann": 10, "Bé": 8, "cleo": 6}.items())
        for day in range(days)
    ]
    return [*rows[::-1], {**rows[0], "customer": "dave"}]


def write(path: Path, rows: Rows) -> Path:
    if path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    elif path.suffix == ".csv":
        with path.open("w", encoding="utf-8-sig", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]))
            writer.writeheader()
            writer.writerows(rows)
    else:
        Dataset.from_list(rows).save_to_disk(str(path))
    return path


@pytest.fixture
def logs(options: Make, tmp_path: Path) -> Make:
    """Options of a small study of a log; without `data`, of a JSONL file."""

    def make(data: Path | None = None, **changes: Any) -> StudyOptions:
        data = data or write(tmp_path / "log.jsonl", log())
        return options(**{"tasks": ("logs",), "data": data, "columns": COLUMNS, "labels": LABELS, **changes})

    return make


def reading(answer: Callable[[Any], str]) -> Callable[[Any], dict[str, str]]:
    """A script that recalls once if it can, and answers by a function of the call."""

    def script(call: Any) -> dict[str, str]:
        if call.role == "step":
            tool = "recall" if call.steps_taken == 0 and "(1) recall" in call.system else "finish"
            arguments = json.dumps({"query": "table"}) if tool == "recall" else "{}"
            return {"next_thought": "t", "next_tool_name": tool, "next_tool_args": arguments}
        return {name: answer(call) if name == "answer" else f"Says {answer(call)}." for name in call.outputs}

    return script


def remembered(call: Any) -> str:
    """What the recalled records most often say."""
    said = re.findall("|".join(LABELS), call.user.partition("observation_0")[2])
    return max(LABELS, key=said.count) if said else "nothing"


def results(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return [{k: v for k, v in row.items() if k != "seconds"} for row in csv.DictReader(file)]


def predictions(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "predictions.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("name", ["log.jsonl", "log.csv", "saved"])
def test_a_log_with_labels_is_studied_whatever_its_file(
    logs: Make, run_study: Run, engine: Any, tmp_path: Path, capsys: Any, name: str
) -> None:
    engine.script = reading(remembered)
    made = logs(write(tmp_path / name, log()))
    assert run_study(made) == 0
    rows = results(made.out)
    assert len(rows) == 4 and {row["task"] for row in rows} == {"logs"}
    assert {(row["users"], row["queries"], row["answered"], row["failed"]) for row in rows} == {("3", "6", "6", "0")}
    said = predictions(made.out)
    assert {line["gold"] for line in said} == set(LABELS)
    # What a customer always answers is in the memory, and nowhere else.
    scores = {(row["batch_size"], row["memories"]): float(row["score"]) for row in rows}
    assert scores[("0", "0")] < scores[("0", "3")]
    printed = capsys.readouterr().out
    assert "own logs: 3 users, 6 queries" in printed and "accuracy" in printed
    assert "1 user has one row only and is left out" in printed


def test_the_kind_of_file_changes_no_result(logs: Make, run_study: Run, engine: Any, tmp_path: Path) -> None:
    found = []
    for name in ("log.jsonl", "log.csv", "saved"):
        made = logs(write(tmp_path / name, log()), out=tmp_path / f"out {name}")
        assert run_study(made) == 0
        found.append((results(made.out), [line | {"seconds": 0} for line in predictions(made.out)]))
    assert found[0] == found[1] == found[2]


def test_a_log_in_free_text_is_scored_by_rouge(
    logs: Make, run_study: Run, engine: Any, tmp_path: Path, capsys: Any
) -> None:
    answers = ("a pot of green tea", "one black coffee, please", "hot milk with honey")
    engine.script = reading(lambda call: "a pot of black tea")
    made = logs(write(tmp_path / "log.csv", log(answers)), labels=())
    assert run_study(made) == 0
    [row, *_] = results(made.out)
    # ann: 4 of 5 words; the others: black, and nothing.
    assert float(row["rouge1"]) == pytest.approx((0.8 + 0.2222 + 0) / 3, abs=0.01)
    assert 0 < float(row["rougeL"]) <= float(row["rouge1"]) and float(row["score"]) == float(row["rouge1"])
    assert row["unparsable"] == "0"
    assert "rouge1" in capsys.readouterr().out
    assert not any("options: [" in call.user for call in engine.calls)


def test_the_agent_is_asked_with_the_options_and_recalls_without_them(
    logs: Make, run_study: Run, engine: Any, encoder: Any
) -> None:
    engine.script = reading(remembered)
    made = logs(axes=((0,), (1,), (3,)))
    assert run_study(made) == 0
    answers = [call for call in engine.calls if call.role == "answer"]
    assert answers and all("options: [tea, coffee, hot milk]" in call.user for call in answers)
    assert encoder.texts and not any("options" in text for text in encoder.texts)


def test_nobody_is_shown_what_came_after_the_question_or_its_answer(
    logs: Make, run_study: Run, engine: Any, tmp_path: Path
) -> None:
    rows = log()
    for row in rows:
        row["answer"] = f"answer {row['customer']} {(row['asked_at'] - 1700000000) // 86400}"
    seen: list[str] = []

    def script(call: Any) -> dict[str, str]:
        seen.append(call.system + call.user)
        return reading(lambda _: "an answer")(call)

    engine.script = script
    assert run_study(logs(write(tmp_path / "log.jsonl", rows), labels=(), users=1)) == 0
    text = "\n".join(seen)
    # Of 10 rows of Ann's the first 6 are the history; the file has the newest first.
    assert all(f"answer Ann {day}" in text for day in range(6))
    assert not any(f"answer Ann {day}" in text for day in range(6, 10))
    assert "answer Bé" not in text and "answer cleo" not in text


def test_the_offline_reader_reads_logs(logs: Make, run_study: Run) -> None:
    made = logs(lm="offline", axes=((0,), (1,), (0, 3)))
    assert run_study(made) == 0
    assert {row["failed"] for row in results(made.out)} == {"0"}
    free = logs(lm="offline", axes=((0,), (1,), (0, 3)), labels=(), out=made.out.with_name("free"))
    assert run_study(free) == 0
    assert {row["failed"] for row in results(free.out)} == {"0"}


def test_the_same_log_again_asks_nothing_and_another_one_is_refused(
    logs: Make, run_study: Run, engine: Any, tmp_path: Path
) -> None:
    assert run_study(logs()) == 0
    calls = len(engine.calls)
    assert run_study(logs(write(tmp_path / "moved.csv", log()))) == 0
    assert len(engine.calls) == calls
    rows = log()
    rows[0]["answer"] = "coffee"
    for changed, said in (
        (logs(write(tmp_path / "other.jsonl", rows)), "data logs: "),
        (logs(labels=(*LABELS, "water")), "labels: "),
        (logs(columns={k: v for k, v in COLUMNS.items() if k != "time"}), "columns: "),
    ):
        with pytest.raises(InputError, match="holds a study with other settings") as caught:
            run_study(changed)
        assert said in str(caught.value)
    assert len(engine.calls) == calls


def test_a_wrong_log_is_refused_before_anything_is_made(logs: Make, engine: Any, tmp_path: Path) -> None:
    rows = log()
    rows[4]["answer"] = "Tea"
    with (
        pytest.raises(InputError, match=r"log\.jsonl: line 5: column 'answer': 'Tea' is not a label"),
        Study(logs(write(tmp_path / "log.jsonl", rows))),
    ):
        pass
    with pytest.raises(InputError, match="needs --data, a log file"), Study(replace(logs(), data=None)):
        pass
    assert not logs().out.exists() and not engine.calls


def test_the_command_takes_logs(process: Any, empty_database: Path, tmp_path: Path) -> None:
    (tmp_path / "mlflow.db").write_bytes(empty_database.read_bytes())
    write(tmp_path / "my log.csv", log())
    axes = ["--batch-sizes", "0", "--iterations", "1", "--memories", "0,3", "--users", "2", "--profile", "off"]
    data = ["--tasks", "logs", "--data", "my log.csv", "--tracking", "sqlite:///mlflow.db"]
    columns = ["--columns", "user=customer,query=question,response=answer,time=asked_at"]
    run = process([*axes, *data, *columns, "--labels", "tea, coffee,hot milk", "--out", "labels"], tmp_path)
    assert run["code"] == 0, run["stderr"]
    assert [row["answered"] for row in results(tmp_path / "labels")] == ["6", "6"]
    assert "own logs" in run["stdout"] and "my log.csv" in run["stdout"]
    run = process([*axes, *data, *columns, "--out", "free"], tmp_path)
    assert run["code"] == 0 and "rouge1" in run["stdout"], run
    for argv, said in (
        ([*data, "--columns", "user=customer"], "--columns: query, response is missing"),
        ([*data, "--columns", "who=customer"], "--columns: 'who=customer' is not ROLE=COLUMN"),
        ([*data, "--labels", "tea"], "--labels must be two or more different labels"),
        ([*data], "my log.csv: line 2: there is no column 'user' for user (--columns user=...); the columns are: "),
        ([*data, *columns, "--labels", "tea,coffee"], "column 'answer': 'hot milk' is not a label: tea, coffee"),
        (["--tasks", "logs"], "--tasks logs needs --data, a log file"),
        (["--tasks", "logs", "--data", "gone.csv"], "gone.csv: no such file"),
    ):
        run = process([*argv, "--out", "refused"], tmp_path)
        assert run["code"] == 2 and run["calls"] == 0, (argv, run)
        assert run["stderr"].startswith("error: ") and said in run["stderr"], (argv, run)
        assert len(run["stderr"].splitlines()) == 1 and not (tmp_path / "refused").exists()
