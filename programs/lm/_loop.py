"""One event loop in a thread of its own, on which all calls to endpoints run.

Only an event loop can end a request whose body comes in drips: a thread that reads from a socket cannot be
stopped from outside. One loop for all callers also keeps connections open between them.
"""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from typing import Protocol

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


class Forked(Protocol):
    """What a forked process takes over from threads that it does not have."""

    def renew(self) -> None:
        """Forget them: who is inside, who waits, and which locks they hold."""


_forked: list[weakref.ref[Forked]] = []


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop, which is started when it is first needed and runs as long as the process."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="lm-calls", daemon=True).start()
        return _loop


def renew_after_fork(thing: Forked) -> None:
    """Have it renewed in every process that is forked from this one."""
    _forked.append(weakref.ref(thing, _forked.remove))


def _forget() -> None:
    global _lock, _loop
    _lock, _loop = threading.Lock(), None
    for thing in [found for reference in _forked if (found := reference()) is not None]:
        thing.renew()


os.register_at_fork(after_in_child=_forget)  # a forked process has the object, but not the thread
