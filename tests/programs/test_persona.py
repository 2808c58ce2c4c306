"""Persona: identity, lineage, how it is saved, and the initial template."""

from __future__ import annotations

import copy
import hashlib
import json
from pathlib import Path
from typing import Any

import dspy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from personaagent.programs.errors import InputError
from personaagent.programs.persona import NO_PROFILE, Persona, initial_persona

quick = settings(deadline=None, database=None, derandomize=True, max_examples=150)
persona_texts = st.text()


class Holder(dspy.Module):
    """A program that owns a persona."""

    def __init__(self, persona: Persona) -> None:
        super().__init__()
        self.persona = persona


def test_an_empty_persona_is_one(tmp_path: Path) -> None:
    empty = initial_persona(None, ["recall"], "")
    assert empty == Persona("") and empty.rewritten("Likes tea.", ["i"]).parent == empty.digest
    Holder(empty).save(tmp_path / "nobody.json")
    fresh = Holder(Persona("other"))
    fresh.load(tmp_path / "nobody.json")
    assert fresh.persona == empty


def test_a_rewrite_is_a_child_and_leaves_its_parent_alone() -> None:
    parent = Persona("Likes tea.")
    child = parent.rewritten("Likes coffee.", ["i1", "i2"])
    assert (child.text, child.version, child.parent) == ("Likes coffee.", 1, parent.digest)
    assert child.learnt_from == ("i1", "i2")
    assert (parent.text, parent.version, parent.parent, parent.learnt_from) == ("Likes tea.", 0, None, ())


def test_identity_is_text_and_parent() -> None:
    root = Persona("Likes tea.")
    assert root.digest == Persona("Likes tea.").digest
    assert len(root.digest) == 64
    left, right = root.rewritten("L", ["a"]), root.rewritten("R", ["a"])
    assert left.version == right.version
    # The same words from different parents, and a rewrite into the same words, are personas of their own.
    assert len({p.digest for p in (root, left, right, left.rewritten("X", ()), right.rewritten("X", ()))}) == 5
    assert root.rewritten("Likes tea.", ()).digest != root.digest
    assert Persona("X", 1, "a").digest == Persona("X", 1, "a", ["learnt", "elsewhere"]).digest


def test_the_digest_is_the_same_in_every_release() -> None:
    # Stores and journals are keyed by it.
    assert Persona("é").digest == hashlib.sha256('["é", null]'.encode()).hexdigest()
    assert Persona("t", 1, "p").digest == hashlib.sha256(b'["t", "p"]').hexdigest()


def test_a_boundary_between_text_and_parent_cannot_be_moved() -> None:
    assert Persona('a", "b').digest != Persona("a", 0, "b").digest


@quick
@given(persona_texts, st.integers(0, 10), st.none() | st.text(), st.lists(st.text()))
def test_the_state_round_trips_through_json(text: str, version: int, parent: str | None, learnt: list[str]) -> None:
    persona = Persona(text, version, parent, learnt)
    restored = Persona("other").load_state(json.loads(json.dumps(persona.dump_state())))
    assert restored == persona
    assert hash(restored) == hash(persona)
    assert isinstance(restored.learnt_from, tuple)


@pytest.mark.parametrize(
    "state",
    [
        {},
        None,
        [],
        {"text": "t", "version": 1, "parent": None},
        {"text": None, "version": 1, "parent": None, "learnt_from": []},
        {"text": "t", "version": "1", "parent": None, "learnt_from": []},
        {"text": "t", "version": -1, "parent": None, "learnt_from": []},
        {"text": "t", "version": True, "parent": None, "learnt_from": []},
        {"text": "t", "version": 1, "parent": 7, "learnt_from": []},
        {"text": "t", "version": 1, "parent": None, "learnt_from": None},
        {"text": "t", "version": 1.0, "parent": None, "learnt_from": []},
        {"text": "t", "version": 1, "parent": None, "learnt_from": 7},
        {"text": "t", "version": 1, "parent": None, "learnt_from": "i1"},
        {"text": "t", "version": 1, "parent": None, "learnt_from": [1]},
    ],
)
def test_a_bad_state_is_refused_and_changes_nothing(state: Any) -> None:
    persona = Persona("Likes tea.", 2, "p", ["i"])
    before = persona.dump_state()
    with pytest.raises(InputError):
        persona.load_state(state)
    assert persona.dump_state() == before


def test_what_is_no_list_of_ids_is_refused_by_its_name() -> None:
    for value in (None, 7, "i1", b"i1", [1]):
        with pytest.raises(InputError, match=r"Persona\.learnt_from must be a list of interaction ids"):
            Persona("t", 1, "p", value)  # type: ignore[arg-type]
    assert Persona("t", 1, "p", iter(["i1", "i2"])).learnt_from == ("i1", "i2")  # type: ignore[arg-type]


def test_it_is_a_parameter_that_dspy_saves_as_json(tmp_path: Path) -> None:
    program = Holder(Persona("Likes «tea».", 3, "p" * 64, ["i1"]))
    assert [name for name, _ in program.named_parameters()] == ["persona"]
    program.save(tmp_path / "alice.json")
    fresh = Holder(Persona("empty"))
    fresh.load(tmp_path / "alice.json")
    assert fresh.persona == program.persona


def test_copies_for_optimizers_keep_what_was_learnt() -> None:
    program = Holder(Persona("Likes tea.", 1, "p"))
    assert program.reset_copy().persona == program.persona
    deep = copy.deepcopy(program)
    deep.persona.load_state(Persona("other").dump_state())
    assert program.persona.text == "Likes tea."


def test_equality_is_of_the_whole_record() -> None:
    assert Persona("t") == Persona("t")
    assert Persona("t", 1, "p") != Persona("t", 2, "p")
    assert Persona("t") != "t"
    assert "version=4" in repr(Persona("t", 4))


# -- the initial template ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("tools", "says"),
    [
        ((), "There are no tools"),
        (("recall",), "Use the tool recall before you answer"),
        (("recall", "wikipedia"), "at least 2 of the tools (recall, wikipedia)"),
        (("a_tool", "b_tool", "c_tool"), "at least 2 of the tools (a_tool, b_tool, c_tool)"),
    ],
)
def test_the_template_names_the_tools_that_exist_and_asks_for_two_at_most(tools: tuple[str, ...], says: str) -> None:
    text = initial_persona(None, tools).text
    assert says in text
    absent = {"recall", "wikipedia", "a_tool", "b_tool", "c_tool"} - set(tools)
    assert not [name for name in absent if name in text]
    assert "at least 2" not in text or len(tools) >= 2


@pytest.mark.parametrize("profile", [None, "", " \n"])
def test_without_a_profile_nothing_is_known(profile: str | None) -> None:
    persona = initial_persona(profile, ["recall"])
    assert f"What is known of this user: {NO_PROFILE}" in persona.text
    assert (persona.version, persona.parent, persona.learnt_from) == (0, None, ())


@pytest.mark.parametrize(
    "profile", ["{tools}", "{profile}", "{tool_rules} {minimum} {}", "{0} {x!r} %s", "a {{b}} \\1"]
)
def test_braces_of_a_profile_are_not_expanded(profile: str) -> None:
    assert f"What is known of this user: {profile}\n" in initial_persona(profile, ["recall", "wikipedia"]).text


def test_a_template_of_ones_own() -> None:
    template = '{profile}|{tools}|{minimum}|{unknown}|{"json": 1}|{profile}'
    assert initial_persona("P", ["a", "b", "c"], template).text == 'P|a, b, c|2|{unknown}|{"json": 1}|P'
    assert initial_persona("P", [], template).text == 'P|none|0|{unknown}|{"json": 1}|P'


@quick
@given(st.text(), st.lists(st.sampled_from(["recall", "wikipedia", "search"]), unique=True))
def test_the_same_inputs_give_the_same_persona(profile: str, tools: list[str]) -> None:
    assert initial_persona(profile, tools) == initial_persona(profile, tuple(tools))
    assert "{profile}" not in initial_persona(profile.replace("{", ""), tools).text
