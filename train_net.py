"""Train, resume and evaluate ITA: ``python train_net.py --config-file FILE [KEY VALUE ...]``."""

import argparse
import logging
from collections.abc import Sequence

import ita.meta_arch  # noqa: F401  (registers the model with Detectron2)

# isort: split
import torch
from detectron2.config import CfgNode
from detectron2.engine import default_argument_parser
from detectron2.modeling import build_model

from ita.config import load_config
from ita.data import register_custom
from ita.engine.checkpoint import Checkpointer, broadcast_weights
from ita.engine.evaluate import evaluate, load_test_sets
from ita.engine.launch import errors_in_one_line, launch
from ita.engine.setup import RunLog, choose_device, describe_run, seed_process
from ita.engine.trainer import Trainer
from ita.errors import UserError

logger = logging.getLogger("ita.train_net")


def parse_arguments(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Detectron2's arguments, and ours."""
    parser = default_argument_parser()
    parser.add_argument(
        "--vocabulary",
        action="append",
        metavar="FILE",
        help="class list to evaluate with, instead of DATASETS.TEST_VOCABULARY; "
        "once for all of DATASETS.TEST, or once for each",
    )
    return parser.parse_args(arguments)


def config_of(args: argparse.Namespace) -> CfgNode:
    """The config that a command line stands for.

    Raises:
        UserError: the file or an override is wrong.
    """
    if not args.config_file:
        raise UserError("--config-file is missing; the configs are in configs/")
    late = [word for word in args.opts if word.startswith("--")]
    if late:
        raise UserError(f"{late[0]} comes too late; options stand before KEY VALUE pairs")
    overrides = list(args.opts)
    if args.vocabulary:
        overrides += ["DATASETS.TEST_VOCABULARY", repr(tuple(args.vocabulary))]
    return load_config(args.config_file, overrides)


def main(cfg: CfgNode, args: argparse.Namespace) -> None:
    """What each process of the job does."""
    log = RunLog()
    register_custom(cfg.DATASETS.CUSTOM)
    choose_device(cfg)
    describe_run(cfg, args)
    seed_process(cfg)
    if args.eval_only:
        evaluate_only(cfg, log, resume=args.resume)
    else:
        torch.backends.cudnn.benchmark = cfg.CUDNN_BENCHMARK
        trainer = Trainer(cfg)
        trainer.resume_or_load(resume=args.resume)
        log.open_folder(cfg)
        trainer.train()


def evaluate_only(cfg: CfgNode, log: RunLog, *, resume: bool) -> None:
    """Evaluate ``MODEL.WEIGHTS`` or, to resume, the last checkpoint of ``OUTPUT_DIR``."""
    test_sets = load_test_sets(cfg)
    if not test_sets:
        raise UserError("DATASETS.TEST is empty: there is nothing to evaluate")
    model = build_model(cfg).eval()
    checkpointer = Checkpointer(model, cfg.OUTPUT_DIR)
    if resume and checkpointer.has_checkpoint():
        cfg.MODEL.WEIGHTS = checkpointer.get_checkpoint_file()
    if not cfg.MODEL.WEIGHTS:
        logger.warning("MODEL.WEIGHTS is empty: what is evaluated are random weights")
    checkpointer.load(cfg.MODEL.WEIGHTS)
    broadcast_weights(model)
    log.open_folder(cfg)
    evaluate(cfg, model, test_sets)


if __name__ == "__main__":
    with errors_in_one_line():
        arguments = parse_arguments()
        launch(main, config_of(arguments), arguments)
