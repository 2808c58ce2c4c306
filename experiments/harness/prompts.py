"""`--prompts FILE`: a researcher's own prompts, or the paper's literal ones, in place of ours."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path

from personaagent.optimizers.signatures import GRADIENT_INSTRUCTION, UPDATE_INSTRUCTION
from personaagent.programs.errors import InputError
from personaagent.programs.persona import PERSONA_TEMPLATE
from personaagent.programs.tools.recall import RECALL_DESCRIPTION

BUILT_IN = "built-in"

PAPER_SLOTS = {
    "[Initial Semantic Memory]": "{profile}",
    "[Question]": "(in the field `question`)",
    "[Ground Truth]": "(in the field `expected_answer`)",
    "[Response]": "(in the field `given_answer`)",
    "[Current Persona]": "(in the field `current_persona`)",
    "[Aggregated Feedback]": "(in the field `feedback`)",
}
"""The slots of the prompts in App. C and D, and what stands for them here."""


@dataclass(frozen=True)
class Prompts:
    """The texts of a study that a file may replace. A key that a file leaves out keeps ours."""

    persona: str = PERSONA_TEMPLATE
    """Initial persona (App. D); may use {profile}, {tool_rules}, {tools}, {minimum}."""
    gradient: str = GRADIENT_INSTRUCTION
    """Instruction of LLM_grad (App. C); the fields of the exchange follow it."""
    update: str = UPDATE_INSTRUCTION
    """Instruction of LLM_update (App. C); the current persona and the feedback follow it."""
    recall: str = RECALL_DESCRIPTION
    """Description of the memory tool (App. E)."""
    wikipedia: str | None = None
    """Description of the Wikipedia tool (App. E). None: the tool's own."""
    summary: str | None = None
    """S_t of eq. 3. None: the task's own."""
    name: str = BUILT_IN
    """`built-in`, or the file's SHA-256."""

    @property
    def digest(self) -> str:
        """SHA-256 of the texts, 64 hex digits: part of every unit's inputs."""
        texts = {k: v for k, v in asdict(self).items() if k != "name"}
        return hashlib.sha256(json.dumps(texts, sort_keys=True).encode()).hexdigest()


def load_prompts(path: Path) -> Prompts:
    """Prompts from a YAML (or JSON) file: a mapping of the names above to texts.

    The slots of the paper's own prompts are understood: `[Initial Semantic Memory]` is `{profile}`, and those of
    the gradient and the update become references to the fields that follow the instruction.

    Raises:
        InputError: if the file cannot be read, or has an unknown key or an empty text.
    """
    import yaml

    try:
        raw = path.read_bytes()
        content = yaml.safe_load(raw)
    except OSError as error:
        raise InputError(f"--prompts {path}: cannot be read: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise InputError(f"--prompts {path}: not valid YAML: {' '.join(str(error).split())}") from None
    known = [f.name for f in fields(Prompts) if f.name != "name"]
    if not isinstance(content, dict) or not content:
        raise InputError(f"--prompts {path}: expected a mapping with some of: {', '.join(known)}")
    for key, text in content.items():
        if key not in known:
            raise InputError(f"--prompts {path}: unknown key {key!r}; the keys are: {', '.join(known)}")
        if not isinstance(text, str) or not text.strip():
            raise InputError(f"--prompts {path}: {key!r} must be text and not empty, but is {text!r}")
    texts = {key: _with_our_slots(text) for key, text in content.items()}
    return Prompts(**texts, name=hashlib.sha256(raw).hexdigest())


def _with_our_slots(text: str) -> str:
    for slot, ours in PAPER_SLOTS.items():
        text = text.replace(slot, ours)
    return text
