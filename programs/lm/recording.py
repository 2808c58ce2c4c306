"""Recording: what LMs and Wikipedia answered, kept in a file from which everyone can run the same again."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from dspy._vendor.lm15.serde import response_from_dict, response_to_dict  # as DSPy's own cache keeps a response
from dspy.clients.lm import _dump_engine, _load_engine
from dspy.lm15 import Request, Response
from dspy.utils.exceptions import LMError
from filelock import FileLock, Timeout

from personaagent.programs.errors import InputError, StoreError
from personaagent.programs.files import WholeLines, expanded, open_lines, refused
from personaagent.programs.lm._lines import as_line, begins_header, entries, error_to_dict, header_line, read_header
from personaagent.programs.lm._loop import renew_after_fork
from personaagent.programs.lm.engines import AsyncWholeFirst, WholeFirst
from personaagent.programs.lm.meter import Usage, metering
from personaagent.programs.lm.scope import Scope, current_scope, question_name, request_digest

if TYPE_CHECKING:
    from personaagent.programs.tools.wikipedia import Answers


class Recording:
    """An append-only file of what LMs and Wikipedia answered; `_lines.py` says what stands in it, and what never does.

    Give it to `make_lm` for each LM of a run. A call is in the file before its answer is used, so that killing the
    process loses none that mattered; a last line that was cut short is dropped when the file is opened again, and a
    line that a full disk refuses is taken back as a whole. A file that is there already is continued.

    Thread safe. One recording at a time may hold a file. A deep copy is the object itself; in a forked process it
    is closed.

    Args:
        path: made if missing, with its folder.
        about: the settings of the run, as JSON values; `Replay.about` gives them back. `lm`, if it is there, is the
            model that a replay has by default.
        mask: takes secrets out of a text. Every text goes through it before it is written; the answer that the
            caller gets is the one that was written.

    Raises:
        InputError: if the file is no recording (it is not touched), is one with another `about` (what differs), is
            in use, or has a damaged line (which one).
        StoreError: if it cannot be opened or read, and by whatever records if it cannot be written. From an LM it
            comes as the cause of DSPy's `LMUnexpectedError`.
    """

    def __init__(
        self,
        path: str | Path,
        about: Mapping[str, Any] | None = None,
        *,
        mask: Callable[[str], str] = lambda text: text,
    ) -> None:
        self.path = check_place(path)
        self._mask = mask
        self.about: dict[str, Any] = self._masked(json.loads(json.dumps(dict(about or {}))))
        """As it stands in the file."""
        self.scopes: set[str] = set()
        """The names of the units of which calls are in the file."""
        self._lms: set[tuple[str, float | None]] = set()
        self._texts: dict[tuple[str, str], str] = {}
        self._given: dict[tuple[str, str, str, int], str] = {}
        self._outside = Scope("")
        self.renew()
        renew_after_fork(self)
        self._held = _locked(self.path)
        try:
            _check_no_other_file(self.path)
            self._file = open_lines(self.path, "the recording", self._read)
            if not self.path.stat().st_size:
                self._file.append(header_line(self.about))
        except BaseException:
            self._held.release()
            raise
        self._closed = False

    def renew(self) -> None:
        """Not open: neither yet, nor in a forked process, where the file is the other one's."""
        self._lock = threading.Lock()
        self._closed = True

    def close(self) -> None:
        """Force everything to the disk and close the file; whatever comes later is refused. Closing again does nothing.

        Raises:
            StoreError: if the disk refuses.
        """
        with self._lock:
            if self._closed:
                return
            self._closed = True
            try:
                self._file.close()
            finally:
                self._held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __deepcopy__(self, memo: object) -> Recording:
        return self  # a copy of an LM is recorded in the same file

    def wikipedia(self, address: str, answers: Answers) -> RecordedAnswers:
        """Answers of one MediaWiki that are recorded when they are used.

        Args:
            address: of its API.
            answers: where they are kept for the run itself.
        """
        return RecordedAnswers(self, address, answers)

    def add_lm(self, model: str, temperature: float | None) -> None:
        """Note an LM whose calls will be recorded; once is enough."""
        with self._lock:
            if (model, temperature) not in self._lms:
                self._write({"lm": model, "temperature": temperature})
                self._lms.add((model, temperature))

    def add_response(self, request: Request, response: Response, usage: Usage) -> Response:
        """Record an answer, and give it back as a replay will give it."""
        kept = response_to_dict(response)
        written = self._masked(kept)
        self._add_call(request, usage, response=written)
        return response if written == kept else response_from_dict(written)

    def add_error(self, request: Request, error: LMError, usage: Usage) -> None:
        """Record that a call failed for good."""
        self._add_call(request, usage, error=self._masked(error_to_dict(error)))

    def add_text(self, address: str, topic: str, text: str) -> None:
        """Record what Wikipedia answered; the same once is enough."""
        address, topic, text = self._mask(address), self._mask(topic), self._mask(text)
        if self._texts.get((address, topic)) == text:  # no lock: who reads does not wait for a disk
            return
        with self._lock:
            if self._texts.get((address, topic)) != text:
                self._write({"wikipedia": address, "topic": topic, "text": text})
                self._texts[address, topic] = text

    def add_given(self, address: str, topic: str, text: str) -> None:
        """Record what this unit was told, if a replay would tell it something else."""
        address, topic, text = self._mask(address), self._mask(topic), self._mask(text)
        scope = current_scope() or self._outside
        name, ordinal = self._mask(scope.name), scope.ordinal(self, question_name(address, topic))
        with self._lock:
            if self._given.get((address, topic, name, ordinal), self._texts.get((address, topic))) != text:
                entry = {"wikipedia": address, "topic": topic, "text": text, "scope": name, "ordinal": ordinal}
                self._write(entry)
                self._given[address, topic, name, ordinal] = text

    def _add_call(self, request: Request, usage: Usage, **outcome: Any) -> None:
        digest = request_digest(request)
        scope = current_scope() or self._outside
        name = {"scope": self._mask(scope.name), "ordinal": scope.ordinal(self, digest)}
        with self._lock:
            self._write({"model": request.model, "request": digest, **name, **outcome, **usage.to_dict()})
            self._note_scope(scope.name)

    def _note_scope(self, name: str) -> None:
        self.scopes.add(name.partition("/")[0])

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._closed:
            raise StoreError(f"{self.path}: closed, so that what was answered came too late to be recorded")
        self._file.append(as_line(entry))

    def _masked(self, value: Any) -> Any:
        if isinstance(value, str):
            return self._mask(value)
        if isinstance(value, Mapping):
            return {self._masked(name): self._masked(part) for name, part in value.items()}
        return [self._masked(part) for part in value] if isinstance(value, list | tuple) else value

    def _read(self, file: WholeLines) -> None:
        for _, entry in entries(self.path, file.lines(), self._check_about, "and what it recorded is missing"):
            if "lm" in entry:
                self._lms.add((entry["lm"], entry["temperature"]))
            elif "wikipedia" in entry:
                address, topic = entry["wikipedia"], entry["topic"]
                if "scope" in entry:
                    self._given[address, topic, entry["scope"], entry["ordinal"]] = entry["text"]
                else:
                    self._texts[address, topic] = entry["text"]
            else:
                self._note_scope(entry["scope"])

    def _check_about(self, about: Mapping[str, Any]) -> None:
        there, now = about.get, self.about.get
        differing = [
            f"  {name}: {there(name)!r} there, {now(name)!r} now"
            for name in dict.fromkeys([*about, *self.about])
            if there(name) != now(name)
        ]
        if differing:
            raise InputError(
                f"{self.path} holds a recording of other settings:\n" + "\n".join(differing) + "\n"
                "Record this run in a file of its own."
            )


class RecordedAnswers:
    """Answers of one MediaWiki, for `Wikipedia(answers=..., given=...)`; see `Recording.wikipedia`."""

    def __init__(self, recording: Recording, address: str, answers: Answers) -> None:
        self._recording, self._address, self._answers = recording, address, answers

    def get(self, topic: str, /) -> str | None:
        text = self._answers.get(topic)
        if text is not None:
            self._recording.add_text(self._address, topic, text)
        return text

    def __setitem__(self, topic: str, text: str, /) -> None:
        self._recording.add_text(self._address, topic, text)
        self._answers[topic] = text

    def given(self, topic: str, text: str) -> None:
        """Record an answer that is used but not kept: that the site was not available."""
        self._recording.add_given(self._address, topic, text)


# -- the engines ----------------------------------------------------------------------------------


class _Inner(Protocol):
    """An engine that books its attempts on a meter; a response of the asynchronous one is awaited."""

    def complete(self, request: Request) -> Any: ...


class _Recorded:
    def __init__(self, inner: _Inner, recording: Recording) -> None:
        self._inner = inner
        self._recording = recording

    @contextmanager
    def _call(self, request: Request) -> Iterator[Usage]:
        # Neither a call that the cap refuses nor one that is cancelled has an outcome: neither is an LMError.
        with metering() as usage:
            try:
                yield usage
            except LMError as error:
                self._recording.add_error(request, error, usage)
                raise

    def dump_state(self) -> dict[str, Any]:
        """For DSPy's saving. The recording is the run's and not saved.

        Raises:
            TypeError: if what is recorded cannot be saved; DSPy's own message says what it lacks.
        """
        return {"inner": _dump_engine(self._inner, "engine")}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Any:
        """The engine of `dump_state`, which is not recorded."""
        return _load_engine(state["inner"], "engine", allow_custom_lm_class=True)


class RecordingEngine(_Recorded, WholeFirst):
    """An engine whose answers, and errors for good, are in the recording before they are used."""

    def complete(self, request: Request) -> Response:
        with self._call(request) as usage:
            response: Response = self._inner.complete(request)
            return self._recording.add_response(request, response, usage)


class AsyncRecordingEngine(_Recorded, AsyncWholeFirst):
    """As `RecordingEngine`, for `acall`."""

    async def complete(self, request: Request) -> Response:
        with self._call(request) as usage:
            response: Response = await self._inner.complete(request)
            return self._recording.add_response(request, response, usage)


# -- opening ----------------------------------------------------------------------------------------


def check_place(path: str | Path) -> Path:
    """See that a recording can be here, without touching anything; the path with `~` resolved.

    Raises:
        InputError: if there is another file, or a name is lacking.
        StoreError: if it cannot be read, or its folder is none that can be written.
    """
    found = expanded(path)
    if not found.name:
        raise InputError(f"a recording needs the name of a file, but got {str(path)!r}")
    _check_no_other_file(found)
    folder = next(parent for parent in found.absolute().parents if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)):
        raise StoreError(f"{found}: the recording cannot be opened: {folder} is no folder that can be written")
    return found


def _check_no_other_file(path: Path) -> None:
    """See that a file that is there is a recording, before anything in it is touched.

    Raises:
        InputError: if it is not.
        StoreError: if it cannot be read.
    """
    try:
        if not path.exists():
            return
        with path.open("rb") as file:
            first = file.readline()
    except OSError as error:
        raise StoreError(f"{path}: the recording cannot be opened: {refused(error)}") from error
    cut_short = not first.endswith(b"\n") and begins_header(first)
    if first and not cut_short:
        read_header(path, first)


def _locked(path: Path) -> FileLock:
    lock = FileLock(path.with_name(path.name + ".lock"), blocking=False, thread_local=False)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout:
        raise InputError(f"{path} is in use by another run; wait for it, or record this one elsewhere") from None
    except OSError as error:
        raise StoreError(f"{path}: the recording cannot be opened: {refused(error)}") from error
    return lock
