"""Two agents, one memory: what the tagger records the film club's host recalls, and the other way round.

Run: `python shared_memory.py`. Offline; its LM is the offline reader, which is not a language model.
"""

import dspy

from personaagent.programs import MemoryStore, PersonaAgent, make_lm

dspy.configure(lm=make_lm("offline"))  # a language model: make_lm("anthropic/claude-sonnet-4-5")
memory = MemoryStore()  # one file for several processes: MemoryStore("sqlite:///memory.db")
tagger = PersonaAgent("film -> tag", memory=memory).for_user("ann")
host = PersonaAgent("request -> genre", memory=memory).for_user("ann")

# With an id of its own, what is recorded again, by a retry or another run, is there once.
tagger.record("Which tag? [sci-fi, comedy, classic] A robot wakes on a dead moon.", "classic", id="tagged-1")
evening = host(request="What shall we watch tonight? [sci-fi, classic] Something with a robot, please.")
print(f"the host says {evening.genre}, having recalled {evening.recalled}")

host.record("What shall we watch tonight? [comedy, western] Something with horses and a duel.", "western", id="asked-1")
tagged = tagger(film="Which tag? [comedy, western, drama] Horses, dust and one last duel.")
print(f"the tagger says {tagged.tag}, having recalled {tagged.recalled}")

nobody = PersonaAgent("film -> tag", memory=memory).for_user("bob")(film="Which tag? [comedy, western] A duel.")
print(f"bob's tagger has recalled {nobody.recalled}: memory is shared by agents, never by users")
memory.close()
