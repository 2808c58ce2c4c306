"""The answers that a text names, and which of them it rejects, lists together or takes back."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from personaagent.datasets.lamp.parse.wrapping import CLOSE, OPEN

WIDEST = 100


@dataclass(frozen=True, slots=True)
class Mention:
    """An answer that a text names, from `start` to `end`.

    `answer` is None if it is none of the possible ones, which only matters to what is listed with it, and empty if
    it may be several (`at least 4`), which is as ambiguous as naming them; `weak` if it may be an ordinary word
    (`one`), so that it counts only where an answer is stated.
    """

    start: int
    end: int
    answer: str | None
    weak: bool = False


COPULA = r"(?: ?(?::|=|→|->| - )|\s+(?:is|are|would be|should be|must be|will be)\b)"
_REJECTED = re.compile(
    r"(?:\b(?:not|cannot|no|never|neither|nor|without|than|instead of|other than|over|except|excluding|unlike|versus|"
    r"vs\.?|opposed to|less)|n['’]t)\s+(?:(?:a|an|the|really|so much|exactly|to|be|is|it|that|much|quite|truly|"
    r"necessarily|in|under|as|of|worth|think|say|call|choose|pick|tag|fit|match|belong|look|like|seem|give|rate|this)"
    rf"\s+){{0,4}}{OPEN}*$",
    re.IGNORECASE,
)
# `Unlike comedy, action ...` opens a sentence: what follows its comma is not rejected too.
_FRONTED = re.compile(
    r"(?:^|[.!?;:\n]\s*)(?:so |thus |but )?(?:unlike|instead of|rather than|other than|as opposed to)\s+"
    rf"(?:(?:a|an|the)\s+)?{OPEN}*$",
    re.IGNORECASE,
)
_REJECTED_TOO = re.compile(rf"{CLOSE},?\s*(?:(?:or|nor|and)\s+)?(?:(?:a|an|the)\s+)?{OPEN}*", re.IGNORECASE)
_COMMA = re.compile(rf"{CLOSE},\s*(?:(?:a|an|the)\s+)?{OPEN}*", re.IGNORECASE)
_DENIED = re.compile(
    rf"{CLOSE}\s(?:(?:is|was|are|does|do|did|would|can|could|should)(?:\s+not\b|n['’]t\b)|cannot\b|"
    r"(?:is|was|are|seems|looks)(?: (?:only|merely|just|completely|entirely|totally|quite|rather|clearly|far|much|an?))"
    r"{0,3} (?:wrong|incorrect|unrelated|irrelevant|off-topic|secondary|incidental|side \w{1,10}|less \w{1,15}|"
    r"(?:about|on) (?:something else|another|(?:an? )?(?:\w{1,12}ly )?(?:different|other|unrelated))))"
    rf"|{CLOSE} ?\?{CLOSE} ?(?:no|nope|not really|hardly)\b",
    re.IGNORECASE,
)
_DENIED_TOO = re.compile(
    rf"[^.!?\n]{{0,80}},? (?:and )?(?:as|so|nor|neither) (?:is|are|does|do|would) (?:(?:a|an|the) )?{OPEN}*",
    re.IGNORECASE,
)
# A lower rank, before an answer and after it. `The second reference` and `option` are no ranks but places.
_RANKED = r"(?:best|choices?|picks?|guess(?:es)?|tags?|category|categories|labels?|genres?|ratings?|scores?|likely)"
_LESSER = re.compile(
    rf"\b(?:(?:runner[- ]?ups?|secondary|tertiary|back-?ups?|fall-?backs?|(?:second|third|fourth|2nd|"
    r"3rd|4th|next(?= best|-best| \w{1,8} likely| choice| guess))[ -]"
    rf"(?:[\w-]{{1,15}} ){{0,2}}?{_RANKED})\b{CLOSE}(?: [\w'’-]{{1,20}}){{0,6}}?{CLOSE}|"
    rf"(?:alternatives?|alternatively|alternate|(?:other|another) (?:[\w-]{{1,15}} ){{0,2}}?(?:{_RANKED}|"
    rf"possibilit(?:y|ies)|candidates?|options?))\b{CLOSE})(?:{COPULA}|(?<=alternatively),|(?<=runner-up),|"
    rf"(?<=choice)|(?<=guess)|(?<=pick)| (?:could|might|may) be\b){OPEN}*(?:(?:a|an|the) )?{OPEN}*$",
    re.IGNORECASE,
)
_LESSER_AFTER = re.compile(
    rf"{CLOSE},? \(?(?:(?:as|is|was|being|would be|could be|might be|comes?(?: in)?) )?(?:(?:a|an|the|my) )?"
    r"(?:(?:close |distant )(?:second|third)|(?:possible |good |second |third )?(?:runner[- ]?up|alternative|back-?up|"
    r"fallback)|(?:second|third|next)[- ](?:best|choice|pick|guess|place))(?=\s?[.,;!)\n]|\s?$| (?:to|behind)\b)",
    re.IGNORECASE,
)
_BOTH = re.compile(
    r"[/|&+]|\b(?:and|or|nor|else|also|with|plus|as well as|vs|versus|to|through|und|oder|et|ou)\b", re.IGNORECASE
)
LIST = re.compile(
    r"(?:[\s\"'`“”‘’«»*_()\[\]{}<>,;:./|&+\-–—•~]|\d{1,2}[.)]\s|\b(?:and|or|nor|else|also|but|with|plus|as|well|vs|"
    r"versus|to|through|und|oder|et|ou|maybe|perhaps|possibly|a|an|the|either)\b)*",
    re.IGNORECASE,
)
_ENDS = re.compile(rf"{CLOSE}\s*(?:$|\n|[.,;:!?/|&()–—-]|(?:and|or|as well)\b)", re.IGNORECASE)
_MEANT = (
    r"(?:(?:no|actually|it['’]s|it is|that['’]s|that is|make (?:it|that)|I['’]d say|I would say|I mean|the answer is|"
    r"should be|a|an|the)\b[,:]? ){0,3}"
)
_TAKEN_BACK = re.compile(
    r"(?:^|(?<=[.!?,;:(…\n–—-])) ?(?:(?:oh|but|hmm+|no|actually|well|sorry)[,.]? ){0,4}(?:wait(?=[,.:;!…–—-]| no\b|"
    r" actually\b| that\b| I\b)|correction(?=[:,])|scratch that|strike that|on second thoughts?|on reflection|"
    r"let me (?:reconsider|rethink|correct)|I take (?:that|it) back|my mistake|I was wrong|I made a mistake)\b"
    rf"[\s,.:;!…–—-]{{0,6}}(?:(?:no|actually|that['’]s wrong)\b[\s,.:;!…–—-]{{1,6}})?{_MEANT}",
    re.IGNORECASE,
)
_INSTEAD = re.compile(
    r"(?:(?:^|[.!?,;:(…\n–—-]) ?(?:(?:no|nope)(?:[,:;!…–—-]| -)|(?<=\? )no\.|(?:actually|sorry|I mean|I meant|"
    rf"make that|edit)\b[,:]?)|\bor rather\b[,:]?) ?{_MEANT}{OPEN}{{0,4}}$",
    re.IGNORECASE,
)
_SAID = re.compile(rf"{CLOSE}\s*(?:$|\n|[.;!]|,? (?:since|because|as|given|due)\b)", re.IGNORECASE)


def accepted(text: str, mentions: Sequence[Mention]) -> list[Mention]:
    """Those that the text neither rejects nor ranks lower, such as the second of `comedy rather than action`."""
    kept: list[Mention] = []
    rejected: Mention | None = None
    denied: Mention | None = None
    fronted = False
    for mention in mentions:
        before = text[max(0, mention.start - WIDEST) : mention.start]
        too = _between(text, rejected, mention, _REJECTED_TOO)
        if fronted and _between(text, rejected, mention, _COMMA):
            too = False
        if too or _REJECTED.search(before) or _LESSER.search(before):
            rejected, fronted = mention, _FRONTED.search(before) is not None
        elif _DENIED.match(text, mention.end) or _between(text, denied, mention, _DENIED_TOO):
            denied = mention
        elif not _LESSER_AFTER.match(text, mention.end):
            kept.append(mention)
    return kept


def _between(text: str, first: Mention | None, second: Mention, pattern: re.Pattern[str]) -> bool:
    """Whether all that is between two answers, not far from each other, matches."""
    if first is None or not 0 <= second.start - first.end < WIDEST:
        return False
    return pattern.fullmatch(text, first.end, second.start) is not None


def listed(text: str, first: Mention, second: Mention) -> bool:
    """Whether two answers are named as one list, such as `comedy or action`."""
    gap = text[first.end : second.start]
    if len(gap) > WIDEST or not LIST.fullmatch(gap):
        return False
    return bool(_BOTH.search(gap) or _ENDS.match(text, second.end))


def joined(gap: str) -> bool:
    """Whether what is between two answers makes them a list."""
    return bool((gap.rstrip().endswith((",", ";", "/", "&")) or _BOTH.search(gap)) and LIST.fullmatch(gap))


def alone(text: str, mentions: Sequence[Mention], at: int) -> bool:
    """Whether no other answer is listed with this one."""
    mention = mentions[at]
    pairs = [(mentions[at - 1], mention)] if at else []
    pairs += [(mention, other) for other in mentions[at + 1 : at + 2]]
    return all(first.answer == second.answer or not listed(text, first, second) for first, second in pairs)


def replaced(text: str, mentions: Sequence[Mention]) -> int:
    """From where on a text only counts because an answer replaces what came before: `comedy. No, romance.`"""
    for mention in reversed(mentions[1:]):
        before = text[max(0, mention.start - WIDEST) : mention.start]
        if _SAID.match(text, mention.end) and _INSTEAD.search(before):
            return mention.start
    return 0


def taken_back(text: str) -> tuple[int, int]:
    """Where a text last takes back what it said (`Wait, no: `), and where that ends; 0 and 0 if it does not."""
    spans = [found.span() for found in _TAKEN_BACK.finditer(text)]
    return spans[-1] if spans else (0, 0)


def split(mentions: Sequence[Mention], at: int, begin: int) -> tuple[list[Mention], list[Mention]]:
    """Those before one place, and those from another on with their places counted from there."""
    before = [mention for mention in mentions if mention.end <= at]
    after = [mention for mention in mentions if mention.start >= begin]
    return before, [replace(mention, start=mention.start - begin, end=mention.end - begin) for mention in after]
