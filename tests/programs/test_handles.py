"""What handles share and what is their own: modules are, and what they keep in lists; all else is shared."""

from __future__ import annotations

import copy
import functools
from collections import Counter, defaultdict, deque
from types import MethodType
from typing import Any, NamedTuple

import dspy
import pytest
from dspy.dsp.utils.utils import dotdict

from personaagent.programs.errors import InputError
from personaagent.programs.handles import MAX_PARTS, Origin, check_count, modules_in, own, shallow
from personaagent.programs.persona import Persona
from personaagent.programs.personalize import personalize


class Nested(dspy.Module):
    def forward(self, query: str) -> Any:
        return self.answer(query=query)

    def __init__(self) -> None:
        super().__init__()
        self.step = dspy.Predict("query -> thought")
        self.answer = dspy.ChainOfThought("query -> response")
        self.store = object()

    def itself(self) -> Any:
        return self


def test_predictors_are_ones_own_at_any_depth_and_all_else_is_shared() -> None:
    module = Nested()
    module.answer.predict.demos = [dspy.Example(query="q")]
    module.answer.predict.traces, module.answer.predict.train = [1], [2]
    copied = own(module)
    assert type(copied) is Nested
    assert copied.store is module.store
    assert copied.answer.predict.signature is module.answer.predict.signature
    pairs = list(zip(module.named_predictors(), copied.named_predictors(), strict=True))
    assert [name for (name, _), _ in pairs] == ["step", "answer.predict"]
    for (_, shared), (_, mine) in pairs:
        assert mine is not shared and mine.demos == shared.demos
        mine.demos.append(dspy.Example(query="mine"))
        mine.signature = mine.signature.with_instructions("MINE")
        mine.callbacks.append("mine")
        assert (mine.traces, mine.train, mine.history) == ([], [], [])
    assert len(module.answer.predict.demos) == 1 and not module.step.demos
    assert "MINE" not in module.step.signature.instructions + module.answer.predict.signature.instructions
    assert not module.step.callbacks and module.answer.predict.traces == [1]


class Deep(dspy.Module):
    """Modules wherever a program may hold them, one of them twice."""

    def __init__(self) -> None:
        super().__init__()
        self.first = Nested()
        self.listed = [self.first, (dspy.Predict("a -> b"), "text")]
        self.named = {"one": {"two": [dspy.Predict("c -> d")]}, "self": self}
        self.waiting = deque([dspy.Predict("e -> f")], maxlen=3)
        self.persona = Persona("of one user")
        self.act = self.run
        self.later = self.first.itself
        self.partly = functools.partial(self.run, 1)
        self.tool = dspy.Tool(self.run)
        self.conversation = dspy.History(messages=[{"a": "b"}])
        self.kept: Any = [defaultdict(list, {"x": [1]}), {"y"}, deque([1], maxlen=2)]

    def run(self, value: int = 0) -> Any:
        """Run."""
        return self


def test_what_is_found_twice_is_one_thing_and_methods_are_the_copys() -> None:
    module = Deep()
    copied = own(module)
    assert copied.listed[0] is copied.first is not module.first
    assert copied.named["self"] is copied and copied.named["one"]["two"][0] is not module.named["one"]["two"][0]
    assert copied.listed[1][0] is not module.listed[1][0] and copied.listed[1][1] == "text"
    assert copied.waiting.maxlen == 3 and copied.waiting[0] is not module.waiting[0]
    assert copied.persona == module.persona and copied.persona is not module.persona
    assert [copied.act(), copied.partly(), copied.tool(), copied.later()] == [copied, copied, copied, copied.first]
    assert [module.act(), module.partly(), module.tool()] == [module] * 3
    assert [type(m).__name__ for m in modules_in(copied)] == [type(m).__name__ for m in modules_in(module)]
    assert not {id(m) for m in modules_in(copied)} & {id(m) for m in modules_in(module)}


def test_what_a_module_keeps_is_its_own() -> None:
    module = Deep()
    copied = own(module)
    copied.kept[0]["x"].append(2)
    copied.kept[0]["new"].append(3)
    copied.kept[1].add("z")
    copied.kept[2].extend([2, 3])
    copied.conversation.messages.append({"c": "d"})
    assert module.kept == [{"x": [1]}, {"y"}, deque([1])] and module.conversation.messages == [{"a": "b"}]
    assert copied.kept[0] == {"x": [1, 2], "new": [3]} and copied.kept[2] == deque([2, 3])


class Steps(NamedTuple):
    first: dspy.Module
    note: str


class Settings(dict[str, Any]):
    """A dictionary of the user's own kind."""


def test_containers_of_any_class_are_ones_own() -> None:
    module = Nested()
    module.steps = Steps(dspy.Predict("a -> b"), "note")
    module.settings = Settings(step=dspy.Predict("c -> d"))
    module.seen, module.plain = Counter("a"), dotdict(words=["x"])
    copied = own(module)
    assert type(copied.steps) is Steps and copied.steps.note == "note" and type(copied.settings) is Settings
    assert copied.steps.first is not module.steps.first
    assert copied.settings["step"] is not module.settings["step"]
    assert not {id(p) for _, p in module.named_parameters()} & {id(p) for _, p in copied.named_parameters()}
    copied.seen.update("b")
    copied.plain.words.append("y")
    assert module.seen == Counter("a") and module.plain.words == ["x"] and type(copied.plain) is dotdict


class Frozen(dict[str, Any]):
    def __setitem__(self, key: str, value: Any) -> None:
        raise TypeError("frozen")


def test_containers_that_cannot_be_written_are_shared() -> None:
    module = Nested()
    module.options = Frozen(a=1)
    assert own(module).options is module.options
    module.options = Frozen(step=dspy.Predict("a -> b"))
    assert own(module).options is module.options
    with pytest.raises(InputError, match=r"all users would share options\['step'\]"):
        personalize(module, query="query", response="response")


def test_names_that_dspy_uses_are_free_for_a_programs_own_state() -> None:
    module = Nested()
    module.history = dspy.History(messages=[{"a": "b"}])
    module.traces, module.demos, module.train = [1], {"one": dspy.Predict("a -> b")}, {"x"}
    copied = own(module)
    copied.history.messages.append({"c": "d"})
    copied.traces.append(2)
    copied.train.add("y")
    assert (module.history.messages, module.traces, module.train) == ([{"a": "b"}], [1], {"x"})
    assert copied.history.messages == [{"a": "b"}, {"c": "d"}]
    assert copied.demos["one"] is not module.demos["one"] and copied.demos["one"] in list(modules_in(copied))


def test_what_contains_itself_is_copied_once() -> None:
    module = Nested()
    module.ring = [module.step]
    module.ring.append(module.ring)
    copied = own(module)
    assert copied.ring[1] is copied.ring and copied.ring[0] is copied.step
    assert len(list(modules_in(copied))) == 4


def test_a_long_list_is_copied_and_not_searched() -> None:
    module = Nested()
    module.many = [dspy.Predict("a -> b") for _ in range(MAX_PARTS + 1)]
    copied = own(module)
    assert copied.many is not module.many and copied.many[0] is module.many[0]
    assert len(list(modules_in(module))) == 4


def test_an_outside_object_is_shared_and_an_outside_modules_method_is_of_a_copy() -> None:
    class Client:
        def search(self) -> Any:
            return self

    client, other, module = Client(), Deep(), Nested()
    module.search, module.other = client.search, other.run
    copied = own(module)
    assert copied.search() is client
    assert isinstance(copied.other(), Deep) and copied.other() is not other


def test_a_method_that_was_set_on_a_module_is_its_copys() -> None:
    module = Nested()
    module.whoami = MethodType(lambda self: self, module)
    copied = shallow(module)
    assert copied.whoami() is copied and module.whoami() is module


def test_what_a_handle_was_made_from_is_no_part_of_it() -> None:
    shared, handle = Nested(), Nested()
    handle.origin = Origin(shared)
    assert [name for name, _ in handle.named_predictors()] == ["step", "answer.predict"]
    assert copy.deepcopy(handle).origin.module is shared
    assert own(handle).origin.module is shared


@pytest.mark.parametrize("value", [-1, 1.0, True, "3", None])
def test_a_count_is_a_whole_number(value: Any) -> None:
    with pytest.raises(InputError, match=f"^examples must be an integer from 0, but got {value!r}$"):
        check_count("examples", value, 0)


def test_the_least_count_is_allowed() -> None:
    check_count("examples", 0, 0)
    check_count("examples", 1, 1)
    with pytest.raises(InputError, match="from 1, but got 0"):
        check_count("examples", 0, 1)
