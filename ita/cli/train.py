"""Train a model on DATASETS.TRAIN, evaluate it on DATASETS.TEST, or resume its training.

ita train --num-gpus 8 --config-file configs/coco/semantic-segmentation/ita/ita_convnext_large_eval_ade20k.yaml
ita train --num-gpus 8 --config-file ... --dry-run
ita train --num-gpus 8 --config-file ... --resume
ita train --config-file ... --eval-only MODEL.WEIGHTS model.pth
ita train --num-gpus 8 --num-machines 2 --config-file ... --submit slurm --partition gpu --time 1440
"""  # noqa: E501

import argparse
import os
import sys
from functools import partial
from pathlib import Path

from ita.cli.types import key_and_value, positive_int

# Default port, which differs between the users of a machine, as in Detectron2.
_FIRST_PORT, _PORTS = 2**15 + 2**14, 2**14
# Half an hour, as in Detectron2: longer than the first process computes the metrics of a large set.
_TIMEOUT = 1800


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of Detectron2's training scripts, and ``--vocabulary``."""
    add_run_arguments(parser)
    former = parser.add_mutually_exclusive_group()
    former.add_argument("--resume", action="store_true", help="resume from the last checkpoint")
    former.add_argument(
        "--overwrite",
        action="store_true",
        help="train anew in an OUTPUT_DIR that has a run, and remove its checkpoints and results",
    )
    instead = parser.add_mutually_exclusive_group()
    instead.add_argument("--eval-only", action="store_true", help="only evaluate MODEL.WEIGHTS")
    instead.add_argument(
        "--dry-run",
        action="store_true",
        help="only load ten batches, do a few steps and evaluate a few images; tell memory, speed "
        "and expected days, and write nothing",
    )
    add_submission_arguments(parser)
    parser.set_defaults(run=run_or_submit)


def add_submission_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for jobs of a cluster."""
    add = parser.add_argument
    add(
        "--submit",
        choices=("slurm", "local"),
        help="submit the training with submitit instead of running it: to SLURM or, to try it, on "
        "this machine; it is queued again and resumed when it reaches its time limit",
    )
    add("--partition", default="", help="partition of SLURM (default: the cluster's)")
    add(
        "--time",
        type=positive_int,
        default=1440,
        metavar="MINUTES",
        help="time limit of a submitted job (default: %(default)s)",
    )
    add(
        "--slurm",
        type=key_and_value,
        action="append",
        default=[],
        metavar="OPTION=VALUE",
        help="other option of sbatch, such as account=vision; may be repeated",
    )


def add_run_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments that training and evaluation share."""
    add = parser.add_argument
    add("--config-file", default="", metavar="FILE", help="YAML config; see configs/")
    add_launch_arguments(parser)
    add(
        "--vocabulary",
        action="append",
        metavar="FILE",
        help="class list to evaluate with, instead of DATASETS.TEST_VOCABULARY; "
        "give it once for all of DATASETS.TEST, or once for each",
    )
    add_overrides(parser)


def add_launch_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments for the processes of a job."""
    add = parser.add_argument
    add("--num-gpus", type=int, default=1, help="processes per machine (default: %(default)s)")
    add("--num-machines", type=int, default=1, help="number of machines (default: %(default)s)")
    add("--machine-rank", type=int, default=0, help="rank of this machine, from 0")
    user = os.getuid() if hasattr(os, "getuid") else 1
    add(
        "--dist-url",
        default=f"tcp://127.0.0.1:{_FIRST_PORT + user % _PORTS}",
        help="address of the job's first process, or auto (default: %(default)s)",
    )
    add(
        "--timeout",
        type=positive_int,
        default=_TIMEOUT,
        metavar="SECONDS",
        help="end the job if a process waits so long for another one (default: %(default)s)",
    )


def add_overrides(parser: argparse.ArgumentParser) -> None:
    """Add the KEY VALUE pairs that end a command line."""
    parser.add_argument(
        "opts", nargs=argparse.REMAINDER, metavar="KEY VALUE", help="config overrides, at the end"
    )


def run(options: argparse.Namespace) -> int:
    """Launch the processes of the job."""
    from ita.engine.job import config_of, run_job
    from ita.engine.launch import errors_in_one_line, launch

    warnings: list[str] = []
    with errors_in_one_line() as failures:
        cfg = config_of(options, warnings.append)
        return launch(partial(run_job, warnings=warnings), cfg, options, failures)


def run_or_submit(options: argparse.Namespace) -> int:
    """Launch the processes of the job or, with ``--submit``, submit it."""
    return _submit(options) if options.submit else run(options)


def _submit(options: argparse.Namespace) -> int:
    """Check the config and submit the job; wait for its end if it runs on this machine."""
    from ita.engine.job import config_of
    from ita.submission import LOCAL, Resources, submit

    cfg = config_of(options)
    resources = Resources(
        machines=options.num_machines,
        processes=options.num_gpus,
        on_gpu=cfg.MODEL.DEVICE.startswith("cuda"),
        cores=cfg.DATALOADER.NUM_WORKERS + 1,
        minutes=options.time,
        partition=options.partition,
        others=dict(options.slurm),
    )
    logs = Path(cfg.OUTPUT_DIR, "submitit").absolute()
    job = submit(options.submit, _words(options), logs, resources)
    sys.stdout.write(f"submitted job {job.job_id}; log: {job.paths.stdout}\n")
    if options.submit == LOCAL:
        job.wait()
        return 0 if job.exception() is None else 1
    return 0


def _words(options: argparse.Namespace) -> list[str]:
    """Command line of each process of a submitted job."""
    words = ["--config-file", options.config_file, "--timeout", str(options.timeout)]
    for path in options.vocabulary or ():
        words += ["--vocabulary", path]
    for flag in ("resume", "overwrite", "eval_only", "dry_run"):
        words += [f"--{flag.replace('_', '-')}"] if getattr(options, flag) else []
    return words + options.opts
