"""An OpenAI-compatible chat server in miniature on 127.0.0.1, over real HTTP, which answers or misbehaves as told.

By hand: `python -m tests.servers.llm --scenario 500 --scenario hang --rate 0.2 --port 8000` prints the address to
give to `--api-base` and serves until Ctrl-C, then says how often it did what. `--list` shows the scenarios. Without
any it is a well-behaved agent LM: it recalls once, finishes, and answers with a candidate that the prompt names.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import re
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Self

if str(Path(__file__).parents[1]) not in sys.path:  # by hand; pytest has it there
    sys.path.append(str(Path(__file__).parents[1]))

from servers._llm_agent import Prompt, agent_reply, text_of
from servers._llm_scenarios import (
    COMPLETION_TOKENS,
    FORGED,
    GROUPS,
    PROMPT_TOKENS,
    REFUSAL,
    SCENARIOS,
    Exchange,
)

__all__ = [
    "COMPLETION_TOKENS",
    "FORGED",
    "GROUPS",
    "PROMPT_TOKENS",
    "REFUSAL",
    "SCENARIOS",
    "OpenAIServer",
    "Seen",
    "in_fields",
]

OK = "ok"
"""The scenario of a request that is answered well."""


@dataclass(eq=False)
class Seen:
    """One request as it arrived."""

    path: str
    authorization: str | None
    body: dict[str, Any]
    scenario: str = OK
    arrived: float = field(default_factory=time.monotonic)
    seconds: float | None = None
    """Until it was answered or the client hung up; None while neither."""

    @property
    def prompt(self) -> Prompt:
        return Prompt(self.body.get("messages", []))


def in_fields(messages: list[dict[str, Any]], text: str = "a loopback answer") -> str:
    """The text in every field that the last message asks for."""
    asked = re.findall(r"`\[\[ ## (\w+) ## \]\]`", text_of(messages[-1]))
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name in asked if name != "completed")


class OpenAIServer:
    """Serves while the block runs; all that is public may be changed meanwhile.

    A request is answered well or by a scenario, as drawn from the seed, the request's content and how often this
    content came before. Not from its number: that depends on which thread is first, while with a deterministic LM
    the contents of a study's requests do not, so that a study has the same faults in the same places again.

    Args:
        reply: from the messages of a request to the text of a good answer.
        fail_first: so many requests are answered with 500 and a Retry-After of 0.
        unauthorized: every request is answered with 401.
        port: 0 for a free one.
        scenarios: what goes wrong: names of `SCENARIOS` or of `GROUPS`. One of them is drawn for each request.
        rate: the part of the requests that any of them is drawn for, from 0 to 1.
        seed: of the drawing.
        after: so many requests are answered well first, in order of arrival.
        retry_after: of the scenario `429-retry-after`; seconds or a date.
        drip_seconds: between two bytes of the scenarios `drip` and `drip-headers`.
        forever_seconds: how long a scenario goes on that never ends; at last the connection is closed.
        max_prompt_chars: longer prompts are refused, whatever the rate, by the scenario `context_shape`.
    """

    def __init__(
        self,
        reply: Callable[[list[dict[str, Any]]], str] = agent_reply,
        fail_first: int = 0,
        unauthorized: bool = False,
        port: int = 0,
        *,
        scenarios: Sequence[str] = (),
        rate: float = 1.0,
        seed: int = 0,
        after: int = 0,
        retry_after: str = "1",
        drip_seconds: float = 0.2,
        forever_seconds: float = 3600.0,
        max_prompt_chars: int | None = None,
        context_shape: str = "context-length",
    ) -> None:
        if not 0 <= rate <= 1:
            raise ValueError(f"rate must be from 0 to 1 but got {rate}")
        self.requests: list[Seen] = []
        self.scenarios = expanded(scenarios)
        self.rate, self.seed, self.after = rate, seed, after
        self.fail_first, self.unauthorized = fail_first, unauthorized
        self.retry_after, self.drip_seconds, self.forever_seconds = retry_after, drip_seconds, forever_seconds
        self.max_prompt_chars, self.context_shape = max_prompt_chars, context_shape
        self.stopping = threading.Event()
        self.reply = reply
        self._times_seen: Counter[str] = Counter()
        self._lock = threading.Lock()
        self._http = _Server(("127.0.0.1", port), _Handler)
        self._http.owner = self
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    @property
    def counts(self) -> Counter[str]:
        """How many requests were answered by which scenario; `ok` is the well answered."""
        return Counter(seen.scenario for seen in self.requests)

    def heal(self) -> None:
        """Answer everything well from now on."""
        self.scenarios, self.fail_first, self.unauthorized, self.max_prompt_chars = (), 0, False, None

    def admit(self, path: str, authorization: str | None, body: dict[str, Any]) -> Seen:
        """Note a request and draw what becomes of it."""
        content = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
        with self._lock:
            times_seen = self._times_seen[content]
            self._times_seen[content] += 1
            seen = Seen(path, authorization, body, self._scenario(body, content, times_seen))
            self.requests.append(seen)
        return seen

    def _scenario(self, body: dict[str, Any], content: str, times_seen: int) -> str:
        number = len(self.requests) + 1
        if self.unauthorized:
            return "401-bad-key"
        if number <= self.fail_first:
            return "500-retry-now"
        if self.max_prompt_chars is not None and Prompt(body.get("messages", [])).chars > self.max_prompt_chars:
            return self.context_shape
        if number <= self.after or not self.scenarios:
            return OK
        drawn = hashlib.sha256(f"{self.seed} {content} {times_seen}".encode()).digest()
        if int.from_bytes(drawn[:8], "big") >= self.rate * 2**64:
            return OK
        return self.scenarios[int.from_bytes(drawn[8:16], "big") % len(self.scenarios)]

    def serve(self) -> None:
        self._http.serve_forever(poll_interval=0.02)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stopping.set()
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def expanded(names: Sequence[str]) -> tuple[str, ...]:
    """Names of scenarios, those of groups replaced by what is in them; each once."""
    known = [name for given in names for name in GROUPS.get(given, (given,))]
    wrong = [name for name in known if name not in SCENARIOS]
    if wrong:
        raise ValueError(f"unknown scenario {wrong[0]!r}; there are {', '.join([*GROUPS, *SCENARIOS])}")
    return tuple(dict.fromkeys(known))


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = 128
    owner: OpenAIServer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is part of the scenarios."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    wbufsize = -1  # headers and body in one packet: in two, each answer waits for a delayed ACK
    server: _Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        owner = self.server.owner
        seen = owner.admit(self.path, self.headers.get("Authorization"), body)
        waits = (owner.retry_after, owner.drip_seconds, owner.forever_seconds)
        exchange = Exchange(self, body, owner.reply, owner.stopping, *waits)
        try:
            if seen.scenario == OK:
                exchange.send(200, exchange.completion(exchange.good_text()))
            else:
                SCENARIOS[seen.scenario].act(exchange)
        except OSError:  # the client hung up
            self.close_connection = True
        finally:
            seen.seconds = time.monotonic() - seen.arrived

    def log_message(self, format: str, *args: Any) -> None:
        """Silent: what arrived is in `OpenAIServer.requests`."""


def table() -> str:
    """The scenarios, one a line."""
    width = max(map(len, SCENARIOS))
    lines = [f"  {name:{width}}  {scenario.says}" for name, scenario in SCENARIOS.items()]
    groups = [f"  {name:{width}}  {len(names)} of them" for name, names in GROUPS.items()]
    return "\n".join(["scenarios:", *lines, "", "groups:", *groups])


def main() -> None:
    parser = argparse.ArgumentParser(
        description="An OpenAI-compatible chat server in miniature on 127.0.0.1, which misbehaves as told.",
        epilog=table(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    names = [*GROUPS, *SCENARIOS]
    parser.add_argument(
        "--scenario", action="append", default=[], choices=names, metavar="NAME", help="may be given again"
    )
    parser.add_argument("--rate", type=float, default=1.0, help="the part of the requests that go wrong (1)")
    parser.add_argument("--seed", type=int, default=0, help="of what goes wrong where (0)")
    parser.add_argument("--after", type=int, default=0, help="so many requests are answered well first")
    parser.add_argument("--retry-after", default="1", help="of 429-retry-after: seconds or a date (1)")
    parser.add_argument("--drip-seconds", type=float, default=0.2, help="between two bytes of drip (0.2)")
    parser.add_argument("--max-prompt-chars", type=int, help="longer prompts get --context-shape")
    shapes = [name for name in SCENARIOS if name.startswith("context-length")]
    parser.add_argument("--context-shape", choices=shapes, default=shapes[0], metavar="NAME", help=", ".join(shapes))
    parser.add_argument("--fail-first", type=int, default=0, help="so many requests get 500 and a Retry-After of 0")
    parser.add_argument("--unauthorized", action="store_true", help="every request gets 401")
    parser.add_argument("--port", type=int, default=8000, help="0 takes any free port (8000)")
    parser.add_argument("--list", action="store_true", help="show the scenarios and end")
    options = vars(parser.parse_args())
    if options.pop("list"):
        print(table())
        return
    server = OpenAIServer(scenarios=options.pop("scenario"), **options)
    print(server.url, flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        counts = server.counts
        print(f"{counts.total()} requests", *(f"  {name}: {count}" for name, count in counts.most_common()), sep="\n")


if __name__ == "__main__":
    main()
