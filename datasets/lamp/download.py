"""Fetches the official LaMP files. What has arrived stays, and the same command goes on from there.

While a file is fetched there are, beside its place, `NAME.part` (what has arrived), `NAME.part.json` (of which file
in which state) and `NAME.part.lock`. The lock stays when all is done: removing one that others wait for splits them.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

import requests
import urllib3
from filelock import FileLock, Timeout
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from personaagent.datasets.lamp.official import SPLITS, outputs_file, questions_file
from personaagent.programs.errors import InputError, StoreError

BASE_URL = "https://ciir.cs.umass.edu/downloads/LaMP"

Layout = Literal["time", "user"]

MAX_WAIT_SECONDS = 120.0
"""A server that asks for a longer pause is left alone: the command ends and says so."""

_CHUNK_BYTES = 2**18
_TRY_AGAIN = (408, 425, 429, 500, 502, 503, 504)
_MISSING = (404, 410)
_CLOSING = {b"[": b"]", b"{": b"}"}
_sleep: Callable[[float], None] = time.sleep


def download(
    directory: str,
    split: str,
    to: Path,
    *,
    layout: Layout = "time",
    base_url: str = BASE_URL,
    console: Console | None = None,
    timeout_seconds: float = 30.0,
    attempts: int = 5,
) -> list[Path]:
    """Fetch the questions and the outputs of one task and split.

    A file that is already there is compared with the server's by size, and kept where they are equal or where the
    server does not tell. `test_outputs.json` was never published for some tasks: that it is missing is said and is
    no error. Two processes may fetch into one folder: the second waits, and then finds the file there.

    Args:
        directory: the official name of the task's directory: LaMP_1, LaMP_2/new, LaMP_2, LaMP_3, LaMP_4, LaMP_5.
        split: train, dev or test.
        to: the files land in `to/time/<directory>/<split>` (time layout) or `to/<directory>/<split>` (user layout).
        layout: the time-based split or the user-based one.
        base_url: of a mirror; http or https, without a password.
        console: where the bars and lines go; default standard error.
        timeout_seconds: for the connection, and between any two pieces of a body; above 0.
        attempts: requests that are made for one file before it is given up, at least 1. The pause after a failure is
            what the server asks for by Retry-After, up to `MAX_WAIT_SECONDS`, or else 1, 2, 4, ... 60 seconds.

    Returns:
        The files that are there now, the questions first.

    Raises:
        InputError: if an argument is wrong, a file is not there, or the server does not send it.
        StoreError: if the disk is full or cannot be written. In both cases no file is half-written under its name,
            and what has arrived is gone on from next time.
    """
    folder = _folder(directory, split, layout)
    base_url = _checked_base(base_url)
    if not (0 < timeout_seconds < math.inf):
        raise InputError(f"timeout_seconds must be above 0 and finite but got {timeout_seconds}")
    if attempts < 1:
        raise InputError(f"attempts must be at least 1 but got {attempts}")
    client = _Client(console or Console(stderr=True), timeout_seconds, attempts)
    found: list[Path] = []
    with client.session:
        for name in (questions_file(split), outputs_file(split)):
            file = _File(f"{base_url}/{folder}/{name}", Path(to) / folder / name, f"{folder}/{name}")
            try:
                client.obtain(file)
            except _MissingError:
                if name != outputs_file("test"):
                    raise
                client.say(f"{file.label}: not on the server, so there are no gold answers of this split")
            else:
                found.append(file.path)
    return found


def _folder(directory: str, split: str, layout: str) -> str:
    if not re.fullmatch(r"\w+(/\w+)*", directory, re.ASCII):
        raise InputError(f"directory must be like LaMP_3 or LaMP_2/new but got {directory!r}")
    if split not in SPLITS:
        raise InputError(f"split must be train, dev or test but got {split!r}")
    if layout not in get_args(Layout):
        raise InputError(f"layout must be time or user but got {layout!r}")
    return ("time/" if layout == "time" else "") + f"{directory}/{split}"


def _checked_base(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise InputError("base_url is not a web address") from None
    if parts.password or parts.username:
        raise InputError("base_url must not hold a name or password; put them in ~/.netrc")
    if parts.scheme not in ("http", "https") or not host or re.search(r"[\s\x00-\x1f?#\\]", base_url):
        raise InputError(f"base_url must be a plain http or https address but got {base_url!r}")
    return base_url.rstrip("/")


class _MissingError(InputError):
    """The server has no such file."""


class _BrokenError(Exception):
    """A request that may succeed another time; the message says what happened."""

    def __init__(self, what: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(what)
        self.retry_after_seconds = retry_after_seconds


# --- on disk ---------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Version:
    """Of which file, in which state, a part is."""

    url: str
    etag: str | None
    last_modified: str | None
    size: int | None

    @classmethod
    def sent_with(cls, response: requests.Response, url: str) -> _Version:
        """What the headers of a 200 or 206 say; the size is the whole file's."""
        ranged = re.fullmatch(r"bytes \d+-\d+/(\d+)", response.headers.get("Content-Range", ""))
        size = int(ranged[1]) if ranged else None
        if response.status_code == 200:
            size = _content_length(response)
        return cls(url, response.headers.get("ETag"), response.headers.get("Last-Modified"), size)

    @property
    def condition(self) -> dict[str, str]:
        """If-Range, by which a server that has another version now sends it whole. A weak ETag may not be used."""
        strong = None if (self.etag or "").startswith("W/") else self.etag
        validator = strong or self.last_modified
        return {"If-Range": validator} if validator else {}

    def agrees(self, other: _Version) -> bool:
        """Nothing that both say differs."""
        if None not in (self.size, other.size) and self.size != other.size:
            return False
        if self.etag and other.etag:
            return self.etag.removeprefix("W/") == other.etag.removeprefix("W/")
        if self.last_modified and other.last_modified:
            return self.last_modified == other.last_modified
        return True


@dataclass(frozen=True)
class _File:
    """A file to be, and the part of it that has arrived."""

    url: str
    path: Path
    label: str
    """Its name on the screen."""

    def beside(self, suffix: str) -> Path:
        return self.path.with_name(self.path.name + suffix)

    @property
    def part(self) -> Path:
        return self.beside(".part")

    @property
    def arrived(self) -> int:
        """Bytes of the part, whatever they are of."""
        return self.part.stat().st_size if self.part.exists() else 0

    def version(self) -> _Version | None:
        """What the part is of; None where there is nothing to go on from."""
        if not self.arrived:
            return None
        try:
            version = _Version(**json.loads(self.beside(".part.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return None
        return version if version.url == self.url else None

    def begin(self, version: _Version) -> None:
        """An empty part of this version."""
        # In this order, so that a kill in between never leaves old bytes under a new version.
        with self.part.open("wb") as part:
            os.fsync(part.fileno())
        self.beside(".part.json").write_text(json.dumps(asdict(version)), encoding="utf-8")

    def drop(self) -> None:
        self.part.unlink(missing_ok=True)
        self.beside(".part.json").unlink(missing_ok=True)

    def finish(self) -> None:
        """Give the part its name."""
        with self.part.open("rb+") as part:
            os.fsync(part.fileno())
        os.replace(self.part, self.path)
        self.beside(".part.json").unlink(missing_ok=True)

    def is_closed(self) -> bool:
        """The last bracket of the part closes its first: cheap, and a file that was cut seldom passes."""
        with self.part.open("rb") as part:
            first = _start_of(part.read(_CHUNK_BYTES))
            part.seek(-min(self.arrived, _CHUNK_BYTES), os.SEEK_END)
            return part.read().rstrip()[-1:] == _CLOSING.get(first)


def _start_of(data: bytes) -> bytes:
    return data.removeprefix(b"\xef\xbb\xbf").lstrip()[:1]


@contextmanager
def _disk(file: _File) -> Iterator[None]:
    """Trouble with the disk, in one line."""
    try:
        yield
    except OSError as error:
        raise StoreError(
            f"{file.url}: cannot write {file.part}: {error.strerror or type(error).__name__}; {_goes_on(file)} "
            "once that is mended"
        ) from error


def _goes_on(file: _File) -> str:
    try:
        offset = file.arrived if file.version() else 0
    except OSError:
        offset = 0
    return f"the same command goes on from byte {offset}"


# --- over the wire ---------------------------------------------------------------------------------


class _Client:
    """One session, and how it asks."""

    def __init__(self, console: Console, timeout_seconds: float, attempts: int) -> None:
        self.session = requests.Session()
        # Sizes and ranges are of the bytes as stored, so they must not be compressed on the way.
        self.session.headers.update({"User-Agent": "personaagent", "Accept-Encoding": "identity"})
        self._console, self._timeout_seconds, self._attempts = console, timeout_seconds, attempts

    def say(self, text: str) -> None:
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def obtain(self, file: _File) -> None:
        """See that the file is there, whole."""
        with _disk(file):
            if file.path.exists() and not file.path.is_file():
                raise StoreError(f"{file.path} is in the way: it is not a file; move it elsewhere")
            if file.path.is_file() and self._keeps(file):
                return
            file.path.parent.mkdir(parents=True, exist_ok=True)
            # Not shared with other locks of this process: each call holds its own.
            lock = FileLock(file.beside(".part.lock"), is_singleton=False)
            try:
                lock.acquire(timeout=0)
            except Timeout:
                self.say(f"{file.label}: another process is fetching it; waiting for that one")
                lock.acquire()
        try:
            with _disk(file):  # again, since another process may just have finished it
                kept = file.path.is_file() and self._keeps(file, fetched_again=True)
            if not kept:
                self._fetch(file)
        finally:
            lock.release()

    def _keeps(self, file: _File, fetched_again: bool = False) -> bool:
        """Whether what is there under the name stays; it is said if so, or if `fetched_again`."""
        here, there = file.path.stat().st_size, self._size_there(file)
        if here and there in (here, None):
            unsure = "" if there else "; kept, although the server does not tell its size"
            self.say(f"{file.label}: already here, {here:,} bytes{unsure}")
            return True
        if fetched_again:
            self.say(f"{file.label}: {here:,} bytes here, but not so many on the server; fetching it again")
        return False

    def _size_there(self, file: _File) -> int | None:
        """By HEAD, or None if that does not tell."""
        try:
            response = self.session.head(file.url, allow_redirects=True, timeout=self._timeout_seconds)
        except requests.RequestException:
            return None
        with response:
            if response.status_code != 200 or _is_page(response) or _encoding(response):
                return None
            return _content_length(response) or None  # some servers answer every HEAD with a length of 0

    def _fetch(self, file: _File) -> None:
        columns = (
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=20),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=self._console) as progress:
            bar = progress.add_task(file.path.name, total=None)
            for attempt in range(1, self._attempts + 1):
                try:
                    self._receive(file, progress, bar)
                    break
                except _BrokenError as error:
                    self._pause(file, error, attempt)
                except InputError:
                    progress.update(bar, visible=False)
                    raise
            with _disk(file):
                file.finish()

    def _pause(self, file: _File, error: _BrokenError, attempt: int) -> None:
        """Before the next attempt, if there is to be one."""
        seconds = error.retry_after_seconds
        if seconds is None:
            seconds = min(2.0 ** (attempt - 1), 60.0)
        if attempt == self._attempts:
            tries = "1 attempt" if attempt == 1 else f"{attempt} attempts"
            raise InputError(f"{file.url}: {error}; given up after {tries}; {_goes_on(file)}") from error
        if seconds > MAX_WAIT_SECONDS:
            raise InputError(f"{file.url}: {error}; it asks to wait {seconds:.0f} s; {_goes_on(file)}") from error
        self.say(f"{file.label}: {error}; attempt {attempt + 1} of {self._attempts} in {seconds:.0f} s")
        _sleep(seconds)

    def _receive(self, file: _File, progress: Progress, bar: TaskID) -> None:
        """One request. Returns when the part is whole.

        Raises:
            _BrokenError: if another request may bring the rest.
            InputError, StoreError: if not.
        """
        with _disk(file):
            known, arrived = file.version(), file.arrived
        headers = {"Range": f"bytes={arrived}-", **known.condition} if known else {}
        with self._get(file, headers) as response:
            if response.status_code == 416 and known:
                self._check_nothing_is_left(file, known, response)
                return
            self._check_is_data(file, response)
            version = _Version.sent_with(response, file.url)
            if response.status_code == 206 and not (known and known.agrees(version) and _begins_at(response, arrived)):
                self._start_over(file, "the file has changed on the server, or it sent another piece than asked for")
            offset, size = 0, version.size
            if response.status_code == 206 and known:
                offset, size = arrived, version.size or known.size
            self._check_space(file, size)
            body = _body(response, self._timeout_seconds)
            if not offset:
                body = self._checked_start(file, body)
            with _disk(file):
                if not offset:
                    file.begin(version)
                progress.update(bar, completed=offset, total=size)
                with file.part.open("ab") as part:
                    for piece in body:
                        part.write(piece)
                        part.flush()  # so that after a kill all is there that had arrived
                        progress.advance(bar, len(piece))
        self._check_is_whole(file, size)

    def _get(self, file: _File, headers: dict[str, str]) -> requests.Response:
        try:
            return self.session.get(file.url, headers=headers, stream=True, timeout=self._timeout_seconds)
        except (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError) as error:
            raise _BrokenError(_reason(error, self._timeout_seconds)) from error
        except (requests.RequestException, ValueError) as error:
            what = " ".join(str(error).split())
            raise InputError(f"{file.url}: it cannot be asked for: {what}; check base_url") from error

    def _start_over(self, file: _File, why: str) -> None:
        with _disk(file):
            file.drop()
        raise _BrokenError(f"{why}, so it starts over")

    def _check_nothing_is_left(self, file: _File, known: _Version, response: requests.Response) -> None:
        """A 416: the part is whole, or it is of another file than the server's now."""
        total = re.fullmatch(r"bytes \*/(\d+)", response.headers.get("Content-Range", ""))
        sizes = {known.size, int(total[1]) if total else None} - {None}
        with _disk(file):
            whole = sizes == {file.arrived} and file.is_closed()
        etag = response.headers.get("ETag")
        if not whole or not known.agrees(_Version(file.url, etag, None, None)):
            self._start_over(file, "the file has changed on the server")

    def _check_is_data(self, file: _File, response: requests.Response) -> None:
        status = response.status_code
        if status in _MISSING:
            raise _MissingError(
                f"{file.url}: there is no such file (HTTP {status}); check the directory, the split and the layout, "
                f"or put it at {file.path} by hand"
            )
        if status in _TRY_AGAIN:
            raise _BrokenError(f"HTTP {status}", _retry_after_seconds(response))
        if status not in (200, 206):
            raise InputError(f"{file.url}: the server refuses it (HTTP {status}); {_by_hand(file)}")
        if _is_page(response):
            raise InputError(f"{file.url}: the server sent a web page instead of the data; {_by_hand(file)}")
        if encoding := _encoding(response):
            raise InputError(f"{file.url}: it comes compressed ({encoding!r}), unasked; {_by_hand(file)}")

    def _check_space(self, file: _File, size: int | None) -> None:
        """Before a file of known size. What has arrived is room, too: it is gone on from, or made way."""
        with _disk(file):
            free, needed = shutil.disk_usage(file.path.parent).free, (size or 0) - file.arrived
        if needed > free:
            raise StoreError(
                f"{file.url}: {needed:,} bytes more are needed in {file.path.parent}, but {free:,} are free; "
                f"{_goes_on(file)} once there is room"
            )

    def _checked_start(self, file: _File, body: Iterator[bytes]) -> Iterator[bytes]:
        """The same body, seen to begin as JSON does. What had arrived before is untouched until then."""
        start = b""
        for piece in body:
            start += piece
            if first := _start_of(start):
                break
        else:
            raise InputError(f"{file.url}: the server sent an empty file; {_by_hand(file)}")
        if first not in _CLOSING:
            what = "a web page" if first == b"<" else "something else"
            raise InputError(f"{file.url}: the server sent {what} instead of the data; {_by_hand(file)}")
        return chain([start], body)

    def _check_is_whole(self, file: _File, size: int | None) -> None:
        with _disk(file):
            arrived, closed = file.arrived, file.is_closed()
        # Of a file of unknown size nothing but its last bracket tells that it was cut.
        if arrived < size if size is not None else not closed:
            raise _BrokenError("the connection ended before the file did")
        if size is not None and arrived > size:
            self._start_over(file, "the server sent more than it said")
        if not closed:
            with _disk(file):
                file.drop()
            raise InputError(
                f"{file.url}: the server sent a file that breaks off ({arrived:,} bytes); {_by_hand(file)}"
            )


def _by_hand(file: _File) -> str:
    return f"try again later, or fetch it with a browser and put it at {file.path}"


def _body(response: requests.Response, timeout_seconds: float) -> Iterator[bytes]:
    try:
        # read1 gives what has arrived: iter_content would lose up to a chunk of it when the connection breaks.
        while piece := response.raw.read1(_CHUNK_BYTES, decode_content=False):
            yield piece
    except (OSError, urllib3.exceptions.HTTPError) as error:
        raise _BrokenError(_reason(error, timeout_seconds)) from error


def _content_length(response: requests.Response) -> int | None:
    length = response.headers.get("Content-Length", "")
    chunked = "Transfer-Encoding" in response.headers
    return int(length) if re.fullmatch("[0-9]{1,18}", length) and not chunked else None


def _begins_at(response: requests.Response, offset: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {offset}-")


def _is_page(response: requests.Response) -> bool:
    return response.headers.get("Content-Type", "").lower().startswith(("text/html", "application/xhtml"))


def _encoding(response: requests.Response) -> str:
    encoding = response.headers.get("Content-Encoding", "").strip()
    return "" if encoding.lower() == "identity" else encoding


def _retry_after_seconds(response: requests.Response) -> float | None:
    """Of a Retry-After, which is a number or a date; None where it says nothing."""
    header = response.headers.get("Retry-After", "")
    try:
        return float(urllib3.util.Retry().parse_retry_after(header))
    except (urllib3.exceptions.InvalidHeader, ValueError, OverflowError):
        return None


def _reason(error: BaseException, timeout_seconds: float) -> str:
    """What is at the bottom of an error, in a few words: the texts of requests and urllib3 are pages long."""
    errors: list[BaseException] = []
    inner: BaseException | None = error
    while inner is not None and inner not in errors:  # held as arguments, as `reason` and as causes
        errors.append(inner)
        held = [getattr(inner, "reason", None), *inner.args, inner.__cause__, inner.__context__]
        inner = next((one for one in held if isinstance(one, BaseException)), None)
    for one in errors:
        if isinstance(one, OSError) and one.strerror:
            return " ".join(str(one.strerror).split())
    # Only then: to urllib3 a refused connection is a kind of timeout, too.
    if any(isinstance(one, requests.Timeout | urllib3.exceptions.TimeoutError | TimeoutError) for one in errors):
        return f"nothing came for {timeout_seconds:g} s"
    return "the connection broke"
