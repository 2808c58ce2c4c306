"""What a study spans: cells, users, controls, LMs, prompts, and the dry run's projection of them."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from personaagent.datasets.lamp.tasks import LAMP_2M, TASKS
from personaagent.datasets.selection import cut_history
from personaagent.datasets.source import chosen_users
from personaagent.datasets.task import User
from personaagent.experiments.harness import study as study_module
from personaagent.experiments.harness.prompts import Prompts
from personaagent.experiments.harness.settings import StudyOptions
from personaagent.experiments.harness.study import Study
from personaagent.programs.errors import InputError

Make = Callable[..., StudyOptions]
Run = Callable[[StudyOptions], int]


def results(out: Path) -> list[dict[str, str]]:
    with (out / "results.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def test_no_alignment_is_one_cell_with_no_iterations(run_study: Run, options: Make) -> None:
    run_study(options(axes=((0, 2), (0, 1, 2), (3,))))
    found = [(row["batch_size"], row["iterations"]) for row in results(options().out)]
    assert found == [("0", "0"), ("2", "1"), ("2", "2")]
    assert results(options().out)[0]["align_lm_calls"] == "0"


def test_a_swap_serves_each_user_with_the_memory_and_persona_of_the_next(
    run_study: Run, options: Make, engine: Any, read_jsonl: Any
) -> None:
    run_study(options(control="swap", axes=((2,), (1,), (3,))))
    serves = {"ann": "bob", "bob": "cleo", "cleo": "ann"}
    newest = {p["user_id"]: p for p in read_jsonl(options().out / "personas.jsonl") if p["version"] == 1}
    for line in read_jsonl(options().out / "predictions.jsonl"):
        assert len(line["retrieved"]) == 3
        assert all(one.startswith(f"{serves[line['user_id']]}-") for one in line["retrieved"])
    for user, other in serves.items():
        served = [c for c in engine.calls if c.role == "answer" and f"{user}'s new film" in c.user]
        assert len(served) == 2 and all(newest[other]["text"] in call.system for call in served)
    # Learning is each user's own: only serving is swapped.
    assert all(one.startswith(f"{user}-") for user, p in newest.items() for one in p["learnt_from"])


def test_a_swap_needs_two_users(options: Make, engine: Any) -> None:
    with pytest.raises(InputError, match=r"--control swap needs at least 2 users, but .* gives 1"):
        with Study(options(control="swap", users=1)):
            pass


def test_without_alignment_a_persona_still_has_its_users_profile(run_study: Run, options: Make, engine: Any) -> None:
    run_study(options(axes=((0,), (1,), (0,))))
    answers = [call for call in engine.calls if call.role == "answer"]
    assert len(answers) == 6 and all(re.search(r"What is known of this user: Profile \w+\.", c.system) for c in answers)


def test_profile_off_asks_for_none(run_study: Run, options: Make, engine: Any) -> None:
    run_study(options(axes=((0,), (1,), (0,)), profile=False))
    assert engine.roles() == {"answer": 6}
    assert {row["profile_lm_calls"] for row in results(options().out)} == {"0"}


def test_the_most_active_users_are_taken_ties_by_id_as_text(
    run_study: Run, options: Make, users_folder: Any, read_jsonl: Any
) -> None:
    users_folder({"u2": (3, 1), "u9": (3, 1), "u10": (3, 1), "idle": (1, 1), "busy": (4, 1), "mute": (9, 0)})
    run_study(options(axes=((0,), (1,), (0,))))
    assert [line["user_id"] for line in read_jsonl(options().out / "predictions.jsonl")] == ["busy", "u10", "u2"]


def test_values_that_no_cell_has_are_named(run_study: Run, options: Make, capsys: Any) -> None:
    assert run_study(options(axes=((0, 2), (1, 2), (3,)), grid=False)) == 0
    assert "note: E=2 is in no cell" in " ".join(capsys.readouterr().out.split())


def test_answers_that_are_no_label_of_the_task_are_named(
    run_study: Run, options: Make, users_folder: Any, capsys: Any
) -> None:
    file = users_folder() / "user_top_100_history.json"
    file.write_text(file.read_text().replace(json.dumps(LAMP_2M.labels[0]), json.dumps("opera")))
    assert run_study(options(axes=((0,), (1,), (0,)))) == 0
    assert "hold answers that are no label of the task, such as 'opera'" in " ".join(capsys.readouterr().out.split())


def test_fewer_users_than_asked_for_is_said(run_study: Run, options: Make, capsys: Any) -> None:
    assert run_study(options(users=20)) == 0
    assert {row["users"] for row in results(options().out)} == {"3"}
    assert re.search(r"note: lamp-2m: 20 users were asked for and \S+ has 3\n", capsys.readouterr().out)


def test_all_queries_or_the_first_so_many(run_study: Run, options: Make, tmp_path: Path) -> None:
    axes = ((0,), (1,), (0,))
    run_study(options(axes=axes, queries_per_user=1, out=tmp_path / "first"))
    run_study(options(axes=axes, queries_per_user=None, out=tmp_path / "all"))
    first = [json.loads(line)["id"] for line in (tmp_path / "first" / "predictions.jsonl").read_text().splitlines()]
    assert first == ["ann-q0", "bob-q0", "cleo-q0"]
    assert results(tmp_path / "all")[0]["queries"] == "6"


def test_another_lm_for_gradient_and_update(run_study: Run, options: Make, engine: Any) -> None:
    models: list[tuple[str, str]] = []
    usual = engine.complete
    engine.complete = lambda request: (models.append((request.model, "")), usual(request))[1]
    assert run_study(options(align_lm="scripted/critic", axes=((2,), (1,), (0,)))) == 0
    roles = [(model, call.role) for (model, _), call in zip(models, engine.calls, strict=True)]
    assert {model for model, role in roles if role in ("gradient", "update")} == {"scripted/critic"}
    assert {model for model, role in roles if role not in ("gradient", "update")} == {"scripted/one"}
    assert {row["align_lm"] for row in results(options().out)} == {"scripted/critic"}


def test_other_prompts_are_the_ones_that_are_sent(run_study: Run, options: Make, engine: Any) -> None:
    prompts = Prompts("Serve: {profile}", "GRADIENT.", "UPDATE.", "RECALL.", None, "SUMMARY.", "abc")
    assert run_study(options(prompts=prompts, axes=((2,), (1,), (3,)))) == 0
    said = {"gradient": "GRADIENT.", "update": "UPDATE.", "summary": "SUMMARY.", "step": "RECALL."}
    assert all(said[call.role] in call.system for call in engine.calls if call.role in said)
    assert {row["prompts"] for row in results(options().out)} == {"abc"}


def test_another_task_needs_data(options: Make, engine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(TASKS, "lamp-9x", replace(LAMP_2M, name="lamp-9x"))
    with pytest.raises(InputError, match=r"--tasks lamp-9x needs --data, a folder"):
        Study(options(tasks=("lamp-9x",), data=None))


# -- dry run --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"axes": ((0, 1, 4), (1,), (0, 1, 3)), "profile": False},
        {"axes": ((0, 3), (1,), (3,)), "control": "swap"},
        {"axes": ((0, 2, 3), (1,), (0, 3)), "grid": False},
    ],
    ids=str,
)
def test_a_dry_run_projects_what_the_offline_reader_is_then_run_study(
    run_study: Run, options: Make, tmp_path: Path, capsys: Any, changes: dict[str, Any]
) -> None:
    before = sorted(tmp_path.rglob("*"))
    assert run_study(options(lm="offline", dry_run=True, **changes)) == 0
    assert sorted(tmp_path.rglob("*")) == before
    said = capsys.readouterr().out
    total = int(re.search(r"about ([\d,]+) LM calls", said).group(1).replace(",", ""))  # type: ignore[union-attr]
    lines = [re.findall(r"[\d,]+k?", line) for line in said.splitlines() if line.startswith("│")]
    # n, E, K, then calls and tokens of each phase: the tokens are an estimate.
    table = [tuple(int(x.replace(",", "")) for x in [*line[:3], *line[3::2]]) for line in lines]
    assert run_study(options(lm="offline", **changes)) == 0
    columns = ("batch_size", "iterations", "memories", "profile_lm_calls", "align_lm_calls", "serve_lm_calls")
    assert sorted(table) == [tuple(int(row[name]) for name in columns) for row in results(options().out)]
    units = (options().out / "journal.jsonl").read_text().splitlines()
    assert total == sum(json.loads(unit)["lm_calls"] for unit in units)


def test_a_dry_run_makes_no_call_and_counts_a_user_without_history_as_nothing_to_align(
    run_study: Run, options: Make, engine: Any, users_folder: Any, capsys: Any, monkeypatch: Any
) -> None:
    users_folder({"new": (1, 1)})

    def cut(source: Any, selection: Any) -> list[User]:
        return [cut_history(user, 0) for user in chosen_users(source, selection)]

    monkeypatch.setattr(study_module, "chosen_users", cut)
    assert run_study(options(users=1, axes=((2,), (1,), (3,)), dry_run=True)) == 0
    assert engine.calls == []
    assert "about 3 LM calls" in " ".join(capsys.readouterr().out.split())


def test_a_dry_run_of_a_search_shows_what_it_chooses_from(run_study: Run, options: Make, capsys: Any) -> None:
    axes = ((0, 3), (1, 2), (0, 4))
    assert run_study(options(lm="offline", axes=axes, grid=False, search=2, dry_run=True)) == 0
    said = capsys.readouterr().out
    assert sum(line.startswith("│") for line in said.splitlines()) == 6
    assert "--search 2 runs so many of these cells" in said
