"""From an LM's text to the label that the official metric compares. A step of its own, before the metric."""

from __future__ import annotations

import re
from collections.abc import Sequence

_LEAD = re.compile(r"^\s*(?:the\s+)?(?:final\s+)?(?:answer|tag|category|label)\s*(?:is\b|:|=|-)\s*:?\s*", re.IGNORECASE)
_WRAPPING = " \t\r\n\"'`“”‘’«»*_.,;:!()[]{}<>"


def parse_label(raw: str, labels: Sequence[str]) -> str | None:
    """The one label that a text gives, or None if it gives none or several.

    Rules, in order; the first that gives a label ends it:

    1. the text without surrounding white space is a label (the official rule);
    2. the same without quotes, emphasis, brackets and end punctuation, without a lead such as `Answer:` or
       `The tag is`, case and hyphens aside;
    3. the last line, by rule 2 (an LM that reasons first);
    4. exactly one label is named in the text, as whole words; a longer label hides a shorter one inside
       it (`dark comedy` is not also `comedy`).
    """
    text = raw.strip()
    if text in labels:
        return text
    by_key = {_key(label): label for label in labels}
    lines = [line for line in text.splitlines() if line.strip()]
    for part in [text, *lines[-1:]]:
        label = by_key.get(_key(_LEAD.sub("", part.strip(_WRAPPING)).strip(_WRAPPING)))
        if label is not None:
            return label
    named = _named(text, labels)
    return named.pop() if len(named) == 1 else None


def _key(text: str) -> str:
    return " ".join(re.split(r"[\s\-_]+", text.casefold())).strip()


def _named(text: str, labels: Sequence[str]) -> set[str]:
    named: set[str] = set()
    for label in sorted(labels, key=lambda name: (-len(name), name)):
        words = [re.escape(word) for word in re.split(r"[\s\-_]+", label)]
        pattern = re.compile(r"(?<!\w)" + r"[\s\-_]+".join(words) + r"(?!\w)", re.IGNORECASE)
        text, count = pattern.subn("|", text)
        if count:
            named.add(label)
    return named
