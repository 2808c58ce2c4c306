"""Files on disks that fail: grown by whole lines, or one error that says what to do."""

from __future__ import annotations

import errno
import os
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from personaagent.programs.errors import StoreError

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_NO_RIGHT = (errno.EROFS, errno.EACCES, errno.EPERM)
_FSYNC_SECONDS = 1.0
_BLOCK = 65_536


def refused(error: OSError, elsewhere: str = "choose another place") -> str:
    """What the system said, and what a person does about it; `elsewhere` says how to write in another place."""
    said = error.strerror or type(error).__name__
    if error.errno in NO_ROOM:
        return f"{said}. Make room and run the same command again; what was done before is kept."
    if error.errno in _NO_RIGHT:
        return f"{said}. Make it writable, or {elsewhere}; what was done before is kept."
    return f"{said}. What was done before is kept, and the same command goes on from there."


def expanded(path: str | Path) -> Path:
    """A path with `~` and `~NAME` resolved; as it is where there is no such home."""
    try:
        return Path(path).expanduser()
    except RuntimeError:
        return Path(path)


class WholeLines:
    """A file that grows by whole lines: after a crash, or a disk that was full, it holds no half of one.

    A line is handed to the operating system before `append` returns, so that killing the process loses nothing;
    it is forced to the disk once a second and at `close`. Not thread-safe. One process at a time may hold a file.

    Raises:
        OSError: if the file cannot be opened.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        # Without a buffer: what a full disk refused must not be written later, beside what follows.
        self._file = path.open("a+b", buffering=0)
        try:
            self._end = _end_of_last_line(self._file.fileno())
            self._file.truncate(self._end)
        except BaseException:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def append(self, line: bytes) -> None:
        """Write a line, given without its end.

        Raises:
            StoreError: if it cannot be written. Nothing of it stays.
        """
        try:
            if os.fstat(self._file.fileno()).st_size != self._end:
                self._file.truncate(self._end)  # half a line that could not be taken back when it was refused
            rest = line + b"\n"
            try:
                while rest:  # a disk that fills takes a part, and refuses the rest
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with suppress(OSError):
                    self._file.truncate(self._end)
                raise
            self._end += len(line) + 1
            if time.monotonic() - self._synced > _FSYNC_SECONDS:
                self._sync()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {refused(error)}") from error

    def lines(self) -> Iterator[tuple[int, bytes]]:
        """The lines of the file, but for empty ones, with their numbers as an editor counts.

        Raises:
            OSError: if they cannot be read.
        """
        with self.path.open("rb") as file:
            yield from ((number, line) for number, line in enumerate(file, 1) if line.strip())

    def close(self) -> None:
        """Force everything to the disk and close the file; closing again does nothing.

        Raises:
            StoreError: if the disk refuses. The file is closed.
        """
        if self._file.closed:
            return
        try:
            self._sync()
        except OSError as error:
            raise StoreError(f"{self.path}: cannot be written: {refused(error)}") from error
        finally:
            self._file.close()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()


def open_lines(path: Path, what: str, read: Callable[[WholeLines], None]) -> WholeLines:
    """A file of whole lines, read by `read` as it is opened.

    Raises:
        StoreError: if it cannot be opened or read; `what` says of what. Whatever `read` raises closes the file.
    """
    try:
        file = WholeLines(path)
        try:
            read(file)
        except BaseException:
            file.close()
            raise
    except OSError as error:
        raise StoreError(f"{path}: {what} cannot be opened: {refused(error)}") from error
    return file


def _end_of_last_line(file: int) -> int:
    """Where the last whole line of a file ends. What comes after it was cut short: it was never reported as done."""
    position = os.fstat(file).st_size
    while position > 0:
        start = max(0, position - _BLOCK)
        found = os.pread(file, position - start, start).rfind(b"\n")
        if found >= 0:
            return start + found + 1
        position = start
    return 0
