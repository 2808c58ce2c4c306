"""One event loop in a thread of its own, on which all calls to endpoints run.

Only an event loop can end a request whose body comes in drips: a thread that reads from a socket cannot be
stopped from outside. One loop for all callers also keeps connections open between them.
"""

from __future__ import annotations

import asyncio
import os
import threading

_lock = threading.Lock()
_loop: asyncio.AbstractEventLoop | None = None


def background_loop() -> asyncio.AbstractEventLoop:
    """The loop, which is started when it is first needed and runs as long as the process."""
    global _loop
    with _lock:
        if _loop is None:
            _loop = asyncio.new_event_loop()
            threading.Thread(target=_loop.run_forever, name="lm-calls", daemon=True).start()
        return _loop


def _forget() -> None:
    global _lock, _loop
    _lock, _loop = threading.Lock(), None


os.register_at_fork(after_in_child=_forget)  # a forked process has the object, but not the thread
