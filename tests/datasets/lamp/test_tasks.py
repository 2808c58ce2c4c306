"""The declared tasks."""

from __future__ import annotations

from typing import Any

import pytest

from personaagent.datasets.lamp.tasks import LAMP_2M, LAMP_2N, TASKS, LabelTask, task_named
from personaagent.datasets.task import Task
from personaagent.programs.errors import InputError

ITEM = {"id": "7", "description": "Two bakers {share} an oven.", "tag": "comedy", "date": "2009-05-01"}


@pytest.mark.parametrize("name", TASKS)
def test_a_task_keeps_the_promises_of_one(name: str) -> None:
    task = task_named(name)
    assert isinstance(task, Task) and task.name == name
    assert list(task.signature.input_fields) == ["query"] and list(task.signature.output_fields) == ["answer"]
    assert task.signature.output_fields["answer"].annotation is str, "what an LM writes is read by parse"
    assert task.signature.instructions == task.instruction
    assert len(set(task.labels)) == len(task.labels) > 1
    assert all(task.parse(label) == label for label in task.labels)
    assert set(task.evaluate(list(task.labels), list(task.labels))) == set(task.metrics)
    assert task.evaluate([task.labels[0]], [task.worst(task.labels[0])])[task.metrics[0]] == 0.0


def test_an_unknown_task_is_refused_with_the_names_there_are() -> None:
    with pytest.raises(InputError, match=r"unknown task 'lamp-99'; the tasks are: .*lamp-2m"):
        task_named("lamp-99")


def test_an_item_of_a_profile_becomes_an_interaction() -> None:
    got = LAMP_2M.interaction("u", ITEM, 4)
    assert (got.user_id, got.id, got.ordinal, got.timestamp) == ("u", "7", 4, "2009-05-01")
    assert got.response == "comedy" and got.text == ITEM["description"]
    assert got.query.endswith("description: Two bakers {share} an oven.")
    assert f"tags: [{', '.join(LAMP_2M.labels)}]" in got.query
    assert "comedy" not in got.text, "retrieval never compares labels"


def test_an_item_without_a_date_is_of_an_unknown_time() -> None:
    assert LAMP_2M.interaction("u", {k: v for k, v in ITEM.items() if k != "date"}, 0).timestamp == ""


def test_numbers_as_ids_and_labels_are_text() -> None:
    got = LAMP_2M.interaction("u", {**ITEM, "id": 7, "tag": 3}, 0)
    assert (got.id, got.response) == ("7", "3")


@pytest.mark.parametrize("name", ["id", "description", "tag"])
def test_a_missing_field_is_named(name: str) -> None:
    with pytest.raises(InputError, match=f"^field '{name}' is missing$"):
        LAMP_2M.interaction("u", {k: v for k, v in ITEM.items() if k != name}, 0)


@pytest.mark.parametrize("name", ["id", "description", "tag"])
@pytest.mark.parametrize("value", ["", "  ", None, [], {}, 1.5])
def test_a_field_of_a_wrong_type_is_named(name: str, value: Any) -> None:
    with pytest.raises(InputError, match=f"^field '{name}' must be text and not empty, but is "):
        LAMP_2M.interaction("u", {**ITEM, name: value}, 0)


@pytest.mark.parametrize("date", ["yesterday", "2009-13-01", None, ["2009"]])
def test_a_date_that_is_none_is_refused(date: Any) -> None:
    with pytest.raises(InputError, match="timestamp"):
        LAMP_2M.interaction("u", {**ITEM, "date": date}, 0)


def test_a_task_is_data_and_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        LAMP_2M.name = "other"  # type: ignore[misc]
    assert isinstance(LAMP_2M, LabelTask) and hash(LAMP_2M) == hash(TASKS["lamp-2m"])


def test_the_corpus_of_news_is_title_and_text_and_its_question_the_text() -> None:
    item = {"id": "1", "title": "Bread", "text": "Two bakers meet.", "category": "food & drink", "date": "2009-05-01"}
    got = LAMP_2N.interaction("u", item, 0)
    assert (got.text, got.response) == ("Bread Two bakers meet.", "food & drink")
    assert got.query.endswith("] article: Two bakers meet.")
    with pytest.raises(InputError, match="field 'title' is missing"):
        LAMP_2N.interaction("u", {k: v for k, v in item.items() if k != "title"}, 0)
    assert LAMP_2N.parse("I would say Food & Drink.") == "food & drink"
