"""Test-time scaling (the paper's section 3.5): accuracy over batch size n, iterations E and memories K.

python experiments/scale.py                  the sample users and the offline reader: no key, no network
python experiments/scale.py --help           everything else
"""

from __future__ import annotations

from personaagent.experiments.harness import command  # first: it sets the environment

from personaagent.experiments.harness.options import application  # isort: skip

app = application("scale", __doc__, batch_sizes="0,1,3,5", iterations="1,2,3,4,5", memories="0,1,4,8")

if __name__ == "__main__":
    command.main(app)
