"""DSPy's adapters, made to tell an LM's own JSON from JSON that it copied out of its prompt.

DSPy reads a reply that lacks its field markers as JSON, and takes the first object that it finds anywhere in it.
A page that holds `{"answer": "..."}` would so give the answer of an LM that repeats what it reads. The
markers of the other format are defused in the prompt (quoting.py); braces cannot be, since people write code.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Iterator
from typing import Any

import dspy
from dspy.utils.exceptions import AdapterParseError

from personaagent.programs.acting import acting_as_nobody

# DSPy tells callbacks, and so a trace, of `format` and `parse` in every class that has them. What a method of the same
# name calls is called without that.
_parse_chat: Any = inspect.unwrap(dspy.ChatAdapter.parse)
_parse_json: Any = inspect.unwrap(dspy.JSONAdapter.parse)
_format_json: Any = inspect.unwrap(dspy.JSONAdapter.format)

_BOUNDARY = re.compile(r'\\.|["{}]', re.DOTALL)
_FIRST_FIELD = re.compile(r"""\{["']?\w+["']?:(?:"[^"]*"?|'[^']*'?|[^,}]*)""")


class CarefulChatAdapter(dspy.ChatAdapter):
    """DSPy's default, with a `CarefulJSONAdapter` to fall back on."""

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        try:
            return _parse_chat(self, signature, completion)
        except RecursionError as error:
            raise _too_deep("ChatAdapter", signature, completion) from error

    def _make_json_adapter_fallback(self) -> dspy.JSONAdapter:
        return _as(CarefulJSONAdapter, super()._make_json_adapter_fallback())


delattr(CarefulChatAdapter, "format")  # DSPy's own, which it has wrapped once more


class CarefulJSONAdapter(dspy.JSONAdapter):
    """Reads the first object of a reply that names an output field and was not copied from the prompt.

    An object counts as copied if its first field, name and value, stands in the prompt in JSON. One adapter
    serves one call at a time: between the prompt and the reply it keeps the prompt.
    """

    _prompt = ""

    def format(
        self, signature: type[dspy.Signature], demos: list[dict[str, Any]], inputs: dict[str, Any]
    ) -> list[dict[str, Any]]:
        messages: list[dict[str, Any]] = _format_json(self, signature, demos, inputs)
        self._keep_prompt(messages)
        return messages

    def _keep_prompt(self, messages: list[dict[str, Any]]) -> None:
        # Not the assistant's: a demonstration's answer may well be this one's, too.
        self._prompt = "\n".join(_text(m["content"]) for m in messages if m["role"] != "assistant")

    def parse(self, signature: type[dspy.Signature], completion: str) -> dict[str, Any]:
        prompt = _squeezed(self._prompt)
        for found in _objects(completion):
            first = _FIRST_FIELD.match(_squeezed(found))
            if first and first[0] not in prompt and any(name in found for name in signature.output_fields):
                try:
                    parsed: dict[str, Any] = _parse_json(self, signature, found)
                    return parsed
                except RecursionError as error:
                    raise _too_deep("JSONAdapter", signature, completion) from error
        raise AdapterParseError(
            adapter_name="JSONAdapter",
            signature=signature,
            lm_response=completion,
            message="The LM's reply holds no JSON object with an output field, or only one that its prompt holds.",
        )


def _too_deep(adapter: str, signature: type[dspy.Signature], completion: str) -> AdapterParseError:
    said = "The LM's reply is nested too deeply."
    return AdapterParseError(adapter_name=adapter, signature=signature, lm_response=completion, message=said)


def careful() -> Any:
    """A context in which DSPy's default adapter, or its JSON adapter, is replaced by the careful one.

    An adapter of another kind is its owner's choice, and stays. The persona of a personalised program around the
    block is out of effect: what is careful has a persona of its own, or none.
    """
    settings = acting_as_nobody()
    given = settings["adapter"] or dspy.ChatAdapter()
    kinds: dict[type, type] = {dspy.ChatAdapter: CarefulChatAdapter, dspy.JSONAdapter: CarefulJSONAdapter}
    kinds[CarefulJSONAdapter] = CarefulJSONAdapter  # one for each call
    settings["adapter"] = _as(kinds[type(given)], given) if type(given) in kinds else given
    return dspy.context(**settings)


def _as(kind: type, adapter: Any) -> Any:
    """The same adapter, settings included, as another class."""
    made = copy.copy(adapter)
    made.__class__ = kind
    return made


def _objects(reply: str) -> Iterator[str]:
    """The outermost {...} of a text, in order; one that is never closed reaches to its end."""
    start, depth, in_string = 0, 0, False
    for boundary in _BOUNDARY.finditer(reply):
        mark = boundary[0]
        if mark == "{" and not in_string:
            start = start if depth else boundary.start()
            depth += 1
        elif depth and mark == '"':
            in_string = not in_string
        elif depth and mark == "}" and not in_string:
            depth -= 1
            if not depth:
                yield reply[start : boundary.end()]
    if depth:
        yield reply[start:]


def _squeezed(text: str) -> str:
    """Without white space and escapes: a record's answer stands in the prompt as a JSON string."""
    return re.sub(r"[\s\\]+", "", text)


def _text(content: Any) -> str:
    return content if isinstance(content, str) else "\n".join(part.get("text", "") for part in content)
