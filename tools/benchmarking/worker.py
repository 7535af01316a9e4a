"""A measuring process: prepares one work, then runs it on request.

It is started by benchmarking/children.py with the settings as JSON in its argument. It answers each
line of its input, "time VARIANT" or "memory", by one line of JSON.
"""

import ctypes
import gc
import json
import logging
import os
import resource
import sys
import time
from argparse import Namespace
from collections.abc import Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from pathlib import Path
from typing import Any, TextIO

from benchmarking import works
from ita.errors import UserError

# Bytes per unit of ``ru_maxrss``.
_MEMORY_UNIT = 1 if sys.platform == "darwin" else 1024


def main(argument: str) -> int:
    """Answer requests until the input ends."""
    # Among others a warning that random weights of CLIP carry no meaning.
    logging.getLogger("ita").setLevel(logging.ERROR)
    with answers() as stream:
        try:
            serve(Namespace(**json.loads(argument)), sys.stdin, stream)
        except UserError as error:
            answer(stream, {"error": str(error), "of_user": True})
            return 1
        except Exception as error:
            text = str(error).partition("\n")[0]
            answer(stream, {"error": f"{type(error).__name__}: {text}", "of_user": False})
            return 1
    return 0


@contextmanager
def answers() -> Iterator[TextIO]:
    """Yield the standard output; what libraries print goes to the standard error instead."""
    with os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8") as stream:
        os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
        yield stream


def answer(stream: TextIO, content: Mapping[str, Any]) -> None:
    stream.write(json.dumps(content) + "\n")
    stream.flush()


def serve(settings: Namespace, requests: Iterable[str], stream: TextIO) -> None:
    """Prepare the work of the settings and answer requests."""
    if settings.threads is not None and settings.work != "start":
        import torch

        torch.set_num_threads(settings.threads)
    prepared: works.Work = getattr(works, settings.work)(settings)
    memory = Memory(prepared)
    facts = {"machine": describe_machine(prepared), "amounts": dict(prepared.amounts)}
    answer(stream, {**facts, "package": package_folder()})
    for line in requests:
        request, _, variant = line.strip().partition(" ")
        if request == "memory":
            answer(stream, memory.report())
            continue
        with operators(variant):
            answer(stream, {"seconds": time_pass(prepared)})


def operators(variant: str) -> AbstractContextManager:
    """Context that selects the operators of a variant."""
    if variant != "plain":
        return nullcontext()
    from ita.modeling.ops.plain import plain_operators

    return plain_operators()


def time_pass(work: works.Work) -> float:
    """Seconds of a pass, to its end on the device."""
    gc.collect()
    start = time.perf_counter()
    work.run()
    synchronize(work.device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device.startswith("cuda"):
        import torch

        torch.cuda.synchronize(device)


class Memory:
    """Peak memory from now on, in bytes: of the GPU if the work runs there, else resident.

    On Linux, memory that setup has freed is given back and the process's peak is reset first, since
    loading a model may need more memory than running it.
    """

    def __init__(self, work: works.Work) -> None:
        self._work = work
        self._cuda = work.device.startswith("cuda")
        gc.collect()
        if self._cuda:
            import torch

            torch.cuda.reset_peak_memory_stats(work.device)
            self._before = torch.cuda.memory_allocated(work.device)
            return
        with suppress(OSError, AttributeError):  # other systems, and C libraries
            ctypes.CDLL(None).malloc_trim(0)
            Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")
        self._before = _status("VmRSS") or self._peak()

    def report(self) -> dict[str, int]:
        """Return ``peak`` and, for a work of this process, ``above`` what there was before."""
        peak = self._peak()
        return {"peak": peak} if self._work.in_children else self._both(peak)

    def _both(self, peak: int) -> dict[str, int]:
        return {"peak": peak, "above": max(0, peak - self._before)}

    def _peak(self) -> int:
        if self._cuda:
            import torch

            return torch.cuda.max_memory_allocated(self._work.device)
        if self._work.in_children:
            return resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * _MEMORY_UNIT
        own = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MEMORY_UNIT
        return _status("VmHWM") or own


def _status(key: str) -> int | None:
    """Bytes of an entry of /proc/self/status; None where there is none."""
    try:
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith(f"{key}:")]
    return int(found[0]) * 1024 if found else None


def describe_machine(work: works.Work) -> dict[str, Any]:
    """Describe what the figures depend on, except for ``start`` without importing PyTorch."""
    from benchmarking.machine import describe

    return describe(work.device, with_torch=not work.in_children)


def package_folder() -> str:
    """Folder of the measured package."""
    import ita

    return str(Path(ita.__file__).resolve().parent)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
