"""The declared tasks, against the official templates, and as DSPy's optimizers call them."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import dspy
import pytest

from personaagent.datasets.lamp.tasks import (
    LAMP_1,
    LAMP_2M,
    LAMP_2M_LABELS,
    LAMP_2N,
    LAMP_2N_LABELS,
    LAMP_3,
    LAMP_4,
    LAMP_5,
    TASKS,
    LampTask,
    task_named,
)
from personaagent.datasets.task import Task
from personaagent.programs.errors import InputError

ITEM = {"id": "7", "description": "Two bakers {share} an oven.", "tag": "comedy", "date": "2009-05-01"}


# --- what every task promises ----------------------------------------------------------------------


def test_the_six_tasks_are_there_by_name() -> None:
    assert list(TASKS) == ["lamp-1", "lamp-2m", "lamp-2n", "lamp-3", "lamp-4", "lamp-5"]
    assert all(task_named(name).name == name for name in TASKS)
    folders = {(task.folder, task.directory) for task in TASKS.values()}
    assert folders == {
        ("citation", "LaMP_1"),
        ("movie_tagging", "LaMP_2/new"),
        ("news_categorize", "LaMP_2"),
        ("product_rating", "LaMP_3"),
        ("news_headline", "LaMP_4"),
        ("scholarly_title", "LaMP_5"),
    }


def test_a_task_keeps_the_promises_of_one(each_task: LampTask) -> None:
    task = each_task
    assert isinstance(task, Task)
    assert list(task.signature.input_fields) == ["query"] and list(task.signature.output_fields) == ["answer"]
    assert task.signature.output_fields["answer"].annotation is str, "what an LM writes is read by parse"
    assert task.signature.instructions == task.instruction
    answers = task.labels or ("A title of some words", "Another one")
    assert len(set(answers)) == len(answers) > 1
    assert all(task.parse(answer) == answer for answer in answers)
    right = task.evaluate(list(answers), list(answers))
    assert tuple(right) == task.metrics and set(right.values()) == {1.0 if task.higher_is_better else 0.0}
    for answer in answers:
        worst = task.worst(answer)
        assert task.score(answer, answer) == (1.0 if task.higher_is_better else 0.0)
        assert task.score(answer, worst) == task.evaluate([answer], [worst])[task.metrics[0]]
        others = [task.score(answer, other) for other in (*answers, worst)]
        assert task.score(answer, worst) == (min(others) if task.higher_is_better else max(others))


def test_the_score_of_a_sample_averages_to_the_metric(each_task: LampTask) -> None:
    golds = list(each_task.labels or ("a b c", "d e", "f"))
    predictions = [None, *golds[:-1]]
    mean = sum(map(each_task.score, golds, predictions)) / len(golds)
    assert mean == pytest.approx(each_task.evaluate(golds, predictions)[each_task.metrics[0]])


@pytest.mark.parametrize("name", ["lamp-99", "", "LaMP-2M", "lamp_3"])
def test_an_unknown_task_is_refused_with_the_names_there_are(name: str) -> None:
    with pytest.raises(InputError, match=rf"^unknown task '{name}'; the tasks are: lamp-1, lamp-2m, .*lamp-5$"):
        task_named(name)


def test_a_task_is_data_and_cannot_be_changed() -> None:
    with pytest.raises(AttributeError):
        LAMP_2M.name = "other"  # type: ignore[misc]
    assert isinstance(LAMP_2M, LampTask) and hash(LAMP_2M) == hash(TASKS["lamp-2m"])


# --- the official templates ------------------------------------------------------------------------

ITEMS: dict[str, dict[str, Any]] = {
    "lamp-1": {"title": "T", "abstract": "A", "reference_1": "R1", "reference_2": "R2", "related": "[2]"},
    "lamp-2m": {"description": "D", "tag": "comedy"},
    "lamp-2n": {"title": "T", "text": "A", "category": "sports"},
    "lamp-3": {"text": "R", "score": "4"},
    "lamp-4": {"text": "A", "title": "T"},
    "lamp-5": {"title": "T", "abstract": "A"},
}
"""Of each task, beside id and date."""

OFFICIAL = {
    "lamp-1": (
        'For an author who has written the paper with the title "T", which reference is related? Just answer with [1] '
        'or [2] without explanation. [1]: "R1" [2]: "R2"'
    ),
    "lamp-2m": (
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without further "
        f"explanation. tags: [{', '.join(LAMP_2M_LABELS)}] description: D"
    ),
    "lamp-2n": (
        "Which category does this article relate to among the following categories? Just answer with the category "
        f"name without further explanation. categories: [{', '.join(LAMP_2N_LABELS)}] article: A"
    ),
    "lamp-3": (
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
        "further explanation. review: R"
    ),
    "lamp-4": "Generate a headline for the following article: A",
    "lamp-5": "Generate a title for the following abstract of a paper: A",
}

CORPORA = {"lamp-1": "T A", "lamp-2m": "D", "lamp-2n": "T A", "lamp-3": "R", "lamp-4": "T A", "lamp-5": "T A"}

RESPONSES = {"lamp-1": "[2]", "lamp-2m": "comedy", "lamp-2n": "sports", "lamp-3": "4", "lamp-4": "T", "lamp-5": "T"}


def test_questions_corpora_and_answers_are_the_official_ones(each_task: LampTask) -> None:
    item = {"id": "7", "date": "2009-05-01", **ITEMS[each_task.name]}
    got = each_task.interaction("u", item, 4)
    assert (got.user_id, got.id, got.ordinal, got.timestamp) == ("u", "7", 4, "2009-05-01")
    assert got.query == each_task.question.format_map(item) == OFFICIAL[each_task.name]
    assert (got.text, got.response) == (CORPORA[each_task.name], RESPONSES[each_task.name])
    assert set(each_task.fields) == {"id", *ITEMS[each_task.name]}


def test_the_labels_are_the_official_ones() -> None:
    assert LAMP_1.labels == ("[1]", "[2]") and LAMP_3.labels == ("1", "2", "3", "4", "5")
    assert len(LAMP_2M.labels) == len(LAMP_2N.labels) == 15 and not LAMP_4.labels and not LAMP_5.labels
    assert {"sci-fi", "based on a book", "true story"} < set(LAMP_2M.labels)
    assert {"food & drink", "culture & arts", "healthy living"} < set(LAMP_2N.labels)


@pytest.mark.parametrize(
    ("task", "values", "expected"),
    [
        (LAMP_1, {"title": 'A "quoted" title', "reference_1": "R one", "reference_2": "R two"}, "R one R two"),
        (LAMP_1, {"title": "T", "reference_1": 'On "x"', "reference_2": '"y": a [2] case'}, 'On "x" "y": a [2] case'),
        (LAMP_2M, {"description": " A film. Its description: a\nline. "}, "A film. Its description: a\nline."),
        (LAMP_2N, {"text": "An article: with colons, article: twice"}, "An article: with colons, article: twice"),
        (LAMP_3, {"text": "My review: good. On a scale of 1 to 5: 5"}, "My review: good. On a scale of 1 to 5: 5"),
        (LAMP_4, {"text": "News of an article: x"}, "News of an article: x"),
        (LAMP_5, {"abstract": "In this paper: we show"}, "In this paper: we show"),
    ],
)
def test_retrieval_compares_what_the_official_code_takes_out_of_a_question(
    task: LampTask, values: dict[str, str], expected: str
) -> None:
    assert task.retrieval_query(task.question.format_map(values)) == expected


def test_the_order_of_the_tags_in_a_question_does_not_matter() -> None:
    question = LAMP_2M.question.format(description="A ship near Saturn.")
    other = re.sub(r"\[.*\]", f"[{', '.join(reversed(LAMP_2M_LABELS))}]", question)
    assert LAMP_2M.retrieval_query(other) == LAMP_2M.retrieval_query(question) == "A ship near Saturn."


def test_a_question_of_another_form_is_compared_whole(each_task: LampTask) -> None:
    assert each_task.retrieval_query("What now?\nSay it.") == "What now?\nSay it."


# --- items -----------------------------------------------------------------------------------------


def test_an_item_of_a_profile_becomes_an_interaction() -> None:
    got = LAMP_2M.interaction("u", ITEM, 4)
    assert got.response == "comedy" and got.text == ITEM["description"]
    assert got.query == LAMP_2M.question.format(description=ITEM["description"]), "braces in a text are no fields"
    assert "comedy" not in got.text, "retrieval never compares labels"


def test_an_item_without_a_date_is_of_an_unknown_time() -> None:
    assert LAMP_2M.interaction("u", {k: v for k, v in ITEM.items() if k != "date"}, 0).timestamp == ""


def test_numbers_as_ids_labels_and_years_are_text() -> None:
    got = LAMP_2M.interaction("u", {**ITEM, "id": 7, "tag": 3, "date": 2010}, 0)
    assert (got.id, got.response, got.timestamp) == ("7", "3", "2010")


def both(task: LampTask, item: dict[str, Any]) -> list[Callable[[], Any]]:
    """What a loader asks first, and what makes the interaction."""
    return [lambda: task.check(item), lambda: task.interaction("u", item, 0)]


def test_a_missing_field_is_named(each_task: LampTask) -> None:
    item = {"id": "7", "date": "2009", **ITEMS[each_task.name]}
    each_task.check(item)
    for name in each_task.fields:
        calls = both(each_task, {k: v for k, v in item.items() if k != name})
        for call in calls[name in each_task.derived :]:
            with pytest.raises(InputError, match=f"^field '{name}' is missing$"):
                call()


def test_fields_that_a_loader_adds_are_not_asked_of_a_file() -> None:
    assert [task.name for task in TASKS.values() if task.derived] == ["lamp-1"]
    LAMP_1.check({"id": "1", "title": "T", "abstract": "A"})
    assert set(LAMP_1.derived) == {"reference_1", "reference_2", "related"} < set(LAMP_1.fields)


@pytest.mark.parametrize("name", ["id", "description", "tag"])
@pytest.mark.parametrize("value", [None, [], {}, 1.5, True])
def test_a_field_of_a_wrong_type_is_named(name: str, value: Any) -> None:
    for call in both(LAMP_2M, {**ITEM, name: value}):
        with pytest.raises(InputError, match=rf"^field '{name}' must be text.*, but is "):
            call()


@pytest.mark.parametrize("value", ["", "  "])
def test_an_id_and_an_answer_may_not_be_blank_and_a_text_may(value: str) -> None:
    for name in ("id", "tag"):
        for call in both(LAMP_2M, {**ITEM, name: value}):
            with pytest.raises(InputError, match=rf"^field '{name}' must be text and not empty, but is "):
                call()
    assert LAMP_2M.interaction("u", {**ITEM, "description": value}, 0).query.endswith("description: " + value)


def test_a_message_does_not_repeat_a_long_value() -> None:
    with pytest.raises(InputError) as caught:
        LAMP_2M.check({**ITEM, "description": ["x" * 1000] * 1000})
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("date", ["yesterday", "2009-13-01", "2009-02-29", None, ["2009"], True, 9.5, 20090501])
def test_a_date_that_is_none_is_refused(date: Any) -> None:
    for call in both(LAMP_2M, {**ITEM, "date": date}):
        with pytest.raises(InputError, match=r"^field 'date': timestamp"):
            call()


# --- the metric of DSPy's optimizers ---------------------------------------------------------------


def example(answer: str) -> dspy.Example:
    return dspy.Example(query="?", answer=answer).with_inputs("query")


@pytest.mark.parametrize(
    ("task", "gold", "answer", "score", "said"),
    [
        (LAMP_1, "[2]", "I would say [2].", 1.0, "Right"),
        (LAMP_2M, "comedy", "Comedy", 1.0, "Right"),
        (LAMP_2M, "comedy", "action", 0.0, "the user chose 'comedy'"),
        (LAMP_2N, "food & drink", "no idea", 0.0, "It must be one of: food & drink, "),
        (LAMP_3, "5", "5", 1.0, "Right"),
        (LAMP_3, "5", "4 stars", 0.75, "Too low by 1"),
        (LAMP_3, "1", "5", 0.0, "Too high by 4"),
        (LAMP_3, "5", "hard to say", 0.0, "no single number"),
        (LAMP_4, "Two bakers meet", "Two bakers meet", 1.0, "Right, word for word"),
        (LAMP_5, "Two bakers meet", "Some clerks part", 0.0, "The user wrote: Two bakers meet"),
    ],
)
def test_a_prediction_has_a_score_from_0_to_1_and_feedback(
    task: LampTask, gold: str, answer: str, score: float, said: str
) -> None:
    pred = dspy.Prediction(answer=answer)
    for result in (
        task.metric(example(gold), pred),
        task.metric(example(gold), pred, None, None, None),
        task.metric(example(gold), pred, [object()], "answer", [object()]),
        task.metric(example(gold), pred, trace=[], pred_name="answer"),
    ):
        assert isinstance(result, dspy.Prediction) and result.score == score and said in result.feedback
        assert type(result.score) is float
    for trace in ([], [object()]):
        alone = task.metric(example(gold), pred, trace)
        assert type(alone) is float and alone == score


def test_an_answer_that_is_none_is_wrong_and_is_told_so(each_task: LampTask) -> None:
    gold = (each_task.labels or ("A title",))[0]
    result = each_task.metric(example(gold), dspy.Prediction(answer=None))
    assert isinstance(result, dspy.Prediction) and result.score == 0.0 and gold in result.feedback


class Echo(dspy.Module):  # type: ignore[misc]
    """Answers a fixed text, by a predictor that a scripted LM serves."""

    def __init__(self) -> None:
        super().__init__()
        self.say = dspy.Predict(LAMP_2M.signature)

    def forward(self, query: str) -> Any:
        return self.say(query=query)


def saying(texts: dict[str, str]) -> Callable[[Any], dict[str, str]]:
    """A script that answers by the query's only word."""
    return lambda call: {"answer": next(text for key, text in texts.items() if key in call.user)}


SAID = {"query-a": "comedy", "query-b": "I say: action", "query-c": "nothing of that"}
TRAINSET = [
    dspy.Example(query=key, answer=gold).with_inputs("query")
    for key, gold in (("query-a", "comedy"), ("query-b", "romance"), ("query-c", "classic"))
]


def test_dspys_evaluation_averages_it(scripted: Callable[..., Any]) -> None:
    lm, _ = scripted(saying(SAID))
    with dspy.context(lm=lm):
        result = dspy.Evaluate(devset=TRAINSET, metric=LAMP_2M.metric, num_threads=1)(Echo())
    assert result.score == pytest.approx(100 / 3, abs=0.01)
    assert [float(score.score) for _, _, score in result.results] == [1.0, 0.0, 0.0]


def test_bootstrapping_keeps_right_answers_as_demonstrations_and_no_wrong_one(scripted: Callable[..., Any]) -> None:
    lm, _ = scripted(saying(SAID))
    with dspy.context(lm=lm):
        optimizer = dspy.BootstrapFewShot(metric=LAMP_2M.metric, max_labeled_demos=0, max_rounds=1)
        compiled = optimizer.compile(Echo(), trainset=TRAINSET)
    assert [demo["query"] for demo in compiled.say.demos] == ["query-a"]
