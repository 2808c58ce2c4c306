"""From an LM's text to one of a list of labels."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from personaagent.datasets.lamp.parse.mentions import Mention, listed
from personaagent.datasets.lamp.parse.statements import read
from personaagent.datasets.lamp.parse.wrapping import DEPTH, GAP, LETTER, json_parts, plain


def parse_label(raw: str, labels: Sequence[str]) -> str | None:
    """The one label that a text gives, or None if it gives none or several. Never raises.

    Rules, in order; the first that applies ends it:

    1. the text without surrounding white space is a label (the official rule);
    2. JSON with a field such as `answer`, `tag` or `category`, or a JSON list: what that holds, by these rules;
    3. the last statement such as `Answer:`, `final tag:` or `the answer is` that a label follows directly;
    4. the text begins with a label that stands by itself: what follows is an explanation;
    5. the text ends with one label as what follows: `..., so comedy`, `i.e. comedy`; None if 3 or 4 gives another;
    6. the last line is a label by itself (an LM that reasons first);
    7. the last statement such as `the tag is`, `category:`, `this film:` or `I would choose` that a label follows
       directly;
    8. one label is called the best, the right or the more relevant one;
    9. the last sentence begins with `so`, `therefore` or alike and names one label;
    10. one label is said to fit (`is related`, `matches the author's work`), with no doubt before it, and no `but`,
        `also` or alike after it if another label is named later;
    11. one label is named in the whole text, and the text neither refuses nor plans to look something up.

    In all of them case does not matter, nor hyphens, quotes, emphasis and brackets, `&` is `and`, and reasoning
    in `<think>` is not part of the text. Labels are whole words; a longer one hides a shorter one inside it (`dark
    comedy` is not `comedy`), and `comedy-drama` and `women's` name none; there are no synonyms. A label that is
    rejected (`not X`, `rather than X`, `X does not fit`, `X is unrelated`) or ranked lower (`second choice: X`,
    `runner-up: X`) counts as not named; one that is listed with another (`X or Y`, `X, Y`) is ambiguous.

    After `Wait, ...`, `Correction: ...` or alike only what follows counts, and rule 11 only if it agrees with what
    was said before. After `no, X`, `actually, X` or `or rather X` only X and what follows count. An agent's steps are
    no answer: a call of a tool (`Action: recall[...]`, `Action Input: ...`), what led to it and what it returned do
    not count, but what `finish[...]` gives does.

    If all labels are marks in brackets, such as `[1]`, then marks in square brackets are labels, and beside them `the
    former` and `the latter` (of two) and `the second` that ends its phrase or is `one`, `reference` or alike; in a text
    without any, `reference 1`, `(1)`, `the first` and `the former`; in a text without those, a plain `1`. In the last
    two what is quoted does not count: a title may have a digit. `Second` or `the former` may also be the whole text.

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
    compound = rf"-(?!(?:related|themed|oriented|focused|centric)\b){LETTER}|['’]s\b"
    pattern = rf"(?<!{LETTER})(?<!{LETTER}-)(?:{'|'.join(patterns) or '(?!)'})(?!{LETTER}|{compound})"
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
_NOUNS = r"(?:references?|ref\.?|options?|papers?|number|no\.|titles?|choice)"


def _marks(text: str, names: _Names) -> list[Mention]:
    mark = f"({names.pattern.pattern})"
    places = dict(names.by_key) | {word: names.by_key[at] for word, at in _ORDINALS.items() if at in names.by_key}
    words = "|".join(word for word in _ORDINALS if word in places) or "(?!)"
    if len(names.by_key) == 2:
        places |= zip(("former", "latter"), names.by_key.values(), strict=True)
    pair = "former|latter" if "former" in places else "(?!)"
    if bare := re.fullmatch(rf"\W*(?:the )?({words}|{pair})(?: (?:one|{_NOUNS}))?\W*", text, re.IGNORECASE):
        return [Mention(bare.start(1), bare.end(1), places[bare[1].casefold()])]
    found = _found(rf"[\[【［] ?{mark} ?[\]】］]", text, places)
    if found:
        # `The second author` is none of them.
        ends = r"(?= (?:one|reference|option|is|seems|fits|matches)\b|\s?(?:[.,;!]|$))"
        found += _found(rf"\bthe ({pair})\b|\bthe ({words})\b{ends}", text, places)
        return sorted(found, key=lambda mention: mention.start)
    text = re.sub(r"\"[^\"\n]{4,}\"|“[^“”\n]{4,}”", lambda quote: " " * len(quote[0]), text)
    nouns = rf"\b{_NOUNS} ?[#(]?{mark}\b\)?|\( ?{mark} ?\)"
    found = _found(rf"{nouns}|\bthe ({words}|{pair})\b", text, places)
    plain = _found(rf"(?<![\w.,/%$-]){mark}(?![\w/%]|[.,]\d)", text, places)
    # `Reference 1 and 2` names both.
    after = dict(zip((one.start for one in plain[1:]), plain, strict=False))
    ends_at = {one.end for one in found}
    more = [two for two in plain if (one := after.get(two.start)) and one.end in ends_at and listed(text, one, two)]
    return sorted({*found, *more}, key=lambda mention: mention.start) if found else plain


def _found(pattern: str, text: str, places: Mapping[str, str]) -> list[Mention]:
    mentions = []
    for found in re.finditer(pattern, text, re.IGNORECASE):
        mark = next(group for group in found.groups() if group).casefold()
        mentions.append(Mention(found.start(), found.end(), places.get(mark)))
    return mentions
