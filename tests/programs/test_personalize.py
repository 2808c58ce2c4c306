"""A personalised program: whose persona and memory a call sees, what a handle is, what stays the program's own."""

from __future__ import annotations

import asyncio
import copy
import gc
import importlib
import json
import pickle
import subprocess
import sys
import time
import weakref
from pathlib import Path
from types import MethodType
from typing import Any

import cloudpickle
import dspy
import pytest
from program_shapes import SHAPES, Article, Chat, Desk, Rag

from personaagent.programs import Interaction, MemoryStore, Persona, PersonaAgent, Personalized, personalize
from personaagent.programs.errors import InputError, PersonaAgentError
from personaagent.programs.handles import own


@pytest.fixture
def store(encoder: Any) -> MemoryStore:
    made = MemoryStore(encoder=encoder)
    for user in ("ann", "bob"):
        made.add(
            Interaction(user, f"{user}-{i}", f"question {i} of {user}", f"answer {i}", "2020", i) for i in range(6)
        )
    return made


def answers(call: Any) -> dict[str, str]:
    """Recalls once if it can, finishes; typed fields have a value of their type."""
    if call.role == "step":
        tool = "recall" if call.steps_taken == 0 and "(1) recall" in call.system else "finish"
        arguments = '{"query": "x"}' if tool == "recall" else "{}"
        return {"next_thought": "t", "next_tool_name": tool, "next_tool_args": arguments}
    typed = {"intent": "card", "confidence": "0.5", "stars": "4", "new_notes": "[]", "titles": "[]", "sources": "[]"}
    return {name: typed.get(name, "yes") for name in call.outputs}


# -- the persona and the answer -------------------------------------------------------------------


def test_the_programs_own_answer_is_measured_and_nothing_of_it_is_replaced(store: MemoryStore, scripted: Any) -> None:
    lm, engine = scripted(answers)
    handle = personalize(Rag(), store).for_user("ann", persona=Persona("Ann likes it short.", 3))
    with dspy.context(lm=lm):
        prediction = handle(question="q?")
    assert list(prediction.keys())[:2] == ["reasoning", "response"] and prediction.response == "yes"
    assert (prediction.persona_version, prediction.recalled, prediction.lm_calls) == (3, [], 1)
    assert (prediction.prompt_tokens, prediction.completion_tokens) == (100, 20) and prediction.seconds > 0
    assert prediction.completions.reasoning == ["yes"]
    assert engine.calls[0].system.startswith("<persona>\nAnn likes it short.\n</persona>\n\nYour input fields are:")
    own_fields = personalize(dspy.Predict("q -> recalled, lm_calls, seconds: str"), query="q").for_user("ann")
    with dspy.context(lm=lm):
        said = own_fields(q="q?")
    assert (said.recalled, said.lm_calls, said.seconds, said.persona_version) == ("yes", "yes", "yes", 0)


def test_what_is_measured_reaches_no_trace_and_no_demonstration(store: MemoryStore, scripted: Any) -> None:
    handle = personalize(dspy.ChainOfThought("question -> answer"), store).for_user("ann")
    with dspy.context(lm=scripted()[0], trace=[]):
        prediction = handle(question="q?")
        [(_, _, traced)] = dspy.settings.trace
    assert "recalled" in prediction and list(traced.keys()) == ["reasoning", "answer"]


@pytest.mark.parametrize("value", ["text", 7, None, ["a"], {"a": 1}])
def test_what_is_no_prediction_is_returned_as_it_is(scripted: Any, value: Any) -> None:
    class Odd(dspy.Module):
        def forward(self, question: str) -> Any:
            dspy.Predict("question -> answer")(question=question)
            return value

    lm, engine = scripted()
    with dspy.context(lm=lm):
        assert personalize(Odd(), response="answer").for_user("ann", persona=Persona("A."))("q?") is value
    assert engine.calls[0].system.startswith("<persona>\nA.\n")


def test_calls_in_threads_are_counted(scripted: Any) -> None:
    class Wide(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = dspy.Predict("question -> answer")

        def forward(self, question: str) -> dspy.Prediction:
            pairs = [(self.each, {"question": f"{question} {i}"}) for i in range(5)]
            found = dspy.Parallel(num_threads=3, disable_progress_bar=True)(pairs)
            return dspy.Prediction(answer=[one.answer for one in found])

    lm, engine = scripted()
    with dspy.context(lm=lm), dspy.track_usage() as usage:
        prediction = personalize(Wide()).for_user("ann", persona=Persona("Ann likes it short."))(question="q")
    assert (prediction.lm_calls, prediction.prompt_tokens, prediction.completion_tokens) == (5, 500, 100)
    assert usage.get_total_tokens()["scripted"]["prompt_tokens"] == 500
    assert all("Ann likes it short." in call.system for call in engine.calls)


def test_recall_reaches_an_agent_in_dspys_threads(store: MemoryStore, scripted: Any) -> None:
    class Wide(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.each = dspy.ReAct("question -> answer", tools=[])

        def forward(self, question: str) -> dspy.Prediction:
            pairs = [(self.each, {"question": f"{question} {i}"}) for i in range(2)]
            return dspy.Prediction(found=dspy.Parallel(num_threads=2, disable_progress_bar=True)(pairs))

    lm, engine = scripted(answers)
    with dspy.context(lm=lm):
        prediction = personalize(Wide(), store, response="answer").for_user("bob")(question="q")
    assert prediction.recalled and all(name.startswith("bob-") for name in prediction.recalled)
    assert not [call for call in engine.calls if "no memory" in call.text or "ann" in call.text]


def test_each_user_has_a_persona_and_a_memory_of_their_own(store: MemoryStore, scripted: Any) -> None:
    shared = personalize(dspy.ReAct("question -> answer", tools=[]), store, memories=2)
    store.save_profile("ann", "Ann writes novels.")
    store.save_persona("bob", Persona("Learnt of Bob.", version=3))
    lm, engine = scripted(answers)
    with dspy.context(lm=lm):
        for user, knows in (("ann", "Ann writes novels."), ("bob", "Learnt of Bob.")):
            engine.calls.clear()
            prediction = shared.for_user(user)(question="q?")
            assert all(knows in call.system for call in engine.calls)
            assert len(prediction.recalled) == 2 and all(name.startswith(user) for name in prediction.recalled)


def test_the_shared_program_does_not_answer(store: MemoryStore, scripted: Any) -> None:
    shared = personalize(Rag(), store)
    agent = PersonaAgent("query -> response", memory=store)
    said = []
    for program, inputs in ((shared, {"question": "q?"}), (agent, {"query": "q?"})):
        with dspy.context(lm=scripted()[0]), pytest.raises(PersonaAgentError, match="for_user") as caught:
            program(**inputs)
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_the_program_that_was_handed_in_never_changes(store: MemoryStore, scripted: Any, tmp_path: Path) -> None:
    for shape in SHAPES.values():
        program = shape.make(store)
        before = copy.deepcopy(program).dump_state()
        parts = [id(part) for _, part in program.named_sub_modules()]
        handle = personalize(program, store, query=shape.query, response=shape.response).for_user("ann")
        for _, predictor in handle.named_predictors():
            predictor.demos = [{"x": "of ann"}]
            predictor.signature = predictor.signature.with_instructions("ANN")
        handle.set_lm(scripted()[0])
        assert program.dump_state() == before
        assert [id(part) for _, part in program.named_sub_modules()] == parts
        assert not any("ann" in str(p.demos) or p.lm for _, p in personalize_again(handle).named_predictors())


def personalize_again(handle: Any) -> Any:
    """Another user's handle of the same shared program."""
    return handle.for_user("bob")


# -- handles --------------------------------------------------------------------------------------


def test_a_handle_is_the_same_kind_of_thing_as_an_agents(store: MemoryStore) -> None:
    handle = personalize(dspy.ReAct("question -> answer", tools=[]), store).for_user("ann")
    agent = PersonaAgent("question -> answer", memory=store).for_user("ann")
    surface = {name for name in dir(agent) if not name.startswith("_")} - set(dir(dspy.ReAct)) - {"alignment_steps"}
    surface -= {"react", "extract", "tools", "signature", "max_iters", "signature_of"}
    assert surface <= set(dir(handle))
    assert (handle.user_id, handle.query_field, handle.response_field) == ("ann", "question", "answer")
    assert handle.tool_names == agent.tool_names == ("recall",)
    assert handle.memory is store and isinstance(handle.persona, Persona)
    assert "Likes tea." in handle.initial_persona("Likes tea.").text


def test_as_of_and_since_bound_the_memory(store: MemoryStore, scripted: Any) -> None:
    history = store.interactions("ann")
    handle = personalize(dspy.ReAct("question -> answer", tools=[]), store, memories=10).for_user("ann")
    bound = handle.since(history[1]).as_of(history[4])
    with dspy.context(lm=scripted(answers)[0]):
        assert sorted(bound(question="q?").recalled) == ["ann-1", "ann-2", "ann-3"]
        assert len(handle(question="q?").recalled) == 6
    assert [i.id for i in bound.interactions()] == ["ann-1", "ann-2", "ann-3"]
    with pytest.raises(InputError, match="before must be"):
        handle.as_of("2020")  # type: ignore[arg-type]


def test_record_writes_to_the_memory(store: MemoryStore) -> None:
    handle = personalize(Rag(), store).for_user("new")
    assert handle.record("q", "r", id="1").ordinal == 0
    assert [i.query for i in handle.interactions()] == ["q"]
    with pytest.raises(PersonaAgentError, match="memory"):
        personalize(Rag()).for_user("new").record("q", "r")


def test_another_persona_leaves_the_handle_alone(scripted: Any) -> None:
    lm, engine = scripted()
    first = personalize(Rag()).for_user("ann", persona=Persona("FIRST"))
    second = first.with_persona(Persona("SECOND", 1))
    with dspy.context(lm=lm):
        assert [first(question="q?").persona_version, second(question="q?").persona_version] == [0, 1]
    assert ["FIRST" in call.system for call in engine.calls] == [True, False]
    assert second.user_id == "ann"


def test_a_handles_for_user_hands_nothing_of_its_user_on(store: MemoryStore) -> None:
    ann = personalize(Rag(), store).for_user("ann", persona=Persona("Ann's.")).as_of(store.interactions("ann")[1])
    ann.program.respond.predict.demos = [dspy.Example(question="secret of ann")]
    ann.alignment_steps = ["secret of ann"]
    bob = ann.for_user("bob")
    assert not bob.program.respond.predict.demos and not hasattr(bob, "alignment_steps") and bob._before is None
    assert "Ann" not in bob.persona.text


@pytest.mark.parametrize("user", ["", " ", None, 7])
def test_a_user_id_is_text(user: Any) -> None:
    with pytest.raises(InputError, match="user_id"):
        personalize(Rag()).for_user(user)


def test_what_a_program_keeps_on_itself_stays_with_its_user(store: MemoryStore, scripted: Any) -> None:
    class Keeps(Chat):
        def __init__(self) -> None:
            super().__init__()
            self.notes: list[str] = []
            self.by_topic: dict[str, list[str]] = {"all": []}
            self.seen: set[str] = set()

        def forward(self, message: str) -> dspy.Prediction:
            self.notes.append(message)
            self.by_topic["all"].append(message)
            self.seen.add(message)
            return super().forward(message)

    lm, engine = scripted()
    shared = personalize(Keeps(), store)
    ann, bob = shared.for_user("ann"), shared.for_user("bob")
    with dspy.context(lm=lm):
        ann(message="ann's secret")
        before = ann.as_of(None)
        ann(message="more of ann")
        bob(message="bob's turn")
        before(message="a rollout")
    assert "ann" not in engine.calls[2].text
    assert "ann's secret" in engine.calls[1].text and "more of ann" not in engine.calls[3].text
    assert [len(h.program.conversation.messages) for h in (ann, bob, before, shared)] == [2, 1, 2, 0]
    assert (ann.program.notes, bob.program.by_topic["all"]) == (["ann's secret", "more of ann"], ["bob's turn"])
    assert not shared.program.notes and not shared.program.by_topic["all"] and shared.program.seen == set()


def test_a_handle_is_cheap(store: MemoryStore) -> None:
    for program in (Rag(), Article(), Desk()):
        shared = personalize(program, store, response="response")
        persona = Persona("p")
        best = 1.0
        for _ in range(200):
            started = time.perf_counter()
            shared.for_user("ann", persona=persona)
            best = min(best, time.perf_counter() - started)
        assert best < 0.001


def test_a_large_list_is_data_and_no_place_for_modules(scripted: Any) -> None:
    class Corpus(Rag):
        def __init__(self) -> None:
            super().__init__()
            self.corpus = [{"text": f"passage {i}"} for i in range(100_000)]

    shared = personalize(Corpus(), response="response")
    started = time.perf_counter()
    handle = shared.for_user("ann")
    assert time.perf_counter() - started < 0.1
    assert handle.program.corpus[0] is shared.program.corpus[0]


def test_nothing_of_a_user_is_held_after_the_question(store: MemoryStore, scripted: Any) -> None:
    shared = personalize(Desk(), store, response="answer")
    lm, engine = scripted(answers)
    gone: list[weakref.ref[Any]] = []
    with dspy.context(lm=lm, trace=None, disable_history=True):
        for i in range(30):
            handle = shared.for_user(("ann", "bob")[i % 2], persona=Persona(f"secret-{i}"))
            handle(text="q?")
            gone += [weakref.ref(handle), weakref.ref(handle.persona), weakref.ref(handle.program)]
            engine.calls.clear()
    del handle
    gc.collect()
    assert not any(ref() is not None for ref in gone)


def test_the_hosts_settings_stay_as_they_were(store: MemoryStore, scripted: Any) -> None:
    shared = personalize(Rag(), store)
    with dspy.context(lm=scripted()[0], track_usage=True):
        before = dict(dspy.settings.copy())
        prediction = shared.for_user("ann")(question="q?")
        after = dict(dspy.settings.copy())
    assert {k: v for k, v in before.items() if k != "trace"} == {k: v for k, v in after.items() if k != "trace"}
    assert prediction.get_lm_usage()["scripted"]["prompt_tokens"] == 100


def test_what_a_program_raises_is_raised_and_leaves_nothing_behind(scripted: Any) -> None:
    class Broken(dspy.Module):
        def forward(self, question: str) -> Any:
            raise ZeroDivisionError(question)

    handle = personalize(Broken(), response="x").for_user("ann")
    before = dict(dspy.settings.copy())
    with pytest.raises(ZeroDivisionError):
        handle(question="q?")
    assert dict(dspy.settings.copy()) == before


# -- DSPy's surface -------------------------------------------------------------------------------


def test_parameters_are_the_programs_and_the_persona(store: MemoryStore) -> None:
    handle = personalize(Article(), store, response="article").for_user("ann")
    names = ["persona", "program.writers[0]", "program.writers[1].predict", "program.by_name['title']"]
    assert [name for name, _ in handle.named_parameters()] == names
    assert handle.program.writers[0] is handle.program.by_name["first"]
    assert [name for name, _ in personalize(dspy.Predict("a -> b")).named_predictors()] == ["program"]
    assert handle.get_lm() is None


def test_an_lm_of_a_handle_is_its_own(scripted: Any) -> None:
    shared = personalize(Rag())
    (own_lm, own_engine), (other, other_engine) = scripted(), scripted()
    ann, bob = shared.for_user("ann"), shared.for_user("bob")
    ann.set_lm(own_lm)
    with dspy.context(lm=other):
        ann(question="q?")
        bob(question="q?")
    assert (len(own_engine.calls), len(other_engine.calls)) == (1, 1)


def test_save_and_load_carry_persona_and_demonstrations(store: MemoryStore, tmp_path: Path) -> None:
    shared = personalize(Desk(), store, response="answer")
    saved = shared.for_user("ann", persona=Persona("Ann's.", 2, "p", ["ann-1"]))
    saved.program.agent.extract.predict.demos = [dspy.Example(text="a demo", answer="yes")]
    saved.save(tmp_path / "ann.json")
    loaded, other = shared.for_user("ann"), shared.for_user("bob")
    loaded.load(tmp_path / "ann.json")
    assert loaded.persona == saved.persona and loaded.dump_state() == saved.dump_state()
    assert loaded.program.agent.extract.predict.demos[0]["text"] == "a demo"
    assert not other.program.agent.extract.predict.demos and not shared.program.agent.extract.predict.demos
    with pytest.raises(InputError, match="one user's"):
        shared.load(tmp_path / "ann.json")
    Desk().save(tmp_path / "plain.json")
    with pytest.raises(InputError, match="holds no persona"):
        loaded.load(tmp_path / "plain.json")


def test_a_users_file_is_refused_by_another_users_handle(tmp_path: Path) -> None:
    for shared in (PersonaAgent("query -> response"), personalize(dspy.Predict("query -> response"))):
        file = tmp_path / f"{type(shared).__name__}.json"
        shared.for_user("ann", persona=Persona("Ann likes it short.", 2)).save(file)
        with pytest.raises(InputError, match="the saved program is 'ann''s, and this handle serves 'bob'"):
            shared.for_user("bob").load(file)
        ann = shared.for_user("ann")
        ann.load(file)
        assert ann.persona == Persona("Ann likes it short.", 2)
        state = json.loads(file.read_text())
        del state["persona"]["user_id"]  # as one of an earlier version
        file.write_text(json.dumps(state))
        shared.for_user("bob").load(file)


def test_a_compiled_program_is_saved_with_its_demonstrations(scripted: Any, tmp_path: Path) -> None:
    """DSPy saves nothing of a compiled module inside another one."""
    examples = [dspy.Example(question="q?", answer="yes").with_inputs("question")]
    with dspy.context(lm=scripted()[0]):
        compiled = dspy.BootstrapFewShot(metric=lambda e, p, trace=None: True).compile(
            dspy.ChainOfThought("question -> answer"), trainset=examples
        )
    handle = personalize(compiled).for_user("ann")
    handle.save(tmp_path / "ann.json")
    state = json.loads((tmp_path / "ann.json").read_text())
    assert state["program.predict"]["demos"] and compiled._compiled


def test_a_whole_program_is_saved_and_loaded(store: MemoryStore, tmp_path: Path, scripted: Any) -> None:
    url = f"sqlite:///{tmp_path / 'memory.db'}"
    memory = MemoryStore(url, encoder=store.encoder)
    handle = personalize(dspy.ReAct("question -> answer", tools=[]), memory).for_user("ann", persona=Persona("Ann's."))
    handle.save(tmp_path / "program", save_program=True)
    loaded = dspy.load(str(tmp_path / "program"), allow_pickle=True)
    lm, engine = scripted()
    with dspy.context(lm=lm):
        loaded(question="q?")
    assert all("Ann's." in call.system for call in engine.calls)


@pytest.mark.parametrize("how", [copy.deepcopy, lambda handle: handle.deepcopy(), lambda handle: handle.reset_copy()])
def test_a_deep_copy_shares_the_memory_and_not_the_persona(store: MemoryStore, how: Any) -> None:
    handle = personalize(Desk(), store, response="answer").for_user("ann", persona=Persona("Ann's."))
    handle.program.route.demos = [{"text": "t"}]
    copied = how(handle)
    assert copied.memory is store and copied.persona == handle.persona and copied.persona is not handle.persona
    assert copied.user_id == "ann" and copied.for_user("bob").user_id == "bob"
    copied.program.route.demos.append({"text": "more"})
    assert len(handle.program.route.demos) == 1


def test_what_an_optimizer_left_on_a_module_is_not_called_for_another(scripted: Any) -> None:
    """bootstrap_trace_data leaves `forward`, bound to the module that it ran, on that module."""
    lm, _ = scripted()
    handle = personalize(Rag()).for_user("ann", persona=Persona("FIRST"))
    agent = PersonaAgent("question -> response").for_user("ann", persona=Persona("FIRST"))
    for program in (handle, agent):
        program.forward = MethodType(type(program).forward, program)
        with dspy.context(lm=lm):
            assert program.with_persona(Persona("SECOND", 1))(question="q?").persona_version == 1
            assert program(question="q?").persona_version == 0


def test_threads_tasks_and_evaluations(store: MemoryStore, scripted: Any) -> None:
    shared = personalize(Rag(), store)
    lm, engine = scripted(latency_seconds=0.001)
    handles = {user: shared.for_user(user, persona=Persona(f"Persona of {user}.")) for user in ("ann", "bob")}
    pairs = [(handle, {"question": f"by {user}"}) for user, handle in handles.items() for _ in range(10)]

    async def ask() -> None:
        await asyncio.gather(*(dspy.asyncify(handle)(**inputs) for handle, inputs in pairs))
        await asyncio.gather(*(handle.acall(**inputs) for handle, inputs in pairs))

    devset = [dspy.Example(question=f"by ann {i}", response="yes").with_inputs("question") for i in range(6)]
    evaluate = dspy.Evaluate(devset=devset, metric=lambda e, p: p.response == "yes", num_threads=3)
    with dspy.context(lm=lm):
        dspy.Parallel(num_threads=4, disable_progress_bar=True)(pairs)
        asyncio.run(ask())
        assert evaluate(handles["ann"]).score == 100.0
    assert len(engine.calls) == 66
    for call in engine.calls:
        user = call.user.split("by ")[1][:3]
        assert f"Persona of {user}." in call.system and call.system.count("Persona of") == 1


# -- adapters of others ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "module", [dspy.ChainOfThought("question -> answer"), dspy.ReAct("question -> answer", tools=[])]
)
def test_refining_a_handle_keeps_its_persona_in_every_attempt(module: Any, scripted: Any, store: MemoryStore) -> None:
    for shared in (personalize(module, store), PersonaAgent("question -> answer", store)):
        lm, engine = scripted(
            lambda call: {**answers(call), **({"advice": json.dumps({})} if "advice" in call.outputs else {})}
        )
        handle = shared.for_user("ann", persona=Persona("ANN"))
        refined = dspy.Refine(module=handle, N=3, reward_fn=lambda given, answer: 0.0, threshold=1.0)
        with dspy.context(lm=lm):
            assert refined(question="q?").answer == "yes"
        asked = [call for call in engine.calls if "advice" not in call.outputs]
        assert len(engine.calls) - len(asked) == 2 and len(asked) % 3 == 0
        assert all(call.system.count("<persona>\nANN\n</persona>") == 1 for call in asked)


def test_a_program_with_adapters_and_callbacks_of_its_own_choice_keeps_the_persona(scripted: Any) -> None:
    class Choosy(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            with dspy.context(adapter=dspy.ChatAdapter(), callbacks=[]):
                return self.step(question=question)

    lm, engine = scripted(answers)
    handle = personalize(Choosy()).for_user("ann", persona=Persona("ANN"))
    copies = [handle, handle.deepcopy(), copy.deepcopy(handle), pickle.loads(cloudpickle.dumps(handle))]
    with dspy.context(lm=lm):
        for one in copies:
            one(question="q?")
    assert all(call.system.startswith("<persona>\nANN\n</persona>") for call in engine.calls)
    assert len(engine.calls) == len(copies)


def test_an_adapter_that_cannot_hold_a_persona_is_refused_each_time(scripted: Any) -> None:
    class Callable(dspy.Module):
        def __init__(self) -> None:
            super().__init__()
            self.step = dspy.Predict("question -> answer")

        def forward(self, question: str) -> Any:
            with dspy.context(adapter=lambda *args, **kwargs: [{"answer": "without a persona"}]):
                return self.step(question=question)

    handle = personalize(Callable(), response="answer").for_user("ann", persona=Persona("ANN"))
    with dspy.context(lm=scripted()[0]):
        before = dict(dspy.settings.config)
        for _ in range(3):
            with pytest.raises(PersonaAgentError, match=r"a dspy\.Adapter"):
                handle(question="q?")
        assert dict(dspy.settings.config) == before


# -- copies ---------------------------------------------------------------------------------------


def test_methods_and_tools_of_a_module_are_its_copys() -> None:
    desk = Desk()
    copied = own(desk)
    assert copied.agent.tools["look_up"].func.__self__ is copied and desk.agent.tools["look_up"].func.__self__ is desk
    assert copied.agent.tools["add"] is desk.agent.tools["add"]


def test_the_package_and_its_module_of_one_name() -> None:
    module = importlib.import_module("personaagent.programs.personalize")
    assert module.personalize is personalize and module.Personalized is Personalized
    program = (
        "from personaagent.programs.personalize import Personalized\n"
        "from personaagent.programs import personalize\n"
        "import personaagent.programs as p\n"
        "print(callable(personalize), callable(p.personalize))"
    )
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert run.stdout.split() == ["True", "True"]
