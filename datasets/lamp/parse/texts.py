"""From an LM's text to a headline or title."""

from __future__ import annotations

import re

from personaagent.datasets.lamp.parse.wrapping import TEXT_KEYS, field, loaded

_NOUN = r"(?:headline|title|paraphrase|tweet|answer|rephrasing)"
_NAMED_LEAD = re.compile(
    r"[*_#\s]*(?P<words>(?:(?:the|a|my|possible|suggested|proposed|generated|final|paper|article|news|new|paraphrased|"
    rf"rephrased|potential|academic) ){{0,3}}{_NOUN})[*_]{{0,3}} ?:[*_]{{0,3}}\s*",
    re.IGNORECASE,
)
_MADE = re.compile(r"\b(?:suggested|proposed|generated|paraphrased|rephrased)\b", re.IGNORECASE)
_HELLO = r"(?:(?:sure|certainly|of course|absolutely|okay|ok|great|yes)\b[^\n:]{0,60}?[!,.]\s*)?"
_ABOUT = r"(?: (?:for|of|based|that|in|which|from|to|you|using|as|with|reflecting|matching|options?)\b[^\n:]{0,160})?"
_GIVEN = (
    r"(?:(?:based on|given|considering|judging by|looking at|following|in (?:the|keeping)|to match|drawing on)\b"
    r"[^\n:\"“]{1,160}, ?)?(?:I (?:think|believe|feel)(?: that)? |perhaps |maybe )?"
)
_WOULD_BE = (
    rf"(?:the|an?|one|my) (?:[\w-]{{1,30}} ){{0,3}}?{_NOUN}{_ABOUT} (?:could|would|might|may|should|is|will)(?: be)?"
)
_I_WOULD = (
    r"I(?:['’]d|['’]ll| would| might| could| will)(?: (?:likely|probably|perhaps))? (?:write|suggest|propose|title|"
    r"call|name|headline|use|go with|choose|pick|offer|say|recommend|phrase|give|entitle|rephrase)\b"
    r"[^\n:.!?\"“*]{0,80}?"
)
_SPOKEN_LEAD = re.compile(
    rf"(?P<words>{_HELLO}(?:(?:here(?:['’]s| is| are)|how about)\b[^\n:.!?]{{0,60}}?\b{_NOUN}s?\b{_ABOUT}"
    rf"|{_GIVEN}(?:{_WOULD_BE}|{_I_WOULD}))) ?:\s*",
    re.IGNORECASE,
)
_QUOTED_LEAD = re.compile(rf"(?P<words>{_HELLO}{_GIVEN}(?:{_WOULD_BE}|{_I_WOULD})) ?:?\s*(?=[\"“])", re.IGNORECASE)
# Not `"Boom" or "Bust"`.
_QUOTED = re.compile(
    r"(?P<text>\"[^\"\n]*\"|“[^“”\n]*”)[.,;]?"
    r"(?=\s*$|\s*\n|\s?[(–—-] ?[a-z]|\s(?:because|since|as|to|which|this|that|it)\b)"
)
# A whole first line that only announces the text.
_TALK = re.compile(
    rf"{_HELLO}(?:(?:I['’]ll|I will|I['’]m going to|I can|I have|I['’]ve|let me|let['’]s|here(?:['’]s| is| are)|based "
    r"on|given|considering|judging by|looking at|to (?:write|match|craft))\b[^\n]{0,300}\b(?:author|user|writer?|"
    r"possibility|version|headlines?|titles?|style|paraphrase|tweets?|rephrase)\b|the (?:author|user|writer)\b"
    r"[^\n]{0,300}\b(?:headlines?|titles?|style|tweets?)\b)[^\n]{0,300}[.:!]",
    re.IGNORECASE,
)
_GREETING = re.compile(
    r"(?:sure|certainly|of course|absolutely|okay|ok|got it|no problem|understood)[!.,:]+", re.IGNORECASE
)
_RULE = re.compile(r"\s*(?:-{3,}|\*{3,}|_{3,}|={3,}|[-*_](?: [-*_]){2,9})\s*")
_HEADING = re.compile(r"^(?:#{1,6} +)+(?=\D)")
_EXPLAINS = re.compile(
    r"\W*(?:explanation|reason|reasoning|rationale|notes?|alternatives?|alternatively|other options|"
    rf"(?:this|the|my) {_NOUN}|why (?:this|it)|I chose|let me know|hope this|feel free)\b",
    re.IGNORECASE,
)
_PAIRS = (("**", "**"), ("__", "__"), ("*", "*"), ("_", "_"), ("`", "`"), ("“", "”"), ("‘", "’"), ("«", "»"))


def parse_text(raw: str) -> str | None:
    """The headline, title or other short text that an LM's answer gives, or None if nothing is left. Never raises.

    These are taken away, in order and again until nothing more is: white space around it; reasoning in `<think>`;
    markers of fields, tags and a code fence around it; a JSON object around a field such as `title`, or a list
    around one text; quotes and emphasis around all of it; a heading's `#`; a first line that is a ruler (`---`), and,
    if a blank line or its colon sets it apart, one that greets or announces (`I'll write a headline in the author's
    style.`); a lead, with what stands before a line that begins with a named one; and from the first blank line,
    ruler or line of explanation (`Explanation:`, `Note:`, `This headline ...`) on, what follows.

    A named lead is `Headline:`, `The title:` or alike. A spoken lead is such as `Here is a title for the paper:` or
    `I would write:`, or `The title could be`, `I would call it` with a text in quotes, of which only that is kept. So
    that `My Title: A Memoir` and `Here Are the Best Headlines: Part 2` stay whole, a spoken lead and a named one with
    `a`, `my` or several words before its noun must be in sentence case, its words after the first in lower case up to
    that noun; or else be followed by a new line or by quotes or emphasis around the rest of the line; a named one may
    also be emphasised itself, or say that it was `generated`, `suggested` or alike.

    Quotes and emphasis around a part stay, as do lines that explain nothing and lists of several texts: the
    metric then scores them all. A refusal is a text as any other. What is returned is returned for itself too.
    """
    text = raw
    while True:
        shorter = _shorter(text.strip()).strip()
        if shorter == text:
            return text or None
        text = shorter


def _shorter(text: str) -> str:
    text = text.rpartition("</think>")[2].strip()
    text = re.split(r"\[\[ ## answer ## \]\]", text)[-1].partition("[[ ## completed ## ]]")[0].strip()
    if text.startswith("```"):
        opening, line, body = text.partition("\n")
        text = body.partition("```")[0].strip() if line and re.fullmatch(r"```\w*", opening) else text.strip("`")
    while found := re.fullmatch(r"<(\w{1,20})>(.*)</\1>", text, re.DOTALL):
        text = found[2].strip()
    if text[:1] in ("{", "["):
        text = _json_text(text).strip()
    text = _unwrapped(text)
    return _without_talk(text)


def _json_text(text: str) -> str:
    value = loaded(text)
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    found, inner = field(value, TEXT_KEYS)
    value = inner if found else value
    # JSON can hold half of a surrogate pair, which no file could.
    return value.encode("utf-8", "replace").decode() if isinstance(value, str) else text


def _without_talk(text: str) -> str:
    """Without a lead and what precedes it, and without what is said about the text after it."""
    text = _announced(_HEADING.sub("", text)).strip()
    led = False
    while (shorter := _without_lead(text)) is not None:
        text, led = shorter.strip(), True
    lines = text.split("\n")
    named = [at for at, line in enumerate(lines) if at and _named(line, at + 1 < len(lines))]
    if named and not led:
        return _without_talk("\n".join(lines[named[0] :]))
    if len(lines) > 1 and lines[0].rstrip().endswith(":") and not lines[1].strip():
        return "\n".join(lines[2:])
    if re.match(r"(?:\d{1,2}[.)]|[-•*]) ", lines[0]):
        return "\n".join(lines)
    ends = [at for at, line in enumerate(lines) if at and (not line.strip() or _ends(line))]
    return "\n".join(lines[: min(ends + named, default=len(lines))])


def _ends(line: str) -> bool:
    return bool(_EXPLAINS.match(line) or _RULE.fullmatch(line))


def _announced(text: str) -> str:
    """What follows a first line that is a ruler, a greeting or announces a text."""
    line, _, rest = text.partition("\n")
    if _RULE.fullmatch(line):
        return rest.strip()
    apart = rest.startswith("\n") or line.rstrip().endswith(":")
    talks = _GREETING.fullmatch(line.strip()) or (_TALK.fullmatch(line.strip()) and _sentence_case(line))
    return rest.strip() if apart and talks and rest.strip() and not _EXPLAINS.match(rest) else text


def _without_lead(text: str) -> str | None:
    """What a lead at the start is followed by; None if there is none, or if it may be part of a real headline."""
    line, more, _ = text.partition("\n")
    if named := _named(line, bool(more)):
        return text[named.end() :]
    quoted = _QUOTED_LEAD.match(text)
    if quoted and _sentence_case(quoted["words"]) and (inner := _QUOTED.match(text, quoted.end())):
        return inner["text"]
    spoken = _SPOKEN_LEAD.match(text)
    if spoken and (_sentence_case(spoken["words"]) or _marked(line[spoken.end() :], bool(more))):
        return text[spoken.end() :]
    return None


def _named(line: str, more: bool) -> re.Match[str] | None:
    """A lead such as `Headline:`. In `My Title: A Memoir` it is part of a headline; not so in `My title:`."""
    found = _NAMED_LEAD.match(line)
    if found is None:
        return None
    words = found["words"].casefold().split()
    plain = len(words) == 1 or (len(words) == 2 and words[0] not in ("a", "my"))
    sure = plain or _sentence_case(found["words"]) or _MADE.search(found["words"]) or "*" in found[0]
    return found if sure or _marked(line[found.end() :], more) else None


def _sentence_case(words: str) -> bool:
    """Whether all words up to the first noun of a lead begin low, but for the first of a sentence and `I`."""
    noun = re.search(rf"\b{_NOUN}s?\b", words, re.IGNORECASE)
    words = words[: noun.end()] if noun else words
    return not re.search(r"(?<![.!?,])\s(?!I\b|AI\b|LM\b)[A-Z]", words.strip())


def _marked(rest: str, more: bool) -> bool:
    """Whether a lead is followed by a new line, or by quotes or emphasis around all of its line."""
    rest = rest.strip()
    return _unwrapped(rest) != rest if rest else more


def _unwrapped(text: str) -> str:
    """Without the quotes and the emphasis that open at its first character and close at its last."""
    while True:
        inner = next((text[len(a) : -len(b)] for a, b in _PAIRS if _wraps(text, a, b)), None)
        if inner is None:
            inner = text[1:-1] if _quotes(text) else None
        if inner is None:
            return text
        text = inner.strip()


def _wraps(text: str, opening: str, closing: str) -> bool:
    width = len(opening)
    if len(text) < 2 * width or not text.startswith(opening) or not text.endswith(closing):
        return False
    inner = text[width:-width]
    return opening not in inner and (closing not in inner or (closing == "’" and _apostrophes(inner, closing)))


def _apostrophes(inner: str, sign: str) -> bool:
    return not re.search(rf"(?<!\w){sign}|{sign}(?!\w)", inner)


def _quotes(text: str) -> bool:
    """Whether straight quotes open and close all of a text, rather than its first and its last word."""
    if len(text) < 2 or text[0] not in "\"'" or text[-1] != text[0]:
        return False
    inner = text[1:-1]
    return _apostrophes(inner, "'") if text[0] == "'" else '"' not in inner or _nested(inner)


def _nested(inner: str) -> bool:
    at = inner.index('"')
    opens = (at == 0 or inner[at - 1].isspace()) and not inner[at + 1 : at + 2].isspace() and at + 1 < len(inner)
    return opens and inner.count('"') % 2 == 0
