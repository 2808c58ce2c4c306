"""The two signatures of the alignment: the textual gradient and its update (App. C, in our own words)."""

from __future__ import annotations

from typing import Any

import dspy

GRADIENT_INSTRUCTION = (
    "You judge the answers of a personal assistant strictly and carefully. Compare its answer with what the user "
    "really answered, and say how its system prompt should change so that it would answer as this user does. "
    "Be brief and concrete.\n"
    "- Say which words the assistant should search with, in its tools, for this user.\n"
    "- Use what the exchange shows of the user: earlier behaviour, preferences, anything personal.\n"
    "- Describe the user and the user's preferences in terms that hold beyond this one question."
)

UPDATE_INSTRUCTION = (
    "You rewrite the system prompt of a personal assistant so that it serves its user better. Work the feedback "
    "into the prompt: state this user's own preferences and profile in detail, and tell the assistant to answer "
    "in line with them. Keep the rules for its tools, and keep the tone clear and helpful. "
    "Write the whole new system prompt and nothing else."
)


class Gradient(dspy.Signature):
    __doc__ = GRADIENT_INSTRUCTION

    question: str = dspy.InputField()
    expected_answer: str = dspy.InputField(desc="what the user really answered")
    given_answer: str = dspy.InputField(desc="what the assistant answered")
    feedback: str = dspy.OutputField(desc="how the system prompt should change")


def gradient_signature(instruction: str | None = None, comparison: bool = False, steps: bool = False) -> type[Gradient]:
    """The gradient's signature, with what the critic sees beside question, expected and given answer.

    Args:
        instruction: replaces App. C's.
        comparison: a metric's feedback on the given answer.
        steps: the agent's trajectory.
    """
    signature: Any = Gradient
    if comparison:
        signature = signature.append("comparison", dspy.InputField(desc="how the two answers differ"), type_=str)
    if steps:
        desc = "what the assistant thought, which tools it called and what they returned"
        signature = signature.append("steps", dspy.InputField(desc=desc), type_=str)
    return signature.with_instructions(instruction) if instruction else signature


class Update(dspy.Signature):
    __doc__ = UPDATE_INSTRUCTION

    current_persona: str = dspy.InputField(desc="the current system prompt")
    feedback: str = dspy.InputField(desc="one piece of feedback for each recent question")
    new_persona: str = dspy.OutputField(desc="the whole new system prompt")
