"""Validation of a config: the range of each key, and what keys demand of each other."""

from detectron2.config import CfgNode

from ita.config.keys import KEYS, get_value
from ita.errors import UserError, shown


def validate_config(cfg: CfgNode) -> None:
    """Validate values that would otherwise fail late or be silently misused.

    Raises:
        UserError: a value is invalid; the message names the key, its value and the allowed values.
    """
    for key in KEYS.values():
        value = get_value(cfg, key.name)
        if value not in key.range:
            raise UserError(f"{key.name} is {shown(value)}; it must be {key.range}")
    _check_batch(cfg)
    _check_widths(cfg)
    _check_points(cfg)
    _check_schedule(cfg)
    _check_data(cfg)


def _check_batch(cfg: CfgNode) -> None:
    steps = cfg.SOLVER.GRADIENT_ACCUMULATION_STEPS
    if cfg.SOLVER.IMS_PER_BATCH % steps:
        raise UserError(
            f"SOLVER.IMS_PER_BATCH ({cfg.SOLVER.IMS_PER_BATCH}) must be a multiple of "
            f"SOLVER.GRADIENT_ACCUMULATION_STEPS ({steps})"
        )


def _check_widths(cfg: CfgNode) -> None:
    heads, hidden_dim = cfg.MODEL.MASK_FORMER.NHEADS, cfg.MODEL.MASK_FORMER.HIDDEN_DIM
    convs_dim = cfg.MODEL.SEM_SEG_HEAD.CONVS_DIM
    if hidden_dim % heads or convs_dim % heads:
        raise UserError(
            f"MODEL.MASK_FORMER.NHEADS ({heads}) must divide MODEL.MASK_FORMER.HIDDEN_DIM "
            f"({hidden_dim}) and MODEL.SEM_SEG_HEAD.CONVS_DIM ({convs_dim})"
        )


def _check_points(cfg: CfgNode) -> None:
    chosen, candidates = (
        cfg.MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO,
        cfg.MODEL.MASK_FORMER.OVERSAMPLE_RATIO,
    )
    if chosen > candidates:
        raise UserError(
            f"MODEL.MASK_FORMER.IMPORTANCE_SAMPLE_RATIO is {chosen}; it must be at most "
            f"OVERSAMPLE_RATIO ({candidates})"
        )


def _check_schedule(cfg: CfgNode) -> None:
    solver = cfg.SOLVER
    if solver.LR_SCHEDULER_NAME == "WarmupMultiStepLR" and solver.MAX_ITER in solver.STEPS:
        raise UserError(
            f"SOLVER.STEPS is {shown(solver.STEPS)}; it must not contain SOLVER.MAX_ITER "
            f"({solver.MAX_ITER}), after which there is no iteration"
        )
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and solver.BASE_LR_END > solver.BASE_LR:
        raise UserError(
            f"SOLVER.BASE_LR_END is {solver.BASE_LR_END}; it must be at most SOLVER.BASE_LR "
            f"({solver.BASE_LR})"
        )


def _check_data(cfg: CfgNode) -> None:
    if cfg.INPUT.MIN_SCALE > cfg.INPUT.MAX_SCALE:
        raise UserError(
            f"INPUT.MIN_SCALE is {cfg.INPUT.MIN_SCALE}; it must be at most INPUT.MAX_SCALE "
            f"({cfg.INPUT.MAX_SCALE})"
        )
    if len(cfg.DATASETS.TEST_VOCABULARY) not in (0, 1, len(cfg.DATASETS.TEST)):
        raise UserError(
            f"DATASETS.TEST_VOCABULARY has {len(cfg.DATASETS.TEST_VOCABULARY)} entries; give one "
            f"for all or one for each of the {len(cfg.DATASETS.TEST)} data sets in DATASETS.TEST"
        )
