"""Scripts of ``tools`` as processes."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run_tool(name, *arguments, **environment):
    """Run a script and return its exit code and what it prints."""
    return subprocess.run(
        [sys.executable, str(ROOT / "tools" / name), *arguments],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )
