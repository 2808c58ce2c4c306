"""Canaries: what a cell may not know changes no byte of its predictions but the gold itself.

Each answer holds a hash of its prompt, and so does every profile, note, gradient and persona: a canary that gets into
any prompt changes all that rests on it.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from marked_users import done, logs_of, write_logs

from personaagent.experiments.harness.methods.registry import EQUAL_COST, GROUPS
from personaagent.experiments.harness.results import prediction_line, samples
from personaagent.experiments.harness.settings import StudyOptions

Make = Callable[..., StudyOptions]
Lines = dict[tuple[str, str, str], str]
"""By method, history and id: a line of predictions.jsonl but for `gold` and `seconds`."""

ROWS = {"ann": 9, "bob": 9, "cat": 6}
"""Of which the first 6, 6 and 4 are histories. Ann is asked; the others are in icl's pool."""
SEES = {*GROUPS["all"], *EQUAL_COST} - {"prompt", "icl", "react-wiki"}
"""Who sees anything of the user's own history."""


@pytest.fixture
def predicted(engine: Any, options: Make, tmp_path: Path) -> Callable[..., tuple[Lines, set[str]]]:
    """Runs a study of all methods in a folder of its own: its lines, and the golds."""
    usual, runs = engine.script, iter(range(9))

    def hashing(call: Any) -> dict[str, str]:
        digest = hashlib.sha256(f"{call.system}{call.user}".encode()).hexdigest()
        return {name: f"{text} {digest}" if name == "answer" else text for name, text in usual(call).items()}

    engine.script = hashing

    def run(data: Path, **changes: Any) -> tuple[Lines, set[str]]:
        out = tmp_path / f"out-{next(runs)}"
        settings = {"methods": GROUPS["all"], "control": "equal-cost", "users": 1, "queries_per_user": 1, "out": out}
        lines, golds = {}, set()
        with done(logs_of(options, data, **{**settings, **changes})) as study:
            for cell in study.all_cells():
                for sample in samples(study, cell)[0]:
                    line = prediction_line(study, cell, sample)
                    golds.add(line["gold"])
                    known = {name: value for name, value in line.items() if name not in ("gold", "seconds")}
                    lines[cell.method, cell.history, line["id"]] = json.dumps(known)
        return lines, golds

    return run


def changed(path: Path, *texts: str) -> Path:
    """A copy of a file in which each of these texts is another one."""
    content = path.read_text()
    for text in texts:
        assert text in content
        content = content.replace(text, text.replace("-", "-canary-"))
    copy = path.with_name(f"changed-{path.name}")
    copy.write_text(content)
    return copy


def differing(one: Lines, other: Lines) -> dict[str, set[str]]:
    """The ids of the lines that differ, by method."""
    assert one.keys() == other.keys()
    found = defaultdict(set)
    for (method, history, id_), line in one.items():
        if other[method, history, id_] != line:
            found[method].add(id_)
    return dict(found)


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    return write_logs(tmp_path / "logs.jsonl", ROWS)


def test_golds_and_all_that_is_never_asked_change_nothing(predicted: Any, logs: Path) -> None:
    before, golds = predicted(logs)
    later = [f"{user}-{kind}{number}" for user, kind, number in product(("ann", "bob"), "qa", (6, 7, 8))]
    after, other_golds = predicted(changed(logs, *{*later, "cat-q4", "cat-a4", "cat-q5"} - {"ann-q6"}))
    assert len(before) == 16 and differing(before, after) == {}
    assert (golds, other_golds) == ({"It is ann-a6."}, {"It is ann-canary-a6."})
    # Nor is it that nothing could be seen.
    seen, _ = predicted(changed(logs, "ann-a5"))
    assert differing(before, seen) == {name: {"ann-6"} for name in SEES}


@pytest.mark.parametrize("layout", ["oppu", "time"])
def test_questions_and_interactions_that_come_later_change_nothing(predicted: Any, synthetic: Any, layout: str) -> None:
    data = synthetic("lamp-2m", layout)
    settings = {"tasks": ("lamp-2m",), "queries_per_user": 2, "axes": ((2,), (1,), (3,))}
    before, _ = predicted(data, **settings)
    [questions] = [path for path in data.rglob("*.json") if "outputs" not in path.name]
    entries = json.loads(questions.read_text())
    if layout == "oppu":
        for entry in entries:
            entry["query"].append({**entry["query"][0], "id": f"{entry['user_id']}-canary"})
    else:
        # A third question each, whose history goes on behind the second one.
        for entry in entries[1::2]:
            items = [{**item, "id": f"{item['id']}-canary", "date": "2011-01-01"} for item in entry["profile"]]
            entries.append({**entry, "id": f"{entry['user_id']}-canary", "profile": [*entry["profile"], *items]})
        [outputs] = data.rglob("*outputs.json")
        known = json.loads(outputs.read_text())
        known["golds"] += [{"id": entry["id"], "output": "comedy"} for entry in entries if "canary" in entry["id"]]
        outputs.write_text(json.dumps(known))
    questions.write_text(json.dumps(entries))
    after, _ = predicted(data, **settings)
    assert len(before) == 16 * 2 and differing(before, after) == {}


def test_of_a_walk_forward_the_last_answer_changes_nothing_and_the_one_before_only_what_comes_after(
    predicted: Any, logs: Path
) -> None:
    before, _ = predicted(logs, walk_forward=2)
    last, golds = predicted(changed(logs, "ann-a5"), walk_forward=2)
    assert {id_ for _, _, id_ in before} == {"ann-4", "ann-5"}
    assert differing(before, last) == {} and "It is ann-canary-a5." in golds
    earlier, golds = predicted(changed(logs, "ann-a4"), walk_forward=2)
    assert "It is ann-canary-a4." in golds
    assert differing(before, earlier) == {name: {"ann-5"} for name in SEES}


def test_what_is_older_than_a_short_history_changes_nothing_of_that_users(predicted: Any, logs: Path) -> None:
    """But it may change the examples that icl shows to others: who has a short history is the one who asks."""
    before, _ = predicted(logs, users=2, histories=("2", "all"))
    old = [f"ann-{kind}{number}" for kind, number in product("qa", range(4))]
    after, _ = predicted(changed(logs, *old), users=2, histories=("2", "all"))
    short, whole = (
        differing({k: v for k, v in before.items() if k[1] == cut}, {k: v for k, v in after.items() if k[1] == cut})
        for cut in ("2", "all")
    )
    assert short in ({}, {"icl": {"bob-6"}})
    # no-memory knows of a whole history what is in the batch.
    assert {name for name, ids in whole.items() if "ann-6" in ids} == SEES - {"no-memory"}
    assert short == {name: ids - {"ann-6"} for name, ids in whole.items() if ids - {"ann-6"}}


@pytest.mark.parametrize("walk_forward", [None, 2], ids=["queries", "walk-forward"])
def test_a_short_history_is_answered_alike_in_a_folder_that_holds_the_whole_one(
    predicted: Any, logs: Path, walk_forward: int | None
) -> None:
    alone, _ = predicted(logs, histories=("2",), walk_forward=walk_forward)
    beside, _ = predicted(logs, histories=("all", "2"), walk_forward=walk_forward)
    assert len(alone) == 16 * (walk_forward or 1) and alone.items() <= beside.items()
