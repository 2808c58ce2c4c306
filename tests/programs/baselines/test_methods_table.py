"""Who has what: the prompts of every method held against the table of methods."""

from __future__ import annotations

import re
from typing import Any

import dspy
import pytest

from personaagent.programs import PersonaAgent
from personaagent.programs.baselines import BASELINES, Setup, make_baseline

QUESTION = "How tall is a lighthouse?"

# What each may show of a user, and how it is told from everything else. `tool` is the tool's own name in the protocol.
SIGNS = {
    "persona": re.compile(r"</?persona>|PERSONA TEMPLATE"),
    "profile": re.compile(r"PROFILE|`profile`|\[\[ ## profile ## \]\]"),
    "records": re.compile(r"(?:text|answer) \d of ann"),
    "others": re.compile(r"\d of (?:bob|cat)"),
    "notes": re.compile(r"NOTE"),
    "recall tool": re.compile(r"\brecall\b"),
    "wikipedia": re.compile(r"wikipedia", re.IGNORECASE),
    "loop": re.compile(r"trajectory|next_tool_name"),
}
TABLE = {
    "prompt": set(),
    "icl": {"others"},
    "rag": {"records"},
    "pag": {"records", "profile"},
    "react": {"records", "recall tool", "wikipedia", "loop"},
    "react-wiki": {"wikipedia", "loop"},
    "no-persona": {"profile", "records", "recall tool", "wikipedia", "loop"},
    "memory-bank": {"records", "notes", "wikipedia", "loop"},
    "persona-agent": {"persona", "profile", "records", "recall tool", "wikipedia", "loop"},
}


@pytest.fixture
def prompts(setup: Setup, scripted: Any, all_tools: Any) -> dict[str, list[str]]:
    """The prompts by which each method answers one question of Ann's, learning apart."""
    found: dict[str, list[str]] = {}
    for name in TABLE:
        lm, engine = scripted(all_tools)
        with dspy.context(lm=lm):
            handle: Any
            if name == "persona-agent":
                agent = PersonaAgent(
                    setup.signature, setup.memory, tools=setup.tools, persona_template="PERSONA TEMPLATE {profile}"
                )
                handle = agent.for_user("ann", profile="PROFILE")
            else:
                baseline = make_baseline(name, setup)
                learnt = baseline.learn("ann", setup.memory.interactions("ann"))
                handle = baseline.for_user("ann", learnt=learnt)
            learning = len(engine.calls)
            prediction = handle(query=QUESTION)
        assert not prediction.faults
        found[name] = [f"{call.system}\n{call.user}" for call in engine.calls[learning:]]
    return found


def test_the_table_names_every_baseline() -> None:
    assert set(TABLE) == {*BASELINES, "persona-agent"}


@pytest.mark.parametrize("name", TABLE)
def test_a_method_shows_what_the_table_says_and_nothing_else(prompts: dict[str, list[str]], name: str) -> None:
    shown = {sign for sign, pattern in SIGNS.items() if any(pattern.search(prompt) for prompt in prompts[name])}
    assert shown == TABLE[name]


@pytest.mark.parametrize("name", TABLE)
def test_the_question_is_in_every_prompt_and_comes_first(prompts: dict[str, list[str]], name: str) -> None:
    for prompt in prompts[name]:
        assert prompt.count(QUESTION) == 1
        first = re.search(r"^1\. `(\w+)`", prompt, re.MULTILINE)
        assert first is not None and first[1] == "query"


def test_no_two_methods_send_the_same_prompts(prompts: dict[str, list[str]]) -> None:
    last = [sent[-1] for sent in prompts.values()]
    assert len(set(last)) == len(TABLE)
    assert len({tuple(sent) for sent in prompts.values()}) == len(TABLE)


def test_all_methods_ask_for_the_same_answer(prompts: dict[str, list[str]]) -> None:
    for sent in prompts.values():
        declared = sent[-1].partition("Your output fields are:")[2].partition("All interactions")[0]
        assert re.findall(r"`(\w+)`", declared) == ["reasoning", "response"]


def test_records_are_one_a_line_as_recall_writes_them(prompts: dict[str, list[str]]) -> None:
    line = re.compile(r'^2020-01-\d\d «text (\d) of ann» -> "answer \1 of ann"$', re.MULTILINE)
    for name, least in (("rag", 4), ("pag", 4), ("react", 4), ("no-persona", 4), ("memory-bank", 1)):
        assert len(line.findall(prompts[name][-1])) >= least, name


@pytest.mark.parametrize("name", ["react", "react-wiki", "no-persona", "memory-bank"])
def test_a_method_without_its_tools_is_one_call(without_tools: Setup, scripted: Any, all_tools: Any, name: str) -> None:
    setup = Setup(without_tools.signature, without_tools.memory, memories=0 if name != "memory-bank" else 4)
    lm, engine = scripted(all_tools)
    with dspy.context(lm=lm):
        baseline = make_baseline(name, setup)
        handle = baseline.for_user("ann", learnt=baseline.learn("ann", setup.memory.interactions("ann")))
        engine.calls.clear()
        handle(query=QUESTION)
    assert [call.role for call in engine.calls] == ["answer"]
    assert "trajectory" not in engine.calls[0].system + engine.calls[0].user
    assert baseline.answering_calls().expected == 1


def test_without_its_only_tool_react_wiki_is_prompt(without_tools: Setup, scripted: Any) -> None:
    """Which a report has to say: the two rows are one."""
    sent = []
    for name in ("prompt", "react-wiki"):
        lm, engine = scripted()
        with dspy.context(lm=lm):
            make_baseline(name, without_tools).for_user("ann")(query=QUESTION)
        sent.append([(call.system, call.user) for call in engine.calls])
    assert sent[0] == sent[1]
