"""PersonaAgent with a part taken away (the paper's Table 3), and the two memories each alone.

python experiments/ablate.py                 the sample users and the offline reader: no key, no network
python experiments/ablate.py --study paper-ablation --data FOLDER    the paper's own study, with a key
python experiments/ablate.py --help          everything else
"""

from __future__ import annotations

from personaagent.experiments.harness import command  # first: it sets the environment

from personaagent.experiments.harness.options import application  # isort: skip

app = application("ablate", __doc__, methods="ablation")

if __name__ == "__main__":
    command.main(app)
