"""Text of users, pages and language models as data: what goes into a prompt cannot act as protocol.

A prompt is DSPy's field markers, our delimiters and text from elsewhere. Here the last is made unable to
pass for the first two, while a person who reads it still reads what was written: a marker keeps its
words and loses only its exact shape.
"""

from __future__ import annotations

import json
import re
import unicodedata
from typing import Any

from pydantic import BaseModel

MAX_TEXT_CHARS = 2_000
"""Longest text of one record or page in a prompt. MiniLM reads about 1,200 characters of it."""

PERSONA_OPEN, PERSONA_CLOSE = "<persona>", "</persona>"

# DSPy finds a field by "[[ ## name ## ]]" at the start of a stripped line; we are stricter than that.
_FIELD_MARKER = re.compile(r"\[\[(\s*)##(\s*\w+\s*)##(\s*)\]\]")
_PERSONA_TAG = re.compile(r"<(\s*(?:/\s*)?persona\s*)>", re.IGNORECASE)
_QUOTES = str.maketrans({"«": "‹", "»": "›"})


def defuse(text: str) -> str:
    """The text with DSPy's field markers, our persona delimiters and control characters made harmless.

    `[[ ## answer ## ]]` becomes `[[ # # answer # # ]]`, `</persona>` becomes `(/persona)`; control and
    bidirectional-override characters are dropped, and line ends are unified to newlines and tabs to spaces.
    Idempotent.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n").replace("\t", " ")
    text = "".join(c for c in text if c == "\n" or not _is_control(c))
    text = _FIELD_MARKER.sub(r"[[\1# #\2# #\3]]", text)
    return _PERSONA_TAG.sub(r"(\1)", text)


def defuse_all(value: Any) -> Any:
    """The value with every text in it defused: in lists, dictionaries, DSPy histories and pydantic models."""
    if isinstance(value, str):
        return defuse(value)
    if isinstance(value, list | tuple):
        return type(value)(map(defuse_all, value)) if not hasattr(value, "_fields") else value
    if isinstance(value, dict):
        return {key: defuse_all(part) for key, part in value.items()}
    if isinstance(value, BaseModel):
        parts = {name: getattr(value, name) for name in type(value).model_fields}
        changed = {name: new for name, part in parts.items() if (new := defuse_all(part)) != part}
        return value.model_copy(update=changed) if changed else value
    return value


def written(value: object) -> str:
    """What an LM wrote, defused and stripped; "" for nothing.

    Adapters make the word None of a JSON null, which would otherwise pass for a text.
    """
    text = defuse(str(value)).strip() if value is not None else ""
    return "" if text.casefold() in ("none", "null") else text


def _is_control(character: str) -> bool:
    # Cc: control. Cs: lone surrogates, which no provider accepts. Zl, Zp: line breaks to str.splitlines.
    # Of Cf only the bidirectional controls go: joiners are part of many scripts and emoji.
    return (
        unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")
        or character in "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069"
    )


def shorten(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """At most `max_chars` characters, cut after a sentence where one ends in the last half, else at a word."""
    if len(text) <= max_chars:
        return text
    cut = text[: max_chars - 1]
    sentence_end = max(cut.rfind(mark) for mark in (". ", "! ", "? ", "\n"))
    if sentence_end >= max_chars // 2:
        return cut[: sentence_end + 1].rstrip() + "…"
    space = cut.rfind(" ")
    return (cut[:space] if space >= max_chars // 2 else cut).rstrip() + "…"


def one_line(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """The defused text on one line, white space folded."""
    return shorten(" ".join(defuse(text).split()), max_chars)


def quoted(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """A text of a user or page on one line in «», which are ‹› inside it."""
    return f"«{one_line(text, max_chars).translate(_QUOTES)}»"


def record_line(text: str, response: str, date: str = "") -> str:
    """One interaction on one line: `2007-08-31 «text» -> "response"`. The response is a JSON string."""
    answer = json.dumps(one_line(response).translate(_QUOTES), ensure_ascii=False)
    return f"{date[:10] + ' ' if date else ''}{quoted(text)} -> {answer}"


def persona_block(text: str) -> str:
    """A persona between delimiters that its own text cannot contain."""
    return f"{PERSONA_OPEN}\n{defuse(text).strip()}\n{PERSONA_CLOSE}"
