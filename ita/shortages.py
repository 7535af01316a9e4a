"""What a machine can run out of, recognized by the errors of PyTorch, Python and the system."""

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum

from ita.errors import UserError


class Shortage(Enum):
    """What is used up; the value describes it and says what to do, but for memory."""

    MEMORY = "out of memory"
    SHARED_MEMORY = (
        "/dev/shm is too small for the data loader workers; start the container with "  # noqa: S108
        "--shm-size 8g or --ipc host, or set DATALOADER.NUM_WORKERS 0"
    )
    WORKER = (
        "a data loader worker was killed, as the system does when main memory is full; lower "
        "DATALOADER.NUM_WORKERS"
    )
    FILES = "too many open files; raise the limit (ulimit -n 65536) or lower DATALOADER.NUM_WORKERS"
    DISK = "the disk is full; make space (df -h, df -i, quota)"


_WORKER_TEXTS = ("is killed by signal", "exited unexpectedly")
_FILES_TEXTS = ("too many open files", "items of ancdata")
_SHARED_TEXTS = ("shared memory", "(shm)", "bytes from file </torch")
_MEMORY_TEXTS = (
    "can't allocate memory",
    "not enough memory: you tried to allocate",
    "cannot allocate memory",
    "out of memory",
    "std::bad_alloc",
    "_status_alloc_failed",  # of cuBLAS and cuDNN
)
_DISK_TEXTS = ("no space left on device", "disk quota exceeded")
_NUMBERS = {
    errno.ENOMEM: Shortage.MEMORY,
    errno.EMFILE: Shortage.FILES,
    errno.ENFILE: Shortage.FILES,
    errno.ENOSPC: Shortage.DISK,
    errno.EDQUOT: Shortage.DISK,
}


def shortage_of(error: BaseException) -> Shortage | None:
    """Return what the machine has run out of, according to an error; None for other errors."""
    # torch.OutOfMemoryError is a RuntimeError.
    if not isinstance(error, RuntimeError | OSError | MemoryError):
        return None
    text = str(error).lower()

    def has(parts: tuple[str, ...]) -> bool:
        return any(part in text for part in parts)

    if "dataloader worker" in text and has(_WORKER_TEXTS):
        return Shortage.SHARED_MEMORY if "bus error" in text else Shortage.WORKER
    if has(_FILES_TEXTS):
        return Shortage.FILES
    if has(_SHARED_TEXTS):
        return Shortage.SHARED_MEMORY
    if isinstance(error, MemoryError) or has(_MEMORY_TEXTS):
        return Shortage.MEMORY
    if has(_DISK_TEXTS):
        return Shortage.DISK
    return _NUMBERS.get(error.errno or 0) if isinstance(error, OSError) else None


def explain(error: BaseException, less_memory: str = "") -> str:
    """Describe, in one line, what the machine has run out of and what to do; "" for other errors.

    Args:
        error: any error.
        less_memory: what to do to take less memory.
    """
    shortage = shortage_of(error)
    if shortage is None:
        return ""
    text = shortage.value
    if shortage in (Shortage.MEMORY, Shortage.DISK):
        text = f"{text} ({_sentence(error)})"
    return f"{text}; {less_memory}" if shortage is Shortage.MEMORY and less_memory else text


@contextmanager
def explained(less_memory: str, subject: str = "") -> Iterator[None]:
    """Turn an error inside the block into a line, if the machine has run out of something.

    Args:
        less_memory: what to do to take less memory.
        subject: what the error is about, such as a file.

    Raises:
        UserError: it has.
    """
    try:
        yield
    except (RuntimeError, OSError, MemoryError) as error:
        if not (lack := explain(error, less_memory)):
            raise
        raise UserError(f"{subject}: {lack}" if subject else lack) from error


def _sentence(error: BaseException) -> str:
    """The sentence of an error that matters; the rest may be pages of advice."""
    sentences = re.split(r"\. |\n|\] ", str(error)) if str(error) else [type(error).__name__]
    texts = (*_MEMORY_TEXTS, *_DISK_TEXTS)
    matching = (s for s in sentences if any(text in s.lower() for text in texts))
    return next(matching, sentences[0])[:200]
