"""A Wikipedia that behaves as told, and the tool in front of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from servers.wikipedia import WikipediaServer

from personaagent.programs.tools.wikipedia import Wikipedia


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with WikipediaServer() as running:
        yield running


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def tool(server: Any, clock: Clock) -> Wikipedia:
    return Wikipedia(url=server.url, timeout_seconds=20, clock=clock)
