"""The journal: every finished unit of a study, appended as it finishes, found again by the hash of its inputs."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from personaagent.experiments.harness.files import WholeLines, open_lines
from personaagent.experiments.harness.secrets import without_secrets
from personaagent.programs.errors import InputError
from personaagent.programs.lm.meter import Usage

Kind = Literal["profile", "notes", "step", "answer"]


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

    Killing the process loses nothing that was added, nor does a power cut but for the last second. A last line
    that was cut short is dropped when the file is opened again: its unit was never reported as done. A line that
    a full disk refuses is taken back as a whole.

    Each line also says what the run that wrote it had spent until then, on units that are not done yet, too: the
    run that is killed writes no account of its own.

    Args:
        path: made if missing.
        run: number of the run that adds units.
        spent: gives what that run has spent until now.

    Raises:
        InputError: if a line in the middle is damaged (which one).
        StoreError: if the file cannot be read or written.
    """

    def __init__(
        self, path: Path, run: int = 0, spent: Callable[[], Mapping[str, float]] = lambda: Usage().to_dict()
    ) -> None:
        self.path = path
        self._run = run
        self._spent = spent
        self._lock = threading.Lock()
        self._units: dict[str, Unit] = {}
        self._runs: dict[int, dict[str, float]] = {}
        self._file = open_lines(path, "the journal", self._read)

    def get(self, key: str) -> Unit | None:
        """The newest unit of this key, or None."""
        return self._units.get(key)

    def asked(self) -> set[str]:
        """The keys of units that took LM calls."""
        return {key for key, unit in self._units.items() if unit.usage.lm_calls}

    def spent(self, run: int) -> Mapping[str, float]:
        """What an earlier run had spent when it added its last unit, so at least that; empty if it added none."""
        return self._runs.get(run, {})

    def add(self, unit: Unit) -> None:
        """Append a unit. A later one of the same key replaces an earlier one."""
        line = json.dumps(
            {
                "key": unit.key,
                "kind": unit.kind,
                "result": without_secrets(unit.result),  # an LM, too, may repeat a key that it was sent
                "error": without_secrets(unit.error),
                **unit.usage.to_dict(),
                "seconds": unit.seconds,
                "run": self._run,
                "spent": dict(self._spent()),
            },
            ensure_ascii=False,
        )
        # A lone surrogate, which an LM's JSON can hold, has no UTF-8.
        encoded = line.encode("utf-8", "replace")
        with self._lock:
            self._file.append(encoded)
            # As a later run will read it, so that this one's files are the same.
            self._units[unit.key] = _unit(json.loads(encoded))

    def close(self) -> None:
        """Force everything to the disk and close the file."""
        with self._lock:
            self._file.close()

    def __len__(self) -> int:
        return len(self._units)

    def _read(self, file: WholeLines) -> None:
        for number, line in file.lines():
            try:
                entry = json.loads(line)
                unit = _unit(entry)
                self._book(entry)
            except (ValueError, KeyError, TypeError, AttributeError):
                raise InputError(
                    f"{self.path}: line {number} is damaged. Delete that line to have its unit done again; "
                    f"the other units are kept."
                ) from None
            self._units[unit.key] = unit

    def _book(self, entry: Mapping[str, Any]) -> None:
        if "run" not in entry:  # of a version that did not keep an account
            return
        most = self._runs.setdefault(int(entry["run"]), {})
        for name, value in entry["spent"].items():
            # Lines of two threads may be in another order than their sums were taken.
            most[name] = max(most.get(name, 0), value)


def _unit(entry: Mapping[str, Any]) -> Unit:
    usage = Usage(entry["lm_calls"], entry["prompt_tokens"], entry["completion_tokens"])
    return Unit(entry["key"], entry["kind"], entry["result"], entry["error"], usage, entry["seconds"])
