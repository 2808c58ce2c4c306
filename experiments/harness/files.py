"""Files of a study on disks that fail: replaced as a whole, grown by whole lines, or one error."""

from __future__ import annotations

import os
import sqlite3
from contextlib import suppress
from pathlib import Path

from personaagent.programs import files
from personaagent.programs.errors import StoreError
from personaagent.programs.files import NO_ROOM, WholeLines, open_lines

__all__ = ["NO_ROOM", "WholeLines", "open_lines", "refused", "refused_by_sqlite", "replace_file"]


def refused(error: OSError) -> str:
    """What the system said, and what a person does about it."""
    said: str = files.refused(error, "give another --out")
    return said


def refused_by_sqlite(error: BaseException) -> str | None:
    """What SQLite said of a file, in whatever it was wrapped, and what a person does; None if it said nothing."""
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, sqlite3.Error):
        cause = getattr(cause, "orig", None) or cause.__cause__ or cause.__context__
    if cause is None:
        return None
    name = getattr(cause, "sqlite_errorname", None) or ""
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return f"{cause} by another program: wait for it or end it"
    if name == "SQLITE_FULL":
        return "the disk is full: make room"
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return f"{cause}: the file is damaged, or of another program"
    return str(cause)


def replace_file(path: Path, content: str | bytes) -> None:
    """Write a file beside its place and rename it: a reader, or a crash, finds the old one or the new one, whole.

    Raises:
        StoreError: if it cannot be written. The old one stays, and nothing is left beside it.
    """
    temporary = path.with_name(path.name + ".tmp")
    try:
        with temporary.open("wb") as file:
            # A lone surrogate, which JSON can hold, has no UTF-8.
            file.write(content.encode("utf-8", "replace") if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        # Half a file takes up room that the next attempt needs.
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise StoreError(f"{path}: cannot be written: {refused(error)}") from error
