"""The methods that PersonaAgent is compared with (Tables 2 to 4), each a DSPy module behind one Protocol."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from personaagent.programs.baselines.icl import ICL
    from personaagent.programs.baselines.memory_bank import MemoryBank
    from personaagent.programs.baselines.no_persona import NoPersona
    from personaagent.programs.baselines.pag import PAG
    from personaagent.programs.baselines.prompt import Prompt
    from personaagent.programs.baselines.protocol import Baseline, Calls, Handle, Learnt
    from personaagent.programs.baselines.rag import RAG
    from personaagent.programs.baselines.react import React
    from personaagent.programs.baselines.registry import BASELINES, Setup, make_baseline

__all__ = [
    "BASELINES",
    "ICL",
    "PAG",
    "RAG",
    "Baseline",
    "Calls",
    "Handle",
    "Learnt",
    "MemoryBank",
    "NoPersona",
    "Prompt",
    "React",
    "Setup",
    "make_baseline",
]

_MODULES = {
    "BASELINES": "registry",
    "ICL": "icl",
    "PAG": "pag",
    "RAG": "rag",
    "Baseline": "protocol",
    "Calls": "protocol",
    "Handle": "protocol",
    "Learnt": "protocol",
    "MemoryBank": "memory_bank",
    "NoPersona": "no_persona",
    "Prompt": "prompt",
    "React": "react",
    "Setup": "registry",
    "make_baseline": "registry",
}


def __getattr__(name: str) -> Any:
    # On demand, as in `programs`: the memory store and its libraries are imported where they are used.
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_MODULES[name]}"), name)
