"""Reading JSON files of any size record by record, and saying what is wrong with one and where."""

from __future__ import annotations

import hashlib
import json
import re
import reprlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import ijson
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from personaagent.programs.errors import InputError

_CHUNK = 1 << 20
_BAR_FROM_BYTES = 32 << 20
"""Smaller files are read before a bar could be read."""
_STARTS = (
    (b"\x1f\x8b", "it is a gzip file, and JSON is expected: unpack it with gunzip"),
    (b"PK\x03\x04", "it is a zip file, and JSON is expected: unpack it"),
    (b"version https://git-lfs", "it is a git-lfs pointer, and not the data: fetch that with git lfs pull"),
    (b"<", "it is a web page, and JSON is expected: download the file again"),
    (b"\xff\xfe", "it is UTF-16, and UTF-8 is expected: save it as UTF-8"),
    (b"\xfe\xff", "it is UTF-16, and UTF-8 is expected: save it as UTF-8"),
    (b"\xef\xbb\xbf", "it begins with a byte order mark: save it as UTF-8 without one"),
)
_NESTED = re.compile(rb"[\[{](?:[^\[\]{}]{0,200}[\[{]){500}")
"""So deep is nothing of LaMP's, and ijson's memory grows with the square of the depth: 100 kB of [ take 25 GB."""
_STRING = re.compile(rb'"(?:[^"\\]++|\\.)*+"?', re.DOTALL)
_SHOWN = 64
"""Characters of a wrong value that a message shows."""


def file_digest(paths: Sequence[Path]) -> str:
    """SHA-256 of files one after the other.

    Raises:
        InputError: if one cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        with open_data(path, "checking") as file:
            while chunk := file.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def stream(path: Path, prefix: str) -> Iterator[Any]:
    """The values under a prefix of ijson's, such as `item` for the elements of a list, one at a time.

    Raises:
        InputError: if the file cannot be read or is no JSON: where, and what to do.
    """
    count = 0
    with open_data(path, "reading") as file:
        counted = _Counted(file)
        try:
            for value in ijson.items(counted, prefix, use_float=True):
                count += 1
                yield value
        except (ijson.JSONError, ValueError, RecursionError, OverflowError) as error:
            raise InputError(_not_json(path, counted, count, error)) from None


def first_kind(path: Path) -> str:
    """What the outermost value of a file is, in words; "" for an empty file.

    Raises:
        InputError: if it cannot be read, or is plainly something else than JSON.
    """
    with open_data(path, "reading") as file:
        while chunk := file.read(_SHOWN):
            if start := chunk.lstrip():
                start += file.read(_SHOWN)
                kinds = {b"[": "a list", b"{": "an object", b'"': "text"}
                literal = next((word for word in (b"null", b"true", b"false") if start.startswith(word)), b"").decode()
                number = "a number" if start[:1] in b"-0123456789" else ""
                text = start.decode(errors="replace")
                return kinds.get(start[:1]) or literal or number or f"no JSON: it begins with {text[:_SHOWN]!r}"
    return ""


class open_data:  # noqa: N801 - used as `with open_data(...)`, as `open` is
    """A data file open for reading, with a bar on standard error if it is a large one and that is a terminal.

    Raises:
        InputError: if it cannot be opened or, inside the `with`, read, or is plainly something else than JSON.
    """

    def __init__(self, path: Path, doing: str) -> None:
        self.path = path
        self.doing = doing

    def __enter__(self) -> IO[bytes]:
        try:
            size = self.path.stat().st_size
            self._file = self.path.open("rb")
            start = self._file.read(64)
            self._file.seek(0)
        except OSError as error:
            raise unreadable(self.path, error) from None
        for signature, said in _STARTS:
            if start.lstrip()[: len(signature)] == signature:
                self._file.close()
                raise InputError(f"{self.path}: {said}")
        if b"\0" in start:
            self._file.close()
            raise InputError(f"{self.path}: it is UTF-16 or no text at all, and JSON in UTF-8 is expected")
        self._bar: Progress | None = None
        console = Console(file=sys.stderr)
        if size < _BAR_FROM_BYTES or not console.is_terminal:
            return self._file
        columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, console=console, transient=True)
        self._bar.start()
        return self._bar.wrap_file(self._file, size, description=f"{self.doing} {self.path.name}")

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if self._bar is not None:
            self._bar.stop()
        self._file.close()
        if isinstance(error, OSError):
            raise unreadable(self.path, error) from None


def unreadable(path: Path, error: OSError) -> InputError:
    """The error that says so."""
    return InputError(f"{path}: cannot be read: {error.strerror or error}")


class _Counted:
    """Counts what is read, so that an error can say where.

    Raises:
        ValueError: on hundreds of values, each of which begins inside the one before.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.position = 0
        self.ended = False
        self._in_string = self._escaped = False

    def read(self, size: int = -1) -> bytes:
        chunk = self._file.read(size)
        self.position += len(chunk)
        self.ended = size != 0 and not chunk
        self._check_depth(chunk)
        return chunk

    def _check_depth(self, chunk: bytes) -> None:
        text = chunk[1:] if self._escaped else chunk
        # Rarely: a person's text may be full of brackets, too.
        if _NESTED.search(text) and _NESTED.search(_STRING.sub(b"", b'"' * self._in_string + text)):
            raise ValueError("more than 500 lists and objects, one inside the other")
        plain = text.replace(b"\\\\", b"")
        self._escaped = plain.endswith(b"\\")
        self._in_string ^= bool((plain.count(b'"') - plain.count(b'\\"')) & 1)


def _not_json(path: Path, read: _Counted, records: int, error: Exception) -> str:
    if read.position == 0:
        return f"{path}: the file is empty: download it again"
    where = f"in the record at index {records}, within the first {read.position:,} bytes"
    # yajl says what is wrong, shows a part of the file, and points at it; bytes, if that part cuts a character.
    said = error.args[0] if error.args else ""
    text = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
    problem, _, rest = text.strip().partition("\n")
    if isinstance(error, UnicodeDecodeError) or "UTF8" in problem:
        return f"{path}: not UTF-8 {where}: save it as UTF-8, or download it again"
    if read.ended:
        return (
            f"{path}: not valid JSON: the file ends too early, after {read.position:,} bytes, in the record at index "
            f"{records}. Is the download complete?"
        )
    near = rest.partition("\n")[0].strip()
    near = f", near {near[:_SHOWN]!r}" if near else ""
    return f"{path}: not valid JSON {where}: {problem.rstrip('.') or type(error).__name__}{near}"


def required(entry: Mapping[str, Any], name: str, types: tuple[type, ...], place: str, empty: bool = False) -> Any:
    """A field's value.

    Raises:
        InputError: if it is missing, of another type, or empty where it may not be.
    """
    if name not in entry:
        raise InputError(f"{place}: field {name!r} is missing")
    value = entry[name]
    blank = not empty and (not value.strip() if isinstance(value, str) else value in ([], {}))
    if not isinstance(value, types) or isinstance(value, bool) or blank:
        expected = " or ".join({str: "text", int: "a whole number", list: "a list"}[t] for t in types)
        raise InputError(
            f"{place}: field {name!r} must be {expected}{'' if empty else ' and not empty'}, but is {kind(value)}"
        )
    return value


def an_object(entry: Any, place: str) -> Mapping[str, Any]:
    """An entry that must be an object.

    Raises:
        InputError: if it is something else.
    """
    if not isinstance(entry, Mapping):
        raise InputError(f"{place}: expected an object, but found {kind(entry)}")
    return entry


def unique(ids: Sequence[str], place: str) -> None:
    """See that no id occurs twice.

    Raises:
        InputError: naming the first that does.
    """
    seen: set[str] = set()
    for one in ids:
        if one in seen:
            raise InputError(f"{place}: id {one!r} occurs twice")
        seen.add(one)


def kind(value: Any) -> str:
    """What a JSON value is, in words, and text, numbers and truth values themselves."""
    if value is None or isinstance(value, bool):
        return str(json.dumps(value))
    names = {list: "a list", dict: "an object", str: "text", int: "a number", float: "a number"}
    name = names.get(type(value), type(value).__name__)
    if isinstance(value, list | dict | str) and not value:
        return f"an empty {name.split()[-1]}"
    return name if isinstance(value, list | dict) else f"{name}, {reprlib.repr(value)}"
