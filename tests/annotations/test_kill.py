"""A few kills at random moments; `scripts/kill_annotations.py` does a hundred."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "scripts" / "kill_annotations.py"


def test_what_was_acknowledged_survives_kill_9() -> None:
    done = subprocess.run([sys.executable, SCRIPT, "--kills", "4"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    counts = json.loads(done.stdout)
    assert (counts["kills"], counts["lost"]) == (4, 0)
