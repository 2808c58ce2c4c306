"""The LaMP tasks, declared: one entry a task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import dspy

from personaagent.datasets.lamp.metrics import classification
from personaagent.datasets.lamp.parse import parse_label
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction

LAMP_2M_LABELS = (
    "sci-fi",
    "based on a book",
    "comedy",
    "action",
    "twist ending",
    "dystopia",
    "dark comedy",
    "classic",
    "psychology",
    "fantasy",
    "romance",
    "thought-provoking",
    "social commentary",
    "violence",
    "true story",
)


@dataclass(frozen=True)
class LabelTask:
    """A LaMP task whose answer is one of a list of labels. See `datasets.task.Task`."""

    name: str
    title: str
    folder: str
    """OPPU's name of the task's folder."""
    labels: tuple[str, ...]
    question: str
    """The official input string, with `{text}` for the item's text."""
    text_field: str
    """Field of a profile item that its question asks about."""
    corpus_fields: tuple[str, ...]
    """Fields of a profile item that retrieval compares, joined by a space (the official corpus)."""
    label_field: str
    instruction: str
    """What the agent is told to do."""
    summary_instruction: str
    metrics: tuple[str, ...] = ("accuracy", "f1")
    higher_is_better: bool = True

    @property
    def signature(self) -> type[dspy.Signature]:
        return dspy.Signature("query: str -> answer: str", self.instruction)

    def interaction(self, user_id: str, item: Mapping[str, Any], ordinal: int) -> Interaction:
        for name in dict.fromkeys(("id", self.text_field, *self.corpus_fields, self.label_field)):
            if name not in item:
                raise InputError(f"field {name!r} is missing")
            wrong = not isinstance(item[name], str | int) or isinstance(item[name], bool)
            if wrong or not str(item[name]).strip():
                raise InputError(f"field {name!r} must be text and not empty, but is {item[name]!r}")
        text, label = str(item[self.text_field]), str(item[self.label_field])
        query = self.question.format(text=text)
        date = item.get("date", "")
        corpus = " ".join(str(item[name]) for name in self.corpus_fields)
        return Interaction(user_id, str(item["id"]), query, label, date, ordinal, text=corpus)

    def parse(self, raw: str) -> str | None:
        return parse_label(raw, self.labels)

    def evaluate(self, golds: Sequence[str], predictions: Sequence[str | None]) -> dict[str, float]:
        return classification(golds, predictions, self.labels)

    def worst(self, gold: str) -> str | None:
        return None


LAMP_2M = LabelTask(
    name="lamp-2m",
    title="LaMP-2M, personalized movie tagging",
    folder="movie_tagging",
    labels=LAMP_2M_LABELS,
    question=(
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
        f"further explanation. tags: [{', '.join(LAMP_2M_LABELS)}] description: {{text}}"
    ),
    text_field="description",
    corpus_fields=("description",),
    label_field="tag",
    instruction="Give the tag that this user would give to the movie: one of the tags in the query, and nothing else.",
    # S_t of PAG for this task (Richardson et al. 2023, as OPPU words it), in our own words.
    summary_instruction=(
        "The history lists movies and the tag that this user gave to each. Say which tag the user gives most "
        "often and which kinds of movies get which tag, in at most five short sentences and nothing else."
    ),
)

LAMP_2N_LABELS = (
    "food & drink",
    "sports",
    "education",
    "parents",
    "religion",
    "travel",
    "business",
    "crime",
    "science & technology",
    "culture & arts",
    "entertainment",
    "politics",
    "women",
    "style & beauty",
    "healthy living",
)

LAMP_2N = LabelTask(
    name="lamp-2n",
    title="LaMP-2N, personalized news categorization",
    folder="news_categorize",
    labels=LAMP_2N_LABELS,
    question=(
        "Which category does this article relate to among the following categories? Just answer with the category "
        f"name without further explanation. categories: [{', '.join(LAMP_2N_LABELS)}] article: {{text}}"
    ),
    text_field="text",
    corpus_fields=("title", "text"),
    label_field="category",
    instruction=(
        "Give the category that this author would give to the article: one of the categories in the query, and "
        "nothing else."
    ),
    summary_instruction=(
        "The history lists articles and the category that this author gave to each. Say which category the author "
        "writes in most often and which kinds of articles get which category, in at most five short sentences and "
        "nothing else."
    ),
)

TASKS: dict[str, LabelTask] = {task.name: task for task in (LAMP_2M, LAMP_2N)}


def task_named(name: str) -> LabelTask:
    """The task of this name.

    Raises:
        InputError: naming the tasks there are.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; the tasks are: {', '.join(sorted(TASKS))}")
    return TASKS[name]
