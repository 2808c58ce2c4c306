"""From an LM's text to a headline or title."""

from __future__ import annotations

import re

from personaagent.datasets.lamp.parse.wrapping import TEXT_KEYS, field, loaded

_NOUN = r"(?:headline|title|paraphrase|tweet|answer|rephrasing)"
_NAMED_LEAD = re.compile(
    r"[*_#\s]*(?:(?:the|a|my|possible|suggested|proposed|generated|final|paper|article|news|new|paraphrased|rephrased|"
    rf"potential|academic) ){{0,3}}{_NOUN}[*_]{{0,3}} ?:[*_]{{0,3}}\s*",
    re.IGNORECASE,
)
_ABOUT = r"(?: (?:for|of|based|that|in|which|from|to|you|using|as|with|reflecting|matching|options?)\b[^\n:]{0,160})?"
_SPOKEN_LEAD = re.compile(
    r"(?:(?:sure|certainly|of course|absolutely|okay|ok|great|yes)\b[^\n:]{0,60}?[!,.]\s*)?"
    rf"(?:here(?:['’]s| is| are)|I(?:['’]d| would) suggest|how about)\b[^\n:.!?]{{0,60}}?\b{_NOUN}s?\b{_ABOUT} ?:\s*"
    rf"|(?:the|an?|one|my) (?:[\w-]{{1,30}} ){{0,3}}?{_NOUN}{_ABOUT} (?:could|would|might|may|should|is|will)"
    r"(?: be)? ?:\s*",
    re.IGNORECASE,
)
_QUOTED_LEAD = re.compile(
    rf"(?:the|an?|one|my) (?:[\w-]{{1,30}} ){{0,3}}?{_NOUN}{_ABOUT} (?:could|would|might|may|should|is|will)(?: be)? "
    r"(?=\"[^\"]*\"\.?$|“[^“”]*”\.?$)",
    re.IGNORECASE,
)
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
    around one text; quotes and emphasis around all of it; a heading's `#`; a lead such as `Headline:` or `Here is a
    title for the paper:`, with what stands before a line that begins with a named lead; and from the first blank
    line or line of explanation (`Explanation:`, `Note:`, `This headline ...`) on, what follows.

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
    led = False
    text = _HEADING.sub("", text)
    while found := _NAMED_LEAD.match(text) or _SPOKEN_LEAD.match(text) or _QUOTED_LEAD.match(text):
        text, led = text[found.end() :], True
        if found.re is _QUOTED_LEAD:
            text = text.rstrip(".")
    lines = text.strip().split("\n")
    named = [at for at, line in enumerate(lines) if at and _NAMED_LEAD.match(line)]
    if named and not led:
        return _without_talk("\n".join(lines[named[0] :]))
    if len(lines) > 1 and lines[0].rstrip().endswith(":") and not lines[1].strip():
        return "\n".join(lines[2:])
    if re.match(r"(?:\d{1,2}[.)]|[-•*]) ", lines[0]):
        return "\n".join(lines)
    ends = [at for at, line in enumerate(lines) if at and (not line.strip() or _EXPLAINS.match(line))]
    return "\n".join(lines[: min(ends + named, default=len(lines))])


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
