"""The LaMP tasks, declared: one entry a task."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from string import Formatter
from typing import Any

import dspy

from personaagent.datasets.lamp.answers import LabelAnswers, RatingAnswers, ScoredTask, TextAnswers
from personaagent.datasets.lamp.records import kind
from personaagent.programs.errors import InputError
from personaagent.programs.interaction import Interaction, normalise_timestamp

_OPENING = 30
"""So many characters of a question tell whose it is, and hold nothing that varies within a task."""


@dataclass(frozen=True)
class LampTask(ScoredTask):
    """A LaMP task. See `datasets.task.Task`."""

    name: str
    title: str
    folder: str
    """OPPU's name of the task's folder."""
    directory: str
    """The official download's name of it."""
    question: str
    """The official input string, with an item's fields in braces."""
    corpus: str
    """What retrieval compares of an item, with its fields in braces (the official corpus: no tag, category or score
    is in it; titles are)."""
    answer_field: str
    query_pattern: str
    """Of the text of a question that retrieval compares with the corpus: the groups, joined by a space."""
    instruction: str
    """What the agent is told to do."""
    summary_instruction: str
    """S_t of PAG for this task (Richardson et al. 2023, as OPPU words it), in our own words."""
    derived: tuple[str, ...] = ()
    """Fields that no file has: a loader adds them to the items (`citation.py`)."""

    @property
    def signature(self) -> type[dspy.Signature]:
        # Never a Literal: DSPy would raise on what `parse` must see.
        return dspy.Signature("query: str -> answer: str", self.instruction)

    @cached_property
    def fields(self) -> tuple[str, ...]:
        """The fields that an item needs."""
        named = [name for text in (self.question, self.corpus) for _, name, _, _ in Formatter().parse(text) if name]
        return tuple(dict.fromkeys(("id", *named, self.answer_field)))

    def check(self, item: Mapping[str, Any]) -> None:
        """See that a profile item has its fields, and a date that is one if any.

        Raises:
            InputError: naming the field.
        """
        self._check(item, [name for name in self.fields if name not in self.derived])

    def _check(self, item: Mapping[str, Any], names: Sequence[str]) -> None:
        for name in names:
            if name not in item:
                raise InputError(f"field {name!r} is missing")
            # A text may be blank, as in real data: news without a description. An id and an answer may not.
            needed = name in ("id", self.answer_field)
            text = isinstance(item[name], str | int) and not isinstance(item[name], bool)
            if not text or (needed and not str(item[name]).strip()):
                expected = "text and not empty" if needed else "text"
                raise InputError(f"field {name!r} must be {expected}, but is {kind(item[name])}")
        try:
            normalise_timestamp(item.get("date", ""))
        except InputError as error:
            raise InputError(f"field 'date': {error}") from None

    def interaction(self, user_id: str, item: Mapping[str, Any], ordinal: int) -> Interaction:
        self._check(item, self.fields)
        values = {name: str(item[name]) for name in self.fields}
        query, corpus = self.question.format_map(values), self.corpus.format_map(values)
        date = item.get("date", "")
        return Interaction(user_id, values["id"], query, values[self.answer_field], date, ordinal, text=corpus.strip())

    def asks(self, question: str) -> bool:
        """Whether a question begins as the official ones of this task do."""
        return question.startswith(self.question[:_OPENING].partition("{")[0])

    def check_question(self, question: str) -> None:
        """See that a question is not another task's.

        Raises:
            InputError: naming that task.
        """
        if not self.asks(question):
            for other in TASKS.values():
                if other.asks(question):
                    raise InputError(f"field 'input' asks a question of {other.name}, not of {self.name}")

    def retrieval_query(self, question: str) -> str:
        """The part of a question that is compared with the corpus; all of it if it has not the official form."""
        parts = self.query_parts(question)
        return " ".join(parts) if parts else question

    def query_parts(self, question: str) -> tuple[str, ...]:
        """What `retrieval_query` joins: of LaMP-1 the titles of the two references. Empty without the official form."""
        found = re.search(self.query_pattern, question, re.DOTALL)
        return tuple(group.strip() for group in found.groups()) if found else ()


LAMP_1 = LampTask(
    name="lamp-1",
    title="LaMP-1, personalized citation identification",
    folder="citation",
    directory="LaMP_1",
    answers=LabelAnswers(("[1]", "[2]")),
    question=(
        'For an author who has written the paper with the title "{title}", which reference is related? Just answer '
        'with [1] or [2] without explanation. [1]: "{reference_1}" [2]: "{reference_2}"'
    ),
    corpus="{title} {abstract}",
    answer_field="related",
    # The second and third of the quoted strings: the titles of the two references, not the author's own.
    query_pattern=r'\[1\]: "(.*)" \[2\]: "(.*)"',
    instruction=(
        "Say which of the two references this author would cite in the paper: answer [1] or [2], and nothing else."
    ),
    summary_instruction=(
        "The history lists papers that this researcher has written. Sum up the researcher's topics and interests, in "
        "at most five short sentences and nothing else."
    ),
    derived=("reference_1", "reference_2", "related"),
)

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

LAMP_2M = LampTask(
    name="lamp-2m",
    title="LaMP-2M, personalized movie tagging",
    folder="movie_tagging",
    directory="LaMP_2/new",
    answers=LabelAnswers(LAMP_2M_LABELS),
    question=(
        "Which tag does this movie relate to among the following tags? Just answer with the tag name without "
        f"further explanation. tags: [{', '.join(LAMP_2M_LABELS)}] description: {{description}}"
    ),
    corpus="{description}",
    answer_field="tag",
    query_pattern=r"description:(.*)",
    instruction="Give the tag that this user would give to the movie: one of the tags in the query, and nothing else.",
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

LAMP_2N = LampTask(
    name="lamp-2n",
    title="LaMP-2N, personalized news categorization",
    folder="news_categorize",
    directory="LaMP_2",
    answers=LabelAnswers(LAMP_2N_LABELS),
    question=(
        "Which category does this article relate to among the following categories? Just answer with the category "
        f"name without further explanation. categories: [{', '.join(LAMP_2N_LABELS)}] article: {{text}}"
    ),
    corpus="{title} {text}",
    answer_field="category",
    query_pattern=r"article:(.*)",
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

LAMP_3 = LampTask(
    name="lamp-3",
    title="LaMP-3, personalized product rating",
    folder="product_rating",
    directory="LaMP_3",
    answers=RatingAnswers(),
    question=(
        "What is the score of the following review on a scale of 1 to 5? just answer with 1, 2, 3, 4, or 5 without "
        "further explanation. review: {text}"
    ),
    corpus="{text}",
    answer_field="score",
    query_pattern=r"review:(.*)",
    instruction="Give the score that this user gave with the review: 1, 2, 3, 4 or 5, and nothing else.",
    summary_instruction=(
        "The history lists reviews by this user and the score given with each. Say which scores the user gives most "
        "often, to what is praised and to what is criticised, in at most five short sentences and nothing else."
    ),
)

LAMP_4 = LampTask(
    name="lamp-4",
    title="LaMP-4, personalized news headline generation",
    folder="news_headline",
    directory="LaMP_4",
    answers=TextAnswers(),
    question="Generate a headline for the following article: {text}",
    corpus="{title} {text}",
    answer_field="title",
    query_pattern=r"article:(.*)",
    instruction="Write the headline that this author would give to the article. Write the headline and nothing else.",
    summary_instruction=(
        "The history lists articles and the headline that this author gave to each. Describe how the author writes "
        "headlines: length, wording, punctuation, what is named and what is left out. Be specific, in at most five "
        "short sentences and nothing else."
    ),
)

LAMP_5 = LampTask(
    name="lamp-5",
    title="LaMP-5, personalized scholarly title generation",
    folder="scholarly_title",
    directory="LaMP_5",
    answers=TextAnswers(),
    question="Generate a title for the following abstract of a paper: {abstract}",
    corpus="{title} {abstract}",
    answer_field="title",
    query_pattern=r"paper:(.*)",
    instruction="Write the title that this author would give to the paper. Write the title and nothing else.",
    summary_instruction=(
        "The history lists abstracts and the title that this author gave to each paper. Describe how the author "
        "writes titles: length, wording, punctuation, recurring patterns. Be specific, in at most five short "
        "sentences and nothing else."
    ),
)

TASKS: dict[str, LampTask] = {task.name: task for task in (LAMP_1, LAMP_2M, LAMP_2N, LAMP_3, LAMP_4, LAMP_5)}


def task_named(name: str) -> LampTask:
    """The task of this name.

    Raises:
        InputError: naming the tasks there are.
    """
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; the tasks are: {', '.join(sorted(TASKS))}")
    return TASKS[name]
