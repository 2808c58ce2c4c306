"""Many users in one `dspy.Evaluate`, in threads: the user's id is an input of `Served`, and each call's cost is known.

Run: `python many_users.py`. Offline; its LM is the offline reader, which is not a language model.
"""

import dspy

from personaagent.programs import Interaction, MemoryStore, PersonaAgent, Served, make_lm

dspy.configure(lm=make_lm("offline"), track_usage=True)  # a language model: make_lm("anthropic/claude-sonnet-4-5")
GENRES = ("sci-fi", "comedy", "classic")
QUESTION = f"Which genre? [{', '.join(GENRES)}] "

memory = MemoryStore()  # MemoryStore("sqlite:///memory.db") keeps it
devset = []
for number in range(12):  # each user calls films with robots by a genre of their own
    user, genre = f"user-{number}", GENRES[number % 3]
    memory.add([Interaction(user, "1", QUESTION + "A robot wakes on a dead moon.", genre)])
    example = dspy.Example(user_id=user, query=QUESTION + "A robot wakes in a city under ice.", response=genre)
    devset.append(example.with_inputs("user_id", "query"))


def right(example, prediction, trace=None):
    return example.response == prediction.response


served = Served(PersonaAgent("query -> response", memory=memory))  # it leaves nothing in DSPy's trace and histories
result = dspy.Evaluate(devset=devset, metric=right, num_threads=4, display_progress=False)(served)
answered = [prediction for _, prediction, _ in result.results if "response" in prediction]  # one that failed is empty
used = [sum(lm["prompt_tokens"] for lm in prediction.get_lm_usage().values()) for prediction in answered]
print(f"{len(answered)} of {len(devset)} users answered, score {result.score:.0f}")
print(f"{sum(p.lm_calls for p in answered)} LM calls, {sum(used)} prompt tokens; the dearest user: {max(used)}")
