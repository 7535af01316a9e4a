import re

import pytest
import torch
from torch import nn

from ita.engine.optimizer import build_lr_scheduler, build_optimizer, parameter_groups
from ita.errors import UserError
from ita.meta_arch import build_model
from tests.recipe import GROUPS


@pytest.fixture
def settings_by_name(tiny_config):
    """(learning rate, weight decay) by parameter name, as the real model's optimizer has them."""
    cfg = tiny_config(SOLVER__BASE_LR=0.5, SOLVER__WEIGHT_DECAY=0.05)
    model = build_model(cfg)
    names = {parameter: name for name, parameter in model.named_parameters()}
    settings = {}
    for group in build_optimizer(cfg, model).param_groups:
        for parameter in group["params"]:
            assert names[parameter] not in settings
            settings[names[parameter]] = group["lr"], group["weight_decay"]
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    assert settings.keys() == trained
    assert not any(name.startswith("backbone.") for name in settings)
    return settings


WITHOUT_DECAY = re.compile(
    r".*\.norm\.(weight|bias)"
    r"|pixel_decoder\.(input_proj\.res[345]|lateral|fusion)\.1\.(weight|bias)"
    r"|decoder\.head\.region_proj\.0\.(weight|bias)"
    r"|(decoder\.(query_feature|query_position|level_embed)|void_embedding)\.weight"
)


def test_groups_of_the_model(settings_by_name):
    """Rate and decay of every parameter (design section 6), by its name."""
    for name, setting in settings_by_name.items():
        if name == "dominant.projection.weight":
            assert setting == (0.05, 0.0)
        else:
            assert setting == (0.5, 0.0 if WITHOUT_DECAY.fullmatch(name) else 0.05), name
    decaying = {name for name, (_, decay) in settings_by_name.items() if decay}
    assert {"pixel_decoder.level_embed", "decoder.head.logit_scale"} <= decaying
    assert len(set(settings_by_name.values())) == 3


@pytest.mark.parametrize(
    "norm",
    [
        nn.BatchNorm2d(4),
        nn.SyncBatchNorm(4),
        nn.GroupNorm(2, 4),
        nn.InstanceNorm2d(4, affine=True),
        nn.LayerNorm(4),
        nn.RMSNorm(4),
    ],
)
def test_every_kind_of_norm(norm):
    groups = parameter_groups(nn.Sequential(norm), base_lr=1.0, weight_decay=0.1, **GROUPS)
    assert [group["weight_decay"] for group in groups] == [0.0]
    groups = parameter_groups(
        nn.Sequential(norm),
        base_lr=1.0,
        weight_decay=0.1,
        **{**GROUPS, "weight_decay_norm": None},
    )
    assert [group["weight_decay"] for group in groups] == [0.1]


def test_shared_and_frozen_parameters():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    second.bias.requires_grad_(False)
    groups = parameter_groups(nn.Sequential(first, second), base_lr=1.0, weight_decay=0.1, **GROUPS)
    assert [group["params"] for group in groups] == [[first.weight, first.bias]]


def test_schedule(tiny_config):
    cfg = tiny_config(SOLVER__MAX_ITER=5, SOLVER__STEPS=(2, 4), SOLVER__BASE_LR=1.0)
    parameter = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.AdamW([parameter], lr=1.0)
    scheduler = build_lr_scheduler(cfg, optimizer)
    rates = []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert rates == pytest.approx([1.0, 1.0, 0.1, 0.1, 0.01])


def test_schedule_that_cannot_be(tiny_config):
    optimizer = torch.optim.AdamW([nn.Parameter(torch.ones(2))])
    cfg = tiny_config()
    cfg.SOLVER.STEPS = (4, 2)  # which load_config would refuse
    with pytest.raises(UserError, match=r"SOLVER.STEPS \(4, 2\)"):
        build_lr_scheduler(cfg, optimizer)
