"""Setup of a run: log, device, seed and output folder."""

import logging
import platform
import shlex
import sys
import threading
from logging.handlers import MemoryHandler
from pathlib import Path

import detectron2
import torch
from detectron2.config import CfgNode
from detectron2.utils import comm
from detectron2.utils.env import seed_all_rng
from detectron2.utils.logger import setup_logger
from tqdm import tqdm

from ita.engine.run_outputs import PACKAGE_LOGGER, LogFile
from ita.errors import UserError
from ita.files import write_atomically
from ita.progress import ConsoleHandler

logger = logging.getLogger(__name__)

LOGGERS = ("detectron2", "fvcore", PACKAGE_LOGGER)
# Detectron2's messages on the storage of each data set in memory, of no use to users, and on the
# progress of an evaluation, which ``ita.engine.evaluate`` shows itself.
QUIET_LOGGERS = ("detectron2.data.common", "detectron2.evaluation.evaluator")


class RunLog:
    """Log of a run, on the terminal at first, and also in the run's folder once that is opened.

    Detectron2's ``default_setup`` writes to the folder before any input is checked. Here the folder
    is opened after data, model and checkpoint are loaded, so that a user error leaves no folder
    behind; the lines logged before are still written to ``log.txt``.
    """

    def __init__(self) -> None:
        # Only threads share the bars. The lock that tqdm makes for processes is a semaphore, which
        # Python's resource tracker reports as leaked if a worker ends with an error.
        tqdm.set_lock(threading.RLock())
        self._early = MemoryHandler(capacity=100_000, flushLevel=logging.CRITICAL + 1)
        for name in LOGGERS:
            log = setup_logger(distributed_rank=comm.get_rank(), name=name)
            # A log file is one of an earlier run in this process.
            kept = [handler for handler in log.handlers if not isinstance(handler, LogFile)]
            log.handlers = [_beside_bars(handler) for handler in kept]
            log.addHandler(self._early)
        for name in QUIET_LOGGERS:
            logging.getLogger(name).setLevel(logging.WARNING)

    def open_folder(self, cfg: CfgNode) -> None:
        """Create ``OUTPUT_DIR`` with ``log.txt`` and ``config.yaml``; called in every process.

        Raises:
            UserError: the folder cannot be written.
        """
        if comm.is_main_process():
            write_atomically(Path(cfg.OUTPUT_DIR, "config.yaml"), cfg.dump().encode())
        comm.synchronize()
        rank = comm.get_rank()
        file = LogFile(Path(cfg.OUTPUT_DIR, f"log.txt.rank{rank}" if rank else "log.txt"))
        for record in self._early.buffer:
            file.handle(record)
        self._early.buffer.clear()
        for name in LOGGERS:
            log = logging.getLogger(name)
            log.removeHandler(self._early)
            log.addHandler(file)
        logger.info("Command line: %s", shlex.join(sys.argv))
        path = Path(cfg.OUTPUT_DIR, "config.yaml")
        logger.info("Full config, with SEED %d: %s", cfg.SEED, path)


def _beside_bars(handler: logging.Handler) -> logging.Handler:
    """Return a handler that keeps lines and progress bars of a terminal apart."""
    if type(handler) is not logging.StreamHandler or handler.stream is not sys.stdout:
        return handler
    console = ConsoleHandler(handler.stream)
    console.setFormatter(handler.formatter)
    return console


def require_device(cfg: CfgNode) -> None:
    """Check, before a training, that the GPU which the config requests is there.

    Raises:
        UserError: no GPU is visible; on a CPU, training would take weeks without a notice.
    """
    if _lacks_gpu(cfg):
        raise UserError(
            f"no GPU is visible for MODEL.DEVICE {cfg.MODEL.DEVICE}; to train on the CPU, append: "
            "MODEL.DEVICE cpu"
        )


def choose_device(cfg: CfgNode) -> None:
    """Fall back to the CPU, in place, if the config requests a GPU and none is visible.

    Raises:
        UserError: the device is not there.
    """
    if _lacks_gpu(cfg):
        logger.warning("no GPU is visible: using cpu instead of MODEL.DEVICE %s", cfg.MODEL.DEVICE)
        cfg.MODEL.DEVICE = "cpu"
    device = torch.device(cfg.MODEL.DEVICE)
    gpus = torch.cuda.device_count()
    if device.type == "cuda" and device.index is not None and device.index >= gpus:
        raise UserError(
            f"MODEL.DEVICE is {device}; the GPUs that are visible are cuda:0 to cuda:{gpus - 1}"
        )
    if device.type == "mps" and not torch.backends.mps.is_available():
        raise UserError("MODEL.DEVICE is mps; there is no GPU of Apple; choose cpu")


def _lacks_gpu(cfg: CfgNode) -> bool:
    return cfg.MODEL.DEVICE.startswith("cuda") and not torch.cuda.is_available()


def best_device() -> str:
    """Name the kind of device that is likely the fastest: cuda, else mps (Apple GPU), else cpu."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"


def describe_run(cfg: CfgNode) -> None:
    """Log processes, device and versions."""
    device = "CPU"
    if cfg.MODEL.DEVICE.startswith("cuda"):
        device = torch.cuda.get_device_name()
    logger.info(
        "Process %d of %d on %s; Python %s, PyTorch %s, Detectron2 %s",
        comm.get_rank() + 1,
        comm.get_world_size(),
        device,
        platform.python_version(),
        torch.__version__,
        detectron2.__version__,
    )


def choose_seed(cfg: CfgNode) -> None:
    """Replace a negative ``SEED``, in place, by one drawn for all processes.

    The run's config then reproduces the run.
    """
    if cfg.SEED < 0:
        cfg.SEED = comm.shared_random_seed()


def seed_process(cfg: CfgNode) -> None:
    """Seed all random number generators of this process from ``SEED``, differently per rank.

    Initial weights follow from it; a training seeds its images and steps for themselves.

    Args:
        cfg: config with ``SEED``; a negative seed draws different numbers in every run.
    """
    seed_all_rng(None if cfg.SEED < 0 else cfg.SEED + comm.get_rank())
