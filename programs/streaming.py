"""Streams of a handle reach whoever listens to the shared module.

`dspy.streamify` looks for the predictor of each listener in the module that it is given, and knows it again by
identity. A handle's predictors are its own.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import dspy


@contextmanager
def streaming_as(shared: dspy.Module | None, handle: dspy.Module) -> Iterator[None]:
    """A context in which listeners to the shared module's predictors listen to those of the handle."""
    stream, listeners = dspy.settings.send_stream, dspy.settings.stream_listeners
    if shared is None or stream is None or not listeners:
        yield
        return
    mine = dict(handle.named_predictors())
    by_shared = {id(one): mine[name] for name, one in shared.named_predictors() if name in mine}
    moved = [copy.copy(listener) if id(listener.predict) in by_shared else listener for listener in listeners]
    names: dict[int, int] = {}
    for listener, given in zip(moved, listeners, strict=True):
        if listener is not given:
            listener.predict = by_shared[id(given.predict)]
            names[id(listener.predict)] = id(given.predict)
    with dspy.context(stream_listeners=moved, send_stream=_Renaming(stream, names) if names else stream):
        yield


class _Renaming:
    """A stream to send to, in which what comes of one predictor is said to be of another."""

    def __init__(self, stream: Any, names: dict[int, int]) -> None:
        self._stream = stream
        self._names = names

    async def send(self, value: Any) -> None:
        name = getattr(value, "predict_id", None)
        if name in self._names:
            value.predict_id = self._names[name]
        await self._stream.send(value)

    def __getattr__(self, name: str) -> Any:
        if name == "_stream":  # of a copy that is not filled yet
            raise AttributeError(name)
        return getattr(self._stream, name)
