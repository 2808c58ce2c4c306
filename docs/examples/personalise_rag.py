"""A RAG module that exists already, personalised: one program, two users, two answers.

Run: `python personalise_rag.py`. Offline; its LM is the offline reader, which is not a language model.
"""

import dspy

from personaagent.programs import MemoryStore, make_lm, personalize

DOCUMENTS = (
    "The train to the coast leaves every hour and takes forty minutes.",
    "The bicycle path to the coast follows the river all the way.",
    "The museum of tides closes at five.",
)


def retrieve(question: str, k: int = 2) -> list[str]:
    words = set(question.lower().split())
    return sorted(DOCUMENTS, key=lambda text: -len(words & set(text.lower().split())))[:k]


class RAG(dspy.Module):
    def __init__(self) -> None:
        super().__init__()
        self.answer = dspy.ChainOfThought("question, context -> answer")

    def forward(self, question: str) -> dspy.Prediction:
        return self.answer(question=question, context=retrieve(question))


dspy.configure(lm=make_lm("offline"))  # a language model: make_lm("anthropic/claude-sonnet-4-5")
memory = MemoryStore()  # MemoryStore("sqlite:///memory.db") keeps it
memory.save_profile("ann", "Ann takes the train wherever one goes.")
memory.save_profile("bob", "Bob goes everywhere by bicycle.")

rag = personalize(RAG(), memory)
for user in ("ann", "bob"):
    prediction = rag.for_user(user)(question="How do I get to the coast? [train, bicycle]")
    print(f"{user}: {prediction.answer}")
