"""Running a command on a pseudo-terminal, as from a shell."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

ROWS, COLUMNS = 40, 160
REPOSITORY = Path(__file__).resolve().parents[1]


def run_on_terminal(*arguments, **environment):
    """Run Python with the arguments on a terminal.

    Returns:
        The exit code, and all that was written to the terminal.
    """
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, COLUMNS, 0, 0))
    process = subprocess.Popen(
        [sys.executable, *arguments],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
    )
    os.close(theirs)
    with os.fdopen(ours, "rb", buffering=0) as terminal:
        output = _read(terminal)
    return process.wait(), output


def _read(terminal):
    chunks = []
    try:
        while chunk := terminal.read(1 << 16):
            chunks.append(chunk)
    except OSError:  # how Linux reports that the other side is closed
        pass
    return b"".join(chunks).decode()


def lines_of(output):
    """The lines written to a terminal: those that end, not the states of a bar."""
    plain = re.sub(r"\x1b\[[0-9;]*[A-Za-z]", "", output)
    return [line.rpartition("\r")[2] for line in plain.replace("\r\n", "\n").split("\n")]
