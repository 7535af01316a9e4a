"""Faults of numbers: losses, gradients and weights that are not finite."""

import math

import torch

from tests.faults.fault import fault

# Destroys the weights in the first step.
DIVERGING = {"SOLVER__BASE_LR": 1e30, "SOLVER__CLIP_GRADIENTS__ENABLED": False}


def train_and_spoil(world, name="model_final.pth"):
    """Train, then make a value of a weight nan."""
    world.train()
    path = world.run / name
    content = torch.load(path, weights_only=True)
    content["model"]["decoder.level_embed.weight"][0, 0] = math.nan
    torch.save(content, path)
    return path


@fault(
    done="a loss becomes nan, with data loader workers",
    seen="training diverged at iteration 1: loss_ce = nan,",
    code=1,
    left="nonfinite_0000001.json",
)
def nan_loss(world):
    """Workers ignore the signal by which Python ends them, and the process must not wait."""
    keys = {**DIVERGING, "SOLVER__CHECKPOINT_PERIOD": 0, "DATALOADER__NUM_WORKERS": 1}
    outcome = world.train(**keys)
    assert outcome.errors.strip() in (world.run / "log.txt").read_text()
    return outcome


@fault(
    done="a loss becomes nan, SOLVER.ON_NONFINITE skip",
    seen="skipped iteration 1: loss_ce = nan,",
    code=0,
    left="checkpoints of iterations 2; nonfinite_0000001.json",
)
def skipped_nan_loss(world):
    return world.train(**DIVERGING, SOLVER__CHECKPOINT_PERIOD=0, SOLVER__ON_NONFINITE="skip")


@fault(
    done="a step makes weights inf",
    seen="model_0000000.pth was not written: weights are not finite (",
    code=1,
    left="a log",
)
def inf_weights(world):
    return world.train(**{**DIVERGING, "SOLVER__BASE_LR": 1e38})


@fault(
    done="a weight of MODEL.WEIGHTS is nan, evaluation",
    seen="has weights that are not finite, as of a training that diverged: decoder.level_embed",
    code=1,
    left="checkpoints of iterations 1, 2",
)
def nan_weights_evaluated(world):
    keys = {"MODEL__WEIGHTS": train_and_spoil(world), "DATASETS__TEST": ("toy_val",)}
    return world.train("--eval-only", **keys)


@fault(
    done="a weight of the last checkpoint is nan, --resume",
    seen="resuming from the newest intact checkpoint,",
    code=0,
    left="checkpoints of iterations 1, 2, 3",
)
def nan_weights_resumed(world):
    train_and_spoil(world)
    outcome = world.train("--resume", SOLVER__MAX_ITER=3)
    assert "has weights that are not finite" in outcome.output
    return outcome


@fault(
    done="a weight is nan, ita segment",
    seen="has weights that are not finite, as of a training that diverged: decoder.level_embed",
    code=1,
    left="checkpoints of iterations 1, 2",
    any_number_of_lines=True,  # a warning that CLIP is random
)
def nan_weights_segmenting(world):
    model = ["--config-file", world.run / "config.yaml", "--weights", train_and_spoil(world)]
    image = world.scenes / "toy" / "toy_val" / "000001.jpg"
    output = ["--output", world.folder / "segmented"]
    outcome = world.ita("segment", image, "--classes", "red arrow", *output, *model)
    assert not (world.folder / "segmented").exists()
    return outcome


@fault(
    done="a weight is nan, ita convert",
    seen="has weights that are not finite, as of a training that diverged: decoder.level_embed",
    code=1,
    left="checkpoints of iterations 1, 2",
)
def nan_weights_converted(world):
    outcome = world.ita("convert", train_and_spoil(world), world.folder / "new.safetensors")
    assert not (world.folder / "new.safetensors").exists()
    return outcome
