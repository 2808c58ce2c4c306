"""Keys and passwords stay where they were given: nothing that a study writes or says holds one.

A server may repeat a key in its error message, and a language model in its answer. So what is told apart is not
where a text comes from: the values that this process was given are looked for in all of them.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from typing import Any, TextIO
from urllib.parse import quote, unquote

from personaagent.programs.errors import InputError

MIN_SECRET_CHARS = 8
"""A shorter value is no secret worth the name, and would be found in innocent words."""

_MIN_PART_CHARS = 12
_HIDDEN = "***"
_SECRET_NAME = re.compile(r"API_?KEY|SECRET|PASSWORD|PASSWD|PASSPHRASE|(?:TOKEN|KEY|AUTH)$", re.IGNORECASE)
_WITH_USER = re.compile(r"((?!sqlite|file)[\w.+-]+://).*@", re.DOTALL)
_WITH_PASSWORD = re.compile(r"(?<![\w.+-])((?!sqlite|file)[\w.+-]+:/{1,2})[^\s/'\"@:]*:[^\s'\"]*@")
_PASSWORD = re.compile(r":/{1,2}[^\s/'\"@:]*:([^\s/'\"@]+)@")
_SECRET_VALUE = re.compile(
    r"([?&;][^=&;\s]*(?:pass|pwd|secret|token|key)[^=&;\s]*=|\b(?:Bearer|Basic)\s+(?=\S{12}))([^&\s'\"]+)",
    re.IGNORECASE,
)


def masked(text: str, address: str | None = None) -> str:
    """A text without keys and passwords: those of this process, and what looks like one in an address.

    Rather too much than too little: passwords with a raw / or @ are found in texts that quote only a part of them.

    Args:
        text: may be the address itself, or speak of it.
        address: default: the text.
    """
    masked_text: str = without_secrets(_without_what_looks_secret(text, text if address is None else address))
    return masked_text


def _without_what_looks_secret(text: str, address: str) -> str:
    if _WITH_USER.match(address):
        text = text.replace(address, _WITH_USER.sub(rf"\1{_HIDDEN}@", address))
        text = re.sub(r"([\w.+-]+://)?[^\s'\"]*@", rf"\1{_HIDDEN}@", text)
    text = _WITH_PASSWORD.sub(rf"\1{_HIDDEN}@", text)
    return _SECRET_VALUE.sub(rf"\1{_HIDDEN}", text)


def without_secrets(value: Any) -> Any:
    """A text, or all texts in lists and dictionaries, without the secrets of this process.

    Unlike `masked` it leaves alone what only looks like one: answers and personas are made of such texts.
    A secret that was cut short counts, too, from 12 characters on.
    """
    found = secrets_given()
    return _without(value, found) if found else value


def secrets_given(environment: Mapping[str, str] | None = None, arguments: Sequence[str] | None = None) -> list[str]:
    """The keys and passwords that a process was given, as they may be written; the longest first.

    Args:
        environment: variables named like a key, token, secret or password count, and passwords in the
            addresses of all others. Default: this process's.
        arguments: of the command; passwords in addresses count. Default: this process's.
    """
    variables = os.environ if environment is None else environment
    return _found(tuple(variables.items()), tuple(sys.argv[1:] if arguments is None else arguments))


@lru_cache(maxsize=4)
def _found(environment: tuple[tuple[str, str], ...], arguments: tuple[str, ...]) -> list[str]:
    given = [value.strip() for name, value in environment if _SECRET_NAME.search(name)]
    given += [line.strip() for value in given for line in value.splitlines()]  # a private key, quoted in part
    for text in (*(value for _, value in environment), *arguments):
        parts = [found[1] for found in _PASSWORD.finditer(text)] + [found[2] for found in _SECRET_VALUE.finditer(text)]
        given += [form for part in parts for form in (part, unquote(part))]
    long = {value for value in given if len(value) >= MIN_SECRET_CHARS}
    return sorted({form for value in long for form in _forms(value)}, key=lambda form: (-len(form), form))


def refuse_secret(option: str, value: str | None) -> None:
    """See that an option that is kept with the results holds no key.

    Raises:
        InputError: if it is an address with a password in it, or a query that names a key.
    """
    if value is not None and _without_what_looks_secret(value, value) != value:
        raise InputError(
            f"{option} {masked(value)} holds a key or a password, which would be kept with the results: leave it out. "
            f"Keys of LMs are read from the environment, such as OPENAI_API_KEY."
        )


def mask_output() -> None:
    """From now on the process's output is without secrets: that of libraries, and tracebacks, too."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and not isinstance(stream, _MaskedStream):
            setattr(sys, name, _MaskedStream(stream))


class _MaskedStream:
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        self._stream.write(without_secrets(text))
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _forms(value: str) -> set[str]:
    """As it is, in JSON, and in an address."""
    return {value, json.dumps(value)[1:-1], json.dumps(value, ensure_ascii=False)[1:-1], quote(value, safe="")}


def _without(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        for secret in secrets:
            value = _hidden(value, secret)
        return value
    if isinstance(value, Mapping):
        return {_without(name, secrets): _without(part, secrets) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_without(part, secrets) for part in value]
    return value


def _hidden(text: str, secret: str) -> str:
    beginning = secret[:_MIN_PART_CHARS]
    kept, at = [], 0
    while (start := text.find(beginning, at)) >= 0:
        end = start + len(beginning)
        while end - start < len(secret) and text[end : end + 1] == secret[end - start]:
            end += 1
        # What was cut short ends where a word ends; else it is another word that begins alike.
        if end - start == len(secret) or not re.match(r"\w", text[end : end + 1]):
            kept += [text[at:start], _HIDDEN]
        else:
            kept.append(text[at:end])
        at = end
    return "".join([*kept, text[at:]])
