"""What handles share and what is their own: predictors are, and all else is shared."""

from __future__ import annotations

import copy
from typing import Any

import dspy
import pytest

from personaagent.programs.errors import InputError
from personaagent.programs.handles import Origin, check_count, own


class Nested(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.step = dspy.Predict("query -> thought")
        self.answer = dspy.ChainOfThought("query -> response")
        self.store = {"big": "memory"}


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
