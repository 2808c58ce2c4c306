"""What an answer comes in: fences, markers, JSON."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence

from personaagent.datasets.lamp.parse.calls import without_calls

GAP = r"[\s\-_\u2010-\u2015]"
WRAPPING = " \t\r\n\"'`“”‘’«»*_.,;:!()[]{}<>【】［］。！：-•$\\#|~"
OPEN = r"[\s\"'`“‘«*_(\[{<:=>→\-–—•]"
CLOSE = r"[\"'`”’»*_)\]}>]{0,6}"
# What may not touch an answer: a letter, unless of a script without spaces, or a digit.
LETTER = r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
_KEYS = ("answer", "final_answer", "tag", "category", "label", "score", "rating", "stars", "choice", "reference")
TEXT_KEYS = ("answer", "final_answer", "headline", "title", "paraphrase", "tweet", "text")
_CALLS = ("next_tool_name", "tool_name", "tool", "tool_calls", "function", "function_call", "action_input", "arguments")
DEPTH = 3


def plain(raw: str) -> str:
    """The text without an LM's own reasoning, markers, code fences and runs of white space; linear in its length."""
    text = without_calls(re.sub("[\ufe0f\u20e3]", "", raw.rpartition("</think>")[2]))
    text = re.sub(r"\[\[ ?## ?\w{1,40} ?## ?\]\]|</?[A-Za-z_]{1,20}>|```(?:json|text|markdown)?", "\n", text)
    text = re.sub(r"\\(?:boxed|textbf|text|mathrm) ?\{", "{", text)
    text = re.sub(r"[^\S\n]+", " ", text)
    return re.sub(r" ?\n[ \n]*", "\n", text).strip()


def loaded(text: str) -> object:
    """What JSON text says; None if it is none."""
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def field(value: object, keys: Sequence[str]) -> tuple[bool, object]:
    """Whether an object has one of the keys, in any case, and what the first of them holds."""
    if isinstance(value, dict):
        fields = {str(key).casefold().replace(" ", "_"): item for key, item in value.items()}
        for key in keys:
            if key in fields:
                return True, fields[key]
    return False, None


def json_parts(text: str) -> list[str] | None:
    """The answers that JSON states, by one of the usual names or as a list; None if the text states none so.

    JSON that calls a tool states none, whatever it names.
    """
    value: object = None
    if text[:1] in "{[":
        value = loaded(text)
    if value is None and "{" in text:
        value = loaded(text[text.index("{") : text.rfind("}") + 1])
        value = value if isinstance(value, dict) else None
    stated = False
    for _ in range(2 * DEPTH):
        found, inner = (True, value[0]) if isinstance(value, list) and len(value) == 1 else field(value, _KEYS)
        if not found:
            break
        stated, value = True, inner
    if not stated and field(value, _CALLS)[0]:
        return []
    items = value if isinstance(value, list) else [value] if stated else None
    return None if items is None else [str(item) if isinstance(item, str | int | float) else "" for item in items]
