"""Models with random weights and made-up input, to measure without downloads or data sets."""

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.structures import Instances
from PIL import Image

from ita.build import inference_options
from ita.classes import ClassList
from ita.config import load_config
from ita.data.reading import read_image
from ita.engine.optimizer import build_optimizer
from ita.engine.precision import matmul_dtype
from ita.engine.step import OptimizerStep
from ita.files import find_file
from ita.meta_arch import ITA
from ita.modeling.targets import SegmentMap
from ita.modeling.vocabulary import TextEncoder
from ita.segmenter import Segmenter

# Segments of a made-up training image.
SEGMENTS = 20


def load_settings(
    config_file: str | Path, device: str, overrides: Sequence[str] = (), *, random_clip: bool = True
) -> CfgNode:
    """Load a config for a device.

    Args:
        config_file: as in ``--config-file``.
        device: device of the model.
        overrides: ``KEY VALUE KEY VALUE ...``.
        random_clip: give CLIP random weights, which take the same time and memory as others.
    """
    settings = ["MODEL.DEVICE", device]
    if random_clip:
        settings += ["MODEL.FC_CLIP.CLIP_PRETRAINED_WEIGHTS", "random"]
    return load_config(find_file(config_file), [*settings, *overrides])


class RandomText(TextEncoder):
    """Random features in place of the text tower's, which take minutes on a CPU."""

    def encode(self, names: Sequence[str], prompts: tuple[str, ...] = ()) -> torch.Tensor:
        features = torch.randn(len(names), self.clip.embed_dim, device=self.clip.device)
        return torch.nn.functional.normalize(features, dim=-1)


def random_record(size: int) -> dict[str, Any]:
    """Record of an image of noise, ``size`` pixels in height and width."""
    return {"image": torch.randint(0, 256, (3, size, size), dtype=torch.uint8)}


def read_record(path: str, size: int) -> dict[str, Any]:
    """Record of an image file, resized to ``size`` pixels in height and width."""
    image = Image.fromarray(read_image(path)).resize((size, size))
    return {"image": torch.from_numpy(np.array(image)).permute(2, 0, 1)}


def random_training_record(size: int, num_classes: int) -> dict[str, Any]:
    """Record of an image of noise with random segments for targets."""
    coarse = torch.randint(0, SEGMENTS, (1, 1, 16, 16)).float()
    index = torch.nn.functional.interpolate(coarse, size=(size, size))[0, 0].to(torch.uint8)
    classes = torch.randint(0, num_classes, (SEGMENTS,))
    instances = Instances((size, size), gt_classes=classes, gt_masks=SegmentMap(index, SEGMENTS))
    return {**random_record(size), "instances": instances}


def build_segmenter(
    cfg: CfgNode,
    model: ITA,
    class_list: ClassList,
    *,
    scores: bool = False,
    panoptic: bool = False,
    instance: bool = False,
    encode_text: bool = False,
) -> Segmenter:
    """Build a segmenter of label maps and of the given results.

    Args:
        cfg: config of the model.
        model: the network, set to evaluation mode.
        class_list: the classes.
        scores, panoptic, instance: further results.
        encode_text: encode the names with the text tower; otherwise their features are random.
    """
    text = TextEncoder(model.backbone) if encode_text else RandomText(model.backbone)
    vocabulary = model.eval().make_vocabulary(class_list, text)
    options = inference_options(cfg)
    # Older checkouts, which can be compared with, have no such option and always return scores.
    further = {"scores": scores} if hasattr(options, "scores") else {}
    options = replace(options, semantic=True, panoptic=panoptic, instance=instance, **further)
    return Segmenter(model, vocabulary, options)


def build_training_step(cfg: CfgNode, model: ITA, *, size: int, batch: int) -> Callable[[], object]:
    """Return a function that runs an optimizer step on one made-up batch.

    Args:
        cfg: config of the model, for precision, optimizer and clipping.
        model: the network, set to training mode.
        size: side of the images, in pixels.
        batch: number of images.
    """
    device, clip = torch.device(cfg.MODEL.DEVICE), cfg.SOLVER.CLIP_GRADIENTS
    step = OptimizerStep(
        model.train(),
        build_optimizer(cfg, model),
        device=device,
        dtype=matmul_dtype(cfg.SOLVER.AMP.ENABLED, cfg.SOLVER.AMP.DTYPE, device),
        max_norm=clip.CLIP_VALUE,
        norm_type=clip.NORM_TYPE,
    )
    model.prepare_training(RandomText(model.backbone))
    num_classes = len(model.train_class_list)
    records = [random_training_record(size, num_classes) for _ in range(batch)]
    return lambda: step([records])


def seconds_of(run: Callable[[], object], device: torch.device) -> float:
    """Seconds of a call, to its end on the device."""
    start = time.perf_counter()
    run()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter() - start
