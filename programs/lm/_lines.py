"""The lines of a recording, and what they say.

The file holds one JSON object a line. The first one is the header: the format's number and the settings that the
caller gave. Each of the others is one of these:

* an LM whose calls are recorded: `lm`, its model string, and `temperature`;
* a call: `model`, `request` (the SHA-256 of everything that is sent but for the key), `scope` and `ordinal`, then
  `response` or `error`, and what it cost: `lm_calls` (attempts, retries included), `prompt_tokens` and
  `completion_tokens`;
* an answer of Wikipedia's: `wikipedia` (the address of the API), `topic`, `text`. With `scope` and `ordinal` it is what
  one unit was told for once, such as that the site was not available.

No prompt is in it, since the texts of users may not be passed on, and no key: requests stand there as digests. What
an answer itself quotes of its prompt is in it.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from dspy._vendor.lm15.serde import response_from_dict
from dspy.utils import exceptions
from dspy.utils.exceptions import LMError

from personaagent.programs.errors import InputError
from personaagent.programs.lm.endpoint import EndpointPausedError

FORMAT = 1
"""Number of the file's format; a higher one is of a newer version."""

_HEADER = "personaagent_recording"
_BEGINNING = f'{{"{_HEADER}":'.encode()
_DETAILS = ("code", "model", "provider", "provider_code", "status", "request_id", "retry_after")
_ERRORS: dict[str, Any] = {
    **{n: kind for n, kind in vars(exceptions).items() if isinstance(kind, type) and issubclass(kind, LMError)},
    EndpointPausedError.__name__: EndpointPausedError,
}


def header_line(about: Mapping[str, Any]) -> bytes:
    """The first line of a recording of these settings."""
    return as_line({_HEADER: FORMAT, **about})


def begins_header(beginning: bytes) -> bool:
    """Whether this is how a header begins, however little of it."""
    return beginning[: len(_BEGINNING)] == _BEGINNING[: len(beginning)]


def as_line(entry: Mapping[str, Any]) -> bytes:
    """An entry as it is written, without the end of the line."""
    try:
        return json.dumps(entry, ensure_ascii=False, default=str).encode()
    except UnicodeEncodeError:  # a lone surrogate, which an LM's JSON can hold, has no UTF-8
        return json.dumps(entry, default=str).encode()


def entries(
    path: Path, lines: Iterator[tuple[int, bytes]], header: Callable[[dict[str, Any]], None], consequence: str
) -> Iterator[tuple[bytes, dict[str, Any]]]:
    """The lines of a recording after the header, each with what it says.

    Args:
        path: for messages.
        lines: with their numbers.
        header: is given the settings of the first line.
        consequence: of deleting a damaged line.

    Raises:
        InputError: if the first line is no header, or another one is damaged.
    """
    for index, (number, line) in enumerate(lines):
        if index == 0:
            header(read_header(path, line))
            continue
        try:
            entry = _checked(json.loads(line))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise InputError(f"{path}: line {number} is damaged. Delete that line, {consequence}.") from None
        yield line, entry


def error_to_dict(error: LMError) -> dict[str, Any]:
    """An error as JSON values, but for its cause."""
    kinds = (kind.__name__ for kind in type(error).__mro__)
    details = {name: value for name in _DETAILS if (value := getattr(error, name, None)) is not None}
    kind = next(name for name in kinds if name in _ERRORS)
    return {"type": kind, "message": error.message, "said": str(error), **details}


def error_from_dict(entry: Mapping[str, Any]) -> LMError:
    """The error of `error_to_dict`: of the same type if it is one of DSPy's or this package's."""
    details = {name: entry[name] for name in _DETAILS if name in entry}
    error: LMError = _ERRORS.get(entry["type"], LMError)(message=entry["message"], **details)
    error.args = (entry["said"],)
    return error


def _checked(entry: dict[str, Any]) -> dict[str, Any]:
    """What a line says, if it says one of the three things that there are.

    Raises:
        ValueError, KeyError or TypeError: if not.
    """
    if "lm" in entry:
        valid = isinstance(entry["lm"], str) and isinstance(entry["temperature"], int | float | None)
    elif "wikipedia" in entry:
        scoped = "scope" in entry
        texts = ("wikipedia", "topic", "text", *(["scope"] if scoped else []))
        valid = all(isinstance(entry[name], str) for name in texts)
        valid = valid and (not scoped or isinstance(entry["ordinal"], int))
    else:
        numbers = ("ordinal", "lm_calls", "prompt_tokens", "completion_tokens")
        valid = all(isinstance(entry[name], str) for name in ("model", "request", "scope"))
        valid = valid and all(isinstance(entry[name], int) and entry[name] >= 0 for name in numbers)
        if "error" in entry:
            error_from_dict(entry["error"])
        else:
            response_from_dict(entry["response"])
    if not valid:
        raise ValueError("no entry of a recording")
    return entry


def read_header(path: Path, line: bytes) -> dict[str, Any]:
    """The settings in the first line of a recording.

    Raises:
        InputError: if it is not one, or a newer version's.
    """
    try:
        about = json.loads(line)
        number = about.pop(_HEADER)
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{path} is no recording of LM calls: its first line is not a recording's. "
            f"Give the file that a run with --record wrote."
        ) from None
    if number != FORMAT:
        raise InputError(f"{path} is a recording of a newer version of personaagent: its format is {number!r}")
    return dict(about)
