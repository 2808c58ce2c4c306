"""What a text states of the answers that it names: shared by labels and ratings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from personaagent.datasets.lamp.parse.wrapping import CLOSE, OPEN, WRAPPING


@dataclass(frozen=True, slots=True)
class Mention:
    """An answer that a text names, from `start` to `end`.

    `answer` is None if it is none of the possible ones, which only matters to what is listed with it; `weak`
    if it may be an ordinary word (`one`), so that it counts only where an answer is stated.
    """

    start: int
    end: int
    answer: str | None
    weak: bool = False


_FILLER = (
    r"(?:the|a|an|it|its|this|that|as|with|for|is|are|be|was|would|should|to|in|under|of|one|most|more|best|likely|"
    r"probably|clearly|definitely|simply|really|solid|strong|full|rather|instead|but|just|only|about|around|"
    r"therefore|thus|here|then|not|neither|nor|than|tag|tags|category|label|option|reference|number|score|rating|"
    r"movie|film|article|paper|review|book|product|item|user|them)"
)
_DIRECT = re.compile(rf"(?:{OPEN}|,|\b{_FILLER}\b)*", re.IGNORECASE)
_COPULA = r"(?: ?(?::|=|→|->| - )|\s+(?:is|are|would be|should be|must be|will be)\b)"
_WORDS = r"(?:,? [^\W\d_][\w'’]{0,30}){0,12}?,?"
_FINAL = re.compile(
    rf"\b(?:answer|verdict|choice|conclusion|final \w{{1,20}})\b{CLOSE}{_WORDS}{CLOSE}{_COPULA}", re.IGNORECASE
)
_STATED = re.compile(
    rf"\b(?:tags?|category|categories|labels?|classification|prediction|options?|references?|response|genre|fit|match|"
    rf"pick|result|score|rating|stars|grade|overall|best)\b{CLOSE}{_WORDS}{CLOSE}{_COPULA}"
    r"|\bI(?:['’]d|['’]ll)?(?: \w{1,15}){0,2}? (?:choose|chose|pick|select|go with|say|tag|classify|categori[sz]e|"
    r"label|assign|answer|opt for|give|rate|predict|conclude|vote for|lean towards?|settle on)\b"
    r"|\b(?:would|will|should|must|likely|best)(?: (?:most|likely|probably|best|be)){0,3} (?:tag|tagged|classified|"
    r"categori[sz]ed|labell?ed|described|give|rate|rated|choose|pick|select|go with|say|assign)\b"
    r"|\b(?:falls? (?:under|into)|belongs? (?:to|in|under)|(?:fits?|relates?|matches)(?: most)? (?:best|closely)"
    r" (?:in|into|under|with|to)|best (?:fits|matches)|overall,?)(?=\s)",
    re.IGNORECASE,
)
_PRAISED = re.compile(
    rf"{CLOSE}\s(?:is|was|seems|would be|fits|suits|matches|appears)\b(?: \w{{1,15}}){{0,4}}? (?:best|most|better|"
    r"closest|closer|correct|right|answer|suitable|appropriate)\b",
    re.IGNORECASE,
)
_CONCLUDES = re.compile(r"\W*(?:so|therefore|thus|hence|overall|finally|ultimately|in conclusion)\b", re.IGNORECASE)
_REFUSES = re.compile(
    r"\bI(?: am|['’]m)? ?(?:sorry|cannot|can['’]?t|can not|unable|not able|do not know|don['’]t know)\b"
    r"|\b(?:not enough|insufficient|impossible to|as an AI)\b",
    re.IGNORECASE,
)
_REJECTED = re.compile(
    r"(?:\b(?:not|cannot|no|never|neither|nor|without|than|instead of|other than|over|except|excluding|unlike|versus|"
    r"vs\.?|opposed to)|n['’]t)\s+(?:(?:a|an|the|really|so much|exactly|to|be|is|it|that|much|quite|truly|"
    r"necessarily|in|under|as|of|worth|think|say|call|choose|pick|tag|fit|match|belong|look|like|seem|give|rate|this)"
    rf"\s+){{0,4}}{OPEN}*$",
    re.IGNORECASE,
)
_REJECTED_TOO = re.compile(rf"{CLOSE},?\s*(?:(?:or|nor|and)\s+)?(?:(?:a|an|the)\s+)?{OPEN}*", re.IGNORECASE)
_DENIED = re.compile(
    rf"{CLOSE}\s(?:(?:is|was|are|does|do|did|would|can|could|should)(?:\s+not\b|n['’]t\b)|cannot\b|"
    r"is (?:wrong|incorrect))",
    re.IGNORECASE,
)
_BOTH = re.compile(
    r"[/|&+]|\b(?:and|or|nor|else|also|with|plus|as well as|vs|versus|to|through|und|oder|et|ou)\b", re.IGNORECASE
)
_LIST = re.compile(
    r"(?:[\s\"'`“”‘’«»*_()\[\]{}<>,;:./|&+\-–—•~]|\d{1,2}[.)]\s|\b(?:and|or|nor|else|also|but|with|plus|as|well|vs|"
    r"versus|to|through|und|oder|et|ou|maybe|perhaps|possibly|a|an|the|either)\b)*",
    re.IGNORECASE,
)
_ENDS = re.compile(rf"{CLOSE}\s*(?:$|\n|[.,;:!?/|&()–—-]|(?:and|or|as well)\b)", re.IGNORECASE)
_BEFORE_HEAD = re.compile(
    rf"{OPEN}*(?:\d{{1,2}}[.)]\s)?{OPEN}*"
    rf"(?:(?:the |my )?(?:final )?(?:answer|tag|category|label|score|rating|option|reference)\b{CLOSE}"
    rf"(?:{_COPULA})?)?{OPEN}*(?:(?:a|an|the) )?{OPEN}*",
    re.IGNORECASE,
)
_AFTER_HEAD = re.compile(
    rf"{CLOSE}\.? ?(?:$|\n|[.,;:!(–—\-]|(?:because|since|as|due|given|although|though|while it|but|explanation|"
    r"reason\w*|rationale|note)\b)",
    re.IGNORECASE,
)
_COLON = re.compile(rf"{CLOSE} ?:")
_WIDEST = 100


def _accepted(text: str, mentions: Sequence[Mention]) -> list[Mention]:
    """Those that the text does not reject, such as the second of `comedy rather than action`."""
    accepted: list[Mention] = []
    rejected_to = -1
    for mention in mentions:
        before = text[max(0, mention.start - _WIDEST) : mention.start]
        gap = text[rejected_to : mention.start] if 0 <= mention.start - rejected_to < _WIDEST else None
        too = rejected_to >= 0 and gap is not None and _REJECTED_TOO.fullmatch(gap)
        if too or _REJECTED.search(before):
            rejected_to = mention.end
        elif not _DENIED.match(text, mention.end):
            accepted.append(mention)
    return accepted


def listed(text: str, first: Mention, second: Mention) -> bool:
    """Whether two answers are named as one list, such as `comedy or action`."""
    gap = text[first.end : second.start]
    if len(gap) > _WIDEST or not _LIST.fullmatch(gap):
        return False
    return bool(_BOTH.search(gap) or _ENDS.match(text, second.end))


def _alone(text: str, mentions: Sequence[Mention], at: int) -> bool:
    """Whether no other answer is listed with this one."""
    mention = mentions[at]
    pairs = [(mentions[at - 1], mention)] if at else []
    pairs += [(mention, other) for other in mentions[at + 1 : at + 2]]
    return all(first.answer == second.answer or not listed(text, first, second) for first, second in pairs)


def _stated(
    text: str, mentions: Sequence[Mention], accepted: Sequence[Mention], lead: re.Pattern[str]
) -> tuple[bool, str | None]:
    """Whether a lead directly states an answer, and the last one stated: None if it is a list."""
    result: tuple[bool, str | None] = (False, None)
    starts = [mention.start for mention in mentions]
    kept = {mention.start: i for i, mention in enumerate(accepted)}
    at = 0
    for found in lead.finditer(text):
        begin = found.end()
        while at < len(starts) and starts[at] < begin:
            at += 1
        index = at
        # A rejected answer may stand between: `the answer is not comedy but action`.
        while index < len(mentions) and starts[index] not in kept and _near(text, begin, starts[index]):
            begin = mentions[index].end
            index += 1
        if index < len(mentions) and starts[index] in kept and _near(text, begin, starts[index]):
            place = kept[starts[index]]
            result = True, accepted[place].answer if _alone(text, accepted, place) else None
    return result


def _near(text: str, start: int, end: int) -> bool:
    return end - start <= _WIDEST and _DIRECT.fullmatch(text, start, end) is not None


def _at_head(text: str, accepted: Sequence[Mention]) -> bool:
    """Whether the text begins with an answer that stands by itself, whatever is explained after it."""
    first = accepted[0]
    if first.start > _WIDEST // 2 or not _BEFORE_HEAD.fullmatch(text, 0, first.start):
        return False
    if not _AFTER_HEAD.match(text, first.end) or not _alone(text, accepted, 0):
        return False
    # `Comedy: the jokes. Action: the fights.` is a list with notes.
    colons = {mention.answer for mention in accepted if _COLON.match(text, mention.end)}
    return first.answer not in colons or len(colons) == 1


def _at_foot(text: str, accepted: Sequence[Mention]) -> bool:
    """Whether the last line, and not the one before it too, is an answer by itself."""
    last = accepted[-1]
    line = text.rfind("\n", 0, last.start) + 1
    if (text[line : last.start] + text[last.end :]).strip(WRAPPING):
        return False
    before = next((mention for mention in reversed(accepted) if mention.answer != last.answer), None)
    if before is None or before.start >= line:
        return before is None
    start = text.rfind("\n", 0, before.start) + 1
    around, gap = text[start : before.start], text[before.end : line][:_WIDEST]
    bare = not (around + gap).strip(WRAPPING + "0123456789")
    joined = gap.rstrip().endswith((",", ";", "/", "&")) or _BOTH.search(gap)
    return not (bare or (joined and _LIST.fullmatch(gap)))


def read(text: str, mentions: Sequence[Mention]) -> str | None:
    """The one answer that a text gives; the rules are those that `parse_label` lists from 3 on."""
    accepted = _accepted(text, mentions)
    if not accepted:
        return None
    found, answer = _stated(text, mentions, accepted, _FINAL)
    if found:
        return answer
    if _at_head(text, accepted):
        return accepted[0].answer
    if _at_foot(text, accepted):
        return accepted[-1].answer
    found, answer = _stated(text, mentions, accepted, _STATED)
    if found:
        return answer
    sure = [mention for mention in accepted if not mention.weak]
    praised = {mention.answer for mention in sure if _PRAISED.match(text, mention.end)}
    if len(praised) == 1:
        return praised.pop()
    last = max(text.rfind(end, 0, len(text) - 1) for end in ("\n", ". ", "! ", "? ")) + 1
    if _CONCLUDES.match(text, last):
        concluded = {mention.answer for mention in sure if mention.start >= last}
        if len(concluded) == 1:
            return concluded.pop()
    named = {mention.answer for mention in sure} - {None}
    lone = all(_alone(text, sure, i) for i, mention in enumerate(sure) if mention.answer is not None)
    return named.pop() if len(named) == 1 and lone and not _REFUSES.search(text) else None
