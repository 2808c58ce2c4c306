"""Users with short histories (the paper's Table 6): the score over how many interactions are known.

python experiments/cold_start.py             the sample users and the offline reader: no key, no network
python experiments/cold_start.py --histories 1,2,5,10,20,50,all    the whole curve
python experiments/cold_start.py --study paper-cold-start --data FOLDER    the paper's own study, with a key
python experiments/cold_start.py --help      everything else
"""

from __future__ import annotations

from personaagent.experiments.harness import command  # first: it sets the environment

from personaagent.experiments.harness.options import application  # isort: skip

app = application(
    "cold_start", __doc__, methods="pag,react,memory-bank,persona-agent", histories="10", users_by="random"
)

if __name__ == "__main__":
    command.main(app)
