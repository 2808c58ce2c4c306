"""What answers a user: the persona-conditioned agent, its memories, its tools and its language models."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personaagent.programs.agent import PersonaAgent
    from personaagent.programs.errors import InputError, PersonaAgentError
    from personaagent.programs.interaction import Interaction
    from personaagent.programs.lm.make import make_lm
    from personaagent.programs.memory.semantic import SemanticMemory
    from personaagent.programs.memory.store import MemoryStore
    from personaagent.programs.persona import Persona
    from personaagent.programs.tools.wikipedia import Wikipedia

__all__ = [
    "InputError",
    "Interaction",
    "MemoryStore",
    "Persona",
    "PersonaAgent",
    "PersonaAgentError",
    "SemanticMemory",
    "Wikipedia",
    "make_lm",
]

_MODULES = {
    "InputError": "errors",
    "Interaction": "interaction",
    "MemoryStore": "memory.store",
    "Persona": "persona",
    "PersonaAgent": "agent",
    "PersonaAgentError": "errors",
    "SemanticMemory": "memory.semantic",
    "Wikipedia": "tools.wikipedia",
    "make_lm": "lm.make",
}


def __getattr__(name: str) -> Any:
    # On demand: importing one part, such as the offline reader, must not import the memory store.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
