"""The methods held against each other (the paper's Tables 2 and 4), with what can be told apart.

python experiments/compare.py                the sample users and the offline reader: no key, no network
python experiments/compare.py --study paper --data FOLDER    the paper's own study, with a key
python experiments/compare.py --help         everything else
"""

from __future__ import annotations

from personaagent.experiments.harness import command  # first: it sets the environment

from personaagent.experiments.harness.options import application  # isort: skip

app = application("compare", __doc__, methods="all")

if __name__ == "__main__":
    command.main(app)
