"""The offline reader: a deterministic stand-in for an LM, so that everything runs everywhere.

It is **not a language model**. It needs no key, no network and no download, sees its prompt and nothing
else, and has one rule: any line of the prompt outside the question, the instructions and the tool protocol
(persona, profile, demonstration, retrieved record, observation) that names a candidate answer is evidence
for it, weighted by the line's similarity to the question, and a name that the line clearly rejects counts
against. What figures it gives say that information
reaches the prompt; they say nothing about how well an LM would use it.

What it is asked for it reads from the output fields that the prompt declares, never from the wording of
instructions: `next_tool_name` is a step of an agent, `feedback` a textual gradient, `new_persona` an
update, `profile` a summary, and anything else a question to answer.
"""

from __future__ import annotations

import ast
import json
import math
import re
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

from dspy.lm15 import Message, Request, Response, TextPart
from dspy.lm15 import Usage as LMUsage

from personaagent.programs.memory.encoder import Encoder, load_encoder
from personaagent.programs.quoting import PERSONA_CLOSE, PERSONA_OPEN, quoted, record_line, shorten

_MARKER = re.compile(r"^[ ]*\[\[ ## (\w+) ## \]\][ ]*$", re.MULTILINE)
_DECLARED_FIELD = re.compile(r"^\d+\. `(\w+)` \(", re.MULTILINE)
# As ChatAdapter writes it, and as JSONAdapter does: `"name": "{name}  # note: ... one of: a; b",`
_LITERAL = re.compile(r'^\s*(?:"\w+": ")?\{(\w+)\}\s+# note: [^\n]*? one of: ([^\n]+?)(?:",?)?$', re.MULTILINE)
_TOOL = re.compile(r"^\s*\(\d+\) (\w+), whose description is .*? It takes arguments (\{.*\})\.?\s*$", re.MULTILINE)
_BRACKETED_LIST = re.compile(r"\[([^\[\]]*,[^\[\]]*)\]")
_LISTED = re.compile(r"\b[Aa]nswer with ([^\s,]+(?:(?:, or| or|,) [^\s,]+)+)(?=[ .])[^:]{0,60}:")
_QUOTED = re.compile(r"«([^»]*)»")
_RECORD_ANSWER = re.compile(r'-> ("(?:[^"\\]|\\.)*")\s*$')
_SHARE = re.compile(r"\b(\d{1,6}) of (\d{1,6})\b")

_PRIOR_WEIGHT = 0.4
"""Of a candidate's own similarity to the question: what decides when nothing is known of the user."""
_LINE_WEIGHT = 0.15
"""Of any line that names a candidate, whatever its similarity."""
_SHARPNESS = 2.0
"""Exponent of the similarity: above 1, one close record outweighs several distant ones."""
_SEARCH_CHARS = 600
_SUMMARY_LINES, _SUMMARY_LINE_CHARS = 3, 200


class Evidence(NamedTuple):
    """One line that may name a candidate."""

    line: str
    about: str
    """What the line is about, compared with the question: its quoted text, else the line itself."""


@dataclass(frozen=True)
class Prompt:
    """A DSPy chat prompt, taken apart by DSPy's own markers."""

    outputs: tuple[str, ...]
    """Names of the output fields asked for."""
    sections: tuple[tuple[str, str], ...]
    """(name, text) of the last user message, in order; the first is the question."""
    persona: str
    demonstrations: tuple[tuple[str, str], ...]
    """(question, answer) pairs."""
    tools: tuple[tuple[str, tuple[str, ...]], ...]
    """(name, argument names), without `finish`."""
    literals: Mapping[str, tuple[str, ...]]
    """The possible answers of each `Literal` output."""
    as_json: bool

    @property
    def question(self) -> str:
        return self.sections[0][1] if self.sections else ""

    def texts(self, first: int = 0) -> list[str]:
        return [text for _, text in self.sections[first:]]


def read_prompt(system: str, messages: Sequence[tuple[str, str]]) -> Prompt:
    """Take a prompt apart. `messages` are (role, text) after the system message."""
    head, _, rest = system.partition(PERSONA_OPEN)
    inside, closed, tail = rest.partition(PERSONA_CLOSE)
    if not closed:  # instructions that speak of a <persona>
        head, inside, tail = system, "", ""
    protocol = head + tail
    structure = protocol.partition("In adhering to this structure, your objective is:")[0]
    declared = structure.partition("Your output fields are:")[2].partition("All interactions will be structured")[0]
    users = [text for role, text in messages if role == "user"]
    last = users[-1] if users else ""
    body, instruction = _without_reminder(last)
    pairs = []
    for (role, text), (next_role, reply) in pairwise(messages):
        if role == "user" and next_role == "assistant":
            asked = _sections(text)
            answers = [t for name, t in _sections(reply) if name not in ("reasoning", "completed")]
            pairs.append((asked[0][1] if asked else text, answers[0] if answers else reply))
    return Prompt(
        outputs=tuple(_DECLARED_FIELD.findall(declared)),
        sections=tuple(_sections(body)),
        persona="\n".join(line.strip() for line in inside.strip().splitlines()),
        demonstrations=tuple(pairs),
        tools=tuple((n, _argument_names(a)) for n, a in _TOOL.findall(protocol) if n != "finish"),
        literals={
            name: tuple(part.strip() for part in parts.split(";"))
            for name, parts in _LITERAL.findall(structure)
            if name != "next_tool_name"
        },
        as_json="JSON object" in instruction,
    )


def _without_reminder(text: str) -> tuple[str, str]:
    # DSPy ends the last message with a paragraph on the format: protocol, not data.
    body, separator, reminder = text.rpartition("\n\nRespond with ")
    return (body, reminder) if separator else (text, "")


def _sections(text: str) -> list[tuple[str, str]]:
    parts = _MARKER.split(text)
    return [(name, body.strip()) for name, body in zip(parts[1::2], parts[2::2], strict=True)]


def _argument_names(arguments: str) -> tuple[str, ...]:
    try:
        return tuple(ast.literal_eval(arguments))
    except (ValueError, SyntaxError):
        return ()


class OfflineReader:
    """An engine for `dspy.LM("offline", engine=OfflineReader())`. Stateless but for its encoder.

    Args:
        encoder: a name (see `load_encoder`) or an `Encoder`; loaded at the first answer.

    Raises:
        EncoderError: at the first answer, if the encoder cannot be had; from an LM as the cause of DSPy's
            `LMUnexpectedError`.
    """

    def __init__(self, encoder: str | Encoder = "auto") -> None:
        self._encoder = encoder

    def complete(self, request: Request) -> Response:
        system = _text(request.system)
        messages = [(message.role, message.text or "") for message in request.messages]
        prompt = read_prompt(system, messages)
        reply = self._render(prompt, self._fields(prompt))
        read = len(system) + sum(len(text) for _, text in messages)
        return Response(
            id=None,
            model=request.model,
            message=Message.assistant([TextPart(reply)]),
            finish_reason="stop",
            # Four characters a token, the usual rule of thumb: nothing is tokenised here.
            usage=LMUsage(input_tokens=math.ceil(read / 4), output_tokens=math.ceil(len(reply) / 4)),
        )

    def dump_state(self) -> dict[str, Any]:
        """For DSPy's saving: the encoder's name."""
        return {"encoder": self._encoder if isinstance(self._encoder, str) else self._encoder.name}

    @classmethod
    def load_state(cls, state: dict[str, Any]) -> OfflineReader:
        """From `dump_state`."""
        return cls(state.get("encoder", "auto"))

    def _fields(self, prompt: Prompt) -> dict[str, Any]:
        asked = prompt.outputs
        role: Callable[[Prompt], dict[str, Any]]
        if "next_tool_name" in asked:
            role = _step
        elif "feedback" in asked:
            role = _gradient
        elif "new_persona" in asked:
            role = _update
        elif "profile" in asked:
            role = _summary
        else:
            role = self._answer
        fields = role(prompt)
        return {name: fields.get(name, fields.get("", "")) for name in asked}

    def _answer(self, prompt: Prompt) -> dict[str, Any]:
        listed, body = _body(prompt.question)
        evidence = list(_evidence(prompt))
        fields: dict[str, Any] = {"reasoning": "There is no list of answers to choose from."}
        for name in prompt.outputs:
            candidates = prompt.literals.get(name, listed)
            if name == "reasoning":
                continue
            if not candidates:
                fields[name] = self._free_text(body, evidence)
                continue
            # A bracketed list that is not of the answers is part of the question.
            scores = self._scores(candidates, body if set(listed) <= set(candidates) else prompt.question, evidence)
            fields[name] = max(candidates, key=lambda c: (round(scores[c], 6), -candidates.index(c)))
            named = sum(any(True for _ in mentions(e.line, candidates)) for e in evidence)
            fields["reasoning"] = f"{named} lines name one of the {len(candidates)} possible answers."
        return fields

    def _scores(self, candidates: Sequence[str], body: str, evidence: Sequence[Evidence]) -> dict[str, float]:
        question = self._encode(body)
        scores = {c: _PRIOR_WEIGHT * float(question @ self._encode(c)) for c in candidates}
        for line, about in evidence:
            found = list(mentions(line, candidates))
            if not found:
                continue
            similarity = max(0.0, float(question @ self._encode(about)))
            share = _SHARE.search(line)
            part = min(1.0, int(share.group(1)) / max(1, int(share.group(2)))) if share else 1.0
            for candidate, sign in found:
                scores[candidate] += sign * part * (_LINE_WEIGHT + similarity**_SHARPNESS)
        return scores

    def _free_text(self, body: str, evidence: Sequence[Evidence]) -> str:
        """The answer of the most similar record that has one, else the question's first sentence."""
        answers = [(e, answer) for e in evidence if (answer := _recorded_answer(e.line)) is not None]
        if answers:
            question = self._encode(body)
            return max(answers, key=lambda a: round(float(question @ self._encode(a[0].about)), 6))[1]
        return re.split(r"(?<=[.!?])\s", body.strip(), maxsplit=1)[0] or "(nothing)"

    def _encode(self, text: str) -> Any:
        if isinstance(self._encoder, str):
            self._encoder = load_encoder(self._encoder)
        return self._encoder.encode(text)

    @staticmethod
    def _render(prompt: Prompt, fields: dict[str, Any]) -> str:
        if prompt.as_json:
            return json.dumps(fields, ensure_ascii=False)
        parts = [
            f"[[ ## {name} ## ]]\n{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
            for name, value in fields.items()
        ]
        return "\n\n".join([*parts, "[[ ## completed ## ]]"])


# -- what counts as evidence ----------------------------------------------------------------------


def _evidence(prompt: Prompt) -> Iterator[Evidence]:
    """Lines outside the question, the instructions and the tool protocol."""
    for question, answer in prompt.demonstrations:
        about = _body(question)[1]
        yield Evidence(record_line(about, answer), about)
    # An agent's own thoughts and arguments repeat the question; `trajectory` is the heading of steps.
    protocol = re.compile(r"(thought|tool_name|tool_args)_\d+$")
    texts = [prompt.persona, *(text for name, text in prompt.sections[1:] if not protocol.match(name))]
    for text in texts:
        for line in filter(None, map(str.strip, text.splitlines())):
            inner = _QUOTED.search(line)
            yield Evidence(line, inner.group(1) if inner else line)


# -- names, and whether the line is for or against them -------------------------------------------

_pattern = partial(re.compile, flags=re.IGNORECASE)
_NOT = (
    r"(?:not|never|cannot|neither|nor|no longer|hardly|rarely|seldom|barely|unlikely|by no means|under no circumstances"
    r"|\w+n['’]t|(?:is|was|are|do|does|did|would|ca|wo)nt)"
)
_CHOOSE = (  # what one does with a name, or with what has it
    r"(?:(?:like|lov|enjoy|want|tag|choos|chose|answer|say|call|giv|label|select|fil(?:e|ing)|watch|appl(?:y|ie)"
    r"|assign|reach|nam(?:e|ing)|classif|mark|vot|recommend|suggest|touch|tolerat|stand|bear|abid|accept|appreciat"
    r"|consider|writ|repl(?:y|ie)|rat(?:e|ing)|prefer|favou?r|predict|guess|settl)\w{0,3}"
    r"|pick(?:s|ed|ing)?|car(?:es?|ed|ing)|us(?:es?|ed|ing)|do(?:es|ing|ne)?|go(?:es|ing|ne)?|read|see|seen|said|buy|gave)"
)
_LIKING = (  # what one may not be, or not have
    r"(?:(?:fan|friend|lover|admirer) of|fond of|(?:keen|big|sold) on|into|interested in|(?:one|the type|mood) for"
    r"|for (?:him|her|them|me)|(?:crazy|mad|excited) about"
    r"|(?:time|interest|patience|love|taste|use|appetite|liking|room|desire|tolerance)(?: \w+)? (?:for|in))"
)
_DISLIKE = (
    r"(?:(?:avoid|detest|abhor|reject|dread|refus|exclud|forbid|dislik|loath|despis)(?:e?s|e|e?d|ing)?|hat(?:es?|ed|ing)"
    r"|shun(?:s|ned)?|skip(?:s|ped|ping)?(?! straight| right| ahead| to)|bans|banned|spares? (?:him|her|them|me)|least"
    r"|(?:aversion|averse|allergic) to|distaste for|(?:tire[sd]?|sick|weary|bored|fed up|had enough) (?:of|with|by)"
    r"|(?:turned|put) off by|(?:stay|keep|steer|shy)s? (?:well |far )?(?:away|clear) (?:from|of))"
)
_ARTICLE = r"(?:\W+(?:a|an|the|any|all|to|of|for|in|on|as|with|more|most|much|such|other|ever|be|been|really|even))"
# What a rejection does not reach beyond: exceptions, comparisons, and the beginnings of another thought.
_FILLER = (
    r"(?:\W+(?!(?:but|except|besides|than|else|other|otherwise|different|beyond|past|outside|apart|without|unless|until"
    r"|if|when|whenever|enough|wrong|far|up|down|off|away|by|in favou?r|miss\w*|he|she|they|we|i|always|just|instead"
    rf"|says|picks|chooses|loves|likes|prefers|wants|adores|enjoys|(?:as|so) \w+ as|no|{_NOT})\b)\w+)"
)
_NOT_CHOOSE = (
    rf"(?:{_NOT}(?: once)?(?: (?:has|have|had|would|will|does|did) (?:the )?\w+)?"  # "not once has she"
    r"(?: (?:\w+ly|ever|even|much|quite|to|be|been|have|an?|one|the|in|that|so|too|very|someone|who))*"
    rf" (?:{_CHOOSE}|{_LIKING})|(?:no|little|zero|{_NOT}(?: have)? (?:any|much))(?: \w+)? {_LIKING})"
)
_QUOTES = r"[\s,/'\"“”‘’*]*"
_JOINING = _pattern(
    rf"(?: \w+(?= (?:and|or|nor)\b))?{_QUOTES}"
    rf"(?:(?:and|or|nor|plus|as well as|&)(?!\w)(?: (?:a|an|the|any|also|even))?{_QUOTES})?"
)
_OWN_CLAUSE = _pattern(
    r"['\"”’*]* (?:is|are|was|were|he|she|they|i|we|you|it (?:is|was)|fits|suits|works|instead|over|rather|than)\b"
)
_IDIOMS = _pattern(  # with a word of negation, and yet no negation
    r"\b(?:(?:more often )?than not|whether or not|(?:if|why|never|not) not|not to mention|no (?:less|fewer) than"
    r"|no (?:doubt|question|wonder|surprise|contest|matter|exceptions?)|in no time|no\.? ?\d+"
    r"|not (?:only|just|merely|simply|solely|always|least|surprisingly)|nothing but|at (?:the )?(?:very )?least)\b"
)
_HEADING = _pattern(  # "Dislikes: ", "Disliked things: ", '"avoids": ', "Not for him: "
    rf"(\b{_DISLIKE}(?:(?<=ed) \w+|(?<=least) \w+)?|\b{_NOT_CHOOSE}|^\W*(?:never|not))\W{{0,2}}:"
)
_CLAUSE_END = _pattern(
    r"[.;:!?,]\s|\s[-–—]+\s|[—()|]|\b(?:because|although|though|whereas|while|yet|so(?! \w+ as\b))\b"
    rf"|(?<!anything )(?<!everything )(?<!all )\bbut\b|\band\b(?!{_ARTICLE}?\W*$)"
    rf"|\bor\b(?= (?:{_NOT}|{_DISLIKE})\b)|\b(?=nor\b)"
)
_NEGATIVE = _pattern(rf"\b(?:{_NOT}|no|nothing|nobody|none|few|little|without|{_DISLIKE})\b")
# The next five reach to the end of the text, where the name begins.
_REJECTS = _pattern(
    rf"(?:\b(?:{_NOT}|no|non){_ARTICLE}{{0,3}}|\b(?:{_NOT_CHOOSE}|{_DISLIKE})\b{_FILLER}{{0,6}}"
    r"|\brather (?:\w+ ){1,4}than(?: \w+){0,2})\W*$"
)
_SETS_ASIDE = _pattern(
    r"\b(?:instead of|rather than|as opposed to|unlike|except(?: for)?|excluding|against)"
    rf"(?: {_CHOOSE})?{_ARTICLE}{{0,2}}\W*$"
)
_HATES_MOST = _pattern(rf"\b{_DISLIKE}\b.{{0,80}}\b(?:more than|(?:as|so) much as){_ARTICLE}?\W*$")
_ALL_BUT = _pattern(
    rf"\b(?:any\w*|every\w*|some\w*|all)\b.{{0,80}}\b(?:but|except(?: for)?|besides|over|than){_ARTICLE}?\W*$"
)
_CONTRAST = _pattern(rf"\b(?:over|than|above|ahead of|beats){_ARTICLE}{{0,2}}\W*$")
_IS_REJECTED = _pattern(  # what may follow the name, after a noun: "... things are not for him"
    r"['\"”’*]*(?: (?!not|never)\w+)??(?:"
    r"(?: (?:is|are|was|were|should|must|can))?(?: not| never| rarely| seldom|n['’]t| \w+n['’]t)(?: be| been| really)*"
    r" (?:for (?:him|her|them|me|us|the)|(?:to )?(?:his|her|their|my) (?:thing|cup|taste|style|kind)"
    r"|used|chosen|picked|liked|loved|selected|given|said|enjoyed|wanted|preferred|welcome|an (?:option|answer))\b"
    r"| (?:is|are|was|were|(?:should|must) be)(?: \w+ly| what \w+| something \w+)?"
    rf" (?:{_DISLIKE}(?! by)|forbidden|taboo|out|off[- ]limits|a no-go)\b"
    r"| (?:bores?|annoys?|irritates?|leaves? \w+ cold|do(?:es)? (?:nothing|little) for|(?:puts?|turns?) \w+ off)\b"
    r"|(?: (?:is|are|too|so|very|\w+ly))* (?:boring|dull|tedious|silly|annoying|awful|terrible|stupid|pointless)\b"
    rf"|(?:,? which| that)? (?:he|she|they|i|we) (?:{_NOT_CHOOSE}|{_DISLIKE})(?=\W*$|[.,;:!?)]| (?:and|but)\b)"
    r"|\W{0,3}(?:never|no|no way|no thanks|not at all)(?=[.,;!]|$)| (?:the )?least\b)"
)
_PLURAL = _pattern(r"\b(?:are|were|aren['’]t|weren['’]t|do|bore|leave|annoy|irritate|put|turn|both)\b")


def mentions(line: str, candidates: Sequence[str]) -> Iterator[tuple[str, int]]:
    """(candidate, +1 or -1) for each candidate that the line names outside «».

    Case, hyphens, spaces and a plural do not matter; where names overlap, the longest counts. Naming is for
    the candidate, unless the line quite clearly rejects it: as what is disliked, avoided or not chosen, in
    the same clause; as the second of two names with `over`, `than`, `instead of` or `not` between them; or
    by what follows ("... is not for him"). A negation of a rejection ("never avoids", "nothing other than")
    is for it again. Names that are joined by `and`, `or` or a comma share their sign.
    """
    bare = _QUOTED.sub(lambda m: " " * len(m.group(0)), line)
    names = _names(bare, candidates)
    signs: list[int] = []
    group = previous_end = 0  # where the joined names begin; where the last name ended
    aside = False  # whether the group is set aside at the beginning of its clause: "Unlike a and b, c"
    for i, (start, end, _) in enumerate(names):
        between, after = bare[previous_end:start], bare[end:]
        joined = i > 0 and _JOINING.fullmatch(between) is not None
        group = group if joined else i
        own_clause = _OWN_CLAUSE.match(after) and not re.search(r"\bn?or\b", between)
        if joined and not own_clause and not (aside and "," in between):
            sign, negative = signs[-1], False
        else:
            sign, negative, aside = _sign(between, bare[:previous_end], signs[-1] if i else 0)
        if rejected := _IS_REJECTED.match(after):
            sign = 1 if negative else -1
            if _PLURAL.search(rejected.group(0)):
                signs[group:] = [sign] * (i - group)
        signs.append(sign)
        previous_end = end
    for (_, _, candidate), sign in zip(names, signs, strict=True):
        yield candidate, sign


def _sign(before: str, earlier: str, previous: int) -> tuple[int, bool, bool]:
    """Of a name, by the text since the name before it, whose sign is `previous` (0: there is none).

    Returns the sign, whether the clause holds a negation, and whether it sets the name aside from its start.
    """
    text = _HEADING.sub(r"\1 ", re.sub(r"\bnever, ever,?", "never", _IDIOMS.sub(" ", before)))
    clause = _CLAUSE_END.split(text)[-1]
    negative = _NEGATIVE.search(clause) is not None
    if previous < 0 and re.search(r"\bbut not\W*$", before, re.IGNORECASE):  # "dislikes a but not b"
        return 1, negative, False
    if previous and not negative and not re.search(r"[.;:!?]\s", text):
        to = before.strip() == "to" and re.search(r"\bprefer\w* [^.;:!?]*$", earlier, re.IGNORECASE)
        if to or _CONTRAST.search(text):
            return -1, negative, False
    if _HATES_MOST.search(clause) or (_ALL_BUT.search(clause) and not negative):
        return -1, negative, False
    for pattern in (_SETS_ASIDE, _REJECTS):
        if found := pattern.search(clause):
            head = clause[: found.start()]
            return (1 if _NEGATIVE.search(head) else -1), negative, pattern is _SETS_ASIDE and not head.strip()
    return 1, negative, False


def _names(text: str, candidates: Sequence[str]) -> list[tuple[int, int, str]]:
    """(start, end, candidate) in order, no two overlapping, longer candidates first."""
    taken: list[tuple[int, int, str]] = []
    for candidate in sorted(candidates, key=lambda c: (-len(c), c)):
        words = [re.escape(word) for word in re.split(r"[\W_]+", candidate) if word]
        if not words:
            continue
        if re.fullmatch(r"[^\W\d_]{3,}", words[-1]):
            words[-1] = re.sub(r"(?<![aeiou])y$", "(?:y|ies)", words[-1], flags=re.IGNORECASE) + "(?:e?s)?"
        # Between the words of a label: up to three signs, or nothing at all between letters.
        joint = r"(?:[\W_]{1,3}|(?<=[^\W\d_])(?=[^\W\d_]))"
        for match in re.finditer(rf"(?<!\w){joint.join(words)}(?!\w)", text, re.IGNORECASE):
            if all(match.end() <= start or end <= match.start() for start, end, _ in taken):
                taken.append((match.start(), match.end(), candidate))
    return sorted(taken)


def _recorded_answer(line: str) -> str | None:
    """The answer of a record; None if the line is no record, or only looks like one."""
    match = _RECORD_ANSWER.search(line)
    try:
        return str(json.loads(match.group(1))) if match else None
    except ValueError:
        return None


def _body(question: str) -> tuple[tuple[str, ...], str]:
    """The possible answers that a list in the question gives, in brackets or after "answer with", and what follows."""
    match = _BRACKETED_LIST.search(question)
    if not match:
        match = _LISTED.search(question)
        if match:
            listed = tuple(re.sub(r",? or ", ", ", match.group(1)).split(", "))
            return listed, question[match.end() :].strip() or question
        return (), question
    listed = tuple(part.strip() for part in match.group(1).split(",") if part.strip())
    after = re.sub(r"^\s*\w+:\s*", "", question[match.end() :]).strip()
    return listed, after or question


# -- the other roles ------------------------------------------------------------------------------


def _step(prompt: Prompt) -> dict[str, Any]:
    """Call each tool once, in the order listed, then finish."""
    called = {text for name, text in prompt.sections if name.startswith("tool_name_")}
    _, body = _body(prompt.question)
    for name, arguments in prompt.tools:
        if name not in called:
            values = dict.fromkeys(arguments, shorten(body, _SEARCH_CHARS))
            return {"next_thought": f"Use {name}.", "next_tool_name": name, "next_tool_args": values}
    return {"next_thought": "Every tool was used.", "next_tool_name": "finish", "next_tool_args": {}}


def _gradient(prompt: Prompt) -> dict[str, Any]:
    """Inputs: question, expected answer, given answer. What the user answered, as a record."""
    question, expected = [*prompt.texts(), "", ""][:2]
    return {"feedback": record_line(_body(question)[1], expected)}


def _update(prompt: Prompt) -> dict[str, Any]:
    """Inputs: current persona, feedback. The persona with the lines of the feedback that it does not hold."""
    current, *others = [*prompt.texts(), ""]
    lines = current.splitlines()
    for line in "\n".join(others).splitlines():
        line = re.sub(r"^\s*(\d+\.|[-*])\s+", "", line).strip()
        if line and line not in lines:
            lines.append(line)
    return {"new_persona": "\n".join(lines)}


def _summary(prompt: Prompt) -> dict[str, Any]:
    """Input: history. The most frequent answers; for free texts, where every answer differs, the newest; of what
    records no answers, the last lines."""
    given = [line.strip() for line in prompt.question.splitlines() if line.strip()]
    answers = [answer for line in given if (answer := _recorded_answer(line)) is not None]
    counted = Counter(answers).most_common(3)
    if counted and counted[0][1] > 1:
        lines = [f"Answers {json.dumps(a, ensure_ascii=False)} in {n} of {len(answers)} cases." for a, n in counted]
    elif answers:
        lines = [f"Has answered {quoted(answer)}." for answer in answers[-3:]]
    else:
        last = list(dict.fromkeys(reversed(given)))[:_SUMMARY_LINES]
        lines = [shorten(line, _SUMMARY_LINE_CHARS) for line in reversed(last)]
    return {"profile": "\n".join(lines) or "No answers are known."}


def _text(parts: Any) -> str:
    return parts if isinstance(parts, str) else "".join(part.text for part in parts or ())
