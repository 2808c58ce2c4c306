"""Text of users, pages and language models as data: what goes into a prompt cannot act as protocol.

A prompt is DSPy's field markers, our delimiters and text from elsewhere. Here the last is made unable to
pass for the first two, while a person who reads it still reads what was written: a marker keeps its
words and loses only its exact shape.

What counts as a marker is more than DSPy's parser takes for one: an LM that copies a text may well write
plain brackets for full-width ones, or leave out what cannot be seen. Other spellings (`[[ ### answer ### ]]`,
`&#91;`, a Cyrillic a) stay as they are: to make a marker of those is no copying, but writing.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from personaagent.programs.errors import InputError

if TYPE_CHECKING:
    import dspy

MAX_TEXT_CHARS = 2_000
"""Longest text of one record or page in a prompt. MiniLM reads about 1,200 characters of it."""

PERSONA_OPEN, PERSONA_CLOSE = "<persona>", "</persona>"

# All that str.splitlines splits at, which is what DSPy's parser goes by.
_LINE_END = re.compile("\r\n|[\r\v\f\x1c-\x1e\x85\u2028\u2029]")
_SPACE = re.compile(r"[\t\x1f]")
_SURROGATE = re.compile("[\ud800-\udfff]")
# Of the format characters only the bidirectional controls go: joiners are part of many scripts and emoji.
# U+E0000 and on are invisible twins of ASCII, in which pages hide instructions; only flags are made of them.
_UNSEEN = re.compile(
    "(\U0001f3f4[\U000e0020-\U000e007e]{1,8}\U000e007f)"
    "|[\x00-\x08\x0e-\x1b\x7f-\x9f\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]+"
)

# Characters that take no room on a screen, and the twins of ASCII that Unicode folds to it (NFKC).
_Z = "\u00ad\u034f\u061c\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef"
_OPEN, _CLOSE, _HASH, _LESS, _MORE, _SLASH = "[\\[［﹇]", "[\\]］﹈]", "[#＃﹟]", "[<＜﹤]", "[>＞﹥]", "[/／]"

# DSPy finds a field by "[[ ## name ## ]]" at the start of a stripped line. Every repetition is possessive:
# a megabyte of half a marker is read once.
_HASHES = rf"{_HASH}[{_Z}]*+{_HASH}"
_MARKER = re.compile(
    rf"{_OPEN}[{_Z}]*+{_OPEN}[\s{_Z}]*+{_HASHES}[\s{_Z}]*+"
    rf"\w[\w{_Z}]*+[\s{_Z}]*+{_HASHES}[\s{_Z}]*+{_CLOSE}[{_Z}]*+{_CLOSE}"
)
_HASH_PAIR = re.compile(f"({_HASH})([{_Z}]*+{_HASH})")
_NAME = f"[{_Z}]*+".join(f"[{letter}{chr(ord(letter) + 0xFEE0)}]" for letter in "persona")
_PERSONA_TAG = re.compile(
    rf"{_LESS}([\s{_Z}]*+(?:{_SLASH}[\s{_Z}]*+)?+{_NAME}[{_Z}]*+)"
    rf"(?:((?:[\s/／][^<＜﹤>＞﹥]*+)?+){_MORE}|(?=[\s/／]|\Z))",
    re.IGNORECASE,
)
# DSPy turns what stands between these into parts of the message: further fields, or images to be fetched.
_CUSTOM_TYPE = re.compile("<(?=<CUSTOM-TYPE-(?:START|END)-IDENTIFIER>>)")
# A local server's tokenizer takes <|im_start|> for the start of a message wherever it stands.
_CHAT_TOKEN = re.compile(r"<(?=[|｜][^\s<>|｜]{1,64}[|｜]>)")
_INVISIBLE = re.compile(rf"[\s{_Z}]*")
_QUOTES = str.maketrans({"«": "‹", "»": "›"})


def defuse(text: str) -> str:
    """The text with what could act as protocol in a prompt made harmless.

    DSPy's field markers lose their shape (`[[ ## answer ## ]]` becomes `[[ # # answer # # ]]`), and so do its
    markers of typed content, the tokens of chat templates (`< |im_start|>`) and our persona delimiters
    (`</persona>` becomes `(/persona)`). Line ends of every kind become newlines, tabs spaces; control and
    bidirectional-override characters are dropped, and so are halves of surrogate pairs and the invisible tag
    characters, but for those of flags. Other text stays as it is, to the character. Idempotent, and linear in the
    length of the text.
    """
    if _SURROGATE.search(text):  # halves of a pair are joined; what has no other half no provider accepts
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "ignore")
    text = _SPACE.sub(" ", _LINE_END.sub("\n", text))
    text = _UNSEEN.sub(r"\1", text)
    text = _MARKER.sub(lambda marker: _HASH_PAIR.sub(r"\1 \2", marker[0]), text)
    text = _PERSONA_TAG.sub(_in_parentheses, text)
    return _CHAT_TOKEN.sub("< ", _CUSTOM_TYPE.sub("< ", text))


def _in_parentheses(tag: re.Match[str]) -> str:
    # Without its end, or with another tag in it, only the tag's beginning is one.
    return f"({tag[1]}" if tag[2] is None else f"({tag[1]}{tag[2]})"


def defuse_all(value: Any) -> Any:
    """The value with every text in it defused: in lists, dictionaries, DSPy histories and pydantic models.

    Of anything else that DSPy would write into a prompt as a text with protocol in it, the defused text.
    """
    if isinstance(value, str):
        return defuse(value)
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, dict):
        return {defuse_all(key): defuse_all(part) for key, part in value.items()}
    if type(value) in (list, tuple, set, frozenset):
        return type(value)(map(defuse_all, value))
    if isinstance(value, BaseModel):
        parts = {name: getattr(value, name) for name in (*type(value).model_fields, *(value.model_extra or ()))}
        changed = {name: new for name, part in parts.items() if (new := defuse_all(part)) is not part and new != part}
        return value.model_copy(update=changed) if changed else value
    text = _as_dspy_writes(value)
    return value if defuse(text) == text else defuse(text)


def _as_dspy_writes(value: Any) -> str:
    from dspy.adapters.utils import serialize_for_json

    plain = serialize_for_json(value)
    return json.dumps(plain, ensure_ascii=False) if isinstance(plain, dict | list) else str(plain)


def defused_demos(predictor: dspy.Predict) -> list[dict[str, Any]]:
    """A predictor's demonstrations, which hold what users asked and language models wrote."""
    return [defuse_all(dict(demo)) for demo in predictor.demos]


def written(value: object) -> str:
    """What an LM wrote, defused and stripped; "" for nothing, or nothing that could be seen.

    Adapters make the word None of a JSON null, which would otherwise pass for a text.
    """
    text = defuse(str(value)).strip() if value is not None else ""
    return "" if text.casefold() in ("none", "null") or _INVISIBLE.fullmatch(text) else text


def shorten(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """At most `max_chars` characters, cut after a sentence where one ends in the last half, else at a word.

    Raises:
        InputError: if `max_chars` is below 1.
    """
    if max_chars < 1:
        raise InputError(f"max_chars must be at least 1 but got {max_chars}")
    if len(text) <= max_chars:
        return text
    cut = text[: max_chars - 1]
    sentence_end = max(cut.rfind(mark) for mark in (". ", "! ", "? ", "\n"))
    if sentence_end >= max_chars // 2:
        return cut[: sentence_end + 1].rstrip() + "…"
    space = cut.rfind(" ")
    return (cut[:space] if space >= max_chars // 2 else cut).rstrip() + "…"


def one_line(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """The defused text on one line, white space folded; of at most `max_chars` characters, as `shorten` cuts it."""
    return shorten(" ".join(defuse(text).split()), max_chars)


def quoted(text: str, max_chars: int = MAX_TEXT_CHARS) -> str:
    """A text of a user or page on one line in «», which are ‹› inside it."""
    return f"«{one_line(text, max_chars).translate(_QUOTES)}»"


def record_line(text: str, response: str, date: str = "") -> str:
    """One interaction on one line: `2007-08-31 «text» -> "response"`. The response is a JSON string."""
    answer = json.dumps(one_line(response).translate(_QUOTES), ensure_ascii=False)
    return f"{date[:10] + ' ' if date else ''}{quoted(text)} -> {answer}"


def persona_block(text: str) -> str:
    """A persona between delimiters that its own text cannot contain; "" for one without text."""
    shown = defuse(text).strip()
    return f"{PERSONA_OPEN}\n{shown}\n{PERSONA_CLOSE}" if shown else ""
