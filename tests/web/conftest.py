"""The toy model, a scene that it knows as a file, and the page's server in a process."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

import ita
from ita.toy.names import SEEN_THINGS, STUFF
from ita.toy.scenes import draw_scene


@pytest.fixture(scope="package")
def toy():
    return ita.load(precision="float32")


@pytest.fixture(scope="package")
def scene(tmp_path_factory):
    """Path of a scene, the names of what it shows, and the mask of each."""
    drawn = draw_scene(np.random.default_rng(12), 240, 320, SEEN_THINGS, STUFF)
    path = tmp_path_factory.mktemp("scene") / "my scene.png"
    Image.fromarray(drawn.image).save(path)
    return path, {segment.name: segment.mask for segment in drawn.segments}


@pytest.fixture(scope="package")
def server(tmp_path_factory):
    """Address of the page, with low limits and one visitor's image kept.

    In the end, Ctrl-C ends its process with success, and its files are gone.
    """
    folder = tmp_path_factory.mktemp("server")
    command = [sys.executable, "-m", "ita", "web", "--port", "0", "--max-sessions", "1"]
    command += ["--max-megabytes", "1", "--max-megapixels", "1", "--max-names", "150"]
    environment = {**os.environ, "TMPDIR": str(folder)}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
    line = process.stdout.readline()
    found = re.fullmatch(r"the page is at (http://127\.0\.0\.1:\d+) \(stop: Ctrl-C\)\n", line)
    assert found, line
    assert any(folder.glob("ita_web_*"))
    yield found.group(1)
    process.send_signal(signal.SIGINT)
    assert process.wait(timeout=60) == 0
    assert not any(folder.glob("ita_web_*"))
