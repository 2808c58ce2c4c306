"""What `personalize` and `for_user` take: which fields are memory's, and what is refused with the rule it breaks."""

from __future__ import annotations

import asyncio
from typing import Any

import dspy
import pytest
from program_shapes import Classify, Hop, Rag, Scores

from personaagent.programs import MemoryStore, Persona, PersonaAgent, personalize
from personaagent.programs.errors import InputError


@pytest.fixture
def store(encoder: Any) -> MemoryStore:
    return MemoryStore(encoder=encoder)


# -- which fields ---------------------------------------------------------------------------------


class Explicit(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.ask = dspy.ChainOfThought("title, body -> verdict, reason")

    def forward(self, title: str, body: str = "") -> Any:
        return self.ask(title=title, body=body)


@pytest.mark.parametrize(
    ("make", "query", "response"),
    [
        (lambda: dspy.Predict("a, b -> c, d"), "a", "c"),
        (lambda: dspy.ChainOfThought("a, b -> c, d"), "a", "c"),
        (lambda: dspy.ChainOfThought(Classify), "text", "intent"),
        (lambda: dspy.ReAct("a, b -> c, d", tools=[]), "a", "c"),
        (lambda: dspy.MultiChainComparison("a, b -> c", M=2), "a", "c"),
        (lambda: dspy.BestOfN(dspy.ChainOfThought("a -> c"), 2, lambda *_: 1.0, 1.0), "a", "c"),
        (lambda: PersonaAgent("a, b -> c, d"), "a", "c"),
        (lambda: Explicit(), "title", "verdict"),
        (lambda: Rag(), "question", "response"),
    ],
)
def test_the_first_fields_are_memorys(make: Any, query: str, response: str) -> None:
    made = personalize(make())
    assert (made.query_field, made.response_field) == (query, response)


def test_fields_may_be_named(scripted: Any) -> None:
    made = personalize(dspy.Predict("a, b -> c, d"), query="b", response="d")
    assert (made.query_field, made.response_field) == ("b", "d")
    assert personalize(Hop(), response="titles").query_field == "claim"
    for arguments, says in (
        ({"query": "z"}, "query='z' is not a field of the program's signature; it has a, b"),
        ({"response": "z"}, "response='z' is not a field"),
    ):
        with pytest.raises(InputError, match=says):
            personalize(dspy.Predict("a, b -> c, d"), **arguments)


def test_what_cannot_be_told_must_be_said() -> None:
    class Anything(dspy.Module):
        def forward(self, **inputs: Any) -> Any:
            return inputs

    with pytest.raises(InputError, match=r"say with response=\.\.\. which of its outputs .* query, new_notes, titles"):
        personalize(Hop())
    with pytest.raises(InputError, match="names no argument: say with query="):
        personalize(Anything(), response="x")
    assert personalize(Anything(), query="q", response="x").query_field == "q"
    with pytest.raises(InputError, match="query='z' is not an argument of the program's forward; it has claim"):
        personalize(Hop(), query="z", response="titles")
    with pytest.raises(InputError, match="no forward"):
        personalize(dspy.Module(), response="x")


def test_a_signature_that_is_not_the_forwards_is_not_the_programs() -> None:
    class Holds(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.signature = Scores
            self.ask = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            return self.ask(question=question)

    made = personalize(Holds())
    assert (made.query_field, made.response_field) == ("question", "answer")


@pytest.mark.parametrize(
    ("program", "arguments", "says"),
    [
        ("no module", {}, "a program is a dspy.Module"),
        (Rag, {}, "a program is a dspy.Module"),
        (dspy.Predict("a -> b"), {"memories": -1}, "memories must be an integer from 0"),
        (personalize(dspy.Predict("a -> b")), {}, "personalised already"),
        (personalize(dspy.Predict("a -> b")).for_user("ann"), {}, "serves 'ann' already"),
        (PersonaAgent("a -> b").for_user("ann"), {}, "serves 'ann' already"),
    ],
)
def test_bad_arguments_say_the_rule(program: Any, arguments: Any, says: str) -> None:
    with pytest.raises(InputError, match=says):
        personalize(program, **arguments)


def test_a_program_that_has_one_way_to_be_called_says_which(scripted: Any) -> None:
    class Later(dspy.Module):
        async def aforward(self, question: str) -> Any:
            return dspy.Prediction(answer=question)

    class Now(dspy.Module):
        def forward(self, question: str) -> Any:
            return dspy.Prediction(answer=question)

    later, now = (personalize(program(), response="answer").for_user("ann") for program in (Later, Now))
    with dspy.context(lm=scripted()[0]):
        assert asyncio.run(later.acall(question="q?")).answer == now(question="q?").answer == "q?"
        with pytest.raises(InputError, match="Later, has no forward: use acall"):
            later(question="q?")
        with pytest.raises(InputError, match=r"Now, has no aforward: use a plain call, or dspy\.asyncify"):
            asyncio.run(now.acall(question="q?"))


def test_an_argument_with_a_default_is_no_input_of_the_signature() -> None:
    class Verbose(dspy.ReAct):
        def forward(self, question: str, verbose: bool = False) -> Any:
            return super().forward(question=question)

    handle = personalize(Verbose("question -> answer", tools=[])).for_user("ann")
    assert (handle.query_field, handle.response_field) == ("question", "answer")


def test_predictors_that_all_users_would_share_are_refused() -> None:
    class Many(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.steps = [dspy.Predict("question -> answer") for _ in range(300)]

        def forward(self, question: str) -> Any:
            return self.steps[0](question=question)

    with pytest.raises(InputError, match=r"all users would share steps\[0\]"):
        personalize(Many(), response="answer")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"user_id": 7}, "user_id must be text"),
        ({"user_id": "a\ud800"}, "user_id must be text that can be stored"),
        ({"persona": "be short"}, "persona must be a Persona"),
        ({"profile": 5}, "profile must be text"),
    ],
)
def test_a_handle_of_what_cannot_be_says_the_rule(store: MemoryStore, arguments: Any, says: str) -> None:
    for shared in (personalize(Rag(), store), PersonaAgent("query -> answer", store)):
        with pytest.raises(InputError, match=says):
            shared.for_user(**{"user_id": "ann", **arguments})
        for persona in (None, "be short"):
            with pytest.raises(InputError, match="persona must be a Persona"):
                shared.for_user("ann").with_persona(persona)  # type: ignore[arg-type]
    with pytest.raises(InputError, match="memory must be a store, such as MemoryStore"):
        personalize(Rag(), "sqlite:///memory.db")  # type: ignore[arg-type]


def test_what_answers_by_another_program_makes_no_handles(store: MemoryStore) -> None:
    demo = dspy.Example(question="q?", answer="a").with_inputs("question")
    optimizer = dspy.KNNFewShot(1, [demo], vectorizer=dspy.Embedder(lambda texts: [[1.0]] * len(texts)))
    handle = optimizer.compile(personalize(dspy.Predict("question -> answer"), store).for_user("ann"))
    for again in (lambda: handle.with_persona(Persona("x")), lambda: handle.as_of(None)):
        with pytest.raises(InputError, match="as KNNFewShot leaves it"):
            again()
    plain = optimizer.compile(dspy.Predict("question -> answer"))
    assert personalize(plain, store, query="question", response="answer").for_user("ann").as_of(None)
