"""What a handle is made of: modules of its own, and the shared one that it came from."""

from __future__ import annotations

import copy
from typing import Any, TypeVar

import dspy

from personaagent.programs.errors import InputError

Module = TypeVar("Module", bound=dspy.Module)


def own(module: Module) -> Module:
    """The module with predictors of its own: a shallow copy, down to them.

    `load` and optimizers write into predictors, and must reach one user only. All else is shared.
    """
    copied = copy.copy(module)
    copied.history, copied.callbacks = [], list(module.callbacks)
    if isinstance(copied, dspy.Predict):
        copied.demos, copied.traces, copied.train = list(copied.demos), [], []
    for name, part in list(vars(copied).items()):
        if isinstance(part, dspy.Module):
            setattr(copied, name, own(part))
    return copied


class Origin:
    """The shared module that a handle was made from, wrapped so that DSPy does not take it for a part of the handle."""

    def __init__(self, module: dspy.Module) -> None:
        self.module: Any = module

    def __deepcopy__(self, memo: dict[int, Any]) -> Origin:
        return self


def check_count(name: str, value: int, least: int) -> None:
    """See that a setting is a whole number.

    Raises:
        InputError: with the rule and the value.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise InputError(f"{name} must be an integer from {least}, but got {value!r}")
