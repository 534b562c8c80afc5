"""The first example, run as a reader would."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
EXAMPLE = ROOT / "examples" / "quickstart.py"


def test_it_shows_what_was_committed_and_nothing_else(monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    done = subprocess.run([sys.executable, EXAMPLE], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.strip() for line in done.stdout.splitlines() if line.startswith(" ")] == [
        "heard in the other process: ship to Ada",
        "heard in the other process: ship to Grace",
    ]
