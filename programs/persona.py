"""The persona: a user's own system prompt, versioned, and saved with the program that uses it.

The paper's definition (section 2.1): a persona unifies what is known of a user with instructions to the
agent, and governs all that the agent does for that user.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from typing import Any, Self

from dspy.predict.parameter import Parameter

from personaagent.programs.errors import InputError

PERSONA_TEMPLATE = """\
You are a helpful assistant who serves one particular user and answers as this user would want.

What is known of this user: {profile}

How to work:
1. Think step by step about what you need to know of the question and of this user's preferences.
{tool_rules}
Give a clear and short answer, without an explanation."""
"""The initial persona (App. D, in our own words). `{profile}` is the semantic memory's summary, `{tool_rules}`
the rules for the tools that exist."""

NO_PROFILE = "nothing yet."


class Persona(Parameter):
    """A persona P and where it came from. Treat as immutable; a rewrite makes a child.

    It is a DSPy parameter, so `program.save("alice.json")` and `load` carry it, as JSON.

    Args:
        text: the system prompt. The alignment rewrites all of it, as the paper's does. An empty one adds nothing to
            any prompt.
        version: 0 for an initial persona, else its parent's + 1. Branches may share a number.
        parent: digest of the persona that it was rewritten from; None for an initial one.
        learnt_from: ids of the interactions that the rewrite learnt from, oldest first.

    Raises:
        InputError: if the text, the parent or an id is not text, the version is no integer from 0, or `learnt_from`
            is no list.
    """

    def __init__(self, text: str, version: int = 0, parent: str | None = None, learnt_from: Sequence[str] = ()) -> None:
        if not isinstance(text, str):
            raise InputError(f"Persona.text must be text, but got {text!r}")
        if isinstance(version, bool) or not isinstance(version, int) or version < 0:
            raise InputError(f"Persona.version must be an integer from 0, but got {version!r}")
        if parent is not None and not isinstance(parent, str):
            raise InputError(f"Persona.parent must be a digest or None, but got {parent!r}")
        ids = tuple(learnt_from) if isinstance(learnt_from, Iterable) and not isinstance(learnt_from, str) else None
        if ids is None or not all(isinstance(i, str) for i in ids):
            raise InputError(f"Persona.learnt_from must be a list of interaction ids, but got {learnt_from!r}")
        self.text = text
        self.version = version
        self.parent = parent
        self.learnt_from = ids

    @property
    def digest(self) -> str:
        """Identity of this persona: SHA-256 of its text and its parent's digest, 64 hex digits."""
        return hashlib.sha256(
            json.dumps([self.text, self.parent], ensure_ascii=False).encode("utf-8", "surrogatepass")
        ).hexdigest()

    def rewritten(self, text: str, learnt_from: Sequence[str]) -> Persona:
        """The child of this persona with a new text.

        Raises:
            InputError: as `Persona`.
        """
        return Persona(text, self.version + 1, self.digest, learnt_from)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Persona) and self.dump_state() == other.dump_state()

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        return f"Persona(version={self.version}, digest={self.digest[:8]}, text={self.text[:60]!r}…)"

    def dump_state(self, json_mode: bool = True) -> dict[str, Any]:
        """The persona as JSON-serialisable values."""
        return {
            "text": self.text,
            "version": self.version,
            "parent": self.parent,
            "learnt_from": list(self.learnt_from),
        }

    def load_state(self, state: dict[str, Any], **_: Any) -> Self:
        """Take over a dumped state. DSPy calls this; it replaces what this object holds.

        Raises:
            InputError: if the state lacks a field or holds one of a wrong type.
        """
        try:
            loaded = Persona(state["text"], state["version"], state["parent"], state["learnt_from"])
        except (KeyError, TypeError) as error:
            raise InputError(f"a saved persona needs text, version, parent and learnt_from; got {error!r}") from None
        self.__dict__.update(loaded.__dict__)
        return self

    def reset(self) -> None:
        """Does nothing: DSPy's `reset_copy` empties demonstrations, not the persona that was learnt."""


NO_TOOLS = "There are no tools: rely on what is known of this user and on what you know yourself."


def initial_persona(
    profile: str | None, tools: Sequence[str], template: str = PERSONA_TEMPLATE, no_tools: str = NO_TOOLS
) -> Persona:
    """Version 0 for a user: the template (App. D) with the profile P^u (eq. 3) and the tools that exist.

    Args:
        profile: the semantic memory's summary, or None if there is none.
        tools: names of the agent's tools, without `finish`. The template names only these and asks for
            min(2, number of tools) of them: the paper's rule of two cannot be kept with fewer.
        template: may use `{profile}`, `{tool_rules}`, `{tools}` and `{minimum}`; other braces stay.
        no_tools: the rule where there are none.
    """
    values = {
        "profile": (profile or "").strip() or NO_PROFILE,
        "tool_rules": _tool_rules(tools, no_tools),
        "tools": ", ".join(tools) or "none",
        "minimum": str(min(2, len(tools))),
    }
    text = template
    # One pass per name with plain replacement: a profile that contains braces must not be expanded again.
    for name in ("tool_rules", "tools", "minimum", "profile"):
        text = text.replace("{" + name + "}", values[name])
    return Persona(text)


def _tool_rules(tools: Sequence[str], no_tools: str) -> str:
    if not tools:
        return f"2. {no_tools}"
    minimum = min(2, len(tools))
    if len(tools) == 1:
        use = f"the tool {tools[0]} before you answer."
    else:
        use = f"at least {minimum} of the tools ({', '.join(tools)}) before you answer, each for what it is good for."
    return f"2. Use {use}\n3. Search deliberately, in words that fit this question and this user."
