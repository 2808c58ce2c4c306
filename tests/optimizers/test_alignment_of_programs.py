"""PersonaAlignment over personalised programs: what is asked, what the critic sees, what a rollout cannot see."""

from __future__ import annotations

import json
import re
from typing import Any

import dspy
import pytest
from program_shapes import SHAPES, USERS, Chat, Rag, engine_and_lm, persona_of, personal, plain, remembered, script

from personaagent.optimizers import PersonaAlignment
from personaagent.programs import Interaction, MemoryStore, Persona, PersonaAgent, SemanticMemory, personalize
from personaagent.programs.errors import InputError
from personaagent.programs.lm.offline import OfflineReader


@pytest.fixture
def store(encoder: Any) -> MemoryStore:
    made = MemoryStore(encoder=encoder)
    for user in ("ann", "bob"):
        made.add(history(user))
    return made


def history(user: str = "ann", count: int = 6) -> list[Interaction]:
    return [Interaction(user, f"{user}-{i}", f"question {i}", f"expected {i}", "2020", i) for i in range(count)]


def trainset(query: str = "question", response: str = "answer") -> list[dspy.Example]:
    return [interaction.to_example(query, response) for interaction in history()]


def by_persona(call: Any) -> dict[str, str]:
    """Answers `loud` once its persona says so; the update says so."""
    if call.role == "step":
        tool = "recall" if call.steps_taken == 0 and "(1) recall" in call.system else "finish"
        arguments = '{"query": "x"}' if tool == "recall" else "{}"
        return {"next_thought": "t", "next_tool_name": tool, "next_tool_args": arguments}
    asked = re.search(r"question (\d+)", call.user)
    loud = "loud" if "wants it loud" in call.system else "quiet"
    texts = {"feedback": f"gradient of {asked[1] if asked else '?'}", "new_persona": "This user wants it loud."}
    return {name: texts.get(name, loud) for name in call.outputs}


def test_one_step_over_a_program_is_that_over_an_agent(store: MemoryStore, scripted: Any) -> None:
    handle = personalize(dspy.ReAct("question -> answer", tools=[]), store, memories=20).for_user("ann")
    agent = PersonaAgent("question -> answer", memory=store, memories=20).for_user("ann", persona=handle.persona)
    records, prompts = [], []
    for student in (handle, agent):
        lm, engine = scripted(by_persona)
        before = student.dump_state()
        with dspy.context(lm=lm):
            aligned: Any = PersonaAlignment(3, 2).compile(student, trainset=trainset())
        assert student.dump_state() == before and type(aligned) is type(student)
        assert aligned.persona.text == "This user wants it loud." and aligned.user_id == "ann"
        assert aligned.persona.learnt_from == ("ann-3", "ann-4", "ann-5")
        records.append([{**step.to_dict(), "seconds": 0} for step in aligned.alignment_steps])
        prompts.append(sorted(call.text for call in engine.calls if call.role in ("gradient", "update")))
    assert records[0] == records[1] and prompts[0] == prompts[1]
    assert [s["answered"] for s in records[0][0]["batch"]] == ["quiet"] * 3
    assert [s["answered"] for s in records[0][1]["batch"]] == ["loud"] * 3
    json.dumps(records)


def test_a_rollout_sees_what_came_before_it_and_leaves_nothing(store: MemoryStore, scripted: Any) -> None:
    student = personalize(dspy.ReAct("question -> answer", tools=[]), store, memories=20).for_user("ann")
    lm, engine = scripted(by_persona)
    with dspy.context(lm=lm):
        aligned = PersonaAlignment(4).compile(student.since(history()[1]), trainset=trainset())
    for simulation in aligned.alignment_steps[0].batch:
        own = int(simulation.interaction_id.removeprefix("ann-"))
        assert sorted(simulation.recalled) == [f"ann-{i}" for i in range(1, own)]
    assert store.count("ann") == 6 and not [c for c in engine.calls if "expected 0" in c.text]


def test_what_a_program_keeps_of_a_rollout_is_the_rollouts(scripted: Any) -> None:
    student = personalize(Chat()).for_user("ann")
    lm, engine = scripted(by_persona)
    with dspy.context(lm=lm):
        student(message="before")
        aligned = PersonaAlignment(3, 2).compile(student, trainset=trainset("message", "reply"))
        aligned(message="after")
    assert [m["message"] for m in student.program.conversation.messages] == ["before"]
    asked = [c for c in engine.calls if c.outputs == ["reply"]]
    assert all(len(re.findall(r"question \d", call.text)) == 1 for call in asked[1:-1])
    assert "before" in asked[-1].text and "question" not in asked[-1].user


def test_with_several_inputs_all_are_passed_and_the_critic_sees_them(scripted: Any) -> None:
    student = personalize(dspy.ChainOfThought("context: list[str], question -> answer"), query="question")
    examples = [
        dspy.Example(question=f"question {i}", context=[f"context {i}"], answer="a").with_inputs("question", "context")
        for i in range(2)
    ]
    lm, engine = scripted(by_persona)
    with dspy.context(lm=lm):
        PersonaAlignment(2).compile(student.for_user("ann"), trainset=examples)
    answers = [call for call in engine.calls if call.role == "answer"]
    assert all("[[ ## context ## ]]" in call.user and "context " in call.user for call in answers)
    for number, call in enumerate(sorted((c for c in engine.calls if c.role == "gradient"), key=lambda c: c.user)):
        assert f'[[ ## question ## ]]\nquestion: question {number}\n\ncontext: ["context {number}"]' in call.user


def test_typed_answers_are_compared_as_json(scripted: Any) -> None:
    signature = dspy.Signature("question -> tags: list[str], sure: bool")
    lm, engine = scripted(
        lambda call: by_persona(call) | ({"tags": '["é"]', "sure": "True"} if "tags" in call.outputs else {})
    )
    example = dspy.Example(question="question 1", tags=["x", "y"]).with_inputs("question")
    gold: list[Any] = []
    with dspy.context(lm=lm):
        aligned = PersonaAlignment(1, metric=lambda e, p: gold.append((e.tags, p.tags)) or e.tags == p.tags).compile(
            personalize(dspy.Predict(signature)).for_user("ann"), trainset=[example]
        )
    assert gold == [(["x", "y"], ["é"])]
    [gradient] = [call for call in engine.calls if call.role == "gradient"]
    assert '["x", "y"]' in gradient.user and '["é"]' in gradient.user and "score 0.000" in gradient.user
    assert aligned.alignment_steps[0].batch[0].answered == '["é"]'


def test_an_answer_that_the_program_cannot_read_is_left_out(scripted: Any) -> None:
    def garbled(call: Any) -> Any:
        return "garbage" if call.role == "answer" and "question 4" in call.user else by_persona(call)

    lm, engine = scripted(garbled)
    with dspy.context(lm=lm):
        aligned = PersonaAlignment(3).compile(
            personalize(dspy.Predict("question -> answer")).for_user("ann"), trainset=trainset()
        )
    [step] = aligned.alignment_steps
    assert [s.fault for s in step.batch] == [None, "the answer could not be read", None]
    assert aligned.persona.learnt_from == ("ann-3", "ann-5") and step.lm_calls == len(engine.calls) == 7


def test_programs_that_return_something_else(scripted: Any) -> None:
    class Text(dspy.Module):
        def forward(self, question: str) -> str:
            return str(dspy.Predict("question -> said")(question=question).said)

    lm, _ = scripted(by_persona)
    with dspy.context(lm=lm):
        student = personalize(Text(), response="answer").for_user("ann")
        aligned = PersonaAlignment(1, show_trajectory=True).compile(student, trainset=trainset())
        assert aligned.alignment_steps[0].batch[0].answered == "quiet" and aligned(question="q?") == "loud"
        wrong = personalize(Rag(), response="answer").for_user("ann")
        with pytest.raises(InputError, match="has no field 'answer'"):
            PersonaAlignment(1).compile(wrong, trainset=trainset())


def test_the_programs_steps_are_shown_if_asked_for(store: MemoryStore, scripted: Any) -> None:
    def search(query: str) -> list[dict[str, Any]]:
        """Search."""
        return [{"found": query}]

    student = personalize(dspy.ReAct("question -> answer", tools=[search]), store).for_user("ann")
    lm, engine = scripted(by_persona)
    with dspy.context(lm=lm):
        PersonaAlignment(1, show_trajectory=True).compile(student, trainset=trainset())
    [gradient] = [call for call in engine.calls if call.role == "gradient"]
    assert "tool name: recall" in gradient.user


def test_a_profile_before_the_batch(store: MemoryStore, scripted: Any) -> None:
    lm, engine = scripted(lambda call: {"profile": "KNOWN"} if call.role == "summary" else by_persona(call))
    alignment = PersonaAlignment(2, profile_before_batch=True, semantic_memory=SemanticMemory())
    with dspy.context(lm=lm):
        aligned = alignment.compile(personalize(Rag(), store).for_user("ann"), trainset=trainset(response="response"))
    assert "KNOWN" in aligned.alignment_steps[0].before.text
    [summary] = [call for call in engine.calls if call.role == "summary"]
    assert "question 3" in summary.user and "question 4" not in summary.user


@pytest.mark.parametrize("student", [personalize(Rag()), PersonaAgent("a -> b"), Rag(), dspy.Predict("a -> b"), None])
def test_what_serves_no_user_is_refused(student: Any) -> None:
    with pytest.raises(InputError, match="serves no user"):
        PersonaAlignment(1).compile(student, trainset=[])


def test_the_offline_reader_answers_by_the_persona_that_it_finds_in_a_programs_prompt(encoder: Any) -> None:
    """An LM that nobody scripted: the update writes what the user answered into the persona, and it goes by that."""
    signature = dspy.Signature('description -> tag: Literal["comedy", "classic"]', "Give the film one of the tags.")
    student = personalize(dspy.ChainOfThought(signature)).for_user("ann")
    film = "A keeper of a lighthouse finds a letter."
    examples = [dspy.Example(description=film, tag="classic").with_inputs("description")]
    lm = dspy.LM("offline", engine=OfflineReader(encoder=encoder), cache=False)
    with dspy.context(lm=lm):
        before = student(description=film).tag
        aligned = PersonaAlignment(1).compile(student, trainset=examples)
        after = aligned(description=film).tag
    assert (before, after) == ("comedy", "classic") and "classic" in aligned.persona.text


@pytest.mark.parametrize("name", SHAPES)
def test_every_shape_is_aligned_for_its_user_alone(name: str) -> None:
    shape, memory = SHAPES[name], remembered()
    shared = personal(name, memory)
    for user in USERS[:2]:
        student = shared.for_user(user, persona=persona_of(user))
        examples = [
            shape.example(i.query, i.response, interaction_id=i.id, timestamp=i.timestamp, ordinal=i.ordinal)
            for i in memory.interactions(user)
        ]
        lm, engine = engine_and_lm()
        with dspy.context(lm=lm):
            aligned = PersonaAlignment(2).compile(student, trainset=examples)
            answer = plain(aligned(**shape.inputs(f"by {user}")))
        assert aligned.persona == student.persona.rewritten("Does it better.", [f"{user}-2", f"{user}-3"])
        assert answer["persona_version"] == 1
        others = [other for other in USERS if other != user]
        assert not [call for call in engine.calls if any(other in call.text for other in others)]


def test_the_prompts_of_an_aligned_program_are_its_own_and_the_new_persona(scripted: Any) -> None:
    handle = personalize(Rag()).for_user("ann", persona=Persona("OLD"))
    lm, engine = engine_and_lm()
    with dspy.context(lm=lm):
        before = handle(question="q?")
        aligned = PersonaAlignment(1).compile(handle, trainset=trainset(response="response"))
        engine.calls.clear()
        aligned(question="q?")
        handle(question="q?")
    new, old = engine.calls
    assert new.system.replace("Does it better.", "OLD") == old.system and new.user == old.user
    assert before.persona_version == 0 and script(old)["response"] == before.response
