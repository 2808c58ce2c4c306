"""Ten shapes of DSPy programs, and what the contract suite asks of each. The first five are of DSPy's own tutorials.

Run as a script it loads programs that were saved elsewhere, and prints what they ask and answer.
"""

from __future__ import annotations

import importlib
import json
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import dspy
import pydantic

from personaagent.programs import Interaction, MemoryStore, Persona, PersonaAgent, personalize


def _fakes() -> Any:
    """conftest.py, as pytest has loaded it; in a script by its name."""
    path = str(Path(__file__).with_name("conftest.py"))
    loaded = [module for module in list(sys.modules.values()) if getattr(module, "__file__", None) == path]
    return loaded[0] if loaded else importlib.import_module("conftest")


_conftest = _fakes()
HashEncoder = _conftest.HashEncoder
ScriptedEngine, AsyncScriptedEngine = _conftest.ScriptedEngine, _conftest.AsyncScriptedEngine

USERS = ("ann", "bob", "cleo")
QUESTION = "what now, {user}?"
MARK = re.compile(r"\b(ann|bob|cleo)\b")
"""Any user's name: it is in the user's persona, questions, memory and nowhere else."""


def search(query: str) -> list[str]:
    """Search the passages."""
    return [f"passage on {query}"[:60]]


def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


# -- of DSPy's tutorials --------------------------------------------------------------------------


class Rag(dspy.Module):
    """Tutorial "Retrieval-Augmented Generation": a retriever that is a function, and one ChainOfThought."""

    def __init__(self) -> None:
        super().__init__()
        self.search = search
        self.respond = dspy.ChainOfThought("context, question -> response")

    def forward(self, question: str) -> dspy.Prediction:
        context = self.search(question)
        return self.respond(context=context, question=question)

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.respond.acall(context=self.search(question), question=question)


class Hop(dspy.Module):
    """Tutorial "Multi-Hop Retrieval": queries and notes in a loop, then an answer with several outputs."""

    def __init__(self, num_hops: int = 2) -> None:
        super().__init__()
        self.num_hops = num_hops
        self.generate_query = dspy.ChainOfThought("claim, notes -> query")
        self.append_notes = dspy.ChainOfThought("claim, notes, context -> new_notes: list[str], titles: list[str]")

    def forward(self, claim: str) -> dspy.Prediction:
        notes: list[str] = []
        titles: list[str] = []
        for _ in range(self.num_hops):
            query = self.generate_query(claim=claim, notes=notes).query
            found = self.append_notes(claim=claim, notes=notes, context=search(query))
            notes.extend(found.new_notes)
            titles.extend(found.titles)
        return dspy.Prediction(notes=notes, titles=titles)

    async def aforward(self, claim: str) -> dspy.Prediction:
        notes: list[str] = []
        titles: list[str] = []
        for _ in range(self.num_hops):
            query = (await self.generate_query.acall(claim=claim, notes=notes)).query
            found = await self.append_notes.acall(claim=claim, notes=notes, context=search(query))
            notes.extend(found.new_notes)
            titles.extend(found.titles)
        return dspy.Prediction(notes=notes, titles=titles)


class Classify(dspy.Signature):
    """Say what a customer wants."""

    text: str = dspy.InputField()
    urgent: bool = dspy.InputField(desc="whether it was marked as urgent")
    intent: Literal["card", "transfer", "other"] = dspy.OutputField()
    confidence: float = dspy.OutputField()


class Person(pydantic.BaseModel):
    name: str
    role: Literal["author", "editor"] | None = None


class Extract(dspy.Signature):
    """Extract all people of the tokens."""

    tokens: list[str] = dspy.InputField(desc="tokenised text")
    people: list[Person] = dspy.OutputField(desc="all people")


# -- others ---------------------------------------------------------------------------------------


class Scores(dspy.Signature):
    """Judge a draft."""

    draft: str = dspy.InputField()
    audience: Person | None = dspy.InputField(default=None)
    stars: int = dspy.OutputField()
    remark: str = dspy.OutputField()


class Article(dspy.Module):
    """Modules in a list and in a dictionary, one of them in both, and a predictor that is made on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.writers = [dspy.Predict("topic -> section"), dspy.ChainOfThought("topic -> section")]
        self.by_name = {"first": self.writers[0], "title": dspy.Predict("topic -> title")}

    def forward(self, topic: str) -> dspy.Prediction:
        sections = [writer(topic=topic).section for writer in self.writers]
        title = self.by_name["title"](topic=topic).title
        polished = dspy.Predict("sections: list[str] -> article")(sections=sections)
        return dspy.Prediction(title=title, article=polished.article)

    async def aforward(self, topic: str) -> dspy.Prediction:
        sections = [(await writer.acall(topic=topic)).section for writer in self.writers]
        title = (await self.by_name["title"].acall(topic=topic)).title
        polished = await dspy.Predict("sections: list[str] -> article").acall(sections=sections)
        return dspy.Prediction(title=title, article=polished.article)


class Chat(dspy.Module):
    """Keeps the conversation on itself, as programs that serve one user do."""

    def __init__(self) -> None:
        super().__init__()
        self.conversation = dspy.History(messages=[])
        self.reply = dspy.Predict("history: dspy.History, message -> reply")

    def forward(self, message: str) -> dspy.Prediction:
        said = self.reply(history=self.conversation, message=message)
        self.conversation.messages.append({"message": message, "reply": said.reply})
        return said

    async def aforward(self, message: str) -> dspy.Prediction:
        said = await self.reply.acall(history=self.conversation, message=message)
        self.conversation.messages.append({"message": message, "reply": said.reply})
        return said


class Desk(dspy.Module):
    """A classifier that hands on to an agent of DSPy's, whose tools are its own method and a function."""

    def __init__(self) -> None:
        super().__init__()
        self.route = dspy.Predict(Classify)
        self.agent = dspy.ReAct("text, intent -> answer, sources: list[str]", tools=[self.look_up, add], max_iters=4)

    def look_up(self, query: str) -> str:
        """Look into the manual."""
        return f"manual on {query}"

    def forward(self, text: str, urgent: bool = False) -> dspy.Prediction:
        return self.agent(text=text, intent=self.route(text=text, urgent=urgent).intent)

    async def aforward(self, text: str, urgent: bool = False) -> dspy.Prediction:
        intent = (await self.route.acall(text=text, urgent=urgent)).intent
        return await self.agent.acall(text=text, intent=intent)


class Assistant(dspy.Module):
    """A PersonaAgent behind another predictor."""

    def __init__(self, memory: MemoryStore) -> None:
        super().__init__()
        self.rephrase = dspy.Predict("question -> query")
        self.agent = PersonaAgent("query -> response", memory=memory, memories=2, tools=[add])

    def forward(self, question: str) -> dspy.Prediction:
        return self.agent(query=self.rephrase(question=question).query)

    async def aforward(self, question: str) -> dspy.Prediction:
        return await self.agent.acall(query=(await self.rephrase.acall(question=question)).query)


# -- the suite's own ------------------------------------------------------------------------------


@dataclass(frozen=True)
class Shape:
    """One program, and how it is asked."""

    make: Callable[[MemoryStore], dspy.Module]
    query: str
    response: str
    others: dict[str, Any] = field(default_factory=dict)
    """Its other inputs."""
    as_list: bool = False
    """Whether the query is a list of texts."""
    agents: tuple[str, ...] = ()
    """Where in the program its ReAct agents are."""

    def inputs(self, question: str) -> dict[str, Any]:
        return {self.query: question.split() if self.as_list else question, **self.others}

    def example(self, question: str, answer: str, **place: Any) -> dspy.Example:
        inputs = self.inputs(question)
        return dspy.Example(**inputs, **{self.response: answer}, **place).with_inputs(*inputs)


SHAPES: dict[str, Shape] = {
    "rag": Shape(lambda _: Rag(), "question", "response"),
    "multi-hop": Shape(lambda _: Hop(), "claim", "titles"),
    "classification": Shape(lambda _: dspy.ChainOfThought(Classify), "text", "intent", {"urgent": True}),
    "react": Shape(lambda _: dspy.ReAct("question -> answer", tools=[search, add]), "question", "answer", agents=("",)),
    "entities": Shape(lambda _: dspy.ChainOfThought(Extract), "tokens", "people", as_list=True),
    "predict": Shape(lambda _: dspy.Predict(Scores), "draft", "stars", {"audience": Person(name="all")}),
    "article": Shape(lambda _: Article(), "topic", "article"),
    "chat": Shape(lambda _: Chat(), "message", "reply"),
    "desk": Shape(lambda _: Desk(), "text", "answer", {"urgent": False}, agents=(".agent",)),
    "assistant": Shape(lambda memory: Assistant(memory), "question", "response", agents=(".agent",)),
}


def remembered() -> MemoryStore:
    """Three users' memories, each of which names its user only."""
    store = MemoryStore(encoder=HashEncoder())
    for user in USERS:
        store.add(Interaction(user, f"{user}-{i}", f"asked {i} by {user}", f"said {i}", "2020", i) for i in range(4))
    return store


def personal(name: str, memory: MemoryStore | None = None) -> Any:
    """The shared, personalised program of a shape."""
    memory, shape = memory or remembered(), SHAPES[name]
    return personalize(shape.make(memory), memory, memories=2, query=shape.query, response=shape.response)


def persona_of(user: str) -> Persona:
    return Persona(f"Does it as {user} does.")


_TYPED = {
    "intent": "card",
    "confidence": "0.5",
    "people": '[{"name": "Ada", "role": "author"}]',
    "stars": "4",
    "new_notes": '["a note"]',
    "titles": '["a title"]',
    "sources": '["a source"]',
    "feedback": "Say whose it is.",
    "new_persona": "Does it better.",
}


def script(call: Any) -> dict[str, str]:
    """Recalls if it can, finishes, and answers every field by its type; texts name the user of the persona."""
    if call.role == "step":
        tools = re.findall(r"^\s*\(\d+\) (\w+)", call.system, re.MULTILINE)
        tool = tools[0] if call.steps_taken == 0 else "finish"
        arguments = "{}" if tool == "finish" else '{"query": "x"}'
        return {"next_thought": "t", "next_tool_name": tool, "next_tool_args": arguments}
    whose = re.search(r"<persona>\n(.*)\n", call.system)
    user = MARK.search(whose[1]) if whose else None
    said = f"answer for {user[1] if user else 'nobody'}"
    return {name: _TYPED.get(name, said) for name in call.outputs}


def engine_and_lm() -> tuple[dspy.LM, Any]:
    engine = ScriptedEngine(script)
    asynchronous = AsyncScriptedEngine(engine)
    return dspy.LM("scripted", engine=engine, async_engine=asynchronous, cache=False, num_retries=0), engine


def plain(prediction: Any) -> dict[str, Any]:
    """A prediction as JSON, without what differs from run to run."""
    fields = {name: value for name, value in prediction.items() if name != "seconds"}
    return json.loads(json.dumps(fields, default=lambda value: value.model_dump()))


def main(folder: Path) -> None:
    """Load the programs that were saved in the folder, ask each once, and print requests and answers."""
    found = {}
    for name, shape in SHAPES.items():
        handle = personal(name).for_user("ann")
        handle.load(folder / f"{name}.json")
        lm, engine = engine_and_lm()
        with dspy.context(lm=lm):
            answer = plain(handle(**shape.inputs(QUESTION.format(user="ann"))))
        persona = handle.persona.dump_state()
        found[name] = {"answer": answer, "requests": [call.text for call in engine.calls], "persona": persona}
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
