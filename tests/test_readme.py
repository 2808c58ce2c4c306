"""The README's library example runs as it is printed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).parents[1] / "README.md"


def test_the_quickstart_runs_and_prints_what_the_readme_says(tmp_path: Path) -> None:
    [code] = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), re.DOTALL)
    assert len(code.strip().splitlines()) == 12
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == "classic"
    assert (tmp_path / "alice.json").is_file()


def test_every_option_of_the_readme_exists() -> None:
    options = set(re.findall(r"--[a-z][a-z-]+", README.read_text(encoding="utf-8")))
    script = README.parent / "experiments" / "scale.py"
    run = subprocess.run([sys.executable, script, "--help"], capture_output=True, text=True, check=True)
    # Two of pip's are an environment variable's; all others are the script's own.
    assert options - {"--help"} <= set(re.findall(r"--[a-z][a-z-]+", run.stdout))
