"""The reader of LaMP's official layout: both splits, outputs that may be missing, and what it says of wrong files."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from personaagent.datasets.lamp.cache import StoredQuery
from personaagent.datasets.lamp.official import official_rows, outputs_file, questions_file
from personaagent.datasets.lamp.source import LampSource, open_lamp
from personaagent.datasets.lamp.tasks import LAMP_2M, LAMP_2N, LAMP_3, LAMP_4, LampTask
from personaagent.programs.errors import InputError

Change = Callable[[Any], object]
Make = Callable[..., Any]


def message(folder: Path, task: LampTask = LAMP_3) -> str:
    with pytest.raises(InputError) as caught:
        open_lamp(folder, task)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def ids(source: LampSource) -> dict[str, tuple[list[str], list[str]]]:
    """{user_id: (ids of the history, ids of the queries)}."""
    return {u.user_id: ([i.id for i in u.history], [q.id for q in u.queries]) for u in source.users()}


# --- what it takes ---------------------------------------------------------------------------------


def test_in_the_user_based_split_each_question_is_a_user_of_its_own(
    tmp_path: Path, question: Make, official: Make
) -> None:
    questions = [question(LAMP_3, "q1", ["a", "b"]), question(LAMP_3, "q2", ["b", "c"])]
    source = open_lamp(official(tmp_path, questions, {"q1": "5", "q2": "1"}), LAMP_3)
    assert ids(source) == {"q1": (["a", "b"], ["q1"]), "q2": (["b", "c"], ["q2"])}
    assert [user.queries[0].gold for user in source.users()] == ["5", "1"]


def test_in_the_time_based_split_a_users_questions_are_together(tmp_path: Path, question: Make, official: Make) -> None:
    questions = [
        question(LAMP_3, "q1", ["a", "b"], user=9013773),
        question(LAMP_3, "q2", ["c"], user="8"),
        question(LAMP_3, "q3", ["a", "b", "d"], user="9013773"),
    ]
    source = open_lamp(official(tmp_path, questions), LAMP_3)
    assert ids(source) == {"9013773": (["a", "b"], ["q1", "q3"]), "8": (["c"], ["q2"])}


def test_the_inputs_are_as_they_are_and_items_as_the_task_has_them(
    tmp_path: Path, each_task: LampTask, question: Make, official: Make
) -> None:
    questions = [question(each_task, f"q{n}", [f"a{n}", f"b{n}"], user=n) for n in range(2)]
    gold = each_task.labels[-1] if each_task.labels else "Some text"
    name = each_task.name.replace("lamp-", "LaMP_")
    source = open_lamp(official(tmp_path, questions, {"q0": gold, "q1": gold}, task=name), each_task)
    first = source.user("0")
    assert [(q.id, q.input, q.gold) for q in first.queries] == [("q0", questions[0]["input"], gold)]
    assert [(i.id, i.ordinal, i.timestamp, i.user_id) for i in first.history] == [
        ("a0", 0, "2010-01-01", "0"),
        ("b0", 1, "2010-01-01", "0"),
    ]
    for one, item in zip(first.history, questions[0]["profile"], strict=True):
        if not each_task.derived:
            assert one == each_task.interaction("0", item, one.ordinal or 0)
        assert one.text == each_task.corpus.format_map(item)


def test_outputs_are_optional_and_without_them_golds_are_empty(tmp_path: Path, question: Make, official: Make) -> None:
    source = open_lamp(official(tmp_path, [question(LAMP_3, "q1", ["a"])]), LAMP_3)
    assert [q.gold for q in source.user("q1").queries] == [""] and not source.table.golds


def test_golds_are_matched_by_id_in_whatever_order(tmp_path: Path, question: Make, official: Make) -> None:
    questions = [question(LAMP_3, f"q{n}", ["a"]) for n in range(1, 6)]
    golds = {f"q{n}": str(n) for n in (3, 1, 5, 2, 4)}
    source = open_lamp(official(tmp_path, questions, golds), LAMP_3)
    assert [user.queries[0].gold for user in source.users()] == ["1", "2", "3", "4", "5"]


def test_numbers_as_ids_and_golds_are_text(tmp_path: Path, question: Make, official: Make) -> None:
    folder = official(tmp_path, [{**question(LAMP_3, "x", ["a"]), "id": 91261}], {"91261": 5})
    [user] = open_lamp(folder, LAMP_3).users()
    assert (user.user_id, user.queries[0].id, user.queries[0].gold) == ("91261", "91261", "5")


def test_more_fields_than_needed_are_no_fault(tmp_path: Path, question: Make, official: Make) -> None:
    made = question(LAMP_3, "q", ["a"])
    made["profile"][0]["asin"] = {"deep": [1, None]}
    official(tmp_path, [{**made, "extra": None}], {"q": "1"})
    assert len(list(open_lamp(tmp_path, LAMP_3).users())) == 1


def test_the_reader_yields_a_record_at_a_time(tmp_path: Path, question: Make, official: Make) -> None:
    folder = official(tmp_path, [question(LAMP_3, "q1", ["a"], user=1), "no question"])
    rows = official_rows(folder / questions_file("dev"), LAMP_3, None)
    row = next(rows)
    assert (row.user_id, row.queries[0].id, row.queries[0].gold) == ("1", "q1", "")
    assert isinstance(row.queries[0], StoredQuery)
    with pytest.raises(InputError, match="question at index 1: expected an object, but found text, 'no question'"):
        next(rows)


@pytest.mark.parametrize(
    ("task", "said"),
    [
        (LAMP_3, "LaMP_3"),
        (LAMP_3, "lamp-3"),
        (LAMP_3, " LaMP_3 "),
        (LAMP_3, "another benchmark"),
        (LAMP_2M, "LaMP_2"),
        (LAMP_2M, "LaMP_2M"),
        (LAMP_2N, "LaMP_2"),
        (LAMP_2N, "LaMP-2-old"),
    ],
)
def test_an_outputs_file_may_name_its_task_in_many_ways(
    tmp_path: Path, question: Make, official: Make, task: LampTask, said: str
) -> None:
    official(tmp_path, [question(task, "q", ["a"])], {"q": task.labels[0]}, task=said)
    assert open_lamp(tmp_path, task).user_ids == ["q"]


# --- what it refuses -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("task", "said"), [(LAMP_3, "LaMP_4"), (LAMP_2M, "LaMP_2N"), (LAMP_2N, "LaMP_2M"), (LAMP_4, "lamp-2")]
)
def test_the_outputs_of_another_task_are_refused(
    tmp_path: Path, question: Make, official: Make, task: LampTask, said: str
) -> None:
    official(tmp_path, [question(task, "q", ["a"])], {"q": (task.labels or ("x",))[0]}, task=said)
    expected = f"{tmp_path / outputs_file('dev')}: field 'task' is {said!r}: these are not the answers of {task.name}"
    assert message(tmp_path, task) == expected


@pytest.mark.parametrize(
    ("golds", "said"),
    [
        ({"q1": "1"}, "1 questions have no gold, such as id 'q2'"),
        ({"q1": "1", "q2": "1", "q3": "1", "q0": "2"}, "2 golds have no question, such as id 'q0'"),
        (
            {"q1": "1", "other": "1"},
            "1 questions have no gold, such as id 'q2'; 1 golds have no question, such as id 'other'",
        ),
    ],
)
def test_ids_that_do_not_match_are_told_from_both_sides(
    tmp_path: Path, question: Make, official: Make, golds: dict[str, str], said: str
) -> None:
    official(tmp_path, [question(LAMP_3, "q1", ["a"]), question(LAMP_3, "q2", ["a"])], golds)
    assert message(tmp_path) == (
        f"{tmp_path / questions_file('dev')} and {tmp_path / outputs_file('dev')}: the ids do not match: {said}. "
        f"Are the two files of one download?"
    )


PLACE = "question at index 1 (id 'q2')"


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda q: q.__setitem__(1, 7), "question at index 1: expected an object, but found a number, 7"),
        (lambda q: q[1].pop("id"), "question at index 1: field 'id' is missing"),
        (lambda q: q[1].update(id=[]), "question at index 1: field 'id' must be text or a whole number and not empty"),
        (lambda q: q[1].update(id="q1"), "question at index 1 (id 'q1'): this id occurs twice"),
        (lambda q: q[1].pop("user_id"), f"{PLACE}: field 'user_id' is missing"),
        (lambda q: q[0].pop("user_id"), f"{PLACE}: field 'user_id' is there, and not in the questions before it"),
        (lambda q: q[1].update(user_id=1.5), f"{PLACE}: field 'user_id' must be text or a whole number"),
        (lambda q: q[1].pop("input"), f"{PLACE}: field 'input' is missing"),
        (lambda q: q[1].update(input=" "), f"{PLACE}: field 'input' must be text and not empty, but is text, ' '"),
        (lambda q: q[1].pop("profile"), f"{PLACE}: field 'profile' is missing"),
        (lambda q: q[1].update(profile=[]), f"{PLACE}: field 'profile' must be a list and not empty"),
        (lambda q: q[1].update(profile={"a": 1}), f"{PLACE}: field 'profile' must be a list and not empty"),
        (lambda q: q[1]["profile"].append(None), f"{PLACE}, profile item 2: expected an object, but found null"),
        (lambda q: q[1]["profile"][1].pop("score"), f"{PLACE}, profile item 1: field 'score' is missing"),
        (lambda q: q[1]["profile"][1].update(text=[]), f"{PLACE}, profile item 1: field 'text' must be text, but is"),
        (lambda q: q[1]["profile"][1].update(id="a"), f"{PLACE}, profile: id 'a' occurs twice"),
        (lambda q: q[1]["profile"][1].update(date="2010-02-30"), f"{PLACE}, profile item 1: field 'date': timestamp"),
        (lambda q: q[1]["profile"][1].update(date="May 2010"), f"{PLACE}, profile item 1: field 'date': timestamp"),
        (lambda q: q.clear(), "expected a list of questions and at least one, but found an empty list"),
    ],
)
def test_a_fault_is_named_with_its_place(
    tmp_path: Path, question: Make, official: Make, change: Change, expected: str
) -> None:
    questions = copy.deepcopy([question(LAMP_3, f"q{n}", ["a", "b"], user=n) for n in (1, 2)])
    change(questions)
    text = message(official(tmp_path, questions))
    assert text.startswith(f"{tmp_path / questions_file('dev')}: {expected}")


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"golds": {}}, "field 'golds' must be a list and not empty, but is an empty object"),
        ({"golds": []}, "field 'golds' must be a list and not empty, but is an empty list"),
        ({"task": "LaMP_3"}, "field 'golds' is missing"),
        ([{"id": "q", "output": "1"}], "expected an object with 'golds', but found a list"),
        ({"golds": [{"id": "q", "output": "6"}]}, "golds at index 0: gold '6' is not a rating: 1, 2, 3, 4, 5"),
        ({"golds": [{"id": "q", "output": 5.0}]}, "golds at index 0: field 'output' must be text or a whole number"),
        ({"golds": [{"id": "q"}]}, "golds at index 0: field 'output' is missing"),
        ({"golds": [{"output": "1"}]}, "golds at index 0: field 'id' is missing"),
        ({"golds": [{"id": "q", "output": "1"}] * 2}, "golds at index 1: id 'q' occurs twice"),
    ],
)
def test_a_fault_in_the_outputs_is_named_with_its_place(
    tmp_path: Path, question: Make, official: Make, content: Any, expected: str
) -> None:
    official(tmp_path, [question(LAMP_3, "q", ["a"])])
    (tmp_path / outputs_file("dev")).write_text(json.dumps(content))
    assert message(tmp_path).startswith(f"{tmp_path / outputs_file('dev')}: {expected}")


def test_questions_of_another_shape_are_refused(tmp_path: Path, official: Make) -> None:
    official(tmp_path, {"task": "LaMP_6", "golds": []})
    assert message(tmp_path).endswith("expected a list of questions and at least one, but found an object")


def test_another_tasks_questions_are_refused_by_name(tmp_path: Path) -> None:
    item = {"id": "1", "title": "Bread", "text": "Two bakers meet.", "category": "food & drink", "date": "2009-05-01"}
    asked = {"id": "q", "input": LAMP_2N.question.format(text="Rain."), "profile": [item], "user_id": "u"}
    (tmp_path / "dev_questions.json").write_text(json.dumps([asked]))
    with pytest.raises(InputError, match=r"question at index 0 \(id 'q'\): field 'input' asks a question of lamp-2n"):
        open_lamp(tmp_path, LAMP_4)
