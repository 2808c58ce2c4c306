"""What a text states of the answers that it names: shared by labels and ratings."""

from __future__ import annotations

import re
from collections.abc import Sequence

from personaagent.datasets.lamp.parse.mentions import (
    COPULA,
    WIDEST,
    Mention,
    accepted,
    alone,
    joined,
    replaced,
    split,
    taken_back,
)
from personaagent.datasets.lamp.parse.wrapping import CLOSE, OPEN, WRAPPING

_FILLER = (
    r"(?:the|a|an|it|its|this|that|as|with|for|is|are|be|was|would|should|to|in|under|of|one|most|more|best|likely|"
    r"probably|clearly|definitely|simply|really|solid|strong|full|rather|instead|but|just|only|about|around|"
    r"therefore|thus|here|then|not|neither|nor|than|tag|tags|category|label|option|reference|number|score|rating|"
    r"movie|film|article|paper|review|book|product|item|user|them)"
)
_DIRECT = re.compile(rf"(?:{OPEN}|,|\b{_FILLER}\b)*", re.IGNORECASE)
_WORDS = r"(?:,? [^\W\d_][\w'’]{0,30}){0,12}?,?"
_FINAL = re.compile(
    rf"\b(?:answer|verdict|choice|conclusion|final \w{{1,20}})\b{CLOSE}{_WORDS}{CLOSE}{COPULA}", re.IGNORECASE
)
_STATED = re.compile(
    rf"\b(?:tags?|category|categories|labels?|classification|prediction|options?|references?|response|genre|fit|match|"
    rf"pick|result|score|rating|stars|grade|overall|best)\b{CLOSE}{_WORDS}{CLOSE}{COPULA}"
    r"|\bI(?:['’]d|['’]ll)?(?: \w{1,15}){0,2}? (?:choose|chose|pick|select|go with|say|tag|classify|categori[sz]e|"
    r"label|assign|answer|opt for|give|rate|predict|conclude|vote for|lean(?: towards?)?|settle on)\b"
    r"|\b(?:would|will|should|must|likely|best)(?: (?:most|likely|probably|best|be)){0,3} (?:tag|tagged|classified|"
    r"categori[sz]ed|labell?ed|described|give|rate|rated|choose|pick|select|go with|say|assign)\b"
    r"|\b(?:falls? (?:under|into)|belongs? (?:to|in|under)|(?:fits?|relates?|matches)(?: most)? (?:best|closely)"
    r" (?:in|into|under|with|to)|best (?:fits|matches)|closer to|overall,?)(?=\s)"
    r"|\b(?:for )?this (?:one|article|film|movie|paper|review|item|book|product|story)\b ?:",
    re.IGNORECASE,
)
_QUALITY = (
    r"(?:related|relevant|similar|suitable|appropriate|fitting|likely|probable|accurate|apt|closely|obvious|natural|"
    r"directly|aligned|consistent|in line)"
)
_PRAISED = re.compile(
    rf"{CLOSE}\s(?:is|was|seems|would be|fits|suits|matches|appears)\b(?: \w{{1,15}}){{0,4}}? (?:best|better|closest|"
    rf"closer|correct|right|answer|suitable|appropriate|more {_QUALITY}|most(?: {_QUALITY}|(?=[.,;!)\n]|$)))\b",
    re.IGNORECASE,
)
_OWN = (
    r"(?:\s(?:the|this|that|these|their|his|her|its|my|your|given)\b)?(?:\s[\w'’-]{1,20}){0,2}?\s"
    r"(?:user|author|paper|title|work|research|profile|history|writer|reader)\b"
)
_PHRASE_ENDS = r"(?=\s?(?:[.,;!)\n]|$)|\s(?:because|since|as|while|whereas)\b)"
_FITS = re.compile(
    rf"{CLOSE}\s(?:(?:is|seems|appears|would be)(?: (?:the|clearly|directly|closely|highly|strongly|very|indeed|likely|"
    rf"related|relevant|one|reference)){{0,3}}? (?:related|relevant|similar|aligned|consistent|in line|(?:main|primary|"
    rf"dominant|central|principal) (?:focus|theme|topic|subject|genre))(?:{_PHRASE_ENDS}| (?:to|with){_OWN})|"
    rf"(?:matches|fits|suits|reflects|(?:aligns|connects|fits in) with|(?:corresponds|relates) to)"
    rf"(?:{_PHRASE_ENDS}|{_OWN})|(?:dominates|prevails){_PHRASE_ENDS})",
    re.IGNORECASE,
)
_DOUBTS = re.compile(r"\b(?:both|if|whether|might|may|could|maybe|perhaps|neither|either)\b", re.IGNORECASE)
_BUT = re.compile(
    r"\b(?:but|however|yet|still|nevertheless|too|also|equally|likewise|similar|similarly|more|better|closer|both|if|does|"
    r"maybe|perhaps|or|same|as (?:well|is|are|do))\b",
    re.IGNORECASE,
)
_SO = re.compile(
    r"(?:^|[,;:.!?)\n–—-])\s?(?:and |but )?(?:(?:so|therefore|thus|hence|ergo|that is|in short)\b|i\. ?e\.)[,:]?"
    r"(?: (?:(?:it|this)(?:['’]s| is)|I(?:['’]d|['’]ll| would| will)? (?:say|choose|give|go with|pick)|a|an|the|it|"
    rf"the (?:answer|tag|category|score|rating|reference)(?: is|:)|probably|clearly)\b[:,]?){{0,4}}{OPEN}{{0,4}}$",
    re.IGNORECASE,
)
_SO_ENDS = re.compile(rf"{CLOSE}(?: (?:here|then|overall|instead|for this \w{{1,10}}))?[\W_]*", re.IGNORECASE)
_CONCLUDES = re.compile(r"\W*(?:so|therefore|thus|hence|overall|finally|ultimately|in conclusion)\b", re.IGNORECASE)
_REFUSES = re.compile(
    r"\bI(?: am|['’]m)? ?(?:sorry|cannot|can['’]?t|can not|unable|not able|do not know|don['’]t know)\b"
    r"|\b(?:not enough|insufficient|impossible to|as an AI)\b"
    r"|\b(?:I(?:['’]ll| should| will| must| need to| have to| want to)|let me|let['’]s)(?: first)? (?:call|search|"
    r"recall|look (?:up|for|at)|check|query|retrieve|consult|use (?:the )?(?:recall|search|wikipedia|\w{1,15} tool))\b",
    re.IGNORECASE,
)
_BEFORE_HEAD = re.compile(
    rf"{OPEN}*(?:\d{{1,2}}[.)]\s)?{OPEN}*"
    rf"(?:(?:the |my )?(?:final )?(?:answer|tag|category|label|score|rating|option|reference)\b{CLOSE}"
    rf"(?:{COPULA})?)?{OPEN}*(?:(?:a|an|the) )?{OPEN}*",
    re.IGNORECASE,
)
_AFTER_HEAD = re.compile(
    rf"{CLOSE}\.? ?(?:$|\n|[.,;:!(–—\-]|(?:because|since|as|due|given|although|though|while it|but|explanation|"
    r"reason\w*|rationale|note)\b)",
    re.IGNORECASE,
)
_COLON = re.compile(rf"{CLOSE} ?:")


def _stated(
    text: str, mentions: Sequence[Mention], kept: Sequence[Mention], lead: re.Pattern[str]
) -> tuple[bool, str | None]:
    """Whether a lead directly states an answer, and the last one stated: None if it is a list."""
    result: tuple[bool, str | None] = (False, None)
    starts = [mention.start for mention in mentions]
    places = {mention.start: i for i, mention in enumerate(kept)}
    at = 0
    for found in lead.finditer(text):
        begin = found.end()
        while at < len(starts) and starts[at] < begin:
            at += 1
        index = at
        # A rejected answer may stand between: `the answer is not comedy but action`.
        while index < len(mentions) and starts[index] not in places and _near(text, begin, starts[index]):
            begin = mentions[index].end
            index += 1
        if index < len(mentions) and starts[index] in places and _near(text, begin, starts[index]):
            place = places[starts[index]]
            result = True, kept[place].answer if alone(text, kept, place) else None
    return result


def _near(text: str, start: int, end: int) -> bool:
    return end - start <= WIDEST and _DIRECT.fullmatch(text, start, end) is not None


def _at_head(text: str, kept: Sequence[Mention]) -> bool:
    """Whether the text begins with an answer that stands by itself, whatever is explained after it."""
    first = kept[0]
    if first.start > WIDEST // 2 or not _BEFORE_HEAD.fullmatch(text, 0, first.start):
        return False
    if not _AFTER_HEAD.match(text, first.end) or not alone(text, kept, 0):
        return False
    # `Comedy: the jokes. Action: the fights.` is a list with notes.
    colons = {mention.answer for mention in kept if _COLON.match(text, mention.end)}
    return first.answer not in colons or len(colons) == 1


def _at_foot(text: str, kept: Sequence[Mention]) -> bool:
    """Whether the last line, and not the one before it too, is an answer by itself."""
    last = kept[-1]
    line = text.rfind("\n", 0, last.start) + 1
    if (text[line : last.start] + text[last.end :]).strip(WRAPPING):
        return False
    before = next((mention for mention in reversed(kept) if mention.answer != last.answer), None)
    if before is None or before.start >= line:
        return before is None
    start = text.rfind("\n", 0, before.start) + 1
    around, gap = text[start : before.start], text[before.end : line][:WIDEST]
    bare = not (around + gap).strip(WRAPPING + "0123456789")
    return not (bare or joined(gap))


def _at_end(text: str, kept: Sequence[Mention]) -> str | None:
    """The answer that the text ends with as what follows from the rest: `..., so comedy.`"""
    last = kept[-1]
    follows = _SO.search(text[max(0, last.start - WIDEST) : last.start])
    return last.answer if follows and _SO_ENDS.fullmatch(text, last.end) and alone(text, kept, len(kept) - 1) else None


def _fitting(text: str, sure: Sequence[Mention]) -> str | None:
    """The only one that is said to fit, if nothing in the text qualifies that."""
    fits = [mention for mention in sure if _FITS.match(text, mention.end)]
    if not fits or len({mention.answer for mention in fits}) > 1:
        return None
    first, last = fits[0], fits[-1]
    later = any(mention.start > last.end and mention.answer != last.answer for mention in sure)
    doubted = _DOUBTS.search(text, 0, first.start) or (later and _BUT.search(text, last.end))
    return None if doubted else last.answer


def read(text: str, mentions: Sequence[Mention]) -> str | None:
    """The one answer that a text gives; the rules are those that `parse_label` lists from 3 on.

    If the text takes back what it said, what follows must state an answer, or name the one that was said before.
    """
    at, begin = taken_back(text)
    before, after = split(mentions, at, begin)
    if before:
        found, answer = _read(text[begin:], after)
        return answer if found or answer == _read(text[:at], before)[1] else None
    begin = replaced(text, mentions)
    return (_read(text[begin:], split(mentions, 0, begin)[1])[1] if begin else _read(text, mentions)[1]) or None


def _read(text: str, mentions: Sequence[Mention]) -> tuple[bool, str | None]:
    """Whether the text states an answer (any rule but the last) rather than only names one, and which."""
    kept = accepted(text, mentions)
    if not kept:
        return False, None
    ending = _at_end(text, kept)
    found, answer = _stated(text, mentions, kept, _FINAL)
    if not found and _at_head(text, kept):
        found, answer = True, kept[0].answer
    if found or ending:
        return True, ending if answer == ending or not found else (None if ending else answer)
    if _at_foot(text, kept):
        return True, kept[-1].answer
    found, answer = _stated(text, mentions, kept, _STATED)
    if found:
        return True, answer
    sure = [mention for mention in kept if not mention.weak]
    praised = {mention.answer for mention in sure if _PRAISED.match(text, mention.end)}
    if len(praised) == 1:
        return True, praised.pop()
    last = max(text.rfind(end, 0, len(text) - 1) for end in ("\n", ". ", "! ", "? ")) + 1
    if _CONCLUDES.match(text, last):
        concluded = {mention.answer for mention in sure if mention.start >= last}
        if len(concluded) == 1:
            return True, concluded.pop()
    if not praised and (fitting := _fitting(text, sure)):
        return True, fitting
    named = {mention.answer for mention in sure} - {None}
    lone = all(alone(text, sure, i) for i, mention in enumerate(sure) if mention.answer is not None)
    return False, named.pop() if len(named) == 1 and lone and not _REFUSES.search(text) else None
