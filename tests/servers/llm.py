"""An OpenAI-compatible chat server in miniature on 127.0.0.1, over real HTTP, which answers as told.

By hand: `python -m tests.servers.llm --port 8000` prints the address to give to `--api-base` and serves
until Ctrl-C. It answers in the fields that the prompt asks for, all with the same text.
"""

from __future__ import annotations

import argparse
import json
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self

PROMPT_TOKENS, COMPLETION_TOKENS = 11, 7
"""Of every answer, whatever its length."""


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    path: str
    authorization: str | None
    body: dict[str, Any]


def in_fields(messages: list[dict[str, Any]], text: str = "a loopback answer") -> str:
    """The text in every field that the last message asks for."""
    asked = re.findall(r"`\[\[ ## (\w+) ## \]\]`", _text(messages[-1]["content"]))
    return "\n\n".join(f"[[ ## {name} ## ]]\n{text}" for name in asked if name != "completed")


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content)


class OpenAIServer:
    """Serves while the block runs.

    Args:
        reply: from the messages of a request to the text of the answer.
        fail_first: so many requests are answered with 500 and a Retry-After of 0.
        unauthorized: every request is answered with 401.
        port: 0 for a free one.
    """

    def __init__(
        self,
        reply: Callable[[list[dict[str, Any]]], str] = in_fields,
        fail_first: int = 0,
        unauthorized: bool = False,
        port: int = 0,
    ) -> None:
        self.requests: list[Seen] = []
        self._reply = reply
        self._fail_first = fail_first
        self._unauthorized = unauthorized
        self._lock = threading.Lock()
        self._http = ThreadingHTTPServer(("127.0.0.1", port), _handler(self))
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}/v1"

    def answer(self, seen: Seen) -> tuple[int, dict[str, Any]]:
        with self._lock:
            self.requests.append(seen)
            number = len(self.requests)
        if self._unauthorized:
            return 401, _error("Incorrect API key provided.", "invalid_request_error", "invalid_api_key")
        if number <= self._fail_first:
            return 500, _error("The server had an error.", "server_error", None)
        choice = {
            "index": 0,
            "message": {"role": "assistant", "content": self._reply(seen.body["messages"])},
            "finish_reason": "stop",
        }
        usage = {
            "prompt_tokens": PROMPT_TOKENS,
            "completion_tokens": COMPLETION_TOKENS,
            "total_tokens": PROMPT_TOKENS + COMPLETION_TOKENS,
        }
        return 200, {
            "id": f"chatcmpl-{number}",
            "object": "chat.completion",
            "created": 0,
            "model": seen.body["model"],
            "choices": [choice],
            "usage": usage,
        }

    def serve(self) -> None:
        self._http.serve_forever(poll_interval=0.02)

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


def _error(message: str, kind: str, code: str | None) -> dict[str, Any]:
    return {"error": {"message": message, "type": kind, "param": None, "code": code}}


def _handler(server: OpenAIServer) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # headers and body in one packet: in two, each answer waits for a delayed ACK

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            status, content = server.answer(Seen(self.path, self.headers.get("Authorization"), body))
            data = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            if status == 500:
                self.send_header("Retry-After", "0")
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    return Handler


def main() -> None:
    parser = argparse.ArgumentParser(description="An OpenAI-compatible chat server in miniature.")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--fail-first", type=int, default=0, help="so many requests get 500")
    parser.add_argument("--unauthorized", action="store_true", help="every request gets 401")
    options = parser.parse_args()
    server = OpenAIServer(fail_first=options.fail_first, unauthorized=options.unauthorized, port=options.port)
    print(server.url, flush=True)
    try:
        server.serve()
    except KeyboardInterrupt:
        pass


if __name__ == "__main__":
    main()
