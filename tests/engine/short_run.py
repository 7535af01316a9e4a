"""Three training steps and an evaluation with given points, in one process or under torchrun."""

import argparse
import json
import sys
from pathlib import Path

import torch
from detectron2.utils import comm

from ita.config import load_config
from ita.data.registration import register_all
from ita.engine.launch import errors_in_one_line, launch
from ita.engine.setup import seed_process
from ita.engine.trainer import Trainer
from tests.engine.tiny import CONFIG, overrides


def given_points(sets, points, device):
    """The same places for every mask, so that no process draws others."""
    generator = torch.Generator().manual_seed(points)
    return torch.rand(1, points, 2, generator=generator).expand(sets, -1, -1).to(device)


def config(folder):
    return load_config(
        CONFIG,
        overrides(
            OUTPUT_DIR=folder,
            SOLVER__MAX_ITER=3,
            SOLVER__BASE_LR=1e-4,
            SOLVER__CLIP_GRADIENTS__CLIP_VALUE=0.01,
            SOLVER__IMS_PER_BATCH=4,
            SOLVER__GRADIENT_ACCUMULATION_STEPS=2,
            INPUT__MIN_SCALE=1.0,
            INPUT__MAX_SCALE=1.0,
            INPUT__RANDOM_FLIP="none",
        ),
    )


def run(cfg, args):
    torch.set_num_threads(1)
    register_all(cfg.DATASETS.CUSTOM)
    seed_process(cfg)
    trainer = Trainer(cfg)
    criterion, clip = trainer.model.criterion, trainer.model.backbone
    criterion.point_source = criterion.matcher.point_source = given_points
    encoded, encode_text = [], clip.encode_text
    clip.encode_text = lambda texts, _: encoded.extend(texts) or encode_text(texts)
    trainer.train()
    seen = {"texts": len(encoded), "images": [], "world": comm.get_world_size()}
    for batch in trainer.test_sets[0].loader:
        seen["images"] += [record["image_id"] for record in batch]
    Path(cfg.OUTPUT_DIR, f"seen{comm.get_rank()}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    with errors_in_one_line() as failures:
        launch(run, config(sys.argv[1]), argparse.Namespace(timeout=60), failures)
