"""DSPy's optimizers over personalised programs, agents, and programs that contain them: what they may change.

They see the program's own predictors and instructions. The persona, the tool protocol and the memory stay out of
their reach, and whatever they write is the handle's alone.
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dspy
import pytest
from program_shapes import MARK, SHAPES, Shape, add, engine_and_lm, persona_of, personal, plain, remembered, script

from personaagent.optimizers import PersonaAlignment
from personaagent.programs import MemoryStore, Persona, PersonaAgent, personalize

AGENT = Shape(lambda memory: PersonaAgent("question -> answer", memory, 2, [add]), "question", "answer", agents=("",))
EVERY = {**SHAPES, "PersonaAgent itself": AGENT}
OPTIMIZERS = ("BootstrapFewShot", "MIPROv2", "GEPA")
PROPOSED = "Do it well, as was PROPOSED."


def proposing(call: Any) -> dict[str, str] | str:
    """As the shapes' script; whoever asks for new instructions, in JSON or not, gets some without any protocol."""
    said = {name: PROPOSED if "instruction" in name else value for name, value in script(call).items()}
    return json.dumps(said) if "JSON object" in call.user else said


class Scores:
    """A metric that counts the requests under proposed instructions since it was last asked."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.seen = 0

    def __call__(self, gold: Any, pred: Any, trace: Any = None, pred_name: Any = None, pred_trace: Any = None) -> Any:
        new = [call for call in self.engine.calls[self.seen :] if "<persona>" in call.system]
        self.seen = len(self.engine.calls)
        proposed = sum(PROPOSED in call.system for call in new)
        return dspy.Prediction(score=0.1 + 0.9 * proposed / max(1, len(new)), feedback="Do it well.")


def optimised(how: str, student: Any, trainset: list[dspy.Example]) -> tuple[Any, Any]:
    lm, engine = engine_and_lm()
    engine.script = proposing
    metric = Scores(engine)

    def number(gold: Any, pred: Any, trace: Any = None) -> float:
        return float(metric(gold, pred, trace).score)

    half = len(trainset) // 2
    with dspy.context(lm=lm):
        if how == "BootstrapFewShot":
            made = dspy.BootstrapFewShot(metric=number, max_bootstrapped_demos=2, max_labeled_demos=3)
            return made.compile(student, trainset=trainset), engine
        if how == "MIPROv2":
            options = {"max_bootstrapped_demos": 1, "max_labeled_demos": 1, "num_threads": 1, "seed": 0}
            made = dspy.MIPROv2(metric=number, auto=None, num_candidates=3, **options)
            trials = {"num_trials": 6, "minibatch": False, "data_aware_proposer": False, "tip_aware_proposer": False}
            return made.compile(student, trainset=trainset[:half], valset=trainset[half:], **trials), engine
        made = dspy.GEPA(
            metric=metric, max_metric_calls=30, reflection_lm=lm, num_threads=1, reflection_minibatch_size=1, seed=0
        )
        return made.compile(student, trainset=trainset[:half], valset=trainset[half:]), engine


@pytest.fixture(scope="module")
def memory() -> MemoryStore:
    return remembered()


@pytest.fixture(autouse=True)
def quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    yield
    logging.disable(logging.NOTSET)


def shared_program(name: str, memory: MemoryStore) -> Any:
    return AGENT.make(memory) if name not in SHAPES else personal(name, memory)


def examples(shape: Shape, memory: MemoryStore, user: str = "ann") -> list[dspy.Example]:
    return [
        shape.example(i.query, i.response, interaction_id=i.id, timestamp=i.timestamp, ordinal=i.ordinal)
        for i in memory.interactions(user)
    ]


def asks(program: Any, inputs: dict[str, Any]) -> tuple[dict[str, Any], list[Any]]:
    lm, engine = engine_and_lm()
    with dspy.context(lm=lm):
        answer = plain(program(**inputs))
    return answer, engine.calls


def folded(text: str) -> str:
    return " ".join(text.split())


def protocols(handle: Any) -> list[str]:
    return [predictor.protocol for _, predictor in handle.named_predictors() if hasattr(predictor, "protocol")]


@pytest.mark.parametrize("how", OPTIMIZERS)
@pytest.mark.parametrize("name", EVERY)
def test_persona_protocol_and_privacy_survive(memory: MemoryStore, name: str, how: str, tmp_path: Path) -> None:
    shape, shared = EVERY[name], shared_program(name, memory)
    student = shared.for_user("ann", persona=persona_of("ann"))
    before, trainset = student.dump_state(), examples(shape, memory)
    made, engine = optimised(how, student, trainset)

    # The student stays, and so does what is not an optimizer's.
    assert student.dump_state() == before
    assert type(made) is type(student) and made.user_id == "ann" and made.persona == student.persona
    assert [n for n, _ in made.named_parameters()] == [n for n, _ in student.named_parameters()]
    assert len(protocols(made)) == len(shape.agents) and protocols(made) == protocols(student)

    # What it did reached the program's own predictors, and never anyone else's.
    if how == "BootstrapFewShot":
        assert all(predictor.demos for _, predictor in made.named_predictors())
    else:
        assert any(PROPOSED in predictor.signature.instructions for _, predictor in made.named_predictors())
    fields = {field for _, p in made.named_predictors() for demo in p.demos for field in dict(demo)}
    assert not fields & {"persona_version", "recalled", "lm_calls", "seconds"}
    for state in (made.dump_state(), shared.for_user("bob").dump_state()):
        state.pop("persona")
        assert "<persona>" not in str(state) and persona_of("ann").text not in str(state)
    assert "ann" not in str(shared.for_user("bob").dump_state())

    # No request names another user; those that ask for instructions or judge do not see the persona.
    served = 0
    for call in engine.calls:
        assert set(MARK.findall(call.text)) <= {"ann"}
        is_served = f"<persona> {persona_of('ann').text} </persona>" in folded(call.system)
        assert is_served == (persona_of("ann").text in call.text) == ("<persona>" in call.text)
        served += is_served
    assert served

    # The optimised program asks under persona and protocol, is saved and loaded, and asks and answers the same.
    inputs = shape.inputs("what now?")
    if name == "chat":
        made.program.conversation = dspy.History(messages=[])  # it was evaluated; what it keeps on itself is not saved
    fresh = made.deepcopy()
    answer, calls = asks(made, inputs)
    for call in calls:
        assert folded(call.system).count(f"<persona> {persona_of('ann').text} </persona>") == 1
        assert call.role != "step" or any(folded(protocol) in folded(call.system) for protocol in protocols(made))
    fresh.save(tmp_path / "made.json")
    loaded = shared.for_user("ann")
    loaded.load(tmp_path / "made.json")
    again, repeated = asks(loaded, inputs)
    assert again == answer and [call.text for call in repeated] == [call.text for call in calls]

    # Alignment goes on from there.
    lm, aligning = engine_and_lm()
    with dspy.context(lm=lm):
        aligned: Any = PersonaAlignment(2, metric=Scores(aligning)).compile(fresh, trainset=trainset)
    assert aligned.persona == student.persona.rewritten("Does it better.", ["ann-2", "ann-3"])
    for (_, its), (_, predictor) in zip(aligned.named_predictors(), fresh.named_predictors(), strict=True):
        assert its.demos == predictor.demos and its.signature.instructions == predictor.signature.instructions
    _, calls = asks(aligned, inputs)
    assert all(folded(call.system).count("<persona> Does it better. </persona>") == 1 for call in calls)


class Outer(dspy.Module):
    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, **inputs: Any) -> Any:
        return self.inner(**inputs)


@pytest.mark.parametrize("name", EVERY)
def test_a_program_that_contains_what_was_optimised_and_aligned_saves_its_persona(
    memory: MemoryStore, name: str, tmp_path: Path
) -> None:
    shape, shared = EVERY[name], shared_program(name, memory)
    trainset = examples(shape, memory)
    student, _ = optimised("BootstrapFewShot", shared.for_user("ann", persona=persona_of("ann")), trainset)
    lm, _ = engine_and_lm()
    with dspy.context(lm=lm):
        aligned: Any = PersonaAlignment(2).compile(student, trainset=trainset)
    assert student._compiled and aligned.persona.text == "Does it better."
    Outer(aligned).save(tmp_path / "outer.json")
    loaded = Outer(shared.for_user("ann"))
    loaded.load(tmp_path / "outer.json")
    assert loaded.inner.persona == aligned.persona
    assert [len(p.demos) for p in loaded.predictors()] == [len(p.demos) for p in student.predictors()]
    inputs = shape.inputs("what now?")
    calls = asks(loaded, inputs)[1]
    assert calls and all("<persona> Does it better. </persona>" in folded(call.system) for call in calls)


class Team(dspy.Module):
    """Two users' handles and a predictor that is nobody's."""

    def __init__(self, ann: Any, bob: Any) -> None:
        super().__init__()
        self.ann, self.members = ann, {"bob": bob}
        self.merge = dspy.Predict("question, answers: list[str] -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        answers = [member(question=question).answer for member in (self.ann, self.members["bob"])]
        return self.merge(question=question, answers=answers)


@pytest.mark.parametrize("how", OPTIMIZERS)
@pytest.mark.parametrize("kind", ["programs", "agents"])
def test_a_program_that_contains_two_users(memory: MemoryStore, kind: str, how: str, tmp_path: Path) -> None:
    if kind == "agents":
        shared: Any = PersonaAgent("question -> answer", memory, 2, [add])
    else:
        shared = personalize(dspy.ReAct("question -> answer", tools=[add]), memory, memories=2)

    def team() -> Team:
        return Team(*(shared.for_user(user, persona=Persona(f"Persona {user}.")) for user in ("ann", "bob")))

    student = team()
    before = student.dump_state()
    trainset = [dspy.Example(question=f"q{i}?", answer="a").with_inputs("question") for i in range(4)]
    made, engine = optimised(how, student, trainset)
    assert student.dump_state() == before
    personas = {name: p.text for name, p in made.named_parameters() if name.endswith("persona")}
    assert personas == {"ann.persona": "Persona ann.", "members['bob'].persona": "Persona bob."}
    for call in engine.calls:
        served = re.findall(r"<persona>\s+Persona (\w+)\.\s+</persona>", call.system)
        # What a member answered may be shown to what is nobody's, and to whoever improves it.
        assert len(served) <= 1 and (not served or set(MARK.findall(call.system + call.user)) == set(served))
    answer, calls = asks(made, {"question": "what now?"})
    served = [re.findall(r"Persona (\w+)\.", call.system) for call in calls]
    assert served == [["ann"]] * 3 + [["bob"]] * 3 + [[]]
    for call in calls:
        assert call.role != "step" or any(folded(protocol) in folded(call.system) for protocol in protocols(made))
    made.save(tmp_path / "team.json")
    loaded = team()
    loaded.load(tmp_path / "team.json")
    again, repeated = asks(loaded, {"question": "what now?"})
    assert again == answer and [call.text for call in repeated] == [call.text for call in calls]
