"""The LM behind the loopback server: it reads a prompt of DSPy's and answers it as a working agent would.

It knows nothing of our instructions: it goes by the output fields that are asked for and by the tools that
are named there. Its answers are a function of the prompt alone, so that a study has the same result again.
"""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from functools import cached_property
from typing import Any

DEFAULT_ANSWER = "a loopback answer"
"""Where a prompt names no candidates."""

_DECLARED = re.compile(r"^\d+\. `(\w+)` \((.*?)\):", re.MULTILINE)
_CANDIDATES = re.compile(r"\[([^\[\]\n]*,[^\[\]\n]*)\]")
_RECALLED = re.compile(r'-> "([^"\n]+)"')

Message = Mapping[str, Any]


class Prompt:
    """A finished prompt as an LM sees it.

    Args:
        messages: of a request, in OpenAI's shape.
    """

    def __init__(self, messages: Sequence[Message]) -> None:
        self.system = "\n".join(text_of(m) for m in messages if m.get("role") == "system")
        self.user = text_of(messages[-1]) if messages else ""

    @property
    def text(self) -> str:
        return f"{self.system}\n{self.user}"

    @property
    def chars(self) -> int:
        return len(self.system) + len(self.user)

    @cached_property
    def outputs(self) -> dict[str, str]:
        """Name to type of the fields that are asked for, in order; none if the prompt is not one of DSPy's."""
        declared = self.system.partition("Your output fields are:\n")[2].partition("\nAll interactions will")[0]
        return dict(_DECLARED.findall(declared))

    @property
    def wants_json(self) -> bool:
        return self.user.rpartition("\n")[2].startswith("Respond with a JSON object")

    @property
    def tools(self) -> list[str]:
        """That a step may choose from."""
        return literals(self.outputs.get("next_tool_name", ""))

    @property
    def called(self) -> list[str]:
        """Tools of the steps so far, as the trajectory shows them."""
        return re.findall(r"^\[\[ ## tool_name_\d+ ## \]\]\n(.*)$", self.user, re.MULTILINE)

    @property
    def question(self) -> str:
        """The first input field."""
        first = re.match(r"\[\[ ## \w+ ## \]\]\n(.*?)(?=\n\n\[\[ ## |\n\nRespond with |\Z)", self.user, re.DOTALL)
        return first[1] if first else self.user

    @property
    def candidates(self) -> list[str]:
        """Answers that the question names, as in `tags: [comedy, classic]`."""
        found = _CANDIDATES.search(self.question)
        if found:
            return [part.strip() for part in found[1].split(",") if part.strip()]
        return list(dict.fromkeys(re.findall(r"\[\d+\]", self.question)))

    @property
    def label(self) -> str:
        """One of the candidates: what the user answered before if that is shown, else by the prompt's hash."""
        candidates = self.candidates
        known = [answer for answer in _RECALLED.findall(self.user) if answer in candidates]
        if known:
            return known[0]
        return candidates[int(self.digest, 16) % len(candidates)] if candidates else DEFAULT_ANSWER

    @cached_property
    def digest(self) -> str:
        return hashlib.sha256(self.text.encode("utf-8", "replace")).hexdigest()


def text_of(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else "".join(part.get("text", "") for part in content or ())


def literals(annotation: str) -> list[str]:
    """The values of a `Literal[...]`."""
    found = re.fullmatch(r"Literal\[(.*)\]", annotation)
    return [str(value) for value in ast.literal_eval(f"[{found[1]}]")] if found else []


def agent_reply(messages: Sequence[Message]) -> str:
    """What a well-behaved LM answers: `recall` once where it is offered, then `finish`, then an answer."""
    prompt = Prompt(messages)
    return written(prompt, values(prompt)) if prompt.outputs else DEFAULT_ANSWER


def values(prompt: Prompt) -> dict[str, Any]:
    """The well-behaved answer, by output field."""
    if "next_tool_name" in prompt.outputs:
        recalls = "recall" in prompt.tools and "recall" not in prompt.called
        arguments = {"query": prompt.question[-200:]} if recalls else {}
        return step("What did this user answer before?" if recalls else "I know enough.", recalls, arguments)
    return {name: _value(prompt, name, kind) for name, kind in prompt.outputs.items()}


def step(thought: str, tool: str | bool, arguments: Any) -> dict[str, Any]:
    """The fields of a step; for `tool`, True is `recall` and False is `finish`."""
    name = tool if isinstance(tool, str) else "recall" if tool else "finish"
    return {"next_thought": thought, "next_tool_name": name, "next_tool_args": arguments}


def written(prompt: Prompt, fields: Mapping[str, Any]) -> str:
    """The fields in the form that the prompt asks for: field markers, or JSON."""
    if prompt.wants_json:
        return json.dumps(fields, ensure_ascii=False)
    blocks = [
        f"[[ ## {name} ## ]]\n{value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)}"
        for name, value in fields.items()
    ]
    return "\n\n".join([*blocks, "[[ ## completed ## ]]"])


def _value(prompt: Prompt, name: str, kind: str) -> Any:
    note = prompt.digest[:6]
    fixed = {
        "reasoning": "As this user answered before.",
        "feedback": f"Say what this user prefers ({note}).",
        "new_persona": f"You serve a user with preferences of their own ({note}). Recall before you answer.",
        "profile": f"A user with preferences of their own ({note}).",
    }
    plain = {"int": 1, "float": 1.0, "bool": True}
    if name in fixed:
        return fixed[name]
    if kind in plain:
        return plain[kind]
    if kind.startswith(("list", "tuple", "set")):
        return []
    if kind.startswith("dict"):
        return {}
    choices = literals(kind)
    return choices[int(prompt.digest, 16) % len(choices)] if choices else prompt.label
