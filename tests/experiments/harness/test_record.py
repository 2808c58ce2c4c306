"""study.json: one study's settings, cells and runs, whoever wrote what in between."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from personaagent.experiments.harness.cells import Cell
from personaagent.experiments.harness.record import Record
from personaagent.programs.errors import InputError, StoreError

SETTINGS: dict[str, Any] = {"script": "scale", "users": 3, "prompt texts": "a" * 64, "labels": []}
ONE = Cell("lamp-2m", "persona-agent", "some/lm", 3, 1, 4)
TWO = replace(ONE, memories=0)


def stored(out: Path) -> dict[str, Any]:
    return dict(json.loads((out / "study.json").read_text()))


def opened(out: Path, **changes: Any) -> Record:
    record = Record(out, {**SETTINGS, **changes})
    record.begin_run()
    return record


# -- settings -------------------------------------------------------------------------------------


def test_nothing_is_written_before_the_first_writing(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.ask([ONE])
    assert not record.existed and not list(tmp_path.iterdir())
    record.write({"lm_calls": 3})
    assert stored(tmp_path)["cells"] == [ONE.to_dict()]
    assert Record(tmp_path, SETTINGS).existed


def test_its_id_is_its_own_and_stays(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir(), (tmp_path / "b").mkdir()
    records = [opened(tmp_path / name) for name in "ab"]
    for record in records:
        record.write({})
    assert records[0].id != records[1].id
    assert Record(tmp_path / "a", SETTINGS).id == records[0].id


def test_what_differs_is_named_and_what_only_one_has_is_not(tmp_path: Path) -> None:
    opened(tmp_path).write({})
    before = (tmp_path / "study.json").read_bytes()
    with pytest.raises(InputError) as caught:
        Record(tmp_path, {**SETTINGS, "users": 2, "prompt texts": "b" * 64, "new": 1})
    assert str(caught.value).splitlines() == [
        f"{tmp_path} holds a study with other settings:",
        "  users: 3 there, 2 now",
        "  prompt texts: aaaaaaaaaaaa… there, bbbbbbbbbbbb… now",
        "Give this one another --out, or drop --out for a folder of its own.",
    ]
    assert (tmp_path / "study.json").read_bytes() == before
    opened(tmp_path, new=1).write({})
    assert stored(tmp_path)["settings"] == {**SETTINGS, "new": 1}, "a setting of a later version is taken up"


def test_settings_that_come_later_are_checked_too(tmp_path: Path) -> None:
    """The data of a task that only an earlier run asked for."""
    opened(tmp_path, **{"data lamp-3": "a"}).write({})
    record = Record(tmp_path, SETTINGS)
    record.check({"data lamp-3": "a", "data lamp-1": "c"})
    with pytest.raises(InputError, match=r"other settings:\n  data lamp-3: 'a' there, 'b' now\n"):
        record.check({"data lamp-3": "b"})


@pytest.mark.parametrize(
    "content",
    [
        *("", "[", "[]", "3", '"x"', "{}", "\ud800", '{"settings": {}}', '{"settings": [1], "cells": []}'),
        *('{"settings": {}, "cells": [{"task": 1}]}', '{"settings": {}, "cells": [], "matrix": [3]}'),
        *('{"settings": {}, "cells": [], "runs": [3]}', '{"settings": {}, "cells": [], "runs": 3}'),
    ],
    ids=range(13),
)
def test_another_file_is_refused_as_it_is(tmp_path: Path, content: str) -> None:
    (tmp_path / "study.json").write_bytes(content.encode("utf-8", "surrogatepass"))
    with pytest.raises(InputError, match=r"study\.json: not a study's record \(.*\); use another --out"):
        Record(tmp_path, SETTINGS)


def test_a_folder_in_its_place_is_one_error(tmp_path: Path) -> None:
    (tmp_path / "study.json").mkdir()
    with pytest.raises(StoreError, match=r"study\.json: cannot be read: Is a directory"):
        Record(tmp_path, SETTINGS)


def test_one_of_an_earlier_version_has_no_matrix_and_may_lack_runs(tmp_path: Path) -> None:
    cells = [{"task": "lamp-2m", "method": "persona-agent", "lm": "x", "batch_size": 0, "iterations": 0, "memories": 4}]
    (tmp_path / "study.json").write_text(json.dumps({"settings": {"users": 3}, "cells": cells}))
    record = opened(tmp_path)
    assert record.matrix == [] and [cell.history for cell in record.cells] == ["all"]
    record.write({"lm_calls": 1})
    assert len(stored(tmp_path)["runs"]) == 1 and len(record.id) == 32


# -- cells ----------------------------------------------------------------------------------------


def test_cells_are_kept_in_the_order_of_asking_each_once(tmp_path: Path) -> None:
    record = opened(tmp_path)
    assert record.ask([TWO, ONE, TWO]) == ([TWO, ONE], [])
    assert record.ask([ONE], [ONE, ONE]) == ([], [ONE])
    assert record.ask([ONE], [ONE]) == ([], [])
    record.write({})
    again = opened(tmp_path)
    assert (again.cells, again.matrix) == ([TWO, ONE], [ONE])
    assert again.ask([replace(ONE, seed=1)]) == ([replace(ONE, seed=1)], [])


def test_a_study_without_a_matrix_has_none_in_its_file(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.ask([ONE])
    record.forget([TWO], [TWO])
    record.write({})
    assert "matrix" not in stored(tmp_path)


def test_what_is_forgotten_is_as_if_it_had_not_been_asked_for(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.ask([ONE, TWO], [ONE, TWO])
    record.forget([TWO], [ONE])
    assert (record.cells, record.matrix) == ([ONE], [TWO])
    assert record.ask([TWO], [ONE]) == ([TWO], [ONE])


# -- runs -----------------------------------------------------------------------------------------


def test_each_run_writes_its_own_account_beside_the_others(tmp_path: Path) -> None:
    for calls in (3, 5):
        record = opened(tmp_path)
        record.write({"lm_calls": 0, "complete": False})
        record.write({"lm_calls": calls, "complete": True})
    assert stored(tmp_path)["runs"] == [{"lm_calls": n, "complete": True} for n in (3, 5)]


def test_a_file_that_cannot_be_written_leaves_the_old_one(tmp_path: Path) -> None:
    record = opened(tmp_path)
    record.write({"lm_calls": 1})
    before = (tmp_path / "study.json").read_bytes()
    (tmp_path / "study.json.tmp").mkdir()
    with pytest.raises(StoreError, match=r"study\.json: cannot be written"):
        record.write({"lm_calls": 2})
    assert (tmp_path / "study.json").read_bytes() == before


RUNS: list[tuple[list[dict[str, Any]], tuple[tuple[str, ...], bool]]] = [
    ([{}], ((), False)),
    ([{"lm_calls": 3}], ((), True)),
    ([{"lm_calls": 3, "replay": "a.jsonl"}], (("a.jsonl",), False)),
    ([{"lm_calls": 3, "replay": "a.jsonl"}, {"lm_calls": 0}], (("a.jsonl",), False)),
    ([{"lm_calls": 3}, {"lm_calls": 0, "replay": "a.jsonl"}], ((), True)),
    ([{"lm_calls": 1, "replay": name} for name in "aba"] + [{"lm_calls": 1}], (("a", "b"), True)),
]


@pytest.mark.parametrize(("runs", "expected"), RUNS, ids=range(len(RUNS)))
def test_who_answered_is_told_by_the_runs_that_took_calls(
    tmp_path: Path, runs: list[dict[str, Any]], expected: tuple[tuple[str, ...], bool]
) -> None:
    for run in runs:
        opened(tmp_path).write(run)
    record = Record(tmp_path, SETTINGS)
    assert (record.replays, record.has_asked) == expected
