"""Tokens as they come: `dspy.streamify` of a personalised program, with new listeners for each request.

Run: `python stream_tokens.py`. Offline; its LM is the offline reader, which is not a language model and thinks before
it speaks; an LM at an endpoint, one of make_lm's or of DSPy's own, is shown while it writes.
"""

import dspy
from dspy.streaming import StreamListener, StreamResponse

from personaagent.programs import MemoryStore, make_lm, personalize

dspy.configure(lm=make_lm("offline"))  # a language model: make_lm("anthropic/claude-sonnet-4-5")
memory = MemoryStore()  # MemoryStore("sqlite:///memory.db") keeps it
memory.save_profile("ann", "Ann reads every story about robots as a classic.")
ann = personalize(dspy.ChainOfThought("film -> genre"), memory).for_user("ann")


def streamed(program: dspy.Module):
    """For one request: a listener keeps its place, and one that has served shows nothing more."""
    listeners = [StreamListener("reasoning"), StreamListener("genre")]  # the fields to be shown
    return dspy.streamify(program, stream_listeners=listeners, async_streaming=False)


tokens = 0
for value in streamed(ann)(film="Which genre? [sci-fi, comedy, classic] A robot wakes on a dead moon."):
    if isinstance(value, StreamResponse):
        tokens += bool(value.chunk)
        print(value.chunk, end="\n" if value.is_last_chunk else "", flush=True)
    elif isinstance(value, dspy.Prediction):  # the last
        print(f"{tokens} tokens were shown, LM calls: {value.lm_calls}; the genre is {value.genre}")
