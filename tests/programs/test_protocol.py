"""The protocol of tool-choosing agents: what it is, that no rewrite loses it, and which file brings which tools."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import dspy
import pytest

from personaagent.programs.errors import InputError
from personaagent.programs.protocol import (
    ProtocolPredict,
    chooses_tools,
    keep_protocol,
    protocol_in,
    tools_of,
)
from personaagent.programs.tools.recall import recall_tool


def search(query: str) -> str:
    """Search the web."""
    return query


SIGNATURE = dspy.Signature("question -> answer", "Answer briefly.\n\n- Use two words.")


def agent(**options: Any) -> Any:
    return dspy.ReAct(SIGNATURE, tools=[search], **options)


def test_the_protocol_is_all_but_the_task() -> None:
    made = agent()
    keep_protocol(made)
    assert made.react.protocol.startswith("You are an Agent.") and "Use two words" not in made.react.protocol
    assert made.react.signature.instructions.endswith(made.react.protocol)
    assert made.react.whole_signature is made.react.signature
    assert protocol_in("only this", "another task") == "only this"


def test_a_tool_is_added_as_dspy_lists_it() -> None:
    made, tool = agent(), recall_tool()
    keep_protocol(made, tool)
    reference = dspy.ReAct(SIGNATURE, tools=[tool, search])
    assert made.react.signature.instructions == reference.react.signature.instructions
    assert made.react.signature.fields.keys() == reference.react.signature.fields.keys()
    annotations = [m.react.signature.fields["next_tool_name"].annotation for m in (made, reference)]
    assert annotations[0] == annotations[1]
    assert list(made.tools) == list(reference.tools) == ["recall", "search", "finish"]
    assert [t.name for t in tools_of(made)] == ["recall", "search"]
    keep_protocol(made, recall_tool())
    assert list(made.tools) == ["recall", "search", "finish"]


def test_another_tool_of_the_name_is_refused() -> None:
    with pytest.raises(InputError, match="'search' already"):
        keep_protocol(agent(), dspy.Tool(search))


def test_which_modules_choose_tools() -> None:
    class Half(dspy.ReAct):
        def __init__(self) -> None:
            dspy.Module.__init__(self)

    assert chooses_tools(agent()) and chooses_tools(dspy.ReActV2(SIGNATURE, tools=[]))
    assert not chooses_tools(Half()) and not chooses_tools(dspy.Predict(SIGNATURE)) and not chooses_tools("text")


def test_a_predictor_of_the_users_own_kind_stays_one() -> None:
    class Mine(dspy.Predict):
        pass

    made = agent()
    made.react = Mine(made.react.signature)
    keep_protocol(made, recall_tool())
    assert type(made.react) is Mine and "(1) recall" in made.react.signature.instructions


@pytest.mark.parametrize("instructions", ["TUNED", "You are an Agent. (1) search"])
def test_a_lost_protocol_follows_the_instructions(instructions: str) -> None:
    made = agent()
    keep_protocol(made)
    predictor = made.react
    predictor.signature = predictor.signature.with_instructions(instructions)
    whole = predictor.whole_signature
    assert whole.instructions.startswith(instructions) and whole.instructions.endswith(predictor.protocol)
    assert predictor.whole_signature is whole and predictor.signature.instructions == instructions
    assert copy.deepcopy(predictor).whole_signature.instructions == whole.instructions


def test_white_space_is_no_loss() -> None:
    made = agent()
    keep_protocol(made)
    shown = "TUNED\n" + made.react.protocol.replace("\n", "\n  ")
    made.react.signature = made.react.signature.with_instructions(shown)
    assert made.react.whole_signature is made.react.signature


def test_a_file_with_other_tools_brings_its_demonstrations_and_not_their_list() -> None:
    first, second = agent(), dspy.ReAct(SIGNATURE, tools=[])
    for made in (first, second):
        keep_protocol(made)
    first.react.demos = [{"question": "a demo"}]
    first.react.signature = first.react.signature.with_instructions("TUNED")
    state = first.react.dump_state()
    assert state["tool_list"] == [str(tool) for tool in first.tools.values()]
    own_instructions = second.react.signature.instructions
    second.react.load_state(state)
    assert second.react.demos == [{"question": "a demo"}]
    assert second.react.signature.instructions == own_instructions
    third = agent()
    keep_protocol(third)
    third.react.load_state(state)
    assert third.react.signature.instructions == "TUNED" and isinstance(third.react, ProtocolPredict)


def test_what_was_tuned_before_is_loaded_if_its_tools_are_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    plain, file = agent(), tmp_path / "plain.json"
    plain.react.signature = plain.react.signature.with_instructions("TUNED " + plain.react.signature.instructions)
    plain.save(file)
    made = agent()
    keep_protocol(made)
    made.load(file)
    assert made.react.signature.instructions.startswith("TUNED ") and not caplog.records
    other = agent()
    keep_protocol(other, recall_tool())
    other.load(file)
    assert "TUNED" not in other.react.signature.instructions and "(1) recall" in other.react.signature.instructions
    assert "saved with other tools" in caplog.records[-1].message
