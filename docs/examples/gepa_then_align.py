"""GEPA for the task, then alignment for the user: what is learnt of all stays when one user's persona is rewritten.

Run: `python gepa_then_align.py`. Offline; its LM is the offline reader, which is not a language model and does not
read instructions: no proposal of GEPA's can be better. Its log, on standard error, says what it tried.
"""

import dspy
from dspy.utils import DummyLM

from personaagent.optimizers import PersonaAlignment
from personaagent.programs import MemoryStore, make_lm, personalize

dspy.configure(lm=make_lm("offline"))  # a language model: make_lm("anthropic/claude-sonnet-4-5")
# Scripted here, elsewhere another make_lm(...). GEPA's proposer asks for JSON.
reflection = DummyLM([{"new_instruction": "Name the genre of the story."}] * 9, adapter=dspy.JSONAdapter())

FILMS = {"A robot wakes on a dead moon.": "sci-fi", "Nobody laughs at the wedding.": "drama"}
QUESTION = "Which genre? [sci-fi, comedy, drama, classic] "
task = [dspy.Example(film=QUESTION + film, genre=genre).with_inputs("film") for film, genre in FILMS.items()]


def metric(gold, pred, trace=None, pred_name=None, pred_trace=None):
    return dspy.Prediction(score=float(pred.genre == gold.genre), feedback=f"It is {gold.genre}.")


gepa = dspy.GEPA(metric, max_metric_calls=12, reflection_lm=reflection, num_threads=1, track_stats=True)
tuned = gepa.compile(dspy.ChainOfThought("film -> genre"), trainset=task, valset=task)
tried = tuned.detailed_results
print(f"GEPA: {tried.total_metric_calls} calls of the metric, best score {max(tried.val_aggregate_scores):.2f}")
print(f"instructions kept: {tuned.predict.signature.instructions!r}")

ann = personalize(tuned, MemoryStore()).for_user("ann")
for film in ("A probe finds a city under ice.", "A robot learns to sing.", "A moon base falls silent."):
    ann.record(QUESTION + film, "classic", id=film)
trainset = [interaction.to_example("film", "genre") for interaction in ann.interactions()]
aligned = PersonaAlignment(batch_size=3).compile(ann, trainset=trainset)
for name, program in (("everyone", tuned), ("ann", aligned)):
    print(f"{name}: {program(film=task[0].film).genre}")
