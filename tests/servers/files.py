"""A file server in miniature on 127.0.0.1, over real HTTP, with ranges, and with faults as told.

By hand: `python tests/servers/files.py FOLDER --fault cut --port 0` prints the address to give as `base_url` and
serves the folder until Ctrl-C. The fault is of the first request for each file; every other one is answered well.
"""

from __future__ import annotations

import argparse
import hashlib
import re
import socket
import struct
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Literal, Self
from urllib.parse import urlsplit


@dataclass(frozen=True)
class Fault:
    """How one GET is answered; by default, well. Counts are of bytes of the body that is sent."""

    status: int | None = None
    """Instead of the file."""
    headers: Mapping[str, str] = field(default_factory=dict)
    """Besides or instead of the right ones."""
    body: bytes | None = None
    """Instead of the file's content, with status 200."""
    cut_after: int | None = None
    """Then the connection is closed."""
    reset_after: int | None = None
    """Then it is reset; 0 is before any answer."""
    stall_after: int | None = None
    """Then nothing comes until the server stops or `FilesServer.go_on` is set."""
    ignore_range: bool = False
    ignore_if_range: bool = False
    shift_range: int = 0
    """So many bytes later than asked for."""
    no_length: bool = False
    """The end of the connection is the end of the body."""
    before: Callable[[], None] | None = None
    """Called before the request is looked at, to change the file."""


@dataclass(frozen=True)
class Seen:
    """One request as it arrived."""

    method: str
    path: str
    headers: Mapping[str, str]

    @property
    def range(self) -> str | None:
        return self.headers.get("Range")


class FilesServer:
    """Serves while the block runs.

    Args:
        files: path below `url`, without a leading slash, to content; may be changed while it runs.
        port: 0 for a free one.
    """

    def __init__(self, files: Mapping[str, bytes], port: int = 0) -> None:
        self.files = dict(files)
        self.script: list[Fault] = []
        """Of the GETs to come, in order; when it is used up they are answered well."""
        self.always: Fault | None = None
        """Of every GET that the script does not answer."""
        self.first: Fault | None = None
        """Of the first GET of each path."""
        self.head: Literal["ok", "refused", "page", "no length", "zero"] = "ok"
        self.validators: Literal["strong", "weak", "date", "none"] = "strong"
        """Which of ETag and Last-Modified are sent: both, both and the ETag weak, the latter, neither."""
        self.seen: list[Seen] = []
        self.go_on = threading.Event()
        self._lock = threading.Lock()
        self._server = _Server(("127.0.0.1", port), _Handler)
        self._server.files = self
        self.url = f"http://127.0.0.1:{self._server.server_port}/LaMP"

    @property
    def gets(self) -> list[Seen]:
        return [seen for seen in self.seen if seen.method == "GET"]

    def next_fault(self, seen: Seen) -> Fault:
        with self._lock:
            is_first = seen.path not in [one.path for one in self.gets]
            self.seen.append(seen)
            if self.script:
                return self.script.pop(0)
            return (self.first if is_first else None) or self.always or Fault()

    def serve_forever(self) -> None:
        self._server.serve_forever(poll_interval=0.02)

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.go_on.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False
    files: FilesServer

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hung up is part of the scenarios."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    server: _Server

    def log_message(self, format: str, *args: object) -> None:
        """Silent: what arrived is in `FilesServer.seen`."""

    def do_HEAD(self) -> None:
        files = self.server.files
        seen = self._seen()
        files.seen.append(seen)
        content = files.files.get(seen.path)
        length = {"zero": 0, "no length": None}.get(files.head, len(content or b""))
        if files.head == "refused":
            self._start(405, 0, {})
        elif content is None:
            self._start(404, 0, {})
        else:
            kind = "text/html; charset=utf-8" if files.head == "page" else "application/json"
            self._start(200, length, {"Content-Type": kind, **self._validators(content)})

    def do_GET(self) -> None:
        files = self.server.files
        seen = self._seen()
        fault = files.next_fault(seen)
        if fault.before:
            fault.before()
        if fault.reset_after == 0:
            self._reset()
            return
        content = files.files.get(seen.path) if fault.body is None else fault.body
        status = fault.status or (404 if content is None else None)
        if status is not None or content is None:
            page = b"<!DOCTYPE html>\n<html><body>no</body></html>\n"
            self._start(status or 404, len(page), {"Content-Type": "text/html", **fault.headers})
            self.wfile.write(page)
            return
        headers = {"Content-Type": "application/json", "Accept-Ranges": "bytes", **self._validators(content)}
        start, status = 0, 200
        asked = re.fullmatch(r"bytes=(\d+)-", seen.range or "")
        condition = seen.headers.get("If-Range")
        holds = fault.ignore_if_range or condition in (None, headers.get("ETag"), headers.get("Last-Modified"))
        if asked and holds and not fault.ignore_range:
            start, status = int(asked[1]) + fault.shift_range, 206
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        if start >= len(content) > 0:
            self._start(416, 0, {**headers, "Content-Range": f"bytes */{len(content)}", **fault.headers})
            return
        body = content[start:]
        self._start(status, None if fault.no_length else len(body), {**headers, **fault.headers})
        self._send(body, fault)

    def _send(self, body: bytes, fault: Fault) -> None:
        stops = (fault.cut_after, fault.reset_after, fault.stall_after)
        end = next((stop for stop in stops if stop is not None), len(body))
        self.wfile.write(body[:end])
        if fault.stall_after is not None:
            self.server.files.go_on.wait()
            self.wfile.write(body[end:])
        elif fault.reset_after is not None:
            self._reset()
        elif fault.cut_after is not None or fault.no_length or fault.headers.get("Content-Length"):
            self.close_connection = True

    def _seen(self) -> Seen:
        return Seen(self.command, urlsplit(self.path).path.removeprefix("/LaMP/"), dict(self.headers.items()))

    def _validators(self, content: bytes) -> dict[str, str]:
        kind = self.server.files.validators
        digest = hashlib.sha256(content).hexdigest()
        etag = f'"{digest[:16]}"' if kind == "strong" else f'W/"{digest[:16]}"'
        date = f"Mon, 01 Jan 2024 00:{int(digest[:4], 16) % 60:02}:{int(digest[4:8], 16) % 60:02} GMT"
        if kind == "none":
            return {}
        return {"Last-Modified": date} if kind == "date" else {"ETag": etag, "Last-Modified": date}

    def _start(self, status: int, length: int | None, headers: Mapping[str, str]) -> None:
        self.send_response(status)
        lengths = {} if length is None else {"Content-Length": str(length)}
        for name, value in {**lengths, **headers}.items():
            self.send_header(name, value)
        if length is None:
            self.send_header("Connection", "close")
        self.end_headers()

    def _reset(self) -> None:
        """RST: what the client has not read yet is lost to it."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.connection.close()
        self.close_connection = True


FAULTS: dict[str, Fault] = {
    "none": Fault(),
    "cut": Fault(cut_after=1000),
    "reset": Fault(reset_after=0),
    "overloaded": Fault(status=503, headers={"Retry-After": "2"}),
    "page": Fault(body=b"<html><body>Log in</body></html>"),
    "no-length": Fault(no_length=True),
    "stall": Fault(stall_after=1000),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="A file server in miniature on 127.0.0.1.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--fault", choices=sorted(FAULTS), default="none")
    parser.add_argument("--port", type=int, default=0, help="0 takes any free port")
    arguments = parser.parse_args()
    paths = [path for path in arguments.folder.rglob("*") if path.is_file()]
    contents = {path.relative_to(arguments.folder).as_posix(): path.read_bytes() for path in paths}
    files = FilesServer(contents, arguments.port)
    files.first = FAULTS[arguments.fault]
    print(files.url, flush=True)
    try:
        files.serve_forever()
    except KeyboardInterrupt:
        print(f"{len(files.seen)} requests")


if __name__ == "__main__":
    main()
