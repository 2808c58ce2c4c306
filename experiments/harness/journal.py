"""The journal: every finished unit of a study, appended as it finishes, found again by the hash of its inputs."""

from __future__ import annotations

import hashlib
import json
import os
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from personaagent.programs.errors import InputError, StoreError
from personaagent.programs.lm.meter import Usage

Kind = Literal["profile", "step", "answer"]

_FSYNC_SECONDS = 1.0


@dataclass(frozen=True)
class Unit:
    """One finished unit of work."""

    key: str
    kind: Kind
    result: Mapping[str, Any]
    """Empty if it failed."""
    error: str | None
    """Why it failed for good, in one line."""
    usage: Usage
    seconds: float

    @property
    def ok(self) -> bool:
        return self.error is None


def unit_key(kind: Kind, inputs: Mapping[str, Any]) -> str:
    """Identity of a unit: SHA-256 of its kind and all its inputs, 64 hex digits."""
    text = json.dumps([kind, inputs], sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


class Journal:
    """An append-only file of units, one JSON line each.

    A line is handed to the operating system before `add` returns, so that killing the process loses
    nothing; it is forced to the disk once a second and at `close`. A last line that was cut short is
    dropped when the file is opened again: its unit was never reported as done.

    Raises:
        InputError: if a line in the middle is damaged (which one).
        StoreError: if the file cannot be read or written.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._units: dict[str, Unit] = {}
        try:
            self._read()
            self._file = path.open("a", encoding="utf-8")
        except OSError as error:
            raise StoreError(f"{path}: the journal cannot be opened: {error.strerror}") from error
        self._synced = time.monotonic()

    def get(self, key: str) -> Unit | None:
        """The newest unit of this key, or None."""
        return self._units.get(key)

    def add(self, unit: Unit) -> None:
        """Append a unit. A later one of the same key replaces an earlier one."""
        line = json.dumps(
            {
                "key": unit.key,
                "kind": unit.kind,
                "result": unit.result,
                "error": unit.error,
                **unit.usage.to_dict(),
                "seconds": unit.seconds,
            },
            ensure_ascii=False,
        )
        # A lone surrogate, which an LM's JSON can hold, has no UTF-8.
        line = line.encode("utf-8", "replace").decode("utf-8")
        with self._lock:
            try:
                self._file.write(line + "\n")
                self._file.flush()
                if time.monotonic() - self._synced > _FSYNC_SECONDS:
                    os.fsync(self._file.fileno())
                    self._synced = time.monotonic()
            except OSError as error:
                raise StoreError(f"{self.path}: the journal cannot be written: {error.strerror}") from error
            # As a later run will read it, so that this one's files are the same.
            self._units[unit.key] = _unit(line)

    def close(self) -> None:
        """Force everything to the disk and close the file."""
        with self._lock:
            if not self._file.closed:
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def __len__(self) -> int:
        return len(self._units)

    def _read(self) -> None:
        if not self.path.exists():
            return
        raw = self.path.read_bytes()
        whole = raw.rfind(b"\n") + 1
        if whole < len(raw):
            with self.path.open("r+b") as file:
                file.truncate(whole)
        for number, line in _numbered(raw[:whole]):
            try:
                unit = _unit(line)
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{self.path}: line {number} is damaged. Delete that line to have its unit done again; "
                    f"the other units are kept."
                ) from None
            self._units[unit.key] = unit


def _unit(line: str | bytes) -> Unit:
    entry = json.loads(line)
    usage = Usage(entry["lm_calls"], entry["prompt_tokens"], entry["completion_tokens"])
    return Unit(entry["key"], entry["kind"], entry["result"], entry["error"], usage, entry["seconds"])


def _numbered(raw: bytes) -> Iterator[tuple[int, bytes]]:
    return ((number, line) for number, line in enumerate(raw.splitlines(), 1) if line.strip())
