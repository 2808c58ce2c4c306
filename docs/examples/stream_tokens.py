"""Tokens as they come: `dspy.streamify` of a personalised program, with make_lm's LMs as with DSPy's own.

Run: `python stream_tokens.py`. Offline; its LM is the offline reader, which is not a language model and thinks before
it speaks; an LM at an endpoint is shown while it writes.
"""

import dspy
from dspy.streaming import StreamListener, StreamResponse

from personaagent.programs import MemoryStore, make_lm, personalize

dspy.configure(lm=make_lm("offline"))  # a language model: make_lm("anthropic/claude-sonnet-4-5")
memory = MemoryStore()  # MemoryStore("sqlite:///memory.db") keeps it
memory.save_profile("ann", "Ann reads every story about robots as a classic.")
ann = personalize(dspy.ChainOfThought("film -> genre"), memory).for_user("ann")

listeners = [StreamListener("reasoning"), StreamListener("genre")]  # the fields to be shown
stream = dspy.streamify(ann, stream_listeners=listeners, async_streaming=False)
tokens = 0
for value in stream(film="Which genre? [sci-fi, comedy, classic] A robot wakes on a dead moon."):
    if isinstance(value, StreamResponse):
        tokens += bool(value.chunk)
        print(value.chunk, end="\n" if value.is_last_chunk else "", flush=True)
    elif isinstance(value, dspy.Prediction):  # the last
        print(f"{tokens} tokens were shown of {value.lm_calls} LM call; the genre is {value.genre}")
