"""Yesterday's logs become a persona: recorded into memory, aligned on the latest 3, saved, and what changed printed.

Run: `python align_from_logs.py`. It leaves logs.jsonl and memory.db. Offline; its LM is the offline reader, which is
not a language model.
"""

import difflib
import json
from pathlib import Path

import dspy

from personaagent.optimizers import PersonaAlignment
from personaagent.programs import Interaction, MemoryStore, PersonaAgent, make_lm

QUESTION = "Which genre? [sci-fi, comedy, classic] "
Path("logs.jsonl").write_text("""\
{"at": "2026-03-01T09:10", "user": "ann", "film": "A robot wakes on a dead moon.", "genre": "classic"}
{"at": "2026-03-01T12:30", "user": "ann", "film": "Two strangers share a taxi.", "genre": "comedy"}
{"at": "2026-03-01T18:05", "user": "ann", "film": "A probe finds a city under ice.", "genre": "classic"}
{"at": "2026-03-01T21:40", "user": "ann", "film": "The last radio station plays on.", "genre": "classic"}
""")  # in earnest your application wrote it

dspy.configure(lm=make_lm("offline"))  # a language model: make_lm("anthropic/claude-sonnet-4-5")
memory = MemoryStore("sqlite:///memory.db")
events = [json.loads(line) for line in Path("logs.jsonl").read_text().splitlines()]
# With an id of their own the same logs, read again, record nothing twice.
memory.add(Interaction(e["user"], e["at"], QUESTION + e["film"], e["genre"], timestamp=e["at"]) for e in events)

ann = PersonaAgent("query -> response", memory=memory).for_user("ann")
trainset = [interaction.to_example() for interaction in memory.interactions("ann")]
aligned = PersonaAlignment(batch_size=3).compile(ann, trainset=trainset)
memory.save_persona("ann", aligned.persona)  # for_user("ann") finds it from now on
print(f"{memory.count('ann')} events recorded; persona version {ann.persona.version} -> {aligned.persona.version}")
changes = difflib.ndiff(ann.persona.text.splitlines(), aligned.persona.text.splitlines())
print(*(line for line in changes if line[0] in "+-"), sep="\n")
memory.close()
