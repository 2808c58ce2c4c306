"""What Wikipedia answered in a study, kept in OUT: the same topic gets the same text for as long as OUT lives."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from personaagent.experiments.harness.files import WholeLines, open_lines
from personaagent.experiments.harness.secrets import masked
from personaagent.programs.errors import InputError, StoreError
from personaagent.programs.tools.wikipedia import Answers


class Pages:
    """An append-only file of answers, one JSON line each: address of the API, topic as asked, text, date.

    With it a replay is exact: a unit that is done later, or again, reads what the others read, even if the page
    has changed or the site is gone since. A line is in the file before `of(address)[topic] = text` returns; a last
    line that was cut short is dropped when the file is opened again, since its answer was never used. Thread safe.

    Raises:
        InputError: if a line in the middle is damaged (which one).
        StoreError: if the file cannot be read or written. What could not be written is not kept.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._lock = threading.Lock()
        self._closed = False
        self._texts: dict[tuple[str, str], str] = {}
        self._file = open_lines(path, "Wikipedia's answers", self._read)

    def of(self, address: str) -> Answers:
        """The answers of one MediaWiki; a user and password in its address are not written."""
        return _OfOneSite(self, masked(address))

    def close(self) -> None:
        """Close the file. Answers that come later, of units that were given up, are refused."""
        with self._lock:
            self._closed = True
            self._file.close()

    def _read(self, file: WholeLines) -> None:
        for number, line in file.lines():
            try:
                entry = json.loads(line)
                address, topic, text = entry["address"], entry["topic"], entry["text"]
                if not isinstance(address + topic + text, str):
                    raise TypeError
            except (ValueError, KeyError, TypeError):
                raise InputError(
                    f"{self.path}: line {number} is damaged. Delete that line to have its topic asked again; "
                    f"the other answers are kept."
                ) from None
            self._texts[address, topic] = text

    def _get(self, address: str, topic: str) -> str | None:
        return self._texts.get((address, topic))  # no lock: who reads does not wait for a disk

    def _add(self, address: str, topic: str, text: str) -> None:
        date = datetime.now(UTC).isoformat(timespec="seconds")
        entry = {"address": address, "topic": topic, "text": text, "date": date}
        line = json.dumps(entry, ensure_ascii=False).encode("utf-8", "surrogatepass")
        with self._lock:
            if self._closed:
                raise StoreError(f"{self.path}: closed, so that an answer came too late to be kept")
            self._file.append(line)
            self._texts[address, topic] = text


@dataclass(frozen=True)
class _OfOneSite:
    pages: Pages
    address: str

    def get(self, topic: str, /) -> str | None:
        return self.pages._get(self.address, topic)

    def __setitem__(self, topic: str, text: str, /) -> None:
        self.pages._add(self.address, topic, text)
