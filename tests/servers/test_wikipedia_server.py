"""The MediaWiki in miniature itself: by hand, and what it draws."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

from servers.wikipedia import FAULTS, WikipediaServer

from personaagent.programs.tools.wikipedia import Wikipedia

ROOT = Path(__file__).parents[2]


def test_the_server_can_be_run_by_hand() -> None:
    command = [sys.executable, "-m", "tests.servers.wikipedia", "--scenario", "mixed", "--rate", "0.5", "--seed", "1"]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            tool = Wikipedia(url=process.stdout.readline().strip(), timeout_seconds=0.5, failures_to_open=100)
            answers = [tool(f"Topic {number}") for number in range(20)]
            process.send_signal(signal.SIGINT)
            total, *counts = process.stdout.read().splitlines()
        finally:
            process.kill()
    assert 0 < sum("not available" in answer for answer in answers) < 20
    assert total == f"{tool.requests_sent} requests"
    assert sum(int(line.rpartition(" ")[2]) for line in counts) == tool.requests_sent
    assert any(line.startswith("  ok: ") for line in counts) and len(counts) > 3


def test_what_the_server_draws_depends_on_the_seed_and_not_on_the_order() -> None:
    def drawn(seed: int, order: range) -> dict[int, list[str]]:
        server = WikipediaServer("mixed", rate=0.2, seed=seed)
        return {n: [server.arrived({"titles": f"Topic {n}"}) for _ in range(3)] for n in order}

    first = drawn(1, range(200))
    assert drawn(1, range(199, -1, -1)) == first != drawn(2, range(200))
    faults = [name for names in first.values() for name in names if name != "ok"]
    assert 0.15 < len(faults) / 600 < 0.25
    assert set(faults) <= set(FAULTS) and len(set(faults)) > 8
