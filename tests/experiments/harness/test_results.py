"""From the journal to rows and lines, checked against what was asked of the engine and plain scikit-learn."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from dspy import lm15
from sklearn.metrics import accuracy_score, f1_score

from personaagent.datasets.lamp.tasks import LAMP_2M
from personaagent.datasets.selection import cut_history
from personaagent.datasets.source import chosen_users
from personaagent.datasets.task import User
from personaagent.experiments.harness import study as study_module
from personaagent.experiments.harness.results import COLUMNS, KEY_COLUMNS

ISSUE_COLUMNS = (
    "task,method,lm,align_lm,profile,wikipedia,control,temperature,batch_size,iterations,memories,history,seed,prompts,"
    "users,queries,answered,failed,unparsable,score,score_low,score_high,score_failed_as_worst,accuracy,f1,mae,rmse,"
    "rouge1,rougeL,recall_called,gold_recalled,iterations_used,tool_calls,profile_lm_calls,align_lm_calls,"
    "serve_lm_calls,prompt_tokens,completion_tokens,seconds"
).split(",")
ISSUE_FIELDS = "user_id,id,gold,prediction,raw,parsed,retrieved,tools,persona_version,lm_calls,seconds,error".split(",")

Lines = list[dict[str, Any]]


def results_csv(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def of_cell(lines: Lines, row: dict[str, str]) -> Lines:
    return [line for line in lines if all(str(line[name]) == row[name] for name in KEY_COLUMNS)]


def test_columns_and_fields_are_the_issues_in_its_order(opened: Any, options: Any, read_jsonl: Any) -> None:
    study = opened(options())
    assert list(COLUMNS) == ISSUE_COLUMNS
    assert (study.out / "results.csv").read_text().splitlines()[0] == ",".join(ISSUE_COLUMNS)
    for line in read_jsonl(study.out / "predictions.jsonl"):
        assert list(line) == [*ISSUE_COLUMNS[: ISSUE_COLUMNS.index("prompts") + 1], *ISSUE_FIELDS]


def test_key_columns_are_spelt_alike_in_both_files(opened: Any, options: Any, read_jsonl: Any) -> None:
    study = opened(options(profile=False, control="swap", temperature=0.0))
    lines, rows = read_jsonl(study.out / "predictions.jsonl"), results_csv(study.out)
    assert {tuple(str(line[k]) for k in KEY_COLUMNS) for line in lines} == {
        tuple(row[k] for k in KEY_COLUMNS) for row in rows
    }
    for row in rows:
        assert all(row[k].isdecimal() for k in ("batch_size", "iterations", "memories", "seed", "users", "queries"))
        assert (row["profile"], row["wikipedia"], row["control"], row["history"]) == ("off", "off", "swap", "all")
        assert (row["lm"], row["align_lm"], row["prompts"]) == ("scripted/one", "scripted/one", "built-in")
    assert all(type(line[k]) is int for line in lines for k in ("batch_size", "iterations", "memories", "seed"))


def test_predictions_are_sorted_by_cell_user_and_id(opened: Any, options: Any, read_jsonl: Any) -> None:
    lines = read_jsonl(opened(options(axes=((10, 0, 2), (1,), (3, 0)))).out / "predictions.jsonl")
    places = [(v["batch_size"], v["iterations"], v["memories"], v["user_id"], v["id"]) for v in lines]
    assert places == sorted(places)
    assert len(places) == len(set(places)) == 6 * 6


def test_metrics_agree_with_plain_scikit_learn(opened: Any, options: Any, read_jsonl: Any) -> None:
    study = opened(options(axes=((0, 2), (1, 2), (0, 3))))
    lines = read_jsonl(study.out / "predictions.jsonl")
    seen = set()
    for row in results_csv(study.out):
        own = of_cell(lines, row)
        golds, said = [line["gold"] for line in own], [line["prediction"] or "" for line in own]
        accuracy = accuracy_score(golds, said)
        f1 = f1_score(golds, said, labels=list(LAMP_2M.labels), average="macro", zero_division=0)
        for name in ("score", "accuracy", "score_failed_as_worst"):
            assert float(row[name]) == pytest.approx(accuracy, abs=1e-9)
        assert float(row["f1"]) == pytest.approx(f1, abs=1e-9)
        assert float(row["score_low"]) <= accuracy <= float(row["score_high"])
        assert [row[name] for name in ("mae", "rmse", "rouge1", "rougeL")] == [""] * 4
        seen.add(accuracy)
    assert len(seen) > 1


def test_costs_are_those_of_every_unit_a_cell_rests_on_each_once(
    opened: Any, options: Any, engine: Any, rows: Any
) -> None:
    study = opened(options(axes=((2,), (1, 2), (3,))))
    one, two = rows(study)
    # 3 users: a profile each; n rollouts of recall, finish, answer, with a gradient each, and an update; 6 questions.
    assert [one.values[k] for k in ("profile_lm_calls", "align_lm_calls", "serve_lm_calls")] == [3, 27, 18]
    assert [two.values[k] for k in ("profile_lm_calls", "align_lm_calls", "serve_lm_calls")] == [3, 54, 18]
    assert (one.values["prompt_tokens"], one.values["completion_tokens"]) == (48 * 100, 48 * 20)
    assert (one.values["iterations_used"], two.values["iterations_used"]) == (1.0, 2.0)
    # Shared units were asked once.
    assert len(engine.calls) == 3 + 54 + 18 + 18 == study.meter.spent.lm_calls


def test_recall_shares(opened: Any, options: Any, rows: Any, read_jsonl: Any) -> None:
    study = opened(options(axes=((0,), (1,), (0, 100))))
    without, with_all = rows(study)
    assert [without.values[k] for k in ("recall_called", "gold_recalled", "tool_calls")] == [None, None, 0]
    # Everything is recalled: labels 0 to 3 for ann and bob, cleo too; golds are labels 0 and 1.
    assert [with_all.values[k] for k in ("recall_called", "gold_recalled", "tool_calls")] == [1.0, 1.0, 6]
    for line in read_jsonl(study.out / "predictions.jsonl"):
        assert bool(line["retrieved"]) == (line["memories"] == 100)
        assert all(one.startswith(f"{line['user_id']}-") for one in line["retrieved"])
        assert line["lm_calls"] == (3 if line["memories"] else 1)


def test_an_unparsable_answer_is_answered_and_wrong(
    opened: Any, options: Any, engine: Any, rows: Any, read_jsonl: Any
) -> None:
    usual = engine.script
    engine.script = lambda call: (
        {"reasoning": "r", "answer": "hard to say"}
        if call.role == "answer" and "bob's new" in call.user
        else usual(call)
    )
    study = opened(options(axes=((0,), (1,), (0,))))
    [row] = rows(study)
    assert [row.values[k] for k in ("answered", "failed", "unparsable")] == [6, 0, 2]
    lines = read_jsonl(study.out / "predictions.jsonl")
    right = sum(line["prediction"] == line["gold"] for line in lines)
    assert row.values["accuracy"] == right / 6
    for line in lines:
        if line["user_id"] == "bob":
            assert (line["prediction"], line["raw"], line["parsed"], line["error"]) == (
                None,
                "hard to say",
                False,
                None,
            )


def test_failed_answers_are_left_out_of_metrics_and_count_as_worst_beside(
    opened: Any, options: Any, engine: Any, rows: Any, read_jsonl: Any
) -> None:
    usual = engine.script

    def failing(call: Any) -> Any:
        if "ann's new film 1" in call.user:
            raise lm15.InvalidRequestError("no such thing")
        if call.role == "answer":
            return {"reasoning": "r", "answer": LAMP_2M.labels[1 if "film 1" in call.user else 0]}
        return usual(call)

    engine.script = failing
    study = opened(options(axes=((0,), (1,), (0,))))
    [row] = rows(study)
    assert [row.values[k] for k in ("queries", "answered", "failed")] == [6, 5, 1]
    assert row.values["score"] == 1.0
    assert row.values["score_failed_as_worst"] == pytest.approx(5 / 6)
    [failed] = [line for line in read_jsonl(study.out / "predictions.jsonl") if line["error"]]
    assert failed["id"] == "ann-q1" and "no such thing" in failed["error"]
    assert (failed["prediction"], failed["raw"], failed["parsed"]) == (None, None, False)


def test_a_cell_of_nothing_but_failures_has_no_score(opened: Any, options: Any, engine: Any, rows: Any) -> None:
    def failing(call: Any) -> Any:
        raise lm15.InvalidRequestError("closed")

    engine.script = failing
    study = opened(options(axes=((0,), (1,), (0,)), profile=False))
    [row] = rows(study)
    assert [row.values[k] for k in ("answered", "failed", "score", "f1")] == [0, 6, None, None]
    assert row.values["score_failed_as_worst"] == 0.0
    assert results_csv(study.out)[0]["score"] == ""


def test_waiting_samples_are_in_no_count(opened: Any, options: Any, rows: Any) -> None:
    study = opened(options(axes=((0,), (1,), (0,)), lm="offline", max_calls=5))
    [row] = rows(study)
    # 3 profiles and 2 answers fit.
    assert (row.values["answered"], row.values["failed"], row.waiting) == (2, 0, 4)


def test_a_user_without_a_history_is_served(
    opened: Any, options: Any, users_folder: Any, rows: Any, monkeypatch: Any
) -> None:
    users_folder({"ann": (6, 2), "new": (1, 2)})

    def cut(source: Any, selection: Any) -> list[User]:
        ann, new = chosen_users(source, selection)
        return [ann, cut_history(new, 0)]

    monkeypatch.setattr(study_module, "chosen_users", cut)
    study = opened(options(axes=((0, 2), (2,), (0, 3)), users=2))
    assert all(row.values["answered"] == 4 and row.waiting == 0 for row in rows(study))


def test_personas_have_every_version_once_with_the_step_that_made_it(
    opened: Any, options: Any, read_jsonl: Any
) -> None:
    personas = read_jsonl(opened(options(axes=((0, 2), (1, 2), (3,)))).out / "personas.jsonl")
    by_version = {(p["user_id"], p["version"]): p for p in personas}
    assert len(personas) == len(by_version) == 9
    for (user, version), persona in by_version.items():
        assert persona["iteration"] == version
        if version == 0:
            assert persona["step"] is None and "Profile " in persona["text"]
            continue
        parent = by_version[user, version - 1]
        assert persona["parent"] == parent["digest"]
        step = persona["step"]
        assert (step["before"]["text"], step["after"]["text"]) == (parent["text"], persona["text"])
        assert len(step["batch"]) == 2 and persona["learnt_from"] == [s["interaction_id"] for s in step["batch"]]


def test_an_lms_broken_characters_do_not_break_the_files(
    opened: Any, options: Any, engine: Any, read_jsonl: Any
) -> None:
    usual = engine.script
    engine.script = lambda call: (
        {"reasoning": "half \ud83d", "answer": "comedy \ud83d"} if call.role == "answer" else usual(call)
    )
    study = opened(options(axes=((0,), (1,), (0,))))
    before = (study.out / "predictions.jsonl").read_bytes()
    assert {line["prediction"] for line in read_jsonl(study.out / "predictions.jsonl")} == {"comedy"}
    assert (opened(options(axes=((0,), (1,), (0,)))).out / "predictions.jsonl").read_bytes() == before


def test_every_file_is_whole_json(opened: Any, options: Any) -> None:
    study = opened(options())
    assert not list(study.out.glob("*.tmp"))
    json.loads((study.out / "study.json").read_text())
