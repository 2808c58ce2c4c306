"""acompile: what compile does, on the caller's event loop; and what compile refuses because only this can run it."""

from __future__ import annotations

import asyncio
import json
import re
import threading
from collections.abc import Callable
from typing import Any

import dspy
import pytest
from dspy.utils.callback import BaseCallback

from personaagent.optimizers import PersonaAlignment
from personaagent.programs import Interaction, MemoryStore, PersonaAgent, SemanticMemory, personalize
from personaagent.programs.errors import InputError
from personaagent.programs.lm.engines import AsyncMeteredEngine, MeteredEngine
from personaagent.programs.lm.meter import Meter, metering


@pytest.fixture
def store(encoder: Any) -> MemoryStore:
    made = MemoryStore(encoder=encoder)
    made.add(Interaction("ann", f"ann-{i}", f"question {i}", f"expected {i}", "2020", i) for i in range(6))
    return made


def trainset() -> list[dspy.Example]:
    place = {"timestamp": "2020"}
    return [
        dspy.Example(
            question=f"question {i}", answer=f"expected {i}", interaction_id=f"ann-{i}", ordinal=i, **place
        ).with_inputs("question")
        for i in range(6)
    ]


def asks(tool: str) -> Callable[[Any], dict[str, str]]:
    """Calls the tool once, and answers; the gradient names the question, the update that it wants it loud."""

    def script(call: Any) -> dict[str, str]:
        if call.role == "step":
            name = tool if call.steps_taken == 0 else "finish"
            arguments = {"query": "x"} if name == tool else {}
            return {"next_thought": "t", "next_tool_name": name, "next_tool_args": json.dumps(arguments)}
        asked = re.search(r"question (\d+)", call.user)
        texts = {"feedback": f"gradient of {asked[1] if asked else '?'}", "new_persona": "This user wants it loud."}
        return {name: texts.get(name, "loud" if "wants it loud" in call.system else "quiet") for name in call.outputs}

    return script


def run(student: Any, lm: dspy.LM, alignment: PersonaAlignment, **settings: Any) -> Any:
    async def aligned() -> Any:
        with dspy.context(lm=lm, **settings):
            return await alignment.acompile(student, trainset=trainset())

    return asyncio.run(aligned())


def agent(store: MemoryStore | None, *tools: Any) -> Any:
    return PersonaAgent("question -> answer", memory=store, tools=tools).for_user("ann")


def program(store: MemoryStore | None, *tools: Any) -> Any:
    return personalize(dspy.ReAct("question -> answer", tools=list(tools)), store).for_user("ann")


class Held(dspy.Module):
    """Tools in a list, of a module in a dictionary."""

    def __init__(self, tool: Any) -> None:
        super().__init__()
        self.tools = [dspy.Tool(tool)]
        self.predict = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        await self.tools[0].acall(query=question)
        return await self.predict.acall(question=question)

    def forward(self, question: str) -> Any:
        return self.predict(question=question)


class Holder(dspy.Module):
    def __init__(self, tool: Any) -> None:
        super().__init__()
        self.parts = {"held": Held(tool)}

    async def aforward(self, question: str) -> Any:
        return await self.parts["held"].acall(question=question)

    def forward(self, question: str) -> Any:
        return self.parts["held"](question=question)


def holder(store: MemoryStore | None, *tools: Any) -> Any:
    return personalize(Holder(*tools), store, response="answer").for_user("ann")


@pytest.mark.parametrize("make", [agent, program])
@pytest.mark.parametrize("most", [None, 1])
def test_it_is_compile(store: MemoryStore, scripted: Any, make: Any, most: int | None) -> None:
    """The same prompts, records and persona."""
    student = make(store)
    judged: list[bool] = []
    alignment = PersonaAlignment(
        3,
        2,
        num_threads=most,
        metric=lambda example, prediction: judged.append(True) or 0.5,
        show_trajectory=True,
        profile_before_batch=True,
        semantic_memory=SemanticMemory(),
    )
    before, records, prompts = student.dump_state(), [], []
    for asynchronous in (False, True):
        lm, engine = scripted(asks("recall"))
        if asynchronous:
            aligned = run(student, lm, alignment)
        else:
            with dspy.context(lm=lm):
                aligned = alignment.compile(student, trainset=trainset())
        assert student.dump_state() == before and type(aligned) is type(student)
        assert aligned.persona.text == "This user wants it loud."
        records.append([{**step.to_dict(), "seconds": 0} for step in aligned.alignment_steps])
        prompts.append(sorted(call.text for call in engine.calls))
    assert records[0] == records[1] and prompts[0] == prompts[1] and len(judged) == 12
    assert [s["feedback"] for s in records[1][0]["batch"]] == [f"gradient of {i}" for i in (3, 4, 5)]
    assert [s["recalled"] for s in records[1][0]["batch"]] == [s["recalled"] for s in records[0][0]["batch"]]


@pytest.mark.parametrize("make", [agent, program, holder])
def test_asynchronous_tools_run_on_the_callers_loop(scripted: Any, make: Any) -> None:
    loops: list[Any] = []
    gate: Any = None

    async def showtimes(query: str) -> str:
        """What is on."""
        loops.append(asyncio.get_running_loop())
        await gate.wait()  # all rollouts side by side, or for ever
        return "SEEN"

    lm, engine = scripted(asks("showtimes"))
    student = make(None, showtimes)

    async def aligned() -> Any:
        nonlocal gate
        gate = asyncio.Barrier(3)
        with dspy.context(lm=lm):
            made = await asyncio.wait_for(PersonaAlignment(3).acompile(student, trainset=trainset()), 20)
        assert set(loops) == {asyncio.get_running_loop()} and len(loops) == 3
        return made

    [step] = asyncio.run(aligned()).alignment_steps
    assert [(s.fault, s.faults) for s in step.batch] == [(None, [])] * 3
    assert make is holder or sum("SEEN" in call.user for call in engine.calls if call.role == "answer") == 3


@pytest.mark.parametrize("make", [agent, program, holder])
def test_compile_refuses_tools_that_it_could_not_call(scripted: Any, make: Any) -> None:
    async def showtimes(query: str) -> str:
        """What is on."""
        return "SEEN"

    lm, engine = scripted(asks("showtimes"))
    student = make(None, showtimes)
    with dspy.context(lm=lm):
        with pytest.raises(InputError, match=r"the tool 'showtimes' of the student's .* use acompile"):
            PersonaAlignment(1).compile(student, trainset=trainset())
        assert not engine.calls
    with dspy.context(lm=lm, allow_tool_async_sync_conversion=True):
        PersonaAlignment(1).compile(student, trainset=trainset())
        assert make is holder or [call for call in engine.calls if "SEEN" in call.user]

    async def in_a_notebook() -> None:
        engine.calls.clear()
        with dspy.context(lm=lm, allow_tool_async_sync_conversion=True):
            PersonaAlignment(1).compile(student, trainset=trainset())

    asyncio.run(in_a_notebook())
    assert make is holder or [call for call in engine.calls if "SEEN" in call.user]


class OnlyAsync(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    async def aforward(self, question: str) -> Any:
        return await self.predict.acall(question=question)


class OnlySync(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.predict = dspy.Predict("question -> answer")

    def forward(self, question: str) -> Any:
        return self.predict(question=question)


def test_a_program_of_one_kind_is_sent_to_the_other_method(scripted: Any) -> None:
    lm, engine = scripted(asks("none"))
    only_async, only_sync = (personalize(made(), response="answer").for_user("ann") for made in (OnlyAsync, OnlySync))
    with pytest.raises(InputError, match="OnlyAsync, has aforward but no forward: use acompile"), dspy.context(lm=lm):
        PersonaAlignment(1).compile(only_async, trainset=trainset())
    with pytest.raises(InputError, match="OnlySync, has forward but no aforward: use compile"):
        run(only_sync, lm, PersonaAlignment(1))
    assert not engine.calls
    assert run(only_async, lm, PersonaAlignment(1)).persona.version == 1
    made_sync = personalize(dspy.syncify(OnlyAsync()), response="answer").for_user("ann")
    with dspy.context(lm=lm):
        assert PersonaAlignment(1).compile(made_sync, trainset=trainset()).persona.version == 1


def test_bad_input_is_refused_as_by_compile(scripted: Any) -> None:
    with pytest.raises(InputError, match="trainset must be a list"):
        asyncio.run(PersonaAlignment().acompile(agent(None), trainset=None))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="serves no user"):
        asyncio.run(PersonaAlignment().acompile(dspy.Predict("a -> b"), trainset=[]))


def test_cancelled_it_cancels_its_rollouts(scripted: Any) -> None:
    ended: list[str] = []
    lm, engine = scripted(asks("wait"))

    async def main() -> None:
        begun = asyncio.Semaphore(0)

        async def wait(query: str) -> str:
            """Wait."""
            begun.release()
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise
            return "never"

        with dspy.context(lm=lm):
            settings = dict(dspy.settings.copy())
            task = asyncio.create_task(
                PersonaAlignment(3, num_threads=2).acompile(agent(None, wait), trainset=trainset())
            )
            for _ in range(2):
                await asyncio.wait_for(begun.acquire(), 20)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert dict(dspy.settings.copy()) == settings
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(main())
    assert ended == ["cancelled"] * 2 and engine.roles() == {"step": 2}


@pytest.mark.parametrize(("stop", "steps"), [(True, 1), (False, 6)])
def test_a_failure_is_compiles_and_begins_nothing_further(scripted: Any, stop: bool, steps: int) -> None:
    def script(call: Any) -> Any:
        if call.role == "step" and "question 0" in call.user:
            raise dspy.lm15.AuthError("bad key", provider="x")
        return asks("none")(call)

    for asynchronous in (True, False):
        lm, engine = scripted(script)
        alignment = PersonaAlignment(6, num_threads=1, stop_at_failure=stop)
        student = agent(None, search)
        with pytest.raises(dspy.utils.exceptions.LMError, match="bad key"), dspy.context(lm=lm):
            run(student, lm, alignment) if asynchronous else alignment.compile(student, trainset=trainset())
        asked = {found for call in engine.calls for found in re.findall(r"question (\d)", call.user)}
        assert len(asked) == steps and "update" not in engine.roles()


def search(query: str) -> str:
    """Search."""
    return "found"


def test_a_slow_metric_does_not_hold_up_the_loop(scripted: Any) -> None:
    seen = threading.Event()

    def metric(example: Any, prediction: Any) -> float:
        assert seen.wait(20), "the loop stood still"
        return 0.5

    async def main() -> Any:
        asyncio.get_running_loop().call_later(0.05, seen.set)
        with dspy.context(lm=scripted(asks("none"))[0]):
            return await PersonaAlignment(1, metric=metric).acompile(agent(None), trainset=trainset())

    assert asyncio.run(main()).alignment_steps[0].batch[0].metric_fault is None


def test_calls_are_metered_and_a_reservation_is_the_alignments(store: MemoryStore, scripted: Any) -> None:
    meter = Meter(max_calls=20)
    _, engine = scripted(asks("recall"))
    engines = {"engine": MeteredEngine(engine, meter), "async_engine": AsyncMeteredEngine(engine, meter)}
    lm = dspy.LM("metered", **engines, cache=False)
    with meter.admitted(20), metering() as metered:
        aligned = run(agent(store), lm, PersonaAlignment(3))
        with pytest.raises(dspy.utils.exceptions.LMError, match="the cap of 20 LM calls"):
            run(agent(store), lm, PersonaAlignment(3))
    assert aligned.alignment_steps[0].lm_calls == 13
    assert meter.spent.lm_calls == metered.lm_calls == len(engine.calls) == 20


def test_dspys_callbacks_see_a_compile(scripted: Any) -> None:
    seen: list[Any] = []

    class Watch(BaseCallback):
        def on_compile_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
            seen.append((instance, sorted(inputs)))

        def on_compile_end(self, call_id: str, outputs: Any, exception: Exception | None = None) -> None:
            seen.append(outputs)

    alignment = PersonaAlignment(1)
    made = run(agent(None), scripted(asks("none"))[0], alignment, callbacks=[Watch()])
    assert seen == [(alignment, ["student", "teacher", "trainset", "valset"]), made]


@pytest.mark.parametrize("make", [agent, program])
def test_tools_of_an_mcp_server_work_in_every_rollout(scripted: Any, make: Any) -> None:
    pytest.importorskip("mcp")
    from mcp import Client
    from mcp.server.mcpserver import MCPServer

    server = MCPServer("cinema", log_level="WARNING")
    asked: list[str] = []

    @server.tool()
    def showtimes(query: str) -> str:
        """What the cinema shows this week."""
        asked.append(query)
        return "Friday: Dead Moon."

    lm, engine = scripted(asks("showtimes"))

    async def main() -> Any:
        async with Client(server) as client:
            tools = [dspy.Tool.from_mcp_tool(client, tool) for tool in (await client.list_tools()).tools]
            student = make(None, *tools)
            with dspy.context(lm=lm):
                with pytest.raises(InputError, match="use acompile"):
                    PersonaAlignment(3).compile(student, trainset=trainset())
                return await PersonaAlignment(3).acompile(student, trainset=trainset())

    [step] = asyncio.run(main()).alignment_steps
    assert asked == ["x"] * 3 and [s.faults for s in step.batch] == [[]] * 3
    assert sum("Dead Moon" in call.user for call in engine.calls if call.role == "answer") == 3
