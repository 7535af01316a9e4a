"""AdamW and its learning-rate schedule, with the parameter groups of the training recipe."""

from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.layers.batch_norm import LayerNorm as ChannelLayerNorm
from detectron2.solver import build_lr_scheduler as build_detectron2_lr_scheduler
from torch import nn

from ita.errors import UserError

# Detectron2 has a separate class for LayerNorm over the channels of [B, C, H, W].
NORM_LAYERS: tuple[type[nn.Module], ...] = (
    nn.modules.batchnorm._NormBase,  # every batch and instance norm
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
    ChannelLayerNorm,
)


def parameter_groups(
    model: nn.Module,
    *,
    base_lr: float,
    weight_decay: float,
    weight_decay_norm: float | None,
    weight_decay_embed: float,
    projection_lr_multiplier: float,
) -> list[dict[str, Any]]:
    """Sort the trainable parameters into as few optimizer groups as possible.

    Norm layers use ``weight_decay_norm`` (None selects ``weight_decay``) and ``nn.Embedding``
    weights ``weight_decay_embed``; biases, scales and level embeddings, which are plain parameters,
    use ``weight_decay``, like matrices. The projection of text features to queries,
    ``model.dominant.projection``, has no weight decay and ``projection_lr_multiplier`` times the
    learning rate.

    Returns:
        Groups with ``params``, ``lr`` and ``weight_decay``. Every parameter that requires a
        gradient is in exactly one group.
    """
    dominant = getattr(model, "dominant", None)
    projection = getattr(dominant, "projection", None)
    projection_parameters = set(projection.parameters()) if projection is not None else set()
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    seen: set[nn.Parameter] = set()
    for module in model.modules():
        for parameter in module.parameters(recurse=False):
            if not parameter.requires_grad or parameter in seen:
                continue
            seen.add(parameter)
            lr, decay = base_lr, weight_decay
            if parameter in projection_parameters:
                lr, decay = base_lr * projection_lr_multiplier, 0.0
            elif isinstance(module, NORM_LAYERS) and weight_decay_norm is not None:
                decay = weight_decay_norm
            elif isinstance(module, nn.Embedding):
                decay = weight_decay_embed
            groups.setdefault((lr, decay), []).append(parameter)
    return [
        {"params": parameters, "lr": lr, "weight_decay": decay}
        for (lr, decay), parameters in groups.items()
    ]


def build_optimizer(cfg: CfgNode, model: nn.Module) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters of ``model`` from the config's ``SOLVER`` keys."""
    groups = parameter_groups(
        model,
        base_lr=cfg.SOLVER.BASE_LR,
        weight_decay=cfg.SOLVER.WEIGHT_DECAY,
        weight_decay_norm=cfg.SOLVER.WEIGHT_DECAY_NORM,
        weight_decay_embed=cfg.SOLVER.WEIGHT_DECAY_EMBED,
        projection_lr_multiplier=cfg.MODEL.ITA.PROJECTION_LR_MULTIPLIER,
    )
    # The fused kernel exists for both devices and updates a group in one pass.
    return torch.optim.AdamW(groups, lr=cfg.SOLVER.BASE_LR, fused=True)


def build_lr_scheduler(
    cfg: CfgNode, optimizer: torch.optim.Optimizer
) -> torch.optim.lr_scheduler.LRScheduler:
    """Build Detectron2's ``SOLVER.LR_SCHEDULER_NAME`` over ``SOLVER.MAX_ITER`` iterations.

    Raises:
        UserError: the schedule is unknown, or its steps are not increasing.
    """
    try:
        return build_detectron2_lr_scheduler(cfg, optimizer)
    except (ValueError, AssertionError, ZeroDivisionError) as error:
        raise UserError(
            f"SOLVER.LR_SCHEDULER_NAME {cfg.SOLVER.LR_SCHEDULER_NAME} with SOLVER.STEPS "
            f"{tuple(cfg.SOLVER.STEPS)} and SOLVER.MAX_ITER {cfg.SOLVER.MAX_ITER} is not "
            f"a valid schedule: {' '.join(str(error).split())}"
        ) from error
