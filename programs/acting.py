"""Whose persona is in effect, and the adapters that put it into the system message of every predictor.

The persona is a value of DSPy's own context, `dspy.settings`, so that it goes wherever a program goes: into tasks,
`dspy.Parallel`, `dspy.asyncify` and every thread that copies the context. There is one at a time: a program that is
personalised for one user inside of another's is prompted with its own persona only.

It is added to the messages that an adapter has formatted, and to nothing else. Predictors, signatures and
demonstrations, which optimizers and `save` read, never hold it, and replies are parsed as they would be without it.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from contextvars import ContextVar
from functools import lru_cache
from typing import Any

import dspy
from dspy.utils.callback import BaseCallback

from personaagent.programs.errors import PersonaAgentError
from personaagent.programs.quoting import persona_block

_SETTING = "personaagent_persona"
"""In `dspy.settings`: the persona's block as the prompt shows it, "" for none."""


def acting_as(text: str) -> AbstractContextManager[None]:
    """A context in which every predictor has this persona in its system message, and no other one.

    Args:
        text: of the persona. One that is empty adds nothing to a prompt; a persona around the block is out of
            effect all the same.

    Raises:
        PersonaAgentError: if the adapter of DSPy's settings is no `dspy.Adapter`. Within the block a request raises it
            whose adapter writes its messages elsewhere than in `format`.
    """
    block = persona_block(text)
    if not block:
        return dspy.context(**acting_as_nobody())
    adapter = personal(dspy.settings.adapter or dspy.ChatAdapter())
    return dspy.context(adapter=adapter, callbacks=[*_callbacks(), KEEPER], **{_SETTING: block})


def acting_as_nobody() -> dict[str, Any]:
    """DSPy's settings as they are here, for `dspy.context`, with no persona in effect."""
    return {"adapter": plain(dspy.settings.adapter), "callbacks": _callbacks(), _SETTING: ""}


def _callbacks() -> list[Any]:
    return [callback for callback in dspy.settings.callbacks if callback is not KEEPER]


def personal(adapter: Any) -> Any:
    """A copy of the adapter, of a kind that puts the persona in effect at the top of the system message.

    What the adapter keeps on itself in a call is the copy's. Its class is one of the same name below the adapter's
    own: what is of DSPy's `JSONAdapter` stays so.

    Raises:
        PersonaAgentError: if the adapter is not one of DSPy's `Adapter` kind.
    """
    if isinstance(adapter, _Personal):
        return adapter
    if not isinstance(adapter, dspy.Adapter):
        raise PersonaAgentError(f"a persona needs an adapter that is a dspy.Adapter, but got {adapter!r}")
    made: Any = copy.copy(adapter)
    made.__class__ = _kind(type(adapter))
    for name, part in vars(made).items():
        if isinstance(part, dspy.Adapter):  # one that it hands calls on to
            setattr(made, name, personal(part))
    return made


def plain(adapter: Any) -> Any:
    """The adapter that `personal` was given, as it was but for the copy; another one is returned as it is."""
    kind = kind_of(adapter)
    if kind is type(adapter):
        return adapter
    made = copy.copy(adapter)
    made.__class__ = kind
    for name, part in vars(made).items():
        if isinstance(part, _Personal):
            setattr(made, name, plain(part))
    return made


def kind_of(adapter: Any) -> type:
    """The adapter's class, and of what `personal` has made the class that was there before."""
    kind = type(adapter)
    return kind.__bases__[1] if _Personal in kind.__bases__ else kind


class _Personal:
    """What `personal` adds to an adapter's class."""

    def format(self, *args: Any, **kwargs: Any) -> Any:
        token = _formats.set(_formats.get() + 1)
        try:
            messages = super().format(*args, **kwargs)  # type: ignore[misc]
        finally:
            _formats.reset(token)
        block = dspy.settings.get(_SETTING, "")
        if not block:
            return messages
        messages = _with_block(messages, block)
        placed = _placed.get()
        if placed is not None:
            placed.append(self)
        keep_prompt = getattr(self, "_keep_prompt", None)
        if keep_prompt is not None:  # a careful adapter
            keep_prompt(messages)
        return messages

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        with _seen_to(self):
            return super().__call__(*args, **kwargs)  # type: ignore[misc]

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        with _seen_to(self):
            return await super().acall(*args, **kwargs)  # type: ignore[misc]

    def _make_json_adapter_fallback(self) -> Any:
        return personal(super()._make_json_adapter_fallback())  # type: ignore[misc]


def _kind(base: Any) -> Any:
    # Classes that are made on the way, as DSPy's Refine makes them, hold what they were made with.
    return _made_kind(base) if "<locals>" in base.__qualname__ else _lasting_kind(base)


@lru_cache(maxsize=256)
def _lasting_kind(base: Any) -> Any:
    return _made_kind(base)


def _made_kind(base: type) -> type:
    names = {"__module__": base.__module__, "__qualname__": base.__qualname__, "__doc__": base.__doc__}
    kind: Any = type(base)(base.__name__, (_Personal, base), names)
    for method in ("format", "parse"):
        # DSPy wraps both in every subclass, so that callbacks would be told twice.
        if method in vars(kind):
            delattr(kind, method)
    return kind


_placed: ContextVar[list[Any] | None] = ContextVar("personaagent_persona_placed", default=None)
"""Within an adapter's call: who has placed the persona in messages, time by time."""


_formats: ContextVar[int] = ContextVar("personaagent_formats", default=0)
"""How many `format`s are under way, each calling that of the class above it: the outermost's messages are sent."""


@contextmanager
def _seen_to(adapter: Any) -> Iterator[None]:
    """See that the persona was placed: an adapter may write its messages elsewhere than in `format`."""
    if _placed.get() is not None or not dspy.settings.get(_SETTING, ""):
        yield
        return
    placed: list[Any] = []
    token = _placed.set(placed)
    try:
        yield
    finally:
        _placed.reset(token)
    if not placed:
        raise PersonaAgentError(
            f"{type(adapter).__name__} writes its messages elsewhere than in `format`, so that no persona could be "
            f"added: let its __call__ and acall use self.format, or an adapter that is one of its attributes"
        )


def _with_block(messages: Any, block: str) -> list[Any]:
    if not isinstance(messages, list):
        raise PersonaAgentError(f"a persona needs a list of messages, but the adapter's `format` made {messages!r}")
    first = messages[0] if messages else None
    if not isinstance(first, dict) or first.get("role") not in ("system", "developer"):
        return [{"role": "system", "content": block}, *messages]
    said = first.get("content")
    if isinstance(said, list):  # parts
        part = {"type": "text", "text": block}
        content: Any = said if said[:1] == [part] else [part, *said]
    else:
        content = said if said and said.startswith(block) else f"{block}\n\n{said}" if said else block
    return [{**first, "content": content}, *messages[1:]]


class _Keeper(BaseCallback):
    """Keeps the persona in effect where a program has an adapter of its own: `dspy.context(adapter=...)`, an adapter
    that hands on to one that it does not show, as `dspy.Refine`'s does, or one that is called without a predictor."""

    def __init__(self) -> None:
        self._chosen: dict[str, AbstractContextManager[None]] = {}

    def on_module_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        if not isinstance(instance, dspy.Predict) or not dspy.settings.get(_SETTING) or call_id in self._chosen:
            return  # the last: both the context's and the predictor's callbacks have it
        adapter = dspy.settings.adapter or dspy.ChatAdapter()
        if isinstance(adapter, _Personal):
            return
        callbacks = dspy.settings.callbacks
        try:
            adapter = personal(adapter)
        except PersonaAgentError as error:
            adapter = _Refusing(error)  # what a callback raises is logged, and no more
        chosen: AbstractContextManager[None] = dspy.context(
            adapter=adapter, callbacks=callbacks if KEEPER in callbacks else [*callbacks, KEEPER]
        )
        chosen.__enter__()
        self._chosen[call_id] = chosen

    def on_module_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        chosen = self._chosen.pop(call_id, None)
        if chosen is not None:
            chosen.__exit__(None, None, None)

    def on_adapter_format_start(self, call_id: str, instance: Any, inputs: dict[str, Any]) -> None:
        _formats.set(_formats.get() + 1)

    def on_adapter_format_end(self, call_id: str, outputs: Any, exception: BaseException | None = None) -> None:
        _formats.set(_formats.get() - 1)
        if _formats.get():
            return
        block, placed = dspy.settings.get(_SETTING, ""), _placed.get()
        # A second request of an adapter that has placed it, such as one that reads an answer, is not the user's.
        if block and isinstance(outputs, list) and (placed is None or all(by is KEEPER for by in placed)):
            outputs[:] = _with_block(outputs, block)
            if placed is not None:
                placed.append(KEEPER)

    def __deepcopy__(self, memo: dict[int, Any]) -> _Keeper:
        return self

    def __reduce__(self) -> str:
        return "KEEPER"


class _Refusing(dspy.Adapter):
    """Raises what there is to say of the adapter in whose place it is."""

    def __init__(self, error: PersonaAgentError) -> None:
        super().__init__()
        self._error = error

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error

    async def acall(self, *args: Any, **kwargs: Any) -> Any:
        raise self._error


KEEPER = _Keeper()
"""For the callbacks of DSPy's context, and of a handle's predictors: a program may set those of the context."""
