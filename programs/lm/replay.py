"""Replay: a study or program runs again from recorded calls, with no key and no network."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

import dspy
from dspy._vendor.lm15.serde import response_from_dict
from dspy.lm15 import Request, Response
from dspy.utils.exceptions import LMError

from personaagent.programs.errors import InputError
from personaagent.programs.files import expanded
from personaagent.programs.lm._lines import entries, error_from_dict
from personaagent.programs.lm.engines import AsyncWholeFirst, WholeFirst
from personaagent.programs.lm.meter import Meter
from personaagent.programs.lm.scope import Scope, current_scope, question_name, request_digest

if TYPE_CHECKING:
    from personaagent.programs.tools.wikipedia import Answers

PREFIX = "replay:"
"""A model string that begins so names a file of recorded calls."""

NOT_RECORDED = "Wikipedia is not available right now (not recorded)."


class NotRecordedError(LMError):
    """A recording holds no answer to a call: another prompt, setting or version was recorded."""

    default_code = "not_recorded"


class _Key(NamedTuple):
    scope: str
    request: str
    ordinal: int


class Replay:
    """The answers of a file that a `Recording` wrote.

    A call is answered by what was recorded of the same request in a scope of the same name (`recording_scope`),
    the first by the first, the second by the second. If there is none, or no scope around it, the first call of a
    request is answered by its first one in the whole file, the second by its second: so a program of one's own gets
    its answers in the order recorded. Errors are raised as they were. What a call cost is booked as it was, attempts
    that failed included; nothing is waited for.

    Thread safe; all LMs of a run should come from one object, since it counts their calls together. A deep copy is
    the object itself.

    Args:
        path: of the file.
        strict: within a scope only what was recorded in one of the same name answers. What another unit was answered,
            such as that of another seed, is not this one's.

    Raises:
        InputError: if the file cannot be read, is no recording, or has a damaged line (which one). A last line that
            was cut short does not count.
    """

    def __init__(self, path: str | Path, *, strict: bool = False) -> None:
        self.path = expanded(path)
        self._strict = strict
        self.about: dict[str, Any] = {}
        """The settings of the run that was recorded, as it gave them."""
        self._temperatures: dict[str, list[float | None]] = {}  # by model; None where the LM does not sample
        self._lines: dict[_Key, bytes] = {}
        self._texts: dict[tuple[str | None, str], str] = {}
        self._given: dict[tuple[str | None, str, str, int], str] = {}
        self._outside = Scope("")
        try:
            with self.path.open("rb") as file:
                self._read((number, line) for number, line in enumerate(file, 1) if line.strip())
        except OSError as error:
            raise InputError(
                f"{self.path}: the recording cannot be read: {error.strerror or error}. "
                f"Give the file that a run with --record wrote, as {PREFIX}FILE."
            ) from None
        self._everywhere: dict[str, list[_Key]] = {}
        for key in self._lines:
            self._everywhere.setdefault(key.request, []).append(key)

    @property
    def models(self) -> list[str]:
        """The model strings of the LMs that were recorded, in the order in which they were made."""
        return list(self._temperatures)

    def lm(self, model: str | None = None, *, temperature: float | None = None, meter: Meter | None = None) -> dspy.LM:
        """An LM under the name of a recorded one, which answers from the file.

        Args:
            model: which one. Default: `about["lm"]`, else the only one.
            temperature: as it was recorded, which is the default: it is part of the requests.
            meter: on which the calls are booked. Default: one of its own.

        Raises:
            InputError: if no such LM was recorded, or several were and none is named; or if it was recorded at another
                temperature, or at several and none is named.
        """
        model = self._default_model() if model is None else model
        if model not in self._temperatures:
            raise InputError(f"{self.path} holds no calls of {model!r}, but of {self._listed()}")
        recorded = self._temperatures[model]
        if temperature is None and len(recorded) > 1:
            raise InputError(f"{self.path} holds {model!r} at temperatures {_joined(recorded)}: name one")
        if temperature is not None and temperature not in recorded and recorded != [None]:
            raise InputError(f"{self.path} holds {model!r} at temperature {_joined(recorded)}, not {temperature}")
        sampling = recorded[recorded.index(temperature)] if temperature in recorded else recorded[0]
        meter = meter or Meter()
        return dspy.LM(
            model,
            engine=ReplayEngine(self, meter),
            async_engine=AsyncReplayEngine(self, meter),
            temperature=sampling,
            cache=False,
            num_retries=0,
        )

    def wikipedia(self, address: str | None = None) -> Answers:
        """The recorded answers of a MediaWiki, for `Wikipedia(answers=...)`, which then never asks the site.

        A topic that was not recorded is answered by `NOT_RECORDED`.

        Args:
            address: of its API, as it was recorded. Default: of any.
        """
        return _ReplayedAnswers(self, address)

    def __deepcopy__(self, memo: object) -> Replay:
        return self  # a copy of an LM counts on with it

    def _find(self, request: Request) -> dict[str, Any]:
        """What was recorded of a call.

        Raises:
            NotRecordedError: if nothing was.
        """
        digest = request_digest(request)
        scope = current_scope() or self._outside
        key = _Key(scope.name, digest, scope.ordinal(self, digest))
        if key not in self._lines:
            keys = [] if self._strict and scope.name else self._everywhere.get(digest, [])
            if key.ordinal >= len(keys):
                raise NotRecordedError(
                    f"{self.path} holds no answer to this call: another prompt, setting or version was recorded",
                    model=request.model,
                )
            key = keys[key.ordinal]
        entry: dict[str, Any] = json.loads(self._lines[key])
        return entry

    def _text(self, address: str | None, topic: str) -> str:
        """What Wikipedia said to the next question about this in the scope around the caller."""
        scope = current_scope() or self._outside
        ordinal = scope.ordinal(self, question_name(address, topic))
        known = self._texts.get((address, topic), NOT_RECORDED)
        return self._given.get((address, topic, scope.name, ordinal), known)

    def _read(self, lines: Iterator[tuple[int, bytes]]) -> None:
        whole = ((number, line) for number, line in lines if line.endswith(b"\n"))
        names: dict[str, str] = {}  # of scopes: one text for all the calls of each
        found = entries(self.path, whole, self.about.update, "and the call has no answer")
        for line, entry in found:
            if "lm" in entry:
                known = self._temperatures.setdefault(entry["lm"], [])
                known += [entry["temperature"]] if entry["temperature"] not in known else []
            elif "wikipedia" in entry:
                for address in (entry["wikipedia"], None):
                    if "scope" in entry:
                        self._given[address, entry["topic"], entry["scope"], entry["ordinal"]] = entry["text"]
                    else:
                        self._texts[address, entry["topic"]] = entry["text"]
            else:
                scope = names.setdefault(entry["scope"], entry["scope"])
                self._lines[_Key(scope, entry["request"], entry["ordinal"])] = line
        if not self._temperatures:
            raise InputError(f"{self.path} holds no recorded calls. Give the file that a run with --record wrote.")

    def _default_model(self) -> str:
        named = self.about.get("lm")
        if isinstance(named, str):
            return named
        if len(self._temperatures) > 1:
            raise InputError(f"{self.path} holds calls of {self._listed()}: name one, as in Replay(FILE).lm(MODEL)")
        return self.models[0]

    def _listed(self) -> str:
        return ", ".join(repr(model) for model in self._temperatures)


class _ReplayedAnswers:
    def __init__(self, replay: Replay, address: str | None) -> None:
        self._replay, self._address = replay, address

    def get(self, topic: str, /) -> str:
        return self._replay._text(self._address, topic)

    def __setitem__(self, topic: str, text: str, /) -> None:
        raise TypeError("a replay keeps nothing: it finds an answer to every topic")


class _Replayed:
    def __init__(self, replay: Replay, meter: Meter) -> None:
        self._replay, self._meter = replay, meter
        self._name = f"{PREFIX}{replay.path}"
        self._endpoint = meter.endpoint(self._name)

    def _answer(self, request: Request) -> Response:
        entry = self._replay._find(request)
        self._endpoint.answered.add(request.model)  # so that a refusal that was recorded is that call's, not the run's
        for _ in range(entry["lm_calls"]):
            self._meter.begin()
        if "error" in entry:
            error = error_from_dict(entry["error"])
            error.endpoint = self._name
            raise error
        response: Response = response_from_dict(entry["response"])
        self._meter.end(response)
        return response

    def dump_state(self) -> dict[str, Any]:
        """For DSPy's saving: the file's path. The meter is the run's and not saved."""
        return {"path": str(self._replay.path)}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> Self:
        """From `dump_state`, on a meter of its own; the file is read anew."""
        return cls(Replay(state["path"]), Meter())


class ReplayEngine(_Replayed, WholeFirst):
    """Answers from a recording."""

    def complete(self, request: Request) -> Response:
        return self._answer(request)


class AsyncReplayEngine(_Replayed, AsyncWholeFirst):
    """As `ReplayEngine`, for `acall`."""

    async def complete(self, request: Request) -> Response:
        return self._answer(request)


def _joined(temperatures: list[float | None]) -> str:
    return " and ".join("none" if t is None else f"{t:g}" for t in temperatures)
