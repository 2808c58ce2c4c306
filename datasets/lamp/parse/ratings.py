"""From an LM's text to a rating."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache

from personaagent.datasets.lamp.parse.mentions import Mention
from personaagent.datasets.lamp.parse.statements import read
from personaagent.datasets.lamp.parse.wrapping import CLOSE, DEPTH, LETTER, json_parts, plain

_HALF = r"(?: and a half| ?½)"
_WORD_NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
_VALUE = rf"(?:\d{{1,9}}(?:[.,]\d{{1,9}})?|\b(?:{'|'.join(_WORD_NUMBERS)})\b)"
_UNIT = (
    r"(?:[ -]?(?:stars?|points?|pts?|sterne?n?|estrellas?|estrelas?|étoiles?|stelle)\b| ?[颗顆]?星| ?つ星|"
    r" ?[分点點점](?![钟鐘鍾之半])| ?[★⭐🌟](?! ?[★⭐🌟☆]))"
)
_NUMBER = re.compile(
    rf"(?<!{LETTER})(?<![.,$€£#%/第])(?<!满分)(?<![^\W\d]-)(?P<sign>(?<![\d*)\]])[-+−])?(?P<value>{_VALUE})(?P<half>{_HALF})?"
    rf"(?:(?P<of> ?/ ?| out of (?:the )?| of (?:the )?| von | sur | de | su )(?P<most>{_VALUE}))?(?P<unit>{_UNIT})?"
    rf"(?!{LETTER}|[.,:]\d|%| ?/ ?\w)",
    re.IGNORECASE,
)
_RATES = re.compile(
    rf"{CLOSE}(?:\s*$|\n|\s*[.,;:!?()/|+–—]|\s?-|\s+(?:because|since|as|for|based|given|due|at|but|and|or|to|rather|"
    r"instead|though|although|overall|i|on|with|und|oder|not|over|out|than|"
    r"here|then)\b|\s?[\u2600-\u27bf\U0001f300-\U0001faff])",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    r"\b(?:chapter|page|volume|vol\.|part|book|season|episode|version|day|step|no\.|number of) ?$", re.IGNORECASE
)
# `At least 4` may be 4 or 5.
_MORE = r"(?:more|less|fewer|higher|lower|better|worse|greater|above|below)"
_BOUND = re.compile(
    rf"\b(?:at (?:the )?(?:least|most)|{_MORE} than|above|below|under|over|up to|(?:minimum|maximum)(?: of)?) "
    r"(?:(?:a|an|the) )?$",
    re.IGNORECASE,
)
_BOUND_AFTER = re.compile(rf"{CLOSE} (?:or {_MORE}|and (?:up|above|over)|at (?:least|most))\b", re.IGNORECASE)
_ARTICLE = re.compile(r"\ba (?:\w{1,15} )?$", re.IGNORECASE)
_DRAWN = re.compile(r"(?:[★⭐🌟] ?)+(?P<half>½)?[☆✩ ]*")


def parse_rating(raw: str, lowest: int = 1, highest: int = 5) -> str | None:
    """The text of the one number that a text gives as its rating, or None if it gives none or several. Never raises.

    Rules, in order; the first that applies ends it:

    1. the text without surrounding white space is a number for `float`, and not `nan`: that text as it is, even
       `7`, `inf` or `4.0` (the official rule: what is off the scale is wrong by how far it is off);
    2. as rules 2 to 11 of `parse_label`, where an answer is a number from lowest to highest.

    In rule 2 a number is digits or a word, with a half (`4½`, `four and a half`), a unit (`4 stars`, `4星`), out of
    the highest (`4/5`), drawn (`★★★★☆`) or an emoji (`4️⃣`). It must end its phrase: `4 because` is a rating, `3
    problems` is not. A number out of another scale (`8/10`) or of another thing (`chapter 4`) is none; the scale
    itself (`1 to 5`) does not count. A range, a bound or several numbers (`3-4`, `at least 4`, `4 or more`, `3 or 4`)
    is ambiguous. What is off the scale is None here.

    Args:
        raw: what the LM wrote, of any length.
        lowest: of the scale.
        highest: of the scale, above lowest.
    """
    text = raw.strip()
    try:
        return None if math.isnan(float(text)) else text
    except ValueError:
        return _rating(text, lowest, highest, DEPTH)


def _rating(raw: str, lowest: int, highest: int, depth: int) -> str | None:
    text = plain(raw)
    parts = json_parts(text) if depth else None
    if parts is not None:
        found = {_rating(part, lowest, highest, depth - 1) for part in parts}
        return found.pop() if len(found) == 1 else None
    text = _scale(lowest, highest).sub(lambda scale: " " * len(scale[0]), text)
    return read(text, list(_ratings(text, lowest, highest)))


@lru_cache(maxsize=64)
def _scale(lowest: int, highest: int) -> re.Pattern[str]:
    """The scale as a text repeats it: `1 to 5`, or all of its numbers."""
    numbers = [_either(number) for number in range(lowest, highest + 1)]
    whole = r"(?: ?[,/] ?(?:or |and )?| (?:or|and) )".join(numbers)
    ends = rf"{numbers[0]} ?(?:-|–|—|~|\bto\b|\bthrough\b|\band\b|\bbis\b) ?{numbers[-1]}"
    return re.compile(rf"(?<![\w.,])(?:{whole}|{ends})(?![\w%]|[.,]\d)", re.IGNORECASE)


def _either(number: int) -> str:
    word = _WORD_NUMBERS[number : number + 1] if number >= 0 else ()
    return f"(?:{'|'.join([str(number), *word])})"


def _ratings(text: str, lowest: int, highest: int) -> Iterator[Mention]:
    mentions = []
    for found in _NUMBER.finditer(text):
        value, digits = _value(found["value"], bool(found["unit"] or found["most"]))
        if found["most"] and _value(found["most"], True)[0] != highest:
            continue
        before = text[max(0, found.start() - 20) : found.start()]
        if _COUNTED.search(before):
            continue
        sure = bool(found["unit"] or found["most"])
        if not sure and not _RATES.match(text, found.end()):
            continue
        value = math.nan if value is None else (-value if found["sign"] in ("-", "−") else value)
        value += 0.5 if found["half"] else 0
        weak = not (digits or sure or _ARTICLE.search(before))
        bound = _BOUND.search(before) or _BOUND_AFTER.match(text, found.end())
        mentions.append(Mention(found.start(), found.end(), "" if bound else _shown(value, lowest, highest), weak))
    taken = {at for mention in mentions for at in range(mention.start, mention.end)}
    for found in _DRAWN.finditer(text):
        if found.start() not in taken:
            value = len(re.findall("[★⭐🌟]", found[0])) + (0.5 if found["half"] else 0)
            mentions.append(Mention(found.start(), found.end(), _shown(value, lowest, highest)))
    return iter(sorted(mentions, key=lambda mention: mention.start))


def _value(text: str, rated: bool) -> tuple[float | None, bool]:
    """A number, and whether it is in digits. `4,5` is a number only if it is rated by what follows."""
    if text.casefold() in _WORD_NUMBERS:
        return float(_WORD_NUMBERS.index(text.casefold())), False
    return (None if "," in text and not rated else float(text.replace(",", "."))), True


def _shown(value: float, lowest: int, highest: int) -> str | None:
    return f"{value:g}" if lowest <= value <= highest else None
