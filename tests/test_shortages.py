import errno
import os
import resource
from functools import partial

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader, Dataset

from ita.cli import main
from ita.errors import UserError
from ita.predictor import Segmentation
from ita.shortages import Shortage, explain, explained, shortage_of

# As PyTorch says it.
CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:121] data. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate memory)"
)
GPU_MEMORY = (
    "CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of 79.11 GiB of "
    "which 5.06 MiB is free. See documentation for Memory Management"
)
SHARED = "unable to open shared memory object </torch_1_2_3> in read-write mode: "


@pytest.mark.parametrize(
    ("error", "expected"),
    [
        (torch.OutOfMemoryError(GPU_MEMORY), Shortage.MEMORY),
        (RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be"), Shortage.MEMORY),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling"), Shortage.MEMORY),
        (RuntimeError(CPU_MEMORY), Shortage.MEMORY),
        (MemoryError(), Shortage.MEMORY),
        (OSError(errno.ENOMEM, os.strerror(errno.ENOMEM)), Shortage.MEMORY),
        (RuntimeError(f"{SHARED}No space left on device (28)"), Shortage.SHARED_MEMORY),
        (RuntimeError(f"{SHARED}Too many open files (24)"), Shortage.FILES),
        (
            RuntimeError(
                "DataLoader worker (pid 7) is killed by signal: Bus error. It is possible that "
                "dataloader's workers are out of shared memory."
            ),
            Shortage.SHARED_MEMORY,
        ),
        (RuntimeError("DataLoader worker (pid 7) is killed by signal: Killed. "), Shortage.WORKER),
        (RuntimeError("DataLoader worker (pid(s) 7, 8) exited unexpectedly"), Shortage.WORKER),
        (RuntimeError("received 0 items of ancdata"), Shortage.FILES),
        (OSError(errno.EMFILE, os.strerror(errno.EMFILE)), Shortage.FILES),
        (OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.json"), Shortage.DISK),
        (OSError("Caught OSError in worker 0\n[Errno 28] No space left on device"), Shortage.DISK),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), None),
        (FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT)), None),
        (UserError("a line about too many open files"), None),
    ],
)
def test_errors_of_a_machine_that_has_run_out(error, expected):
    assert shortage_of(error) is expected
    text = explain(error, "take less")
    assert "\n" not in text
    assert len(text) < 250
    assert bool(text) == (expected is not None)
    assert ("take less" in text) == (expected is Shortage.MEMORY)


def test_the_sentence_that_matters_is_kept():
    allocated = "DefaultCPUAllocator: can't allocate memory: you tried to allocate 4000000000000"
    assert allocated in explain(RuntimeError(CPU_MEMORY))
    assert "(CUDA out of memory)" in explain(torch.OutOfMemoryError(GPU_MEMORY))
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "a.json")
    assert explain(full).endswith("(No space left on device: 'a.json')")


@pytest.mark.parametrize(
    "allocate",
    [
        lambda: torch.empty(1 << 50, dtype=torch.uint8),
        lambda: np.empty(1 << 60, dtype=np.uint8),
        lambda: bytearray(1 << 60),
    ],
    ids=["torch", "numpy", "python"],
)
def test_real_allocations_that_are_too_large(allocate):
    told = r"^photo\.jpg: out of memory .*; take less$"
    with pytest.raises(UserError, match=told) as caught, explained("take less", "photo.jpg"):
        allocate()
    assert caught.value.__cause__ is not None


class Deadly(Dataset):
    """Its workers are killed, as by the system."""

    def __len__(self):
        return 1

    def __getitem__(self, index):
        os.kill(os.getpid(), 9)


def test_a_worker_that_is_really_killed():
    with pytest.raises(RuntimeError) as caught:
        list(DataLoader(Deadly(), num_workers=1))
    assert shortage_of(caught.value) is Shortage.WORKER


def test_a_real_lack_of_file_handles():
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = []
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + 5, hard))
        with pytest.raises(OSError, match="Too many") as caught:
            files += map(partial(os.open, os.devnull), [os.O_RDONLY] * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in files:
            os.close(file)
    assert shortage_of(caught.value) is Shortage.FILES


def test_a_file_that_does_not_fit_into_memory_is_skipped(tmp_path, monkeypatch, capsys):
    """``ita segment`` names it and goes on with the next one."""
    for name in ("large.png", "small.png"):
        Image.new("RGB", (8, 8)).save(tmp_path / name)

    def load_model(options, classes):
        def segment(image):
            if images.append(image) or len(images) == 1:
                raise torch.OutOfMemoryError(GPU_MEMORY)
            return Segmentation(np.zeros((8, 8), np.int64), classes, image)

        return segment

    images = []
    monkeypatch.setattr("ita.cli.segment.load_model", load_model)
    words = ["segment", str(tmp_path / "*.png"), "--output", str(tmp_path / "out")]
    assert main([*words, "--classes", "cat"]) == 1
    error = capsys.readouterr().err.splitlines()[0]
    assert error.startswith(f"error: {tmp_path}/large.png: out of memory (CUDA out of memory); ")
    written = {path.name for path in (tmp_path / "out").iterdir()}
    assert written == {"classes.json", "small.png", "small_overlay.png", "small.json"}


def test_commands_say_it_in_one_line(monkeypatch, capsys):
    def allocate(options):
        torch.empty(1 << 50, dtype=torch.uint8)

    monkeypatch.setattr("ita.cli.convert.run", allocate)
    assert main(["convert", "in.pth", "out.pth"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: out of memory (")
