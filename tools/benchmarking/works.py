"""What is measured: each work prepares a function that runs once per repeat."""

import os
import subprocess
import sys
import tempfile
from argparse import Namespace
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarking.cases import AUTO, COLD, DISK, WARM
from ita.errors import UserError

# Images per batch of the loader.
LOADER_BATCH = 4
TOY_CLASSES = "red arrow; purple triangle; blue heart; grass, lawn"
TOY_SIZE = 144


@dataclass(frozen=True)
class Work:
    """A prepared work.

    Attributes:
        run: one pass.
        amounts: what a pass handles, by name, for rates such as images/s.
        device: the device to wait for, such as "cpu".
        in_children: whether the work runs in child processes, whose memory counts.
    """

    run: Callable[[], object]
    amounts: Mapping[str, float] = field(default_factory=dict)
    device: str = "cpu"
    in_children: bool = False


def made_up_classes(count: int) -> Any:
    """Class list of ``count`` different names; those of ADE20K-Full, then with numbers."""
    from ita.classes import ClassList, read_class_list

    names = tuple(dict.fromkeys(read_class_list("ade847").names))
    repeated = (divmod(i, len(names)) for i in range(count))
    return ClassList.from_strings(
        f"{count} classes", [f"{names[i]} {turn}" if turn else names[i] for turn, i in repeated]
    )


def build(settings: Namespace, *overrides: str) -> tuple[Any, Any]:
    """Build the model of the settings; return its config and itself."""
    import torch

    from benchmarking.models import load_settings
    from ita.engine.loading import load_model
    from ita.meta_arch import build_model

    cfg = load_settings(
        settings.config_file,
        settings.device,
        [*settings.override, *overrides],
        random_clip=not settings.weights,
    )
    torch.manual_seed(0)
    return cfg, load_model(cfg, settings.weights) if settings.weights else build_model(cfg)


def precision_of(settings: Namespace) -> Any:
    """Return the dtype of the settings' matrix products."""
    import torch

    from ita.engine import precision

    if settings.precision != AUTO:
        return getattr(torch, settings.precision)
    # Older checkouts always segment in float32.
    native = getattr(precision, "native_dtype", lambda device: torch.float32)
    return native(torch.device(settings.device))


def set_precision(settings: Namespace, model: Any) -> AbstractContextManager:
    """Store weights as `ita segment` does for a precision; return the context to run the model."""
    import torch

    dtype = precision_of(settings)
    lower = dtype != torch.float32
    if lower and hasattr(model.backbone, "store_stages"):  # not in older checkouts
        model.backbone.store_stages(dtype)
    return torch.autocast(torch.device(settings.device).type, dtype, enabled=lower)


def inference(settings: Namespace) -> Work:
    """Segment a batch: label maps alone, or also further results."""
    from benchmarking.models import build_segmenter, random_record, read_record

    cfg, model = build(settings)
    segmenter = build_segmenter(
        cfg,
        model,
        made_up_classes(settings.classes),
        scores=settings.scores,
        panoptic=settings.panoptic,
        instance=settings.instance,
        encode_text=settings.encode_text,
    )
    size, file = settings.size, settings.image
    one = read_record(file, size) if file else None
    records = [one or random_record(size) for _ in range(settings.batch)]
    further = settings.scores or settings.panoptic or settings.instance
    precision = set_precision(settings, model)

    def run() -> object:
        with precision:
            return segmenter(records) if further else segmenter.segment(records)

    return Work(run, {"images": settings.batch}, settings.device)


def text(settings: Namespace) -> Work:
    """Encode a class list, with all names in memory or in files, or with none."""
    from ita.modeling.vocabulary import TextEncoder

    _, model = build(settings)
    model.eval()
    class_list = made_up_classes(settings.names)
    further = {"cache": _empty_cache()} if settings.cache == DISK else {}
    used = TextEncoder(model.backbone, **further)
    if settings.cache != COLD:
        model.make_vocabulary(class_list, used)

    def run() -> object:
        encoder = used if settings.cache == WARM else TextEncoder(model.backbone, **further)
        return model.make_vocabulary(class_list, encoder)

    return Work(run, {"names": settings.names}, settings.device)


def _empty_cache() -> Any:
    """Return an empty cache of text features in files."""
    try:
        from ita.modeling.text_cache import FeatureCache
    except ImportError as error:
        raise UserError("this checkout stores no text features in files") from error
    return FeatureCache(Path(tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"])))


def training(settings: Namespace) -> Work:
    """Run an optimizer step."""
    from benchmarking.models import build_training_step

    low = settings.precision != "float32"
    amp = ["SOLVER.AMP.ENABLED", str(low)]
    cfg, model = build(settings, *amp, *(["SOLVER.AMP.DTYPE", settings.precision] if low else []))
    step = build_training_step(cfg, model, size=settings.size, batch=settings.batch)
    return Work(step, {"images": settings.batch}, settings.device)


def attention(settings: Namespace) -> Work:
    """Run one deformable attention of the main model's size, on three levels of an image."""
    import torch

    from ita.modeling.pixel_decoder import DeformableAttention, cell_centers

    torch.manual_seed(0)
    width = 256
    layer = DeformableAttention(width, num_heads=8, num_levels=3, num_points=4)
    layer.reset_parameters()
    # As after training, the samples differ between cells, and some are outside the image.
    torch.nn.init.normal_(layer.offsets.weight, std=0.1)
    shapes = [(-(-settings.size // stride),) * 2 for stride in (32, 16, 8)]
    reference = torch.cat([cell_centers(h, w, torch.device("cpu")) for h, w in shapes])
    inputs = torch.randn(2, settings.batch, len(reference), width).unbind()
    with_gradients = settings.passes == "backward"
    for tensor in (*inputs, *layer.parameters()):
        tensor.requires_grad_(with_gradients)

    def run() -> object:
        output = layer(*inputs, reference, shapes)
        if not with_gradients:
            return output
        return torch.autograd.grad(output.sum(), [*inputs, *layer.parameters()])

    return Work(run, {"images": settings.batch})


def loader(settings: Namespace) -> Work:
    """Load and augment images of the training set."""

    from benchmarking.models import load_settings
    from ita.data.loaders import build_train_loader
    from ita.data.registration import register_all
    from ita.engine.training_parts import build_training_mapper

    cfg = load_settings(settings.config_file, "cpu", settings.override)
    register_all(cfg.DATASETS.CUSTOM)
    mapper = build_training_mapper(cfg)
    workers = settings.workers
    batches = iter(
        build_train_loader(
            cfg.DATASETS.TRAIN, mapper, total_batch_size=LOADER_BATCH, num_workers=workers, seed=0
        )
    )
    count = -(-settings.images // LOADER_BATCH)
    images = count * LOADER_BATCH
    amounts = {"images": images, "images per worker": images / max(1, workers)}
    return Work(lambda: [next(batches) for _ in range(count)], amounts)


def evaluation(settings: Namespace) -> Work:
    """Evaluate made-up results of a task."""
    from benchmarking.results import make_up_results
    from ita.evaluation.evaluators import build_evaluator

    records, outputs, class_list, name = make_up_results(
        settings.task, images=settings.images, size=settings.size
    )
    tasks = {task: task == settings.task for task in ("semantic", "panoptic", "instance")}
    evaluator = build_evaluator(name, class_list, class_list, **tasks, dominant=False)

    def run() -> object:
        evaluator.reset()
        evaluator.process(records, outputs)
        return evaluator.evaluate()

    return Work(run, {"images": settings.images})


def start(settings: Namespace) -> Work:
    """Segment one small image by the command line, in a fresh process."""
    import numpy as np
    from PIL import Image

    folder = Path(tempfile.mkdtemp(dir=os.environ["BENCHMARK_FOLDER"]))
    noise = np.random.default_rng(0).integers(0, 256, (TOY_SIZE, TOY_SIZE, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / "image.png")
    command = [sys.executable, "-m", "ita", "segment", str(folder / "image.png")]
    command += ["--classes", TOY_CLASSES, "--output", str(folder / "output")]
    cache = "" if settings.cache == COLD else str(folder / "cache")
    environment = os.environ | {"ITA_CACHE_DIR": cache}

    def run() -> None:
        done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
        if done.returncode:
            lines = done.stderr.splitlines() or [f"exit code {done.returncode}"]
            raise UserError(f"ita segment: {lines[-1].removeprefix('error: ')}")

    if settings.cache == DISK:
        run()
    return Work(run, {"images": 1}, in_children=True)


def floors(settings: Namespace) -> Work:
    """Run a ceiling of the machine or a part of the model."""
    from benchmarking.ceilings import prepare

    return prepare(settings)
