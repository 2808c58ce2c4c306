"""What answers a user: the persona-conditioned agent, its memories, its tools and its language models."""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personaagent.programs.agent import PersonaAgent
    from personaagent.programs.errors import InputError, PersonaAgentError
    from personaagent.programs.interaction import Interaction
    from personaagent.programs.lm.make import make_lm
    from personaagent.programs.memory.semantic import SemanticMemory
    from personaagent.programs.memory.store import MemoryStore
    from personaagent.programs.persona import Persona
    from personaagent.programs.personalize import Personalized, personalize
    from personaagent.programs.serving import Served
    from personaagent.programs.tools.wikipedia import Wikipedia

__all__ = [
    "InputError",
    "Interaction",
    "MemoryStore",
    "Persona",
    "PersonaAgent",
    "PersonaAgentError",
    "Personalized",
    "SemanticMemory",
    "Served",
    "Wikipedia",
    "make_lm",
    "personalize",
]

_MODULES = {
    "InputError": "errors",
    "Interaction": "interaction",
    "MemoryStore": "memory.store",
    "Persona": "persona",
    "PersonaAgent": "agent",
    "PersonaAgentError": "errors",
    "Personalized": "personalize",
    "SemanticMemory": "memory.semantic",
    "Served": "serving",
    "Wikipedia": "tools.wikipedia",
    "make_lm": "lm.make",
    "personalize": "personalize",
}


def __getattr__(name: str) -> Any:
    # On demand: importing one part, such as the offline reader, must not import the memory store.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)


class _Package(ModuleType):
    def __setattr__(self, name: str, value: Any) -> None:
        # Python sets each imported module on its package, and one has the name of the function in it.
        if name == "personalize" and isinstance(value, ModuleType):
            value = value.personalize
        super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
