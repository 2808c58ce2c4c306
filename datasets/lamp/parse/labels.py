"""From an LM's text to one of a list of labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from personaagent.datasets.lamp.parse.statements import Mention, listed, read
from personaagent.datasets.lamp.parse.wrapping import DEPTH, GAP, json_parts, plain


def parse_label(raw: str, labels: Sequence[str]) -> str | None:
    """The one label that a text gives, or None if it gives none or several. Never raises.

    Rules, in order; the first that applies ends it:

    1. the text without surrounding white space is a label (the official rule);
    2. JSON with a field such as `answer`, `tag` or `category`, or a JSON list: what that holds, by these rules;
    3. the last statement such as `Answer:`, `final tag:` or `the answer is` that a label follows directly;
    4. the text begins with a label that stands by itself: what follows is an explanation;
    5. the last line is a label by itself (an LM that reasons first);
    6. the last statement such as `the tag is`, `category:` or `I would choose` that a label follows directly;
    7. one label is called the best or the right one;
    8. the last sentence begins with `so`, `therefore` or alike and names one label;
    9. one label is named in the whole text, and the text is no refusal.

    In all of them case does not matter, nor hyphens, quotes, emphasis and brackets, `&` is `and`, and reasoning
    in `<think>` is not part of the text. Labels are whole words; a longer one hides a shorter one inside it (`dark
    comedy` is not `comedy`), and `comedy-drama` and `women's` name none. A label that is rejected (`not X`, `rather
    than X`, `X does not fit`) counts as not named; one that is listed with another (`X or Y`, `X, Y`) is ambiguous.

    If all labels are marks in brackets, such as `[1]`, then marks in square brackets are labels; in a text without
    any, `reference 1`, `(1)` and `the first`; in a text without those, a plain `1`. In the last two what is quoted
    does not count: a title may have a digit.

    Args:
        raw: what the LM wrote, of any length.
        labels: all labels of the task. Two that differ in case or hyphens alone are told apart by rule 1 only.
    """
    return _label(raw, labels, DEPTH)


def _label(raw: str, labels: Sequence[str], depth: int) -> str | None:
    if raw.strip() in labels:
        return raw.strip()
    text = plain(raw)
    parts = json_parts(text) if depth else None
    if parts is not None:
        found = {_label(part, labels, depth - 1) for part in parts}
        return found.pop() if len(found) == 1 else None
    names = _names(tuple(labels))
    return read(text, list(_marks(text, names) if names.marks else _named(text, names)))


@dataclass(frozen=True, slots=True)
class _Names:
    """How labels are found in a text: their pattern, and the label by each key or mark."""

    pattern: re.Pattern[str]
    by_key: dict[str, str]
    marks: bool


@lru_cache(maxsize=64)
def _names(labels: tuple[str, ...]) -> _Names:
    marks = {found[1]: label for label in labels if (found := re.fullmatch(r"\[(\w+)\]", label))}
    if labels and len(marks) == len(labels):
        return _Names(re.compile("|".join(map(re.escape, marks))), marks, marks=True)
    by_key: dict[str, str] = {}
    for label in labels:
        by_key.setdefault(_key(label), label)
    by_key.pop("", None)
    patterns = [_pattern(label) for label in sorted(by_key.values(), key=lambda label: (-len(label), label))]
    # Scripts without spaces may touch a label, letters of others may not.
    letter = r"[^\W\u3040-\u30ff\u3400-\u9fff\uac00-\ud7af]"
    compound = rf"-(?!(?:related|themed|oriented|focused|centric)\b){letter}|['’]s\b"
    pattern = rf"(?<!{letter})(?<!{letter}-)(?:{'|'.join(patterns) or '(?!)'})(?!{letter}|{compound})"
    return _Names(re.compile(pattern, re.IGNORECASE), by_key, marks=False)


def _key(text: str) -> str:
    return re.sub(rf"{GAP}+", "", re.sub(r"&amp;|&|\band\b", "and", text.casefold()))


def _pattern(label: str) -> str:
    words = [word for word in re.split(rf"{GAP}+", label) if word]
    return rf"{GAP}{{0,3}}".join(r"(?:&amp;|&|and)" if word in ("&", "and") else re.escape(word) for word in words)


def _named(text: str, names: _Names) -> Iterator[Mention]:
    for found in names.pattern.finditer(text):
        # A key may be missing where case folds in another way than the pattern ignores it.
        if label := names.by_key.get(_key(found[0])):
            yield Mention(found.start(), found.end(), label)


_ORDINALS = {"first": "1", "second": "2", "third": "3", "fourth": "4", "fifth": "5"}


def _marks(text: str, names: _Names) -> list[Mention]:
    mark = f"({names.pattern.pattern})"
    found = _found(rf"[\[【［] ?{mark} ?[\]】］]", text, names)
    if found:
        return found
    text = re.sub(r"\"[^\"\n]{4,}\"|“[^“”\n]{4,}”", lambda quote: " " * len(quote[0]), text)
    ordinals = "|".join(word for word, number in _ORDINALS.items() if number in names.by_key) or "(?!)"
    nouns = r"\b(?:references?|ref\.?|options?|papers?|number|no\.|titles?|choice)"
    found = _found(rf"{nouns} ?[#(]?{mark}\b\)?|\( ?{mark} ?\)|\bthe ({ordinals})\b", text, names)
    plain = _found(rf"(?<![\w.,/%$-]){mark}(?![\w/%]|[.,]\d)", text, names)
    # `Reference 1 and 2` names both.
    after = dict(zip((one.start for one in plain[1:]), plain, strict=False))
    ends = {one.end for one in found}
    joined = [two for two in plain if (one := after.get(two.start)) and one.end in ends and listed(text, one, two)]
    return sorted({*found, *joined}, key=lambda mention: mention.start) if found else plain


def _found(pattern: str, text: str, names: _Names) -> list[Mention]:
    mentions = []
    for found in re.finditer(pattern, text, re.IGNORECASE):
        mark = next(group for group in found.groups() if group).casefold()
        mentions.append(Mention(found.start(), found.end(), names.by_key.get(_ORDINALS.get(mark, mark))))
    return mentions
