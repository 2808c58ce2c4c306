"""What every personalised program must do, whatever its shape. A new shape is one line in `program_shapes.SHAPES`."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import dspy
import program_shapes
import pytest
from program_shapes import MARK, QUESTION, SHAPES, USERS, engine_and_lm, persona_of, personal, plain, remembered

from personaagent.programs import MemoryStore
from personaagent.programs.acting import acting_as

ROUNDS = 3


def named_in(call: Any) -> set[str]:
    """Every user whom a request names, demonstrations included."""
    return set(MARK.findall(call.text))


def ask(handle: Any, name: str, user: str) -> tuple[dict[str, Any], list[str]]:
    lm, engine = engine_and_lm()
    with dspy.context(lm=lm):
        answer = plain(handle(**SHAPES[name].inputs(QUESTION.format(user=user))))
    return answer, [call.text for call in engine.calls]


@pytest.fixture(scope="module")
def memory() -> MemoryStore:
    return remembered()


@pytest.mark.parametrize("name", SHAPES)
class TestOneProgram:
    def test_every_predictor_sees_its_users_persona_and_nobody_elses(self, memory: MemoryStore, name: str) -> None:
        shared = personal(name, memory)
        for user in USERS:
            lm, engine = engine_and_lm()
            with dspy.context(lm=lm):
                shared.for_user(user, persona=persona_of(user))(**SHAPES[name].inputs(QUESTION.format(user=user)))
            assert engine.calls
            for call in engine.calls:
                assert named_in(call) == {user}
                # An agent's stands before its instructions, which DSPy indents.
                assert " ".join(call.system.split()).count(f"<persona> {persona_of(user).text} </persona>") == 1
                assert "<persona>" not in call.text.removeprefix(call.system)

    def test_agents_recall_their_user(self, memory: MemoryStore, name: str) -> None:
        handle = personal(name, memory).for_user("bob")
        assert ("recall" in handle.tool_names) == bool(SHAPES[name].agents)
        answer, _ = ask(handle, name, "bob")
        assert [one[:3] for one in answer["recalled"]] == ["bob", "bob"] * bool(SHAPES[name].agents)

    def test_sync_and_async_send_and_answer_the_same(self, memory: MemoryStore, name: str) -> None:
        handle = personal(name, memory).for_user("ann", persona=persona_of("ann"))
        answer, requests = ask(handle.as_of(None), name, "ann")
        lm, engine = engine_and_lm()

        async def later() -> Any:
            with dspy.context(lm=lm):
                return await handle.acall(**SHAPES[name].inputs(QUESTION.format(user="ann")))

        assert plain(asyncio.run(later())) == answer
        assert [call.text for call in engine.calls] == requests

    @pytest.mark.parametrize("how", ["threads", "tasks", "asyncify", "evaluate"])
    def test_users_at_once_do_not_meet(self, memory: MemoryStore, name: str, how: str) -> None:
        shape, shared = SHAPES[name], personal(name, memory)
        handles = [shared.for_user(user, persona=persona_of(user)) for user in USERS for _ in range(ROUNDS)]
        inputs = [shape.inputs(QUESTION.format(user=handle.user_id)) for handle in handles]
        lm, engine = engine_and_lm()
        engine.latency_seconds = 0.0005

        async def together(calls: list[Any]) -> list[Any]:
            return list(await asyncio.gather(*calls))

        with dspy.context(lm=lm):
            if how == "threads":
                pairs = list(zip(handles, inputs, strict=True))
                found = dspy.Parallel(num_threads=4, disable_progress_bar=True, timeout=0)(pairs)
            elif how == "tasks":
                calls = [handle.acall(**given) for handle, given in zip(handles, inputs, strict=True)]
                found = asyncio.run(together(calls))
            elif how == "asyncify":
                calls = [dspy.asyncify(handle)(**given) for handle, given in zip(handles, inputs, strict=True)]
                found = asyncio.run(together(calls))
            else:
                found = []
                for handle, given in list(zip(handles, inputs, strict=True))[::ROUNDS]:
                    devset = [dspy.Example(**given).with_inputs(*given)] * ROUNDS
                    evaluate = dspy.Evaluate(devset=devset, metric=lambda e, p: 1.0, num_threads=2)
                    found += [prediction for _, prediction, _ in evaluate(handle).results]
        for handle, prediction in zip(handles, found, strict=True):
            said = json.dumps(plain(prediction))
            assert set(MARK.findall(said)) <= {handle.user_id}
        for call in engine.calls:
            # A conversation of one user's goes on in whichever thread is next.
            assert len(named_in(call)) == 1

    def test_a_copy_asks_and_answers_the_same(self, memory: MemoryStore, name: str) -> None:
        handle = personal(name, memory).for_user("ann", persona=persona_of("ann"))
        copies = [handle.deepcopy(), handle.reset_copy(), handle.with_persona(handle.persona), handle.as_of(None)]
        expected = ask(handle, name, "ann")
        for copied in copies:
            assert ask(copied, name, "ann") == expected
            assert copied.dump_state() == handle.dump_state()

    def test_its_parameters_are_the_programs(self, memory: MemoryStore, name: str) -> None:
        program = SHAPES[name].make(memory)
        names = [n if n != "self" else "" for n, _ in program.named_parameters()]
        handle = personal(name, memory).for_user("ann")
        assert [n for n, _ in handle.named_parameters()] == ["persona", *(f"program.{n}".rstrip(".") for n in names)]
        instructions = [p.signature.instructions for _, p in handle.named_predictors()]
        assert not any("ann" in text or "<persona>" in text for text in instructions)

    def test_an_lm_of_its_own_and_one_of_a_part(self, memory: MemoryStore, name: str) -> None:
        handle = personal(name, memory).for_user("ann", persona=persona_of("ann"))
        (lm, engine), (part, part_engine) = engine_and_lm(), engine_and_lm()
        handle.predictors()[0].lm = part
        with dspy.context(lm=lm), dspy.track_usage() as usage:
            prediction = handle(**SHAPES[name].inputs(QUESTION.format(user="ann")))
        calls = [*engine.calls, *part_engine.calls]
        assert part_engine.calls and all(named_in(call) == {"ann"} for call in calls)
        assert prediction.lm_calls == len(calls)
        assert usage.get_total_tokens()["scripted"]["prompt_tokens"] == prediction.prompt_tokens == 100 * len(calls)

    def test_inside_another_users_program_it_is_its_own_users(self, memory: MemoryStore, name: str) -> None:
        handle = personal(name, memory).for_user("ann", persona=persona_of("ann"))
        expected = ask(handle.as_of(None), name, "ann")
        with acting_as(persona_of("bob").text):
            assert ask(handle, name, "ann") == expected

    def test_a_handle_is_cheap(self, memory: MemoryStore, name: str) -> None:
        shared, persona, best = personal(name, memory), persona_of("ann"), 1.0
        for _ in range(50):
            started = time.perf_counter()
            shared.for_user("ann", persona=persona)
            best = min(best, time.perf_counter() - started)
        assert best < 0.001


def test_all_shapes_are_saved_and_loaded_in_a_fresh_process(memory: MemoryStore, tmp_path: Path) -> None:
    expected = {}
    for name in SHAPES:
        handle = personal(name, memory).for_user(
            "ann", persona=persona_of("ann").rewritten("Does it as ann did.", ["1"])
        )
        with dspy.context(lm=engine_and_lm()[0], trace=[]):
            traced = handle.as_of(None)
            traced(**SHAPES[name].inputs("a demonstration of ann"))
            names = {id(predictor): path for path, predictor in traced.named_predictors()}
            demos = {
                names.get(id(p)): dspy.Example(augmented=True, **asked, **said)
                for p, asked, said in dspy.settings.trace
            }
        for path, predictor in handle.named_predictors():
            predictor.demos = [demos[path]]
            predictor.signature = predictor.signature.with_instructions(predictor.signature.instructions + "\nTUNED")
        handle.save(tmp_path / f"{name}.json")
        answer, requests = ask(handle, name, "ann")
        assert any("TUNED" in text and "demonstration" in text for text in requests)
        expected[name] = {"answer": answer, "requests": requests, "persona": handle.persona.dump_state()}
    command = [sys.executable, program_shapes.__file__, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert json.loads(run.stdout) == expected
