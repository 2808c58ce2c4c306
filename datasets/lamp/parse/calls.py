"""An agent's calls of tools, where an LM wrote them instead of an answer: what they say is no answer."""

from __future__ import annotations

import re

_TOOL = (
    r"(?:recall|wikipedia|search|look_?up|retrieve|query|browse|[a-z]{1,20}_(?:search|lookup|tool)|search_[a-z]{1,20})"
)
_MARKERS = (("next_thought", "Thought:"), ("next_tool_name", "Action:"), ("next_tool_args", "Action Input:"))
_STEP = re.compile(
    r"[ \t*_#>]*(thought|action input|action|observation|(?:final )?answer)(?: \d{1,2})?[*_]{0,3}[ \t]?:[*_]{0,3}(.*)",
    re.IGNORECASE,
)
_ACTION = re.compile(r"^[ \t*_#>]*action(?: input)?(?: \d{1,2})?[*_]{0,3}[ \t]?:", re.IGNORECASE | re.MULTILINE)
_AGENT = re.compile(r"^[ \t*_#>]*(?:thought|observation|action input)\b[^\n:]{0,6}:", re.IGNORECASE | re.MULTILINE)
_CALL = re.compile(
    rf"[`*]*(?:(?P<finish>finish|final_answer|answer)|{_TOOL}|[a-z]\w{{0,40}}(?=[(\[]))(?P<given>[ \t]?[\[(].*)?[`*.]*",
    re.IGNORECASE,
)
_NAME = re.compile(r"[`*]*(?P<finish>finish)?\w{0,40}(?P<given>)[`*.]*", re.IGNORECASE)
_BARE_CALL = re.compile(rf"^[ \t`>*-]*{_TOOL}[ \t]?[\[(][^\n]*[\])][ \t`*.]*$", re.IGNORECASE | re.MULTILINE)


def without_calls(text: str) -> str:
    """A text without calls of tools, what led to them and what they returned, but with what an agent finishes with."""
    marked = text
    for name, step in _MARKERS:
        marked = re.sub(rf"\[\[ ?## ?{name} ?## ?\]\]\s*", f"\n{step} ", marked)
    text = text if marked == text else re.sub(r"\[\[ ?## ?\w{1,40} ?## ?\]\]\s*", "\nThought: ", marked)
    text = _BARE_CALL.sub("", text)
    if not _ACTION.search(text):
        return text
    call_of = (_CALL, _NAME) if _AGENT.search(text) else (_CALL,)
    lines: list[str] = []
    called = finished = hidden = False
    for line in text.split("\n"):
        found = _STEP.fullmatch(line)
        step, value = (found[1].casefold(), found[2].strip()) if found else ("", line)
        call = next(filter(None, (one.fullmatch(value) for one in call_of)), None) if step == "action" else None
        if call:
            called, finished, hidden = True, bool(call["finish"]), False
            lines = [*lines, (call["given"] or "").strip("[(]) \t")] if finished else []
        elif (step == "action input" and not finished) or (step == "observation" and called):
            hidden, lines = True, []
        elif step or not hidden:
            hidden = False
            lines.append(value if step in ("thought", "action input") else line)
    return "\n".join(lines)
